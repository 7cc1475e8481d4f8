"""Watches the file systems that intake writes to, and refuses intake before one of them is full.

While a volume has space, a ballast file takes some of it. When the volume reaches its limit, the ballast is
deleted, so that a full appliance can still delete and recover: even a deletion makes SQLite write (otherwise
Orthanc's index answers SQLITE_FULL).

Rule 1: the space of a deleted ballast still counts as used, so it never makes room for more images.
Rule 2: intake is accepted again one percent below the limit, so that the state does not flap.
Rule 3: if a volume cannot be measured, intake is not refused: a store on a dead disk fails by itself.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

BALLAST_FILE = ".understudy-ballast"
FLAG = Path("/run/understudy-intake/refuse-intake")
"""While this file exists, the edge rejects new associations as transient (PS3.8 9.3.4). Orthanc writes it, on
a volume that edge and agent only read."""
LOOK_SECONDS = 1.0
_WAY_BACK = 0.01
_BALLAST_SHARE = 20
"""The ballast takes at most one twentieth of its volume."""


@dataclass(frozen=True, slots=True)
class Space:
    """The space of one file system that a user other than root can use; sizes in bytes."""

    total: int
    free: int
    inodes: int
    """Number of inodes; 0 if the file system creates inodes as it needs them."""
    inodes_free: int

    @property
    def used(self) -> float:
        """The share in use, 0 to 1, of bytes or of inodes, whichever is larger."""
        bytes_used = 1 - self.free / self.total if self.total else 0.0
        inodes_used = 1 - self.inodes_free / self.inodes if self.inodes else 0.0
        return max(bytes_used, inodes_used)


def measure(folder: Path) -> Space:
    """Return the space of the file system that the folder lies on, or raise OSError."""
    found = os.statvfs(folder)
    # Space reserved for root counts neither as free nor as part of the total.
    reserved = found.f_bfree - found.f_bavail
    inodes_reserved = found.f_ffree - found.f_favail
    return Space(
        total=(found.f_blocks - reserved) * found.f_frsize,
        free=found.f_bavail * found.f_frsize,
        inodes=found.f_files - inodes_reserved,
        inodes_free=found.f_favail,
    )


def read_from_disk(file: Path) -> None:
    """Read the beginning of a file from the disk and not from the page cache, or raise OSError.

    A missing file is no error: the volume has answered.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.pread(descriptor, 4096, 0)
    finally:
        os.close(descriptor)


class Ballast:
    """A file that reserves blocks until they are needed."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._size = size
        self._file = folder / BALLAST_FILE

    def missing(self, space: Space) -> int:
        """Return how many bytes the ballast now lacks."""
        try:
            held = self._file.stat().st_blocks * 512
        except FileNotFoundError:
            held = 0
        return max(0, self._wanted(space) - held)

    def release(self) -> bool:
        """Delete the file; return whether there was one."""
        try:
            self._file.unlink()
        except FileNotFoundError:
            return False
        return True

    def make(self, space: Space) -> None:
        """Allocate the blocks, or raise OSError and allocate none."""
        wanted = self._wanted(space)
        if not self.missing(space) or not wanted:
            return
        self.release()
        descriptor = os.open(self._file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, wanted)
        except OSError:
            self.release()
            raise
        finally:
            os.close(descriptor)

    def _wanted(self, space: Space) -> int:
        return min(self._size, space.total // _BALLAST_SHARE)


class Volume:
    """One volume with its ballast; knows whether it is full."""

    def __init__(self, folder: Path, ballast_bytes: int, refuse_at: float) -> None:
        self._folder = folder
        self._ballast = Ballast(folder, ballast_bytes) if ballast_bytes else None
        self._refuse_at = refuse_at
        self.full = False
        self.problem = ""

    def look(self) -> bool:
        """Measure the volume, make or release the ballast, and return whether the volume is full."""
        problem = ""
        try:
            space = measure(self._folder)
            missing = self._ballast.missing(space) if self._ballast else 0
            lent = Space(space.total, max(0, space.free - missing), space.inodes, space.inodes_free)
            self.full = lent.used >= self._refuse_at - (_WAY_BACK if self.full else 0.0)
            if self._ballast is not None and self.full:
                self._ballast.release()
            elif self._ballast is not None:
                self._ballast.make(space)
        except OSError as error:
            problem = error.strerror or type(error).__name__
        # Assigned in one step, because another thread may read it at any moment.
        self.problem = problem
        return self.full


class IntakeGuard:
    """Says whether intake is refused because a volume is full; each volume's thread measures once a second.

    `volumes` has the volumes by name; `flag` is the file that tells the edge; `log` takes one line.
    """

    def __init__(self, volumes: Mapping[str, Volume], flag: Path, log: Callable[[str], None]) -> None:
        self._volumes = volumes
        self._flag = flag
        self._log = log
        self._told: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._full: tuple[str, ...] = ()
        self._telling = threading.Lock()
        self._stopping = threading.Event()
        # One thread for each volume, so that a volume that hangs does not delay the others.
        self._threads = [
            threading.Thread(target=self._run, args=(volume,), name=f"understudy-{name}", daemon=True)
            for name, volume in volumes.items()
        ]

    @property
    def full(self) -> tuple[str, ...]:
        """The volumes that were full when last measured; while there is one, intake is refused."""
        return self._full

    def start(self) -> None:
        """Measure now, and then regularly from the threads."""
        self.look()
        for thread in self._threads:
            thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End the threads."""
        self._stopping.set()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))

    def look(self) -> None:
        """Measure every volume once, and tell the edge and the log what changed."""
        for volume in self._volumes.values():
            volume.look()
        self._tell()

    def _tell(self) -> None:
        with self._telling:
            full = tuple(name for name, volume in self._volumes.items() if volume.full)
            problems = tuple(
                f"{name}: {volume.problem}" for name, volume in self._volumes.items() if volume.problem
            )
            self._full = full
            try:
                if full:
                    self._flag.touch()
                    # The edge, another user of the same group, has to open it.
                    self._flag.chmod(0o640)
                else:
                    self._flag.unlink(missing_ok=True)
            except OSError as error:
                problems += (f"{self._flag.name}: {error.strerror}",)
            if (full, problems) != self._told:
                told = f" problems={list(problems)}" if problems else ""
                state = f"refused because=full volumes={','.join(full)}" if full else "accepted"
                self._log(f"intake {state}{told}")
                self._told = (full, problems)

    def _run(self, volume: Volume) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            volume.look()
            self._tell()
