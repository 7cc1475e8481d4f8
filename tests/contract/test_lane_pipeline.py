"""One batch is sent while the next is looked for and those before are proven, whenever the peer reports.

The peer holds back an answer until the next batch has come. A lane that waited for that answer would never
send the batch. Nothing is measured; a wait in vain ends after minutes, and fails.
"""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from understudy.engine.beside import Beside
from understudy.engine.workers import Loop
from understudy.holders.commitment import Commitment, CommitmentPolicy

from tests.contract.route import Route, destination, lane_to
from tests.peer.archive import Archive
from tests.peer.listener import Listener
from tests.peer.record import DEADLINE, Moment
from tests.peer.script import Reporting, Script
from tests.stack import wait_until
from tests.unit.fakes import dump, note

BATCH = 2
"""Instances of a study. Each study is a batch."""
LINGER = 10 * DEADLINE
"""Seconds for which a request keeps its association open: longer than every other wait of these tests."""
PATIENCE = 300.0
RELIED_ON = CommitmentPolicy(always=True, patience=PATIENCE, linger=LINGER)


class Gated(Archive):
    """An archive that does some things only after others have happened."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.stores_after: dict[str, str] = {}
        """By study, another one that it has to be asked for before it takes an instance of the first."""
        self.lists_after: dict[str, int] = {}
        """By study, how many instances have to have come before it lists an instance of it."""
        self._asked_for: set[str] = set()
        self._asked = threading.Condition()
        self._lingering: list[Association] = []

    def _on_store(self, event: evt.Event) -> int:
        before = self.stores_after.get(str(event.dataset.StudyInstanceUID))
        with self._asked:
            if before is not None and not self._asked.wait_for(lambda: before in self._asked_for, DEADLINE):
                raise AssertionError(f"{before} was not looked for during the sending")
        return super()._on_store(event)

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        study = str(event.identifier.StudyInstanceUID)
        with self._asked:
            self._asked_for.add(study)
            self._asked.notify_all()
        if any(one.study_instance_uid == study for one in self.record.kept.values()):
            self.record.wait_for(Moment.ARRIVED, self.lists_after.get(study, 0))
        yield from super()._on_find(event)

    def _on_commitment(self, event: evt.Event) -> tuple[int, None]:
        self._lingering.append(event.assoc)
        return super()._on_commitment(event)

    def hang_up(self) -> None:
        """End every association over which it was asked for commitment."""
        for association in self._lingering:
            association.abort()


class Pipeline(Route):
    """A route that owes studies, and whose lane runs in a loop of its own as the agent's does."""

    def __init__(
        self, folder: Path, archive: Gated, listener: Listener, policy: CommitmentPolicy | None
    ) -> None:
        self._gated = archive
        self._listener = listener
        self._policy = policy
        self._uids = (f"2.25.{number}" for number in itertools.count(1))
        archive.commitments.reports_to = ("127.0.0.1", listener.port, listener.ae_title)
        super().__init__(folder, archive)

    def wait(self, timeout: float) -> None:
        self._beside = beside = Beside(self.clock, lambda: self._loop.wake())
        commits = None
        if self._policy is not None:
            commits = partial(
                Commitment,
                reports=self._listener,
                book=self.ledger.commitments,
                clock=self.clock,
                policy=self._policy,
                new_uid=lambda: next(self._uids),
                beside=beside,
            )
        holder = destination(
            self._gated, self.storage, self.clock, timeout=timeout, commitment=commits, beside=beside
        )
        self.lane = lane_to(holder, self.ledger, self.clock, beside)
        self._stop = threading.Event()
        self._loop = Loop(
            "lane", self.lane.step, self.clock, interval=0.05, stop=self._stop, fraction=lambda: 1.0
        )

    def owe_studies(self, count: int) -> list[str]:
        """Owe so many studies of one batch each, and return their UIDs in the order of their turns."""
        for number in range(count):
            self.instances += self.storage.series(f"study {number}", BATCH, size=2)
        note(self.ledger, *self.instances)
        return list(dict.fromkeys(instance.study_instance_uid for instance in self.instances))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the lane work."""
        self._loop.start()
        try:
            yield
        finally:
            self._stop.set()
            self._loop.wake()
            self._loop.join(60)
            self._gated.hang_up()
            self._beside.take_turns()

    def comes_to(self, *states: str) -> None:
        """Wait until the studies are in these states."""
        expected = [state for state in states for _ in range(BATCH)]
        wait_until(self.states, lambda seen: seen == expected, deadline=60, what=f"{states}", pause=0.01)

    def comes_in_time_to(self, *states: str) -> None:
        """Let time pass, always within the patience for a report, until the studies are in these states."""
        self.clock.advance(50)
        expected = [state for state in states for _ in range(BATCH)]

        def looked() -> list[str]:
            # What the lane found before the clock was set it looks at again after a while.
            self.clock.advance(1)
            return self.states()

        wait_until(looked, lambda seen: seen == expected, deadline=60, what=f"{states}")

    def proofs(self) -> list[str]:
        """Return the kinds of all proofs in the order in which they were written."""
        return [row[3] for row in sorted(dump(self.ledger)["proofs"])]


@contextmanager
def pipeline(folder: Path, policy: CommitmentPolicy | None = RELIED_ON, **script: Any) -> Iterator[Pipeline]:
    with Gated(Script(**script)) as archive, Listener() as listener:
        route = Pipeline(folder, archive, listener, policy)
        try:
            yield route
            assert archive.record.times(Moment.ARRIVED) == len(route.instances), "sent twice"
            route.expect_custody()
        finally:
            route.ledger.close()


def test_next_batch_is_sent_before_a_report_over_the_same_association(tmp_path: Path) -> None:
    with pipeline(tmp_path, report_after=2 * BATCH) as route:
        route.owe_studies(2)
        with route.running():
            route.comes_to("proven", "proven")
        assert route.proofs() == ["commitment"] * 2 * BATCH


def test_next_batch_is_sent_before_a_report_over_a_new_association(tmp_path: Path) -> None:
    with pipeline(tmp_path, reporting=Reporting.OTHER_ASSOCIATION, report_after=2 * BATCH) as route:
        route.owe_studies(2)
        with route.running():
            route.archive.record.wait_for(Moment.REPORTED, 2)
            route.comes_in_time_to("proven", "proven")
        assert route.proofs() == ["commitment"] * 2 * BATCH


def test_batches_are_sent_before_a_report_that_comes_late(tmp_path: Path) -> None:
    with pipeline(tmp_path, reporting=Reporting.WHEN_TOLD) as route:
        route.owe_studies(2)
        with route.running():
            route.archive.record.wait_for(Moment.ARRIVED, 2 * BATCH)
            route.archive.record.wait_for(Moment.COMMITMENT, 2)
            route.comes_to("sent", "sent")
            for request in route._gated.commitments.requested:
                route._gated.commitments.report(request, Script())
            route.comes_in_time_to("proven", "proven")
        assert route.proofs() == ["commitment"] * 2 * BATCH


def test_batches_beyond_the_requests_under_way_are_proven_by_inventory_where_no_report_comes(
    tmp_path: Path,
) -> None:
    with pipeline(tmp_path, reporting=Reporting.NEVER) as route:
        route.owe_studies(4)
        with route.running():
            route.archive.record.wait_for(Moment.ARRIVED, 4 * BATCH)
            route.comes_to("sent", "sent", "proven", "proven")
            assert len(route._gated.commitments.requested) == 2
            route.clock.advance(PATIENCE)
            route.comes_in_time_to("proven", "proven", "proven", "proven")
        assert route.proofs() == ["inventory"] * 4 * BATCH


def test_transactions_that_are_awaited_are_bounded_where_no_report_comes(tmp_path: Path) -> None:
    policy = CommitmentPolicy(always=True, patience=PATIENCE, linger=0.0)
    with pipeline(tmp_path, policy, reporting=Reporting.NEVER) as route:
        route.owe_studies(13)
        with route.running():
            route.archive.record.wait_for(Moment.COMMITMENT, 1)
            route.archive.record.wait_for(Moment.ARRIVED, 13 * BATCH)

            def waiting() -> int:
                # Within the patience for a report in any case.
                route.clock.advance(1)
                return route.states().count("sent")

            wait_until(waiting, lambda number: number <= 10 * BATCH, deadline=60, what="those that wait")
        assert set(route.proofs()) == {"inventory"}


def test_next_batch_is_sent_while_a_listing_is_slow(tmp_path: Path) -> None:
    with pipeline(tmp_path, None) as route:
        first, _ = route.owe_studies(2)
        route._gated.lists_after[first] = 2 * BATCH
        with route.running():
            route.comes_to("proven", "proven")


def test_next_batch_is_looked_for_while_one_is_sent(tmp_path: Path) -> None:
    with pipeline(tmp_path, None) as route:
        first, second, third = route.owe_studies(3)
        route._gated.stores_after |= {first: second, second: third}
        with route.running():
            route.comes_to("proven", "proven", "proven")
