"""Migration: an older ledger becomes the present one, with a copy beside it; a newer one is left alone."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, inspect
from sqlalchemy.engine import Engine
from sqlalchemy.pool import NullPool
from understudy.core.model import InstanceNumber
from understudy.core.obligations import ObligationState
from understudy.ledger import Ledger, LedgerVersionError, MigrationError
from understudy.ledger.copying import copy_ledger
from understudy.ledger.database import Database
from understudy.ledger.migration import make_schema, schemas

from tests.unit.fakes import NOW, PRIMARY, ROUTE, STUDY, CrashError, dump, new_instance, note

OLDER = schemas()[:-1]

ROWS = f"""
INSERT INTO instances VALUES
    (1, 'orthanc-1', 'file-1', '1.2.3.4.1', '1.2.840', '{STUDY}.1', '{STUDY}', '1.2.840.1', 'CT', 1000,
     'md5-1', 'CT1', 'STANDBY', '192.0.2.1', {NOW - 9}, 0, 2),
    (2, 'orthanc-1', 'file-2', '1.2.3.4.1', '1.2.840', '{STUDY}.1', '{STUDY}', '1.2.840.1', 'CT', 1002,
     'md5-2', 'CT1', 'STANDBY', '192.0.2.1', {NOW - 8}, 0, NULL),
    (3, 'orthanc-3', 'file-3', '1.2.3.4.3', '1.2.840', '{STUDY}.1', '{STUDY}', '1.2.840.1', 'CT', 1003,
     'md5-3', 'PRIMARY', 'STANDBY', '192.0.2.2', {NOW - 7}, 0, NULL);
INSERT INTO obligations VALUES
    (1, 'archive', 'waived', 0, {NOW}, {NOW}, NULL, {NOW}, 'its content was replaced'),
    (2, 'archive', 'owed', 3, {NOW}, {NOW + 60}, NULL, {NOW}, 'busy'),
    (3, 'archive', 'refused', 0, {NOW}, {NOW}, NULL, {NOW}, 'no'),
    (3, 'primary', 'proven', 0, {NOW}, {NOW}, NULL, {NOW}, '');
INSERT INTO proofs VALUES (1, 3, 'primary', 'received', {NOW}, '{{}}');
INSERT INTO conflicts VALUES (1, {NOW}, 'content', 1, 2, NULL, '', '');
INSERT INTO damages VALUES ('file-3', 3, 'open', 'scrub', {NOW}, {NOW}, 0, 'absent');
INSERT INTO packs VALUES ('a', 'nas', x'00', 1);
INSERT INTO pack_members VALUES (3, 'a');
INSERT INTO modes VALUES (1, 'standby', 0, {NOW});
INSERT INTO ledger_facts VALUES ('cursor:changes', '41');
"""
"""Some of everything that points to something, as the first schema holds it."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def older(path: Path, schema: str) -> None:
    """Make a ledger of the first schema with rows, and bring it to the given one."""
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    make_schema(engine, "1")
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"PRAGMA journal_mode=WAL; {ROWS}")
    make_schema(engine, schema, after="1")


def shape(engine: Engine) -> dict[str, Any]:
    """Return all that makes the schema of a file, in no order of columns."""
    look = inspect(engine)
    with engine.connect() as connection:
        others = connection.exec_driver_sql(
            "SELECT type, name, sql FROM sqlite_schema WHERE type IN ('trigger', 'view')"
        ).all()
        statistics = [
            sorted(tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {name}"))
            for (name,) in connection.exec_driver_sql(
                "SELECT name FROM sqlite_schema WHERE name = 'sqlite_stat1'"
            ).all()
        ]
        tables = connection.exec_driver_sql("SELECT name, wr, strict FROM pragma_table_list").all()
    return {
        "others": sorted(tuple(row) for row in others),
        "statistics": statistics,
        "tables": sorted(tuple(row) for row in tables),
        "columns": {
            name: sorted(
                (column["name"], str(column["type"]), column["nullable"], column["default"])
                for column in look.get_columns(name)
            )
            for name in look.get_table_names()
        },
        "keys": {name: look.get_pk_constraint(name) for name in look.get_table_names()},
        "foreign": {name: sorted(map(repr, look.get_foreign_keys(name))) for name in look.get_table_names()},
        "checks": {
            name: sorted(map(repr, look.get_check_constraints(name))) for name in look.get_table_names()
        },
        "unique": {
            name: sorted(map(repr, look.get_unique_constraints(name))) for name in look.get_table_names()
        },
        "indexes": {
            name: sorted(
                (
                    str(index["name"]),
                    index["column_names"],
                    index["unique"],
                    str(index["dialect_options"].get("sqlite_where")),
                )
                for index in look.get_indexes(name)
            )
            for name in look.get_table_names()
        },
    }


def test_schemas_follow_one_another_without_a_fork() -> None:
    assert schemas() == [str(number) for number in range(1, len(schemas()) + 1)]
    assert OLDER


@pytest.mark.parametrize("schema", OLDER)
def test_migrated_ledger_has_the_shape_of_a_new_one(path: Path, schema: str) -> None:
    older(path, schema)
    migrated, new = Database(path), Database(path.with_name("new.sqlite"))
    assert shape(migrated.engine) == shape(new.engine)
    migrated.close()
    new.close()


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE gaps ADD COLUMN extra INTEGER",
        "DROP INDEX packs_open",
        "DROP TABLE gaps",
        "DELETE FROM sqlite_stat1",
        "CREATE TRIGGER extra AFTER DELETE ON gaps BEGIN DELETE FROM departures; END",
    ],
)
def test_shape_tells_a_difference(path: Path, change: str) -> None:
    one, other = Database(path), Database(path.with_name("other.sqlite"))
    with other.writing() as connection:
        connection.exec_driver_sql(change)
    assert shape(one.engine) != shape(other.engine)
    one.close()
    other.close()


