"""The appliance: its parts wired together, and every verb that the REST API and the console ask for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from understudy import __version__
from understudy.config import Understudy
from understudy.core.capabilities import CapabilitiesView
from understudy.core.deletion import Deletion
from understudy.core.errors import NotFoundError, RefusedError
from understudy.core.health import Health
from understudy.core.model import HolderName, StudyInstanceUid, Timestamp
from understudy.core.modes import ModeEvent, WrongModeError
from understudy.core.ports import Clock
from understudy.core.readiness import tone
from understudy.core.views import (
    Alarm,
    DamageView,
    DeletionView,
    ExplainedView,
    GapView,
    Glance,
    ModeView,
    OperationView,
    PlanView,
    Status,
    Urgency,
    iso,
)
from understudy.engine.board import Watch
from understudy.engine.memory import Memory
from understudy.flow import promote, status
from understudy.flow.capabilities import CapabilityProbe
from understudy.flow.conflicts import Conflicts
from understudy.flow.courier import Lane
from understudy.flow.delete import Deleter
from understudy.flow.devices import Devices
from understudy.flow.disk import STORAGE, DiskWatch
from understudy.flow.failback import KIND as FAILBACK
from understudy.flow.failback import Failback
from understudy.flow.heal import Healer
from understudy.flow.intake import IntakeWatch
from understudy.flow.letters import Letters
from understudy.flow.mirror import Mirror
from understudy.flow.plan import Planner
from understudy.flow.probe import Prober
from understudy.flow.reception import ReceptionWatch
from understudy.flow.recheck import Recheck
from understudy.flow.recipients import PinnedSealer
from understudy.flow.recover import RecoveryWatch
from understudy.flow.route import Router
from understudy.flow.scrub import Scrubber
from understudy.flow.suspects import Suspects
from understudy.flow.verify import Verifier
from understudy.ledger import Ledger, ModeRecord

_SHOWN_OPERATIONS = 10


@dataclass(frozen=True, slots=True)
class PrimaryParts:
    """The parts that exist only if a primary is configured."""

    prober: Prober
    mirror: Mirror
    failback: Failback
    planner: Planner
    recheck: Recheck
    capabilities: CapabilityProbe


@dataclass(frozen=True, slots=True)
class Appliance:
    """One function wires it (understudy.wiring); it satisfies web.application.Facade."""

    configuration: Understudy
    ledger: Ledger
    clock: Clock
    lanes: Sequence[Lane]
    primary: PrimaryParts | None
    verifier: Verifier
    router: Router
    devices: Devices
    letters: Letters
    reception: ReceptionWatch
    healer: Healer
    scrubber: Scrubber
    deleter: Deleter
    recovery: RecoveryWatch
    disk: DiskWatch
    intake: IntakeWatch
    reports: Path
    faults: Callable[[], Sequence[Alarm]]
    upkeep: Callable[[], Sequence[Alarm]]
    """Alarms that a person has to act on soon, but not now."""
    conflicts: Conflicts
    recipients: Mapping[HolderName, PinnedSealer]
    suspects: Suspects
    memory: Memory
    look_for_new: Callable[[], None]
    wake_all: Callable[[], None]
    configuration_problems: Sequence[str] = ()
    """Faults of the configuration in the folder, if the last good configuration runs in its place."""
    pulse: Watch[Status] = field(init=False)
    """The last status that a worker computed."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "pulse", Watch(self.status, self.clock))

    def glance(self) -> Glance:
        """Return the facts that are known without waiting for any disk, not even the ledger's."""
        mode, seen = self.ledger.modes.known, self.pulse.value
        lost = self.disk.unknown_since(STORAGE)
        unknown = None if seen is not None else self.pulse.unknown_since or self.clock.now()
        return Glance(
            mode.mode,
            mode.epoch,
            iso(mode.since),
            None if seen is None else seen.lag_seconds,
            None if seen is None else seen.loss_seconds,
            0.0 if seen is None else seen.rpo_seconds,
            self.intake.refused_because,
            None if unknown is None else iso(unknown),
            self.configuration_problems,
            None if lost is None else iso(lost),
        )

    def status(self) -> Status:
        """Return the whole appliance at one moment."""
        now = self.clock.now()
        mode = self.ledger.modes.current()
        disk = self.disk.view()
        instances, studies = self.ledger.instances.counts()
        limit = self.configuration.owed_limit
        waiting = self.memory.waiting()
        holders = [
            status.holder_view(
                self.ledger,
                lane.holder,
                lane.view,
                self.clock.waited,
                owed_limit=limit(lane.holder.name),
                awaited_bytes=waiting.get(lane.holder.name, 0),
            )
            for lane in self.lanes
        ]
        gaps = status.gaps_view(self.ledger.gaps.tally(), self.clock.waited)
        departures = self.ledger.gaps.read_departures()
        configured = self.configuration.primary
        primary = None
        if configured is not None and self.primary is not None:
            health = self.primary.prober.health
            primary = status.primary_view(configured.ae_title, configured.host, configured.port, health)
        horizon, loss = self._horizon(), self._loss(now)
        began = self.ledger.modes.began()
        alarms = [
            *status.alarms(
                mode=mode.mode,
                primary=primary,
                holders=holders,
                gaps=gaps,
                departures=departures,
                faults=[
                    *self.intake.alarms(),
                    *self.reception.alarms(),
                    *self.faults(),
                    *status.clock_alarms(self.ledger.obligations.newest(), now),
                    *self.disk.alarms(disk),
                    *self.recovery.alarms(),
                    *promote.hold_alarms(mode, self.ledger.events, self.clock.has_waited),
                ],
                began=began,
                copy=status.Copy(horizon, loss, self.configuration.policy.max_lag, self.clock.waited(began)),
            ),
            *(replace(alarm, urgency=Urgency.LATER) for alarm in self.upkeep()),
        ]
        return Status(
            site=self.configuration.site,
            version=__version__,
            ae_title=self.configuration.ae_title,
            now=iso(now),
            mode=mode.mode,
            epoch=mode.epoch,
            mode_since=iso(mode.since),
            primary=primary,
            horizon=None if horizon is None else iso(horizon),
            rpo_seconds=status.rpo_seconds(holders),
            lag_seconds=promote.lag(horizon, now),
            loss_seconds=loss,
            intake_refused=self.intake.refused_because,
            configuration_problems=self.configuration_problems,
            tone=tone(alarms),
            gaps=gaps,
            instances=instances,
            studies=studies,
            holders=holders,
            operations=self.ledger.operations.newest(_SHOWN_OPERATIONS),
            alarms=alarms,
            files=self.recovery.files(),
            disk=disk,
            departed=sum(departure.instances for departure in departures),
            refused=self.reception.counts(),
        )

    def promote(self, who: str, *, reason: str, force: bool, accept_loss: bool, epoch: int) -> ModeView:
        """Take over from the primary."""
        now = self.clock.now()
        record = promote.promote(
            self.ledger,
            who,
            reason=reason,
            force=force,
            accept_loss=accept_loss,
            epoch=epoch,
            health=self._health(),
            loss_seconds=self._loss(now),
            doubts=[] if self.primary is None else [one.what for one in self.primary.mirror.alarms()],
            max_lag=self.configuration.policy.max_lag,
            now=now,
        )
        return self._changed(record)

    def hold(self, who: str, *, reason: str, epoch: int) -> ModeView:
        """Begin maintenance mode, for planned work on the primary."""
        return self._changed(
            promote.hold(self.ledger.modes, who, reason=reason, epoch=epoch, now=self.clock.now())
        )

    def release(self, who: str, *, reason: str, epoch: int) -> ModeView:
        """End the planned work."""
        return self._changed(
            promote.release(self.ledger.modes, who, reason=reason, epoch=epoch, now=self.clock.now())
        )

    def plan(self, who: str) -> OperationView:
        """Begin a dry run of the failback."""
        operation = self._primary(ModeEvent.FAILBACK).planner.begin(who)
        self.wake_all()
        return operation

    def last_plan(self) -> PlanView:
        """Return the result of the last dry run."""
        return self._primary(ModeEvent.FAILBACK).planner.last()

    def probe(self, who: str) -> OperationView:
        """Begin to ask the primary what it can do."""
        operation = self._parts().capabilities.begin(who)
        self.wake_all()
        return operation

    def capabilities(self) -> CapabilitiesView | None:
        """Return what the last probe found that the primary can do, None if it was not probed."""
        return self._parts().capabilities.last()

    def failback(self, who: str, *, epoch: int) -> OperationView:
        """Begin or continue the failback."""
        operation = self._primary(ModeEvent.FAILBACK).failback.begin(who, epoch=epoch)
        self.wake_all()
        return operation

    def settle(self, who: str, *, epoch: int, override_quiet: str | None) -> OperationView:
        """Begin to end the failback with a fresh proof of every instance."""
        failback = self._primary(ModeEvent.SETTLE).failback
        operation = failback.settle(who, epoch=epoch, override_quiet=override_quiet)
        self.wake_all()
        return operation

    def interrupt(self, who: str, *, reason: str, epoch: int) -> ModeView:
        """Go back from returning to active."""
        failback = self._primary(ModeEvent.INTERRUPT).failback
        return self._changed(failback.interrupt(who, reason=reason, epoch=epoch))

    def verify(self, who: str) -> OperationView:
        """Ask every holder again for every instance that it was proven to have."""
        operation = self.verifier.begin(who)
        self.wake_all()
        return operation

    def scrub(self, who: str) -> OperationView:
        """Read every stored file now, at full speed."""
        operation = self.scrubber.begin(who)
        self.wake_all()
        return operation

    def heal(self, who: str, *, missed: bool) -> OperationView:
        """Try now to heal every stored file that is missing or changed.

        With `missed`, also heal files that a rescan did not find in Orthanc.
        """
        operation = self.healer.begin(who, missed=missed)
        self.wake_all()
        return operation

    def delete(self, who: str, what: Deletion, *, reason: str, force: bool) -> DeletionView:
        """Delete instances here, as one act with its event."""
        return self.deleter.delete(who, what, reason=reason, force=force)

    def damages(self, limit: int, *, missed: bool) -> Sequence[DamageView]:
        """Return stored files that were found missing or changed, or only those that a rescan missed."""
        return self.ledger.files.damages(limit=limit, missed=missed)

    def gaps(self, limit: int) -> Sequence[GapView]:
        """Return the studies of which this standby or the primary lacks images."""
        return self._parts().mirror.gaps(limit)

    def operations(self, limit: int) -> Sequence[OperationView]:
        """Return the newest operations."""
        return self.ledger.operations.newest(limit)

    def operation(self, number: int) -> OperationView:
        """Return one operation."""
        return self.ledger.operations.get(number)

    def cancel(self, who: str, number: int) -> OperationView:
        """Cancel a running operation; a failback is interrupted instead, which changes the mode."""
        operation = self.ledger.operations.get(number)
        if operation.kind == FAILBACK:
            raise RefusedError(
                "a failback is not cancelled but interrupted",
                "`understudy interrupt --reason ...`, or POST /understudy/failback/interrupt",
            )
        return self.ledger.operations.cancel(number, who, self.clock.now())

    def explain(self, study_instance_uid: str) -> ExplainedView:
        """Say which routes match the instances of a study that is here, and why."""
        return self.router.explain(StudyInstanceUid(study_instance_uid))

    def accept_recipients(self, who: str, vault: HolderName, reason: str) -> str:
        """Pin the recipients that a vault is given now, and return their fingerprint."""
        if vault not in self.recipients:
            raise NotFoundError(f"there is no vault {vault}", "`understudy status` shows which there are")
        told = self.recipients[vault].accept(who, reason)
        self.wake_all()
        return told

    def wake(self) -> None:
        """Look for new instances now."""
        self.look_for_new()

    def _health(self) -> Health | None:
        return None if self.primary is None else self.primary.prober.health

    def _horizon(self) -> Timestamp | None:
        return None if self.primary is None else self.primary.mirror.horizon

    def _loss(self, now: Timestamp) -> float | None:
        """Return the seconds of the primary's work that may be missing here; 0 without a primary."""
        health = self._health()
        if health is None:
            return 0.0
        # As the clock is set now, like the horizon.
        since = self.clock.earliest(health.since)
        return promote.loss(self._horizon(), replace(health, since=since or now), now)

    def _parts(self) -> PrimaryParts:
        if self.primary is None:
            raise NotFoundError("no primary is configured", "`Primary` in the configuration names the PACS")
        return self.primary

    def _primary(self, event: ModeEvent) -> PrimaryParts:
        if self.primary is None:
            raise WrongModeError(self.ledger.modes.current().mode, event)
        return self.primary

    def _changed(self, record: ModeRecord) -> ModeView:
        self.wake_all()
        return ModeView(record.mode, record.epoch, iso(record.since))
