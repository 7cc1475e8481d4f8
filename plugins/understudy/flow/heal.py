"""Heal: put a good copy in the place of a stored file that is missing or changed.

Rule 1: nothing is deleted before a whole replacement of the same instance is at hand (adapters/healing.py).
Rule 2: damage that cannot be healed stays open, as an alarm, and is tried again for ever.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol

from understudy.core.model import HolderName, Instance, InstanceNumber, Timestamp
from understudy.core.ports import Clock, HolderUnavailableError
from understudy.core.retry import delay_before
from understudy.core.uids import shown
from understudy.core.views import DamageState
from understudy.engine.memory import BOUNDLESS, Memory
from understudy.ledger import DeadLetterBook, FileBook, InstanceBook
from understudy.system.spool import Spool

_log = logging.getLogger(__name__)

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
    files: FileBook
    instances: InstanceBook


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

    def step(self) -> bool:
        """Try to heal the damage that is due; return whether any was healed."""
        self._place.resume()
        healed = 0
        due = self._ledger.files.to_heal(now=self._clock.now(), cap=_CAP, limit=_BATCH)
        for file, number, attempts, missed in due:
            instance = self._ledger.instances.present(number)
            if instance is None:
                self._end(file, DamageState.GONE, "another content has replaced it")
                continue
            state, reason = self._look(instance, file, missed=missed)
            if state is DamageState.OPEN and (refusal := self._memory.refusal(instance.size, _COPIES)):
                reason = refusal
            elif state is DamageState.OPEN:
                with self._memory.holding(_COPIES * instance.size):
                    state, reason = self._replace(instance)
            if state is DamageState.OPEN:
                pause = delay_before(attempts + 1, base=_BASE, cap=_CAP, fraction=self._fraction())
                again = Timestamp(self._clock.now() + pause)
                self._ledger.files.not_healed(file, reason=reason, due=again)
                _log.warning("heal waits file=%s because=%s", file, reason)
                continue
            self._end(file, state, reason)
            healed += state is DamageState.HEALED
        for holder in self._holders:
            self._owe_again(holder)
        return healed > 0

    def _owe_again(self, holder: HolderName) -> None:
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

    def _end(self, file: str, state: DamageState, reason: str) -> None:
        self._ledger.files.end_damage(file, state, reason=reason, now=self._clock.now())
        _log.info("heal file=%s state=%s how=%s", file, state.value, reason)
