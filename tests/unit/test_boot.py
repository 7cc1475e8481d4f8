"""Boot recovery against an index of Orthanc's own shape: what is moved where, and that nothing is lost."""

import json
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

import pytest
from understudy.adapters.boot import (
    BootReport,
    BootReports,
    prepare,
    quarantined,
    read_report,
    sort_files,
    waiting,
)
from understudy.adapters.orthanc_index import (
    UnusableIndexError,
    is_made,
    make,
    name_of,
    seed_statistics,
    statistics_in_force,
)
from understudy.plugin.recovery import RECOVER

from tests import data

SCHEMA = """
CREATE TABLE GlobalProperties(property INTEGER PRIMARY KEY, value TEXT);
CREATE TABLE Resources(internalId INTEGER PRIMARY KEY AUTOINCREMENT, resourceType INTEGER, publicId TEXT,
    parentId INTEGER REFERENCES Resources(internalId) ON DELETE CASCADE);
CREATE TABLE AttachedFiles(id INTEGER REFERENCES Resources(internalId) ON DELETE CASCADE, fileType INTEGER,
    uuid TEXT, compressedSize INTEGER, uncompressedSize INTEGER, compressionType INTEGER,
    uncompressedMD5 TEXT, compressedMD5 TEXT, revision INTEGER, customData BLOB, PRIMARY KEY(id, fileType));
CREATE TABLE Metadata(id INTEGER REFERENCES Resources(internalId) ON DELETE CASCADE, type INTEGER, value TEXT,
    revision INTEGER, PRIMARY KEY(id, type));
CREATE TABLE DeletedFiles(uuid TEXT NOT NULL, customData BLOB);
CREATE INDEX ChildrenIndex ON Resources(parentId);
CREATE INDEX PublicIndex ON Resources(publicId);
CREATE INDEX ResourceTypeIndex ON Resources(resourceType);
INSERT INTO GlobalProperties VALUES (1, '6');
PRAGMA journal_mode = WAL;
"""
"""The tables of Orthanc 1.13.0 as far as they are read here; the integration test has the real ones."""


class Area:
    """A storage area with its index."""

    def __init__(self, root: Path) -> None:
        self.storage, self.index = root / "storage", root / "index" / "index"
        self.storage.mkdir()
        self.index.parent.mkdir()
        with closing(sqlite3.connect(self.index)) as connection:
            connection.executescript(SCHEMA)

    def put(self, content: bytes, *, listed: bool, file_type: int = 1, size: int | None = None) -> Path:
        name = str(uuid.uuid4())
        path = self.storage / name[:2] / name[2:4] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if listed:
            with closing(sqlite3.connect(self.index)) as connection, connection:
                row = connection.execute("INSERT INTO Resources VALUES (NULL, 4, ?, NULL)", [f"id-{name}"])
                connection.execute(
                    "INSERT INTO AttachedFiles VALUES (?, ?, ?, ?, ?, 1, 'md5', 'md5', 0, NULL)",
                    [row.lastrowid, file_type, name, len(content) if size is None else size, len(content)],
                )
        return path

    def prepare(self, seconds: float = 10) -> BootReport:
        return prepare(self.storage, self.index, seconds=seconds, now=5.0)


@pytest.fixture
def area(tmp_path: Path) -> Area:
    return Area(tmp_path)


@pytest.fixture
def image(tmp_path: Path) -> bytes:
    return (
        data.ct_series(tmp_path / "images", seed="boot", instances=1, rows=16, columns=16)
        .paths[0]
        .read_bytes()
    )


def test_statistics_are_in_force_once_seeded_and_not_before(area: Area) -> None:
    assert not statistics_in_force(area.index)
    assert seed_statistics(area.index)
    assert statistics_in_force(area.index)
    assert not seed_statistics(area.index), "a second run changes nothing"


def test_statistics_that_somebody_changed_are_seeded_again(area: Area) -> None:
    seed_statistics(area.index)
    with closing(sqlite3.connect(area.index)) as connection:
        connection.execute("ANALYZE")
        connection.commit()
    assert seed_statistics(area.index)
    assert statistics_in_force(area.index)


