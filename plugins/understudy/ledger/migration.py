"""Migration: brings the file of an older ledger to the present schema, and refuses a newer one.

Rule 1: before anything is changed, a copy of the older ledger is on disk beside it.
Rule 2: all steps are one transaction. A crash leaves the older ledger, and the next start migrates it again.
"""

import logging
import sqlite3
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, select
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import DBAPIError

# Imported for their effect: they add the counts, triggers and statistics of a new file to the metadata.
from understudy.ledger import counts, planner  # noqa: F401
from understudy.ledger.copying import copy_ledger
from understudy.ledger.schema import ledger_facts, metadata

_log = logging.getLogger(__name__)

_REVISIONS = Path(__file__).with_name("revisions")
_VERSION = "schema_version"


class LedgerVersionError(Exception):
    """The ledger file was written by a newer version of Understudy."""

    def __init__(self, found: str, known: str) -> None:
        super().__init__(f"the ledger has schema {found}, this version reads schemas up to {known}")
        self.hint = "start the version of Understudy that wrote it, or restore the copy that was kept before"


class MigrationError(Exception):
    """The ledger of an older version could not be migrated to the present schema; it is unchanged."""

    def __init__(self, found: str, reason: str) -> None:
        super().__init__(f"the ledger of schema {found} was not migrated: {reason}")
        self.hint = (
            "free twice the disk that the ledger takes and start again; until then the older version runs"
        )


def bring_up_to_date(engine: Engine, path: Path) -> None:
    """Make the tables in a new file, or migrate those of an older one.

    The engine must not enforce foreign keys, because a step may replace a table. Raises LedgerVersionError or
    MigrationError; in both cases the file is unchanged.
    """
    with engine.connect() as connection, connection.begin():
        connection.connection.cursor().execute("BEGIN IMMEDIATE")
        if not inspect(connection).has_table(ledger_facts.name):
            # A new file has none of the tables, so no check is needed for each of them.
            metadata.create_all(connection, checkfirst=False)
            _write_schema(connection, schemas()[-1])
            return
        version = select(ledger_facts.c.value).where(ledger_facts.c.name == _VERSION)
        found = str(connection.scalar(version))
        if found not in schemas():
            raise LedgerVersionError(found, schemas()[-1])
        steps = _steps(found, "head")
        if steps:
            _migrate(connection, found, steps, path)


def make_schema(engine: Engine, schema: str, after: str | None = None) -> None:
    """Make the tables of an earlier schema, in an empty file or by migration from the schema `after`."""
    with engine.begin() as connection:
        steps = _steps(after, schema)
        if steps:
            _apply(connection, steps)


def schemas() -> Sequence[str]:
    """Return every schema that this version can read, the present one last."""
    return [step.revision for step in _steps(None, "head")]


def _migrate(connection: Connection, found: str, steps: Sequence[Script], path: Path) -> None:
    kept = path.with_name(f"{path.name}.schema-{found}")
    _log.info("ledger migrate from=%s to=%s copy=%s", found, steps[-1].revision, kept.name)
    try:
        copy_ledger(path, kept)
        _apply(connection, steps)
    except (OSError, sqlite3.Error, DBAPIError) as error:
        raise MigrationError(found, str(error)) from error


def _apply(connection: Connection, steps: Sequence[Script]) -> None:
    """Run the steps within the transaction, and check that every foreign key has its row."""
    with Operations.context(MigrationContext.configure(connection)):
        for step in steps:
            step.module.upgrade()
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if broken is not None:
        raise sqlite3.IntegrityError(f"a row of {broken[0]} refers to a missing row of {broken[2]}")
    _write_schema(connection, steps[-1].revision)


def _write_schema(connection: Connection, schema: str) -> None:
    statement = upsert(ledger_facts).values(name=_VERSION, value=schema)
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": schema}))


def _steps(after: str | None, until: str) -> Sequence[Script]:
    return [*_directory().iterate_revisions(until, after or "base")][::-1]


@cache
def _directory() -> ScriptDirectory:
    return ScriptDirectory(str(_REVISIONS.parent), version_locations=[str(_REVISIONS)])
