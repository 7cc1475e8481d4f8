"""Watches the file systems that intake writes to, and refuses intake before one of them is full.

A ballast file lies on a volume in better times. At the last mark it is given up, so that a full appliance can
still delete and recover: even a deletion makes SQLite write (Orthanc's index answers SQLITE_FULL otherwise).

Rule 1: ballast that was given up still counts as used. Giving it up never makes room for more images.
Rule 2: between the mark and the way back lies one percent, so that nothing swings.
Rule 3: whoever cannot measure does not refuse: a store on a disk that is really gone fails by itself.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

BALLAST_FILE = ".understudy-ballast"
FLAG = Path("/run/understudy-intake/refuse-intake")
"""While it is there the edge rejects new associations as transient (PS3.8 9.3.4). Orthanc writes it, on a
volume that edge and agent only read."""
LOOK_SECONDS = 1.0
_WAY_BACK = 0.01
_BALLAST_SHARE = 20
"""The ballast takes at most one twentieth of its volume."""


@dataclass(frozen=True, slots=True)
class Space:
    """One file system, as a user who is not root can use it; sizes in bytes, inodes in pieces."""

    total: int
    free: int
    inodes: int
    """0 where the file system makes them as it needs them."""
    inodes_free: int

    @property
    def used(self) -> float:
        """The share in use, 0 to 1, of bytes or of inodes: whichever runs out first."""
        bytes_used = 1 - self.free / self.total if self.total else 0.0
        inodes_used = 1 - self.inodes_free / self.inodes if self.inodes else 0.0
        return max(bytes_used, inodes_used)


def measure(folder: Path) -> Space:
    """Return the space of the file system that the folder lies on, or raise OSError."""
    found = os.statvfs(folder)
    # What is reserved for root is nobody's here: it is neither free nor part of the whole.
    reserved = found.f_bfree - found.f_bavail
    inodes_reserved = found.f_ffree - found.f_favail
    return Space(
        total=(found.f_blocks - reserved) * found.f_frsize,
        free=found.f_bavail * found.f_frsize,
        inodes=found.f_files - inodes_reserved,
        inodes_free=found.f_favail,
    )


def read_from_disk(file: Path) -> None:
    """Read the beginning of a file from the disk and not from what the system has cached, or raise OSError.

    A file that is not there is as good as one that was read: the volume has answered.
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
    """A file whose blocks are taken until they are needed."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._size = size
        self._file = folder / BALLAST_FILE

    def missing(self, space: Space) -> int:
        """Return how many bytes of the ballast are not there now."""
        try:
            held = self._file.stat().st_blocks * 512
        except FileNotFoundError:
            held = 0
        return max(0, self._wanted(space) - held)

    def release(self) -> bool:
        """Give the blocks back; return whether there were any."""
        try:
            self._file.unlink()
        except FileNotFoundError:
            return False
        return True

    def make(self, space: Space) -> None:
        """Take the blocks, or raise OSError and take none."""
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
    """One volume with its ballast, full or not."""

    def __init__(self, folder: Path, ballast_bytes: int, refuse_at: float) -> None:
        self._folder = folder
        self._ballast = Ballast(folder, ballast_bytes) if ballast_bytes else None
        self._refuse_at = refuse_at
        self.full = False
        self.problem = ""

    def look(self) -> bool:
        """Measure, keep the ballast as the volume needs it, and return whether it is full."""
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
        # Set once: another thread may read it at any moment.
        self.problem = problem
        return self.full


class IntakeGuard:
    """Says whether intake is refused because a volume is full; a thread for each volume looks once a second.

    `volumes` are looked at by name; `flag` tells the edge; `log` takes one line.
    """

    def __init__(self, volumes: Mapping[str, Volume], flag: Path, log: Callable[[str], None]) -> None:
        self._volumes = volumes
        self._flag = flag
        self._log = log
        self._told: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._full: tuple[str, ...] = ()
        self._telling = threading.Lock()
        self._stopping = threading.Event()
        # A volume that hangs keeps no other from being measured.
        self._threads = [
            threading.Thread(target=self._run, args=(volume,), name=f"understudy-{name}", daemon=True)
            for name, volume in volumes.items()
        ]

    @property
    def full(self) -> tuple[str, ...]:
        """The volumes that were full at the last look; while there are any, intake is refused."""
        return self._full

    def start(self) -> None:
        """Look now, then from threads of its own."""
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
        """Look at every volume once, and tell the edge and the log what changed."""
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
                    # The edge has to open it: another user of the same group.
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
