"""Scrub: read every stored file from the disk and compare it with its MD5, slowly and for ever.

Rule 1: the progress is in the ledger after every page, so that a restart continues from there.
Rule 2: a missing or changed file is damage only if Orthanc still lists it; a deleted instance is none.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Protocol

from understudy.core.model import Instance, InstanceNumber, Timestamp
from understudy.core.ports import Clock
from understudy.core.report import Report, ReportRow, ReportTable
from understudy.core.views import OperationView, iso
from understudy.engine.operations import Result, Runner, Running, StoppedError
from understudy.flow.heal import Disk, OrthancFiles
from understudy.ledger import EventBook, FactBook, FileBook, InstanceBook, OperationBook

_log = logging.getLogger(__name__)

KIND = "scrub"
_READS = "reading every stored file"
_PAGE = 100
_SHOWN_PROBLEMS = 1000
_ROUND, _LAST = "scrub.round", "scrub.last"
_SECONDS_OF_A_STEP = 5.0


@dataclass(frozen=True, slots=True)
class Round:
    """The progress of one reading of all files; `after` is the last instance that was read."""

    began: Timestamp
    after: int = 0
    files: int = 0
    size: int = 0
    """Bytes read."""
    damaged: int = 0
    ended: float | None = None


class ScrubBooks(Protocol):
    """The books of the ledger that the scrub uses."""

    events: EventBook
    facts: FactBook
    files: FileBook
    instances: InstanceBook
    operations: OperationBook


class Scrubber:
    """`step` reads at a limited rate, or at full speed if a person asked for it."""

    def __init__(
        self,
        ledger: ScrubBooks,
        disk: Disk,
        index: OrthancFiles,
        clock: Clock,
        *,
        rate: int,
        interval: float,
        wait: Callable[[float], bool],
        site: str,
        write_report: Callable[[int, Report], str],
        on_damage: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._disk = disk
        self._index = index
        self._clock = clock
        self._rate = rate
        self._interval = interval
        self._wait = wait
        """Waits for the given seconds and returns False if the appliance stops."""
        self._site = site
        self._on_damage = on_damage
        self._runner = Runner(KIND, self._scrub, ledger, clock, unit="files", write_report=write_report)

    def begin(self, who: str) -> OperationView:
        """Start a scrub at full speed, or return the running one."""
        total, _ = self._ledger.instances.counts()
        return self._runner.begin(who, total=total, message=_READS)

    @property
    def present(self) -> Round | None:
        """The paced round that is running, or the last one until the next begins."""
        return self._read(_ROUND)

    @property
    def last(self) -> Round | None:
        """The last reading that was completed, paced or at full speed."""
        return self._read(_LAST)

    def step(self) -> bool:
        """Do the scrub that was asked for, or continue the paced round; return whether there is more now."""
        if self._runner.step():
            return True
        known = self.present
        if known is None or (known.ended is not None and self._clock.is_due(known.began, self._interval)):
            known = Round(self._clock.now())
        if known.ended is not None:
            return False
        known, more = self._page(known, self._paced, until=self._clock.monotonic() + _SECONDS_OF_A_STEP)
        if not more:
            known = replace(known, ended=self._clock.now())
            self._write(_LAST, known)
            _log.info("scrub ended files=%d bytes=%d damaged=%d", known.files, known.size, known.damaged)
        self._write(_ROUND, known)
        return more

    def _paced(self, size: int) -> bool:
        return self._wait(size / self._rate)

    def _page(
        self, done: Round, paced: Callable[[int], bool], *, until: float | None = None
    ) -> tuple[Round, bool]:
        """Read one more page; return the progress and whether there is more.

        `until` is a moment of the monotonic clock.
        """
        page = self._ledger.instances.after(InstanceNumber(done.after), _PAGE)
        for instance in page:
            found = self._disk.damage(instance, paced)
            if found is None:
                return done, True
            damaged = found != "" and self._record(instance, found)
            done = replace(
                done,
                after=instance.number,
                files=done.files + 1,
                size=done.size + instance.size,
                damaged=done.damaged + damaged,
            )
            if until is not None and self._clock.monotonic() >= until:
                return done, True
        return done, len(page) == _PAGE

    def _record(self, instance: Instance, reason: str) -> bool:
        """Record damage and have it healed; return whether it is damage."""
        if self._index.file_of(instance.orthanc_id) != instance.attachment_uuid:
            # It was deleted, or stored again during the read: the note records the new file in the ledger.
            return False
        now = self._clock.now()
        if self._ledger.files.damaged(instance, found_by=KIND, reason=reason, now=now):
            _log.error("scrub damage file=%s because=%s", instance.attachment_uuid, reason)
        self._on_damage()
        return True

    def _scrub(self, asked: Running) -> Result:
        """Read everything at full speed."""
        done, more = Round(**asked.kept) if asked.kept else Round(asked.started), True
        while more:
            before = done.after
            done, more = self._page(done, lambda _: self._wait(0.0))
            asked.keep(asdict(done))
            if more and done.after == before:
                raise StoppedError
            total, _ = self._ledger.instances.counts()
            message = f"{done.damaged} damaged so far" if done.damaged else _READS
            asked.tell(done.files, max(done.files, total), message)
        done = replace(done, ended=self._clock.now())
        self._write(_LAST, done)
        return self._result(asked, done)

    def _result(self, asked: Running, done: Round) -> Result:
        waited = self._clock.waited
        rows = [
            (view.file, view.sop_instance_uid, view.state.value, view.reason)
            for view in self._ledger.files.damages(limit=_SHOWN_PROBLEMS)
            # What was found earlier is left out; the clock may have been set meanwhile.
            if waited(view.since) <= waited(asked.started)
        ]
        outcome = (
            f"{done.damaged} stored files are missing or changed: understudy damages says which"
            if done.damaged
            else "Every stored file has the bytes that it was stored with."
        )
        report = Report(
            title="Scrub of every stored file",
            kind=KIND,
            site=self._site,
            started=iso(asked.started),
            finished=iso(self._clock.now()),
            succeeded=not done.damaged,
            outcome=outcome,
            summary=(
                ReportRow("Files read from the disk", str(done.files)),
                ReportRow("Bytes read", str(done.size)),
                ReportRow("Missing or changed", str(done.damaged)),
            ),
            tables=(ReportTable("Found by this scrub", ("File", "SOP Instance UID", "State", "What"), rows),),
        )
        return Result(outcome, succeeded=not done.damaged, report=report)

    def _read(self, name: str) -> Round | None:
        text = self._ledger.facts.read(name)
        return None if text is None else Round(**json.loads(text))

    def _write(self, name: str, value: Round) -> None:
        self._ledger.facts.write(name, json.dumps(asdict(value)))
