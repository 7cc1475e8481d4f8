"""Every worker of the agent goes on, neither late nor early, however the machine's clock is set.

The appliance is the real one, as `wire` makes it; simulated are the clock and the parties outside. A worker
that `wire` adds has to be named here with what it does, or the test fails.
"""

import random
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from understudy.adapters.boot import BootReport, write_report
from understudy.adapters.directory import DirectoryStore
from understudy.adapters.edge import EdgeLink
from understudy.adapters.encryption import new_key_pair
from understudy.adapters.storage import StorageArea
from understudy.adapters.versions import KeptVersions
from understudy.adapters.writer import make_writer
from understudy.config import parse
from understudy.core.model import Instance, InstanceNumber, Timestamp
from understudy.core.views import PrimaryCondition
from understudy.engine.board import Watch
from understudy.flow.capabilities import CapabilityProbe
from understudy.flow.failback import Failback
from understudy.flow.heal import Healer
from understudy.flow.mirror import Mirror
from understudy.flow.names import HostNames
from understudy.flow.verify import Verifier
from understudy.ledger import IntakeBook, Ledger
from understudy.plugin.volumes import Volume
from understudy.wiring import wire
from understudy.wiring.base import Places

from tests.simulation import orthanc, pacs, store
from tests.simulation.contents import file_of, new_instance, study_of, uid_of
from tests.simulation.machine import Machine

HOUR, DAY = 3600.0, 86_400.0
MONTH = 30 * DAY
BEGAN = 1_700_000_000.0
POLICY = {"BallastBytes": 0}


class Orthanc(orthanc.Orthanc):
    """The simulated Orthanc, which also keeps its files in a folder."""

    folder: Path

    def take(self, number: int, sender: str) -> str:
        """Take an image and return its own identifier."""
        study, uid, content = study_of(number), uid_of(number), f"{number}.1"
        name = str(uuid.UUID(int=number))
        one = new_instance(study, uid, content, sender, self.machine.now(), name)
        path = self.folder / name[0:2] / name[2:4] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file_of(study, content))
        self.here[one.orthanc_id] = one
        self._last += 1
        self._changes.append((self._last, one.orthanc_id))
        return one.orthanc_id

    def file_of(self, orthanc_id: str) -> str | None:
        return self.here[orthanc_id].attachment_uuid

    def refuses_stores(self) -> bool:
        return False

    def close(self) -> None:
        """Do nothing."""


