"""Holds a vault's manifests in an unnamed database, because ten million members do not fit into memory.

Rule 1: a manifest is added once, as it was read, and the manifests are read back one at a time.
Rule 2: nothing is left behind. The database file has no name, so it is gone when the process ends, for any
reason.
"""

import json
import sqlite3
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import zstandard

from understudy.core.packing import Manifest, manifest_from_json
from understudy.core.ports import StoredObject

_SCHEMA = """
CREATE TABLE packs (key TEXT, number INTEGER, version TEXT, size INTEGER, PRIMARY KEY (key, number))
    WITHOUT ROWID;
CREATE TABLE described (pack_key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE manifests (
    number INTEGER PRIMARY KEY, key TEXT, pack_key TEXT, study TEXT, writer TEXT, stored_at REAL,
    counts_at REAL, believed INTEGER DEFAULT 0, document BLOB
);
CREATE INDEX manifests_newest ON manifests (counts_at DESC);
CREATE INDEX manifests_study ON manifests (study, counts_at DESC);
CREATE TABLE unsigned (sop TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE contents (
    identity BLOB, sha256 TEXT, manifest INTEGER, name TEXT, signed INTEGER, size INTEGER,
    state INTEGER DEFAULT 1, PRIMARY KEY (identity, sha256)
) WITHOUT ROWID;
CREATE TABLE names (name TEXT PRIMARY KEY, identity BLOB, shared INTEGER DEFAULT 0) WITHOUT ROWID;
CREATE TABLE failures (number INTEGER PRIMARY KEY, identity BLOB UNIQUE, what TEXT, reason TEXT);
"""
_CACHE = 16 * 2**10
"""KiB of the database that are held in memory."""
_PAGE = 500
"""Identities that are read together."""
_LEFT, _WANTED, _DONE = 0, 1, 2
"""States of a content: not chosen, to be restored, and restored."""


@dataclass(frozen=True, slots=True)
class IndexedManifest:
    """A manifest as it was added; manifests are ordered by the time `counts_at`."""

    number: int
    manifest: Manifest
    signed: bool
    counts_at: float


@dataclass(frozen=True, slots=True)
class IndexedContent:
    """One content of an instance, with the number of a manifest that has it, and its name there."""

    sha256: str
    manifest: int
    name: str


