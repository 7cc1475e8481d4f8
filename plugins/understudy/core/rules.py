"""Decides which holders an instance is owed to. The decision is made when the instance is first seen.

Rule 1: the obligations of an instance and their explanation for a person come from the same evaluation.
Rule 2: every value is text. One matching value of an attribute suffices. An absent attribute never matches.
"""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, IntEnum
from functools import partial
from itertools import chain

from understudy.core.model import HolderName, NewInstance, Timestamp
from understudy.core.retry import head_start
from understudy.core.schedule import Hours

SOURCE_ADDRESS, WEEKDAY, TIME_OF_DAY = "SourceAddress", "Weekday", "TimeOfDay"

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

NOTED: Mapping[str, str] = {
    "CallingAeTitle": "calling_ae_title",
    "CalledAeTitle": "called_ae_title",
    "Modality": "modality",
    "SOPClassUID": "sop_class_uid",
    "SOPInstanceUID": "sop_instance_uid",
    "SeriesInstanceUID": "series_instance_uid",
    "StudyInstanceUID": "study_instance_uid",
    "TransferSyntaxUID": "transfer_syntax_uid",
}
"""Keywords whose values are known without reading the file, with the field of `NewInstance`."""

KNOWN = frozenset({*NOTED, SOURCE_ADDRESS, WEEKDAY, TIME_OF_DAY})


class Priority(IntEnum):
    """The order of sending to a destination, with DICOM's words (PS3.7 E.1, Priority)."""

    LOW = 0
    MEDIUM = 1
    HIGH = 2


class Matching(Enum):
    """Whether all matching routes count, or only the first."""

    ALL = "all"
    FIRST = "first"


Test = Callable[[str], bool]
"""Says whether one value matches."""


@dataclass(frozen=True, slots=True)
class Subject:
    """An instance with the values that the rules use."""

    instance: NewInstance
    source_address: str
    """The sender's address as the edge saw it, empty if not known."""
    received: datetime
    """The time of the reception, in the site's time zone."""
    attributes: Mapping[str, Sequence[str]]
    """Values by DICOM keyword, for the attributes that the rules need from the file."""

    def values(self, of: str) -> Sequence[str]:
        """Return the values of one attribute, none if it is absent or empty."""
        if of in NOTED:
            found = str(getattr(self.instance, NOTED[of]))
        elif of == SOURCE_ADDRESS:
            found = self.source_address
        elif of == WEEKDAY:
            found = WEEKDAYS[self.received.weekday()]
        elif of == TIME_OF_DAY:
            found = self.received.strftime("%H:%M")
        else:
            return self.attributes.get(of, ())
        return (found,) if found else ()


@dataclass(frozen=True, slots=True)
class RouteCondition:
    """A condition of a route on one value; `asks` is the condition in words, such as `is one of CT, MR`."""

    of: str
    asks: str
    test: Test
    negated: bool = False

    def holds(self, values: Sequence[str]) -> bool:
        """Say whether an instance with these values meets the condition."""
        return any(map(self.test, values)) is not self.negated


def test_of(of: str, wanted: Sequence[str]) -> Test:
    """Return the test whether a value is one of `wanted`, or raise ValueError if one of these is not valid.

    Addresses are IP addresses or networks, times are parts of a day, weekdays have their English names.
    """
    if of == SOURCE_ADDRESS:
        return partial(_is_in, [ipaddress.ip_network(text, strict=False) for text in wanted])
    if of == TIME_OF_DAY:
        return partial(_is_within, [Hours.parse(text) for text in wanted])
    unknown = [text for text in wanted if of == WEEKDAY and text not in WEEKDAYS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no weekday: write {WEEKDAYS[0]} to {WEEKDAYS[-1]}")
    return frozenset(wanted).__contains__


def _is_in(networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network], value: str) -> bool:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        return False
    return any(address in network for network in networks)


def _is_within(ranges: Sequence[Hours], value: str) -> bool:
    minute = int(value[:2]) * 60 + int(value[3:])
    return any(minute in hours for hours in ranges)


@dataclass(frozen=True, slots=True)
class RouteDestination:
    """The properties of a destination that decide what it is sent; no SOP class means all."""

    holder: HolderName
    ae_title: str
    """Empty if the destination has none."""
    addresses: Sequence[str] = ()
    """Networks from which the destination itself sends."""
    sop_classes: frozenset[str] = frozenset()

    def refusal(self, subject: Subject) -> str:
        """Return why the destination is never sent this instance, empty if it may be. This prevents loops."""
        if self.ae_title and subject.instance.calling_ae_title == self.ae_title:
            return f"it came from {self.ae_title} itself"
        address = subject.source_address
        if address and self.addresses and test_of(SOURCE_ADDRESS, self.addresses)(address):
            return f"it came from its address {address}"
        if self.sop_classes and subject.instance.sop_class_uid not in self.sop_classes:
            return f"it is not sent SOP class {subject.instance.sop_class_uid}"
        return ""