class Store(store.Store):
    """The simulated store, which tells its locks."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)
        self.locks: dict[str, Timestamp | None] = {}

    def put_file(self, key: str, file: Any, digests: Any, retain_until: Timestamp | None) -> Any:
        self.locks[key] = retain_until
        return super().put_file(key, file, digests, retain_until)

    def locked_until(self, key: str, version: str) -> Timestamp | None:
        return self.locks[key]


class NoSource:
    """A party that gives nothing back."""

    name = ae_title = "PACS"

    def fetch(self, instance: Instance) -> bytes | None:
        return None


class NoReports:
    """The edge reports no failed handshake."""

    def read(self, most: int) -> Sequence[Any]:
        return ()


class Site:
    """One appliance with what surrounds it; `turn` lets one of its workers step."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.machine = Machine(BEGAN)
        self.folder = folder
        self.now = ""
        """The worker whose turn it is."""
        self.acts: Counter[tuple[str, str]] = Counter()
        """What each worker did."""
        for name in ("state", "keys", "storage", "index", "host", "edge", "vault", "keys/service"):
            (folder / name).mkdir()
        (folder / "keys" / "service" / "agent").write_text("secret")
        make_writer(folder / "keys", folder / "state")
        recipients = [new_key_pair().recipient]
        parties = [("Primary", "primary", "PACS"), ("Destinations", "archive", "ARCHIVE")]
        self.configuration = parse(
            {
                "Policy": POLICY,
                "Primary": {"AeTitle": "PACS", "Host": "192.0.2.10", "Associations": 1},
                "Destinations": [
                    {"Name": "archive", "AeTitle": "ARCHIVE", "Host": "192.0.2.20", "Associations": 1}
                ],
                "Routes": [{"Name": "all", "To": ["archive"]}],
                "Modalities": [{"Name": "ct", "AeTitle": "CT1", "Host": "ct.example.org"}],
                "Vaults": [
                    {"Name": "nas", "Directory": str(folder / "vault"), "Recipients": recipients},
                    {
                        "Name": "cloud",
                        "Endpoint": "https://s3.example.org",
                        "Bucket": "vault",
                        "CredentialsFile": "s3.json",
                        "RetentionDays": 365,
                        "Recipients": recipients,
                    },
                ],
            }
        )
        self.orthanc = Orthanc(self.machine)
        self.orthanc.folder = folder / "storage"
        write_report(folder / "storage", BootReport(BEGAN, True, ""))
        self.cloud = Store(self.machine)
        chance = random.Random(1)
        self.parties = {
            name: pacs.Pacs(name, ae_title, self.machine, chance) for _, name, ae_title in parties
        }
        self.images = 0
        self._patch(patch)
        self.start()

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        site = self

        class Peer(pacs.Pacs):
            """The client of a simulated party, which shares its state."""

            def __init__(self, name: str, **_: object) -> None:
                self.__dict__ = vars(site.parties[name])

        patch.setattr("understudy.wiring.base.Orthanc", lambda *_, **__: self.orthanc)
        patch.setattr("understudy.wiring.delivery.DicomPeer", Peer)
        patch.setattr("understudy.wiring.delivery.GetSource", lambda *_, **__: NoSource())
        patch.setattr("understudy.wiring.delivery.S3Store", lambda *_, **__: self.cloud)
        patch.setattr("understudy.wiring.gate.HandshakeReports", lambda _: NoReports())
        patch.setattr("understudy.wiring.gate.addresses_of_name", lambda _: ["192.0.2.30/32"])
        patch.setattr(EdgeLink, "publish", lambda *_: None)
        patch.setattr(EdgeLink, "counted", lambda *_: (0, ()))
        patch.setattr(EdgeLink, "wrong_passwords", lambda *_: {})
        for owner, name in {walk.act for walk in WALKS}:
            patch.setattr(owner, name, self._noting(name, getattr(owner, name)))

    def _noting(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*arguments: Any, **named: Any) -> Any:
            self.acts[self.now, name] += 1
            return real(*arguments, **named)

        return act

    def start(self) -> None:
        """Start the agent, which reads the clock as it is set now."""
        folder = self.folder
        places = Places(
            configuration=folder / "configuration",
            state=folder / "state",
            keys=folder / "keys",
            storage=folder / "storage",
            index=folder / "index",
            socket=folder / "agent.sock",
            host=folder / "host",
            edge=folder / "edge",
        )
        self.appliance, self.workers = wire(self.configuration, places, clock=self.machine.clock())
        self.ledger = self.appliance.ledger

    def restart(self) -> None:
        """Let the agent end and start again."""
        self.ledger.close()
        self.start()

    def take(self, sender: str = "CT1") -> str:
        """Let an image arrive here, and be noted."""
        self.images += 1
        orthanc_id = self.orthanc.take(self.images, sender)
        self.turn("note")
        return orthanc_id

    def turn(self, name: str) -> None:
        """Let the workers of this name step until they pause."""
        self.now = name
        for loop in self.workers._loops:
            if loop.name == name:
                for _ in range(50):
                    if loop._once():
                        break
                assert loop.alarm is None or f"in {name}" not in loop.alarm.what, loop.alarm
        self.now = ""

    def recover(self) -> None:
        """Let the parties be well, and time pass until everything is delivered."""
        for party in self.parties.values():
            party.ways = pacs.Ways()
        for _ in range(3):
            self.machine.wait(301)
            for walk in WALKS:
                self.turn(walk.worker)

    def does(self, walk: "Walk") -> bool:
        """Let the worker of a walk step, and say whether it does what it is for."""
        before = self.acts[walk.worker, walk.act[1]]
        self.turn(walk.worker)
        return self.acts[walk.worker, walk.act[1]] > before

    def walk(self, walk: "Walk") -> bool:
        """Give the worker of a walk something to do, let its period pass, and say whether it does it."""
        walk.prompt(self)
        self.machine.wait(walk.period)
        return self.does(walk)


