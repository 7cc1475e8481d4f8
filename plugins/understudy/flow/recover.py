"""Recover: learn what the last start of Orthanc found in its storage area, and raise the alarms."""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from understudy.core.model import Timestamp
from understudy.core.ports import Clock
from understudy.core.text import counted
from understudy.core.views import Alarm, DamageState, FilesView, iso
from understudy.engine.board import Watch
from understudy.flow.scrub import Scrubber
from understudy.ledger import EventBook, FactBook, FileBook, InstanceBook

_log = logging.getLogger(__name__)

KIND = "recover"
_TOLD = "recover.told"


class UnreadableRow(Protocol):
    """One row of Orthanc's index without a readable file."""

    @property
    def orthanc_id(self) -> str: ...

    @property
    def file(self) -> str: ...

    @property
    def is_dicom(self) -> bool: ...

    @property
    def found_size(self) -> int: ...


class Boot(Protocol):
    """The report of one start (adapters/boot.py)."""

    @property
    def at(self) -> float: ...

    @property
    def statistics_in_force(self) -> bool: ...

    @property
    def problem(self) -> str: ...

    @property
    def folders_left(self) -> int: ...

    @property
    def recoverable(self) -> int: ...

    @property
    def quarantined(self) -> int: ...

    @property
    def unreadable(self) -> int: ...

    @property
    def parked(self) -> int: ...

    @property
    def ended(self) -> str: ...

    @property
    def listed(self) -> Sequence[UnreadableRow]: ...


class StartReports(Protocol):
    """The files that a start leaves in the storage area."""

    def boot(self) -> Boot | None:
        """Return the last start's report; None before the first."""
        ...

    def result(self) -> dict[str, int]:
        """Return the counts of files by result of their recovery; empty if none was tried yet."""
        ...

    def in_quarantine(self) -> int: ...

    def parked(self) -> int: ...

    def ends(self) -> Sequence[tuple[float, str]]: ...

    def waiting(self) -> int: ...


@dataclass(frozen=True, slots=True)
class _Left:
    """The reports in the storage area at one look; `boot` is None before the first start."""

    boot: Boot | None = None
    result: dict[str, int] = field(default_factory=dict)
    quarantined: int = 0
    parked: int = 0
    waiting: int = 0
    ends: Sequence[tuple[float, str]] = ()
    """Unwanted ends of Orthanc in the last 24 h: when it was started again, and its work at the end."""


class RecoveryBooks(Protocol):
    """The books of the ledger that the recovery uses."""

    events: EventBook
    facts: FactBook
    files: FileBook
    instances: InstanceBook


