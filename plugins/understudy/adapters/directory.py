"""A vault in a directory: a NAS, a USB disk or the appliance's own volume."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from understudy.adapters.files import sync_folder, write_durably
from understudy.core.model import Timestamp
from understudy.core.ports import HolderUnavailableError, StoredObject

_HINTS = {
    errno.ENOSPC: "the disk of the vault is full: make room or give it a larger one",
    errno.EDQUOT: "the quota of the vault is used up",
    errno.EACCES: "let the agent's user (10001) write to the directory",
    errno.EPERM: "let the agent's user (10001) write to the directory",
    errno.EROFS: "the disk of the vault is mounted read-only; look at the kernel's log for its errors",
}


class DirectoryStore:
    """Objects as read-only files below one directory, written under another name and renamed when durable.

    A directory cannot keep its owner from deleting files: only an S3 bucket with Object Lock is immutable.
    """

    retained = False

    def __init__(self, name: str, root: Path) -> None:
        self._name = name
        self._root = root

    def put(self, key: str, content: bytes, retain_until: Timestamp | None) -> StoredObject:
        """Store the content durably; a key that holds the same bytes already is left as it is."""
        path = self._path(key)
        with self._available():
            present = self._shown(key, path)
            if present is not None:
                if present.sha256 != hashlib.sha256(content).hexdigest():
                    raise HolderUnavailableError(
                        self._name,
                        f"{key} holds other bytes already",
                        "move that file away; nothing is overwritten",
                    )
                return present
            self._make_folders(path.parent)
            write_durably(path, content, mode=0o440)
        return StoredObject(key, "", len(content), "")

    def stat(self, key: str) -> StoredObject | None:
        """Return size and SHA-256 of the file as read back from the disk, or None."""
        with self._available():
            return self._shown(key, self._path(key))

    def get(self, key: str, version: str = "") -> bytes:
        """Return the file's bytes; raises KeyError where it is absent."""
        with self._available():
            try:
                return self._path(key).read_bytes()
            except FileNotFoundError:
                raise KeyError(key) from None

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield every file below the prefix by key, without digests: they would cost reading it all."""
        with self._available():
            found = []
            for folder, _, names in os.walk(self._root, onerror=_raise):
                for name in names:
                    path = Path(folder, name)
                    key = path.relative_to(self._root).as_posix()
                    if key.startswith(prefix) and not name.startswith("."):
                        found.append(StoredObject(key, "", path.stat().st_size, ""))
        yield from sorted(found, key=lambda item: item.key)

    def _path(self, key: str) -> Path:
        parts = key.split("/")
        if not all(parts) or any(part.startswith(".") for part in parts):
            raise ValueError(f"{key!r} is no key of a vault")
        return self._root.joinpath(*parts)

    def _shown(self, key: str, path: Path) -> StoredObject | None:
        sha256, size = hashlib.sha256(), 0
        try:
            with path.open("rb") as file:
                # The kernel's own copy of what was just written proves nothing about the disk.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                while block := file.read(2**20):
                    sha256.update(block)
                    size += len(block)
        except FileNotFoundError:
            return None
        except OSError as error:
            # A bad sector: what can be read are other bytes, and the rest of the disk is there.
            if error.errno != errno.EIO:
                raise
        return StoredObject(key, "", size, "", sha256.hexdigest())

    def _make_folders(self, folder: Path) -> None:
        """Make the folder and sync the one that each new name stands in; the root itself is never made."""
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
                self._name, f"the directory {self._root} is not there", "mount the disk or make the directory"
            )
        try:
            yield
        except OSError as error:
            raise HolderUnavailableError(
                self._name,
                f"{self._root}: {error.strerror}",
                _HINTS.get(error.errno or 0, "check the disk or the network share of the vault"),
            ) from error


def _raise(error: OSError) -> None:
    raise error