@pytest.mark.parametrize("schema", OLDER)
def test_migrated_ledger_holds_all_rows_and_works_on(path: Path, schema: str) -> None:
    older(path, schema)
    ledger = Ledger(path)
    one, two = (InstanceNumber(number) for number in (2, 3))
    assert ledger.obligations.of_study(ROUTE, STUDY) == {
        1: ObligationState.WAIVED,
        one: ObligationState.OWED,
        two: ObligationState.REFUSED,
    }
    assert ledger.obligations.of_study(PRIMARY, STUDY) == {two: ObligationState.PROVEN}
    assert [instance.size for instance in ledger.instances.of_study(STUDY)] == [1002, 1003]
    assert ledger.conflicts.versions_of("orthanc-1") == {"md5-1": False, "md5-2": True}
    assert len(ledger.conflicts.listed(everything=True)) == len(ledger.files.damages(limit=9)) == 1
    assert (ledger.intake.cursor("changes"), ledger.obligations.oldest(ROUTE)) == (41, NOW)
    assert note(ledger, new_instance(4)) == 1
    assert ledger.dead_letters.replay(ROUTE, None, "ann", NOW) == 1
    ledger.close()
    reopened = Ledger(path)
    assert reopened.instances.counts() == (3, 1)
    reopened.close()


@pytest.mark.parametrize("schema", OLDER)
def test_older_ledger_is_kept_beside_as_it_was(path: Path, schema: str) -> None:
    older(path, schema)
    with closing(sqlite3.connect(path)) as connection:
        before = list(connection.iterdump())
    Ledger(path).close()
    kept = path.with_name(f"ledger.sqlite.schema-{schema}")
    with closing(sqlite3.connect(kept)) as connection:
        assert list(connection.iterdump()) == before
    assert kept.stat().st_mode & 0o777 == 0o600
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, kept.name]


def test_present_ledger_is_opened_without_a_copy(path: Path) -> None:
    Ledger(path).close()
    Ledger(path).close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_newer_ledger_is_refused_by_name_and_left_alone(path: Path) -> None:
    newer = Ledger(path)
    with newer.database.writing() as connection:
        connection.exec_driver_sql("UPDATE ledger_facts SET value = '999' WHERE name = 'schema_version'")
        connection.exec_driver_sql("DROP TABLE gaps")
    newer.close()
    before = path.read_bytes()
    wanted = f"has schema 999, this version reads schemas up to {schemas()[-1]}"
    with pytest.raises(LedgerVersionError, match=wanted) as caught:
        Ledger(path)
    assert caught.value.hint
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_migration_without_a_copy_is_not_begun(path: Path) -> None:
    older(path, "1")
    before = path.read_bytes()
    path.with_name("ledger.sqlite.schema-1").mkdir()
    with pytest.raises(MigrationError, match="schema 1") as caught:
        Ledger(path)
    assert "disk" in caught.value.hint
    assert path.read_bytes() == before


@pytest.fixture
def crash_at() -> Iterator[list[int]]:
    """Count statements of every engine down and raise at zero, for as long as the list holds a number."""
    left: list[int] = []

    def count(*_: object) -> None:
        if left:
            left[0] -= 1
            if left[0] == 0:
                raise CrashError

    event.listen(Engine, "after_cursor_execute", count)
    yield left
    event.remove(Engine, "after_cursor_execute", count)


def test_migration_broken_off_after_any_statement_ends_the_same(tmp_path: Path, crash_at: list[int]) -> None:
    template, expected = tmp_path / "template.sqlite", tmp_path / "expected.sqlite"
    older(template, "1")
    copy_ledger(template, expected)
    undisturbed = Ledger(expected)
    rows, tables = dump(undisturbed), shape(undisturbed.database.engine)
    undisturbed.close()
    crashes = 0
    while True:
        path = tmp_path / f"{crashes}.sqlite"
        copy_ledger(template, path)
        crash_at[:] = [crashes + 1]
        try:
            Ledger(path).close()
        except CrashError:
            crashes += 1
        else:
            break
        finally:
            crash_at.clear()
        ledger = Ledger(path)
        assert dump(ledger) == rows
        assert shape(ledger.database.engine) == tables
        ledger.close()
    assert crashes > 5
