"""Boot recovery: before Orthanc starts, compare its storage area with its index and sort what does not agree.

A crash between file and index leaves a file that Orthanc never looks at again. Complete DICOM files go to
`understudy/recover/`, from where the plugin hands them back to Orthanc; the others go to
`understudy/quarantine/`, each with a reason. Rows without a readable file are told in `understudy/boot.json`.

Rule 1: files are moved by rename within one volume, and never deleted or changed.
Rule 2: intake comes first: a time limit ends the look, newest folders first, and the next start goes on.
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
"""Files and rows that the report names; it counts all."""

_HEX = re.compile(r"[0-9a-f]{2}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """One row of the index whose file is missing (size -1) or has another size."""

    orthanc_id: str
    file: str
    is_dicom: bool
    found_size: int


@dataclass(frozen=True, slots=True)
class BootReport:
    """What one start found and did; identifiers and numbers only."""

    at: float
    """Seconds since 1970; names the start."""
    statistics_in_force: bool
    problem: str
    """Why the look could not be made, or empty."""
    index: str = ""
    """The index's own name, empty where it could not be read."""
    folders: int = 0
    folders_left: int = 0
    """Changed folders that the time did not suffice for."""
    files: int = 0
    recoverable: int = 0
    quarantined: int = 0
    unreadable: int = 0
    parked: int = 0
    """Instances that Orthanc worked on when it ended, for the second time."""
    ended: str = ""
    """What Orthanc was doing when it ended; empty after an orderly stop."""
    seconds: float = 0.0
    listed: tuple[Unreadable, ...] = ()
    """The first of the unreadable rows."""
    configuration: str = ""
    """Names the configuration that Orthanc runs (adapters/in_force.py)."""


@dataclass(frozen=True, slots=True)
class _Folder:
    name: str
    """The first four digits of its files' names."""
    path: str
    changed: int
    """Modification time in ns: it moves with every file that comes or goes."""


_NOTHING_NOTED = "nothing that is noted"

_NOTHING = IndexComparison((), frozenset(), (), ())


@dataclass(frozen=True, slots=True)
class Sorted:
    """What a look at the storage area came to."""

    folders: int
    folders_left: int
    files: int
    recoverable: int
    quarantined: int
    unreadable: tuple[Unreadable, ...]


def sort_files(
    storage: Path, index: Path, *, seconds: float, monotonic: Callable[[], float] = time.monotonic
) -> Sorted:
    """Look at the folders that changed since they were last looked at, and move what the index does not list.

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
    # Orthanc removes a folder with its last file; whatever else removes one takes files along.
    vanished = seen.keys() - {folder.name for folder in there}
    # What a crash left behind lies in the folders that changed last.
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
    # A row without its file is told at every start until it is healed.
    to_see_again = unsorted | {row.file[:4] for row in _unreadable(found)}
    for name in looked.keys() - to_see_again:
        # Read before its files were: whatever came or went since is looked at again.
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
    """Move the orphans; return the folders in which some are left, and how many went where."""
    unsorted: set[str] = set()
    counts = {RECOVER: 0, QUARANTINE: 0}
    for name in found.orphans:
        if monotonic() >= deadline:
            unsorted.add(name[:4])
            continue
        counts[_move(Path(files[name][0]), ours, being_deleted=name in found.being_deleted)] += 1
    for file in (ours / RECOVER).iterdir():
        # A power cut can take a note and leave its file.
        if _UUID.fullmatch(file.name) and read_note(file) is None:
            counts[_move(file, ours, being_deleted=False)] += 1
    if any(counts.values()):
        sync_folder(ours / RECOVER)
        sync_folder(ours / QUARANTINE)
    return unsorted, counts[RECOVER], counts[QUARANTINE]


def _move(file: Path, ours: Path, *, being_deleted: bool) -> str:
    """Move one orphan to where it belongs and return the folder's name."""
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
    # The note first: the plugin takes only files that have one.
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
    """Return what was seen of each folder, nothing where it was seen beside another index."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        inode, highest = document["index"]
        folders = {str(name): int(changed) for name, changed in document["folders"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # A lost memory costs one look at everything.
        return {}
    return folders if inode == present[0] and highest <= present[1] else {}


def _unreadable(found: IndexComparison) -> tuple[Unreadable, ...]:
    def row(attachment: Attachment, size: int) -> Unreadable:
        return Unreadable(attachment.orthanc_id, attachment.uuid, attachment.file_type == DICOM, size)

    missing = [row(attachment, -1) for attachment in found.missing]
    return (*missing, *(row(attachment, size) for attachment, size in found.resized))


def prepare(storage: Path, index: Path, *, seconds: float, now: float, configuration: str = "") -> BootReport:
    """Do all that is done before Orthanc starts and write its report; return it, or raise OSError.

    What fails is told in the report, and hinders nothing else.
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
    """Return how many files wait to be read in."""
    folder = storage / OURS / RECOVER
    if not folder.is_dir():
        return 0
    return sum(1 for path in folder.iterdir() if _UUID.fullmatch(path.name))


class BootReports:
    """What a start leaves in the storage area, as flow/recover.py asks for it."""

    def __init__(self, storage: Path) -> None:
        self._storage = storage

    def boot(self) -> BootReport | None:
        """Return the last start's report, None before the first."""
        return read_report(self._storage)

    def index(self) -> tuple[float, str]:
        """Return when Orthanc was started last, and its index's name; 0 and empty where that is not known."""
        boot = self.boot()
        return (0.0, "") if boot is None else (boot.at, boot.index)

    def result(self) -> dict[str, int]:
        """Return what became of the files to recover so far, empty where nothing was done yet."""
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
        """Return how many instances are refused because Orthanc ended on them twice."""
        return sum(suspect.parked for suspect in suspects(self._storage / OURS / PARKING).values())

    def ends(self) -> Sequence[tuple[float, str]]:
        """Return for each unwanted end when Orthanc was started after it, and its work; the latest last."""
        found = ends(self._storage / OURS / PARKING)
        return [(end.at, "; ".join(end.doing) or _NOTHING_NOTED) for end in found]

    def waiting(self) -> int:
        """Return how many files wait to be read in."""
        return waiting(self._storage)
