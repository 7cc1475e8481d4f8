"""The ledger's SQLite file: every commit is on disk before it returns."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event

from understudy.ledger.integrity import look_over
from understudy.ledger.migration import bring_up_to_date

_CHECK_SECONDS = 5.0
"""Time limit of the check for damage when the file is opened. A larger file is checked in the background."""

_CACHE = 16_384
"""KiB of pages cached by one connection: each instance of a page of the feed changes another index page."""

_CHECKPOINT = 8_192
"""Pages of 4 KiB after which the write-ahead log is written back: a page changed often is written once."""

_KEPT = 8
"""Idle connections for reading: the rest of the pool's 24 is for writing, and for more readers at a time."""


class Database:
    """Transactions on the ledger file: `reading` sees one snapshot, `writing` is serialised and durable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checked = not path.exists() or look_over(path, seconds=_CHECK_SECONDS)
        """Whether the whole file was checked for damage within the time limit."""
        opening = _engine(path, foreign_keys=False)
        try:
            bring_up_to_date(opening, path)
        finally:
            opening.dispose()
        path.chmod(0o600)
        self._engine = _engine(path)
        self._one_at_a_time = threading.Lock()
        self._readers: list[Connection] = []
        self._writers: list[Connection] = []
        self._followers: list[Callable[[Connection], None]] = []

    @property
    def engine(self) -> Engine:
        """The engine, for maintenance and tests."""
        return self._engine

    def follow(self, told: Callable[[Connection], None]) -> None:
        """Call `told` with the connection after each commit of `writing`, before the next one begins."""
        self._followers.append(told)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection on one consistent snapshot."""
        with self._lent(self._readers, "BEGIN") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Give a connection whose transaction is on disk when the block ends without an error."""
        with self._one_at_a_time, self._lent(self._writers, "BEGIN IMMEDIATE") as connection:
            # A transaction that was rolled back may have left entries.
            connection.info.clear()
            yield connection
            connection.commit()
            for follow in self._followers:
                follow(connection)

    def close(self) -> None:
        """Close every connection."""
        for idle in (self._readers, self._writers):
            while idle:
                idle.pop().close()
        self._engine.dispose()

    @contextmanager
    def _lent(self, idle: list[Connection], begin: str) -> Iterator[Connection]:
        """Give an idle connection, or a new one, in a transaction, and keep it for the next caller.

        SQLAlchemy takes longer to check a connection out and in than SQLite to answer a short query.
        """
        try:
            connection = idle.pop()
        except IndexError:
            connection = self._engine.connect()
        try:
            connection.begin()
            # By the driver's own cursor, because SQLAlchemy's takes as long as a short query.
            connection.connection.cursor().execute(begin)
            yield connection
            connection.rollback()
        except BaseException:
            # SQLAlchemy takes a failed commit for the end of the transaction: the pool rolls back.
            with connection:
                connection.rollback()
            raise
        if len(idle) < _KEPT:
            idle.append(connection)
        else:
            connection.close()


class Book:
    """One book of the ledger: each of its methods is a transaction of its own."""

    def __init__(self, database: Database) -> None:
        self._database = database


def _engine(path: Path, *, foreign_keys: bool = True) -> Engine:
    pragmas = (
        "journal_mode=WAL",
        "synchronous=FULL",
        f"foreign_keys={foreign_keys}",
        "busy_timeout=30000",
        f"cache_size=-{_CACHE}",
        f"wal_autocheckpoint={_CHECKPOINT}",
    )

    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        # Turns off the driver's own transactions: the caller chooses the kind of each transaction.
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    engine = create_engine(f"sqlite:///{path}", pool_size=_KEPT, max_overflow=16, pool_use_lifo=True)
    event.listen(engine, "connect", prepare)
    return engine
