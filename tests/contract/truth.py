"""A standby with all parts that judge its primary, beside a primary of another make.

The primary is a real DICOM peer, and so is our storage SCP. The feed of Orthanc, the clock and the loops are
turned by hand.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from socketserver import BaseServer
from typing import Any, Protocol, cast

from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer
from understudy.config import parse
from understudy.core.errors import PreconditionError
from understudy.core.model import NewInstance, SeriesInstanceUid, SopInstanceUid, StudyInstanceUid
from understudy.core.readiness import unready
from understudy.core.rules import Rules
from understudy.core.views import DiskView, FilesView, Status
from understudy.engine.workers import Workers
from understudy.flow.appliance import Appliance
from understudy.flow.intake import IntakeWatch
from understudy.flow.note import Noter
from understudy.flow.reception import ReceptionWatch
from understudy.wiring.base import PRIMARY, Base, Places, open_base
from understudy.wiring.primary import wire_primary

from tests.peer.pacs import Kept
from tests.unit.fakes import Clock, FakeFeed, router_of

SECONDS_OF_A_PROBE = 10
LOOK = 300
"""Seconds between two comparisons."""
TIMEOUT = 30.0
"""Seconds of the network's patience, on a busy machine."""


class Primary(Protocol):
    """What a primary has kept, where it listens, and where it sends to."""

    @property
    def ae_title(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def kept(self) -> list[Kept]: ...

    destination: tuple[str, int]


class Steps(Workers):
    """Keeps the steps of the loops, to be turned by hand."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, lambda: 1.0)
        self._clock: Clock = clock
        self.by_name: dict[str, Callable[[], bool]] = {}

    def add(self, name: str, step: Callable[[], bool], interval: float) -> None:
        self.by_name[name] = step

    def wait(self, seconds: float) -> bool:
        self._clock.advance(seconds)
        return super().wait(0.01)


class Receiver:
    """Our storage SCP: what comes is in the feed, as it would be in Orthanc's."""

    def __init__(self, feed: FakeFeed, clock: Clock) -> None:
        self._feed, self._clock = feed, clock
        self.during_a_store: Callable[[], None] = lambda: None
        """Called while an image is on its way."""
        entity = AE(ae_title="UNDERSTUDY")
        entity.add_supported_context(CTImageStorage, ExplicitVRLittleEndian)
        handlers: list[Any] = [(evt.EVT_C_STORE, self._on_store)]
        self._server: Any = entity.make_server(
            ("127.0.0.1", 0), evt_handlers=handlers, server_class=ThreadedAssociationServer
        )
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        BaseServer.shutdown(self._server)
        self._server.server_close()
        self._thread.join()

    def _on_store(self, event: evt.Event) -> int:
        self.during_a_store()
        found = event.dataset
        name = f"{found.SeriesInstanceUID}/{found.SOPInstanceUID}"
        calling = event.assoc.requestor.ae_title
        self.receive(found.StudyInstanceUID, found.SeriesInstanceUID, found.SOPInstanceUID, name, calling)
        return 0x0000

    def receive(self, study: str, series: str, uid: str, name: str, calling: str = "PACS") -> None:
        """Keep an image of the primary, as Orthanc does: once."""
        if name in {one.orthanc_id for one in self._feed.stored}:
            return
        self._feed.store(
            NewInstance(
                orthanc_id=name,
                attachment_uuid=name,
                sop_instance_uid=SopInstanceUid(uid),
                sop_class_uid=CTImageStorage,
                series_instance_uid=SeriesInstanceUid(series),
                study_instance_uid=StudyInstanceUid(study),
                transfer_syntax_uid=ExplicitVRLittleEndian,
                modality="CT",
                size=1000,
                md5=hashlib.md5(name.encode(), usedforsecurity=False).hexdigest(),
                calling_ae_title=calling,
                called_ae_title="UNDERSTUDY",
                remote_address="127.0.0.1",
                received_at=self._clock.now(),
            )
        )


class _Nothing:
    """Volumes and stored files that are in order, and an Orthanc that takes images."""

    def view(self) -> DiskView:
        return DiskView()

    def files(self) -> FilesView:
        return FilesView()

    def alarms(self, _view: object = None) -> list[Any]:
        return []

    def refuses_stores(self) -> bool:
        return False


class Standby:
    """The parts, joined by the product's own wiring."""

    def __init__(self, base: Base, pacs: Primary, clock: Clock, steps: Steps) -> None:
        self.pacs, self.clock, self.ledger = pacs, clock, base.ledger
        self.feed = FakeFeed()
        self.receiver = Receiver(self.feed, clock)
        pacs.destination = ("127.0.0.1", self.receiver.port)
        router = router_of(Rules(PRIMARY, frozenset({"PACS"}), []), base.ledger)
        noter = Noter(self.feed, base.ledger, router, clock, primary_grace=60)
        target = base.configuration.primary
        assert target is not None
        _, parts = wire_primary(base, target, noter)
        self.parts = parts
        self.probe, self.mirror = steps.by_name["probe"], steps.by_name["mirror"]
        nothing, unused = cast(Any, _Nothing()), cast(Any, None)
        self._since: dict[Kept, float] = {}
        """When each image of the primary was first there."""
        self.appliance = Appliance(
            configuration=base.configuration,
            ledger=base.ledger,
            clock=clock,
            lanes=[],
            primary=parts,
            verifier=unused,
            router=router,
            devices=unused,
            letters=unused,
            reception=ReceptionWatch(list, Clock(), frozenset, str),
            healer=unused,
            scrubber=unused,
            deleter=unused,
            suspects=unused,
            memory=base.memory,
            recipients={},
            recovery=nothing,
            disk=nothing,
            intake=IntakeWatch(nothing, lambda: False, clock),
            reports=base.reports,
            faults=lambda: [*steps.alarms(), *parts.mirror.alarms()],
            upkeep=list,
            conflicts=unused,
            look_for_new=lambda: None,
            wake_all=lambda: None,
        )

    def close(self) -> None:
        self.receiver.close()

    def works(self, seconds: float = SECONDS_OF_A_PROBE) -> None:
        """Turn the loops for a while: the probe every 10 s, the mirror as often as it is due.

        After each turn nothing that was at the primary at the horizon may be missing here.
        """
        for _ in range(max(1, int(seconds // SECONDS_OF_A_PROBE))):
            for image in self.pacs.kept:
                self._since.setdefault(image, self.clock.now())
            self.probe()
            self.mirror()
            horizon = self.parts.mirror.horizon
            assert horizon is None or not [
                image for image in self._absent() if self._since.get(image, horizon) < horizon
            ]
            self.clock.advance(SECONDS_OF_A_PROBE)

    def _absent(self) -> set[Kept]:
        return {one for one in self.pacs.kept if (one.series, one.sop_instance_uid) not in self.here}

    @property
    def here(self) -> set[tuple[str, str]]:
        """Series and SOP Instance UID of what has arrived."""
        return {(one.series_instance_uid, one.sop_instance_uid) for one in self.feed.stored}

    @property
    def missing(self) -> int:
        """How many images of the primary are not here, in truth."""
        return len(self._absent())

    def status(self) -> Status:
        return self.appliance.status()

    def alarms(self) -> list[str]:
        return [alarm.what for alarm in self.status().alarms]

    def health(self, max_lag: float = 900.0) -> list[str]:
        """Return why GET /health?max_lag= answers 503, nothing where it answers 200."""
        status = self.status()
        return unready(
            mode=status.mode,
            loss_seconds=status.loss_seconds,
            intake_refused=status.intake_refused,
            max_lag=max_lag,
        )

    def says_complete(self) -> bool:
        """Say whether the standby claims that nothing of the primary was missing at its last look."""
        lag = self.status().lag_seconds
        return lag is not None and lag <= LOOK + 60 and not self.status().gaps.instances

    def promote(self) -> list[str]:
        """Promote without force and without accepting a loss; return what that is refused for, if it is."""
        try:
            self.appliance.promote("ann", reason="a test", force=False, accept_loss=False, epoch=0)
        except PreconditionError as error:
            return list(error.details)
        return []


@contextmanager
def standing_by(folder: Path, pacs: Primary) -> Iterator[Standby]:
    """Give a standby of this primary, on a ledger of its own."""
    (folder / "service").mkdir()
    (folder / "service" / "agent").write_text("secret")
    places = Places(state=folder, keys=folder, storage=folder, socket=folder / "agent.sock")
    configuration = parse(
        {
            "Primary": {"AeTitle": pacs.ae_title, "Host": "127.0.0.1", "Port": pacs.port},
            "Policy": {"NetworkTimeout": TIMEOUT, "PrimaryGrace": 10},
        }
    )
    clock = Clock()
    base = open_base(configuration, places)
    steps = Steps(clock)
    standby = Standby(replace(base, clock=clock, workers=steps), pacs, clock, steps)
    try:
        yield standby
    finally:
        standby.close()
        base.ledger.close()
        base.orthanc.close()
