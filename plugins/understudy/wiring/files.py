"""Wires the care of the stored files: scrub, heal, recovery after a crash, free space on the volumes."""

import logging
import random
from collections.abc import Sequence
from functools import partial

from understudy import config
from understudy.adapters.boot import OURS, REPORT_FILE, BootReports
from understudy.adapters.healing import GetSource, Replacement, is_same_instance, write_whole
from understudy.core.model import HolderName
from understudy.flow.disk import STORAGE, DiskWatch, WatchedVolume
from understudy.flow.heal import Healer, Surgery
from understudy.flow.intake import IntakeWatch
from understudy.flow.note import Noter
from understudy.flow.recover import RecoveryWatch
from understudy.flow.scrub import Scrubber
from understudy.plugin.volumes import FLAG, Volume
from understudy.system.spool import IN_MEMORY, Spool
from understudy.wiring.base import PRIMARY, STEP_INTERVAL, Base
from understudy.wiring.delivery import dicom_peer, get_source

_log = logging.getLogger(__name__)

_FILES_INTERVAL = 5.0
"""Seconds between two steps of healing, and of the watch on the intake."""

_LOOK_INTERVAL = 1.0
"""Seconds between two looks at the report of Orthanc's start, and at the free space on a volume."""


def wire_files(
    base: Base, noter: Noter, holders: Sequence[HolderName]
) -> tuple[Healer, Scrubber, RecoveryWatch]:
    """Return the healer, the scrubber and the watch on boot recovery, and add their workers."""
    on_damage = partial(base.workers.wake, "heal")
    healer = Healer(
        base.ledger,
        base.files,
        base.orthanc,
        Replacement(base.orthanc, base.places.state / "heal", _log.warning),
        _sources(base),
        Surgery(write_whole, is_same_instance),
        base.clock,
        Spool(base.places.state, IN_MEMORY),
        holders=holders,
        catch_up=noter.catch_up,
        fraction=random.random,
        wait=base.workers.wait,
        site=base.configuration.site,
        write_report=base.write_report,
        memory=base.memory,
    )
    scrubber = Scrubber(
        base.ledger,
        base.files,
        base.orthanc,
        base.clock,
        rate=base.policy.scrub_rate,
        interval=base.policy.scrub_interval,
        wait=base.workers.wait,
        site=base.configuration.site,
        write_report=base.write_report,
        on_damage=on_damage,
    )
    boot_reports = BootReports(base.places.storage)
    recovery = RecoveryWatch(boot_reports, base.ledger, scrubber, base.clock, on_damage=on_damage)
    base.workers.add("heal", healer.step, _FILES_INTERVAL)
    base.workers.add("scrub", scrubber.step, STEP_INTERVAL)
    base.workers.add("recover", recovery.step, _LOOK_INTERVAL)
    return healer, scrubber, recovery


def wire_disk(base: Base) -> DiskWatch:
    """Return the watch on the free space of every volume, and add its workers."""
    policy, places = base.policy, base.places
    vaults = [
        WatchedVolume(f"vault {vault.name}", vault.directory, takes_intake=True)
        for vault in base.configuration.vaults
        if isinstance(vault, config.DirectoryVault)
    ]
    disk = DiskWatch(
        (
            WatchedVolume(
                STORAGE, places.storage, takes_intake=True, file=places.storage / OURS / REPORT_FILE
            ),
            WatchedVolume("index", places.index, takes_intake=False),
            WatchedVolume("state", places.state, takes_intake=False),
            *vaults,
        ),
        Volume(places.state, policy.ballast_bytes, policy.refuse_percent / 100),
        FLAG,
        base.clock,
        received=base.ledger.intake.bytes_by_day,
        began=base.ledger.modes.began(),
        warn_percent=policy.warn_percent,
        refuse_percent=policy.refuse_percent,
    )
    for name, step in disk.steps():
        base.workers.add(name, step, _LOOK_INTERVAL)
    return disk


def wire_intake_watch(base: Base, disk: DiskWatch) -> IntakeWatch:
    """Return the watch that knows whether images are accepted here, and add its worker."""
    watch = IntakeWatch(base.orthanc, lambda: disk.is_refusing, base.clock)
    base.workers.add("intake", watch.step, _FILES_INTERVAL)
    return watch


def _sources(base: Base) -> list[GetSource]:
    primary = base.configuration.primary
    if primary is None:
        return []
    peer = dicom_peer(PRIMARY, primary.ae_title, primary.host, primary.port, primary.tls, base)
    return [get_source(peer, primary.tls, base)]
