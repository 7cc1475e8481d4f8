"""A vault in a directory: a NAS, a USB disk or the appliance's own volume."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from understudy.adapters.pieces import PIECE, beginning, copy
from understudy.core.model import Timestamp
from understudy.core.packing import Digests, digests
from understudy.core.ports import LARGEST_SMALL, HolderUnavailableError, Reads, StoredObject
from understudy.system.files import sync_folder, written_durably

_HINTS = {
    errno.ENOSPC: "the disk of the vault is full: make room or give it a larger one",
    errno.EDQUOT: "the quota of the vault is used up",
    errno.EACCES: "let the agent's user (10001) write to the directory",
    errno.EPERM: "let the agent's user (10001) write to the directory",
    errno.EROFS: "the disk of the vault is mounted read-only; the kernel's log shows its errors",
}


class DirectoryStore:
    """Objects as read-only files below one directory, written under another name and renamed when durable.

    A directory cannot keep its owner from deleting files: only an S3 bucket with Object Lock is immutable.
    """

    retained = False
    largest = 2**63
    """No limit but the disk's space."""

    def __init__(self, name: str, root: Path) -> None:
        self._name = name
        self._root = root

    def put_file(
        self, key: str, file: BinaryIO, digests: Digests, retain_until: Timestamp | None
    ) -> StoredObject:
        """Store the whole file durably; if the key already has the same bytes, leave it as it is."""
        path = self._path(key)
        with self._available():
            present = self._shown(key, path)
            if present is not None:
                if present.sha256 != digests.sha256:
                    raise HolderUnavailableError(
                        self._name,
                        f"{key} already exists with other bytes",
                        "move that file away; a vault overwrites no file",
                    )
                return present
            self._make_folders(path.parent)
            with written_durably(path, mode=0o440) as stored:
                copy(file, stored)
        return StoredObject(key, "", digests.size, "")

    def put(self, key: str, content: bytes, retain_until: Timestamp | None) -> StoredObject:
        """Store small content as `put_file` does."""
        return self.put_file(key, BytesIO(content), digests(content), retain_until)

    def stat(self, key: str) -> StoredObject | None:
        """Return size and SHA-256 of the file as read back from the disk, or None."""
        with self._available():
            return self._shown(key, self._path(key))

    @contextmanager
    def open(self, key: str, version: str = "") -> Iterator[Reads]:
        """Give the file's bytes; raises KeyError if it does not exist."""
        with self._available():
            try:
                file = self._path(key).open("rb")
            except FileNotFoundError:
                raise KeyError(key) from None
        with file:
            yield _Reading(file, self._available)

    def get(self, key: str, version: str = "") -> bytes:
        """Return the bytes of a small file; otherwise like `open`."""
        with self.open(key, version) as file:
            return beginning(file, LARGEST_SMALL)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield every file whose key begins with the prefix; without digests, which would need all bytes."""
        with self._available():
            # The prefix up to its last slash is a folder; other folders are not read.
            folder = self._root / prefix.rpartition("/")[0]
            found = os.walk(folder, onerror=_raise) if folder.is_dir() else iter(())
            for place, folders, names in found:
                folders.sort()
                for name in sorted(names):
                    path = Path(place, name)
                    key = path.relative_to(self._root).as_posix()
                    if key.startswith(prefix) and not name.startswith("."):
                        seen = path.stat()
                        yield StoredObject(key, "", seen.st_size, "", stored_at=seen.st_mtime)

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if not all(parts) or any(part.startswith(".") for part in parts):
            raise ValueError(f"{key!r} is no key of a vault")
        return self._root.joinpath(*parts)

    def _shown(self, key: str, path: Path) -> StoredObject | None:
        sha256, size = hashlib.sha256(), 0
        try:
            with path.open("rb") as file:
                # The page cache proves nothing about the disk.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                while block := file.read(PIECE):
                    sha256.update(block)
                    size += len(block)
        except FileNotFoundError:
            return None
        except OSError as error:
            # A bad sector: the digest of the bytes read so far differs, and the rest of the disk is usable.
            if error.errno != errno.EIO:
                raise
        return StoredObject(key, "", size, "", sha256.hexdigest())

    def _make_folders(self, folder: Path) -> None:
        """Make the folder and sync the parent of each new folder; the root itself is never made."""
        missing = []
        while folder != self._root and not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for new in reversed(missing):
            new.mkdir(mode=0o750, exist_ok=True)
            sync_folder(new.parent)

    @contextmanager
    def _available(self) -> Iterator[None]:
        if not self._root.is_dir():
            raise HolderUnavailableError(
                self._name,
                f"the directory {self._root} does not exist",
                "mount the disk or make the directory",
            )
        try:
            yield
        except OSError as error:
            raise HolderUnavailableError(
                self._name,
                f"{self._root}: {error.strerror}",
                _HINTS.get(error.errno or 0, "check the disk or the network share of the vault"),
            ) from error


class _Reading:
    """Reads a file, and raises its errors as HolderUnavailableError."""

    def __init__(self, file: BinaryIO, available: Callable[[], AbstractContextManager[None]]) -> None:
        self._file = file
        self._available = available

    def read(self, size: int) -> bytes:
        with self._available():
            return self._file.read(size)


def _raise(error: OSError) -> None:
    raise error
