"""Failback: send the repaired primary the instances that it lacks, pull those that it alone has, prove both.

Rule 1: progress is kept in the ledger alone; after a crash at any point, `step` continues from there.
Rule 2: settling asks the primary again for every instance of the epoch; an answer of yesterday proves nothing
today.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from understudy.core.errors import PreconditionError, RefusedError
from understudy.core.health import GOOD_PROBES_FOR_UP, Health
from understudy.core.model import HolderName, StudyInstanceUid, Timestamp
from understudy.core.modes import Mode, ModeEvent
from understudy.core.obligations import ObligationState
from understudy.core.ports import Clock, HolderUnavailableError
from understudy.core.refusals import DIFFERENT, hint_of
from understudy.core.report import Report, ReportRow, ReportTable
from understudy.core.text import counted
from understudy.core.uids import can_be_asked_for, shown
from understudy.core.views import Alarm, OperationState, OperationView, PlanView, PrimaryCondition, Sign, iso
from understudy.engine.beside import Beside
from understudy.engine.operations import CancelledError, Result, Runner, Running
from understudy.flow.mirror import Comparison, Mirror, Progress, untold
from understudy.flow.probe import Prober
from understudy.flow.recheck import Recheck, Rechecked
from understudy.holders.readback import UNCOMPARED
from understudy.ledger import (
    RESCAN,
    ConflictBook,
    CustodyBook,
    EventBook,
    FactBook,
    GapBook,
    InstanceBook,
    IntakeBook,
    ModeBook,
    ModeRecord,
    ObligationBook,
    OperationBook,
    Transaction,
    unsettled_to,
)

_log = logging.getLogger(__name__)

KIND, SETTLE = "failback", "settle"
_UNDERWAY = (ObligationState.OWED, ObligationState.IN_FLIGHT, ObligationState.SENT)
_DOES = {Sign.SILENT: "does not answer", Sign.REFUSES: "refuses this standby"}
_NOTHING_TO_DO = {ObligationState.PROVEN, ObligationState.WAIVED}
_ANSWERS_WITHIN = 4.0
"""Seconds for which the request that begins a failback waits for the primary's answers to its probes."""
_PAUSE = 30.0
"""Seconds between two comparisons while nothing changes here: the longest wait after a fix at the primary."""
_PATIENCE = 900.0
"""Seconds without progress after which an alarm says what the failback waits for, and how to decide."""
_NAMED = 50
"""Most instances, UIDs or studies that a refusal names one by one."""
_POINT_BACK = "Point every modality back to the PACS, then settle."
_RESCAN = (
    "a rescan has not ended, and it may find instances that are owed: `understudy operations` shows how far "
    "it is"
)
_LOOK_FIRST = "Settle waits until a person has checked each SOP Instance UID that a hint names."


@dataclass(frozen=True, slots=True)
class FailbackPolicy:
    """Settling needs `quiet_period` seconds without a store from any other AE title than the primary's."""

    quiet_period: float
    primary_titles: frozenset[str]
    site: str


class FailbackBooks(Protocol):
    """The books of the ledger that a failback uses."""

    conflicts: ConflictBook
    custody: CustodyBook
    events: EventBook
    facts: FactBook
    gaps: GapBook
    instances: InstanceBook
    intake: IntakeBook
    modes: ModeBook
    obligations: ObligationBook
    operations: OperationBook


