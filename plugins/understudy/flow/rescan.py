"""Rescan: compare all instances in Orthanc with the ledger after Orthanc's index was replaced.

Rule 1: obligations and proofs stay. Unknown instances are noted, new names of files are recorded, and
instances that Orthanc does not list any more are reported.
Rule 2: a missing instance is not restored by itself: a person may have deleted it long before.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from understudy.core.model import InstanceNumber
from understudy.core.ports import Clock
from understudy.core.report import Report, ReportRow, ReportTable
from understudy.core.text import counted
from understudy.core.views import Alarm, iso
from understudy.engine.operations import Result, Runner, Running, StoppedError
from understudy.flow.note import Noter
from understudy.ledger import RESCAN, EventBook, FactBook, FileBook, InstanceBook, OperationBook

_PAGE = 200
_SHOWN = 1000

_TOLD_FOR = 7 * 86_400.0
"""Seconds for which missing instances are an alarm."""

_HINT = (
    "no obligation is lost; docs/runbook.md (Orthanc's index was replaced) says how to bring missing images "
    "back"
)


class RescanBooks(Protocol):
    """The books of the ledger that a rescan uses."""

    events: EventBook
    facts: FactBook
    files: FileBook
    instances: InstanceBook
    operations: OperationBook


class Rescanner:
    """Does the rescan that the noter began; after each page it waits as long as the page took."""

    def __init__(
        self,
        ledger: RescanBooks,
        noter: Noter,
        clock: Clock,
        *,
        is_read_in: Callable[[], bool],
        wait: Callable[[float], bool],
        site: str,
        write_report: Callable[[int, Report], str],
    ) -> None:
        self._ledger = ledger
        self._noter = noter
        self._clock = clock
        self._is_read_in = is_read_in
        """Whether Orthanc has indexed all files that its start found without a row in the index."""
        self._wait = wait
        """Waits for the given seconds and returns False if the appliance stops."""
        self._site = site
        self._runner = Runner(
            RESCAN, self._compare_all, ledger, clock, unit="instances", write_report=write_report
        )

    def step(self) -> bool:
        """Continue the running rescan; return whether there was one."""
        return self._is_read_in() and self._runner.step()

    def alarms(self) -> Sequence[Alarm]:
        """Return an alarm while a rescan is running, and for a week after it if instances are missing."""
        running = self._runner.running()
        if running is not None:
            what = (
                f"Orthanc's index was replaced or restored ({running.message}): all images are compared again"
            )
            return (Alarm(iso(running.started), what, _HINT),)
        number, since = self._ledger.files.gone()
        if since is None or self._clock.has_waited(since, _TOLD_FOR):
            return ()
        missing = counted(number, "image that was", "images that were")
        what = f"Orthanc's index was replaced or restored, and it lacks {missing} here"
        return (Alarm(iso(since), what, _HINT),)

    def _compare_all(self, running: Running) -> Result:
        """Compare page by page. `done` is the number of the last instance that was compared."""
        after = running.kept.get("after", 0)
        if not after:
            self._noter.reconcile()
        while True:
            began = self._clock.monotonic()
            page = self._ledger.instances.after(InstanceNumber(after), _PAGE, with_gone=True)
            if not page:
                return self._result(running)
            gone = self._noter.compare(page)
            missing = {instance.number for instance in gone}
            there = [instance.attachment_uuid for instance in page if instance.number not in missing]
            self._ledger.files.compared(there, gone, self._clock.now())
            after = page[-1].number
            running.keep({"after": after})
            running.tell(after, max(after, running.total))
            if not self._wait(self._clock.monotonic() - began):
                raise StoppedError

    def _result(self, running: Running) -> Result:
        number, _ = self._ledger.files.gone()
        outcome = (
            counted(number, "image that was here is", "images that were here are")
            + " not in Orthanc's index any more"
            if number
            else "Orthanc has every image that the ledger knows."
        )
        now = self._clock.now()
        self._ledger.events.log("understudy", RESCAN, {"missing": number}, now)
        report = Report(
            title="Rescan of Orthanc's index",
            kind=RESCAN,
            site=self._site,
            started=iso(running.started),
            finished=iso(now),
            succeeded=not number,
            outcome=outcome,
            summary=(
                ReportRow("Why", running.message),
                ReportRow("Images in Orthanc", str(self._ledger.instances.counts()[0])),
                ReportRow("Missing", str(number)),
            ),
            tables=(
                ReportTable(
                    "Missing, by study",
                    ("Study Instance UID", "Images"),
                    [(study, str(count)) for study, count in self._ledger.files.gone_by_study(_SHOWN)],
                ),
            ),
        )
        return Result(outcome, succeeded=not number, report=report)
