"""The simulated object store of a vault."""

import hashlib
import io
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

import zstandard
from understudy.core.model import Timestamp
from understudy.core.packing import Digests
from understudy.core.ports import HolderUnavailableError, Reads, StoredObject, Writes

from tests.simulation.machine import Machine

_SEAL = b"sealed "


class PlainSealer:
    """Encryption that anybody can open."""

    @property
    def recipients(self) -> Sequence[str]:
        return ("nobody",)

    def seal(self, plain: bytes) -> bytes:
        return _SEAL + plain

    def seal_stream(self, plain: Reads, sealed: Writes) -> None:
        sealed.write(_SEAL)
        while piece := plain.read(2**16):
            sealed.write(piece)


@dataclass
class Store:
    """Keeps objects, and fails as it is told to (core.ports.ObjectStore)."""

    machine: Machine
    is_away: bool = False
    is_full: bool = False
    lists_after: float = 0.0
    """Seconds until it shows what it took."""
    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    """The bytes of each object, and from when on they are shown."""
    _members: dict[str, set[str]] = field(default_factory=dict)
    ever_lost: set[str] = field(default_factory=set)
    """MD5 of the files of every pack that it lost."""

    @property
    def retained(self) -> bool:
        return True

    def _called(self) -> None:
        self.machine.call()
        if self.is_away:
            raise HolderUnavailableError("vault", "no connection", "check that it runs")

    @property
    def largest(self) -> int:
        return 2**40

    def put_file(
        self, key: str, file: BinaryIO, digests: Digests, retain_until: Timestamp | None
    ) -> StoredObject:
        file.seek(0)
        return self.put(key, file.read(), retain_until)

    def put(self, key: str, content: bytes, retain_until: Timestamp | None) -> StoredObject:
        self._called()
        if self.is_full:
            raise HolderUnavailableError("vault", "no room", "make room")
        self.objects.setdefault(key, (content, self.machine.true + self.lists_after))
        return _stored(key, content)

    def stat(self, key: str) -> StoredObject | None:
        self._called()
        content, shown_from = self.objects.get(key, (b"", 0.0))
        return _stored(key, content) if content and shown_from <= self.machine.true else None

    @contextmanager
    def open(self, key: str, version: str = "") -> Iterator[Reads]:
        yield io.BytesIO(self.get(key, version))

    def get(self, key: str, version: str = "") -> bytes:
        self._called()
        return self.objects[key][0]

    def list(self, prefix: str) -> Iterator[StoredObject]:
        self._called()
        yield from (_stored(key, found[0]) for key, found in self.objects.items() if key.startswith(prefix))

    # The truth

    def lose(self, key: str) -> None:
        """Lose a pack, as no store may."""
        self.ever_lost |= self.members(key)
        del self.objects[key]
        self._members[key] = set()

    def members(self, key: str) -> set[str]:
        """Return the MD5 of every file of a pack, none where it is not there."""
        if key in self._members:
            return self._members[key]
        content = self.objects.get(key, (b"", 0.0))[0].removeprefix(_SEAL)
        if not content:
            return set()
        plain = zstandard.ZstdDecompressor().decompressobj().decompress(content)
        with tarfile.open(fileobj=io.BytesIO(plain)) as pack:
            files = [pack.extractfile(one) for one in pack.getmembers()]
            found = self._members[key] = {
                hashlib.md5(file.read(), usedforsecurity=False).hexdigest()
                for file in files
                if file is not None
            }
            return found


def _stored(key: str, content: bytes) -> StoredObject:
    digests = hashlib.md5(content, usedforsecurity=False).hexdigest(), hashlib.sha256(content).hexdigest()
    return StoredObject(key, "1", len(content), *digests)
