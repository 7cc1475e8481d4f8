"""Conflicts: two contents under one SOP Instance UID; both are kept, vaulted, shown and exported.

Orthanc shows the later one. The plugin kept the earlier one (plugin/versions.py), because Orthanc deletes it
together with its row of the changes feed. So a version that was replaced within a moment is not in the ledger
until this module finds it.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import BinaryIO, Protocol

from understudy.core.conflicts import HEAD_BYTES, ConflictKind, ConflictView, dataset_at, judge
from understudy.core.errors import NotFoundError
from understudy.core.model import HolderName, Instance, NewInstance
from understudy.core.ports import Clock, HolderUnavailableError, UnreadableFileError
from understudy.core.uids import shown
from understudy.core.views import Alarm, iso
from understudy.ledger import ConflictBook

_log = logging.getLogger(__name__)

_PIECE = 2**18
"""Bytes that are compared at a time."""
_BATCH = 100
"""Most versions that one step handles."""


class Kept(Protocol):
    """The versions that the plugin kept."""

    def names(self) -> Iterator[str]:
        """Yield the name of every kept version."""
        ...

    def read(self, name: str) -> NewInstance | None:
        """Return the version's note; None if it cannot be read."""
        ...


class Files(Protocol):
    """The stored files, kept versions among them."""

    def open(self, instance: Instance) -> AbstractContextManager[BinaryIO]:
        """Open the file, or raise UnreadableFileError or HolderUnavailableError."""
        ...


class Present(Protocol):
    """Orthanc, as far as it describes the version that it shows; raises OrthancUnavailableError."""

    def describe(self, orthanc_ids: Sequence[str]) -> list[NewInstance]:
        """Return Orthanc's description of these instances, without those that were deleted meanwhile."""
        ...


class Conflicts:
    """Finds conflicts, compares their contents, and answers questions about them."""

    def __init__(
        self,
        kept: Kept,
        files: Files,
        orthanc: Present,
        book: ConflictBook,
        clock: Clock,
        vaults: Callable[[], Sequence[HolderName]],
    ) -> None:
        self._kept = kept
        self._files = files
        self._orthanc = orthanc
        self._book = book
        self._clock = clock
        self._vaults = vaults
        self._known: set[str] = set()
        self._waiting: set[str] = set()
        """Versions that were looked at in this round and cannot be recorded yet."""

    def step(self) -> bool:
        """Record versions that the ledger lacks, compare contents; return whether there is more to do."""
        unknown = [name for name in self._kept.names() if name not in self._known | self._waiting]
        for name in unknown[:_BATCH]:
            version = self._kept.read(name)
            if version is None:
                _log.error("conflict unreadable note=%s", name)
                self._known.add(name)
            elif self._record(version):
                self._known.add(name)
            else:
                self._waiting.add(name)
        if len(unknown) <= _BATCH:
            self._waiting.clear()
        judged = 0
        for conflict in self._book.unjudged(_BATCH):
            judged += self._judge(conflict)
        return len(unknown) > _BATCH or judged == _BATCH

    def alarms(self) -> list[Alarm]:
        """Return one alarm while there are conflicts that nobody has acknowledged."""
        number, since = self._book.open()
        if not number:
            return []
        return [
            Alarm(
                iso(since),
                f"{number} SOP Instance UID{'s' if number > 1 else ''} came here with two different contents",
                "`understudy conflicts` shows both digests and senders, `--export` writes both versions; "
                "acknowledge each with a reason",
            )
        ]

    def conflicts(
        self, *, everything: bool, sop_instance_uid: str | None, limit: int
    ) -> Sequence[ConflictView]:
        """Return conflicts, the latest first."""
        return self._book.listed(everything=everything, sop_instance_uid=sop_instance_uid, limit=limit)

    def acknowledge(self, who: str, number: int, reason: str) -> ConflictView:
        """Close a conflict; both versions stay."""
        return self._book.acknowledge(number, who, reason, self._clock.now())

    @contextmanager
    def version(self, number: int, md5: str) -> Iterator[tuple[int, BinaryIO]]:
        """Open one of the two versions, to be read in pieces, with its size; or raise NotFoundError.

        A file that changes meanwhile raises UnreadableFileError with its last bytes.
        """
        conflict = self._book.get(number)
        side = next((side for side in (conflict.earlier, conflict.later) if side.md5 == md5), None)
        if side is None:
            raise NotFoundError(
                f"conflict {number} has no version {md5}", "GET /understudy/conflicts lists the MD5 of both"
            )
        version = self._book.version(side.orthanc_id, md5)
        with ExitStack() as held:
            try:
                file = held.enter_context(self._files.open(version))
            except UnreadableFileError as error:
                raise NotFoundError(
                    f"version {md5} cannot be read: {error.reason}",
                    "a vault has it: its pack opens by age, zstd and tar",
                ) from error
            yield version.size, file

    def _record(self, version: NewInstance) -> bool:
        """Record the version if it can be; return whether nothing is left to do for it."""
        known = self._book.versions_of(version.orthanc_id)
        if version.md5 in known:
            # The version that replaces this one is noted with a conflict of its own.
            return True
        if not known:
            return False
        present = self._orthanc.describe([version.orthanc_id])
        if any(instance.md5 == version.md5 for instance in present):
            # Orthanc shows this version: the note is about to record it.
            return False
        if self._book.keep_version(version, self._vaults(), self._clock.now()):
            _log.warning(
                "conflict kept sop_instance_uid=%s md5=%s", shown(version.sop_instance_uid), version.md5
            )
        return True

    def _judge(self, conflict: ConflictView) -> bool:
        """Compare the contents; return whether that could be done."""
        sides = [self._book.version(side.orthanc_id, side.md5) for side in (conflict.earlier, conflict.later)]
        try:
            earlier, later = (self._data_set_digest(side) for side in sides)
        except HolderUnavailableError:
            return False
        except UnreadableFileError as error:
            if not error.permanent:
                return False
            self._book.judged(conflict.conflict, ConflictKind.CONTENT)
            return True
        same_syntax = sides[0].transfer_syntax_uid == sides[1].transfer_syntax_uid
        self._book.judged(conflict.conflict, judge(earlier, later, same_syntax=same_syntax))
        return True

    def _data_set_digest(self, instance: Instance) -> str | None:
        """Return the SHA-256 of the data set after the file meta information; None if it cannot be found."""
        with self._files.open(instance) as file:
            start = dataset_at(file.read(HEAD_BYTES))
            if start is None or start >= instance.size:
                return None
            file.seek(start)
            sha256 = hashlib.sha256()
            while piece := file.read(_PIECE):
                sha256.update(piece)
            return sha256.hexdigest()
