"""The facts of the ledger: small values by name."""

from sqlalchemy import Connection, Integer, String, bindparam, cast, select
from sqlalchemy.dialects.sqlite import insert as upsert

from understudy.ledger.database import Book
from understudy.ledger.schema import ledger_facts

_VALUE = select(ledger_facts.c.value).where(ledger_facts.c.name == bindparam("name"))
_NEW = upsert(ledger_facts)
_WRITE = _NEW.on_conflict_do_update(index_elements=["name"], set_={"value": _NEW.excluded.value})


class FactBook(Book):
    """The facts. The code that writes a fact defines its meaning."""

    def read(self, name: str) -> str | None:
        """Return a fact, None if it was never written."""
        with self._database.reading() as connection:
            return read_fact(connection, name)

    def write(self, name: str, value: str) -> None:
        """Write a fact."""
        with self._database.writing() as connection:
            write_fact(connection, name, value)


def read_fact(connection: Connection, name: str) -> str | None:
    """Return a fact within a transaction."""
    return connection.scalar(_VALUE, {"name": f"fact:{name}"})


def write_fact(connection: Connection, name: str, value: str) -> None:
    """Write a fact within a transaction."""
    _write(connection, f"fact:{name}", value)


def read_cursor(connection: Connection, name: str) -> int:
    """Return a cursor within a transaction, 0 if it was never written."""
    return int(connection.scalar(_VALUE, {"name": f"cursor:{name}"}) or 0)


def write_cursor(connection: Connection, name: str, value: int, mark: str = "") -> None:
    """Write a cursor within a transaction, and the mark of the last change that was seen, if there is one."""
    _write(connection, f"cursor:{name}", str(value))
    if mark:
        write_fact(connection, mark_fact(name), mark)


def mark_fact(cursor: str) -> str:
    """Return the name of the fact that keeps a cursor's mark."""
    return f"{cursor}.mark"


def _write(connection: Connection, name: str, value: str) -> None:
    connection.execute(_WRITE, {"name": name, "value": value})


def count_up(connection: Connection, name: str, number: int) -> None:
    """Add to a number that is kept as a fact, within a transaction."""
    statement = upsert(ledger_facts).values(name=f"fact:{name}", value=str(number))
    total = cast(cast(ledger_facts.c.value, Integer) + number, String)
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": total}))