class RecoveryWatch:
    """Follows the reports; `files` is the view of the last look for a person."""

    def __init__(
        self,
        reports: StartReports,
        ledger: RecoveryBooks,
        scrubber: Scrubber,
        clock: Clock,
        *,
        on_damage: Callable[[], None],
    ) -> None:
        self._reports = reports
        self._ledger = ledger
        self._scrubber = scrubber
        self._clock = clock
        self._on_damage = on_damage
        self._left = Watch(self._look, clock)

    def _look(self) -> _Left:
        reports = self._reports
        return _Left(
            reports.boot(),
            reports.result(),
            reports.in_quarantine(),
            reports.parked(),
            reports.waiting(),
            [
                (at, doing)
                for at, doing in reports.ends()
                if not self._clock.has_waited(Timestamp(at), _REMEMBERED)
            ],
        )

    def step(self) -> bool:
        """Record a start, and the end of its recovery, once each."""
        self._left.step()
        left = self._left.value
        if left is None or left.boot is None:
            return False
        boot, result = left.boot, left.result
        finished = boot.recoverable == 0 or (bool(result) and result.get("waiting", 0) == 0)
        state = json.dumps([boot.at, finished])
        if self._ledger.facts.read(_TOLD) == state:
            return False
        if not self._note_damage(boot):
            # The ledger does not know every instance yet: the note has not caught up.
            return False
        fields = {
            "recoverable": boot.recoverable,
            "quarantined": boot.quarantined,
            "unreadable": boot.unreadable,
            "parked": boot.parked,
            "ended": boot.ended,
            "folders_left": boot.folders_left,
            "statistics_in_force": boot.statistics_in_force,
            "finished": finished,
            **result,
        }
        if any((boot.recoverable, boot.quarantined, boot.unreadable, boot.parked, boot.ended, boot.problem)):
            self._ledger.events.log("understudy", KIND, fields, self._clock.now())
            _log.warning("recover %s", " ".join(f"{name}={value}" for name, value in fields.items()))
        self._ledger.facts.write(_TOLD, state)
        return False

    def _note_damage(self, boot: Boot) -> bool:
        known = True
        for row in boot.listed:
            if not row.is_dicom:
                continue
            instance = self._ledger.instances.of_file(row.orthanc_id, row.file)
            if instance is None:
                known = False
                continue
            what = "is gone" if row.found_size < 0 else f"has {row.found_size} bytes, not {instance.size}"
            now = self._clock.now()
            if self._ledger.files.damaged(instance, found_by=KIND, reason=f"its stored file {what}", now=now):
                self._on_damage()
        return known or self._clock.has_waited(Timestamp(boot.at), _PATIENCE)

    def files(self) -> FilesView:
        """Return the counts about stored files, without waiting for their disk."""
        left, unknown = self._left.value or _Left(), self._left.unknown_since
        boot, result = left.boot, left.result
        counts = self._ledger.files.counts()
        present, last = self._scrubber.present, self._scrubber.last
        return FilesView(
            recovering=left.waiting,
            recovered=result.get("stored", 0) + result.get("already_there", 0),
            quarantined=left.quarantined,
            parked=left.parked,
            ended=len(left.ends),
            damaged=counts.get(DamageState.OPEN, 0),
            healed=counts.get(DamageState.HEALED, 0),
            statistics_in_force=boot is None or boot.statistics_in_force,
            folders_left=0 if boot is None else boot.folders_left,
            scrubbed=0 if present is None else present.files,
            scrub_began=None if present is None else iso(Timestamp(present.began)),
            scrub_ended=None if last is None or last.ended is None else iso(Timestamp(last.ended)),
            unknown_since=None if unknown is None else iso(unknown),
        )

    def alarms(self) -> Sequence[Alarm]:
        """Return the alarms on stored files and on starts of Orthanc."""
        left, view = self._left.value or _Left(), self.files()
        boot = left.boot
        at = iso(Timestamp(self._clock.now() if boot is None else boot.at))
        found: list[Alarm] = []
        if view.unknown_since is not None:
            what = "the storage volume does not answer: the reports of Orthanc's starts cannot be read"
            found.append(Alarm(view.unknown_since, what, "look at its disk or network share on the host"))
        if boot is not None and boot.problem:
            found.append(
                Alarm(at, f"the last start of Orthanc was not prepared: {boot.problem}", _PROBLEM_HINT)
            )
        damaged_since = self._ledger.files.damaged_since()
        if view.damaged and damaged_since is not None:
            found.append(
                Alarm(
                    iso(damaged_since),
                    counted(view.damaged, "stored file is", "stored files are")
                    + " missing or changed and not healed yet",
                    "`understudy damages` names them and what was tried; sending an image again heals it",
                )
            )
        if view.quarantined:
            found.append(
                Alarm(
                    at,
                    counted(view.quarantined, "file is in quarantine", "files are in quarantine"),
                    "`understudy quarantine` names them and says why; docs/intake.md says what to do",
                )
            )
        if deaths := left.ends:
            latest, doing = deaths[-1]
            times = "once" if len(deaths) == 1 else f"{len(deaths)} times"
            found.append(
                Alarm(
                    iso(Timestamp(latest)),
                    f"Orthanc crashed {times} in the last 24 h, the last time during: {doing}",
                    "Orthanc was restarted automatically; docs/intake.md says where to look",
                )
            )
        if view.parked:
            found.append(
                Alarm(
                    at,
                    counted(view.parked, "image is parked: it", "images are parked: each of them")
                    + " ended Orthanc twice",
                    "`understudy quarantine` names them and their senders; docs/intake.md says what to do",
                )
            )
        if boot is not None and any(not row.is_dicom for row in boot.listed):
            others = sum(not row.is_dicom for row in boot.listed)
            found.append(
                Alarm(
                    at,
                    counted(others, "file that Orthanc derived is", "files that Orthanc derived are")
                    + " missing or changed",
                    "no image is affected; Orthanc's log names such a file when somebody asks for it",
                )
            )
        return found


_REMEMBERED = 24 * 3600.0
"""Seconds for which an unwanted end of Orthanc is an alarm."""

_PATIENCE = 3600.0
"""Seconds after a start for which unreadable rows that the ledger lacks are waited for; then they are left
out."""

_PROBLEM_HINT = "`docker compose logs orthanc` says more; images are accepted, more slowly as the index grows"
