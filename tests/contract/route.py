"""One route with all its real parts, delivering to a peer: storage area, ledger file, transport and lane."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from understudy.adapters.dicom import DicomPeer
from understudy.adapters.dicomweb import DicomWebServer
from understudy.adapters.healing import GetSource
from understudy.adapters.storage import StorageArea
from understudy.core.model import Delivery, HolderKind, HolderName, Instance, InstanceNumber, Outcome
from understudy.core.obligations import Obligation
from understudy.core.ports import Holder, InstanceSource
from understudy.core.views import LaneState
from understudy.engine.beside import Beside
from understudy.flow.courier import Lane, LanePolicy
from understudy.holders.commitment import Commitment
from understudy.holders.destination import DicomDestination
from understudy.holders.readback import ReadBack
from understudy.ledger import CustodyBook, Ledger
from understudy.ledger.database import Database

from tests.peer.archive import Archive
from tests.peer.web import WebArchive
from tests.unit.fakes import NOW, ROUTE, Clock, note, unproven, work
from tests.vault_parts import Storage

POLICY = LanePolicy(
    batch_instances=500,
    batch_bytes=10**9,
    linger=0.0,
    retry_base=10.0,
    retry_cap=100.0,
    proof_patience=60.0,
    proof_interval=5.0,
)
PATIENCE = 120.0
"""Seconds that a transport waits where the peer answers: more than a busy machine needs."""
IMPATIENCE = 2.0
"""Seconds that it waits where the peer hangs: what these tests cost, and enough for the answers that come."""


def destination(
    archive: Archive | WebArchive,
    storage: Storage,
    clock: Clock,
    *,
    name: HolderName = ROUTE,
    timeout: float = PATIENCE,
    associations: int = 1,
    commitment: Callable[[DicomPeer], Commitment] | None = None,
    reads_back: bool = False,
    beside: Beside | None = None,
) -> DicomDestination:
    """Return the archive as a holder of what is stored."""
    peer: DicomPeer | DicomWebServer
    asks: Commitment | None = None
    if isinstance(archive, WebArchive):
        peer = DicomWebServer(name, archive.url, timeout=timeout)
    else:
        peer = DicomPeer(
            name,
            ae_title=archive.ae_title,
            host=archive.host,
            port=archive.port,
            calling_ae_title="STANDBY",
            timeout=timeout,
        )
        asks = None if commitment is None else commitment(peer)
    files = StorageArea(storage.root)
    return DicomDestination(
        HolderKind.ROUTE,
        peer,
        files,
        clock,
        associations=associations,
        commitment=asks,
        read_back=ReadBack(_source(peer, timeout), files.data_set_digest, clock) if reads_back else None,
        beside=beside,
    )


def _source(peer: DicomPeer | DicomWebServer, timeout: float) -> InstanceSource:
    if isinstance(peer, DicomWebServer):
        return peer
    return GetSource(
        peer.name,
        ae_title=peer.ae_title,
        host=peer.host,
        port=peer.port,
        calling_ae_title="STANDBY",
        timeout=timeout,
    )


def lane_to(holder: Holder, ledger: Ledger, clock: Clock, beside: Beside | None = None) -> Lane:
    """Return the lane to a holder, always open and without jitter."""
    return Lane(holder, ledger, clock, POLICY, is_open=lambda: True, fraction=lambda: 1.0, beside=beside)


class Witness(CustodyBook):
    """The book of custody itself, which also keeps what it was told of each instance."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.told: list[Delivery] = []

    def record(self, holder: HolderName, deliveries: Iterable[Delivery], **when: Any) -> None:
        told = list(deliveries)
        self.told += told
        super().record(holder, told, **when)


class Route:
    """A route that owes generated CT instances of one study; the clock is the only part that is not real."""

    def __init__(
        self, folder: Path, archive: Archive | WebArchive, *, timeout: float = PATIENCE, associations: int = 1
    ) -> None:
        (folder / "storage").mkdir()
        self.storage = Storage(folder / "storage")
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.ledger.custody = self.witness = Witness(self.ledger.database)
        self.ledger.modes.start(NOW)
        self.clock = Clock()
        self.archive = archive
        self._associations = associations
        self.instances: list[Instance] = []
        self.wait(timeout)

    def wait(self, timeout: float) -> None:
        """Wait so many seconds for the peer from now on."""
        holder = destination(
            self.archive, self.storage, self.clock, timeout=timeout, associations=self._associations
        )
        self.lane = lane_to(holder, self.ledger, self.clock)

    def owe(self, count: int, *, size: int = 32) -> list[str]:
        """Owe so many instances, of `size` rows and columns, and return their SOP Instance UIDs."""
        self.instances = self.storage.series(f"owed {count}", count, size=size)
        note(self.ledger, *self.instances)
        return [instance.sop_instance_uid for instance in self.instances]

    def run(self, *, seconds: float = 0.0, step: float = 5.0) -> None:
        """Work as the lane's loop does (`work`)."""
        work(self.lane, self.clock, seconds=seconds, step=step)

    # What the ledger holds

    def outcomes(self) -> dict[str, list[Outcome]]:
        """Return every outcome that was recorded, by SOP Instance UID in the order in which it was owed."""
        uids = {instance.number: instance.sop_instance_uid for instance in self.instances}
        found: dict[str, list[Outcome]] = {uid: [] for uid in uids.values()}
        for delivery in self.witness.told:
            found[uids[InstanceNumber(delivery.number)]].append(delivery.outcome)
        return found

    @property
    def outcomes_known(self) -> int:
        """How many outcomes were recorded."""
        return len(self.witness.told)

    def obligations(self) -> list[Obligation]:
        """Return what is owed, in the order in which the instances were."""
        views = {view.sop_instance_uid: view for view in self.ledger.obligations.listed(ROUTE, None, 1000)}
        return [views[instance.sop_instance_uid] for instance in self.instances]

    def states(self) -> list[str]:
        """Return the states, in the order in which the instances were owed."""
        return [view.state.value for view in self.obligations()]

    def reasons(self) -> set[str]:
        """Return every reason that the ledger gives."""
        return {view.reason for view in self.obligations()}

    @property
    def waits_because(self) -> str:
        """Why the lane waits."""
        view = self.lane.view
        assert view.state is LaneState.WAITING, view
        return view.reason

    # What the peer got

    def deliveries(self) -> dict[str, int]:
        """Return how often each instance came whole, in the order in which they were owed."""
        came = [arrival.sop_instance_uid for arrival in self.archive.record.arrivals]
        return {
            instance.sop_instance_uid: came.count(instance.sop_instance_uid) for instance in self.instances
        }

    def expect_custody(self) -> None:
        """Expect that the ledger is sound: no proof is missing, no event was changed."""
        assert unproven(self.ledger) == []
        assert self.ledger.events.broken() is None


@contextmanager
def serving(
    folder: Path, archive: Archive | WebArchive, *, timeout: float = PATIENCE, associations: int = 1
) -> Iterator[Route]:
    """Give a route to the archive, and look after it that its ledger is sound."""
    route = Route(folder, archive, timeout=timeout, associations=associations)
    try:
        yield route
        route.expect_custody()
    finally:
        route.ledger.close()
