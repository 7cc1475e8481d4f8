"""The only place that chooses adapters and connects them to the flow; each module here wires one part."""

from collections.abc import Callable
from functools import partial

from understudy import config
from understudy.adapters.boot import read_report
from understudy.adapters.edge_config import read_digest
from understudy.adapters.host_alarms import TAKEOVER, UPKEEP, read_host_alarms
from understudy.adapters.in_force import HINT, WRONG, InForce
from understudy.adapters.secret_files import exposed
from understudy.core.model import HolderKind, HolderName, StudyInstanceUid
from understudy.core.ports import Clock, Holder
from understudy.core.views import Alarm, iso
from understudy.engine.board import WatchedAlarms
from understudy.engine.workers import Workers
from understudy.flow.appliance import Appliance
from understudy.flow.backup import Backup
from understudy.flow.configuration import ConfigurationWatch
from understudy.flow.delete import Deleter
from understudy.flow.devices import Devices
from understudy.flow.letters import Letters
from understudy.flow.verify import Verifier
from understudy.holders.vault import Vault
from understudy.wiring.base import PRIMARY, STEP_INTERVAL, Places, SystemClock, open_base
from understudy.wiring.delivery import configured_holders, pinned_sealers, wire_lane
from understudy.wiring.files import wire_disk, wire_files, wire_intake_watch
from understudy.wiring.gate import wire_gate, wire_logins, wire_reception
from understudy.wiring.intake import wire_intake
from understudy.wiring.primary import wire_primary

__all__ = ["Places", "SystemClock", "wire"]


_LOOK_INTERVAL = 1.0
"""Seconds between two steps of a worker whose latest result others read."""

_COUNT_INTERVAL = 2.0
"""Seconds between two checks whether Orthanc holds as many instances as the ledger knows."""

_BACKUP_INTERVAL = 5.0
"""Seconds between two checks whether a copy of the ledger is due."""


def wire(
    configuration: config.Understudy,
    places: Places,
    runs: InForce | None = None,
    clock: Clock | None = None,
) -> tuple[Appliance, Workers]:
    """Return the appliance and its workers, not yet started; `runs` says how the configuration was chosen.

    Raises KeysError and the errors of `open_base`, each with a hint.
    """
    base = open_base(configuration, places, clock)
    ledger, clock, workers = base.ledger, base.clock, base.workers
    noter, router, conflicts, rescanner = wire_intake(base)
    holders: list[Holder] = []
    primary = None
    if configuration.primary is not None:
        destination, primary = wire_primary(base, configuration.primary, noter)
        holders.append(destination)
    sealers = pinned_sealers(base, from_folder=runs is None or not runs.problems)
    holders += configured_holders(base, sealers)
    for holder in holders:
        # A vault or primary that is configured later gets earlier instances, too; a route gets only new ones.
        if holder.kind is not HolderKind.ROUTE:
            ledger.intake.owe_all(holder.name, now=clock.now())
    exposed_secrets = [
        Alarm(
            iso(clock.now()),
            f"the secret {name} lies in the configuration folder, where every service can read it",
            "move it to the folder `secrets`, which only the agent has, and restart the agent",
        )
        for name in exposed(configuration, places.configuration)
    ]
    gate, names = wire_gate(base)
    logins = wire_logins(base)
    lanes = [wire_lane(holder, base) for holder in holders]
    verifier = Verifier(
        ledger,
        holders,
        clock,
        site=configuration.site,
        write_report=base.write_report,
        recheck=None if primary is None else primary.recheck,
    )
    workers.add("verify", verifier.step, STEP_INTERVAL)
    backup = Backup(ledger, places.state / "backup" / "ledger.sqlite", clock)
    workers.add("backup", backup.step, _BACKUP_INTERVAL)
    doubts: dict[HolderName, Callable[[StudyInstanceUid], str]] = {
        holder.name: lambda _study: "" for holder in holders
    }
    if primary is not None:
        doubts[PRIMARY] = primary.mirror.doubt
    deleter = Deleter(ledger, base.orthanc, noter, clock, doubts)
    workers.add("delete", deleter.step, _COUNT_INTERVAL)
    healer, scrubber, recovery = wire_files(base, noter, [holder.name for holder in holders])
    takeover, upkeep = (
        WatchedAlarms(
            f"the alarms of the host ({source})",
            str(places.host),
            partial(read_host_alarms, places.host, source),
            clock,
        )
        for source in (TAKEOVER, UPKEEP)
    )
    recipients = WatchedAlarms(
        "the file of the vaults' recipients",
        str(places.keys),
        lambda: [alarm for sealer in sealers.values() for alarm in sealer.alarms()],
        clock,
    )
    in_force = WatchedAlarms(
        "the configuration that each service runs",
        f"{places.edge} and {places.storage}",
        _configuration_watch(runs, places, clock).alarms if runs is not None else list,
        clock,
    )
    for name, watched in (
        ("host-takeover", takeover),
        ("host", upkeep),
        ("recipients", recipients),
        ("configuration", in_force),
    ):
        workers.add(name, watched.step, _LOOK_INTERVAL)
    disk = wire_disk(base)
    reception = wire_reception(base, gate)
    wake_all = partial(
        workers.wake, "note", "mirror", "failback", "plan", "capabilities", "verify", "scrub", "heal", "lane-"
    )
    appliance = Appliance(
        configuration=configuration,
        ledger=ledger,
        clock=clock,
        lanes=lanes,
        primary=primary,
        verifier=verifier,
        router=router,
        devices=Devices(gate, reception),
        letters=Letters(ledger, clock, wake_all),
        reception=reception,
        healer=healer,
        scrubber=scrubber,
        deleter=deleter,
        recovery=recovery,
        disk=disk,
        intake=wire_intake_watch(base, disk),
        reports=base.reports,
        faults=lambda: [
            *in_force.alarms(),
            *takeover.alarms(),
            *exposed_secrets,
            *workers.alarms(),
            *conflicts.alarms(),
            *backup.alarms(),
            *rescanner.alarms(),
            *recipients.alarms(),
            *(alarm for holder in holders if isinstance(holder, Vault) for alarm in holder.alarms()),
            *logins.alarms(),
            *gate.alarms(),
            *names.alarms(),
            *(() if primary is None else (*primary.mirror.alarms(), *primary.failback.alarms())),
        ],
        upkeep=upkeep.alarms,
        conflicts=conflicts,
        recipients=sealers,
        suspects=base.suspects,
        memory=base.memory,
        look_for_new=partial(workers.wake, "note"),
        wake_all=wake_all,
        configuration_problems=() if runs is None else runs.problems,
    )
    workers.add("pulse", appliance.pulse.step, _LOOK_INTERVAL)
    return appliance, workers


def _configuration_watch(runs: InForce, places: Places, clock: Clock) -> ConfigurationWatch:
    def others() -> dict[str, str]:
        boot = read_report(places.storage)
        return {"edge": read_digest(places.edge), "orthanc": "" if boot is None else boot.configuration}

    return ConfigurationWatch(runs.digest, others, runs.problems, clock, wrong=WRONG, hint=HINT)
