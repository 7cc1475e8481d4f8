"""What the archives on DICOM and DICOMweb have in common: a script, and what becomes of an instance by it."""

import threading
import warnings
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Self

from pydicom import dcmread
from pydicom.uid import generate_uid

from tests.peer.record import DEADLINE, Entry, Moment, Record
from tests.peer.script import SUCCESS, Act, Answer, Kept, Script, Trickle

_DUPLICATE = 0x0111


@dataclass(frozen=True, slots=True)
class Sent:
    """One instance that came whole: the bytes of its data set, and how it is known."""

    file: bytes
    dataset: bytes
    entry: Entry

    @classmethod
    def read(cls, file: bytes, dataset: bytes) -> Self:
        """Return what a Part 10 file brought, whose data set is `dataset`."""
        # Odd files are sent on purpose, and the tests treat warnings as errors.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = dcmread(BytesIO(file), stop_before_pixels=True, force=True)
        names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
        return cls(file, dataset, Entry(*(str(found.get(name, "")) for name in names)))


class Acting:
    """A peer that acts by its script, which may be replaced at any moment."""

    def __init__(self, script: Script | None) -> None:
        self.record = Record()
        self._lock = threading.Lock()
        self._script = script or Script()
        self._instances = 0
        self._go_on = threading.Event()
        self._files: dict[str, bytes] = {}

    @property
    def script(self) -> Script:
        """What it does now."""
        with self._lock:
            return self._script

    @script.setter
    def script(self, script: Script) -> None:
        """Do this from now on; whoever hangs goes on."""
        with self._lock:
            self._script = script
            self._instances = 0
            self._go_on.set()
            self._go_on = threading.Event()

    @property
    def go_on(self) -> threading.Event:
        """What ends the hanging that begins now."""
        with self._lock:
            return self._go_on

    def next_act(self) -> Act:
        """Count one instance more and return what is done with it."""
        with self._lock:
            self._instances += 1
            return self._script.of_instance(self._instances)

    def hang(self) -> None:
        """Do nothing until the script is replaced."""
        go_on = self.go_on
        self.record.note(Moment.HANGING)
        go_on.wait(DEADLINE)

    def take(self, sent: Sent, act: Act) -> int:
        """Keep what came as the act says, and return the status to answer with where it is answered."""
        uid = sent.entry.sop_instance_uid
        if isinstance(act, Answer) and self.script.refuses_duplicates and uid in self.record.kept:
            act = Answer(_DUPLICATE)
        if uid in self.script.poison:
            act = Answer(self.script.poison[uid])
        status = act.status if isinstance(act, Answer) else SUCCESS
        keeps = not isinstance(act, Answer) or act.stores
        told = status if isinstance(act, Answer | Trickle) else None
        with self._lock:
            self._files[uid] = sent.file
        self.record.arrived(sent.dataset, uid, told, _entry(sent.entry, act.kept) if keeps else None)
        return status

    def given_back(self, sop_instance_uid: str) -> bytes | None:
        """Return the file that is given back of a kept instance, None where none is."""
        script = self.script
        if sop_instance_uid not in self.record.kept or sop_instance_uid in script.withheld:
            return None
        with self._lock:
            file = self._files[sop_instance_uid]
        # The last byte is one of the pixels.
        return file[:-1] + bytes([file[-1] ^ 1]) if sop_instance_uid in script.altered else file


def _entry(sent: Entry, kept: Kept) -> Entry | None:
    match kept:
        case Kept.NOT:
            return None
        case Kept.RENAMED:
            uid = generate_uid(entropy_srcs=["renamed", sent.sop_instance_uid])
            return replace(sent, sop_instance_uid=uid)
        case Kept.AS_SENT:
            return sent
