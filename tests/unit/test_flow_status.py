"""Status: numbers, ages and alarms."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from understudy.adapters.ledger import Finding, GapsTally, Ledger
from understudy.core.health import Health
from understudy.core.model import HolderKind, Outcome, Timestamp
from understudy.core.modes import Mode
from understudy.core.views import (
    Alarm,
    Condition,
    GapsView,
    HolderView,
    LaneState,
    LaneView,
    PrimaryView,
    iso,
)
from understudy.flow.status import alarms, clock_alarms, gaps_view, holder_view, primary_view, rpo_seconds

from tests.unit.fakes import (
    NOW,
    PROVEN_BY,
    ROUTE,
    STUDY,
    VAULT,
    FakeHolder,
    deliver,
    new_instance,
    note,
    numbers_of,
)

LANE = LaneView(LaneState.IDLE, "", iso(NOW), None, 0.0)
UP = primary_view("PACS", "192.0.2.10", 104, Health(Condition.UP, NOW))
DOWN = replace(UP, condition=Condition.DOWN)
HOLDER = HolderView(
    name=ROUTE,
    kind=HolderKind.ROUTE,
    owed=0,
    in_flight=0,
    sent=0,
    proven=9,
    refused=0,
    waived=0,
    oldest_owed_seconds=0.0,
    lane=LANE,
    proof=PROVEN_BY,
)
NO_GAPS = GapsView(0, 0, 0.0)
OVERDUE = replace(HOLDER, owed=1, oldest_owed_seconds=901.0, owed_since=iso(NOW))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = Ledger(tmp_path / "ledger.sqlite")
    found.start(NOW)
    yield found
    found.close()


def told(
    *,
    mode: Mode = Mode.STANDBY,
    primary: PrimaryView | None = UP,
    holder: HolderView = HOLDER,
    gaps: GapsView = NO_GAPS,
    departures: tuple[Finding, ...] = (),
    faults: tuple[Alarm, ...] = (),
) -> list[str]:
    found = alarms(
        mode=mode,
        primary=primary,
        holders=[holder],
        gaps=gaps,
        departures=departures,
        faults=faults,
        began=NOW,
    )
    assert all(alarm.hint for alarm in found)
    return [alarm.what for alarm in found]


def test_holder_is_shown_with_its_numbers_and_the_age_of_the_oldest(ledger: Ledger) -> None:
    note(ledger, *(new_instance(name) for name in range(1, 6)), now=Timestamp(NOW - 100))
    numbers = numbers_of(ledger)
    ledger.claim(ROUTE, numbers[:3], now=NOW)
    deliver(ledger, numbers[0], Outcome.DELIVERED)
    deliver(ledger, numbers[1], Outcome.REFUSED)
    ledger.waive(ROUTE, ["1.2.3.4.5"], "not wanted", "ann", NOW)
    view = holder_view(ledger, FakeHolder(), LANE, NOW)
    assert (view.owed, view.in_flight, view.sent, view.proven, view.refused, view.waived) == (
        1,
        1,
        1,
        0,
        1,
        1,
    )
    assert view.oldest_owed_seconds == 100


def test_rpo_is_the_oldest_that_some_vault_lacks_and_routes_do_not_count() -> None:
    route = replace(HOLDER, oldest_owed_seconds=500.0)
    vault = replace(HOLDER, name=VAULT, kind=HolderKind.VAULT, oldest_owed_seconds=5.0)
    assert rpo_seconds([route, vault, replace(vault, oldest_owed_seconds=7.0)]) == 7
    assert rpo_seconds([route]) == 0


def test_gaps_are_counted_and_aged() -> None:
    found = GapsTally(2, 4, Timestamp(NOW - 60))
    assert gaps_view(found, NOW) == GapsView(2, 4, 60.0, iso(Timestamp(NOW - 60)))
    assert gaps_view(GapsTally(0, 0, None), NOW) == NO_GAPS


def test_good_day_has_no_alarm() -> None:
    assert told() == []
    assert told(mode=Mode.ACTIVE, primary=DOWN) == []


@pytest.mark.parametrize(
    ("mode", "primary", "expected"),
    [
        (Mode.STANDBY, None, "no primary is configured"),
        (Mode.STANDBY, DOWN, "the primary is down"),
        (Mode.ACTIVE, UP, "the primary answers again while this standby is active"),
    ],
)
def test_primary_is_an_alarm(mode: Mode, primary: PrimaryView | None, expected: str) -> None:
    (alarm,) = told(mode=mode, primary=primary)
    assert alarm.startswith(expected)


def test_planned_work_is_no_alarm() -> None:
    assert told(mode=Mode.MAINTENANCE, primary=DOWN) == []


@pytest.mark.parametrize(
    ("holder", "expected"),
    [
        (replace(HOLDER, refused=2, refused_since=iso(NOW)), "archive refused 2 instances"),
        (replace(HOLDER, lane=replace(LANE, state=LaneState.WAITING, reason="x")), "archive does not answer"),
        (OVERDUE, "archive is owed an instance for more than 900 s"),
        (replace(OVERDUE, owed_limit_seconds=60.0), "archive is owed an instance for more than 60 s"),
    ],
)
def test_holder_is_an_alarm(holder: HolderView, expected: str) -> None:
    assert told(holder=holder) == [expected]


def test_paused_lane_may_owe_for_long() -> None:
    assert told(holder=replace(OVERDUE, lane=replace(LANE, state=LaneState.PAUSED))) == []


def test_what_waits_for_a_person_alone_is_told_once() -> None:
    refused = replace(OVERDUE, owed=0, refused=1, refused_since=iso(NOW))
    assert told(holder=refused) == ["archive refused 1 instances"]


def test_age_below_the_limit_is_no_alarm() -> None:
    assert told(holder=replace(OVERDUE, oldest_owed_seconds=900.0)) == []
    assert told(holder=replace(OVERDUE, owed_limit_seconds=3600.0)) == []


def test_since_of_an_alarm_does_not_move_while_time_goes_on(ledger: Ledger) -> None:
    note(ledger, *(new_instance(name) for name in range(1, 4)), now=NOW)
    numbers = numbers_of(ledger)
    ledger.claim(ROUTE, numbers[:1], now=NOW)
    deliver(ledger, numbers[0], Outcome.REFUSED)

    def told_at(now: float) -> list[tuple[str, str]]:
        moment = Timestamp(now)
        gaps = gaps_view(GapsTally(1, 3, NOW), moment)
        view = holder_view(ledger, FakeHolder(), LANE, moment, owed_limit=600)
        found = alarms(
            mode=Mode.STANDBY, primary=None, holders=[view], gaps=gaps, departures=[], faults=[], began=NOW
        )
        return [(alarm.what, alarm.since) for alarm in found]

    first = told_at(NOW + 1000)
    assert len(first) == 4
    assert told_at(NOW + 5000.7) == first
    assert {since for _, since in first} == {iso(NOW)}


def test_old_gap_departures_and_faults_are_alarms_and_faults_come_first() -> None:
    fault = Alarm(iso(NOW), "the note stands still", "see the log")
    found = told(
        gaps=GapsView(1, 3, 901.0, iso(NOW)),
        departures=(Finding(STUDY, 2, NOW), Finding(STUDY, 3, NOW)),
        faults=(fault,),
    )
    assert found[0] == "the note stands still"
    assert found[1].startswith("3 instances at the primary")
    assert "5 instances of 2 studies" in found[2]
    assert told(gaps=GapsView(1, 3, 899.0, iso(NOW))) == []


def test_instance_owed_since_a_time_to_come_is_an_alarm_on_the_clock(ledger: Ledger) -> None:
    assert clock_alarms(ledger.newest_unsettled(), NOW) == []
    note(ledger, new_instance(1), now=NOW)
    note(ledger, new_instance(2), now=Timestamp(NOW + 7200))
    assert clock_alarms(ledger.newest_unsettled(), Timestamp(NOW + 7195)) == []
    (alarm,) = clock_alarms(ledger.newest_unsettled(), NOW)
    assert alarm.since == iso(Timestamp(NOW + 7200))
    assert "clock" in alarm.what
    assert "chronyc" in alarm.hint
