"""The one place that picks adapters and joins them to the flow."""

import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from understudy import config
from understudy.adapters import edge_config
from understudy.adapters import keys as keys_volume
from understudy.adapters.boot import BootReports
from understudy.adapters.dicom import DicomPeer
from understudy.adapters.directory import DirectoryStore
from understudy.adapters.edge import Edge, EdgeUnavailableError, Reports
from understudy.adapters.encryption import AgeSealer
from understudy.adapters.files import write_durably
from understudy.adapters.healing import GetSource, Replacement, is_same_instance, whole_file
from understudy.adapters.ledger import Ledger
from understudy.adapters.orthanc import Orthanc
from understudy.adapters.s3 import S3Store, read_credentials
from understudy.adapters.storage import StorageArea
from understudy.adapters.versions import KeptVersions
from understudy.core.gate import Seen
from understudy.core.model import HolderKind, HolderName, Timestamp
from understudy.core.modes import Mode, delivers_to_primary
from understudy.core.ports import Clock, Holder, ObjectStore, StoredFiles
from understudy.core.report import Report
from understudy.core.rules import Route, Rules
from understudy.core.views import Condition
from understudy.flow.appliance import Appliance, PrimaryParts
from understudy.flow.conflicts import Conflicts
from understudy.flow.courier import Lane, LanePolicy
from understudy.flow.destination import DicomDestination
from understudy.flow.disk import DiskWatch, WatchedVolume
from understudy.flow.failback import Failback, FailbackPolicy
from understudy.flow.gate import Gate
from understudy.flow.heal import Healer, Surgery
from understudy.flow.loop import Workers
from understudy.flow.mirror import Mirror
from understudy.flow.note import Noter
from understudy.flow.probe import Prober
from understudy.flow.recover import Recovery
from understudy.flow.scrub import Scrubber
from understudy.flow.vault import Vault, VaultSettings
from understudy.flow.verify import Verifier
from understudy.plugin.volumes import FLAG_FILE, Volume
from understudy.web.report import render_report, report_json

_log = logging.getLogger(__name__)

PRIMARY = HolderName("primary")

_NOTE_INTERVAL = 1.0
"""Seconds between two looks at the changes feed; the plugin's wake makes it sooner."""

_RECONCILE_INTERVAL = 3600.0
"""Seconds between two comparisons of all that Orthanc holds with the ledger; the first is at the start."""

_CONFLICTS_INTERVAL = 2.0
"""Seconds between two looks at the versions that were kept."""

_STEP_INTERVAL = 0.5
"""Seconds between two looks of a lane, and of an operation, at the ledger."""

_MIRROR_INTERVAL = 1.0
"""Seconds between two questions whether an inventory diff is due."""

_FILES_INTERVAL = 5.0
"""Seconds between two looks at what a start of Orthanc left, and at what is to be healed."""

_ROUTE_BATCH = 100
_ROUTE_BATCH_BYTES = 256 * 2**20
_PACK_INSTANCES = 2000


@dataclass(frozen=True, slots=True)
class Places:
    """Where the agent finds its volumes and its neighbours; the defaults are those of the image."""

    configuration: Path = Path("/etc/understudy/config")
    state: Path = Path("/var/lib/understudy")
    keys: Path = Path("/var/lib/understudy-keys")
    storage: Path = Path("/var/lib/orthanc/storage")
    index: Path = Path("/var/lib/orthanc/index")
    """Only measured: Orthanc alone opens what lies there."""
    socket: Path = Path("/run/understudy/agent.sock")
    orthanc: str = "http://orthanc:8042"
    edge: Path = edge_config.SHARED


class SystemClock:
    """The time of the machine."""

    def now(self) -> Timestamp:
        """Return seconds since 1970-01-01T00:00:00Z."""
        return Timestamp(time.time())


