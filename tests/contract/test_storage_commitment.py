"""Storage commitment by a peer that reports in time, late, in parts, elsewhere, twice or never."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import evt
from understudy.adapters.dicom import DicomPeer
from understudy.core.obligations import Selection
from understudy.holders.commitment import Commitment, CommitmentPolicy

from tests.contract.route import PATIENCE, Route, destination, lane_to
from tests.peer.archive import Archive
from tests.peer.commitment import Requested
from tests.peer.listener import Listener
from tests.peer.record import Moment
from tests.peer.script import Answer, Kept, Listing, Reporting, Script
from tests.unit.fakes import ROUTE, dump

COUNT = 3
REPORT_PATIENCE = 300.0
ALWAYS = CommitmentPolicy(always=True, patience=REPORT_PATIENCE, linger=0.0)
LINGERING = CommitmentPolicy(always=True, patience=REPORT_PATIENCE, linger=PATIENCE)
AUTO = CommitmentPolicy(always=False, patience=REPORT_PATIENCE, linger=0.0)


class Committing(Route):
    """A route whose instances are proven by storage commitment."""

    def __init__(self, folder: Path, archive: Archive, listener: Listener, policy: CommitmentPolicy) -> None:
        self.peer = archive
        self._listener = listener
        self._policy = policy
        self._uids = (f"2.25.{number}" for number in itertools.count(1))
        archive.commitments.reports_to = ("127.0.0.1", listener.port, listener.ae_title)
        super().__init__(folder, archive)

    def wait(self, timeout: float) -> None:
        """Begin again, as after a restart of the agent, with so many seconds for each answer."""
        self.holder = destination(
            self.peer, self.storage, self.clock, timeout=timeout, commitment=self._commitment
        )
        self.lane = lane_to(self.holder, self.ledger, self.clock)

    def _commitment(self, peer: DicomPeer) -> Commitment:
        return Commitment(
            peer,
            self._listener,
            self.ledger.commitments,
            self.clock,
            self._policy,
            new_uid=lambda: next(self._uids),
        )

    def restart(self, policy: CommitmentPolicy | None = None) -> None:
        """End the agent and start it again."""
        self._policy = policy or self._policy
        self.wait(PATIENCE)

    @property
    def requested(self) -> list[Requested]:
        """The transactions that the peer was asked for."""
        return self.peer.commitments.requested

    def report(self, number: int, **script: Any) -> None:
        """Let the peer report now on a transaction, counted from 0."""
        self.peer.commitments.report(self.requested[number], Script(**script))

    def proofs(self) -> list[str]:
        """Return the kinds of all proofs in the order in which they were written."""
        return [row[3] for row in sorted(dump(self.ledger)["proofs"])]

    def reported(self, times: int) -> None:
        """Work when so many reports were made and answered, as soon as they are looked for."""
        self.archive.record.wait_for(Moment.REPORTED, times)
        self.run(seconds=60)


@contextmanager
def committing(folder: Path, policy: CommitmentPolicy = ALWAYS, **script: Any) -> Iterator[Committing]:
    with Archive(Script(**script)) as archive, Listener() as listener:
        route = Committing(folder, archive, listener, policy)
        try:
            yield route
            route.expect_custody()
        finally:
            route.ledger.close()


def test_report_over_the_same_association_proves(tmp_path: Path) -> None:
    with committing(tmp_path, LINGERING) as route:
        route.owe(COUNT)
        route.run()
        assert route.states() == ["proven"] * COUNT
        assert route.proofs() == ["commitment"] * COUNT
        assert len(route.requested) == 1
        assert {uid for _, uid in route.requested[0].instances} == set(route.outcomes())


def test_report_over_another_association_proves(tmp_path: Path) -> None:
    with committing(tmp_path, reporting=Reporting.OTHER_ASSOCIATION) as route:
        route.owe(COUNT)
        route.run()
        route.reported(1)
        assert route.states() == ["proven"] * COUNT
        assert route.proofs() == ["commitment"] * COUNT
        assert set(route.deliveries().values()) == {1}


def test_transaction_is_in_the_ledger_before_the_request_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with committing(tmp_path, reporting=Reporting.WHEN_TOLD) as route:
        seen: list[int] = []
        take = route.peer.commitments.asked

        def asked(event: evt.Event, script: Script) -> int:
            seen.append(len(dump(route.ledger)["commitments"]))
            return take(event, script)

        monkeypatch.setattr(route.peer.commitments, "asked", asked)
        route.owe(COUNT)
        route.run()
        assert seen == [1]
        assert route.states() == ["sent"] * COUNT


def test_report_after_a_restart_of_the_agent_proves(tmp_path: Path) -> None:
    with committing(tmp_path, reporting=Reporting.WHEN_TOLD) as route:
        route.owe(COUNT)
        route.run()
        route.restart()
        route.run(seconds=20)
        assert route.states() == ["sent"] * COUNT
        assert len(route.requested) == 1, "asked again though a report is awaited"
        route.report(0)
        route.reported(1)
        assert route.states() == ["proven"] * COUNT
        assert route.proofs() == ["commitment"] * COUNT
        assert dump(route.ledger)["commitments"] == dump(route.ledger)["commitment_members"] == []


def test_report_that_comes_twice_counts_once(tmp_path: Path) -> None:
    with committing(tmp_path, reporting=Reporting.TWICE) as route:
        route.owe(COUNT)
        route.run()
        route.reported(2)
        route.report(0)
        route.reported(3)
        assert route.proofs() == ["commitment"] * COUNT


def test_instances_that_a_report_denies_are_owed_again_with_its_reason(tmp_path: Path) -> None:
    with committing(tmp_path, reporting=Reporting.WHEN_TOLD) as route:
        first, second, third = route.owe(COUNT)
        route.run()
        route.archive.record.lose(second)
        route.report(0)
        route.archive.record.wait_for(Moment.REPORTED)
        route.run(seconds=5)
        assert route.states() == ["proven", "owed", "proven"]
        assert "no such object instance (0x0112)" in route.obligations()[1].reason
        route.archive.script = Script(reporting=Reporting.OTHER_ASSOCIATION)
        route.run(seconds=10)
        route.reported(2)
        assert route.states() == ["proven"] * COUNT
        assert route.deliveries() == {first: 1, second: 2, third: 1}
        assert [[uid for _, uid in one.instances] for one in route.requested[1:]] == [[second]]


def test_instance_that_is_denied_again_and_again_waits_for_a_person(tmp_path: Path) -> None:
    with committing(tmp_path, reporting=Reporting.OTHER_ASSOCIATION) as route:
        first, second = route.owe(2)
        # It is listed, and not committed to: the stronger word counts.
        route.archive.script = Script(
            reporting=Reporting.OTHER_ASSOCIATION, uncommitted={second: 0x0110}, listing=Listing.EMPTY
        )
        route.run()
        for number in (1, 2, 3):
            route.reported(number)
            route.run(seconds=100)
        assert route.states() == ["proven", "refused"]
        assert route.deliveries() == {first: 1, second: 3}
        (letter,) = route.ledger.dead_letters.listed(Selection(ROUTE))
        assert letter.reason.startswith("unproven: acknowledged 3 times")
        assert "processing failure (0x0110)" in letter.reason


def test_sop_class_that_is_not_committed_to_is_proven_in_the_weaker_way(tmp_path: Path) -> None:
    with committing(tmp_path, reporting=Reporting.WHEN_TOLD) as route:
        first, second = route.owe(2)
        route.run()
        route.report(0, uncommitted={second: 0x0122})
        route.reported(1)
        route.run(seconds=20)
        assert route.states() == ["proven"] * 2
        assert route.proofs() == ["commitment", "inventory"]
        assert first != second


@pytest.mark.parametrize("listing", [Listing.EMPTY, Listing.ABORTED], ids=lambda listing: listing.name)
def test_report_on_a_part_over_the_same_association_proves_that_part(
    tmp_path: Path, listing: Listing
) -> None:
    with committing(tmp_path, LINGERING) as route:
        _, second = route.owe(2)
        route.archive.script = Script(unmentioned=frozenset({second}), listing=listing)
        route.run(seconds=20)
        assert route.states() == ["proven", "sent"]


@pytest.mark.parametrize("listing", [Listing.EMPTY, Listing.ABORTED], ids=lambda listing: listing.name)
def test_instance_that_a_report_leaves_out_is_not_proven_by_it(tmp_path: Path, listing: Listing) -> None:
    with committing(tmp_path, reporting=Reporting.WHEN_TOLD, listing=listing) as route:
        _, second = route.owe(2)
        route.run()
        route.report(0, unmentioned=frozenset({second}))
        route.reported(1)
        assert route.states() == ["proven", "sent"]


def test_silence_is_no_proof_and_the_weaker_one_is_asked_for(tmp_path: Path) -> None:
    with committing(tmp_path, reporting=Reporting.NEVER) as route:
        route.owe(COUNT)
        route.run()
        asked = route.archive.record.times(Moment.ASKED)
        route.run(seconds=REPORT_PATIENCE - 10)
        assert route.states() == ["sent"] * COUNT
        assert route.archive.record.times(Moment.ASKED) == asked
        route.run(seconds=60)
        assert route.states() == ["proven"] * COUNT
        assert route.proofs() == ["inventory"] * COUNT
        assert "no report within 300 s" in route.holder.proof.because


def test_silence_about_what_is_not_listed_either_proves_nothing(tmp_path: Path) -> None:
    with committing(tmp_path, reporting=Reporting.NEVER, act=Answer(kept=Kept.NOT)) as route:
        route.owe(1)
        route.run(seconds=2 * 3600, step=60)
        assert route.states() == ["refused"]
        assert route.proofs() == []
        assert set(route.deliveries().values()) == {3}


def test_late_report_adds_its_proof_to_the_weaker_one(tmp_path: Path) -> None:
    with committing(tmp_path, reporting=Reporting.WHEN_TOLD) as route:
        route.owe(COUNT)
        route.run(seconds=REPORT_PATIENCE + 60)
        assert route.proofs() == ["inventory"] * COUNT
        route.report(0)
        route.archive.record.wait_for(Moment.REPORTED)
        route.run(seconds=300)
        assert route.states() == ["proven"] * COUNT
        assert sorted(route.proofs()) == ["commitment"] * COUNT + ["inventory"] * COUNT


def test_late_denial_outweighs_the_weaker_proof(tmp_path: Path) -> None:
    with committing(tmp_path, reporting=Reporting.WHEN_TOLD) as route:
        first, second = route.owe(2)
        route.run(seconds=REPORT_PATIENCE + 60)
        assert route.states() == ["proven"] * 2
        route.archive.record.lose(second)
        route.report(0)
        route.archive.record.wait_for(Moment.REPORTED)
        route.archive.script = Script(reporting=Reporting.OTHER_ASSOCIATION)
        route.run(seconds=300)
        route.reported(2)
        assert route.states() == ["proven"] * 2
        assert route.deliveries() == {first: 1, second: 2}


def test_report_on_an_earlier_delivery_says_nothing_of_the_next(tmp_path: Path) -> None:
    with committing(tmp_path, reporting=Reporting.WHEN_TOLD, act=Answer(kept=Kept.NOT)) as route:
        (uid,) = route.owe(1)
        # Neither reported on nor listed: owed again, and sent.
        route.run(seconds=REPORT_PATIENCE - 10)
        route.archive.script = Script(reporting=Reporting.WHEN_TOLD)
        route.run(seconds=100)
        assert route.deliveries() == {uid: 2}
        route.report(0, uncommitted={uid: 0x0112})
        route.reported(1)
        assert route.states() == ["sent"]
        route.report(1)
        route.reported(2)
        assert route.states() == ["proven"]
        assert route.proofs() == ["commitment"]


def test_reports_that_orthanc_forgot_prove_nothing(tmp_path: Path) -> None:
    with committing(tmp_path, reporting=Reporting.WHEN_TOLD) as route:
        route.owe(COUNT)
        route.run()
        route.report(0)
        route._listener.forget()
        route.run(seconds=60)
        assert route.states() == ["sent"] * COUNT
        route.run(seconds=REPORT_PATIENCE)
        assert route.proofs() == ["inventory"] * COUNT


@pytest.mark.parametrize("status", [0x0110, 0x0122, 0x0213])
def test_request_that_is_refused_is_proven_in_the_weaker_way_at_once(tmp_path: Path, status: int) -> None:
    with committing(tmp_path, commitment_status=status) as route:
        route.owe(COUNT)
        route.run()
        assert route.proofs() == ["inventory"] * COUNT
        assert f"0x{status:04X}" in route.holder.proof.because
        assert dump(route.ledger)["commitments"] == []


# The choice


def broken_off(event: evt.Event, _: Script) -> int:
    """Abort the association in place of an answer to the request."""
    event.assoc.abort()
    return 0x0000


def test_peer_is_tried_beside_its_inventory_and_relied_on_after_its_first_report(tmp_path: Path) -> None:
    with committing(tmp_path, AUTO, reporting=Reporting.OTHER_ASSOCIATION) as route:
        assert route.holder.proof.kind.value == "inventory"
        route.owe(COUNT)
        route.run()
        route.reported(1)
        # What was listed is proven at once; what is reported too has both proofs.
        assert sorted(route.proofs()) == ["commitment"] * COUNT + ["inventory"] * COUNT
        assert route.holder.proof.kind.value == "commitment"
        route.owe(2)
        route.run()
        route.reported(2)
        assert route.states() == ["proven"] * 2
        assert route.proofs()[-2:] == ["commitment"] * 2


def test_peer_that_never_reports_is_left_to_its_inventory_and_tried_again_later(tmp_path: Path) -> None:
    with committing(tmp_path, AUTO, reporting=Reporting.NEVER) as route:
        route.owe(COUNT)
        route.run()
        assert route.states() == ["proven"] * COUNT
        route.run(seconds=REPORT_PATIENCE + 60)
        assert (route.holder.proof.kind.value, route.holder.proof.because) == (
            "inventory",
            "no report within 300 s",
        )
        route.owe(1)
        route.run()
        assert len(route.requested) == 1
        route.run(seconds=AUTO.try_again, step=600)
        route.owe(2)
        route.run()
        assert len(route.requested) == 2


def test_peer_that_stops_to_report_is_relied_on_no_longer(tmp_path: Path) -> None:
    with committing(tmp_path, AUTO, reporting=Reporting.OTHER_ASSOCIATION) as route:
        route.owe(1)
        route.run()
        route.reported(1)
        route.archive.script = Script(reporting=Reporting.NEVER)
        route.owe(2)
        route.run(seconds=REPORT_PATIENCE + 60)
        assert route.states() == ["proven"] * 2
        assert route.holder.proof.kind.value == "inventory"


def test_peer_that_has_reported_and_breaks_off_once_is_relied_on_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with committing(tmp_path, AUTO, reporting=Reporting.OTHER_ASSOCIATION) as route:
        route.owe(1)
        route.run()
        route.reported(1)
        with monkeypatch.context() as patched:
            patched.setattr(route.peer.commitments, "asked", broken_off)
            route.owe(2)
            route.run()
        assert route.holder.proof.kind.value == "commitment"
        assert route.states() == ["sent"] * 2
        route.run(seconds=REPORT_PATIENCE + 60)
        assert route.states() == ["proven"] * 2


def test_peer_that_commits_to_nothing_when_tried_makes_nothing_owed(tmp_path: Path) -> None:
    with committing(tmp_path, AUTO, reporting=Reporting.WHEN_TOLD) as route:
        uids = route.owe(COUNT)
        route.run()
        route.report(0, uncommitted=dict.fromkeys(uids, 0x0110))
        route.reported(1)
        assert route.states() == ["proven"] * COUNT
        assert "commits to nothing: processing failure" in route.holder.proof.because


def test_peer_that_breaks_off_at_the_request_is_left_to_its_inventory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with committing(tmp_path, AUTO) as route:
        monkeypatch.setattr(route.peer.commitments, "asked", broken_off)
        route.owe(COUNT)
        route.run()
        assert route.states() == ["proven"] * COUNT
        assert route.proofs() == ["inventory"] * COUNT
        assert "no answer to a request for storage commitment" in route.holder.proof.because


def test_requests_are_of_bounded_size(tmp_path: Path) -> None:
    with committing(tmp_path, LINGERING) as route:
        route.owe(230, size=2)
        route.run()
        assert [len(one.instances) for one in route.requested] == [200, 30]
        assert route.states() == ["proven"] * 230
