"""Heal: put a good copy in the place of a stored file that is missing or changed.

Rule 1: nothing is deleted before a whole replacement of the same instance is at hand (adapters/healing.py).
Rule 2: damage that cannot be healed stays open, as an alarm, and is tried again for ever. A person can have
all of it tried at once.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from understudy.core.model import HolderName, Instance, InstanceNumber, Timestamp
from understudy.core.ports import Clock, HolderUnavailableError
from understudy.core.report import Report, ReportRow, ReportTable
from understudy.core.retry import delay_before
from understudy.core.text import counted
from understudy.core.uids import shown
from understudy.core.views import DamageState, OperationView, iso
from understudy.engine.memory import BOUNDLESS, Memory
from understudy.engine.operations import Result, Runner, Running, StoppedError
from understudy.ledger import (
    DeadLetterBook,
    EventBook,
    FactBook,
    FileBook,
    InstanceBook,
    OpenDamage,
    OperationBook,
)
from understudy.system.spool import Spool

_log = logging.getLogger(__name__)

KIND = "heal"
_TRIES = "asking the holders for damaged files"
_NOTHING_TRIED: dict[str, Any] = {"after": "", "tried": 0, "healed": 0}
_SHOWN = 1000
_COPIES = 4
"""Copies of an instance that are in memory at once: as it came over the network, and the file made of it."""
_BATCH = 50
_BASE, _CAP = 30.0, 6 * 3600.0
"""Seconds before the second attempt, and the longest pause between two."""
_STORED_AGAIN = "it was stored again and the ledger does not know the file yet"


class Disk(Protocol):
    """The stored files as they are on the disk."""

    def damage(self, instance: Instance, paced: Callable[[int], bool]) -> str | None: ...

    def path(self, instance: Instance) -> Path: ...


class OrthancFiles(Protocol):
    """Orthanc's index; calls raise OrthancUnavailableError."""

    def file_of(self, orthanc_id: str) -> str | None: ...


class Source(Protocol):
    """A holder that single instances can be fetched from; raises HolderUnavailableError."""

    name: str

    def fetch(self, instance: Instance) -> bytes | None: ...


