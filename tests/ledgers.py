"""Lets all ledgers of a process share what SQLAlchemy compiled: each opens an engine of its own."""

from typing import Any

from sqlalchemy import Engine
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


def share_compiled() -> None:
    """Let engines that are made from now on share it."""
    registry.register("sqlite", __name__, SharedDialect.__name__)
