"""Makes the answer to a store true: an instance that is answered with success survives a power cut.

Orthanc commits to SQLite with `synchronous=NORMAL`, so a committed instance is only in the page cache until
the next checkpoint, up to 10 s later (Orthanc 1.13, SQLiteDatabaseWrapper.cpp). The stored-instance callback
runs after the commit and before the answer. Syncing the write-ahead log there closes the gap, for about 1 ms
an instance.

Rule 1: only the write-ahead log is opened. Closing any descriptor of the index itself would drop the locks
that SQLite holds on it in this process (POSIX locks belong to the inode, not to the descriptor).
Rule 2: a failed sync is never ignored. Orthanc answers success whatever this callback does, so the process
ends instead: the sender gets no answer and sends again. At the next start `understudy prepare-orthanc` copies
the log into the index, and syncs the index, before Orthanc opens it. Stores are refused until a sync
succeeds.
Rule 3: a successful sync is believed only if its file system still accepts changes afterwards. A file system
that shuts itself down upon an error commits nothing more, yet a sync that is under way at that moment may
succeed, because it finds its transaction finished (Linux 6.18, jbd2_complete_transaction). Such a file system
stays shut down until it is mounted again. So if it accepts a change after the sync, the sync was real.
"""

import errno
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

RECOVERY_SECONDS = 15.0
"""How long stores stay refused after a failed sync. Linux reports a write-back error once and then marks the
pages as clean, so the next sync may succeed without having written them. Orthanc's checkpoint, every 10 s,
writes them again."""


class StoreStatus(IntEnum):
    """DIMSE status that the C-STORE filter returns (DICOM PS3.4 B.2.3)."""

    ACCEPT = 0x0000
    OUT_OF_RESOURCES = 0xA700
    """Senders take this status for a temporary fault and try again."""


def write_ahead_log(configuration: Mapping[str, object]) -> Path:
    """Return the path of the index's write-ahead log from Orthanc's configuration."""
    folder = configuration.get("IndexDirectory") or configuration.get("StorageDirectory")
    if not isinstance(folder, str):
        raise ValueError("Orthanc's configuration names neither IndexDirectory nor StorageDirectory")
    return Path(folder) / "index-wal"


def sync_file(path: Path) -> None:
    """Flush an existing file's data to the disk; raise OSError if the file is missing or the disk fails."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


_SHUT_DOWN = frozenset({errno.EIO, errno.EROFS, errno.EUCLEAN})


def prove_alive(folder: Path) -> None:
    """Make a change to the folder's file system that leaves nothing behind.

    Raises OSError if the file system was shut down or is read-only. Takes about 0.04 ms. A full file system
    counts as alive. So does one without unnamed temporary files (NFS), although it cannot be tried.
    """
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except OSError as error:
        if error.errno in _SHUT_DOWN:
            raise


def one_folder_a_file_system(folders: Iterable[Path]) -> tuple[Path, ...]:
    """Return the first of the folders on each file system."""
    found: dict[int, Path] = {}
    for folder in folders:
        found.setdefault(folder.stat().st_dev, folder)
    return tuple(found.values())


def sync_log(log: Path, folders: Iterable[Path]) -> None:
    """Flush the index's log, and prove that the log and the stored files synced so far are on the disk.

    `folders` has one folder of each file system that a store writes to. Raises OSError.
    """
    sync_file(log)
    for folder in folders:
        prove_alive(folder)


@dataclass(frozen=True, slots=True)
class DurabilityCounts:
    """How many syncs succeeded and failed, and how many stores were refused, since Orthanc started."""

    synced: int
    failed: int
    refused: int
    refusing: bool


def _reason(error: OSError) -> str:
    return f"error={error.strerror or type(error).__name__!r} file={error.filename}"


class DurableAcknowledgement:
    """Syncs the write-ahead log after each stored instance, and refuses stores while syncs fail.

    `sync` raises OSError on failure; `monotonic` returns seconds; `log_error` takes one line; `end_process`
    ends Orthanc before it answers the store under way.
    """

    def __init__(
        self,
        sync: Callable[[], None],
        monotonic: Callable[[], float],
        log_error: Callable[[str], None],
        end_process: Callable[[], None],
    ) -> None:
        self._sync = sync
        self._monotonic = monotonic
        self._log_error = log_error
        self._end_process = end_process
        self._lock = threading.Lock()
        # A sync precedes the first store, so that a wrong path of the log is found in time.
        self._refuse_until: float | None = monotonic()
        self._synced = 0
        self._failed = 0
        self._refused = 0

    def after_store(self) -> None:
        """Sync the log; on failure end Orthanc, because it would answer success in any case."""
        try:
            self._sync()
        except OSError as error:
            with self._lock:
                self._failed += 1
                self._refuse_until = self._monotonic() + RECOVERY_SECONDS
            self._log_error(
                f"index_sync failed {_reason(error)}: an instance is stored, not safe from a power cut; "
                "Orthanc ends before it is answered; check the disks of IndexDirectory and StorageDirectory"
            )
            self._end_process()
        else:
            with self._lock:
                self._synced += 1

    def before_store(self) -> StoreStatus:
        """Return whether a store may begin; after a failed sync, try again when the recovery time is over."""
        with self._lock:
            if self._refuse_until is None:
                return StoreStatus.ACCEPT
            if self._monotonic() < self._refuse_until:
                self._refused += 1
                return StoreStatus.OUT_OF_RESOURCES
            if not self._recovered():
                self._refused += 1
                return StoreStatus.OUT_OF_RESOURCES
        return StoreStatus.ACCEPT

    def _recovered(self) -> bool:
        """Return whether a sync succeeds now; the caller holds the lock."""
        try:
            self._sync()
        except OSError as error:
            self._failed += 1
            self._refuse_until = self._monotonic() + RECOVERY_SECONDS
            self._log_error(f"index_sync failed {_reason(error)}: stores are refused")
            return False
        self._synced += 1
        self._refuse_until = None
        if self._failed:
            self._log_error("index_sync recovered: stores are accepted again")
        return True

    def refuse(self) -> None:
        """Refuse stores for the recovery time, because of a fault found by the caller."""
        with self._lock:
            self._failed += 1
            self._refuse_until = self._monotonic() + RECOVERY_SECONDS

    def counts(self) -> DurabilityCounts:
        """Return the counters as one consistent value."""
        with self._lock:
            return DurabilityCounts(self._synced, self._failed, self._refused, self._refuse_until is not None)
