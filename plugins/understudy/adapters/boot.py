"""Boot recovery: before Orthanc starts, compare its storage area with its index, and sort orphaned files.

A crash between writing file and index leaves a file that Orthanc never looks at again. Complete DICOM files
go to `understudy/recover/`, from where the plugin stores them again in Orthanc. Other files go to
`understudy/quarantine/`, each with a reason. `understudy/boot.json` reports rows without a readable file.

Rule 1: files are moved by rename within one volume, and never deleted or changed.
Rule 2: intake comes first. A time limit ends the comparison, which begins with the newest folders, and the
next start continues it.
"""

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from understudy.adapters.orthanc_index import (
    DICOM,
    Attachment,
    IndexComparison,
    UnusableIndexError,
    compare,
    generation,
    is_made,
    make,
    name_of,
    seed_statistics,
    statistics_in_force,
)
from understudy.adapters.part10 import BrokenFileError, examine
from understudy.plugin.parking import PARKING, Counted, boot_id, count_ends, ends, suspects
from understudy.plugin.recovery import (
    NOTE_SUFFIX,
    QUARANTINE,
    RECOVER,
    RESULT_FILE,
    read_note,
    set_aside,
    sync_folder,
    write_note,
    write_whole,
)

OURS = "understudy"
REPORT_FILE = "boot.json"
_SEEN_FILE = "seen.json"
_LISTED = 1000
"""Maximum number of rows that the report lists; it counts all."""

