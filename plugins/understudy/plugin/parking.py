"""Parks an instance if Orthanc ended twice while it worked on it, so that it ends Orthanc no third time.

Each part of Orthanc's process notes its work in one file of fixed slots: docker/reception notes each C-STORE,
the plugin each store by REST and each image that is decoded for a reader. A note exists exactly as long as
the work lasts. The file outlives the process. The next start reads it before Orthanc runs, and counts the
end.

Rule 1: only an unwanted end counts against an instance; an orderly stop, a failed sync or a stop of the host
does not.
Rule 2: an end counts once for an instance, however many slots name it. The first end makes each instance in
the notes a suspect. Orthanc works on a suspect alone, and a second end counts if it worked on nothing else. A
request whose answer has begun is blamed only if the notes name nothing else.
Rule 3: if Orthanc finishes its work on a suspect, the instance is no suspect any more, even if the work
failed. Orthanc does not store, or does not decode, a parked instance again until a person releases it. A copy
that was stored before stays.
Rule 4: if a note cannot be written to the disk, it is left out. A failed note stops no store, and does not
stop Orthanc from ending after a failed sync.

A slot has the form `HOW CALLING KEY`. HOW is `store`, `decode`, `alone`, `beside` for work that could not
wait any longer for its turn, or `sends` for a request whose answer has begun. KEY is the UID, with `decode/`
before it if the instance is decoded. A line of `suspects` has the form `ENDS LAST CALLING KEY`. The header is
the boot ID of the host while Orthanc runs, empty after an orderly stop, and `ended WHY` after we ended
Orthanc on purpose.
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
"""Prefix of the key of an instance that is decoded."""
PARKED_AT = 2
SLOT_BYTES = 256
"""Size of a slot, and of the header before the slots (docker/reception/reception.h)."""
_ROOM = 256 * SLOT_BYTES
"""Initial size of the notes, so that they can be written when the disk is full later; the file may grow."""
_LONGEST_UID, _LONGEST_USER = 64, 32
BY_REST = "-"
"""Stands for the calling AE title of a store by REST."""
_OWN_WILL = "ended "
_MOST_ENDS = 100
"""How many ends are kept in `ends.json`."""
_MOST_SUSPECTS = 1000
"""Maximum number of suspects in the list. Beyond that, the oldest is dropped; parked ones only after all
others."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_LINE = re.compile(r"(?P<ends>\d{1,9}) (?P<last>\d{1,12}) (?P<calling>\S+) (?P<uid>\S+)")
_ODD = re.compile(rb"[^0-9A-Za-z._-]")


@dataclass(frozen=True, slots=True)
class Suspect:
    """An instance that Orthanc worked on when it ended; UID and title are in the form that `word` gives."""

    sop_instance_uid: str
    calling_ae_title: str
    ends: int
    last: int
    """When Orthanc was started after the last of these ends, in seconds since 1970."""

    @property
    def parked(self) -> bool:
        return self.ends >= PARKED_AT


@dataclass(frozen=True, slots=True)
class End:
    """One unwanted end of Orthanc, or one that we caused on purpose."""

    at: float
    """When Orthanc was started after this end, in seconds since 1970."""
    doing: tuple[str, ...]
    """The notes that Orthanc left, or why we ended it; in the form that `word` gives."""


@dataclass(frozen=True, slots=True)
class Counted:
    """The result of reading the notes at a start."""

    end: End | None
    """None after an orderly stop, and before the first start."""
    parked: tuple[Suspect, ...] = ()
    """The instances that this end parked."""


def word(text: str) -> str:
    """Return a peer's text as one word without blanks and control characters, as reception.cc does."""
    raw = text.rstrip(" ").encode("latin-1", "replace")
    if raw == b"-":
        # A minus sign alone stands for an empty text.
        return "%2D"
    return _ODD.sub(lambda odd: b"%%%02X" % odd[0][0], raw).decode("ascii") or "-"


def key_of(uid: str) -> str:
    """Return the key for a UID in a slot: its word, or a digest if it is too long for a UID (PS3.5 9.1).

    A store by REST may name a UID of any length, but the key has to fit into a slot. By C-STORE a UID has at
    most 64 characters.
    """
    if len(uid.rstrip(" ")) > _LONGEST_UID:
        return "sha256-" + hashlib.sha256(uid.encode("latin-1", "replace")).hexdigest()
    return word(uid)


