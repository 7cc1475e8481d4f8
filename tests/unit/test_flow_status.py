"""Status: numbers, ages and alarms."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from understudy.core.health import Health
from understudy.core.model import HolderKind, Outcome, Timestamp
from understudy.core.modes import Mode
from understudy.core.views import (
    Alarm,
    GapsView,
    HolderView,
    LaneState,
    LaneView,
    PrimaryCondition,
    PrimaryView,
    Probe,
    Sign,
    Urgency,
    iso,
)
from understudy.flow.status import (
    Copy,
    alarms,
    clock_alarms,
    gaps_view,
    holder_view,
    primary_view,
    rpo_seconds,
)
from understudy.ledger import Finding, GapsTally, Ledger

from tests.unit.fakes import (
    NOW,
    PROVEN_BY,
    ROUTE,
    STUDY,
    VAULT,
    Clock,
    FakeHolder,
    deliver,
    new_instance,
    note,
    numbers_of,
)

LANE = LaneView(LaneState.IDLE, "", iso(NOW), None, 0.0)
UP = primary_view("PACS", "192.0.2.10", 104, Health(PrimaryCondition.UP, NOW))
DOWN = replace(UP, condition=PrimaryCondition.DOWN)
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
FRESH = Copy()
NO_GAPS = GapsView(0, 0, 0.0)
OVERDUE = replace(HOLDER, owed=1, oldest_owed_seconds=901.0, owed_since=iso(NOW))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = Ledger(tmp_path / "ledger.sqlite")
    found.modes.start(NOW)
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
    copy: Copy = FRESH,
) -> list[str]:
    found = alarms(
        mode=mode,
        primary=primary,
        holders=[holder],
        gaps=gaps,
        departures=departures,
        faults=faults,
        began=NOW,
        copy=copy,
    )
    assert all(alarm.hint for alarm in found)
    return [alarm.what for alarm in found]


def since(now: float) -> Callable[[Timestamp], float]:
    """Return what tells how long ago a moment was."""
    return Clock(now).waited


def test_holder_is_shown_with_its_numbers_and_the_age_of_the_oldest(ledger: Ledger) -> None:
    note(ledger, *(new_instance(name) for name in range(1, 6)), now=Timestamp(NOW - 100))
    numbers = numbers_of(ledger)
    ledger.custody.claim(ROUTE, numbers[:3], now=NOW)
    deliver(ledger, numbers[0], Outcome.DELIVERED)
    deliver(ledger, numbers[1], Outcome.REFUSED)
    ledger.dead_letters.waive(ROUTE, ["1.2.3.4.5"], "not wanted", "ann", NOW)
    view = holder_view(ledger, FakeHolder(), LANE, since(NOW))
    assert (view.owed, view.in_flight, view.sent, view.proven, view.refused, view.waived) == (
        1,
        1,
        1,
        0,
        1,
        1,
    )
    assert view.oldest_owed_seconds == 100


def test_instances_that_a_holder_stored_altered_are_counted(ledger: Ledger) -> None:
    note(ledger, *(new_instance(name) for name in range(1, 5)), now=NOW)
    numbers = numbers_of(ledger)
    ledger.custody.claim(ROUTE, numbers, now=NOW)
    assert holder_view(ledger, FakeHolder(), LANE, since(NOW)).altered == 0
    deliver(ledger, numbers[0], Outcome.DELIVERED)
    for number in numbers[1:]:
        deliver(ledger, number, Outcome.DELIVERED_ALTERED)
    assert holder_view(ledger, FakeHolder(), LANE, since(NOW)).altered == 3


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("", "waiting for 3 MiB of memory that other lanes hold"),
        ("sending 2 instances", "sending 2 instances; waiting for 3 MiB of memory that other lanes hold"),
    ],
)
def test_lane_that_waits_for_memory_says_so(ledger: Ledger, shown: str, expected: str) -> None:
    lane = replace(LANE, state=LaneState.WORKING, reason=shown)
    view = holder_view(ledger, FakeHolder(), lane, since(NOW), awaited_bytes=3 * 2**20 - 1)
    assert view.lane == replace(lane, reason=expected)
    assert holder_view(ledger, FakeHolder(), lane, since(NOW)).lane == lane


def test_rpo_is_the_oldest_that_some_vault_lacks_and_routes_do_not_count() -> None:
    route = replace(HOLDER, oldest_owed_seconds=500.0)
    vault = replace(HOLDER, name=VAULT, kind=HolderKind.VAULT, oldest_owed_seconds=5.0)
    assert rpo_seconds([route, vault, replace(vault, oldest_owed_seconds=7.0)]) == 7
    assert rpo_seconds([route]) == 0


def test_gaps_are_counted_and_aged() -> None:
    found = GapsTally(2, 4, Timestamp(NOW - 60))
    assert gaps_view(found, since(NOW)) == GapsView(2, 4, 60.0, iso(Timestamp(NOW - 60)))
    assert gaps_view(GapsTally(0, 0, None), since(NOW)) == NO_GAPS


def test_good_day_has_no_alarm() -> None:
    assert told() == []
    assert told(mode=Mode.ACTIVE, primary=DOWN) == []


@pytest.mark.parametrize(
    ("mode", "primary", "expected"),
    [
        (Mode.STANDBY, None, "no primary is configured"),
        (Mode.STANDBY, DOWN, "the primary is down"),
        (
            Mode.STANDBY,
            replace(UP, condition=PrimaryCondition.REFUSES),
            "the primary works, but it refuses this standby",
        ),
        (
            Mode.STANDBY,
            replace(UP, condition=PrimaryCondition.BUSY),
            "the primary works, but it has no free association",
        ),
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
        (replace(HOLDER, refused=2, refused_since=iso(NOW)), "archive refused 2 images"),
        (
            replace(HOLDER, lane=replace(LANE, state=LaneState.WAITING, reason="x")),
            "no image can be delivered to archive at the moment",
        ),
        (OVERDUE, "an image has been owed to archive for more than 900 s"),
        (replace(OVERDUE, owed_limit_seconds=60.0), "an image has been owed to archive for more than 60 s"),
    ],
)
def test_holder_is_an_alarm(holder: HolderView, expected: str) -> None:
    assert told(holder=holder) == [expected]


def test_paused_lane_may_owe_for_long() -> None:
    assert told(holder=replace(OVERDUE, lane=replace(LANE, state=LaneState.PAUSED))) == []


def test_what_waits_for_a_person_alone_is_told_once() -> None:
    refused = replace(OVERDUE, owed=0, refused=1, refused_since=iso(NOW))
    assert told(holder=refused) == ["archive refused 1 image"]


def test_age_below_the_limit_is_no_alarm() -> None:
    assert told(holder=replace(OVERDUE, oldest_owed_seconds=900.0)) == []
    assert told(holder=replace(OVERDUE, owed_limit_seconds=3600.0)) == []


def test_since_of_an_alarm_does_not_move_while_time_goes_on(ledger: Ledger) -> None:
    note(ledger, *(new_instance(name) for name in range(1, 4)), now=NOW)
    numbers = numbers_of(ledger)
    ledger.custody.claim(ROUTE, numbers[:1], now=NOW)
    deliver(ledger, numbers[0], Outcome.REFUSED)

    def told_at(now: float) -> list[tuple[str, str]]:
        gaps = gaps_view(GapsTally(1, 3, NOW), since(now))
        view = holder_view(ledger, FakeHolder(), LANE, since(now), owed_limit=600)
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
    assert found[1].startswith("3 images of the primary")
    assert "5 images of 2 studies" in found[2]
    assert told(gaps=GapsView(1, 3, 899.0, iso(NOW))) == []


def test_instance_owed_since_a_time_to_come_is_an_alarm_on_the_clock(ledger: Ledger) -> None:
    assert clock_alarms(ledger.obligations.newest(), NOW) == []
    note(ledger, new_instance(1), now=NOW)
    note(ledger, new_instance(2), now=Timestamp(NOW + 7200))
    assert clock_alarms(ledger.obligations.newest(), Timestamp(NOW + 7195)) == []
    (alarm,) = clock_alarms(ledger.obligations.newest(), NOW)
    assert alarm.since == iso(Timestamp(NOW + 7200))
    assert "clock" in alarm.what
    assert "chronyc" in alarm.hint


def test_alarm_on_the_primary_names_its_evidence_and_only_silence_says_promote() -> None:
    for condition in (PrimaryCondition.DOWN, PrimaryCondition.REFUSES, PrimaryCondition.BUSY):
        health = Health(condition, NOW, [Probe(iso(NOW), "no association", "not asked", Sign.SILENT)])
        view = primary_view("PACS", "192.0.2.10", 104, health)
        (alarm,) = alarms(
            mode=Mode.STANDBY, primary=view, holders=[], gaps=NO_GAPS, departures=[], faults=[], began=NOW
        )
        assert "C-ECHO no association, C-FIND not asked" in alarm.what
        assert ("understudy promote" in alarm.hint) is (condition is PrimaryCondition.DOWN)
        assert (alarm.urgency is Urgency.NOW) is (condition is PrimaryCondition.DOWN)


def test_primary_that_is_down_stands_above_every_other_fault() -> None:
    fault = Alarm(iso(NOW), "the primary cannot be compared with this standby", "see the log")
    assert told(primary=DOWN, faults=(fault,))[0].startswith("the primary is down")


@pytest.mark.parametrize(
    ("copy", "expected"),
    [
        (Copy(NOW, 900.0), []),
        (Copy(NOW, 901.0), ["this standby has not been known to be complete for longer than Policy.MaxLag"]),
        (Copy(None, None, age_seconds=900.0), []),
        (
            Copy(None, None, age_seconds=901.0),
            ["this standby may lack images: no comparison with the primary has been completed yet"],
        ),
    ],
)
def test_copy_that_is_not_known_to_be_complete_is_an_alarm(copy: Copy, expected: list[str]) -> None:
    assert told(copy=copy) == expected
    assert told(copy=copy, mode=Mode.ACTIVE, primary=DOWN) == []
