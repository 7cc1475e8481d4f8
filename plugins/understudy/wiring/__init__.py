"""The one place that picks adapters and joins them to the flow: `wire` joins, one module wires one part."""

from functools import partial

from understudy import config
from understudy.adapters.host_alarms import TAKEOVER, UPKEEP, read_host_alarms
from understudy.core.model import HolderKind
from understudy.core.ports import Holder
from understudy.flow.appliance import Appliance
from understudy.flow.backup import Backup
from understudy.flow.loop import Workers
from understudy.flow.verify import Verifier
from understudy.wiring.base import STEP_INTERVAL, Places, SystemClock, open_base
from understudy.wiring.delivery import configured_holders, wire_lane
from understudy.wiring.files import wire_disk, wire_files
from understudy.wiring.gate import wire_gate
from understudy.wiring.intake import wire_intake
from understudy.wiring.primary import wire_primary

__all__ = ["Places", "SystemClock", "wire"]


_BACKUP_INTERVAL = 5.0
"""Seconds between two looks whether the ledger's copy is due."""


def wire(configuration: config.Understudy, places: Places) -> tuple[Appliance, Workers]:
    """Return the appliance and its workers, not yet started.

    Raises KeysError and the errors of `open_base`, each with a hint.
    """
    base = open_base(configuration, places)
    ledger, clock, workers = base.ledger, base.clock, base.workers
    noter, router, conflicts, rescanner = wire_intake(base)
    holders: list[Holder] = []
    primary = None
    if configuration.primary is not None:
        destination, primary = wire_primary(base, configuration.primary, noter)
        holders.append(destination)
    holders += configured_holders(base)
    for holder in holders:
        # A vault or a primary that is named later gets what came before; a route takes new instances alone.
        if holder.kind is not HolderKind.ROUTE:
            ledger.owe_all(holder.name, now=clock.now())
    gate = wire_gate(base)
    lanes = [wire_lane(holder, base) for holder in holders]
    verifier = Verifier(ledger, holders, clock, site=configuration.site, write_report=base.write_report)
    workers.add("verify", verifier.step, STEP_INTERVAL)
    backup = Backup(ledger, places.state / "backup" / "ledger.sqlite", clock)
    workers.add("backup", backup.step, _BACKUP_INTERVAL)
    scrubber, recovery = wire_files(base, noter, [holder.name for holder in holders])
    appliance = Appliance(
        configuration=configuration,
        ledger=ledger,
        clock=clock,
        lanes=lanes,
        primary=primary,
        verifier=verifier,
        router=router,
        gate=gate,
        scrubber=scrubber,
        recovery=recovery,
        disk=wire_disk(base),
        reports=base.reports,
        faults=lambda: [
            *read_host_alarms(places.host, TAKEOVER),
            *workers.alarms(),
            *conflicts.alarms(),
            *backup.alarms(),
            *rescanner.alarms(),
            *(() if primary is None else primary.mirror.alarms()),
        ],
        upkeep=lambda: read_host_alarms(places.host, UPKEEP),
        conflicts=conflicts,
        look_for_new=partial(workers.wake, "note"),
        wake_all=partial(workers.wake, "note", "mirror", "failback", "verify", "scrub", "heal", "lane-"),
    )
    return appliance, workers
