"""Restores from a simulated vault with many members, in a process of its own, and tells the memory it took.

`python -m tests.many MEMBERS FOLDER` prints how much the largest resident set grew, and the largest, in MB.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from understudy.adapters.spool import Spool
from understudy.core.model import Timestamp
from understudy.core.packing import FORMAT, MANIFEST_PREFIX, Member, keys_for
from understudy.core.ports import Reads, StoredObject
from understudy.flow.restore import restore

REPOSITORY = Path(__file__).parent.parent
PACK = 2000
"""Members of a pack: the most that a lane puts into one."""
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
        self.read: Counter[str] = Counter()
        """How often each manifest was read."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        for number in range(self._packs):
            at = Timestamp(_BEGAN + number)
            key = keys_for(at, f"{number:032x}")[prefix == MANIFEST_PREFIX]
            yield StoredObject(key, "1", 1000, "", stored_at=at)

    def get(self, key: str, version: str = "") -> bytes:
        self.read[key] += 1
        number = int(key.rpartition("/")[2].partition(".")[0], 16)
        return _manifest(number)

    def stat(self, key: str) -> StoredObject | None:
        raise NotImplementedError

    def open(self, key: str, version: str = "") -> AbstractContextManager[Reads]:
        raise NotImplementedError

    def put(self, key: str, content: bytes, retain_until: Timestamp | None) -> StoredObject:
        raise NotImplementedError

    def put_file(
        self, key: str, file: BinaryIO, digests: object, retain_until: Timestamp | None
    ) -> StoredObject:
        raise NotImplementedError


def _manifest(number: int) -> bytes:
    at = Timestamp(_BEGAN + number)
    study = f"1.2.826.0.1.3680043.8.498.{10**20 + number}"
    series = f"{study}.0"
    return json.dumps(
        {
            "format": FORMAT,
            "site": "clinic",
            "pack_key": keys_for(at, f"{number:032x}")[0],
            "created": at,
            "recipients": ["age1"],
            "pack_size": 1000,
            "pack_sha256": "0" * 64,
            "study_instance_uid": study,
            "study": {"patient_id": "1", "patient_name": "A^B", "modality": "CT"},
            "members": [
                {
                    "name": f"{study}/{series}/{series}.{one}.dcm",
                    "sop_instance_uid": f"{series}.{one}",
                    "series_instance_uid": series,
                    "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
                    "transfer_syntax_uid": "1.2.840.10008.1.2.1",
                    "size": 500_000,
                    "sha256": sha256(f"{number} {one}".encode()).hexdigest(),
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
        raise NotImplementedError


class _Full:
    """A target that has everything: what is measured is how the vault is read."""

    def has(self, member: Member) -> bool:
        return True

    def keep(self, member: Member, content: Reads) -> None:
        raise NotImplementedError


def _restore(members: int, folder: Path) -> None:
    vault = _Vault(members)
    result = restore(vault, _Plain(), _Full(), spool=Spool(folder, 2**24))
    assert (result.skipped, result.failures) == (members, 0), result
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