def wire(configuration: config.Understudy, places: Places) -> tuple[Appliance, Workers]:
    """Return the appliance and its workers, not yet started.

    Raises KeysError, LedgerVersionError and MigrationError, each with a hint.
    """
    clock = SystemClock()
    workers = Workers(clock, random.random)
    ledger = Ledger(places.state / "ledger.sqlite")
    ledger.start(clock.now())
    ledger.release(now=clock.now(), everything=True)
    files = StorageArea(places.storage)
    rules = _rules(configuration)
    policy = configuration.policy
    orthanc = _orthanc(places, policy)
    noter = Noter(orthanc, ledger, rules, clock, primary_grace=policy.primary_grace)
    workers.add("note", _noting(noter, workers), _NOTE_INTERVAL)
    workers.add("reconcile", _reconciling(noter, workers), _RECONCILE_INTERVAL)
    conflicts = Conflicts(KeptVersions(places.storage), files, orthanc, ledger, clock, lambda: rules.vaults)
    workers.add("conflicts", conflicts.step, _CONFLICTS_INTERVAL)

    reports = places.state / "reports"
    reports.mkdir(mode=0o750, exist_ok=True)

    def write_report(operation: int, report: Report) -> str:
        write_durably(reports / f"{operation}.json", report_json(report))
        write_durably(reports / f"{operation}.html", render_report(report).encode())
        return f"/understudy/reports/{operation}"

    primary = None
    holders: list[Holder] = []
    if configuration.primary is not None:
        peer = _peer(PRIMARY, configuration.primary, configuration)
        holders.append(DicomDestination(HolderKind.PRIMARY, peer, files, clock))
        primary = _primary(configuration, configuration.primary, peer, ledger, noter, clock, write_report)
        _work_primary(primary, ledger, policy, workers)
    for route in configuration.routes:
        holders.append(
            DicomDestination(HolderKind.ROUTE, _peer(route.name, route, configuration), files, clock)
        )
    holders += [
        _vault(vault, configuration.site, places, files, ledger, clock) for vault in configuration.vaults
    ]
    for holder in holders:
        # A vault or a primary that is named later gets what came before; a route takes new instances alone.
        if holder.kind is not HolderKind.ROUTE:
            ledger.owe_all(holder.name, now=clock.now())
    gate = _gate(configuration, places, ledger, clock)
    workers.add("gate", gate.step, _STEP_INTERVAL)
    lanes = [_lane(holder, ledger, clock, policy) for holder in holders]
    for lane in lanes:
        workers.add(f"lane-{lane.holder.name}", lane.step, _STEP_INTERVAL)
    verifier = Verifier(ledger, holders, clock, site=configuration.site, write_report=write_report)
    workers.add("verify", verifier.step, _STEP_INTERVAL)
    scrubber, recovery = _files(
        configuration,
        places,
        files,
        orthanc,
        ledger,
        noter,
        clock,
        workers,
        write_report,
        [holder.name for holder in holders],
    )
    disk = _disk(configuration, places, ledger, clock)
    workers.add("disk", disk.step, _STEP_INTERVAL)
    appliance = Appliance(
        configuration=configuration,
        ledger=ledger,
        clock=clock,
        lanes=lanes,
        primary=primary,
        verifier=verifier,
        gate=gate,
        scrubber=scrubber,
        recovery=recovery,
        disk=disk,
        reports=reports,
        faults=lambda: [*workers.alarms(), *conflicts.alarms()],
        conflicts=conflicts,
        look_for_new=partial(workers.wake, "note"),
        wake_all=partial(workers.wake, "note", "mirror", "failback", "verify", "scrub", "heal", "lane-"),
    )
    return appliance, workers


def _disk(configuration: config.Understudy, places: Places, ledger: Ledger, clock: Clock) -> DiskWatch:
    policy = configuration.policy
    vaults = [
        WatchedVolume(f"vault {vault.name}", vault.directory, takes_intake=True)
        for vault in configuration.vaults
        if isinstance(vault, config.DirectoryVault)
    ]
    return DiskWatch(
        (
            WatchedVolume("storage", places.storage, takes_intake=True),
            WatchedVolume("index", places.index, takes_intake=False),
            WatchedVolume("state", places.state, takes_intake=False),
            *vaults,
        ),
        Volume(places.state, policy.ballast_bytes, policy.refuse_percent / 100),
        places.socket.with_name(FLAG_FILE),
        ledger,
        clock,
        warn_percent=policy.warn_percent,
        refuse_percent=policy.refuse_percent,
    )


def _orthanc(places: Places, policy: config.Policy) -> Orthanc:
    secret = (places.keys / "service" / "agent").read_text(encoding="ascii").strip()
    return Orthanc(places.orthanc, "agent", secret, timeout=policy.network_timeout)


def _gate(configuration: config.Understudy, places: Places, ledger: Ledger, clock: Clock) -> Gate:
    reports: list[Reports] = []

    def read_reports(most: int) -> Sequence[Seen]:
        # Opened here: without it the rest starts all the same, and the loop raises the alarm.
        if not reports:
            reports.append(Reports(places.edge))
        return reports[0].read(most)

    return Gate(
        ledger,
        Edge(places.edge),
        clock,
        edge_config.listed(configuration),
        unavailable=EdgeUnavailableError,
        read_reports=read_reports,
    )


def _rules(configuration: config.Understudy) -> Rules:
    primary = configuration.primary
    return Rules(
        primary=None if primary is None else PRIMARY,
        primary_ae_title="" if primary is None else primary.ae_title,
        vaults=[HolderName(vault.name) for vault in configuration.vaults],
        routes=[
            Route(
                HolderName(route.name),
                route.ae_title,
                frozenset(route.match.modalities),
                frozenset(route.match.sop_classes),
                frozenset(route.match.calling_ae_titles),
            )
            for route in configuration.routes
        ],
    )


def _noting(noter: Noter, workers: Workers) -> Callable[[], bool]:
    def step() -> bool:
        if noter.catch_up():
            # What is new is owed to somebody: the lanes need not wait for their next look.
            workers.wake("lane-")
        return False

    return step


def _reconciling(noter: Noter, workers: Workers) -> Callable[[], bool]:
    def step() -> bool:
        if noter.reconcile():
            workers.wake("lane-")
        return False

    return step