_HEX = re.compile(r"[0-9a-f]{2}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """One row of the index whose file is missing (`found_size` -1) or has another size."""

    orthanc_id: str
    file: str
    is_dicom: bool
    found_size: int


@dataclass(frozen=True, slots=True)
class BootReport:
    """What one start found and did; identifiers and numbers only."""

    at: float
    """Time of the start, in seconds since 1970; identifies it."""
    statistics_in_force: bool
    problem: str
    """The faults of this start; empty if there were none."""
    index: str = ""
    """The index's own name, empty if it could not be read."""
    folders: int = 0
    folders_left: int = 0
    """Number of changed folders for which there was not enough time."""
    files: int = 0
    recoverable: int = 0
    quarantined: int = 0
    unreadable: int = 0
    parked: int = 0
    """Number of instances parked by this start, because Orthanc ended on them for the second time."""
    ended: str = ""
    """What Orthanc was doing when it ended; empty after an orderly stop."""
    seconds: float = 0.0
    listed: tuple[Unreadable, ...] = ()
    """The first unreadable rows."""
    configuration: str = ""
    """The digest of the configuration that Orthanc runs (adapters/in_force.py)."""


@dataclass(frozen=True, slots=True)
class _Folder:
    name: str
    """The first four digits of its files' names."""
    path: str
    changed: int
    """Modification time in ns; it changes with every file that is added or removed."""


_NOTHING_NOTED = "nothing that is noted"

_NOTHING = IndexComparison((), frozenset(), (), ())


@dataclass(frozen=True, slots=True)
class Sorted:
    """The result of comparing the storage area with the index."""

    folders: int
    folders_left: int
    files: int
    recoverable: int
    quarantined: int
    unreadable: tuple[Unreadable, ...]


def sort_files(
    storage: Path, index: Path, *, seconds: float, monotonic: Callable[[], float] = time.monotonic
) -> Sorted:
    """Compare the folders that changed since the last comparison, and move the files without a row.

    Raises UnusableIndexError before anything is moved.
    """
    deadline = monotonic() + seconds
    ours = storage / OURS
    for path in (ours, ours / RECOVER, ours / QUARANTINE):
        path.mkdir(mode=0o750, exist_ok=True)
    present = generation(index)
    seen = _read_seen(ours / _SEEN_FILE, present)
    there = _folders(storage)
    folders = [folder for folder in there if seen.get(folder.name) != folder.changed]
    # Orthanc removes a folder with its last file; if something else removed a folder, files are missing.
    vanished = seen.keys() - {folder.name for folder in there}
    # Files that a crash left behind are in the folders that changed last.
    folders.sort(key=lambda folder: folder.changed, reverse=True)
    looked: dict[str, _Folder] = {}
    files: dict[str, tuple[str, int]] = {}
    for folder in folders:
        if monotonic() >= deadline:
            break
        looked[folder.name] = folder
        files.update(_files(folder))
    found = _NOTHING
    if looked or vanished:
        sizes = ((name, size) for name, (_, size) in files.items())
        found = compare(index, looked.keys() | vanished, sizes)
    unsorted, recoverable, quarantined = _sort(found, files, ours, deadline, monotonic)
    # Every start reports a row without its file again, until the file is healed.
    to_see_again = unsorted | {row.file[:4] for row in _unreadable(found)}
    for name in looked.keys() - to_see_again:
        # This time was read before the folder's files were, so later changes are compared at the next start.
        seen[name] = looked[name].changed
    for name in vanished - to_see_again:
        del seen[name]
    if looked or vanished:
        write_whole(ours / _SEEN_FILE, {"index": present, "folders": seen})
    left = len(folders) - len(looked) + len(unsorted)
    return Sorted(len(folders), left, len(files), recoverable, quarantined, _unreadable(found))


def _sort(
    found: IndexComparison,
    files: dict[str, tuple[str, int]],
    ours: Path,
    deadline: float,
    monotonic: Callable[[], float],
) -> tuple[set[str], int, int]:
    """Move the orphans; return the folders that still have some, and how many were moved to each place."""
    unsorted: set[str] = set()
    counts = {RECOVER: 0, QUARANTINE: 0}
    for name in found.orphans:
        if monotonic() >= deadline:
            unsorted.add(name[:4])
            continue
        counts[_move(Path(files[name][0]), ours, being_deleted=name in found.being_deleted)] += 1
    for file in (ours / RECOVER).iterdir():
        # A power cut may have lost a note and left its file.
        if _UUID.fullmatch(file.name) and read_note(file) is None:
            counts[_move(file, ours, being_deleted=False)] += 1
    if any(counts.values()):
        sync_folder(ours / RECOVER)
        sync_folder(ours / QUARANTINE)
    return unsorted, counts[RECOVER], counts[QUARANTINE]


def _move(file: Path, ours: Path, *, being_deleted: bool) -> str:
    """Move one orphan to recover/ or quarantine/ and return the folder's name."""
    reason = "Orthanc was deleting it when it stopped" if being_deleted else ""
    uid = ""
    if not reason:
        try:
            uid = examine(file).sop_instance_uid
        except BrokenFileError as error:
            reason = str(error)
        except OSError as error:
            reason = f"it cannot be read: {error.strerror}"
    if reason:
        set_aside(file, ours / QUARANTINE, reason)
        return QUARANTINE
    # Write the note first, because the plugin takes only files that have one.
    target = ours / RECOVER / file.name
    write_note(target, uid, 0)
    file.rename(target)
    return RECOVER


def _folders(storage: Path) -> list[_Folder]:
    found: list[_Folder] = []
    for first in os.scandir(storage):
        if not (_HEX.fullmatch(first.name) and first.is_dir(follow_symlinks=False)):
            continue
        for second in os.scandir(first.path):
            if _HEX.fullmatch(second.name) and second.is_dir(follow_symlinks=False):
                changed = second.stat(follow_symlinks=False).st_mtime_ns
                found.append(_Folder(first.name + second.name, second.path, changed))
    return found


def _files(folder: _Folder) -> dict[str, tuple[str, int]]:
    return {
        entry.name: (entry.path, entry.stat(follow_symlinks=False).st_size)
        for entry in os.scandir(folder.path)
        if _UUID.fullmatch(entry.name)
        and entry.name.startswith(folder.name)
        and entry.is_file(follow_symlinks=False)
    }


def _read_seen(path: Path, present: tuple[int, int]) -> dict[str, int]:
    """Return the change time recorded for each folder, nothing if it was recorded for another index."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        inode, highest = document["index"]
        folders = {str(name): int(changed) for name, changed in document["folders"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # If the record is lost, everything is compared once more.
        return {}
    return folders if inode == present[0] and highest <= present[1] else {}


def _unreadable(found: IndexComparison) -> tuple[Unreadable, ...]:
    def row(attachment: Attachment, size: int) -> Unreadable:
        return Unreadable(attachment.orthanc_id, attachment.uuid, attachment.file_type == DICOM, size)

    missing = [row(attachment, -1) for attachment in found.missing]
    return (*missing, *(row(attachment, size) for attachment, size in found.resized))


def prepare(storage: Path, index: Path, *, seconds: float, now: float, configuration: str = "") -> BootReport:
    """Prepare Orthanc's start, write the report and return it; raise OSError if it cannot be written.

    A step that fails is reported, and does not prevent the other steps.
    """
    began = time.monotonic()
    problems: list[str] = []
    in_force, name = False, ""
    try:
        if not is_made(index):
            make(index)
        name = name_of(index)
        seed_statistics(index)
        in_force = statistics_in_force(index)
        if not in_force:
            problems.append("the planner's statistics are written and SQLite does not follow them")
    except (UnusableIndexError, OSError) as error:
        problems.append(str(error))
    found = Sorted(0, 0, 0, 0, 0, ())
    try:
        found = sort_files(storage, index, seconds=seconds)
    except (UnusableIndexError, OSError) as error:
        problems.append(f"the storage area was not compared with the index: {error}")
    counted = Counted(None)
    try:
        counted = count_ends(storage / OURS / PARKING, boot_id(), now)
    except OSError as error:
        problems.append(f"what was on its way when Orthanc ended was not counted: {error}")
    (storage / OURS / RESULT_FILE).unlink(missing_ok=True)
    report = BootReport(
        at=now,
        statistics_in_force=in_force,
        problem="; ".join(problems),
        index=name,
        folders=found.folders,
        folders_left=found.folders_left,
        files=found.files,
        recoverable=found.recoverable,
        quarantined=found.quarantined,
        unreadable=len(found.unreadable),
        parked=len(counted.parked),
        ended="" if counted.end is None else "; ".join(counted.end.doing) or _NOTHING_NOTED,
        seconds=round(time.monotonic() - began, 3),
        listed=found.unreadable[:_LISTED],
        configuration=configuration,
    )
    write_report(storage, report)
    return report


def write_report(storage: Path, report: BootReport) -> None:
    """Write the report where the agent reads it."""
    (storage / OURS).mkdir(mode=0o750, exist_ok=True)
    write_whole(storage / OURS / REPORT_FILE, asdict(report))


def read_report(storage: Path) -> BootReport | None:
    """Return the last start's report, None before the first."""
    try:
        document = json.loads((storage / OURS / REPORT_FILE).read_text(encoding="utf-8"))
        listed = tuple(Unreadable(**row) for row in document.pop("listed"))
        return BootReport(**document, listed=listed)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return BootReport(0.0, statistics_in_force=True, problem=f"its report cannot be read: {error}")


def quarantined(storage: Path) -> Sequence[tuple[str, int, str]]:
    """Return name, size and reason of every file in quarantine."""
    folder = storage / OURS / QUARANTINE
    if not folder.is_dir():
        return ()
    found = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.endswith(NOTE_SUFFIX):
            continue
        try:
            note = json.loads(path.with_name(path.name + NOTE_SUFFIX).read_text(encoding="utf-8"))
            reason = str(note["reason"])
        except (OSError, ValueError, KeyError, TypeError):
            reason = "its note cannot be read"
        found.append((path.name, path.stat().st_size, reason))
    return found


def waiting(storage: Path) -> int:
    """Return how many files wait to be stored again."""
    folder = storage / OURS / RECOVER
    if not folder.is_dir():
        return 0
    return sum(1 for path in folder.iterdir() if _UUID.fullmatch(path.name))


class BootReports:
    """Reads the records of Orthanc's starts in the storage area, for flow/recover.py."""

    def __init__(self, storage: Path) -> None:
        self._storage = storage

    def boot(self) -> BootReport | None:
        """Return the last start's report, None before the first."""
        return read_report(self._storage)

    def index(self) -> tuple[float, str]:
        """Return when Orthanc was started last, and its index's name; 0 and empty if not known."""
        boot = self.boot()
        return (0.0, "") if boot is None else (boot.at, boot.index)

    def result(self) -> dict[str, int]:
        """Return the counts of recovered files by outcome, empty if nothing was done yet."""
        try:
            text = (self._storage / OURS / RESULT_FILE).read_text(encoding="utf-8")
            return {str(name): int(number) for name, number in json.loads(text).items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def in_quarantine(self) -> int:
        """Return how many files are in quarantine."""
        folder = self._storage / OURS / QUARANTINE
        if not folder.is_dir():
            return 0
        names = (path.name for path in folder.iterdir())
        return sum(1 for name in names if not name.startswith(".") and not name.endswith(NOTE_SUFFIX))

    def parked(self) -> int:
        """Return how many instances are parked, because Orthanc ended twice while it worked on them."""
        return sum(suspect.parked for suspect in suspects(self._storage / OURS / PARKING).values())

    def ends(self) -> Sequence[tuple[float, str]]:
        """Return for each end when Orthanc was started after it, and what it was doing; the latest last."""
        found = ends(self._storage / OURS / PARKING)
        return [(end.at, "; ".join(end.doing) or _NOTHING_NOTED) for end in found]

    def waiting(self) -> int:
        """Return how many files wait to be stored again."""
        return waiting(self._storage)
