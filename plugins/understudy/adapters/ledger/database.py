"""The ledger's SQLite file: every commit is on disk before it returns."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, insert, select

from understudy.adapters.ledger.schema import SCHEMA_VERSION, ledger_facts, metadata


class LedgerVersionError(Exception):
    """The ledger file was written by another version of Understudy."""

    def __init__(self, found: str) -> None:
        super().__init__(f"the ledger has schema {found}, this version reads schema {SCHEMA_VERSION}")
        self.hint = "start the version of Understudy that wrote it, or restore the ledger's backup"


class Database:
    """Transactions on the ledger file: `reading` sees one snapshot, `writing` is serialised and durable."""

    def __init__(self, path: Path) -> None:
        self._engine = create_engine(f"sqlite:///{path}", pool_size=8, max_overflow=16)
        event.listen(self._engine, "connect", _prepare)
        event.listen(self._engine, "begin", _begin)
        try:
            self._open(path)
        except LedgerVersionError:
            self.close()
            raise

    def _open(self, path: Path) -> None:
        with self.writing() as connection:
            metadata.create_all(connection)
            found = connection.scalar(
                select(ledger_facts.c.value).where(ledger_facts.c.name == "schema_version")
            )
            if found is None:
                connection.execute(
                    insert(ledger_facts).values(name="schema_version", value=str(SCHEMA_VERSION))
                )
            elif found != str(SCHEMA_VERSION):
                raise LedgerVersionError(found)
        path.chmod(0o600)

    @property
    def engine(self) -> Engine:
        """The engine, for maintenance and tests."""
        return self._engine

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection on one consistent snapshot."""
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Give a connection whose transaction is on disk when the block ends without an error."""
        with (
            self._engine.connect().execution_options(understudy_writes=True) as connection,
            connection.begin(),
        ):
            yield connection

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own transaction handling is turned off: `_begin` says which kind of transaction it is.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("understudy_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