class VaultIndex:
    """The database, as a context manager; its file is on the folder's file system and is gone at the end."""

    def __init__(self, folder: Path) -> None:
        path = folder / f".{uuid.uuid4().hex}.index"
        self._database = sqlite3.connect(path, isolation_level=None)
        try:
            self._database.executescript(
                f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;"
                f"PRAGMA cache_size = -{_CACHE};{_SCHEMA}"
            )
            # The transaction is never committed, because no other connection reads the database.
            self._database.execute("BEGIN EXCLUSIVE")
        finally:
            path.unlink()
        self._packs = 0
        self._has_unsigned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    # Packs

    def add_pack(self, stored: StoredObject) -> None:
        """Note one version of a pack; the versions of one key have to come in order, the oldest first."""
        self._packs += 1
        row = (stored.key, self._packs, stored.version, stored.size)
        self._database.execute("INSERT INTO packs VALUES (?, ?, ?, ?)", row)

    def versions(self, pack_key: str) -> list[StoredObject]:
        """Return the versions of a pack, the oldest first."""
        rows = self._database.execute(
            "SELECT version, size FROM packs WHERE key = ? ORDER BY number", (pack_key,)
        )
        return [StoredObject(pack_key, version, size, "") for version, size in rows]

    def describe(self, pack_key: str) -> None:
        """Note that there is a manifest for this pack, readable or not."""
        self._database.execute("INSERT OR IGNORE INTO described VALUES (?)", (pack_key,))

    def undescribed(self) -> list[str]:
        """Return the keys of the packs without a manifest."""
        rows = self._database.execute(
            "SELECT DISTINCT key FROM packs WHERE NOT EXISTS "
            "(SELECT 1 FROM described WHERE pack_key = packs.key) ORDER BY key"
        )
        return [key for (key,) in rows]

    # Manifests

    def add_manifest(
        self,
        key: str,
        manifest: Manifest,
        writer: str,
        *,
        stored_at: float,
        counts_at: float,
        document: bytes | None,
    ) -> None:
        """Add a manifest, with its document only if it will be read back."""
        packed = None if document is None else zstandard.compress(document, 1)
        self._database.execute(
            "INSERT INTO manifests (key, pack_key, study, writer, stored_at, counts_at, document) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (key, manifest.pack_key, manifest.study_instance_uid, writer, stored_at, counts_at, packed),
        )

    def first_signed(self) -> float | None:
        """Return when the first signed manifest was stored, None if there is none."""
        ((first,),) = self._database.execute("SELECT min(stored_at) FROM manifests WHERE writer <> ''")
        return None if first is None else float(first)

    def believe(self, writers: Collection[str], unsigned_until: float) -> None:
        """Believe manifests signed by these writers, and unsigned ones that were stored before this time."""
        self._database.execute(
            "UPDATE manifests SET believed = CASE WHEN writer <> '' "
            "THEN writer IN (SELECT value FROM json_each(?)) ELSE ? OR stored_at < ? END",
            (json.dumps(sorted(writers)), unsigned_until == float("inf"), unsigned_until),
        )

    def not_believed(self) -> Iterator[tuple[str, str, float]]:
        """Yield pack key, writer and time of each manifest that is not believed."""
        yield from self._database.execute(
            "SELECT pack_key, writer, stored_at FROM manifests WHERE NOT believed ORDER BY number"
        )

    def unsigned(self) -> int:
        """Return how many of the manifests with a document are believed although they are unsigned."""
        ((number,),) = self._database.execute(
            "SELECT count(*) FROM manifests WHERE believed AND writer = '' AND document IS NOT NULL"
        )
        return int(number)

    def manifests(self, study: str | None = None) -> Iterator[IndexedManifest]:
        """Yield the believed manifests with a document, of all studies or of one, the newest first."""
        of_study = "" if study is None else "AND study = ?"
        rows = self._database.execute(
            f"SELECT number, key, document, writer <> '', counts_at FROM manifests WHERE believed "
            f"AND document IS NOT NULL {of_study} ORDER BY counts_at DESC, number",
            () if study is None else (study,),
        )
        for number, key, document, signed, counts_at in rows:
            yield IndexedManifest(number, _manifest(key, document), bool(signed), counts_at)

    def manifest(self, number: int) -> IndexedManifest:
        """Return one manifest."""
        ((key, document, signed, counts_at),) = self._database.execute(
            "SELECT key, document, writer <> '', counts_at FROM manifests WHERE number = ?", (number,)
        )
        return IndexedManifest(number, _manifest(key, document), bool(signed), counts_at)

    def studies(self) -> Iterator[str]:
        """Yield the studies of the believed manifests, the one that was stored last first."""
        yield from (
            study
            for study, _ in self._database.execute(
                "SELECT study, max(counts_at) AS last FROM manifests WHERE believed GROUP BY study "
                "ORDER BY last DESC"
            )
        )

    def has_study(self, study: str) -> bool:
        """Return whether a believed manifest names the study."""
        found = self._database.execute(
            "SELECT 1 FROM manifests WHERE study = ? AND believed LIMIT 1", (study,)
        )
        return found.fetchone() is not None

    # Contents of instances

    def add_unsigned(self, sop_instance_uids: Iterable[str]) -> None:
        """Note SOP Instance UIDs about which an unknown writer may have made claims."""
        self._has_unsigned = True
        self._database.executemany(
            "INSERT OR IGNORE INTO unsigned VALUES (?)", ((uid,) for uid in sop_instance_uids)
        )

    def is_unsigned(self, sop_instance_uid: str) -> bool:
        """Return whether `add_unsigned` noted the UID."""
        if not self._has_unsigned:
            return False
        found = self._database.execute("SELECT 1 FROM unsigned WHERE sop = ?", (sop_instance_uid,))
        return found.fetchone() is not None

    def add_contents(self, found: IndexedManifest, members: Iterable[tuple[bytes, str, str, int]]) -> None:
        """Note contents (identity, SHA-256, name, size); a signed manifest takes precedence."""
        rows = [
            (identity, sha256, found.number, name, found.signed, size)
            for identity, sha256, name, size in members
        ]
        self._database.executemany(
            "INSERT INTO contents (identity, sha256, manifest, name, signed, size) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET manifest = excluded.manifest, name = excluded.name, "
            "signed = excluded.signed, size = excluded.size WHERE excluded.signed > contents.signed",
            rows,
        )
        self._database.executemany(
            "INSERT INTO names (name, identity) VALUES (?, ?) "
            "ON CONFLICT DO UPDATE SET shared = 1 WHERE names.identity <> excluded.identity",
            ((row[3], row[0]) for row in rows),
        )

    def is_shared(self, name: str) -> bool:
        """Return whether several instances have this name in their packs."""
        found = self._database.execute("SELECT 1 FROM names WHERE name = ? AND shared", (name,))
        return found.fetchone() is not None

    def with_several_contents(self) -> Iterator[tuple[bytes, list[IndexedContent]]]:
        """Yield each instance that has several contents, with its contents."""
        last = b""
        while True:
            page = self._database.execute(
                "SELECT identity FROM contents WHERE identity > ? GROUP BY identity HAVING count(*) > 1 "
                "ORDER BY identity LIMIT ?",
                (last, _PAGE),
            ).fetchall()
            for (last,) in page:
                rows = self._database.execute(
                    "SELECT sha256, manifest, name FROM contents WHERE identity = ?", (last,)
                ).fetchall()
                yield last, [IndexedContent(*row) for row in rows]
            if not page:
                return

    def choose(self, identity: bytes, sha256: str) -> None:
        """Choose only this content of an instance to be restored; an empty SHA-256 chooses none."""
        self._database.execute(
            "UPDATE contents SET state = CASE sha256 WHEN ? THEN ? ELSE ? END WHERE identity = ?",
            (sha256, _WANTED, _LEFT, identity),
        )

    def is_wanted(self, identity: bytes, sha256: str) -> bool:
        """Return whether the content still has to be restored."""
        found = self._database.execute(
            "SELECT 1 FROM contents WHERE identity = ? AND sha256 = ? AND state = ?",
            (identity, sha256, _WANTED),
        )
        return found.fetchone() is not None

    def finish(self, identity: bytes, sha256: str) -> None:
        """Note that the content is restored, and forget an earlier failure."""
        self._database.execute(
            "UPDATE contents SET state = ? WHERE identity = ? AND sha256 = ?", (_DONE, identity, sha256)
        )
        self._database.execute("DELETE FROM failures WHERE identity = ?", (identity,))

    def wanted(self) -> tuple[int, int]:
        """Return how many contents still have to be restored, and their total size in bytes."""
        ((number, size),) = self._database.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM contents WHERE state = ?", (_WANTED,)
        )
        return number, size

    def fail(self, identity: bytes, sop_instance_uid: str, reason: str) -> None:
        """Note why an instance is not restored; this replaces an earlier reason."""
        self._database.execute(
            "INSERT INTO failures (identity, what, reason) VALUES (?, ?, ?) "
            "ON CONFLICT DO UPDATE SET reason = excluded.reason",
            (identity, sop_instance_uid, reason),
        )

    def failures(self, most: int) -> tuple[int, list[tuple[str, str]]]:
        """Return how many instances are not restored, and UID and reason of up to `most` of them."""
        ((number,),) = self._database.execute("SELECT count(*) FROM failures")
        rows = self._database.execute("SELECT what, reason FROM failures ORDER BY number LIMIT ?", (most,))
        return int(number), list(rows)


def _manifest(key: str, document: bytes) -> Manifest:
    return manifest_from_json(zstandard.decompress(document), key)
