"""The appliance: its parts wired together, and every verb that the REST API and the console ask for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from understudy import __version__
from understudy.adapters.ledger import Ledger, ModeRecord
from understudy.config import Understudy
from understudy.core.errors import RefusedError
from understudy.core.gate import Allowed
from understudy.core.health import Health
from understudy.core.model import StudyInstanceUid, Timestamp
from understudy.core.modes import ModeEvent, WrongModeError
from understudy.core.obligations import ObligationState, Selection
from understudy.core.ports import Clock
from understudy.core.views import (
    Alarm,
    DamageView,
    DeadLetterView,
    ExplainedView,
    ModalityView,
    ModeView,
    ObligationView,
    OperationState,
    OperationView,
    PlanView,
    Status,
    iso,
)
from understudy.flow import promote, status
from understudy.flow.conflicts import Conflicts
from understudy.flow.courier import Lane
from understudy.flow.disk import DiskWatch
from understudy.flow.failback import KIND as FAILBACK
from understudy.flow.failback import Failback
from understudy.flow.gate import Gate
from understudy.flow.mirror import Mirror
from understudy.flow.probe import Prober
from understudy.flow.recover import Recovery
from understudy.flow.route import Router
from understudy.flow.scrub import Scrubber
from understudy.flow.verify import Verifier

_SHOWN_OPERATIONS = 10


@dataclass(frozen=True, slots=True)
class PrimaryParts:
    """What exists only where a primary is configured."""

    prober: Prober
    mirror: Mirror
    failback: Failback


@dataclass(frozen=True, slots=True)
class Appliance:
    """One function wires it (understudy.agent); it satisfies web.facade.Facade."""

    configuration: Understudy
    ledger: Ledger
    clock: Clock
    lanes: Sequence[Lane]
    primary: PrimaryParts | None
    verifier: Verifier
    router: Router
    gate: Gate
    scrubber: Scrubber
    recovery: Recovery
    disk: DiskWatch
    reports: Path
    faults: Callable[[], Sequence[Alarm]]
    upkeep: Callable[[], Sequence[Alarm]]
    """What a person has to do soon, and not now."""
    conflicts: Conflicts
    look_for_new: Callable[[], None]
    wake_all: Callable[[], None]

    def status(self) -> Status:
        """Return the whole appliance at one moment."""
        now = self.clock.now()
        mode = self.ledger.mode()
        disk = self.disk.view()
        instances, studies = self.ledger.counts()
        limit = self.configuration.owed_limit
        holders = [
            status.holder_view(self.ledger, lane.holder, lane.view, now, owed_limit=limit(lane.holder.name))
            for lane in self.lanes
        ]
        gaps = status.gaps_view(self.ledger.tally_gaps(), now)
        departures = self.ledger.read_departures()
        configured = self.configuration.primary
        primary = None
        if configured is not None and self.primary is not None:
            health = self.primary.prober.health
            primary = status.primary_view(configured.ae_title, configured.host, configured.port, health)
        horizon = None if self.primary is None else self.primary.mirror.horizon
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
            lag_seconds=self._lag(now),
            gaps=gaps,
            instances=instances,
            studies=studies,
            holders=holders,
            operations=self.ledger.operations(_SHOWN_OPERATIONS),
            alarms=[
                *status.alarms(
                    mode=mode.mode,
                    primary=primary,
                    holders=holders,
                    gaps=gaps,
                    departures=departures,
                    faults=[
                        *self.faults(),
                        *status.clock_alarms(self.ledger.newest_unsettled(), now),
                        *self.disk.alarms(disk),
                        *self.recovery.alarms(),
                    ],
                    began=self.ledger.began(),
                ),
                *self.upkeep(),
            ],
            files=self.recovery.files(),
            disk=disk,
            departed=sum(departure.instances for departure in departures),
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
            lag_seconds=self._lag(now),
            max_lag=self.configuration.policy.max_lag,
            now=now,
        )
        return self._changed(record)

    def hold(self, who: str, *, reason: str, epoch: int) -> ModeView:
        """Keep still during planned work on the primary."""
        return self._changed(promote.hold(self.ledger, who, reason=reason, epoch=epoch, now=self.clock.now()))

    def release(self, who: str, *, reason: str, epoch: int) -> ModeView:
        """End the planned work."""
        return self._changed(
            promote.release(self.ledger, who, reason=reason, epoch=epoch, now=self.clock.now())
        )

    def plan(self) -> PlanView:
        """Say what a failback would do."""
        return self._primary(ModeEvent.FAILBACK).failback.plan()

    def failback(self, who: str, *, epoch: int) -> OperationView:
        """Begin or continue the way back."""
        operation = self._primary(ModeEvent.FAILBACK).failback.begin(who, epoch=epoch)
        self.wake_all()
        return operation

    def settle(self, who: str, *, epoch: int, override_quiet: str | None) -> ModeView:
        """End the failback with a fresh proof of every instance."""
        failback = self._primary(ModeEvent.SETTLE).failback
        return self._changed(failback.settle(who, epoch=epoch, override_quiet=override_quiet))

    def interrupt(self, who: str, *, reason: str, epoch: int) -> ModeView:
        """Go back from returning to active."""
        failback = self._primary(ModeEvent.INTERRUPT).failback
        return self._changed(failback.interrupt(who, reason=reason, epoch=epoch))

    def verify(self, who: str) -> OperationView:
        """Ask every holder for everything again."""
        operation = self.verifier.begin(who)
        self.wake_all()
        return operation

    def scrub(self, who: str) -> OperationView:
        """Read every stored file now, at full speed."""
        operation = self.scrubber.begin(who)
        self.wake_all()
        return operation

    def heal(self, who: str, *, missed: bool) -> int:
        """Try now to heal every stored file that is missing or changed; return how many there are.

        Where `missed`, also what a rescan did not find in Orthanc.
        """
        number = self.ledger.heal_now(who, self.clock.now(), missed=missed)
        self.wake_all()
        return number

    def damages(self, limit: int) -> Sequence[DamageView]:
        """Return stored files that were found missing or changed."""
        return self.ledger.damages(limit=limit)

    def operations(self, limit: int) -> Sequence[OperationView]:
        """Return the newest operations."""
        return self.ledger.operations(limit)

    def operation(self, number: int) -> OperationView:
        """Return one operation."""
        return self.ledger.operation(number)

    def cancel(self, who: str, number: int) -> OperationView:
        """Cancel a running operation; a failback is interrupted instead, which changes the mode."""
        operation = self.ledger.operation(number)
        if operation.kind == FAILBACK:
            raise RefusedError(
                "a failback is not cancelled but interrupted",
                "`understudy interrupt --reason ...`, or POST /understudy/failback/interrupt",
            )
        now = self.clock.now()
        self.ledger.log(who, "cancel", {"operation": number}, now)
        return self.ledger.update_operation(
            number, now=now, state=OperationState.CANCELLED, message=f"cancelled by {who}"
        )

    def obligations(
        self, selection: Selection, state: ObligationState | None, limit: int
    ) -> Sequence[ObligationView]:
        """Return obligations."""
        return self.ledger.obligations(selection.holder, state, limit, study=selection.study_instance_uid)

    def dead_letters(self, selection: Selection) -> Sequence[DeadLetterView]:
        """Return refused obligations by holder and reason."""
        return self.ledger.dead_letters(selection)

    def replay(self, who: str, selection: Selection, *, reason: str, epoch: int | None) -> int:
        """Owe refused instances again."""
        number = self.ledger.replay(
            selection.holder,
            selection.sop_instance_uids,
            who,
            self.clock.now(),
            study=selection.study_instance_uid,
            reason=reason,
            epoch=epoch,
        )
        self.wake_all()
        return number

    def waive(self, who: str, holder: str, selection: Selection, *, reason: str, epoch: int | None) -> int:
        """Give up for one holder what is selected, with a reason."""
        return self.ledger.waive(
            holder,
            selection.sop_instance_uids,
            reason,
            who,
            self.clock.now(),
            study=selection.study_instance_uid,
            epoch=epoch,
        )

    def explain(self, study_instance_uid: str) -> ExplainedView:
        """Say which routes match the instances of a study that is here, and why."""
        return self.router.explain(StudyInstanceUid(study_instance_uid))

    def modalities(self) -> Sequence[ModalityView]:
        """Return every device that was seen at the edge."""
        return self.gate.modalities()

    def approve(self, who: str, entry: Allowed) -> bool:
        """Let a device in, and say whether the running edge does so already."""
        return self.gate.approve(who, entry)

    def revoke(self, who: str, entry: Allowed) -> bool:
        """Take an approval back, and say whether the running edge knows already."""
        return self.gate.revoke(who, entry)

    def wake(self) -> None:
        """Look for new instances now."""
        self.look_for_new()

    def _health(self) -> Health | None:
        return None if self.primary is None else self.primary.prober.health

    def _lag(self, now: Timestamp) -> float:
        if self.primary is None:
            return 0.0
        began = self.ledger.began()
        return promote.lag(self.primary.mirror.horizon, self._health(), began, now)

    def _primary(self, event: ModeEvent) -> PrimaryParts:
        if self.primary is None:
            raise WrongModeError(self.ledger.mode().mode, event)
        return self.primary

    def _changed(self, record: ModeRecord) -> ModeView:
        self.wake_all()
        return ModeView(record.mode, record.epoch, iso(record.since))
