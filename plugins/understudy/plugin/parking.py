"""Parks an instance that Orthanc worked on both times when it ended: nobody needs a third one.

Each part of Orthanc's process notes its work in one file of fixed slots: docker/reception each C-STORE, the
plugin each store by REST and each image that is decoded for a reader. A note is there exactly while the work
lasts. The file outlives the process; the next start reads it before Orthanc runs, and counts.

Rule 1: only an unwanted end counts against an instance: no orderly stop, no failed sync, no end of the host.
Rule 2: an end counts once for an instance, however many slots have it. The first end makes a suspect of each
instance in the notes. A suspect is worked on alone, and a second end counts where nothing else was worked
on. A request whose answer has begun is blamed only where there is nothing else to blame.
Rule 3: if Orthanc finishes its work on a suspect, the instance is no suspect any more, even if the work
failed. Orthanc does not store, or does not decode, a parked instance again until a person releases it. A copy
that was stored before stays.
Rule 4: a note that the disk does not take is left out. Neither a store nor the end of Orthanc that a failed
sync demands hangs on it.

A slot: `HOW CALLING KEY`, where HOW is `store`, `decode`, `alone`, `beside` for work that could not wait any
longer for its turn, or `sends` for a request whose answer has begun; and KEY is the UID, behind `decode/`
where it is decoded. A line of `suspects`: `ENDS LAST CALLING KEY`. The header is the name of the host's run
while Orthanc runs, nothing after an orderly stop, and `ended WHY` after an end by our own will.
"""

import fcntl
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from understudy.plugin.recovery import sync_folder, write_whole

PARKING = "parking"
NOTES, SUSPECTS, ENDS = "on-the-way", "suspects", "ends.json"
DECODE = "decode/"
"""Begins the key of an instance that is decoded."""
PARKED_AT = 2
SLOT_BYTES = 256
"""The slots follow a header that is as long as one (docker/reception/reception.h)."""
_ROOM = 256 * SLOT_BYTES
"""What the notes have from the beginning, so that a disk that is full later takes them; they may grow."""
_LONGEST_UID, _LONGEST_USER = 64, 32
BY_REST = "-"
"""In place of a calling AE title."""
_OWN_WILL = "ended "
_MOST_ENDS = 100
"""Of the ends that are remembered."""
_MOST_SUSPECTS = 1000
"""Beyond them the oldest is forgotten, one that is parked last."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LINE = re.compile(r"(?P<ends>\d{1,9}) (?P<last>\d{1,12}) (?P<calling>\S+) (?P<uid>\S+)")
_ODD = re.compile(rb"[^0-9A-Za-z._-]")


@dataclass(frozen=True, slots=True)
class Suspect:
    """An instance that was on its way when Orthanc ended; both names are words (`word`)."""

    sop_instance_uid: str
    calling_ae_title: str
    ends: int
    last: int
    """When Orthanc was started after the last of them, in seconds since 1970."""

    @property
    def parked(self) -> bool:
        return self.ends >= PARKED_AT


@dataclass(frozen=True, slots=True)
class End:
    """One end of Orthanc that nobody wanted."""

    at: float
    """When it was started after that, in seconds since 1970."""
    doing: tuple[str, ...]
    """What it was doing: the notes, or why it ended by its own will; words alone."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What a start found in the notes."""

    end: End | None
    """None after an orderly stop, and before the first start."""
    parked: tuple[Suspect, ...] = ()
    """What the end parked."""


def word(text: str) -> str:
    """Return what a peer said as one printable word, as reception.cc does: no blank, no control character."""
    raw = text.rstrip(" ").encode("latin-1", "replace")
    if raw == b"-":
        # A minus sign alone stands for nothing.
        return "%2D"
    return _ODD.sub(lambda odd: b"%%%02X" % odd[0][0], raw).decode("ascii") or "-"


def key_of(uid: str) -> str:
    """Return what stands for a UID in a slot: the word, or a digest of what no UID is (PS3.5 9.1).

    By REST a UID of any length may come, and a slot must hold all of its key. By C-STORE it has 64 at most.
    """
    if len(uid.rstrip(" ")) > _LONGEST_UID:
        return "sha256-" + hashlib.sha256(uid.encode("latin-1", "replace")).hexdigest()
    return word(uid)


