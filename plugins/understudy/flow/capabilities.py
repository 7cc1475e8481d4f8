"""Capabilities: `understudy probe` asks the primary what it can do, and keeps the result."""

from collections.abc import Callable, Sequence

from pydantic import TypeAdapter

from understudy.core.capabilities import Ability, CapabilitiesView, Capability, changes, verdict
from understudy.core.ports import Clock
from understudy.core.report import Report, ReportRow, ReportTable
from understudy.core.views import OperationView, iso
from understudy.engine.operations import Result, Runner, RunnerBooks, Running
from understudy.flow.interview import Interview, Known, Question, Reply

KIND = "probe"
_LAST = "probe.last"
_VIEW = TypeAdapter(CapabilitiesView)


class CapabilityProbe:
    """`step` does a probe if one was asked for; the last result is kept."""

    def __init__(
        self,
        interview: Interview,
        ledger: RunnerBooks,
        clock: Clock,
        *,
        site: str,
        write_report: Callable[[int, Report], str],
    ) -> None:
        self._interview = interview
        self._ledger = ledger
        self._clock = clock
        self._site = site
        self._runner = Runner(KIND, self._probe, ledger, clock, unit="questions", write_report=write_report)

    def begin(self, who: str) -> OperationView:
        """Begin a probe, or return the running one. After a restart it begins again."""
        return self._runner.begin(
            who, total=len(self._interview.questions), message="asks the primary what it can do"
        )

    def step(self) -> bool:
        """Do a probe if one was asked for; return whether one was."""
        return self._runner.step()

    def last(self) -> CapabilitiesView | None:
        """Return the result of the last probe, None if there was none."""
        known = self._ledger.facts.read(_LAST)
        return None if known is None else _VIEW.validate_json(known)

    def _probe(self, asked: Running) -> Result:
        began, known = self._clock.monotonic(), Known()
        found: list[Capability] = []
        for number, step in enumerate(self._interview.questions):
            asked.tell(number, len(self._interview.questions), f"asks for: {step.name}")
            answer = self._answer(step, known, found)
            found.append(
                Capability(
                    step.name, step.needed, answer.ability, answer.finding, answer.evidence, answer.meaning
                )
            )
        before = self.last()
        suits, sentence = verdict(found)
        view = CapabilitiesView(
            at=asked.started,
            seconds=round(self._clock.monotonic() - began, 1),
            ae_title=self._interview.peer.ae_title,
            host=self._interview.peer.host,
            port=self._interview.peer.port,
            suits=suits,
            verdict=sentence,
            capabilities=found,
            suggestions=known.suggestions,
            changes=[] if before is None else changes(before.capabilities, found),
        )
        self._ledger.facts.write(_LAST, _VIEW.dump_json(view).decode())
        return Result(sentence, succeeded=suits, report=self._report(view))

    def _answer(self, step: Question, known: Known, found: Sequence[Capability]) -> Reply:
        """Ask, and return an answer in any case; after a failed association nothing more is asked."""
        if found and found[0].ability is not Ability.WORKS:
            return Reply(Ability.UNKNOWN, "not asked", "there is no association with it")
        return self._interview.answer(step, known)

    def _report(self, view: CapabilitiesView) -> Report:
        return Report(
            title="What the PACS can do",
            kind=KIND,
            site=self._site,
            started=iso(view.at),
            finished=iso(self._clock.now()),
            succeeded=view.suits,
            outcome=view.verdict,
            summary=(
                ReportRow("PACS", f"{view.ae_title} at {view.host}:{view.port}"),
                ReportRow("Time that the questions took", f"{view.seconds} s"),
                *(ReportRow("Changed since the last probe", change) for change in view.changes),
                *(ReportRow(f"Set {one.key}", f"{one.value}: {one.because}") for one in view.suggestions),
            ),
            tables=(
                ReportTable(
                    "Capabilities",
                    ("What", "Needed", "State", "Finding", "Evidence", "What it means here"),
                    [
                        (
                            one.name,
                            "yes" if one.needed else "no",
                            one.ability.value,
                            one.finding,
                            one.evidence,
                            one.meaning,
                        )
                        for one in view.capabilities
                    ],
                ),
            ),
        )