def boot_id() -> str:
    """Return the boot ID of the host's kernel."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


def suspects(folder: Path) -> dict[str, Suspect]:
    """Return every suspect by its key, empty if there was never one; a damaged line is skipped."""
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
    """Remove an instance from the list of suspects, durably; return whether it was listed."""
    return _forget(folder, (sop_instance_uid, DECODE + sop_instance_uid))


def _forget(folder: Path, keys: Iterable[str]) -> bool:
    with _locked(folder):
        known = suspects(folder)
        if not [key for key in keys if known.pop(key, None) is not None]:
            return False
        _write(folder, known)
    return True


def ends(folder: Path) -> tuple[End, ...]:
    """Return the recorded ends, the latest last."""
    try:
        found = json.loads((folder / ENDS).read_text(encoding="ascii"))
        return tuple(End(float(end["at"]), tuple(map(str, end["doing"]))) for end in found)
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def count_ends(folder: Path, boot: str, now: float) -> Counted:
    """Count the last end against the instances in the notes, and begin new notes.

    Orthanc must not be running. Raises OSError.
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
    # No sync: the notes have to outlive the process, not the host.
    notes.write_bytes(boot.encode().ljust(_ROOM, b"\0"))
    return counted


def _blame(folder: Path, left: Sequence[tuple[str, str, str]], now: float) -> Iterator[Suspect]:
    """Count an end against the instances in the notes, and yield those that this parks."""
    alone = any(how == "alone" for how, _, _ in left)
    sending_alone = all(how == "sends" for how, _, _ in left)
    candidates = {
        key: calling
        for how, calling, key in left
        # While a suspect was worked on alone, a C-STORE only waited; a begun answer only waits for its
        # reader.
        if not (alone and how == "store" and calling != BY_REST) and (how != "sends" or sending_alone)
    }
    if not candidates:
        return
    with _locked(folder):
        known = suspects(folder)
        for key, calling in candidates.items():
            before = known.get(key, Suspect(key, calling, 0, 0))
            # If Orthanc worked on several, it is not known which one ended it.
            if before.ends == 0 or len(candidates) == 1:
                known[key] = replace(before, calling_ae_title=calling, ends=before.ends + 1, last=int(now))
                if known[key].parked:
                    yield known[key]
        _write(folder, known)


def _left(notes: Path) -> tuple[str, list[tuple[str, str, str]]]:
    """Return the header of the notes, empty after an orderly stop, and the slots (how, calling, key)."""
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
    """Lock the folder, so that the plugin and a person's command do not change it at the same time."""
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
    """The plugin's part: notes its work, refuses parked instances, clears suspects whose work is finished.

    `note` notes what this thread works on, until its request ends or `note` gets an empty text
    (docker/reception/requests.cc).
    """

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self._folder = folder
        self._note = note
        self._suspects: dict[str, Suspect] = {}
        self._lock = threading.Lock()
        # By thread identifier: Python's thread-local data is gone after each of Orthanc's calls.
        self._stores: dict[int, str] = {}
        # Suspects that were worked on. Once a suspect has no note any more, Orthanc has survived it.
        self._tried: set[str] = set()
        # The start has already reported a fault of this folder; images are received all the same.
        with suppress(OSError):
            self._suspects = suspects(folder)

    def begin(self, sop_instance_uid: str, *, by_rest: bool) -> Suspect | None:
        """Note a store of this thread; if the instance is parked, return the suspect, and note nothing."""
        self.end()
        if (parked := self.parked(sop_instance_uid)) is not None:
            return parked
        key = key_of(sop_instance_uid)
        with self._lock:
            self._stores[threading.get_ident()] = key
        # docker/reception notes a C-STORE.
        if by_rest:
            self._begin("store", BY_REST, key)
        return None

    def begin_decoding(self, sop_instance_uid: str, user: str) -> Suspect | None:
        """Note that this thread decodes an instance for a reader; if parked, return the suspect instead."""
        key = DECODE + key_of(sop_instance_uid)
        if (parked := self._parked(key)) is not None:
            return parked
        self._begin("decode", word(user)[:_LONGEST_USER], key)
        return None

    def parked(self, sop_instance_uid: str) -> Suspect | None:
        """Return the suspect if the instance is parked, so that it must not be stored; None otherwise."""
        return self._parked(key_of(sop_instance_uid))

    def stored(self) -> None:
        """End the store of this thread; the instance was stored, so it is no suspect any more."""
        with self._lock:
            uid = self._stores.get(threading.get_ident())
        self.end()
        if uid is not None and uid in self._suspects:
            self._clear({uid})

    def end(self) -> None:
        """End the store of this thread, whether it succeeded or not."""
        with self._lock:
            self._stores.pop(threading.get_ident(), None)
        self._note("")

    def stop(self) -> None:
        """Note that Orthanc stops in good order."""
        with suppress(OSError):
            os.truncate(self._folder / NOTES, 0)

    def disown(self, why: str) -> None:
        """Note that we are about to end Orthanc, so that no instance under way becomes a suspect."""
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
            # A person may have released it meanwhile.
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
            # If this cannot be written now, Orthanc only works on the instance alone once more.
            with suppress(OSError):
                _forget(self._folder, known)
