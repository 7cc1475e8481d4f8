"""Inspects and prepares Orthanc's embedded index (SQLite) while Orthanc is stopped.

Rule 1: while Orthanc runs, it locks its index; then every call raises UnusableIndexError and changes nothing.
Rule 2: Orthanc's own tables are never written. The planner's statistics belong to SQLite, and the index's
name is in a table of ours.
"""

import re
import sqlite3
import subprocess
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Set
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

DICOM = 1
"""AttachedFiles.fileType of a stored DICOM file (Orthanc, FileContentType_Dicom)."""

_STATISTICS = (
    ("Resources", "PublicIndex", "1000000000 1"),
    ("Resources", "ResourceTypeIndex", "1000000000 250000000"),
    ("Resources", "ChildrenIndex", "1000000000 2"),
    ("Metadata", "sqlite_autoindex_Metadata_1", "10000000000 10 1"),
    ("MainDicomTags", "sqlite_autoindex_MainDicomTags_1", "10000000000 10 10 1"),
    ("MainDicomTags", "MainDicomTagsIndex1", "10000000000 10"),
    ("AttachedFiles", "sqlite_autoindex_AttachedFiles_1", "10000000000 2 1"),
    ("DicomIdentifiers", "sqlite_autoindex_DicomIdentifiers_1", "10000000000 4 4 1"),
    ("DicomIdentifiers", "DicomIdentifiersIndex1", "10000000000 4"),
    ("DicomIdentifiers", "DicomIdentifiersIndex3", "10000000000 1000000000 1000000000 2"),
    ("Labels", "sqlite_autoindex_Labels_1", "1000000000 1 1"),
    ("Labels", "LabelsIndex1", "1000000000 1"),
)
"""The planner's statistics: rows in the table, and rows for one key. An identifier has one row, a level a
quarter of all rows, a parent few. The statistics make the tables far larger than they are. SQLite assumes a
million rows in the set that Orthanc asks about (`Lookup`), and would read a table of a million rows whole
instead of looking up each of them."""

_LOOK_UP = "EXPLAIN QUERY PLAN SELECT 1 FROM Resources WHERE resourceType = 4 AND publicId = 'x'"
"""The look-up that Orthanc makes at every store; without statistics it reads every instance in the index."""

_EXPAND = """EXPLAIN QUERY PLAN
WITH Lookup AS (SELECT series.publicId, series.internalId,
    ROW_NUMBER() OVER (ORDER BY series.publicId) AS number FROM Resources AS series
    WHERE series.resourceType = 3 AND series.publicId = 'x')
SELECT 1 AS part, Lookup.internalId, Lookup.publicId FROM Lookup
UNION SELECT 22, Lookup.internalId, value FROM Lookup
    INNER JOIN Resources child ON child.parentId = Lookup.internalId
    INNER JOIN Metadata ON Metadata.id = child.internalId AND Metadata.type IN (1)
UNION SELECT 20, Lookup.internalId, child.publicId FROM Lookup
    INNER JOIN Resources child ON child.parentId = Lookup.internalId
ORDER BY part"""
"""A short form of Orthanc's query for a series; a bad plan reads all metadata, or every instance."""