def _peer(name: str, target: config.Primary | config.Route, configuration: config.Understudy) -> DicomPeer:
    return DicomPeer(
        name,
        ae_title=target.ae_title,
        host=target.host,
        port=target.port,
        calling_ae_title=configuration.ae_title,
        timeout=configuration.policy.network_timeout,
    )


def _primary(
    configuration: config.Understudy,
    target: config.Primary,
    peer: DicomPeer,
    ledger: Ledger,
    noter: Noter,
    clock: Clock,
    write_report: Callable[[int, Report], str],
) -> PrimaryParts:
    policy = configuration.policy
    prober = Prober(peer, clock, failures_for_down=policy.probe_failures)
    destination = target.move_destination or configuration.ae_title
    mirror = Mirror(peer, ledger, noter, clock, holder=PRIMARY, destination=destination)
    failback = Failback(
        ledger,
        mirror,
        prober,
        clock,
        FailbackPolicy(policy.quiet_period, target.ae_title, configuration.site),
        holder=PRIMARY,
        write_report=write_report,
    )
    return PrimaryParts(prober, mirror, failback)


def _work_primary(primary: PrimaryParts, ledger: Ledger, policy: config.Policy, workers: Workers) -> None:
    def probe() -> bool:
        if ledger.mode().mode is not Mode.MAINTENANCE:
            primary.prober.step()
        return False

    def mirror() -> bool:
        if primary.prober.health.condition is not Condition.UP:
            primary.mirror.forget_look()
            return False
        # A failback compares by itself, and planned work is left in peace.
        wanted = ledger.mode().mode in (Mode.STANDBY, Mode.ACTIVE)
        patience = policy.primary_grace
        if wanted and primary.mirror.is_due(interval=policy.inventory_interval, patience=patience):
            primary.mirror.step(patience=patience)
        return False

    workers.add("probe", probe, policy.probe_interval)
    workers.add("mirror", mirror, _MIRROR_INTERVAL)
    workers.add("failback", primary.failback.step, _STEP_INTERVAL)


def _files(
    configuration: config.Understudy,
    places: Places,
    files: StorageArea,
    orthanc: Orthanc,
    ledger: Ledger,
    noter: Noter,
    clock: Clock,
    workers: Workers,
    write_report: Callable[[int, Report], str],
    holders: Sequence[HolderName],
) -> tuple[Scrubber, Recovery]:
    """Wire what looks after the stored files."""
    policy, primary = configuration.policy, configuration.primary
    sources = []
    if primary is not None:
        sources.append(
            GetSource(
                PRIMARY,
                ae_title=primary.ae_title,
                host=primary.host,
                port=primary.port,
                calling_ae_title=configuration.ae_title,
                timeout=policy.network_timeout,
            )
        )
    healer = Healer(
        ledger,
        files,
        orthanc,
        Replacement(orthanc, places.state / "heal", _log.warning),
        sources,
        Surgery(whole_file, is_same_instance),
        clock,
        holders=holders,
        catch_up=noter.catch_up,
        fraction=random.random,
    )
    scrubber = Scrubber(
        ledger,
        files,
        orthanc,
        clock,
        rate=policy.scrub_rate,
        interval=policy.scrub_interval,
        wait=workers.wait,
        site=configuration.site,
        write_report=write_report,
        on_damage=partial(workers.wake, "heal"),
    )
    recovery = Recovery(
        BootReports(places.storage), ledger, scrubber, clock, on_damage=partial(workers.wake, "heal")
    )
    workers.add("heal", healer.step, _FILES_INTERVAL)
    workers.add("scrub", scrubber.step, _STEP_INTERVAL)
    workers.add("recover", recovery.step, _FILES_INTERVAL)
    return scrubber, recovery


def _vault(
    vault: config.Vault, site: str, places: Places, files: StoredFiles, ledger: Ledger, clock: Clock
) -> Vault:
    name = HolderName(vault.name)
    recipients = vault.recipients or [keys_volume.vault_recipient(places.keys)]
    store: ObjectStore
    if isinstance(vault, config.S3Vault):
        credentials = partial(read_credentials, vault.credentials_file)
        store = S3Store(name, vault.endpoint, vault.bucket, vault.region, credentials)
        settings = VaultSettings(name, site, vault.retention_days)
    else:
        store = DirectoryStore(name, vault.directory)
        settings = VaultSettings(name, site, None)
    return Vault(settings, files, store, AgeSealer(recipients), ledger.packs, clock)


def _lane(holder: Holder, ledger: Ledger, clock: Clock, policy: config.Policy) -> Lane:
    packs = holder.kind is HolderKind.VAULT
    lane_policy = LanePolicy(
        batch_instances=_PACK_INSTANCES if packs else _ROUTE_BATCH,
        batch_bytes=policy.pack_bytes if packs else _ROUTE_BATCH_BYTES,
        linger=policy.pack_linger if packs else 0.0,
        retry_base=policy.retry_base,
        retry_cap=policy.retry_cap,
    )

    def is_open() -> bool:
        return holder.kind is not HolderKind.PRIMARY or delivers_to_primary(ledger.mode().mode)

    return Lane(holder, ledger, clock, lane_policy, is_open=is_open, fraction=random.random)
