"""What all unit tests share: what was compiled or made for the ledger of one test serves the others."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from understudy.ledger import database
from understudy.ledger.migration import bring_up_to_date

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


@cache
def _new_file() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder, "ledger.sqlite")
        engine = database._engine(path, foreign_keys=False)
        bring_up_to_date(engine, path)
        engine.dispose()
        return path.read_bytes()


def _begin(engine: Engine, path: Path) -> None:
    """Bring a ledger up to date; a new one is a copy, since many tests begin with one."""
    if path.exists():
        bring_up_to_date(engine, path)
    else:
        path.write_bytes(_new_file())


database.bring_up_to_date = _begin  # type: ignore[attr-defined]