@dataclass(frozen=True, slots=True)
class RoutingRule:
    """A route: an instance that meets all conditions is owed to these destinations."""

    name: str
    conditions: Sequence[RouteCondition]
    destinations: Sequence[HolderName]
    priority: Priority = Priority.MEDIUM
    when_stable: bool = False
    """Whether the instances wait until their study has not grown for some time."""


@dataclass(frozen=True, slots=True)
class Debt:
    """An obligation to create: the instance is owed to this holder."""

    holder: HolderName
    priority: Priority = Priority.LOW
    when_stable: bool = False
    """Whether the instance waits for its study. Its priority then gives no head start."""


def first_due(debt: Debt, now: Timestamp, *, primary_grace: float | None, stable_age: float) -> Timestamp:
    """Return when an instance that is owed now is first due. A priority moves the time into the past.

    `primary_grace` is the number of seconds in which the primary may get the instance in another way, None
    for other holders.
    """
    if primary_grace is not None:
        return Timestamp(now + primary_grace)
    return Timestamp(now + stable_age) if debt.when_stable else Timestamp(now - head_start(debt.priority))


@dataclass(frozen=True, slots=True)
class Asked:
    """A condition, the instance's values, and whether the condition holds."""

    condition: RouteCondition
    values: Sequence[str]
    holds: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """The evaluation of a route; `refusals` has the result of `RouteDestination.refusal` by destination."""

    route: RoutingRule
    asked: Sequence[Asked]
    passed_over: bool
    """Whether an earlier route matched and only the first one counts."""
    refusals: Mapping[HolderName, str]

    @property
    def matches(self) -> bool:
        """Whether the route counts for the instance."""
        return not self.passed_over and all(one.holds for one in self.asked)

    def debts(self) -> list[Debt]:
        """Return the debts that the route causes."""
        route = self.route
        return [
            Debt(holder, route.priority, route.when_stable)
            for holder in (route.destinations if self.matches else ())
            if not self.refusals[holder]
        ]


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything that decides to which holders an instance is owed."""

    primary: HolderName | None
    primary_titles: frozenset[str]
    """AE titles with which the primary calls."""
    vaults: Sequence[HolderName]
    routes: Sequence[RoutingRule] = ()
    destinations: Mapping[HolderName, RouteDestination] = field(default_factory=dict)
    matching: Matching = Matching.ALL

    @property
    def keywords(self) -> frozenset[str]:
        """The attributes that need a read of the instance's file."""
        return frozenset(one.of for route in self.routes for one in route.conditions) - KNOWN

    @property
    def asks_address(self) -> bool:
        """Whether the decision depends on the sender's address."""
        asked = (one.of == SOURCE_ADDRESS for route in self.routes for one in route.conditions)
        return any(asked) or any(destination.addresses for destination in self.destinations.values())

    def came_from_primary(self, instance: NewInstance) -> bool:
        """Say whether the primary itself sent the instance, by forwarding it or by answering our C-MOVE."""
        return self.primary is not None and instance.calling_ae_title in self.primary_titles

    def judge(self, subject: Subject) -> list[Judged]:
        """Return the evaluation of every route for the instance, in the order of the routes."""
        found: list[Judged] = []
        for route in self.routes:
            passed_over = self.matching is Matching.FIRST and any(judged.matches for judged in found)
            asked = [
                Asked(condition, values, condition.holds(values))
                for condition in route.conditions
                for values in (subject.values(condition.of),)
            ]
            refusals = {holder: self.destinations[holder].refusal(subject) for holder in route.destinations}
            found.append(Judged(route, asked, passed_over, refusals))
        return found

    def owed(self, subject: Subject) -> list[Debt]:
        """Return the debts of a new instance.

        It is owed to every vault, to every destination of a matching route, and to the primary unless it came
        from the primary. If several routes lead to one destination, the highest priority counts, and sending
        at once goes before waiting for the study.
        """
        debts = {vault: Debt(vault) for vault in self.vaults}
        for debt in chain.from_iterable(judged.debts() for judged in self.judge(subject)):
            known = debts.get(debt.holder, debt)
            debts[debt.holder] = Debt(
                debt.holder,
                max(known.priority, debt.priority),
                known.when_stable and debt.when_stable,
            )
        if self.primary is not None and not self.came_from_primary(subject.instance):
            debts[self.primary] = Debt(self.primary)
        return list(debts.values())
