"""Wires the primary PACS: probe, mirror, and failback after an outage."""

from collections.abc import Callable
from contextlib import suppress

from understudy import config
from understudy.adapters import dictionary
from understudy.adapters.dicom import DicomPeer
from understudy.core.model import HolderKind
from understudy.core.modes import Mode
from understudy.core.ports import HolderUnavailableError
from understudy.core.views import PrimaryCondition
from understudy.engine.beside import Beside
from understudy.flow.appliance import PrimaryParts
from understudy.flow.capabilities import CapabilityProbe
from understudy.flow.failback import Failback, FailbackPolicy
from understudy.flow.interview import Interview
from understudy.flow.mirror import Mirror
from understudy.flow.note import Noter
from understudy.flow.plan import Planner
from understudy.flow.probe import Prober
from understudy.flow.recheck import Recheck
from understudy.holders.destination import DicomDestination
from understudy.wiring.base import PRIMARY, STEP_INTERVAL, Base
from understudy.wiring.delivery import content_check, dicom_destination, dicom_peer, get_source, new_uid

_MIRROR_INTERVAL = 1.0
"""Seconds between two checks whether an inventory comparison is due."""


def wire_primary(base: Base, target: config.Primary, noter: Noter) -> tuple[DicomDestination, PrimaryParts]:
    """Return the primary as a holder, and the parts that watch it; add the workers of these parts."""
    peer = dicom_peer(PRIMARY, target.ae_title, target.host, target.port, target.tls, base)
    parts = _parts(base, target, peer, noter)
    base.workers.add("probe", _probing(base, parts), base.policy.probe_interval)
    base.workers.add("mirror", _mirroring(base, parts), _MIRROR_INTERVAL)
    base.workers.add("failback", parts.failback.step, STEP_INTERVAL)
    base.workers.add("plan", parts.planner.step, STEP_INTERVAL)
    base.workers.add("capabilities", parts.capabilities.step, STEP_INTERVAL)
    destination = dicom_destination(
        HolderKind.PRIMARY,
        peer,
        base,
        proof=target.proof,
        associations=target.associations,
        source=get_source(peer, target.tls, base),
    )
    return destination, parts


def _parts(base: Base, target: config.Primary, peer: DicomPeer, noter: Noter) -> PrimaryParts:

    def own_work() -> tuple[int, int]:
        return peer.heard, base.ledger.intake.number_from(target.titles)

    prober = Prober(peer, base.clock, failures_for_down=base.policy.probe_failures, own_work=own_work)
    destination = target.move_destination or base.configuration.ae_title
    mirror = Mirror(
        peer,
        base.ledger,
        noter,
        base.clock,
        holder=PRIMARY,
        destination=destination,
        wait=base.workers.wait,
    )
    contents = content_check(PRIMARY, get_source(peer, target.tls, base), base)
    recheck = Recheck(base.ledger, PRIMARY, contents, base.clock)
    failback = Failback(
        base.ledger,
        mirror,
        prober,
        recheck,
        base.clock,
        FailbackPolicy(base.policy.quiet_period, target.titles, base.configuration.site),
        holder=PRIMARY,
        write_report=base.write_report,
        beside=Beside(base.clock),
    )
    planner = Planner(failback, base.ledger, base.clock)
    return PrimaryParts(
        prober, mirror, failback, planner, recheck, _capabilities(base, target, peer, noter, destination)
    )


def _capabilities(
    base: Base, target: config.Primary, peer: DicomPeer, noter: Noter, destination: str
) -> CapabilityProbe:
    interview = Interview(
        peer,
        get_source(peer, target.tls, base),
        base.orthanc,
        base.ledger,
        noter,
        base.clock,
        destination=destination,
        titles=target.titles,
        associations=target.associations,
        name_of=dictionary.name_of_uid,
        new_uid=new_uid,
        wait=base.workers.wait,
    )
    return CapabilityProbe(
        interview, base.ledger, base.clock, site=base.configuration.site, write_report=base.write_report
    )


def _probing(base: Base, primary: PrimaryParts) -> Callable[[], bool]:
    def step() -> bool:
        if base.ledger.modes.current().mode is not Mode.MAINTENANCE:
            primary.prober.step()
        return False

    return step


def _mirroring(base: Base, primary: PrimaryParts) -> Callable[[], bool]:
    def step() -> bool:
        mode = base.ledger.modes.current().mode
        # A busy primary may accept the next association. During planned work it is not asked.
        asked = primary.prober.health.condition in (PrimaryCondition.UP, PrimaryCondition.BUSY)
        if mode is Mode.MAINTENANCE or not asked:
            primary.mirror.forget_look()
            return False
        # A failback makes its own comparisons.
        wanted = mode in (Mode.STANDBY, Mode.ACTIVE)
        patience = base.policy.primary_grace
        if wanted and primary.mirror.is_due(interval=base.policy.inventory_interval, patience=patience):
            # The mirror raises an alarm with the reason until a comparison succeeds.
            with suppress(HolderUnavailableError):
                primary.mirror.step(patience=patience, believe_departures=True)
        return False

    return step
