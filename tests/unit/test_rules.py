"""What an instance owes, and that a person is told the same."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as some
from understudy.core.model import HolderName
from understudy.core.rules import (
    SOURCE_ADDRESS,
    TIME_OF_DAY,
    WEEKDAY,
    WEEKDAYS,
    Debt,
    Matching,
    Priority,
    RouteCondition,
    RouteDestination,
    RoutingRule,
    Rules,
    Subject,
    test_of,
)

from tests.unit.fakes import PRIMARY, PRIMARY_AE, ROUTE, VAULT, new_instance

CT = "1.2.840.10008.5.1.4.1.1.2"
RESEARCH = HolderName("research")
DESTINATIONS = {
    ROUTE: RouteDestination(ROUTE, "ARCHIVE", ["192.0.2.30/32"]),
    RESEARCH: RouteDestination(RESEARCH, "RESEARCH", (), frozenset({CT})),
}
MONDAY_NIGHT = datetime(2026, 3, 2, 23, 30, tzinfo=UTC)

# Pytest takes every name that begins so for a test.
fitting = test_of
del test_of


def rules(
    *routes: RoutingRule, primary: HolderName | None = PRIMARY, matching: Matching = Matching.ALL
) -> Rules:
    return Rules(primary, frozenset({PRIMARY_AE} if primary else ()), [VAULT], routes, DESTINATIONS, matching)


def subject(
    *,
    calling: str = "CT1",
    modality: str = "CT",
    sop_class: str = CT,
    address: str = "192.0.2.20",
    received: datetime = MONDAY_NIGHT,
    **attributes: Sequence[str],
) -> Subject:
    instance = replace(new_instance(1, calling=calling), modality=modality, sop_class_uid=sop_class)
    return Subject(instance, address, received, attributes)


def asking(of: str, *wanted: str, negated: bool = False) -> RouteCondition:
    return RouteCondition(of, "", fitting(of, wanted), negated)


def to(*holders: HolderName, when: Sequence[RouteCondition] = (), name: str = "rule") -> RoutingRule:
    return RoutingRule(name, when, holders)


def holders(found: Rules, of: Subject) -> list[HolderName]:
    return [debt.holder for debt in found.owed(of)]


EVERYTHING = to(ROUTE)


def test_instance_of_a_modality_is_owed_to_vault_route_and_primary() -> None:
    assert holders(rules(EVERYTHING), subject()) == [VAULT, ROUTE, PRIMARY]


def test_instance_of_the_primary_is_not_owed_to_it() -> None:
    forwarded = subject(calling=PRIMARY_AE)
    assert rules(EVERYTHING).came_from_primary(forwarded.instance)
    assert holders(rules(EVERYTHING), forwarded) == [VAULT, ROUTE]


def test_instance_that_the_primary_sent_under_another_title_is_not_owed_to_it() -> None:
    titles = frozenset({PRIMARY_AE, "ROUTER"})
    found = replace(rules(EVERYTHING), primary_titles=titles)
    assert holders(found, subject(calling="ROUTER")) == [VAULT, ROUTE]
    assert holders(rules(EVERYTHING), subject(calling="ROUTER")) == [VAULT, ROUTE, PRIMARY]


def test_instance_without_a_configured_primary_is_not_owed_to_one() -> None:
    # An instance that came over HTTP has no calling AE title, and neither has the primary that is not there.
    found, by_http = rules(primary=None), subject(calling="", address="")
    assert holders(found, by_http) == [VAULT]
    assert not found.came_from_primary(by_http.instance)


@pytest.mark.parametrize(
    ("back", "because"),
    [
        (subject(calling="ARCHIVE"), "it came from ARCHIVE itself"),
        (subject(calling="OTHER", address="192.0.2.30"), "it came from its address 192.0.2.30"),
    ],
)
def test_route_never_sends_back_to_where_the_instance_came_from(back: Subject, because: str) -> None:
    found = rules(to(ROUTE, RESEARCH))
    assert holders(found, back) == [VAULT, RESEARCH, PRIMARY]
    assert found.judge(back)[0].refusals == {ROUTE: because, RESEARCH: ""}


def test_destination_is_sent_its_sop_classes_alone() -> None:
    assert holders(rules(to(RESEARCH)), subject()) == [VAULT, RESEARCH, PRIMARY]
    assert holders(rules(to(RESEARCH)), subject(sop_class="1.2")) == [VAULT, PRIMARY]


@pytest.mark.parametrize(
    ("of", "wanted", "other"),
    [
        ("CallingAeTitle", ["CT1", "CT2"], ["MR1"]),
        ("CalledAeTitle", ["STANDBY"], ["standby"]),
        ("Modality", ["CT"], ["C", "CTX", ""]),
        ("SOPClassUID", [CT], ["1.2"]),
        ("StationName", ["ER1", "ER2"], ["ER"]),
        ("BodyPartExamined", ["HEAD"], ["CHEST"]),
        (SOURCE_ADDRESS, ["192.0.2.0/24"], ["192.0.3.0/24", "2001:db8::/32"]),
        (WEEKDAY, ["sunday", "monday"], ["tuesday"]),
        (TIME_OF_DAY, ["18:00-07:00"], ["07:00-23:30"]),
    ],
)
def test_condition_holds_of_what_it_names_and_negated_of_the_rest(
    of: str, wanted: list[str], other: list[str]
) -> None:
    found = subject(StationName=["ER1"], BodyPartExamined=["HEAD"]).values(of)
    assert asking(of, *wanted).holds(found)
    assert not asking(of, *wanted, negated=True).holds(found)
    assert not asking(of, *other).holds(found)
    assert asking(of, *other, negated=True).holds(found)


def test_absent_attribute_fits_nothing() -> None:
    absent = subject().values("StationName")
    assert not asking("StationName", "ER1").holds(absent)
    assert asking("StationName", "ER1", negated=True).holds(absent)


def test_address_that_is_none_is_in_no_network() -> None:
    assert not asking(SOURCE_ADDRESS, "0.0.0.0/0", "::/0").holds(["unix:1"])


def test_time_and_weekday_are_those_of_the_site() -> None:
    here = subject(received=MONDAY_NIGHT.astimezone(ZoneInfo("Europe/Vienna")))
    assert (here.values(WEEKDAY), here.values(TIME_OF_DAY)) == (("tuesday",), ("00:30",))


def test_first_matching_passes_over_what_follows_and_says_so() -> None:
    routes = (
        to(ROUTE, when=[asking("Modality", "MR")], name="mr"),
        to(RESEARCH, name="a"),
        to(ROUTE, name="b"),
    )
    assert holders(rules(*routes), subject()) == [VAULT, RESEARCH, ROUTE, PRIMARY]
    found = rules(*routes, matching=Matching.FIRST)
    assert holders(found, subject()) == [VAULT, RESEARCH, PRIMARY]
    assert [(one.matches, one.passed_over) for one in found.judge(subject())] == [
        (False, False),
        (True, False),
        (False, True),
    ]


def test_of_two_routes_to_one_destination_the_more_urgent_and_the_sooner_counts() -> None:
    slow = RoutingRule("slow", [], [ROUTE], Priority.HIGH, when_stable=True)
    soon = RoutingRule("soon", [], [ROUTE], Priority.LOW)
    for routes in ((slow, soon), (soon, slow)):
        assert Debt(ROUTE, Priority.HIGH, when_stable=False) in rules(*routes).owed(subject())
    assert Debt(ROUTE, Priority.HIGH, when_stable=True) in rules(slow).owed(subject())


def test_only_attributes_that_are_not_known_anyway_are_looked_for() -> None:
    asked = [asking("Modality", "CT"), asking("StationName", "A"), asking(WEEKDAY, "monday")]
    assert rules(to(ROUTE, when=asked)).keywords == {"StationName"}
    assert rules().keywords == frozenset()


TEXTS = some.sampled_from(["CT", "MR", "US", ""])
CONDITIONS = some.builds(
    lambda of, wanted, negated: asking(of, *wanted, negated=negated),
    some.sampled_from(["Modality", "StationName", "CallingAeTitle"]),
    some.lists(TEXTS, min_size=1),
    some.booleans(),
)
ROUTES = some.lists(
    some.builds(
        RoutingRule,
        some.just("rule"),
        some.lists(CONDITIONS, max_size=3),
        some.lists(some.sampled_from([ROUTE, RESEARCH]), min_size=1, max_size=2, unique=True),
        some.sampled_from(Priority),
        some.booleans(),
    ),
    max_size=5,
)
SUBJECTS = some.builds(
    lambda calling, modality, sop_class, address, stations: subject(
        calling=calling, modality=modality, sop_class=sop_class, address=address, StationName=stations
    ),
    some.sampled_from(["CT", "MR", "ARCHIVE", "RESEARCH", PRIMARY_AE, ""]),
    TEXTS,
    some.sampled_from([CT, "1.2"]),
    some.sampled_from(["192.0.2.30", "192.0.2.20", ""]),
    some.lists(TEXTS, max_size=3),
)


@given(ROUTES, SUBJECTS, some.sampled_from(Matching))
def test_whatever_the_rules_nothing_goes_back_and_vaults_get_all(
    routes: list[RoutingRule], one: Subject, matching: Matching
) -> None:
    owed = rules(*routes, matching=matching).owed(one)
    found = [debt.holder for debt in owed]
    assert len(found) == len(set(found))
    assert VAULT in found
    calling = one.instance.calling_ae_title
    assert (PRIMARY in found) is (calling != PRIMARY_AE)
    if calling == "ARCHIVE" or one.source_address == "192.0.2.30":
        assert ROUTE not in found
    if calling == "RESEARCH":
        assert RESEARCH not in found


@given(ROUTES, SUBJECTS, some.sampled_from(Matching))
def test_what_is_owed_is_what_is_told(routes: list[RoutingRule], one: Subject, matching: Matching) -> None:
    found = rules(*routes, matching=matching)
    told = {
        holder
        for judged in found.judge(one)
        if judged.matches
        for holder, refusal in judged.refusals.items()
        if not refusal
    }
    assert told == {debt.holder for debt in found.owed(one)} - {VAULT, PRIMARY}
    if matching is Matching.FIRST:
        assert sum(judged.matches for judged in found.judge(one)) <= 1


@given(ROUTES, SUBJECTS)
def test_order_of_routes_changes_nothing_where_all_count(routes: list[RoutingRule], one: Subject) -> None:
    def by_name(debt: Debt) -> str:
        return debt.holder

    forward, back = rules(*routes).owed(one), rules(*reversed(routes)).owed(one)
    assert sorted(forward, key=by_name) == sorted(back, key=by_name)


@given(CONDITIONS, SUBJECTS)
def test_negation_turns_every_answer(condition: RouteCondition, one: Subject) -> None:
    values = one.values(condition.of)
    assert replace(condition, negated=not condition.negated).holds(values) is not condition.holds(values)


@given(some.integers(0, 6), some.lists(some.sampled_from(WEEKDAYS), min_size=1))
def test_weekday_is_the_calendars(day: int, wanted: list[str]) -> None:
    received = datetime(2026, 3, 2 + day, 12, tzinfo=UTC)
    assert asking(WEEKDAY, *wanted).holds(subject(received=received).values(WEEKDAY)) is (
        WEEKDAYS[day] in wanted
    )