@dataclass(frozen=True, slots=True)
class Walk:
    """What a worker does, within how many seconds, and what gives it something to do."""

    worker: str
    act: tuple[type, str]
    period: float = 1.0
    prompt: Callable[[Site], object] = lambda _site: None
    rests: bool = False
    """Whether it does nothing more until its period has passed."""


def _damage(site: Site) -> None:
    """Lose a stored file; nobody can give it back, so it is tried again and again."""
    if not site.ledger.files.damages(limit=1):
        (instance,) = site.ledger.instances.after(InstanceNumber(0), 1)
        StorageArea(site.folder / "storage").path(instance).unlink()
        now = site.machine.now()
        site.ledger.files.damaged(instance, found_by="scrub", reason="its stored file is gone", now=now)


def _rescan(site: Site) -> None:
    now = site.machine.now()
    site.ledger.intake.begin_rescan("it has another name", cursor=site.orthanc._last, now=now)


def _owe(site: Site) -> None:
    """Owe an image to each holder."""
    site.take()


def _owe_in_vain(site: Site) -> None:
    """Owe an image to parties that have no room, so that it is tried again and again."""
    for party in site.parties.values():
        if not party.ways.short_of_room:
            party.ways.short_of_room = 1.0
            site.take()


def _failback(site: Site) -> None:
    """Be on the way back from an outage; an image that the primary does not send keeps it from its end."""
    site.parties["primary"].keep(study_of(900), uid_of(900), "900.1")
    site.parties["primary"].ways.moves = False
    mode = site.ledger.modes.current()
    if mode.mode.value == "standby":
        taken = site.appliance.promote("ann", reason="a test", force=True, accept_loss=True, epoch=mode.epoch)
        site.appliance.failback("ann", epoch=taken.epoch)


WALKS = (
    Walk("note", (Orthanc, "changes")),
    Walk("reconcile", (Orthanc, "identifiers")),
    Walk("rescan", (Orthanc, "describe"), prompt=_rescan),
    Walk("conflicts", (KeptVersions, "names")),
    Walk("probe", (pacs.Pacs, "echo"), 10.0),
    Walk("mirror", (Mirror, "step"), 300.0, rests=True),
    Walk("plan", (Failback, "plan"), prompt=lambda site: site.appliance.plan("ann")),
    Walk("capabilities", (CapabilityProbe, "_answer"), prompt=lambda site: site.appliance.probe("ann")),
    Walk("gate", (EdgeLink, "counted")),
    Walk("names", (HostNames, "step")),
    Walk("logins", (EdgeLink, "wrong_passwords")),
    Walk("reception", (Watch, "step")),
    Walk("lane-primary", (pacs.Pacs, "storing"), 301.0, _owe_in_vain),
    Walk("lane-archive", (pacs.Pacs, "storing"), 301.0, _owe_in_vain),
    Walk("lane-nas", (DirectoryStore, "put_file"), 5.0, _owe),
    Walk("lane-cloud", (Store, "put_file"), 5.0, _owe),
    Walk("lock-cloud", (Store, "locked_until"), DAY, rests=True),
    Walk("verify", (Verifier, "_ask"), prompt=lambda site: site.appliance.verify("ann")),
    Walk("backup", (Ledger, "back_up"), DAY, rests=True),
    Walk("delete", (Orthanc, "held")),
    Walk("scrub", (StorageArea, "damage"), 7 * DAY, rests=True),
    Walk("heal", (Healer, "_replace"), DAY, _damage),
    Walk("recover", (Watch, "step")),
    Walk("host-takeover", (Watch, "step")),
    Walk("host", (Watch, "step")),
    Walk("recipients", (Watch, "step")),
    Walk("configuration", (Watch, "step")),
    Walk("volume-storage", (Watch, "step")),
    Walk("volume-index", (Watch, "step")),
    Walk("volume-state", (Watch, "step")),
    Walk("volume-vault nas", (Watch, "step")),
    Walk("intake", (Watch, "step")),
    Walk("intake", (Orthanc, "refuses_stores")),
    Walk("ballast", (Volume, "look")),
    Walk("forecast", (IntakeBook, "bytes_by_day"), HOUR, rests=True),
    Walk("pulse", (Watch, "step")),
)
FAILBACK = Walk("failback", (Mirror, "step"), 31.0, _failback, rests=True)
"""Apart from the others: it needs another mode."""


