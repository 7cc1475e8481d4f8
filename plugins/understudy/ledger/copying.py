"""Copies the ledger as it is at one moment, while others read and write it."""

import errno
import os
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from understudy.ledger.integrity import look_through
from understudy.system.files import sync_folder


def copy_ledger(source: Path, target: Path) -> None:
    """Write a consistent copy, complete or not at all. It replaces an earlier copy.

    Raises OSError, sqlite3.Error or DamagedLedgerError; no partial file remains.
    """
    size = source.stat().st_size
    if shutil.disk_usage(target.parent).free < 2 * size:
        # The ledger itself needs space while it is copied.
        raise OSError(errno.ENOSPC, f"the volume lacks room for two more copies of its {size} bytes")
    temporary = target.with_name(f".{target.name}.part")
    temporary.unlink(missing_ok=True)
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with closing(sqlite3.connect(source)) as ours, closing(sqlite3.connect(temporary)) as copy:
            # Without a write-ahead log the copy is a single file, which any program opens.
            ours.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE").fetchall()
        look_through(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.rename(target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(target.parent)
