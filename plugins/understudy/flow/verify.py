"""Verify: ask every holder again for every instance that it was proven to have; check the event log.

A sample of the primary's instances is compared by content (flow/recheck.py), and only reported.

After a restart it continues after the last page that was asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from understudy.core.model import InstanceNumber
from understudy.core.obligations import ObligationState
from understudy.core.ports import Clock, Holder, HolderUnavailableError
from understudy.core.refusals import DIFFERENT, hint_of
from understudy.core.report import Report, ReportRow, ReportTable
from understudy.core.text import counted
from understudy.core.views import OperationView, iso
from understudy.engine.operations import Result, Runner, Running
from understudy.flow.recheck import Recheck, Rechecked
from understudy.ledger import CustodyBook, EventBook, FactBook, ObligationBook, OperationBook

KIND = "verify"
_PAGE = 500
_UNANSWERED_IN_A_ROW = 3
"""Pages without an answer after which the holder counts as away."""


class VerifierBooks(Protocol):
    """The books of the ledger that the verification uses."""

    custody: CustodyBook
    events: EventBook
    facts: FactBook
    obligations: ObligationBook
    operations: OperationBook


@dataclass(frozen=True, slots=True)
class _Answers:
    """One holder's answers so far; `after` is the last instance that it was asked for."""

    after: int = 0
    asked: int = 0
    """Instances with an answer."""
    lost: int = 0
    unanswered: int = 0
    in_a_row: int = 0
    """Pages without an answer since the last answer."""
    why: str = ""
    """Why the first of the unanswered pages got no answer."""
    ended: bool = False

    @property
    def reason(self) -> str:
        """Why some instances have no answer; empty if all have one."""
        if not self.unanswered:
            return ""
        away = self.in_a_row >= _UNANSWERED_IN_A_ROW
        left_out = f"; instances after number {self.after} were not asked for" if away else ""
        return f"{self.why}{left_out}; no answer for {counted(self.unanswered, 'image')}"


class Verifier:
    """One verification at a time; one `step` does all of the running verification."""

    def __init__(
        self,
        ledger: VerifierBooks,
        holders: Sequence[Holder],
        clock: Clock,
        *,
        site: str,
        write_report: Callable[[int, Report], str],
        recheck: Recheck | None,
    ) -> None:
        """`recheck` compares a sample of the primary's contents; None if there is no primary."""
        self._ledger = ledger
        self._holders = holders
        self._recheck = recheck
        self._clock = clock
        self._site = site
        self._runner = Runner(KIND, self._verify, ledger, clock, unit="proofs", write_report=write_report)

    def begin(self, who: str) -> OperationView:
        """Start a verification, or return the running one."""
        return self._runner.begin(who, total=self._proofs(), message="asking the holders")

    def step(self) -> bool:
        """Do the running verification if there is one; return whether there was one."""
        return self._runner.step()

    def _proofs(self) -> int:
        tally = self._ledger.obligations.tally()
        return sum(tally.get(holder.name, {}).get(ObligationState.PROVEN, 0) for holder in self._holders)

    def _verify(self, asked: Running) -> Result:
        known = {name: _Answers(**answers) for name, answers in asked.kept.items()}
        for holder in self._holders:
            answers = known.get(holder.name, _Answers())
            while not answers.ended:
                answers = known[holder.name] = self._ask(holder, answers)
                asked.keep({name: asdict(one) for name, one in known.items()})
                done = sum(one.asked for one in known.values())
                asked.tell(done, max(done, self._proofs()), f"asking {holder.name}")
        return self._ended(asked, known)

    def _ask(self, holder: Holder, known: _Answers) -> _Answers:
        """Ask for one more page and owe again the instances that are gone.

        One page without an answer, for a bad sector or a study that is listed in part, does not end the
        holder's verification; some in a row do.
        """
        page = self._ledger.obligations.proven(holder.name, after=InstanceNumber(known.after), limit=_PAGE)
        if not page:
            return replace(known, ended=True)
        after = int(page[-1].number)
        try:
            found = holder.find(page)
        except HolderUnavailableError as error:
            in_a_row = known.in_a_row + 1
            return replace(
                known,
                after=after,
                unanswered=known.unanswered + len(page),
                in_a_row=in_a_row,
                why=known.why or error.reason,
                ended=in_a_row == _UNANSWERED_IN_A_ROW,
            )
        gone = [instance.number for instance in page if instance.number not in found]
        now = self._clock.now()
        self._ledger.custody.disprove(
            holder.name, gone, reason="verify did not find it there", now=now, due=now
        )
        return replace(
            known, after=after, asked=known.asked + len(page), lost=known.lost + len(gone), in_a_row=0
        )

    def _ended(self, asked: Running, known: dict[str, _Answers]) -> Result:
        problems: list[str] = []
        rows: list[Sequence[str]] = []
        for name, one in known.items():
            rows.append((name, str(one.asked), str(one.asked - one.lost), str(one.lost), one.reason))
            if one.reason:
                problems.append(f"{name}: {one.reason}")
            if one.lost:
                problems.append(f"{name}: {counted(one.lost, 'image is', 'images are')} gone and owed again")
        checked = Rechecked() if self._recheck is None else self._recheck.look()
        if checked.different:
            problems.append(
                f"primary: {counted(len(checked.different), 'image')} of the sample with another content "
                f"there, named in the report: {hint_of(DIFFERENT)}"
            )
        problems += self._ledger.events.contradictions()
        last = self._ledger.events.last()
        report = Report(
            title="Verification of every proof",
            kind=KIND,
            site=self._site,
            started=iso(asked.started),
            finished=iso(self._clock.now()),
            succeeded=not problems,
            outcome="; ".join(problems) or "Every holder shows every instance that it was proven to have.",
            summary=(
                ReportRow(
                    "Instances asked for, over all holders", str(sum(one.asked for one in known.values()))
                ),
                ReportRow("Last event, and its hash", "" if last is None else f"{last.event} {last.chain}"),
                *(() if self._recheck is None else checked.rows),
            ),
            tables=(
                ReportTable("Holders", ("Holder", "Asked for", "Found", "Lost", "Not asked because"), rows),
                *checked.tables,
            ),
        )
        return Result(report.outcome, succeeded=not problems, report=report)