def boot_id() -> str:
    """Return what names this run of the host's kernel."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


def suspects(folder: Path) -> dict[str, Suspect]:
    """Return every suspect by its UID, empty where there was never one; a damaged line is passed over."""
    try:
        text = (folder / SUSPECTS).read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return {}
    found = (_LINE.fullmatch(line) for line in text.splitlines())
    return {
        line["uid"]: Suspect(line["uid"], line["calling"], int(line["ends"]), int(line["last"]))
        for line in found
        if line is not None
    }


def forget(folder: Path, sop_instance_uid: str) -> bool:
    """Take an instance off the list, durably; return whether it was on it."""
    return _forget(folder, (sop_instance_uid, DECODE + sop_instance_uid))


def _forget(folder: Path, keys: Iterable[str]) -> bool:
    with _locked(folder):
        known = suspects(folder)
        if not [key for key in keys if known.pop(key, None) is not None]:
            return False
        _write(folder, known)
    return True


def ends(folder: Path) -> tuple[End, ...]:
    """Return the ends that are remembered, the latest last."""
    try:
        found = json.loads((folder / ENDS).read_text(encoding="ascii"))
        return tuple(End(float(end["at"]), tuple(map(str, end["doing"]))) for end in found)
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def count_ends(folder: Path, boot: str, now: float) -> Counted:
    """Count for what was worked on when Orthanc ended, and begin new notes.

    Orthanc must not run. Raises OSError.
    """
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    notes = folder / NOTES
    header, left = _left(notes)
    counted = Counted(None)
    if header == boot:
        counted = Counted(End(now, tuple(" ".join(note) for note in left)), tuple(_blame(folder, left, now)))
    elif header.startswith(_OWN_WILL):
        counted = Counted(End(now, (header.removeprefix(_OWN_WILL),)))
    if counted.end is not None:
        remembered = [*ends(folder), counted.end][-_MOST_ENDS:]
        write_whole(folder / ENDS, [{"at": end.at, "doing": end.doing} for end in remembered])
    # It has to outlive the process, not the host.
    notes.write_bytes(boot.encode().ljust(_ROOM, b"\0"))
    return counted


def _blame(folder: Path, left: Sequence[tuple[str, str, str]], now: float) -> Iterator[Suspect]:
    """Count an end for what was worked on, and yield what is parked by that."""
    alone = any(how == "alone" for how, _, _ in left)
    sending_alone = all(how == "sends" for how, _, _ in left)
    candidates = {
        key: calling
        for how, calling, key in left
        # What came by C-STORE has waited meanwhile; an answer waits for its reader.
        if not (alone and how == "store" and calling != BY_REST) and (how != "sends" or sending_alone)
    }
    if not candidates:
        return
    with _locked(folder):
        known = suspects(folder)
        for key, calling in candidates.items():
            before = known.get(key, Suspect(key, calling, 0, 0))
            # Of several that were worked on, nobody knows which one it was.
            if before.ends == 0 or len(candidates) == 1:
                known[key] = replace(before, calling_ae_title=calling, ends=before.ends + 1, last=int(now))
                if known[key].parked:
                    yield known[key]
        _write(folder, known)


def _left(notes: Path) -> tuple[str, list[tuple[str, str, str]]]:
    """Return the header of the notes, empty after an orderly stop, and what was worked on."""
    try:
        content = notes.read_bytes()
    except FileNotFoundError:
        return "", []
    header, *slots = [
        content[begin : begin + SLOT_BYTES].rstrip(b"\0").decode("ascii", "replace")
        for begin in range(0, max(1, len(content)), SLOT_BYTES)
    ]
    parts = (slot.split(" ") for slot in slots)
    return header, [(how, calling, key) for how, calling, key in (part for part in parts if len(part) == 3)]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep the plugin and a person's command apart."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(folder: Path, known: Mapping[str, Suspect]) -> None:
    kept = sorted(known.values(), key=lambda suspect: (suspect.parked, suspect.last))[-_MOST_SUSPECTS:]
    temporary = folder / f".{SUSPECTS}.part"
    with temporary.open("w", encoding="ascii") as file:
        for suspect in kept:
            print(suspect.ends, suspect.last, suspect.calling_ae_title, suspect.sop_instance_uid, file=file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(folder / SUSPECTS)
    sync_folder(folder)


class Parking:
    """The plugin's part: notes what it works on, refuses what is parked, clears what was done with.

    `note` tells what this thread works on, until the request that it serves has ended or an empty text comes
    (docker/reception/requests.cc).
    """

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self._folder = folder
        self._note = note
        self._suspects: dict[str, Suspect] = {}
        self._lock = threading.Lock()
        # By thread: what Python keeps for a thread of its own is gone after each of Orthanc's calls.
        self._stores: dict[int, str] = {}
        # Suspects that were worked on: what is not noted any more was survived.
        self._tried: set[str] = set()
        # The start has said what is wrong with this folder; images are received all the same.
        with suppress(OSError):
            self._suspects = suspects(folder)

    def begin(self, sop_instance_uid: str, *, by_rest: bool) -> Suspect | None:
        """Note a store of this thread, or return why it is to be refused: it is parked."""
        self.end()
        if (parked := self.parked(sop_instance_uid)) is not None:
            return parked
        key = key_of(sop_instance_uid)
        with self._lock:
            self._stores[threading.get_ident()] = key
        # What comes by C-STORE is noted by the reception.
        if by_rest:
            self._begin("store", BY_REST, key)
        return None

    def begin_decoding(self, sop_instance_uid: str, user: str) -> Suspect | None:
        """Note that this thread decodes an instance for a reader, or return why it must not: it is parked."""
        key = DECODE + key_of(sop_instance_uid)
        if (parked := self._parked(key)) is not None:
            return parked
        self._begin("decode", word(user)[:_LONGEST_USER], key)
        return None

    def parked(self, sop_instance_uid: str) -> Suspect | None:
        """Return the suspect where the instance is not to be stored."""
        return self._parked(key_of(sop_instance_uid))

    def stored(self) -> None:
        """End the store of this thread; whatever it was suspected of, it was stored."""
        with self._lock:
            uid = self._stores.get(threading.get_ident())
        self.end()
        if uid is not None and uid in self._suspects:
            self._clear({uid})

    def end(self) -> None:
        """End what this thread was storing, however that went."""
        with self._lock:
            self._stores.pop(threading.get_ident(), None)
        self._note("")

    def stop(self) -> None:
        """Orthanc stops in good order."""
        with suppress(OSError):
            os.truncate(self._folder / NOTES, 0)

    def disown(self, why: str) -> None:
        """Orthanc is about to end by our own will: nothing that is on its way is suspect."""
        with suppress(OSError):
            descriptor = os.open(self._folder / NOTES, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(descriptor, (_OWN_WILL + word(why)).encode().ljust(SLOT_BYTES, b"\0"), 0)
            finally:
                os.close(descriptor)

    def _begin(self, how: str, calling: str, key: str) -> None:
        if self._tried:
            self._clear(self._survived())
        if key in self._suspects:
            with self._lock:
                self._tried.add(key)
            how = "alone"
        self._note(f"{how} {calling} {key}")

    def _parked(self, key: str) -> Suspect | None:
        if key in self._suspects and self._suspects[key].parked:
            # A person may have released it.
            with suppress(OSError):
                self._suspects = suspects(self._folder)
        suspect = self._suspects.get(key)
        return suspect if suspect is not None and suspect.parked else None

    def _survived(self) -> set[str]:
        try:
            _, left = _left(self._folder / NOTES)
        except OSError:
            return set()
        with self._lock:
            return self._tried - {key for _, _, key in left}

    def _clear(self, keys: set[str]) -> None:
        with self._lock:
            self._tried -= keys
        known = [key for key in keys if self._suspects.pop(key, None) is not None]
        if known:
            # Where the disk does not take it now, the next time is one more that it is worked on alone.
            with suppress(OSError):
                _forget(self._folder, known)
