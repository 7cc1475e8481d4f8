"""Rescan: compare all instances in Orthanc with the ledger after Orthanc's index was replaced.

Rule 1: obligations and proofs stay. Unknown instances are noted, new names of files are recorded, and
instances that Orthanc does not list any more are reported.
Rule 2: a missing instance is not restored by itself: a person may have deleted it long before.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from understudy.core.model import InstanceNumber
from understudy.core.ports import Clock
from understudy.core.report import Report, ReportRow, ReportTable
from understudy.core.text import counted
from understudy.core.views import Alarm, OperationState, OperationView, iso
from understudy.flow.note import Noter
from understudy.ledger import RESCAN, EventBook, FileBook, InstanceBook, OperationBook

_log = logging.getLogger(__name__)

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
    files: FileBook
    instances: InstanceBook
    operations: OperationBook


class Rescanner:
    """Does the running rescan, one page a step; after each page it waits as long as the page took.

    The operation's `done` is the number of the last instance that was compared: a killed rescan continues
    there.
    """

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
        self._write_report = write_report

    def step(self) -> bool:
        """Compare a page if a rescan is running; return whether there is more to do now."""
        operation = self._ledger.operations.latest(RESCAN, running=True)
        if operation is None or not self._is_read_in():
            return False
        began = self._clock.monotonic()
        if operation.done == 0:
            self._noter.reconcile()
        page = self._ledger.instances.after(InstanceNumber(operation.done), _PAGE, with_gone=True)
        if not page:
            self._finish(operation)
            return False
        gone = self._noter.compare(page)
        missing = {instance.number for instance in gone}
        there = [instance.attachment_uuid for instance in page if instance.number not in missing]
        now = self._clock.now()
        self._ledger.files.compared(there, gone, now)
        self._ledger.operations.update(operation.operation, now=now, done=page[-1].number)
        return self._wait(self._clock.monotonic() - began)

    def alarms(self) -> Sequence[Alarm]:
        """Return an alarm while a rescan is running, and for a week after it if instances are missing."""
        running = self._ledger.operations.latest(RESCAN, running=True)
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

    def _finish(self, operation: OperationView) -> None:
        now = self._clock.now()
        number, _ = self._ledger.files.gone()
        outcome = (
            counted(number, "image that was here is", "images that were here are")
            + " not in Orthanc's index any more"
            if number
            else "Orthanc has every image that the ledger knows."
        )
        report = Report(
            title="Rescan of Orthanc's index",
            kind=RESCAN,
            site=self._site,
            started=iso(operation.started),
            finished=iso(now),
            succeeded=not number,
            outcome=outcome,
            summary=(
                ReportRow("Why", operation.message),
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
        self._ledger.operations.update(
            operation.operation,
            now=now,
            total=operation.done,
            state=OperationState.FAILED if number else OperationState.DONE,
            message=outcome,
            report=self._write_report(operation.operation, report),
        )
        self._ledger.events.log("understudy", RESCAN, {"missing": number}, now)
        _log.warning("rescan done operation=%d missing=%d", operation.operation, number)
