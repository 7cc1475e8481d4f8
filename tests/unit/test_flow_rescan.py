"""Rescan: an index of Orthanc's that is not the one that was followed."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from understudy.core.model import NewInstance
from understudy.core.obligations import ObligationState
from understudy.core.report import Report, ReportRow
from understudy.core.rules import RouteDestination, RoutingRule, Rules
from understudy.core.views import DamageState, OperationState, OperationView
from understudy.flow import rescan
from understudy.flow.note import Noter
from understudy.flow.rescan import Rescanner
from understudy.ledger import RESCAN, Ledger

from tests.unit.fakes import (
    CRASH_SHARES,
    NOW,
    PRIMARY,
    PRIMARY_AE,
    PROOF,
    ROUTE,
    STUDY,
    VAULT,
    Clock,
    CrashError,
    FakeFeed,
    crash_after,
    dump,
    new_instance,
    numbers_of,
    router_of,
    shares,
)

RULES = Rules(
    PRIMARY,
    frozenset({PRIMARY_AE}),
    [VAULT],
    [RoutingRule("all", [], [ROUTE])],
    {ROUTE: RouteDestination(ROUTE, "ARCHIVE")},
)
DAY = 86_400.0


class Bench:
    """A noter and a rescanner over a feed of ten instances, all noted, three of them proven in the vault."""

    def __init__(self, path: Path) -> None:
        self.feed = FakeFeed()
        self.clock = Clock()
        self.ledger = Ledger(path)
        self.ledger.modes.start(NOW)
        self.index = (1.0, "first")
        self.read_in = True
        self.goes_on = True
        self.waits: list[float] = []
        self.reports: list[Report] = []
        self.restart()
        self.feed.store(*images(*range(10)))
        if self.noter.catch_up():
            self.ledger.custody.find(VAULT, dict.fromkeys(numbers_of(self.ledger)[:3], PROOF), now=NOW)

    def restart(self) -> None:
        """Let the agent begin again."""
        router = router_of(RULES, self.ledger)
        self.noter = Noter(
            self.feed, self.ledger, router, self.clock, primary_grace=60, index=lambda: self.index
        )
        self.rescanner = Rescanner(
            self.ledger,
            self.noter,
            self.clock,
            is_read_in=lambda: self.read_in,
            wait=self._wait,
            site="clinic",
            write_report=self._write_report,
        )

    def replace_index(self, *stored: NewInstance, name: str) -> None:
        """Let Orthanc start with an index that holds these."""
        self.feed.stored = list(stored)
        self.index = (self.index[0] + 1, name)

    def rescan(self) -> OperationView:
        """Do the running rescan to its end."""
        self.noter.catch_up()
        while self.rescanner.step():
            pass
        return self.operation()

    def operation(self) -> OperationView:
        found = self.ledger.operations.latest(RESCAN)
        assert found is not None
        return found

    def alarms(self) -> list[str]:
        return [alarm.what for alarm in self.rescanner.alarms()]

    def owed(self) -> dict[str, int]:
        return {holder: sum(states.values()) for holder, states in self.ledger.obligations.tally().items()}

    def _wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return self.goes_on

    def _write_report(self, operation: int, report: Report) -> str:
        self.reports.append(report)
        return f"/understudy/reports/{operation}"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path / "ledger.sqlite")
    yield found
    found.ledger.close()


def images(*names: int) -> list[NewInstance]:
    return [new_instance(name) for name in names]


REPLACED: dict[str, tuple[Callable[[Bench], None], str]] = {
    "replaced, longer than the one before": (
        lambda bench: bench.replace_index(*images(*range(6), *range(20, 30)), name="other"),
        "its name is different",
    ),
    "restored, and ends before the cursor": (
        lambda bench: bench.replace_index(*images(*range(6), 20, 21), name="first"),
        "its changes end before the last one that was seen",
    ),
    "restored, and grown beyond the cursor": (
        lambda bench: bench.replace_index(*images(*range(6), *range(20, 30)), name="first"),
        "its change under the last number seen is different",
    ),
}


@pytest.mark.parametrize("how", REPLACED)
def test_another_index_is_told_compared_and_no_obligation_is_lost_or_doubled(bench: Bench, how: str) -> None:
    replace, because = REPLACED[how]
    before = dump(bench.ledger)
    replace(bench)
    bench.noter.catch_up()
    (told,) = bench.alarms()
    assert because in told
    assert bench.ledger.intake.cursor("changes") == len(bench.feed.stored)
    ended = bench.rescan()
    held = {*range(10), *range(20, 20 + len(bench.feed.stored) - 6)}
    assert bench.owed() == dict.fromkeys((VAULT, ROUTE, PRIMARY), len(held))
    kept = {row[:2]: row for row in dump(bench.ledger)["obligations"]}
    assert all(kept[row[:2]] == row for row in before["obligations"])
    assert (ended.state, ended.message) == (
        OperationState.FAILED,
        "4 images that were here are not in Orthanc's index any more",
    )
    assert bench.alarms() == [
        "Orthanc's index was replaced or restored, and it lacks 4 images that were here"
    ]
    assert bench.reports[0].tables[0].rows == [(STUDY, "4")]
    assert because in bench.reports[0].summary[0].value
    assert [row[3] for row in dump(bench.ledger)["events"]] == ["begin", RESCAN, RESCAN]
    # Seen once: the next start finds the index that it knows.
    bench.restart()
    bench.noter.catch_up()
    assert bench.operation() == ended


def test_index_that_is_replaced_during_a_question_is_compared_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = bench.feed.changes

    def after_a_start(since: int, limit: int) -> Any:
        if bench.index[1] == "first":
            bench.replace_index(*images(*range(6)), name="other")
        return changes(since, limit)

    monkeypatch.setattr(bench.feed, "changes", after_a_start)
    assert bench.rescan().message.startswith("4 images")
    assert [view.state for view in bench.ledger.operations.newest(9)] == [OperationState.FAILED]


def test_same_index_after_any_start_is_not_compared(bench: Bench) -> None:
    bench.index = (2.0, "first")
    assert bench.noter.catch_up() == 0
    bench.restart()
    # The start could not read the index's name: that tells nothing.
    bench.index = (3.0, "")
    assert bench.noter.catch_up() == 0
    bench.index = (4.0, "first")
    assert bench.noter.catch_up() == 0
    assert bench.ledger.operations.latest(RESCAN) is None
    assert bench.alarms() == []
    assert not bench.rescanner.step()


def test_change_that_went_with_its_instance_tells_nothing(bench: Bench) -> None:
    bench.feed.gone = {"orthanc-9"}
    bench.restart()
    bench.noter.catch_up()
    assert bench.ledger.operations.latest(RESCAN) is None


def test_index_that_holds_everything_ends_well_and_its_other_files_are_learnt(bench: Bench) -> None:
    again = [new_instance(name, attachment=f"again-{name}") for name in range(10)]
    bench.replace_index(*again, name="other")
    ended = bench.rescan()
    assert (ended.state, ended.done, bench.alarms()) == (OperationState.DONE, 10, [])
    assert bench.reports[0].succeeded
    files = {row[2] for row in dump(bench.ledger)["instances"]}
    assert files == {instance.attachment_uuid for instance in again}
    assert bench.ledger.obligations.tally()[VAULT] == {ObligationState.PROVEN: 3, ObligationState.OWED: 7}


def test_what_was_read_back_in_without_its_sender_owes_nothing_new(bench: Bench) -> None:
    bench.feed.store(new_instance(10, calling="ARCHIVE"), new_instance(11, calling=PRIMARY_AE))
    bench.noter.catch_up()
    before = dump(bench.ledger)["obligations"]
    bench.replace_index(name="other")
    bench.noter.catch_up()
    bench.feed.store(*(new_instance(name, attachment=f"again-{name}", calling="") for name in range(12)))
    assert bench.rescan().state is OperationState.DONE
    assert dump(bench.ledger)["obligations"] == before


def test_empty_index_is_told_and_what_comes_meanwhile_does_not_wait(bench: Bench) -> None:
    bench.replace_index(name="other")
    bench.noter.catch_up()
    bench.feed.store(new_instance(50))
    assert bench.noter.catch_up() == 1
    ended = bench.rescan()
    assert ended.message.startswith("10 images")
    assert bench.owed() == dict.fromkeys((VAULT, ROUTE, PRIMARY), 11)


def test_what_a_start_reads_back_in_is_waited_for(bench: Bench) -> None:
    bench.replace_index(name="other")
    bench.read_in = False
    bench.noter.catch_up()
    assert not bench.rescanner.step()
    assert "compared again" in bench.alarms()[0]
    bench.feed.store(*images(*range(10)))
    bench.read_in = True
    assert bench.rescan().state is OperationState.DONE


def test_missing_instances_that_come_again_are_missed_no_more(bench: Bench) -> None:
    bench.replace_index(*images(*range(6)), name="other")
    bench.rescan()
    assert bench.ledger.files.counts() == {DamageState.GONE: 4}
    bench.feed.store(*(new_instance(name, attachment=f"again-{name}") for name in (6, 7, 8)))
    bench.noter.catch_up()
    assert bench.alarms() == ["Orthanc's index was replaced or restored, and it lacks 1 image that was here"]
    # The index of before takes its place again.
    bench.replace_index(*images(*range(10)), name="first")
    assert bench.rescan().state is OperationState.DONE
    assert bench.alarms() == []
    assert bench.ledger.files.counts() == {DamageState.HEALED: 4}


def test_alarm_of_missing_instances_ends_after_a_week(bench: Bench) -> None:
    bench.replace_index(name="other")
    bench.rescan()
    bench.clock.advance(7 * DAY)
    assert bench.alarms() != []
    bench.clock.advance(1)
    assert bench.alarms() == []


def test_index_that_is_replaced_once_more_is_compared_from_the_start(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescan, "_PAGE", 2)
    bench.replace_index(*images(*range(6)), name="other")
    bench.noter.catch_up()
    bench.goes_on = False
    bench.rescanner.step()
    bench.goes_on = True
    assert bench.operation().done == 2
    bench.replace_index(*images(*range(3)), name="third")
    bench.noter.catch_up()
    assert bench.operation().done == 0
    assert bench.rescan().message.startswith("7 images")
    assert [view.state for view in bench.ledger.operations.newest(9)] == [
        OperationState.FAILED,
        OperationState.CANCELLED,
    ]


def test_index_that_is_replaced_between_two_pages_is_compared_from_the_start(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescan, "_PAGE", 2)

    def replaced(_seconds: float) -> bool:
        if bench.index[1] == "other":
            bench.replace_index(*images(*range(3)), name="third")
            bench.noter.catch_up()
        return True

    monkeypatch.setattr(bench, "_wait", replaced)
    bench.replace_index(*images(*range(6)), name="other")
    bench.restart()
    assert bench.rescan().message.startswith("7 images")
    assert [row[3] for row in dump(bench.ledger)["events"]] == ["begin", RESCAN, RESCAN, RESCAN]
    (report,) = bench.reports
    assert ReportRow("Why", "its name is different") in report.summary
    assert ReportRow("Missing", "7") in report.summary


def test_rescan_takes_half_of_the_time_and_goes_on_where_it_was_stopped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescan, "_PAGE", 3)
    asked: list[str] = []
    describe = bench.feed.describe

    def slowly(orthanc_ids: Any) -> Any:
        asked.extend(orthanc_ids)
        bench.clock.advance(0.25 * len(orthanc_ids))
        return describe(orthanc_ids)

    monkeypatch.setattr(bench.feed, "describe", slowly)
    bench.replace_index(*images(*range(10)), name="other")
    bench.noter.catch_up()
    asked.clear()
    bench.goes_on = False
    assert not bench.rescanner.step()
    assert bench.waits == [0.75]
    bench.goes_on = True
    bench.restart()
    bench.rescan()
    assert bench.waits == [0.75, 0.75, 0.75, 0.25]
    assert asked == [f"orthanc-{name}" for name in range(10)]


@shares(CRASH_SHARES)
def test_rescan_killed_anywhere_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: int
) -> None:
    monkeypatch.setattr(rescan, "_PAGE", 6)
    Bench(tmp_path / "ledger.sqlite").ledger.close()

    def replaced(name: str) -> Bench:
        for ending in ("", ".anchor"):
            shutil.copy(tmp_path / f"ledger.sqlite{ending}", tmp_path / f"{name}{ending}")
        bench = Bench(tmp_path / name)
        bench.replace_index(
            *images(*range(4), 20),
            new_instance(5, attachment="again"),
            new_instance(6, content="B"),
            name="other",
        )
        return bench

    def outcome(bench: Bench) -> dict[str, Any]:
        found = dump(bench.ledger)
        tables = {
            name: found[name] for name in ("instances", "obligations", "proofs", "conflicts", "damages")
        }
        return tables | {
            "missing": bench.ledger.files.gone(),
            "cursor": bench.ledger.intake.cursor("changes"),
        }

    undisturbed = replaced("undisturbed.sqlite")
    with crash_after(undisturbed.ledger, 0, only_writes=True) as writes:
        undisturbed.rescan()
        total = writes()
    expected = outcome(undisturbed)
    assert expected["missing"][0] == 4
    undisturbed.ledger.close()
    assert total > 20
    for point in range(1 + share, total + 1, CRASH_SHARES):
        bench = replaced(f"{point}.sqlite")
        with pytest.raises(CrashError), crash_after(bench.ledger, point, only_writes=True):
            bench.rescan()
        bench.restart()
        bench.rescan()
        assert outcome(bench) == expected, f"after write {point}"
        bench.ledger.close()