class Place(Protocol):
    """Puts a replacement into Orthanc; calls raise OrthancUnavailableError."""

    def offer(self, content: BinaryIO) -> None: ...

    def put(self, orthanc_id: str, file: str, content: BinaryIO) -> bool: ...

    def resume(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Surgery:
    """The operations on a file's bytes that only adapters can do."""

    write_whole: Callable[[Instance, BinaryIO, Path, BinaryIO], None]
    is_same_instance: Callable[[str, str, BinaryIO], bool]


class HealerBooks(Protocol):
    """The books of the ledger that the healer uses."""

    dead_letters: DeadLetterBook
    events: EventBook
    facts: FactBook
    files: FileBook
    instances: InstanceBook
    operations: OperationBook


class Healer:
    """Works through the damages that the ledger has open."""

    def __init__(
        self,
        ledger: HealerBooks,
        disk: Disk,
        index: OrthancFiles,
        place: Place,
        sources: Sequence[Source],
        surgery: Surgery,
        clock: Clock,
        spool: Spool,
        *,
        holders: Sequence[HolderName],
        catch_up: Callable[[], int],
        fraction: Callable[[], float],
        wait: Callable[[float], bool],
        site: str,
        write_report: Callable[[int, Report], str],
        memory: Memory | None = None,
    ) -> None:
        self._ledger = ledger
        self._disk = disk
        self._index = index
        self._place = place
        self._sources = sources
        self._surgery = surgery
        self._clock = clock
        self._spool = spool
        self._holders = holders
        self._catch_up = catch_up
        self._fraction = fraction
        self._memory = memory or Memory(BOUNDLESS)
        self._wait = wait
        """Waits for the given seconds and returns False if the appliance stops."""
        self._site = site
        self._runner = Runner(KIND, self._heal_all, ledger, clock, unit="files", write_report=write_report)

    def begin(self, who: str, *, missed: bool) -> OperationView:
        """Start to try every open damage once, or return the operation that does so.

        With `missed`, instances that a rescan did not find in Orthanc are opened first.
        """
        if missed:
            self._ledger.files.open_missed(who, self._clock.now())
        return self._runner.begin(who, total=self._open(), message=_TRIES)

    def step(self) -> bool:
        """Try the damage that a person asked for, or that is due; return whether there may be more now."""
        self._place.resume()
        if self._runner.step():
            return True
        due = self._ledger.files.to_heal(now=self._clock.now(), cap=_CAP, limit=_BATCH)
        states = [self._heal(damage) for damage in due]
        self._owe_again()
        return DamageState.HEALED in states

    def _heal_all(self, asked: Running) -> Result:
        """Try every open damage once, in the order of the files, and say what is left."""
        after, tried, healed = (asked.kept.get(name, first) for name, first in _NOTHING_TRIED.items())
        while page := self._ledger.files.open_after(after, _BATCH):
            for damage in page:
                healed += self._heal(damage) is DamageState.HEALED
                after, tried = damage.file, tried + 1
                asked.keep({"after": after, "tried": tried, "healed": healed})
                asked.tell(tried, max(tried, asked.total), f"{healed} healed so far" if healed else _TRIES)
                if not self._wait(0.0):
                    raise StoppedError
            self._owe_again()
        return self._result(asked, tried, healed)

    def _open(self) -> int:
        return self._ledger.files.counts().get(DamageState.OPEN, 0)

    def _result(self, asked: Running, tried: int, healed: int) -> Result:
        left = self._open()
        outcome = (
            f"{counted(left, 'stored file is', 'stored files are')} missing or changed and could not be "
            "healed: understudy damages says why"
            if left
            else "No stored file is missing or changed any more."
        )
        rows = [
            (view.file, view.sop_instance_uid, view.study_instance_uid, view.reason)
            for view in self._ledger.files.damages(limit=_SHOWN)
            if view.state is DamageState.OPEN
        ]
        report = Report(
            title="Healing of stored files that were missing or changed",
            kind=KIND,
            site=self._site,
            started=iso(asked.started),
            finished=iso(self._clock.now()),
            succeeded=not left,
            outcome=outcome,
            summary=(
                ReportRow("Files tried", str(tried)),
                ReportRow("Healed", str(healed)),
                ReportRow("Still missing or changed", str(left)),
            ),
            tables=(
                ReportTable(
                    "Still missing or changed",
                    ("File", "SOP Instance UID", "Study Instance UID", "Why"),
                    rows,
                ),
            ),
        )
        return Result(outcome, succeeded=not left, report=report)

    def _heal(self, damage: OpenDamage) -> DamageState:
        """Try one damage, and record what came of it."""
        state, reason = self._tried(damage)
        if state is DamageState.OPEN:
            pause = delay_before(damage.attempts + 1, base=_BASE, cap=_CAP, fraction=self._fraction())
            again = Timestamp(self._clock.now() + pause)
            self._ledger.files.not_healed(damage.file, reason=reason, due=again)
            _log.warning("heal waits file=%s because=%s", damage.file, reason)
        else:
            self._ledger.files.end_damage(damage.file, state, reason=reason, now=self._clock.now())
            _log.info("heal file=%s state=%s how=%s", damage.file, state.value, reason)
        return state

    def _tried(self, damage: OpenDamage) -> tuple[DamageState, str]:
        """Return the state after an attempt, and why it is so."""
        instance = self._ledger.instances.present(damage.instance)
        if instance is None:
            return DamageState.GONE, "another content has replaced it"
        state, reason = self._look(instance, damage.file, missed=damage.missed)
        if state is not DamageState.OPEN:
            return state, reason
        if refusal := self._memory.refusal(instance.size, _COPIES):
            return state, refusal
        with self._memory.holding(_COPIES * instance.size):
            return self._replace(instance)

    def _owe_again(self) -> None:
        for holder in self._holders:
            self._owe_again_to(holder)

    def _owe_again_to(self, holder: HolderName) -> None:
        """Look at files that a lane could not read; an instance whose file is good is owed again."""
        good: list[InstanceNumber] = []
        for instance in self._ledger.files.refused(holder, _BATCH):
            if self._index.file_of(instance.orthanc_id) is None:
                # A person's deletion stands: the instance has to be stored again, or waived for the holders
                # that it is owed to.
                self._ledger.dead_letters.deleted_here(instance.number)
                _log.warning("heal deleted sop_instance_uid=%s", shown(instance.sop_instance_uid))
                continue
            reason = self._disk.damage(instance, lambda _: True)
            if reason == "":
                good.append(instance.number)
            elif reason is not None:
                self._ledger.files.damaged(instance, found_by="deliver", reason=reason, now=self._clock.now())
        if good:
            self._ledger.files.reads_again(holder, good, now=self._clock.now())

    def _look(self, instance: Instance, file: str, *, missed: bool) -> tuple[DamageState, str]:
        """Return the present state of the damage, OPEN if the file is still damaged."""
        listed = self._index.file_of(instance.orthanc_id)
        if listed is None and missed:
            return DamageState.OPEN, ""
        if listed is None:
            return DamageState.GONE, "Orthanc does not list the instance any more"
        if listed != instance.attachment_uuid:
            # It was stored again: the ledger learns of the new file.
            self._catch_up()
            again = self._ledger.instances.present(instance.number)
            if again is None or again.attachment_uuid != listed:
                return DamageState.OPEN, _STORED_AGAIN
            instance = again
        if self._disk.damage(instance, lambda _: True) == "":
            how = "stored again" if instance.attachment_uuid != file else "it can be read again"
            return DamageState.HEALED, how
        return DamageState.OPEN, ""

    def _replace(self, instance: Instance) -> tuple[DamageState, str]:
        reasons: list[str] = []
        for source in self._sources:
            try:
                dataset = source.fetch(instance)
            except HolderUnavailableError as error:
                reasons.append(f"{source.name}: {error.reason}")
                continue
            if dataset is None:
                reasons.append(f"{source.name} does not give it back")
                continue
            with self._spool.file() as content:
                path = self._disk.path(instance)
                self._surgery.write_whole(instance, BytesIO(dataset), path, content)
                if not self._surgery.is_same_instance(instance.orthanc_id, instance.md5, content):
                    reasons.append(f"{source.name} has another instance under its UID")
                    continue
                return self._put(instance, content, source.name)
        return DamageState.OPEN, "; ".join(reasons) or "no holder can give single instances back"

    def _put(self, instance: Instance, content: BinaryIO, source: str) -> tuple[DamageState, str]:
        """Put a good copy in the place of the damaged file."""
        listed = self._index.file_of(instance.orthanc_id)
        if listed not in (None, instance.attachment_uuid):
            return DamageState.OPEN, _STORED_AGAIN
        # The plugin writes content that Orthanc already lists back into its file: nothing is deleted then.
        self._place.offer(content)
        damaged = listed is not None and self._disk.damage(instance, lambda _: True) != ""
        if damaged and not self._place.put(instance.orthanc_id, instance.attachment_uuid, content):
            return DamageState.OPEN, _STORED_AGAIN
        self._catch_up()
        return self._proved(instance, source)

    def _proved(self, instance: Instance, source: str) -> tuple[DamageState, str]:
        """Return HEALED if the replacement is on the disk as the ledger has it, otherwise OPEN; and why."""
        again = self._ledger.instances.present(instance.number)
        if again is None:
            return DamageState.HEALED, f"{source} gave it back with other bytes: it is a new version"
        if self._disk.damage(again, lambda _: True) == "":
            return DamageState.HEALED, f"{source} gave it back with the same bytes"
        return DamageState.OPEN, f"{source} gave it back, but the new file is damaged, too"
