"""Wires what looks after the stored files: scrub, heal, recovery after a crash, room on the volumes."""

import logging
import random
from collections.abc import Sequence
from functools import partial

from understudy import config
from understudy.adapters.boot import BootReports
from understudy.adapters.healing import GetSource, Replacement, is_same_instance, whole_file
from understudy.core.model import HolderName
from understudy.flow.disk import DiskWatch, WatchedVolume
from understudy.flow.heal import Healer, Surgery
from understudy.flow.note import Noter
from understudy.flow.recover import Recovery
from understudy.flow.scrub import Scrubber
from understudy.plugin.volumes import FLAG_FILE, Volume
from understudy.wiring.base import PRIMARY, STEP_INTERVAL, Base
from understudy.wiring.delivery import dicom_peer, get_source

_log = logging.getLogger(__name__)

_FILES_INTERVAL = 5.0
"""Seconds between two looks at what a start of Orthanc left, and at what is to be healed."""


def wire_files(base: Base, noter: Noter, holders: Sequence[HolderName]) -> tuple[Scrubber, Recovery]:
    """Return who looks for damaged files and who mends what a crash left; healing has its worker, too."""
    on_damage = partial(base.workers.wake, "heal")
    healer = Healer(
        base.ledger,
        base.files,
        base.orthanc,
        Replacement(base.orthanc, base.places.state / "heal", _log.warning),
        _sources(base),
        Surgery(whole_file, is_same_instance),
        base.clock,
        holders=holders,
        catch_up=noter.catch_up,
        fraction=random.random,
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
    recovery = Recovery(boot_reports, base.ledger, scrubber, base.clock, on_damage=on_damage)
    base.workers.add("heal", healer.step, _FILES_INTERVAL)
    base.workers.add("scrub", scrubber.step, STEP_INTERVAL)
    base.workers.add("recover", recovery.step, _FILES_INTERVAL)
    return scrubber, recovery


def wire_disk(base: Base) -> DiskWatch:
    """Return who watches the room on every volume, and give it its worker."""
    policy, places = base.policy, base.places
    vaults = [
        WatchedVolume(f"vault {vault.name}", vault.directory, takes_intake=True)
        for vault in base.configuration.vaults
        if isinstance(vault, config.DirectoryVault)
    ]
    disk = DiskWatch(
        (
            WatchedVolume("storage", places.storage, takes_intake=True),
            WatchedVolume("index", places.index, takes_intake=False),
            WatchedVolume("state", places.state, takes_intake=False),
            *vaults,
        ),
        Volume(places.state, policy.ballast_bytes, policy.refuse_percent / 100),
        places.socket.with_name(FLAG_FILE),
        base.ledger,
        base.clock,
        warn_percent=policy.warn_percent,
        refuse_percent=policy.refuse_percent,
    )
    base.workers.add("disk", disk.step, STEP_INTERVAL)
    return disk


def _sources(base: Base) -> list[GetSource]:
    primary = base.configuration.primary
    if primary is None:
        return []
    peer = dicom_peer(PRIMARY, primary.ae_title, primary.host, primary.port, primary.tls, base)
    return [get_source(peer, primary.tls, base)]
