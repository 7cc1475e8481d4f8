"""Verify: every holder is asked again for all that it was proven to have."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from sqlalchemy import delete
from understudy.core.model import HolderKind, Instance, InstanceNumber, Proof
from understudy.core.obligations import ObligationState
from understudy.core.report import Report
from understudy.core.views import OperationState
from understudy.flow.verify import Verifier
from understudy.ledger import Ledger
from understudy.ledger.schema import events

from tests.unit.fakes import (
    NOW,
    PRIMARY,
    PROOF,
    ROUTE,
    STUDY,
    VAULT,
    Clock,
    FakeHolder,
    UnforeseenError,
    new_instance,
    note,
    numbers_of,
)
from tests.unit.world import World, uid


class Bench:
    """Two holders with five instances each."""

    def __init__(self, path: Path) -> None:
        self.ledger = Ledger(path)
        self.ledger.modes.start(NOW)
        note(self.ledger, *(new_instance(name) for name in range(1, 6)), owed=[ROUTE, VAULT])
        found = dict.fromkeys(numbers_of(self.ledger), PROOF)
        kept = {f"1.2.3.4.{name}" for name in range(1, 6)}
        for holder in (ROUTE, VAULT):
            self.ledger.custody.find(holder, found, now=NOW)
        self.route = FakeHolder(kept=set(kept))
        self.vault = FakeHolder(name=VAULT, kind=HolderKind.VAULT, kept=set(kept))
        self.reports: list[Report] = []
        self.verifier = self.new_verifier()

    def new_verifier(self) -> Verifier:
        return Verifier(
            self.ledger,
            [self.route, self.vault],
            Clock(),
            site="clinic",
            write_report=self._write_report,
            recheck=None,
        )

    def _write_report(self, operation: int, report: Report) -> str:
        self.reports.append(report)
        return f"/understudy/reports/{operation}"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path / "ledger.sqlite")
    yield found
    found.ledger.close()


def test_verify_of_holders_that_have_everything_succeeds(bench: Bench) -> None:
    operation = bench.verifier.begin("ann")
    assert (operation.total, operation.state) == (10, OperationState.RUNNING)
    assert bench.verifier.step()
    ended = bench.ledger.operations.get(operation.operation)
    assert (ended.state, ended.done) == (OperationState.DONE, 10)
    assert bench.reports[0].succeeded
    # Who keeps the report keeps the end of the event log.
    last = bench.ledger.events.last()
    assert last is not None
    assert bench.reports[0].summary[1].value == f"{last.event} {last.chain}"
    assert not bench.verifier.step()


def test_verify_owes_again_what_a_holder_lost(bench: Bench) -> None:
    bench.vault.kept.discard("1.2.3.4.2")
    operation = bench.verifier.begin("ann")
    bench.verifier.step()
    assert bench.ledger.operations.get(operation.operation).state is OperationState.FAILED
    assert bench.ledger.obligations.tally()[VAULT] == {ObligationState.PROVEN: 4, ObligationState.OWED: 1}
    assert bench.ledger.obligations.tally()[ROUTE] == {ObligationState.PROVEN: 5}
    assert "nas: 1 image is gone" in bench.reports[0].outcome


def test_verify_of_a_holder_that_is_away_disproves_nothing(bench: Bench) -> None:
    bench.route.away = True
    bench.verifier.begin("ann")
    bench.verifier.step()
    assert bench.ledger.obligations.tally()[ROUTE] == {ObligationState.PROVEN: 5}
    assert not bench.reports[0].succeeded
    assert "archive: it is away" in bench.reports[0].outcome
    # The others are asked all the same.
    assert bench.vault.asked == [5]


@pytest.mark.parametrize(
    ("bad", "asked", "reason"),
    [
        ({1, 3}, 3, "it is away; no answer for 2 images"),
        (
            {1, 2, 3},
            0,
            "it is away; instances after number 3 were not asked for; no answer for 3 images",
        ),
    ],
)
def test_verify_goes_on_after_a_page_without_an_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, bad: set[int], asked: int, reason: str
) -> None:
    monkeypatch.setattr("understudy.flow.verify._PAGE", 1)

    class Spotted(FakeHolder):
        def find(self, instances: Sequence[Instance]) -> Mapping[InstanceNumber, Proof]:
            self.away = bool(bad & {instance.number for instance in instances})
            return super().find(instances)

    bench.route = Spotted(kept=bench.route.kept - {"1.2.3.4.5"})
    verifier = bench.new_verifier()
    operation = verifier.begin("ann")
    verifier.step()
    assert bench.ledger.operations.get(operation.operation).state is OperationState.FAILED
    lost = int(asked > 0)
    assert bench.reports[0].tables[0].rows[0] == ("archive", str(asked), str(asked - lost), str(lost), reason)
    assert bench.ledger.obligations.tally()[ROUTE].get(ObligationState.OWED, 0) == lost
    assert f"archive: {reason}" in bench.reports[0].outcome
    assert ("archive: 1 image is gone" in bench.reports[0].outcome) == bool(lost)


def test_verify_names_an_older_content_at_the_primary_and_leaves_its_proof(tmp_path: Path) -> None:
    world = World(tmp_path / "ledger.sqlite")
    world.forwarded(1, 2)
    world.noter.catch_up()
    reports: dict[int, Report] = {}

    def write_report(operation: int, report: Report) -> str:
        reports[operation] = report
        return ""

    verifier = Verifier(
        world.ledger,
        [world.holder],
        world.clock,
        site="clinic",
        write_report=write_report,
        recheck=world.recheck,
    )
    for older in (False, True):
        world.peer.contents = {uid(2): b"as it was before the correction"} if older else {}
        asked = verifier.begin("ann")
        verifier.step()
        assert reports[asked.operation].succeeded is not older
    last = reports[max(reports)]
    assert "primary: 1 image of the sample with another content there" in last.outcome
    assert list(last.tables[1].rows) == [(uid(2), STUDY, "another content")]
    assert world.ledger.obligations.tally()[PRIMARY] == {ObligationState.PROVEN: 2}
    world.ledger.close()


def test_verify_finds_a_broken_event_log(bench: Bench) -> None:
    bench.ledger.events.log("ann", "note", {}, NOW)
    bench.ledger.events.log("ann", "note", {}, NOW)
    with bench.ledger.database.writing() as connection:
        connection.execute(delete(events).where(events.c.event == 2))
    bench.verifier.begin("ann")
    bench.verifier.step()
    assert "the event log is broken at event 2" in bench.reports[0].outcome


def test_verify_begun_twice_is_one(bench: Bench) -> None:
    assert bench.verifier.begin("ann").operation == bench.verifier.begin("bob").operation


def test_verify_cancelled_in_the_middle_ends_without_a_report(bench: Bench) -> None:
    operation = bench.verifier.begin("ann")
    cancel = bench.ledger.operations.update

    class Cancelling(FakeHolder):
        def find(self, instances: Sequence[Instance]) -> Mapping[InstanceNumber, Proof]:
            cancel(operation.operation, now=NOW, state=OperationState.CANCELLED)
            return super().find(instances)

    bench.route = Cancelling(kept=bench.route.kept)
    verifier = bench.new_verifier()
    verifier.step()
    assert bench.ledger.operations.get(operation.operation).state is OperationState.CANCELLED
    assert (bench.reports, bench.vault.asked) == ([], [])


def test_verify_broken_off_by_a_crash_is_done_from_the_start(bench: Bench) -> None:
    operation = bench.verifier.begin("ann")
    bench.vault.poison_to_find = {"1.2.3.4.1"}
    with pytest.raises(UnforeseenError):
        bench.verifier.step()
    bench.vault.poison_to_find.clear()
    bench.new_verifier().step()
    assert bench.ledger.operations.get(operation.operation).state is OperationState.DONE
