"""Restores from a simulated vault with many members, in a process of its own, and tells the memory it took.

`python -m tests.many MEMBERS FOLDER` prints how much the largest resident set grew, and the largest, in MB.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, cast

import zstandard
from understudy.core.model import Timestamp
from understudy.core.packing import FORMAT, MANIFEST_PREFIX, Member, keys_for
from understudy.core.ports import Reads, StoredObject
from understudy.flow.restore import restore
from understudy.system.spool import Spool

REPOSITORY = Path(__file__).parent.parent
PACK = 2000
"""Members of a pack: the most that a lane puts into one."""
_LACKING = 10
"""The target lacks every tenth pack; these are fetched and unpacked."""
_BEGAN = 1_700_000_000


def peak(members: int, folder: Path) -> tuple[float, float]:
    """Restore in a process of its own; return by how many MB its memory grew, and its peak."""
    path = os.pathsep.join(str(REPOSITORY / name) for name in ("plugins", "."))
    done = subprocess.run(
        [sys.executable, "-m", "tests.many", str(members), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    return float(said["growth"]), float(said["peak"])


class _Vault:
    """A vault whose packs are made up when they are asked for, and are not encrypted."""

    retained = True
    largest = 2**63

    def __init__(self, members: int) -> None:
        self._packs = -(-members // PACK)
        self._told = {number: _digest(number) for number in range(self._packs)}
        """Size and SHA-256 of each pack."""
        self.read: Counter[str] = Counter()
        """How often each manifest was read."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        for number in range(self._packs):
            at = Timestamp(_BEGAN + number)
            key = keys_for(at, f"{number:032x}")[prefix == MANIFEST_PREFIX]
            yield StoredObject(key, "1", self._told[number][0], "", stored_at=at)

    def get(self, key: str, version: str = "") -> bytes:
        self.read[key] += 1
        number = _number(key)
        return _manifest(number, *self._told[number])

    def stat(self, key: str) -> StoredObject | None:
        raise NotImplementedError

    def open(self, key: str, version: str = "") -> AbstractContextManager[Reads]:
        return nullcontext(io.BytesIO(_pack(_number(key))))

    def put(self, key: str, content: bytes, retain_until: Timestamp | None) -> StoredObject:
        raise NotImplementedError

    def put_file(
        self, key: str, file: BinaryIO, digests: object, retain_until: Timestamp | None
    ) -> StoredObject:
        raise NotImplementedError


def _number(key: str) -> int:
    return int(key.rpartition("/")[2].partition(".")[0], 16)


def _series(number: int) -> tuple[str, str]:
    study = f"1.2.826.0.1.3680043.8.498.{10**20 + number}"
    return study, f"{study}.0"


def _name(number: int, one: int) -> str:
    study, series = _series(number)
    return f"{study}/{series}/{series}.{one}.dcm"


def _content(number: int, one: int) -> bytes:
    return f"{number} {one}".encode()


def _pack(number: int) -> bytes:
    output = io.BytesIO()
    with tarfile.open(mode="w", fileobj=output) as archive:
        for one in range(PACK):
            content = _content(number, one)
            entry = tarfile.TarInfo(_name(number, one))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return zstandard.ZstdCompressor(level=1).compress(output.getvalue())


def _digest(number: int) -> tuple[int, str]:
    """Return size and SHA-256 of a pack, made up if nobody fetches it."""
    if number % _LACKING:
        return 1000, "0" * 64
    pack = _pack(number)
    return len(pack), sha256(pack).hexdigest()


def _manifest(number: int, pack_size: int, pack_sha256: str) -> bytes:
    at = Timestamp(_BEGAN + number)
    study, series = _series(number)
    return json.dumps(
        {
            "format": FORMAT,
            "site": "clinic",
            "pack_key": keys_for(at, f"{number:032x}")[0],
            "created": at,
            "recipients": ["age1"],
            "pack_size": pack_size,
            "pack_sha256": pack_sha256,
            "study_instance_uid": study,
            "study": {"patient_id": "1", "patient_name": "A^B", "modality": "CT"},
            "members": [
                {
                    "name": _name(number, one),
                    "sop_instance_uid": f"{series}.{one}",
                    "series_instance_uid": series,
                    "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
                    "transfer_syntax_uid": "1.2.840.10008.1.2.1",
                    "size": len(_content(number, one)),
                    "sha256": sha256(_content(number, one)).hexdigest(),
                    "md5": f"{number * PACK + one:032x}",
                    "received_at": at,
                    "orthanc_id": f"{number * PACK + one:044x}",
                }
                for one in range(PACK)
            ],
        }
    ).encode()


class _Plain:
    """Opens what was never sealed."""

    def open(self, sealed: bytes) -> bytes:
        return sealed

    def opened(self, sealed: Reads) -> AbstractContextManager[BinaryIO]:
        return nullcontext(cast(BinaryIO, sealed))


class _Target:
    """A target that has all but every tenth pack, and keeps nothing."""

    def has(self, member: Member) -> bool:
        return bool(int(member.md5, 16) // PACK % _LACKING)

    def keep(self, member: Member, content: Reads) -> None:
        while content.read(2**16):
            pass


def _restore(members: int, folder: Path) -> None:
    vault = _Vault(members)
    result = restore(vault, _Plain(), _Target(), spool=Spool(folder, 2**24))
    packs = -(-members // PACK)
    lacked = PACK * -(-packs // _LACKING)
    assert (result.restored, result.skipped, result.failures) == (lacked, PACK * packs - lacked, 0), result
    assert set(vault.read.values()) == {1}, "each manifest is read once"


def _peak() -> float:
    # Not getrusage: it tells the parent's memory, too, from before this program was loaded.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    """Restore, and print the memory that it took."""
    members, folder = int(sys.argv[1]), Path(sys.argv[2])
    _restore(PACK, folder)
    before, began = _peak(), time.monotonic()
    _restore(members, folder)
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps({"growth": _peak() - before, "peak": _peak(), "seconds": seconds}))


if __name__ == "__main__":
    main()
