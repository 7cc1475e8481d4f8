"""Which holders an instance is owed to, decided when it is first seen.

Rule 1: what an instance owes and what a person is told about it come from the same judgement.
Rule 2: every value is text; of several values of an attribute one suffices, and an absent one fits nothing.
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
"""What is known of every instance without a look into its file."""

KNOWN = frozenset({*NOTED, SOURCE_ADDRESS, WEEKDAY, TIME_OF_DAY})


class Priority(IntEnum):
    """What is sent first to a destination, in the words of DICOM (PS3.7 E.1, Priority)."""

    LOW = 0
    MEDIUM = 1
    HIGH = 2


class Matching(Enum):
    """Which of the routes that fit an instance count."""

    ALL = "all"
    FIRST = "first"


Test = Callable[[str], bool]
"""Says whether one value fits."""


@dataclass(frozen=True, slots=True)
class Subject:
    """An instance as the rules see it."""

    instance: NewInstance
    source_address: str
    """Where its sender calls from, as the edge saw it; empty where that is not known."""
    received: datetime
    """When it came, in the site's time zone."""
    attributes: Mapping[str, Sequence[str]]
    """By DICOM keyword, the values of those attributes that the rules look for in its file."""

    def values(self, of: str) -> Sequence[str]:
        """Return the values of one attribute, none where it is absent or empty."""
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
    """One thing that a route asks of an instance; `asks` says it in words, as in `is one of CT, MR`."""

    of: str
    asks: str
    test: Test
    negated: bool = False

    def holds(self, values: Sequence[str]) -> bool:
        """Say whether an instance with these values is wanted."""
        return any(map(self.test, values)) is not self.negated


def test_of(of: str, wanted: Sequence[str]) -> Test:
    """Return the test for one of these texts, or raise ValueError for one that cannot be meant.

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
    """A route's destination, as far as it decides what it is sent; no SOP class named wants all."""

    holder: HolderName
    ae_title: str
    """Empty where it has none."""
    addresses: Sequence[str] = ()
    """Networks from which it calls itself."""
    sop_classes: frozenset[str] = frozenset()

    def refusal(self, subject: Subject) -> str:
        """Return why it is never sent this instance, empty where it may be: the loop guard stands here."""
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
    """Instances of which all conditions hold are owed to these destinations."""

    name: str
    conditions: Sequence[RouteCondition]
    destinations: Sequence[HolderName]
    priority: Priority = Priority.MEDIUM
    when_stable: bool = False
    """Whether they wait until their study has not grown for a while."""


@dataclass(frozen=True, slots=True)
class Debt:
    """What an instance owes to one holder."""

    holder: HolderName
    priority: Priority = Priority.LOW
    when_stable: bool = False
    """Whether it waits for its study; then it has no head start over others, whatever its priority."""


def first_due(debt: Debt, now: Timestamp, *, primary_grace: float | None, stable_age: float) -> Timestamp:
    """Return when a holder may first be given what it is owed now: in the past, where that comes first.

    `primary_grace` are the seconds that the primary has to get it in another way, None for other holders.
    """
    if primary_grace is not None:
        return Timestamp(now + primary_grace)
    return Timestamp(now + stable_age) if debt.when_stable else Timestamp(now - head_start(debt.priority))


@dataclass(frozen=True, slots=True)
class Asked:
    """A condition, the values that it met and whether it holds."""

    condition: RouteCondition
    values: Sequence[str]
    holds: bool


@dataclass(frozen=True, slots=True)
class Judged:
    """A route with each of its conditions; `refusals` are by destination, where it matches."""

    route: RoutingRule
    asked: Sequence[Asked]
    passed_over: bool
    """An earlier route matched, and the first alone counts."""
    refusals: Mapping[HolderName, str]

    @property
    def matches(self) -> bool:
        """Whether the route counts for the instance."""
        return not self.passed_over and all(one.holds for one in self.asked)

    def debts(self) -> list[Debt]:
        """Return what follows from it."""
        route = self.route
        return [
            Debt(holder, route.priority, route.when_stable)
            for holder in (route.destinations if self.matches else ())
            if not self.refusals[holder]
        ]


@dataclass(frozen=True, slots=True)
class Rules:
    """All that decides what an instance owes."""

    primary: HolderName | None
    primary_ae_title: str
    vaults: Sequence[HolderName]
    routes: Sequence[RoutingRule] = ()
    destinations: Mapping[HolderName, RouteDestination] = field(default_factory=dict)
    matching: Matching = Matching.ALL

    @property
    def keywords(self) -> frozenset[str]:
        """The attributes for which an instance's file has to be read."""
        return frozenset(one.of for route in self.routes for one in route.conditions) - KNOWN

    @property
    def asks_address(self) -> bool:
        """Whether it matters from where a sender calls."""
        asked = (one.of == SOURCE_ADDRESS for route in self.routes for one in route.conditions)
        return any(asked) or any(destination.addresses for destination in self.destinations.values())

    def came_from_primary(self, instance: NewInstance) -> bool:
        """Say whether the primary itself sent the instance: it forwarded it or answered our pull."""
        return self.primary is not None and instance.calling_ae_title == self.primary_ae_title

    def judge(self, subject: Subject) -> list[Judged]:
        """Return every route with what it asks of the instance, in their order."""
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
        """Return what the instance owes to holders that have yet to be proven to have it.

        Every vault, every destination of a route that matches, and the primary unless it came from there. Of
        several routes to one destination the most urgent one counts, and one that sends at once.
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