class UnusableIndexError(Exception):
    """The index cannot be used; the hint says what to do."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Attachment:
    """One file that the index lists; its folder follows from its name."""

    uuid: str
    file_type: int
    size: int
    """Size on the disk, in bytes."""
    md5: str
    """MD5 of the uncompressed content; empty if Orthanc keeps none."""
    orthanc_id: str


@dataclass(frozen=True, slots=True)
class IndexComparison:
    """The differences between the files of some folders and the index."""

    orphans: tuple[str, ...]
    """Files that no row names."""
    being_deleted: frozenset[str]
    """The orphans that Orthanc was about to delete when it stopped."""
    missing: tuple[Attachment, ...]
    resized: tuple[tuple[Attachment, int], ...]
    """Rows whose file has another size, with the size of the file."""


def is_made(index: Path) -> bool:
    """Return whether the index has its tables."""
    if not index.exists() or index.stat().st_size == 0:
        return False
    with _open(index) as connection:
        found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'AttachedFiles'").fetchone()
        return found is not None


def make(index: Path, program: str = "Orthanc") -> None:
    """Let Orthanc make an empty index, in a run without DICOM, HTTP and plugins that ends by itself."""
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder, "orthanc.json")
        # `--upgrade` opens the index, which creates it, and ends (Orthanc, main.cpp, ConfigureDatabase).
        configuration.write_text(
            f'{{"StorageDirectory": "{folder}", "IndexDirectory": "{index.parent}", "Plugins": [],'
            ' "DicomServerEnabled": false, "HttpServerEnabled": false}',
            encoding="utf-8",
        )
        try:
            done = subprocess.run(
                [program, "--upgrade", str(configuration)], capture_output=True, check=False, timeout=20
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnusableIndexError(
                f"Orthanc did not make its index: {error}", "check that the container image is complete"
            ) from error
    if done.returncode != 0 or not is_made(index):
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise UnusableIndexError(
            f"Orthanc did not make its index, exit {done.returncode}: {''.join(last)[-200:]}",
            f"check the volume at {index.parent}",
        )


def seed_statistics(index: Path) -> bool:
    """Write our planner's statistics if the index has other ones; return whether it had.

    Orthanc reads them when it opens the index.
    """
    with _open(index) as connection:
        if _statistics(connection) == set(_STATISTICS):
            return False
        # ANALYZE creates the table sqlite_stat1; GlobalProperties has only a few rows.
        connection.execute("ANALYZE GlobalProperties")
        with connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM sqlite_stat1")
            connection.executemany("INSERT INTO sqlite_stat1 (tbl, idx, stat) VALUES (?, ?, ?)", _STATISTICS)
        return True


def name_of(index: Path) -> str:
    """Return the unique name of this index; the first call writes it, and copies of the index keep it."""
    with _open(index) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS UnderstudyName (name TEXT NOT NULL)")
        once = "INSERT INTO UnderstudyName SELECT ? WHERE NOT EXISTS (SELECT 1 FROM UnderstudyName)"
        connection.execute(once, [str(uuid.uuid4())])
        (name,) = connection.execute("SELECT name FROM UnderstudyName").fetchone()
        return str(name)


def statistics_in_force(index: Path) -> bool:
    """Return whether SQLite plans to look up an instance by its identifier, and to read no table whole."""
    with _open(index) as connection:
        by_identifier = any(re.search(r"\bPublicIndex\b", step) for step in _plan(connection, _LOOK_UP))
        whole = any(re.match(r"SCAN (child|Metadata)\b", step) for step in _plan(connection, _EXPAND))
        return by_identifier and not whole


def _plan(connection: sqlite3.Connection, question: str) -> list[str]:
    return [str(row[-1]) for row in connection.execute(question)]


def generation(index: Path) -> tuple[int, int]:
    """Return the inode and the highest row number used; another inode or a lower number is another index."""
    with _open(index) as connection:
        query = "SELECT seq FROM sqlite_sequence WHERE name = 'Resources'"
        row = connection.execute(query).fetchone()
        return index.stat().st_ino, 0 if row is None else int(row[0])


def compare(index: Path, folders: Set[str], files: Iterable[tuple[str, int]]) -> IndexComparison:
    """Compare all files of some folders, each with its size, with the rows that belong there.

    A folder is named by the first four digits of its files' names.
    """
    with _open(index) as connection:
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("CREATE TEMP TABLE folder (name TEXT PRIMARY KEY) WITHOUT ROWID")
        connection.execute("CREATE TEMP TABLE file (uuid TEXT PRIMARY KEY, size INTEGER) WITHOUT ROWID")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO folder VALUES (?)", ((name,) for name in folders))
        connection.executemany("INSERT INTO file VALUES (?, ?)", files)
        connection.execute(
            "CREATE TEMP TABLE listed AS SELECT a.uuid, a.fileType, a.compressedSize, a.uncompressedMD5, "
            "r.publicId FROM AttachedFiles a JOIN Resources r ON r.internalId = a.id "
            "WHERE substr(a.uuid, 1, 4) IN folder"
        )
        connection.execute("CREATE INDEX temp.listed_uuid ON listed (uuid)")
        orphans = "SELECT uuid FROM file WHERE uuid NOT IN (SELECT uuid FROM listed) ORDER BY uuid"
        deleted = "SELECT uuid FROM DeletedFiles WHERE uuid IN (SELECT uuid FROM file)"
        missing = "SELECT * FROM listed WHERE uuid NOT IN (SELECT uuid FROM file)"
        resized = "SELECT listed.*, file.size FROM listed JOIN file USING (uuid) WHERE compressedSize <> size"
        return IndexComparison(
            tuple(row[0] for row in connection.execute(orphans)),
            frozenset(row[0] for row in connection.execute(deleted)),
            tuple(_attachment(row) for row in connection.execute(missing)),
            tuple((_attachment(row), int(row[5])) for row in connection.execute(resized)),
        )


def _attachment(row: tuple[str, int, int, str | None, str]) -> Attachment:
    return Attachment(row[0], row[1], row[2], row[3] or "", row[4])


def _statistics(connection: sqlite3.Connection) -> set[tuple[str, str, str]]:
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_stat1'").fetchone() is None:
        return set()
    return {(row[0], row[1], row[2]) for row in connection.execute("SELECT tbl, idx, stat FROM sqlite_stat1")}


@contextmanager
def _open(index: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(
            sqlite3.connect(f"{index.absolute().as_uri()}?mode=rw", uri=True, timeout=1, isolation_level=None)
        ) as connection:
            yield connection
    except sqlite3.Error as error:
        busy = "locked" in str(error)
        raise UnusableIndexError(
            f"Orthanc's index cannot be opened: {error}",
            "stop Orthanc first" if busy else f"check the volume at {index.parent}, or restore the index",
        ) from error