@pytest.mark.parametrize("restarts", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("step", [-MONTH, MONTH], ids=["back", "forward"])
def test_every_worker_goes_on_however_the_clock_is_set(
    step: float, restarts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, monkeypatch)
    walked = sorted(walk.worker for walk in (*WALKS, FAILBACK))
    assert walked == sorted(loop.name for loop in site.workers._loops), "each worker has its walk"
    site.take()
    site.recover()
    _steps(site, WALKS, step, restarts=restarts)
    site.recover()
    # The file that nobody gives back.
    assert [alarm.what.partition(" ")[2] for alarm in site.appliance.status().alarms] == [
        "stored file is missing or changed and not healed yet"
    ]
    _steps(site, [FAILBACK], -step, restarts=restarts)


def _steps(site: Site, walks: Sequence[Walk], step: float, *, restarts: bool) -> None:
    """Set the clock, and check what the workers of these walks do before and after."""
    assert [walk.worker for walk in walks if not site.walk(walk)] == [], "before the step"
    for walk in walks:
        site.turn(walk.worker)
    site.machine.step_clock(step)
    if restarts:
        site.restart()
    else:
        assert [walk.worker for walk in walks if walk.rests and site.does(walk)] == [], "nothing is early"
    assert [walk.worker for walk in walks if not site.walk(walk)] == [], "after the step"


@pytest.mark.parametrize("down_first", [True, False], ids=["down before", "down after"])
@pytest.mark.parametrize("step", [-MONTH, MONTH], ids=["back", "forward"])
def test_loss_of_a_primary_that_is_down_is_never_below_the_truth_however_the_clock_is_set(
    step: float, down_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, monkeypatch)
    for name in ("probe", "mirror"):
        site.turn(name)
    if not down_first:
        site.machine.step_clock(step)
    site.parties["primary"].ways.silent = True
    # The first one is excused by the questions of the mirror.
    for _ in range(4):
        site.machine.wait(10)
        site.turn("probe")
    if down_first:
        site.machine.step_clock(step)
    site.machine.wait(HOUR)
    status = site.appliance.status()
    assert status.primary is not None
    assert status.primary.condition is PrimaryCondition.DOWN
    # A step forward may be time for which the machine stood still.
    stood = max(step, 0.0)
    loss = 40 if down_first else 40 + stood
    assert (status.lag_seconds, status.loss_seconds) == (HOUR + 40 + stood, loss)


@pytest.mark.parametrize("step", [-MONTH, MONTH], ids=["back", "forward"])
def test_planned_work_that_nobody_ends_is_told_in_the_status_after_a_day(
    step: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, monkeypatch)

    def told() -> bool:
        return any("planned work" in alarm.what for alarm in site.appliance.status().alarms)

    site.appliance.hold("ann", reason="upgrade", epoch=0)
    site.machine.step_clock(step)
    site.machine.wait(DAY - 60)
    assert not told()
    site.machine.wait(120)
    assert told()