def test_statistics_that_mend_the_store_alone_are_not_in_force(area: Area) -> None:
    """With these, telling of one series reads the metadata of all."""
    seed_statistics(area.index)
    with closing(sqlite3.connect(area.index)) as connection:
        connection.execute("DELETE FROM sqlite_stat1 WHERE tbl <> 'Resources'")
        connection.execute("UPDATE sqlite_stat1 SET stat = '1000000 1' WHERE idx = 'PublicIndex'")
        connection.execute("UPDATE sqlite_stat1 SET stat = '1000000 50' WHERE idx = 'ChildrenIndex'")
        connection.execute("UPDATE sqlite_stat1 SET stat = '1000000 250000' WHERE idx = 'ResourceTypeIndex'")
        connection.commit()
    assert not statistics_in_force(area.index)
    assert seed_statistics(area.index)
    assert statistics_in_force(area.index)


def test_index_keeps_its_name_and_another_has_another(area: Area, tmp_path: Path) -> None:
    name = area.prepare().index
    assert name
    assert area.prepare().index == name == name_of(area.index)
    (tmp_path / "other").mkdir()
    other = Area(tmp_path / "other")
    assert other.prepare().index not in ("", name)
    # A copy of an index is that index.
    with closing(sqlite3.connect(area.index)) as source, closing(sqlite3.connect(other.index)) as copy:
        source.backup(copy)
    assert other.prepare().index == name
    assert BootReports(other.storage).index() == (5.0, name)


def test_index_that_cannot_be_opened_has_no_name_and_that_is_no_news(area: Area) -> None:
    area.index.write_bytes(b"x" * 4096)
    report = area.prepare()
    assert (report.index, bool(report.problem)) == ("", True)
    area.storage.joinpath("understudy", "boot.json").unlink()
    assert BootReports(area.storage).index() == (0.0, "")


def test_prepare_leaves_listed_files_and_sorts_the_others(area: Area, image: bytes) -> None:
    kept = area.put(image, listed=True)
    attached = area.put(b"metadata", listed=True, file_type=4301)
    whole = area.put(image, listed=False)
    broken = {
        area.put(content, listed=False): content for content in (b"", b"GIF89a", image[:-100], image[:100])
    }
    report = area.prepare()
    assert (report.recoverable, report.quarantined, report.unreadable) == (1, 4, 0)
    assert kept.read_bytes() == image
    assert attached.read_bytes() == b"metadata"
    recovered = area.storage / "understudy" / RECOVER / whole.name
    assert recovered.read_bytes() == image
    assert json.loads(recovered.with_name(recovered.name + ".json").read_text())["attempts"] == 0
    aside = {name: (size, reason) for name, size, reason in quarantined(area.storage)}
    assert {name: size for name, (size, _) in aside.items()} == {
        path.name: len(content) for path, content in broken.items()
    }
    assert all(reason for _, reason in aside.values())
    for path, content in broken.items():
        assert (area.storage / "understudy" / "quarantine" / path.name).read_bytes() == content
    assert waiting(area.storage) == 1
    assert read_report(area.storage) == report


def test_prepare_examines_again_a_file_whose_note_is_gone(area: Area, image: bytes) -> None:
    names = [area.put(content, listed=False).name for content in (image, image)]
    area.prepare()
    folder = area.storage / "understudy" / RECOVER
    (folder / f"{names[0]}.json").unlink()
    (folder / f"{names[1]}.json").write_text("")
    assert area.prepare().recoverable == 2
    assert all(json.loads((folder / f"{name}.json").read_text())["attempts"] == 0 for name in names)


def test_prepare_tells_rows_without_their_file_until_they_have_it(area: Area, image: bytes) -> None:
    gone = area.put(image, listed=True)
    gone.unlink()
    short = area.put(image, listed=True, size=len(image) + 1)
    for _ in range(2):
        found = {(row.file, row.found_size, row.is_dicom) for row in area.prepare().listed}
        assert found == {(gone.name, -1, True), (short.name, len(image), True)}
    gone.write_bytes(image)
    short.write_bytes(image + b"\0")
    assert area.prepare().unreadable == 0