class Failback:
    """Carries out a failback; the agent's thread calls `step`, which continues it, for ever."""

    def __init__(
        self,
        ledger: FailbackBooks,
        mirror: Mirror,
        prober: Prober,
        recheck: Recheck,
        clock: Clock,
        policy: FailbackPolicy,
        *,
        holder: HolderName,
        write_report: Callable[[int, Report], str],
        beside: Beside | None = None,
    ) -> None:
        self._ledger = ledger
        self._beside = beside or Beside(clock, in_turn=True)
        """Makes the probes of `begin`: the caller does not wait for one that hangs."""
        self._mirror = mirror
        self._prober = prober
        self._recheck = recheck
        self._clock = clock
        self._policy = policy
        self._holder = holder
        self._write_report = write_report
        self._one_at_a_time = threading.Lock()
        self._settlement = Runner(
            SETTLE, self._settle, ledger, clock, unit="studies", write_report=write_report
        )
        self._compared: tuple[int, float] | None = None
        """The operation whose inventories this process compared last, and when by the monotonic clock."""
        self._left = (0, 0)
        """Instances under way and refused at the last step."""
        self._progress: tuple[tuple[int, ...], Timestamp] | None = None
        """The numbers at the last progress, and its time; None while no failback is under way."""

    def plan(self, progress: Progress = untold) -> PlanView:
        """Compare both inventories and say what a failback would do; changes nothing."""
        at = iso(self._clock.now())
        comparison = self._mirror.compare(self._suspects(), progress=progress)
        to_send: dict[str, int] = {}
        found = 0
        for diff in comparison.diffs:
            # An instance whose UID has another content, too, is sent although its UID is listed.
            listed = [instance.number for instance in diff.found]
            doubtful = len(self._ledger.custody.ambiguous(self._holder, listed))
            found += len(listed) - doubtful
            number = len(diff.to_send) + len(diff.lost) + doubtful
            if number:
                to_send[diff.study] = number
        return PlanView(
            at=at,
            epoch=self._ledger.modes.current().epoch,
            primary_studies=comparison.studies,
            found_at_primary=found,
            to_send=to_send,
            to_pull={str(study): number for study, number in comparison.missing_here().items()},
            lost_at_primary=sum(len(diff.lost) for diff in comparison.diffs),
            refused=self._tally().get(ObligationState.REFUSED, 0),
        )

    def begin(self, who: str, *, epoch: int) -> OperationView:
        """Change active to returning, or continue a failback of this epoch; return its operation.

        Raises PreconditionError unless the primary answers C-ECHO and C-FIND now. A primary that was down has
        to answer as many probes in a row as make it count as up.
        """
        mode = self._ledger.modes.current()
        if mode.mode is Mode.RETURNING and mode.epoch == epoch:
            return self._running() or self._operation_alone()
        seen, unmet = self._answers()
        evidence: dict[str, object] = {}
        if seen is not None:
            last = seen.evidence[0]
            evidence = {"evidence": f"{last.at} echo={last.echo} find={last.find}"}
        self._change(ModeEvent.FAILBACK, epoch, who, evidence, lambda _transaction: unmet)
        return self._operation_alone()

    def _answers(self) -> tuple[Health | None, list[str]]:
        """Probe the primary; return its health, if known in time, and why a failback cannot begin."""
        until = time.monotonic() + _ANSWERS_WITHIN
        for _ in range(GOOD_PROBES_FOR_UP):
            try:
                health = self._beside(self._prober.step).result(timeout=until - time.monotonic())
            except TimeoutError:
                return None, [
                    f"the primary did not answer C-ECHO and C-FIND within {_ANSWERS_WITHIN:g} s: try again"
                ]
            last = health.evidence[0]
            if last.sign is not Sign.ANSWERS:
                does = _DOES.get(last.sign, "is busy")
                return health, [f"the primary {does}: C-ECHO {last.echo}; C-FIND {last.find}"]
            if health.condition is PrimaryCondition.UP:
                # A primary that was up is not asked twice: the caller waits.
                return health, []
        # A waiting probe of the prober's own loop came between ours.
        return health, ["the primary did not answer each of the last probes: try again"]

    def step(self) -> bool:
        """Continue a failback: compare, owe lost instances again, wait for the lane, prove, report.

        Returns whether there was anything to do. Raises HolderUnavailableError if the primary does not
        answer.
        """
        mode = self._ledger.modes.current()
        if mode.mode is Mode.RETURNING and self._prober.health.condition is PrimaryCondition.DOWN:
            self.interrupt("understudy", reason="the primary is down again", epoch=mode.epoch)
            return False
        if self._settlement.step():
            return True
        if mode.mode is not Mode.RETURNING:
            self._progress = None
            return False
        operation = self._operation_alone()
        if operation.state is not OperationState.RUNNING:
            return False
        try:
            return self._carry_on(operation)
        except HolderUnavailableError as error:
            message = f"waiting for the PACS: {error.reason}; it is asked again automatically"
            self._ledger.operations.update(operation.operation, now=self._clock.now(), message=message)
            raise

    def settle(self, who: str, *, epoch: int, override_quiet: str | None) -> OperationView:
        """Begin to settle, or return the running operation; it asks the primary for every instance.

        Raises PreconditionError with each guard that is already known to be unmet.
        """
        mode = self._ledger.modes.current()
        if mode.mode is not Mode.RETURNING or mode.epoch != epoch:
            # Refused by the table, in the same words as every other event in a wrong mode.
            self._change(ModeEvent.SETTLE, epoch, who, {})
        if override_quiet is None and (unmet := self._noise()):
            raise PreconditionError("settle is refused", "each line says what to fix", unmet)
        arguments = {"epoch": epoch, "override_quiet": override_quiet}
        return self._settlement.begin(who, arguments, message="asking the PACS for every study once more")

    def _settle(self, asked: Running) -> Result:
        """Change returning to standby after asking the primary for every instance of the epoch once more.

        Raises PreconditionError naming each instance that the primary does not list, and every other unmet
        guard.
        """
        epoch, override_quiet = asked.arguments["epoch"], asked.arguments["override_quiet"]
        mode = self._ledger.modes.current()
        if mode.mode is Mode.STANDBY and mode.epoch == epoch:
            # The agent was stopped after the change and before the operation's end.
            return Result(self._serves())
        if mode.mode is not Mode.RETURNING or mode.epoch != epoch or not self._is_of(mode, asked.started):
            # The agent was stopped in an interruption, after the change and before this operation's end.
            self._settlement.cancel("its failback was interrupted")
            raise CancelledError
        # Instances that are missing here do not prevent settling: the mirror pulls them afterwards.
        comparison = self._mirror.step(
            self._suspects(), leave=self._gaps(), in_rounds=False, progress=asked.tell
        )
        checked = self._recheck.doubt(before=epoch)
        unmet = [*self._absent(comparison), *self._doubted()]
        self._owe_lost(comparison)
        if unmet:
            # The work goes on under a new operation of the same failback.
            self._operation_alone()
        if self._ledger.operations.latest(RESCAN, running=True) is not None:
            unmet.append(_RESCAN)
        # The questions may have taken long: an instance that came meanwhile is owed, and breaks the quiet.
        self._mirror.note()
        if override_quiet is None:
            unmet += self._noise()

        def guard(transaction: Transaction) -> list[str]:
            asked.assert_running(transaction)
            unsettled = unsettled_to(transaction, self._holder)
            told = [f"the primary has not confirmed {counted(unsettled, 'image')}"] if unsettled else []
            return unmet + told

        fields = {} if override_quiet is None else {"override_quiet": override_quiet}
        self._change(ModeEvent.SETTLE, epoch, asked.who, fields, guard)
        running = self._running()
        if running is not None:
            words = f"{self._proven()}, and the failback is settled"
            self._finish(running, comparison, checked, running.total, words)
        return Result(self._serves(), report=self._report(asked.started, comparison, checked, ()))

    def interrupt(self, who: str, *, reason: str, epoch: int) -> ModeRecord:
        """Change returning back to active; delivered and proven instances stay so."""
        if not reason.strip():
            raise RefusedError("a reason is needed", "say in a few words why; it is written to the event log")
        now = self._clock.now()
        record = self._change(ModeEvent.INTERRUPT, epoch, who, {"reason": reason})
        running = self._running()
        if running is not None:
            self._ledger.operations.update(
                running.operation, now=now, state=OperationState.CANCELLED, message=f"interrupted: {reason}"
            )
        self._settlement.cancel(f"interrupted: {reason}")
        return record

    def alarms(self) -> list[Alarm]:
        """Return the alarm on a failback without progress: what it waits for, and what a person may do."""
        if (progress := self._progress) is None:
            return []
        (_, remaining, gaps, refused), since = progress
        if not self._clock.has_waited(since, _PATIENCE):
            return []
        waits = [
            words
            for number, words in (
                (
                    remaining,
                    f"{counted(remaining, 'image')} not delivered to the primary yet, or not proven there",
                ),
                (gaps, f"the primary does not send {counted(gaps, 'image')} that this standby lacks"),
                (refused, f"the primary refused {counted(refused, 'image')}"),
            )
            if number
        ]
        hint = "`understudy interrupt` stops the failback, and proven images stay proven"
        if remaining or refused:
            hint = f"`understudy obligations --holder {self._holder}` says why; replay or waive them; {hint}"
        elif gaps:
            hint = f"`understudy settle` does not wait for these images, which are fetched afterwards; {hint}"
        else:
            hint = f"`understudy settle` names the studies; {hint}"
        what = f"the failback makes no progress: {'; '.join(waits) or 'the primary gives no usable answer'}"
        return [Alarm(iso(since), what, hint)]

    def _carry_on(self, operation: OperationView) -> bool:
        left = self._still_left()
        if not self._compares_now(operation, left):
            if left != self._left:
                self._left = left
                self._show_progress(operation, 0)
            return False
        history = self._gaps(before=self._ledger.modes.epoch_began(self._ledger.modes.current().epoch))
        comparison = self._mirror.step(self._suspects(), leave=history)
        self._owe_lost(comparison)
        self._compared, self._left = (operation.operation, self._clock.monotonic()), self._still_left()
        gaps = sum(number for study, number in comparison.missing_here().items() if study not in history)
        lost = any(diff.lost for diff in comparison.diffs)
        total = self._show_progress(operation, gaps)
        open_ends = gaps or lost or self._silent_about(comparison)
        if open_ends or self._remaining() > 0 or self._tally().get(ObligationState.REFUSED, 0) > 0:
            return False
        checked = self._recheck.doubt(before=self._ledger.modes.current().epoch)
        if checked.different:
            self._show_progress(operation, gaps)
            return False
        self._finish(
            operation,
            comparison,
            checked,
            total,
            f"{self._proven()}; point the modalities back to it, then settle",
            (_POINT_BACK,),
        )
        return True

    def _compares_now(self, operation: OperationView, left: tuple[int, int]) -> bool:
        """Say whether to ask the primary: at first, when the lane has finished, and then at intervals.

        Between two comparisons, the lane's progress is read from the ledger alone.
        """
        if self._compared is None or self._compared[0] != operation.operation:
            return True
        remaining, _ = left
        elapsed = self._clock.monotonic() - self._compared[1]
        return remaining == 0 and (left != self._left or elapsed >= _PAUSE)

    def _still_left(self) -> tuple[int, int]:
        return self._remaining(), self._tally().get(ObligationState.REFUSED, 0)

    def _finish(
        self,
        operation: OperationView,
        comparison: Comparison,
        checked: Rechecked,
        total: int,
        message: str,
        hints: tuple[str, ...] = (),
    ) -> None:
        self._progress = None
        report = self._report(operation.started, comparison, checked, hints)
        self._ledger.operations.update(
            operation.operation,
            now=self._clock.now(),
            done=total,
            total=total,
            state=OperationState.DONE,
            message=message,
            report=self._write_report(operation.operation, report),
        )
        _log.info("failback done operation=%d instances=%d", operation.operation, total)

    def _proven(self) -> str:
        """Return in words that all instances are proven, and how many were waived."""
        epoch = self._ledger.modes.current().epoch
        proven = sum(number for _, _, number in self._ledger.obligations.proofs_of_epoch(self._holder, epoch))
        waived = sum(number for _, _, number in self._ledger.obligations.waived_of_epoch(self._holder, epoch))
        if waived:
            amount = counted(proven, "image")
            others = "other was" if waived == 1 else "others were"
            return f"The PACS has confirmed {amount} of this outage, and {waived} {others} waived"
        amount = {0: "every image", 1: "the one image"}.get(proven, f"all {proven} images")
        return f"The PACS has confirmed {amount} of this outage"

    def _serves(self) -> str:
        return f"{self._proven()}; it serves the clinic again"

    def _show_progress(self, operation: OperationView, gaps: int) -> int:
        """Write the progress of the operation and return its total in instances."""
        refused = self._tally().get(ObligationState.REFUSED, 0)
        left = (operation.operation, self._remaining(), gaps, refused)
        if self._progress is None or self._progress[0] != left:
            self._progress = (left, self._clock.now())
        remaining = left[1] + gaps
        total = max(operation.total, operation.done + remaining + refused)
        message = f"{counted(remaining, 'image')} to deliver, prove or fetch"
        if refused:
            message += f"; the PACS refused {refused}: replay or waive these"
        self._ledger.operations.update(
            operation.operation,
            now=self._clock.now(),
            done=max(operation.done, total - remaining - refused),
            total=total,
            message=message,
        )
        return total

    def _remaining(self) -> int:
        tally = self._tally()
        return sum(tally.get(state, 0) for state in _UNDERWAY)

    def _absent(self, comparison: Comparison) -> list[str]:
        """Return in words each instance that the primary does not list, and each study without an answer."""
        missing = [instance for diff in comparison.diffs for instance in (*diff.lost, *diff.to_send)]
        told = [
            f"the primary does not list instance {shown(one.sop_instance_uid)} of study "
            f"{shown(one.study_instance_uid)}"
            for one in missing[:_NAMED]
        ]
        if len(missing) > _NAMED:
            told.append(f"the primary does not list {len(missing) - _NAMED} more instances")
        silent = self._silent_about(comparison)
        told += [f"the primary gives no usable answer about study {shown(one)}" for one in silent[:_NAMED]]
        if len(silent) > _NAMED:
            told.append(f"the primary gives no usable answer about {len(silent) - _NAMED} more studies")
        return told

    def _doubted(self) -> list[str]:
        """Return in words the instances of which a person has to look at the content, until one has.

        A PACS that keeps one object per UID has only the last of two patients, although each was proven when
        it came. A PACS that was restored from a backup may have an older content.
        """
        epoch = self._ledger.modes.current().epoch
        other = [
            f"the primary has another content of instance {shown(one.sop_instance_uid)} of study "
            f"{shown(one.study_instance_uid)} than it was proven to have: {hint_of(DIFFERENT)}"
            for one in self._recheck.undecided()[:_NAMED]
        ]
        other += [
            f"an older content of SOP Instance UID {shown(conflict.sop_instance_uid)} took the place of one "
            "of this outage, which the primary does not have: see which of the two it has to have, then "
            f"`understudy conflicts --acknowledge {conflict.conflict} --reason ...`"
            for conflict in self._ledger.conflicts.undone_in_epoch(self._holder, epoch)[:_NAMED]
        ]
        return other + [
            f"SOP Instance UID {shown(conflict.sop_instance_uid)} names two patients, and a PACS may keep "
            "only one image of a UID: check that it has both, then run "
            f"`understudy conflicts --acknowledge {conflict.conflict} --reason ...`"
            for conflict in self._ledger.conflicts.identities_of_epoch(self._holder, epoch)[:_NAMED]
        ]

    def _silent_about(self, comparison: Comparison) -> list[StudyInstanceUid]:
        """Return the studies without a usable answer of which the primary has to have instances."""
        return [study for study in comparison.unanswered if self._is_wanted(study)]

    def _is_wanted(self, study: StudyInstanceUid) -> bool:
        """Whether the primary has to be asked for a study; if it cannot be, proven instances stay proven."""
        known = {ObligationState.WAIVED} if can_be_asked_for(study) else _NOTHING_TO_DO
        return bool(set(self._ledger.obligations.of_study(self._holder, study).values()) - known)

    def _gaps(self, *, before: Timestamp | None = None) -> set[StudyInstanceUid]:
        """Return the studies with a known gap; with `before`, only gaps that are older than this moment.

        The mirror pulls older gaps after the failback: otherwise an archive that was half mirrored before the
        outage would keep the failback from ending.
        """
        waited = self._clock.waited
        gaps = self._ledger.gaps.read()
        return {gap.study for gap in gaps if before is None or waited(gap.since) > waited(before)}

    def _owe_lost(self, comparison: Comparison) -> None:
        lost = [instance.number for diff in comparison.diffs for instance in diff.lost]
        now = self._clock.now()
        reason = "the primary was proven to have it and does not list it any more"
        self._ledger.custody.disprove(self._holder, lost, reason=reason, now=now, due=now)

    def _noise(self) -> list[str]:
        last = self._ledger.intake.last_store(except_from=self._policy.primary_titles)
        if last is None:
            return []
        if last > self._clock.now():
            # This time hides later stores, so it cannot show that nobody has stored since.
            return [
                f"the last store of a modality here is dated {iso(last)}, in the future: the clock was set "
                "back, so nobody knows how long ago it was. Check that every modality is pointed back to the "
                "primary, then override the quiet period with a reason"
            ]
        quiet = self._clock.waited(last)
        if quiet >= self._policy.quiet_period:
            return []
        return [
            f"a modality stored here {quiet:.0f} s ago, and settle needs {self._policy.quiet_period:.0f} s "
            "without a store: point the modality back to the primary and wait, or override the quiet period "
            "with a reason"
        ]

    def _suspects(self) -> set[StudyInstanceUid]:
        return self._ledger.instances.studies_of_epoch(self._ledger.modes.current().epoch)

    def _tally(self) -> Mapping[ObligationState, int]:
        return self._ledger.obligations.tally().get(self._holder, {})

    def _running(self) -> OperationView | None:
        return self._ledger.operations.latest(KIND, running=True)

    def _operation_alone(self) -> OperationView:
        """Return the operation of the present failback; only one thread begins it."""
        with self._one_at_a_time:
            self._drop_stale()
            return self._operation()

    def _drop_stale(self) -> None:
        """End an operation that a crash left running after its failback had ended."""
        running = self._running()
        if running is not None and not self._is_of(self._ledger.modes.current(), running.started):
            self._ledger.operations.update(
                running.operation,
                now=self._clock.now(),
                state=OperationState.CANCELLED,
                message="its failback ended while the agent was stopped",
            )

    def _is_of(self, mode: ModeRecord, started: float) -> bool:
        """Say whether an operation was begun since the mode changed: its number alone does not tell.

        If the change of mode lies ahead, the clock was set back since. The operation then counts as one of
        this failback: a new one would be no more certain.
        """
        return started >= mode.since or mode.since > self._clock.now()

    def _change(
        self,
        event: ModeEvent,
        epoch: int,
        who: str,
        fields: Mapping[str, object],
        guard: Callable[[Transaction], list[str]] | None = None,
    ) -> ModeRecord:
        return self._ledger.modes.change(
            event, epoch=epoch, who=who, fields=fields, now=self._clock.now(), guard=guard
        )

    def _operation(self) -> OperationView:
        """Return the running operation, the finished one if nothing new is owed, or a new one."""
        running = self._running()
        if running is not None:
            return running
        mode = self._ledger.modes.current()
        remaining = self._remaining() + self._tally().get(ObligationState.REFUSED, 0)
        latest = self._ledger.operations.latest(KIND)
        if (
            latest is not None
            and latest.state is OperationState.DONE
            and self._is_of(mode, latest.started)
            and remaining == 0
        ):
            return latest
        return self._ledger.operations.begin(
            KIND,
            total=remaining,
            unit="instances",
            message="comparing the images here and at the PACS",
            now=self._clock.now(),
        )

    def _report(
        self, started: Timestamp, comparison: Comparison, checked: Rechecked, hints: tuple[str, ...]
    ) -> Report:
        epoch = self._ledger.modes.current().epoch
        delivered = self._ledger.obligations.proofs_of_epoch(self._holder, epoch)
        studies = sorted({study for study, _, _ in delivered})
        per_kind: dict[str, int] = {}
        for _, kind, number in delivered:
            per_kind[kind.value] = per_kind.get(kind.value, 0) + number
        absent = sum(len(diff.lost) + len(diff.to_send) for diff in comparison.diffs)
        rows = [[study, kind.value, str(number)] for study, kind, number in delivered]
        waived = self._ledger.obligations.waived_of_epoch(self._holder, epoch)
        given_up = [[study, str(number), reason] for study, reason, number in waived]
        doubted = self._doubted()
        uncompared = self._ledger.obligations.proofs_of_epoch_with(self._holder, epoch, UNCOMPARED)
        return Report(
            title=f"Failback of epoch {epoch}",
            kind=KIND,
            site=self._policy.site,
            started=iso(started),
            finished=iso(self._clock.now()),
            succeeded=absent == 0,
            outcome=f"{self._proven()}." + (f" {_LOOK_FIRST}" if doubted else ""),
            summary=(
                ReportRow("Epoch", str(epoch)),
                ReportRow("Studies of this outage", str(len(studies))),
                *(
                    ReportRow(f"Images proven by {kind}", str(number))
                    for kind, number in sorted(per_kind.items())
                ),
                ReportRow("Studies that the PACS lists", str(comparison.studies)),
                ReportRow("Images waived: the PACS never gets them", str(sum(n for _, _, n in waived))),
                ReportRow("Images of a UID with two contents, not compared", str(uncompared)),
                *checked.rows,
                ReportRow("Images missing at the PACS", str(absent)),
                ReportRow("Images missing here", str(sum(comparison.missing_here().values()))),
                ReportRow("Studies without a usable answer", str(len(comparison.unanswered))),
            ),
            tables=(
                ReportTable("Images by study and proof", ("Study Instance UID", "Proof", "Images"), rows),
                ReportTable("Waived images", ("Study Instance UID", "Images", "Reason"), given_up),
                *checked.tables,
            ),
            hints=(*doubted, *hints),
        )
