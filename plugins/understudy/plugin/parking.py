"""Parks an instance that was on its way both times when Orthanc ended: nobody needs a third one.

Whoever receives an instance notes it in one file of fixed slots before it is parsed: docker/reception what
comes by C-STORE, the plugin what comes by REST. The file outlives the process; the next start reads it before
Orthanc runs, and counts.

Rule 1: only an unwanted end counts: no orderly stop, no failed sync, no end of the host.
Rule 2: after one end an instance is a suspect. The reception works on suspects alone, so the second end
counts for the one that it worked on, and for nothing that came at the same moment.
Rule 3: a suspect that is stored is none any more. A parked instance is refused until a person releases it;
its sender was never told success and keeps it.
Rule 4: what the disk of the notes does not take is not noted. Neither a store nor the end of Orthanc that a
failed sync demands hangs on it.

A slot: `HOW CALLING UID`, where HOW is `store` or `alone`. A line of `suspects`: `ENDS LAST CALLING UID`.
"""

import fcntl
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from understudy.plugin.recovery import sync_folder

PARKING = "parking"
NOTES, SUSPECTS = "on-the-way", "suspects"
PARKED_AT = 2
SLOT_BYTES, C_STORE_SLOTS, SLOTS = 256, 64, 192
"""The slots follow a header that is as long as one; the plugin has those behind the reception's."""
BY_REST = "-"
"""In place of a calling AE title."""
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


def word(text: str) -> str:
    """Return what a peer said as one printable word, as reception.cc does: no blank, no control character."""
    raw = text.rstrip(" ").encode("latin-1", "replace")
    return _ODD.sub(lambda odd: b"%%%02X" % odd[0][0], raw).decode("ascii") or "-"


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
    with _locked(folder):
        known = suspects(folder)
        if known.pop(sop_instance_uid, None) is None:
            return False
        _write(folder, known)
    return True


def count_ends(folder: Path, boot: str, now: float) -> list[Suspect]:
    """Count for what was on its way when Orthanc ended, begin new notes, and return what is parked by that.

    Orthanc must not run. Raises OSError.
    """
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    notes = folder / NOTES
    left = list(_left(notes, boot))
    parked = []
    if left:
        with _locked(folder):
            known = suspects(folder)
            for calling, uid in left:
                before = known.get(uid, Suspect(uid, calling, 0, 0))
                known[uid] = replace(before, calling_ae_title=calling, ends=before.ends + 1, last=int(now))
                if known[uid].parked:
                    parked.append(known[uid])
            _write(folder, known)
    # It has to outlive the process, not the host.
    notes.write_bytes(boot.encode().ljust(SLOT_BYTES * (1 + SLOTS), b"\0"))
    return parked


def _left(notes: Path, boot: str) -> Iterator[tuple[str, str]]:
    """Yield calling AE title and UID of what was on its way; of the one that was worked on alone, if any."""
    try:
        content = notes.read_bytes()
    except FileNotFoundError:
        return
    slots = [
        content[begin : begin + SLOT_BYTES].rstrip(b"\0").decode("ascii", "replace")
        for begin in range(0, len(content), SLOT_BYTES)
    ]
    # An orderly end leaves nothing, not even the header.
    if not slots or slots[0] != boot:
        return
    found = [parts for slot in slots[1:] if len(parts := slot.split(" ")) == 3]
    alone = [parts for parts in found if parts[0] == "alone"]
    for _, calling, uid in alone or found:
        yield calling, uid


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
    """The plugin's part: notes what comes by REST, refuses what is parked, clears what was stored."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._suspects: dict[str, Suspect] = {}
        self._lock = threading.Lock()
        # By thread: one that begins another store has ended its last one, however that ended.
        self._on_the_way: dict[int, tuple[str, int | None]] = {}
        self._free = list(range(C_STORE_SLOTS, SLOTS))
        self._notes: int | None = None
        # The start has said what is wrong with this folder; images are received all the same.
        with suppress(OSError):
            self._suspects = suspects(folder)
            self._notes = os.open(folder / NOTES, os.O_WRONLY | os.O_CLOEXEC)

    def begin(self, sop_instance_uid: str, *, by_rest: bool) -> Suspect | None:
        """Note a store of this thread, or return why it is to be refused: it is parked."""
        uid = word(sop_instance_uid)
        self.end()
        if (parked := self.parked(sop_instance_uid)) is not None:
            return parked
        with self._lock:
            slot = self._free.pop() if by_rest and self._free else None
            self._on_the_way[threading.get_ident()] = uid, slot
        if slot is not None:
            self._note(slot, f"store {BY_REST} {uid}")
        return None

    def parked(self, sop_instance_uid: str) -> Suspect | None:
        """Return the suspect where the instance is parked."""
        uid = word(sop_instance_uid)
        if uid in self._suspects and self._suspects[uid].parked:
            # A person may have released it.
            with suppress(OSError):
                self._suspects = suspects(self._folder)
        suspect = self._suspects.get(uid)
        return suspect if suspect is not None and suspect.parked else None

    def stored(self) -> None:
        """End the store of this thread; whatever it was suspected of, it was stored."""
        uid = self.end()
        if uid is not None and self._suspects.pop(uid, None) is not None:
            # Where the disk does not take it now, the next time is one more that it is worked on alone.
            with suppress(OSError):
                forget(self._folder, uid)

    def end(self) -> str | None:
        """End the store of this thread, however it went, and return its UID, None where there was none."""
        with self._lock:
            uid, slot = self._on_the_way.pop(threading.get_ident(), (None, None))
        if slot is not None:
            self._note(slot, "")
            with self._lock:
                self._free.append(slot)
        return uid

    def disown(self) -> None:
        """Orthanc is about to end by our own will: nothing that is on its way is suspect."""
        if self._notes is not None:
            with suppress(OSError):
                os.ftruncate(self._notes, 0)

    def _note(self, slot: int, text: str) -> None:
        if self._notes is not None:
            record = text.encode("ascii")[:SLOT_BYTES].ljust(SLOT_BYTES, b"\0")
            with suppress(OSError):
                os.pwrite(self._notes, record, SLOT_BYTES * (1 + slot))