def test_prepare_tells_rows_whose_whole_folder_is_gone(area: Area, image: bytes) -> None:
    path = area.put(image, listed=True)
    area.prepare()
    path.unlink()
    path.parent.rmdir()
    for _ in range(2):
        assert [row.file for row in area.prepare().listed] == [path.name]
    path.parent.mkdir()
    path.write_bytes(image)
    assert area.prepare().unreadable == 0


def test_prepare_looks_only_at_what_changed(area: Area, image: bytes) -> None:
    for _ in range(20):
        area.put(image, listed=True)
    assert area.prepare().files == 20
    assert area.prepare().files == 0
    area.put(image, listed=False)
    report = area.prepare()
    assert report.recoverable == 1
    assert report.files <= 3


def test_prepare_beside_another_index_looks_at_everything(area: Area, image: bytes) -> None:
    for _ in range(5):
        area.put(image, listed=True)
    area.prepare()
    area.index.unlink()
    Path(f"{area.index}-wal").unlink(missing_ok=True)
    with closing(sqlite3.connect(area.index)) as connection:
        connection.executescript(SCHEMA)
    assert area.prepare().recoverable == 5


def test_prepare_tells_what_orthanc_was_doing_when_it_ended(area: Area) -> None:
    assert area.prepare().ended == ""
    assert area.prepare().ended == "nothing that is noted", "nobody has emptied the notes"
    parking = area.storage / "understudy" / "parking"
    with (parking / "on-the-way").open("r+b") as notes:
        notes.seek(256 * 70)
        notes.write(b"decode anna decode/1.2.3")
    assert area.prepare().ended == "decode anna decode/1.2.3"
    (parking / "on-the-way").write_bytes(b"")
    assert area.prepare().ended == ""
    assert [doing for _, doing in BootReports(area.storage).ends()] == [
        "nothing that is noted",
        "decode anna decode/1.2.3",
    ]


def test_prepare_without_time_leaves_the_rest_to_the_next_start(area: Area, image: bytes) -> None:
    for _ in range(20):
        area.put(image, listed=False)
    ticks = iter(range(1000))
    result = sort_files(area.storage, area.index, seconds=8, monotonic=lambda: next(ticks))
    assert result.folders_left > 0
    assert result.recoverable < 20
    again = sort_files(area.storage, area.index, seconds=8)
    assert result.recoverable + again.recoverable == 20
    assert waiting(area.storage) == 20


def test_prepare_does_not_bring_back_what_was_being_deleted(area: Area, image: bytes) -> None:
    path = area.put(image, listed=False)
    with closing(sqlite3.connect(area.index)) as connection, connection:
        connection.execute("INSERT INTO DeletedFiles VALUES (?, NULL)", [path.name])
    assert area.prepare().recoverable == 0
    assert "deleting" in quarantined(area.storage)[0][2]


def test_prepare_touches_no_foreign_file(area: Area) -> None:
    strange = [area.storage / "ab" / "cd" / "notes.txt", area.storage / "zz" / "file", area.storage / "x"]
    for path in strange:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    outside = area.storage.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_text("x")
    (area.storage / "ab" / "ce").symlink_to(outside)
    area.prepare()
    assert all(path.read_text() == "mine" for path in strange)
    assert (outside / "secret").exists()


def test_nothing_moves_while_orthanc_has_its_index(area: Area, image: bytes) -> None:
    path = area.put(image, listed=False)
    with closing(sqlite3.connect(area.index)) as orthanc:
        orthanc.execute("PRAGMA locking_mode = EXCLUSIVE")
        orthanc.execute("BEGIN EXCLUSIVE")
        report = area.prepare()
        with pytest.raises(UnusableIndexError, match="locked"):
            sort_files(area.storage, area.index, seconds=5)
    assert "locked" in report.problem
    assert not report.statistics_in_force
    assert path.exists()


def test_make_reports_an_orthanc_that_fails(tmp_path: Path) -> None:
    index = tmp_path / "index"
    assert not is_made(index)
    with pytest.raises(UnusableIndexError, match="exit 1"):
        make(index, program="false")
    with pytest.raises(UnusableIndexError, match="did not make"):
        make(index, program=str(tmp_path / "no-such-program"))
