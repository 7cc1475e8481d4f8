"""Integrity: whether SQLite finds damage in a ledger's file."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

_STEPS = 10_000
"""Steps of SQLite's virtual machine between two looks at the clock: some milliseconds."""


class DamagedLedgerError(Exception):
    """The ledger's file is damaged: anything read from it may be wrong."""

    def __init__(self, damage: str) -> None:
        super().__init__(f"the ledger is damaged: {damage}")
        self.hint = (
            "nothing was changed, and no image is affected; docs/runbook.md (The ledger is damaged) says how "
            "to continue with its backup or with a new ledger"
        )


def look_over(path: Path, *, seconds: float) -> bool:
    """Check the pages, the order of the rows and their constraints; return False if the time was too short.

    Raises DamagedLedgerError.
    """
    deadline = time.monotonic() + seconds
    with closing(_open(path)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        try:
            _ask(connection, "PRAGMA quick_check(1)")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                return False
            raise
    return True


def look_through(path: Path) -> None:
    """Check everything, also each index against its table, and that every foreign key has its row.

    Raises DamagedLedgerError.
    """
    with closing(_open(path)) as connection:
        _ask(connection, "PRAGMA integrity_check(1)")
        astray = connection.execute("PRAGMA foreign_key_check").fetchone()
    if astray is not None:
        raise DamagedLedgerError(f"a row of {astray[0]} refers to a missing row of {astray[2]}")


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)


def _ask(connection: sqlite3.Connection, question: str) -> None:
    try:
        (found,) = connection.execute(question).fetchone()
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise DamagedLedgerError(str(error)) from error
    if found != "ok":
        raise DamagedLedgerError(" ".join(str(found).split()))
