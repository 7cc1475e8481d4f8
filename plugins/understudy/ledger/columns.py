"""Columns that take less room than what they hold, and rows that are written in less time."""

import re
from collections.abc import Sequence
from itertools import accumulate

from sqlalchemy import Column, ColumnElement, Connection, Dialect, String, Table, case, func, type_coerce
from sqlalchemy.types import TypeDecorator


class Hexadecimal(TypeDecorator[str]):
    """Text of hexadecimal digits in groups joined by dashes, kept as bytes; any other text as it is.

    An index over digests that are half as long has half the pages, and its pages are what a new row touches.
    """

    impl = String
    cache_ok = True

    def __init__(self, *groups: int) -> None:
        super().__init__()
        self.groups: Sequence[int] = groups
        self._written = re.compile("-".join(f"[0-9a-f]{{{digits}}}" for digits in groups))
        ends = list(accumulate(groups))
        self._slices = [slice(end - digits, end) for end, digits in zip(ends, groups, strict=True)]

    def kept(self, value: str) -> str | bytes:
        """Return what the file holds."""
        return value if self._written.fullmatch(value) is None else bytes.fromhex(value.replace("-", ""))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | bytes | None:
        """Return what the file holds."""
        return None if value is None else self.kept(value)

    def process_result_value(self, value: str | bytes | None, dialect: Dialect) -> str | None:
        """Return what was given."""
        if not isinstance(value, bytes):
            return value
        digits = value.hex()
        return "-".join(digits[part] for part in self._slices)


def as_text(column: Column[str]) -> ColumnElement[str]:
    """Return what was given to a column of this kind, to be compared with another column's text."""
    kind = column.type
    if not isinstance(kind, Hexadecimal):
        raise TypeError(f"{column} holds no hexadecimal digits")
    digits = func.lower(func.hex(column))
    ends = list(accumulate(kind.groups))
    parts = [func.substr(digits, end - size + 1, size) for end, size in zip(ends, kind.groups, strict=True)]
    written: ColumnElement[str] = parts[0]
    for part in parts[1:]:
        written = written.concat("-").concat(part)
    return case((func.typeof(column) == "text", type_coerce(column, String)), else_=written)


def insert_rows(
    connection: Connection, table: Table, columns: Sequence[str], rows: Sequence[Sequence[object]]
) -> None:
    """Insert rows that are given as the values of some columns, in the order of these.

    By SQLAlchemy's own insert the names of the values cost more time than SQLite's work.
    """
    if not rows:
        return
    written = [list(row) for row in rows]
    for place, name in enumerate(columns):
        kind = table.c[name].type
        if isinstance(kind, Hexadecimal):
            for row in written:
                row[place] = kind.kept(str(row[place]))
    marks = ", ".join("?" * len(columns))
    connection.exec_driver_sql(
        f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({marks})", [tuple(row) for row in written]
    )
