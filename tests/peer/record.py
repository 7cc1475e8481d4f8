"""What the peer kept and what happened at it: a test waits on it and compares it with the ledger."""

import hashlib
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

DEADLINE = 300.0
"""Seconds after which a wait fails; and a peer that hangs goes on then."""


class Moment(Enum):
    """What can be waited for."""

    ASSOCIATED = "association accepted"
    REJECTED = "association rejected"
    ARRIVED = "instance has come whole"
    HANGING = "hangs"
    BROKEN = "connection broken off"
    ASKED = "query has come"
    CLOSED = "connection closed"
    COMMITMENT = "commitment asked for"
    REPORTED = "commitment reported and the report answered"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One instance that came whole."""

    sop_instance_uid: str
    dataset_sha256: str
    status: int | None
    """What it was answered with, None where it was to have no answer."""
    kept: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """One instance that is kept."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str


class Record:
    """Arrivals in their order, what is kept of them, and the moments; for threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._arrivals: list[Arrival] = []
        self._kept: dict[str, Entry] = {}
        self._moments: Counter[Moment] = Counter()

    @property
    def arrivals(self) -> list[Arrival]:
        """Everything that came whole, in order; what came twice is here twice."""
        with self._changed:
            return list(self._arrivals)

    @property
    def kept(self) -> dict[str, Entry]:
        """What is kept, by the SOP Instance UID under which it is."""
        with self._changed:
            return dict(self._kept)

    def arrived(self, dataset: bytes, sop_instance_uid: str, status: int | None, entry: Entry | None) -> None:
        """Note an arrival, and keep the entry where there is one."""
        digest = hashlib.sha256(dataset).hexdigest()
        with self._changed:
            self._arrivals.append(Arrival(sop_instance_uid, digest, status, entry is not None))
            if entry is not None:
                self._kept[entry.sop_instance_uid] = entry
        self.note(Moment.ARRIVED)

    def lose(self, *sop_instance_uids: str) -> None:
        """Forget kept instances, all of them where none is named."""
        with self._changed:
            for uid in sop_instance_uids or tuple(self._kept):
                del self._kept[uid]

    def note(self, moment: Moment) -> None:
        """Count the moment and wake who waits."""
        with self._changed:
            self._moments[moment] += 1
            self._changed.notify_all()

    def times(self, moment: Moment) -> int:
        """Return how often this has happened."""
        with self._changed:
            return self._moments[moment]

    def wait_for(self, moment: Moment, times: int = 1) -> None:
        """Wait until this has happened so often since the peer began."""
        self._wait(lambda: self._moments[moment] >= times, f"{moment.value}, {times} times")

    def wait_until_hung(self) -> None:
        """Wait until the peer hangs somewhere."""
        self.wait_for(Moment.HANGING)

    def _wait(self, happened: Callable[[], bool], what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(happened, DEADLINE):
                raise AssertionError(f"{what}: not within {DEADLINE:g} s; seen: {dict(self._moments)}")
