"""Verify: ask every holder again for all that it was proven to have, and the event log for its chain."""

import logging
from collections.abc import Callable, Sequence

from understudy.adapters.ledger import Ledger
from understudy.core.model import InstanceNumber
from understudy.core.obligations import ObligationState
from understudy.core.ports import Clock, Holder, HolderUnavailableError
from understudy.core.report import Report, ReportRow, ReportTable
from understudy.core.views import OperationState, OperationView, iso

_log = logging.getLogger(__name__)

KIND = "verify"
_PAGE = 500
_UNANSWERED_IN_A_ROW = 3
"""Pages without an answer after which the holder counts as away."""


class Verifier:
    """One verification at a time; `step` does the running one whole, and after a crash from the start."""

    def __init__(
        self,
        ledger: Ledger,
        holders: Sequence[Holder],
        clock: Clock,
        *,
        site: str,
        write_report: Callable[[int, Report], str],
    ) -> None:
        self._ledger = ledger
        self._holders = holders
        self._clock = clock
        self._site = site
        self._write_report = write_report

    def begin(self, who: str) -> OperationView:
        """Start a verification, or return the running one."""
        running = self._running()
        if running is not None:
            return running
        now = self._clock.now()
        self._ledger.log(who, KIND, {}, now)
        tally = self._ledger.tally()
        total = sum(tally.get(holder.name, {}).get(ObligationState.PROVEN, 0) for holder in self._holders)
        return self._ledger.begin_operation(
            KIND, total=total, unit="proofs", message="asking the holders", now=now
        )

    def step(self) -> bool:
        """Do the running verification, if there is one; return whether there was."""
        operation = self._running()
        if operation is None:
            return False
        rows: list[Sequence[str]] = []
        problems: list[str] = []
        done = 0
        for holder in self._holders:
            asked, lost, reason = self._ask(holder, operation.operation, done)
            done += asked
            rows.append((holder.name, str(asked), str(asked - lost), str(lost), reason))
            if reason:
                problems.append(f"{holder.name}: {reason}")
            if lost:
                problems.append(f"{holder.name}: {lost} instances are gone and are owed again")
            if self._ledger.operation(operation.operation).state is not OperationState.RUNNING:
                return True
        problems += self._ledger.contradictions()
        self._finish(operation, done, rows, problems)
        return True

    def _ask(self, holder: Holder, operation: int, done: int) -> tuple[int, int, str]:
        """Return for how many instances there was an answer, how many are lost, and why others had none.

        A page without an answer, for a bad sector or a study listed in part, ends nothing; some in a row do.
        """
        asked = lost = unanswered = in_a_row = 0
        why = ""
        after = InstanceNumber(0)
        while page := self._ledger.proven(holder.name, after=after, limit=_PAGE):
            after = page[-1].number
            try:
                found = holder.find(page)
            except HolderUnavailableError as error:
                why = why or error.reason
                unanswered += len(page)
                in_a_row += 1
                if in_a_row == _UNANSWERED_IN_A_ROW:
                    why = f"{why}; nothing after instance {after} was asked for"
                    break
                continue
            in_a_row = 0
            gone = [instance.number for instance in page if instance.number not in found]
            now = self._clock.now()
            self._ledger.disprove(holder.name, gone, reason="verify did not find it there", now=now, due=now)
            asked += len(page)
            lost += len(gone)
            view = self._ledger.update_operation(
                operation, now=now, done=done + asked, message=f"asking {holder.name}"
            )
            if view.state is not OperationState.RUNNING:
                break
        return asked, lost, f"{why}; no answer for {unanswered} instances" if unanswered else ""

    def _finish(
        self, operation: OperationView, done: int, rows: Sequence[Sequence[str]], problems: Sequence[str]
    ) -> None:
        now = self._clock.now()
        last = self._ledger.last_event()
        report = Report(
            title="Verification of every proof",
            kind=KIND,
            site=self._site,
            started=operation.started,
            finished=iso(now),
            succeeded=not problems,
            outcome="; ".join(problems) or "Every holder shows every instance that it was proven to have.",
            summary=(
                ReportRow("Instances asked for, over all holders", str(done)),
                ReportRow("Last event, and its hash", "" if last is None else f"{last.event} {last.chain}"),
            ),
            tables=(
                ReportTable("Holders", ("Holder", "Asked for", "Found", "Lost", "Not asked because"), rows),
            ),
        )
        self._ledger.update_operation(
            operation.operation,
            now=now,
            done=done,
            total=done,
            state=OperationState.FAILED if problems else OperationState.DONE,
            message=report.outcome,
            report=self._write_report(operation.operation, report),
        )
        _log.info("verify done operation=%d proofs=%d problems=%d", operation.operation, done, len(problems))

    def _running(self) -> OperationView | None:
        return self._ledger.latest_operation(KIND, running=True)
