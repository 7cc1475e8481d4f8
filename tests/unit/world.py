"""A whole way back in small: a primary that keeps sets, our feed and ledger, mirror, lane and failback."""

from hashlib import sha256
from pathlib import Path

from understudy.core.errors import PreconditionError
from understudy.core.model import SopInstanceUid, StudyInstanceUid
from understudy.core.modes import ModeEvent, delivers_to_primary
from understudy.core.ports import HolderUnavailableError
from understudy.core.report import Report
from understudy.core.rules import Rules
from understudy.core.views import OperationState
from understudy.flow.courier import Lane, LanePolicy
from understudy.flow.failback import Failback, FailbackPolicy
from understudy.flow.mirror import Mirror
from understudy.flow.note import Noter
from understudy.flow.probe import Prober
from understudy.flow.recheck import Recheck
from understudy.holders.readback import ContentCheck, ReadBack
from understudy.ledger import Ledger

from tests.unit.fakes import (
    NOW,
    PRIMARY,
    PRIMARY_AE,
    STUDY,
    Clock,
    FakeFeed,
    FakePeer,
    PeerHolder,
    new_instance,
    router_of,
)

QUIET = 300.0
LANE = LanePolicy(
    batch_instances=3,
    batch_bytes=10**9,
    linger=0,
    retry_base=1,
    retry_cap=10,
    proof_patience=20,
    record_every=1,
)


def uid(name: int) -> str:
    return f"1.2.3.4.{name}"


class World:
    """All parts on one clock; `work` turns the agent's loops by hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = Clock()
        self.feed = FakeFeed()
        self.peer = FakePeer(receive=self._receive)
        self.reports: dict[int, Report] = {}
        self.holder = PeerHolder(self.peer)
        self.start()

    def start(self) -> None:
        """Begin as the agent does, first or after its process ended."""
        self.ledger = Ledger(self.path)
        self.ledger.modes.start(self.clock.now())
        self.ledger.custody.release(now=self.clock.now())
        router = router_of(Rules(PRIMARY, frozenset({PRIMARY_AE}), []), self.ledger)
        self.noter = Noter(self.feed, self.ledger, router, self.clock, primary_grace=60)
        self.prober = Prober(self.peer, self.clock, failures_for_down=3)
        self.mirror = Mirror(
            self.peer, self.ledger, self.noter, self.clock, holder=PRIMARY, destination="STANDBY"
        )
        read_back = ReadBack(self.peer, lambda one: sha256(one.md5.encode()).hexdigest(), self.clock)
        contents = ContentCheck(read_back, lambda _numbers: set())
        self.recheck = Recheck(self.ledger, PRIMARY, contents, self.clock)
        self.failback = Failback(
            self.ledger,
            self.mirror,
            self.prober,
            self.recheck,
            self.clock,
            FailbackPolicy(QUIET, frozenset({PRIMARY_AE}), "clinic"),
            holder=PRIMARY,
            write_report=self._write_report,
        )
        self.lane = Lane(
            self.holder,
            self.ledger,
            self.clock,
            LANE,
            is_open=lambda: delivers_to_primary(self.ledger.modes.current().mode),
            fraction=lambda: 1.0,
        )

    def restart(self) -> None:
        self.ledger.close()
        self.start()

    def _receive(self, study: StudyInstanceUid, one: SopInstanceUid) -> None:
        """Take what the primary sends us: Orthanc makes a change of what is new to it alone."""
        name = int(one.rpartition(".")[2])
        if f"orthanc-{name}" not in {instance.orthanc_id for instance in self.feed.stored}:
            self.feed.store(new_instance(name, study=study, calling=PRIMARY_AE, received_at=self.clock.now()))

    def _write_report(self, operation: int, report: Report) -> str:
        self.reports[operation] = report
        return f"/understudy/reports/{operation}"

    # What happens in the clinic

    def forwarded(self, *names: int, study: str = STUDY) -> None:
        """The primary got these and forwarded them to us."""
        self.peer.keep(study, *(uid(name) for name in names))
        for name in names:
            self._receive(StudyInstanceUid(study), SopInstanceUid(uid(name)))

    def stored_here(self, *names: int, study: str = STUDY) -> None:
        """A modality stored these here alone."""
        self.feed.store(*(new_instance(name, study=study, received_at=self.clock.now()) for name in names))

    def outage(self) -> None:
        """The primary falls silent and we are promoted."""
        self.noter.catch_up()
        self.peer.silent = True
        self.ledger.modes.change(
            ModeEvent.PROMOTE, epoch=self.epoch, who="ann", fields={"reason": "down"}, now=self.clock.now()
        )

    def repaired(self) -> None:
        self.peer.silent = False

    @property
    def epoch(self) -> int:
        return self.ledger.modes.current().epoch

    def begin(self) -> None:
        self.failback.begin("ann", epoch=self.epoch)

    def work(self, seconds: float = 60.0) -> None:
        """Turn every loop for a while: again after a second, or after five where there was nothing to do."""
        while seconds > 0:
            self.noter.catch_up()
            worked = self.lane.step()
            try:
                worked = self.failback.step() or worked
            except HolderUnavailableError:
                self.prober.step()
            pause = min(1 if worked else 5, seconds)
            self.clock.advance(pause)
            seconds -= pause

    def settle(self, override_quiet: str | None = None) -> None:
        """Settle at once; what the operation fails of is raised as a caller would have heard it at once."""
        asked = self.failback.settle("ann", epoch=self.epoch, override_quiet=override_quiet)
        self.failback.step()
        ended = self.ledger.operations.get(asked.operation)
        if ended.state is OperationState.FAILED:
            raise PreconditionError(ended.message, "", ended.details)
        assert ended.state is OperationState.DONE, ended


__all__ = ["NOW", "QUIET", "World", "uid"]
