"""Keeps every version of an instance that Orthanc is about to replace by other bytes.

With `OverwriteInstances`, Orthanc deletes the earlier file, and its row of the changes feed, when it commits
the later one. An acknowledged instance must not get lost this way.

Rule 1: no store waits for another one. The callbacks run under locks that every store needs, so a store that
waited in them for another store would wait for ever.
Rule 2: if a store's UID is in the index, the stored file is first linked into `versions/`. The link stays
when Orthanc deletes the file. If the link cannot be made, the store is refused.
Rule 3: two stores of one UID may run at the same time, before the index shows either. Then each is kept, from
memory, between its commit and its answer. So whichever is replaced was kept before it was acknowledged.
Rule 4: Orthanc answers an identical copy from its index, even if the stored file is gone or damaged. So the
file is checked first, and healed from the copy.

This module never deletes a file in `versions/`.
"""

import errno
import hashlib
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from understudy.plugin.recovery import NOTE_SUFFIX, QUARANTINE, sync_folder, write_whole

VERSIONS = "versions"
SUFFIX = ".dcm"
_MAX_COMPARED = 64 * 2**20
"""Largest stored file, in bytes, whose content is compared. For a larger file only the size is compared,
because all other stores wait meanwhile."""
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV, errno.ENOSYS})
"""Error numbers of file systems without hard links."""
_ATTEMPTS = 3
_MOST_NAMED = 16
"""How many instances, of different patients, studies or series, may have the same SOP Instance UID. A faulty
device makes two or three. Each store of a UID checks all of them, and each is a conflict that a person has to
acknowledge."""
_NAME = re.compile(r"[0-9a-f-]{1,64}")


class NotKeptError(Exception):
    """A version cannot be kept, so the store that would replace it has to be refused."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """The file of one instance, as recorded in Orthanc's index."""

    uuid: str
    md5: str
    size: int


Metadata = Mapping[str, str]
"""Orthanc's metadata of an instance: RemoteAET, ReceptionDate, and so on."""
Note = Mapping[str, object]
"""The content of the note beside a kept version: its UIDs, its digest, its metadata."""


@dataclass(frozen=True, slots=True)
class Index:
    """The questions to Orthanc's index; each call may raise NotKeptError."""

    instances: Callable[[str], Sequence[str]]
    """Orthanc's identifiers of every instance that has the SOP Instance UID."""
    file: Callable[[str], StoredFile | None]
    """The file of an instance, None if the instance is gone."""
    identity: Callable[[str], Metadata]
    """The UIDs of an instance by the ledger's names; they are the same for all its versions."""
    metadata: Callable[[str], Metadata]


@dataclass(slots=True)
class _Store:
    """One store under way; `contested` if another store of the same UID ran at the same time."""

    uid: str
    contested: bool = False


@dataclass(frozen=True, slots=True)
class VersionCounts:
    """Numbers of versions kept, files healed and stores refused since Orthanc started."""

    kept: int
    healed: int
    refused: int


