"""What all unit tests share: SQL that was compiled for the ledger of one test serves those of the others."""

from typing import Any

from sqlalchemy import Connection, Engine, MetaData, event
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

_COMPILED: dict[Any, Any] = {}


class SharedDialect(SQLiteDialect_pysqlite):
    """SQLite's dialect, equal to that of every other engine: SQLAlchemy caches statements by dialect."""

    supports_statement_cache = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SharedDialect)

    def __hash__(self) -> int:
        return hash(SharedDialect)

    @classmethod
    def engine_created(cls, engine: Engine) -> None:
        """Let the new engine use what was compiled for the others."""
        engine.update_execution_options(compiled_cache=_COMPILED)


registry.register("sqlite", __name__, SharedDialect.__name__)

_create_all = MetaData.create_all
_STATEMENTS: dict[MetaData, list[tuple[str, Any]]] = {}
"""The statements that make a new file, with their values: many tests begin with a new ledger."""


def _create_as_before(metadata: MetaData, bind: Connection, **options: Any) -> None:
    """Make the tables as SQLAlchemy made them the first time, without compiling every table again."""
    if metadata in _STATEMENTS:
        for statement, values in _STATEMENTS[metadata]:
            bind.exec_driver_sql(statement, values)
        return
    statements: list[tuple[str, Any]] = []

    def note(*arguments: Any) -> None:
        statements.append((arguments[2], arguments[3] or None))

    event.listen(bind, "before_cursor_execute", note)
    try:
        _create_all(metadata, bind, **options)
    finally:
        event.remove(bind, "before_cursor_execute", note)
    _STATEMENTS[metadata] = statements


MetaData.create_all = _create_as_before  # type: ignore[assignment]
