"""The objects that all parts of the agent share: places, clock, ledger, stored files, Orthanc, workers."""

import random
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from understudy import config
from understudy.adapters import edge_config
from understudy.adapters.keys import share_of
from understudy.adapters.orthanc import Orthanc
from understudy.adapters.storage import StorageArea
from understudy.core.model import HolderName
from understudy.core.ports import Clock
from understudy.core.report import Report
from understudy.engine.memory import Memory
from understudy.engine.workers import Workers
from understudy.flow.suspects import Suspects
from understudy.ledger import Ledger
from understudy.plugin.memory import own_limit
from understudy.plugin.parking import boot_id
from understudy.system.files import write_durably
from understudy.web.report import render_report, report_json

PRIMARY = HolderName("primary")

STEP_INTERVAL = 0.5
"""Seconds between two steps of a lane or of an operation."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the agent finds its volumes and the other services; the defaults are those of the image."""

    configuration: Path = Path("/etc/understudy/config")
    state: Path = Path("/var/lib/understudy")
    keys: Path = Path("/var/lib/understudy-keys")
    storage: Path = Path("/var/lib/orthanc/storage")
    index: Path = Path("/var/lib/orthanc/index")
    """Only its free space is measured: Orthanc alone opens its files."""
    socket: Path = Path("/run/understudy/agent.sock")
    """The agent's own socket; each service has another one, see `socket_of`."""
    host: Path = Path("/run/understudy-host")
    """Where the host's programs write alarms; it exists on a host that Ansible set up."""
    orthanc: str = "http://orthanc:8042"
    edge: Path = edge_config.SHARED

    def socket_of(self, service: str) -> Path:
        """Return the agent's socket for this service, which no other service can reach."""
        return share_of(self.socket.parent, service) / self.socket.name


class SystemClock(Clock):
    """The time of the machine."""

    def __init__(self) -> None:
        super().__init__(time.time, time.monotonic, threading.Lock())


@dataclass(frozen=True, slots=True)
class Base:
    """The configuration and the objects that all parts share; made once, by `open_base`."""

    configuration: config.Understudy
    places: Places
    clock: Clock
    workers: Workers
    ledger: Ledger
    files: StorageArea
    orthanc: Orthanc
    reports: Path
    memory: Memory
    suspects: Suspects

    @property
    def policy(self) -> config.Policy:
        """Limits and intervals."""
        return self.configuration.policy

    def local(self) -> datetime:
        """Return the time now in the site's time zone."""
        return datetime.fromtimestamp(self.clock.now(), ZoneInfo(self.configuration.time_zone))

    def write_report(self, operation: int, report: Report) -> str:
        """Write the report of an operation to disk and return the path under which it is served."""
        write_durably(self.reports / f"{operation}.json", report_json(report))
        write_durably(self.reports / f"{operation}.html", render_report(report).encode())
        return f"/understudy/reports/{operation}"


def open_base(configuration: config.Understudy, places: Places, clock: Clock | None = None) -> Base:
    """Open the ledger, release the claims of the last run, and return the objects that all parts share.

    Raises DamagedLedgerError, LedgerVersionError or MigrationError, each with a hint.
    """
    clock = clock or SystemClock()
    ledger = Ledger(places.state / "ledger.sqlite", places.keys / "ledger.anchor")
    ledger.modes.start(clock.now())
    suspects = Suspects(ledger, clock.now(), boot=boot_id())
    ledger.custody.release(now=clock.now())
    secret = (places.keys / "service" / "agent").read_text(encoding="ascii").strip()
    reports = places.state / "reports"
    reports.mkdir(mode=0o750, exist_ok=True)
    return Base(
        configuration,
        places,
        clock,
        Workers(clock, random.random),
        ledger,
        StorageArea(places.storage),
        Orthanc(places.orthanc, "agent", secret, timeout=configuration.policy.network_timeout),
        reports,
        Memory(own_limit()),
        suspects,
    )