class Versions:
    """Keeps replaced versions; `storage` is Orthanc's storage area, with our folder `understudy/` in it."""

    def __init__(self, storage: Path, index: Index, log: Callable[[str], None]) -> None:
        self._storage = storage
        self._folder = storage / "understudy" / VERSIONS
        self._quarantine = storage / "understudy" / QUARANTINE
        self._index = index
        self._log = log
        self._lock = threading.Lock()
        # Two stores may keep the same version. Orthanc must not be called while this lock is held (rule 1).
        self._writing = threading.Lock()
        # By thread. When a thread begins a store, its earlier store is over in any case.
        self._stores: dict[int, _Store] = {}
        self._kept = 0
        self._healed = 0
        self._refused = 0

    def before_store(self, uid: str, content: bytes) -> bool:
        """Keep the version that this store would replace; return whether its UID is in the index already.

        Raises NotKeptError if a version cannot be kept; the caller then has to refuse the store.
        """
        self._begin(uid)
        try:
            known = self._index.instances(uid)
            if len(known) > _MOST_NAMED:
                raise NotKeptError(f"{len(known)} instances have its SOP Instance UID already")
            for orthanc_id in known:
                self._keep_stored(orthanc_id, content)
        except (OSError, NotKeptError) as error:
            self.abandon()
            with self._lock:
                self._refused += 1
            raise NotKeptError(f"{type(error).__name__}: {error}") from error
        return bool(known)

    def abandon(self) -> None:
        """Forget the store of this thread, because Orthanc will not carry it out."""
        with self._lock:
            self._stores.pop(threading.get_ident(), None)

    def after_store(
        self, orthanc_id: str, content: Callable[[], bytes], metadata: Callable[[], Metadata]
    ) -> None:
        """End the store of this thread, and keep its version if it met another store of the same UID.

        After OSError or NotKeptError the caller has to refuse stores, because one could replace this version.
        """
        with self._lock:
            store = self._stores.pop(threading.get_ident(), None)
        if store is None or not store.contested:
            return
        data = content()
        file = StoredFile("", hashlib.md5(data, usedforsecurity=False).hexdigest(), len(data))
        present = self._index.file(orthanc_id)
        if present is not None and present.md5 == file.md5:
            file = present
        if self._is_kept(orthanc_id, file.md5):
            return
        note = self._note(orthanc_id, file, metadata())
        with self._writing:
            target = self._write_note(note)
            if not target.exists():
                self._write(target, data)
        self._count_kept(orthanc_id, "met_another_store")

    def counts(self) -> VersionCounts:
        """Return the counters as one consistent value."""
        with self._lock:
            return VersionCounts(self._kept, self._healed, self._refused)

    def _begin(self, uid: str) -> None:
        store = _Store(uid)
        with self._lock:
            self._stores.pop(threading.get_ident(), None)
            for other in self._stores.values():
                if other.uid == uid:
                    other.contested = store.contested = True
            self._stores[threading.get_ident()] = store

    def _keep_stored(self, orthanc_id: str, content: bytes) -> None:
        for _ in range(_ATTEMPTS):
            file = self._index.file(orthanc_id)
            if file is None:
                return
            if file.size == len(content) and file.md5 == _md5(content):
                self._heal(orthanc_id, file, content)
                return
            if self._is_kept(orthanc_id, file.md5):
                return
            note = self._note(orthanc_id, file, self._index.metadata(orthanc_id))
            try:
                with self._writing:
                    self._link(self._attachment(file.uuid), self._write_note(note))
            except FileNotFoundError:
                if self._index.file(orthanc_id) == file:
                    # There is no file to keep here; a vault may have it.
                    self._log(
                        f"version gone instance={orthanc_id} md5={file.md5}: its stored file is missing"
                    )
                    return
                # Another store has kept and replaced it meanwhile: look again at the file that is there now.
                continue
            self._count_kept(orthanc_id, "replaced")
            return
        raise NotKeptError(f"instance {orthanc_id} changes all the time")

    def _heal(self, orthanc_id: str, file: StoredFile, content: bytes) -> None:
        """Write the stored file again if it is missing or damaged; `content` has the MD5 of the index."""
        path = self._attachment(file.uuid)
        damage = _damage(path, file)
        if damage is None:
            return
        self._quarantine.mkdir(mode=0o750, parents=True, exist_ok=True)
        if path.exists():
            aside = self._quarantine / file.uuid
            if not aside.exists():
                reason = f"{damage}; the instance was sent again, and its file is healed"
                write_whole(
                    aside.with_name(aside.name + NOTE_SUFFIX),
                    {"reason": reason, "size": path.stat().st_size},
                )
                self._link(path, aside)
        # Orthanc removes a folder together with its last file.
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(path, content)
        for folder in (path.parent.parent, self._storage):
            sync_folder(folder)
        with self._lock:
            self._healed += 1
        self._log(f"heal stored instance={orthanc_id} file={file.uuid} because={damage!r}: it was sent again")

    def _note(self, orthanc_id: str, file: StoredFile, metadata: Metadata) -> Note:
        return {
            **self._index.identity(orthanc_id),
            "orthanc_id": orthanc_id,
            "attachment_uuid": file.uuid,
            "size": file.size,
            "md5": file.md5,
            "metadata": dict(metadata),
        }

    def _write_note(self, note: Note) -> Path:
        """Write a version's note, which has to exist before the version; return the version's path."""
        self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        path = self._path(str(note["orthanc_id"]), str(note["md5"]))
        write_whole(path.with_name(path.name + NOTE_SUFFIX), note)
        return path

    def _link(self, source: Path, target: Path) -> None:
        try:
            os.link(source, target)
        except FileExistsError:
            return
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._write(target, source.read_bytes())
            return
        sync_folder(target.parent)

    def _write(self, target: Path, content: bytes) -> None:
        self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        temporary = self._folder / f".{threading.get_ident()}.part"
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(target.parent)

    def _is_kept(self, orthanc_id: str, md5: str) -> bool:
        return self._path(orthanc_id, md5).exists()

    def _path(self, orthanc_id: str, md5: str) -> Path:
        name = f"{orthanc_id}.{md5}{SUFFIX}"
        if _NAME.fullmatch(orthanc_id) is None or _NAME.fullmatch(md5) is None:
            raise NotKeptError("Orthanc names an instance or a digest in a way that is no file name")
        return self._folder / name

    def _attachment(self, uuid: str) -> Path:
        if _NAME.fullmatch(uuid) is None:
            raise NotKeptError("Orthanc names a stored file in a way that is no file name")
        return self._storage / uuid[0:2] / uuid[2:4] / uuid

    def _count_kept(self, orthanc_id: str, because: str) -> None:
        with self._lock:
            self._kept += 1
        self._log(f"version kept instance={orthanc_id} because={because}")


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _damage(path: Path, file: StoredFile) -> str | None:
    """Return what is wrong with a stored file, None if it is in order."""
    try:
        size = path.stat().st_size
        if size != file.size:
            return f"its stored file had {size} bytes instead of {file.size}"
        if size <= _MAX_COMPARED and _md5(path.read_bytes()) != file.md5:
            return "its stored file differed from its MD5 in Orthanc's index"
    except FileNotFoundError:
        return "its stored file was gone"
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return "its stored file could not be read"
    return None
