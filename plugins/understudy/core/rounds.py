"""Rounds: choose the studies that are compared image by image now, although their counts are equal.

Equal counts prove nothing: one image may be gone and another one new. A query for every image of an archive
at every look would be too much load. So recent studies are compared at every look, and the others once a day
in the slow round.

Rule 1: for a study whose count proves nothing, only a successful comparison by images moves the horizon.
Rule 2: a study without a usable answer from the primary stops the horizon until a comparison of that study
succeeds. Other studies keep their turns meanwhile.
Rule 3: turns and changes are measured by the monotonic clock. Only for the horizon, and for the dates of
studies, does the machine's clock count.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from understudy.core.inventory import ListedStudy
from understudy.core.model import StudyInstanceUid, Timestamp

RECENT_DAYS = 3
"""A study is recent if its date is within this number of days from today."""

CHANGED_SECONDS = 6 * 3600.0
"""A study is also recent for this time after its number of images changed, here or at the primary."""

SLOW_ROUND_SECONDS = 86_400.0
"""Time in which every other study has its turn, if the primary answers quickly enough."""


@dataclass(slots=True)
class _Memory:
    """The state of one study that is kept between looks."""

    count: int | None
    here: int
    date: str
    changed: float
    tried: float | None = None
    compared: Timestamp | None = None
    silence: str = ""
    """Why the last comparison had no usable answer, empty if it had one."""
    clean: tuple[int | None, int] | None = None
    """Both counts at the last comparison if that found no difference, otherwise None."""


class Rounds:
    """Remembers when each study was compared. Each look calls `begin` first."""

    def __init__(self) -> None:
        self._studies: dict[StudyInstanceUid, _Memory] = {}
        self._fresh: dict[StudyInstanceUid, tuple[float, Timestamp]] = {}
        """Studies that `begin` did not know, and that were pulled and compared since the last look began."""
        self._moment = 0.0
        self._recent_dates = ("", "")
        self._slow_from: float | None = None

    @property
    def begun(self) -> bool:
        """Whether this process has looked before."""
        return self._slow_from is not None

    def begin(
        self,
        listed: Mapping[StudyInstanceUid, ListedStudy],
        here: Mapping[StudyInstanceUid, int],
        changed_lately: Collection[StudyInstanceUid],
        *,
        today: Timestamp,
        moment: float,
    ) -> None:
        """Start a look with the list of the primary and our counts of images by study.

        `changed_lately` are studies that changed here before the first look of this process. A study that is
        absent here has no turn, because all of it is missing. `today` is the time of the machine's clock, and
        `moment` that of the monotonic clock.
        """
        first = not self.begun
        if first:
            self._slow_from = moment
        before, self._studies, self._moment = self._studies, {}, moment
        self._recent_dates = (_date(today, -RECENT_DAYS), _date(today, RECENT_DAYS))
        for study, told in listed.items():
            if study not in here:
                continue
            memory = before.get(study)
            if memory is None:
                changed = moment if not first or study in changed_lately else -math.inf
                tried, compared = self._fresh.get(study, (None, None))
                memory = _Memory(told.count, here[study], told.date, changed, tried, compared)
            elif (memory.count, memory.here) != (told.count, here[study]):
                memory.count, memory.here, memory.changed = told.count, here[study], moment
            memory.date = told.date
            self._studies[study] = memory
        self._fresh = {}

    def is_clean(self, study: StudyInstanceUid) -> bool:
        """Say whether a comparison by images at the current counts found no difference.

        Unequal counts then only mean that the primary counts in another way.
        """
        memory = self._studies.get(study)
        return memory is not None and memory.clean == (memory.count, memory.here)

    def required(self) -> list[StudyInstanceUid]:
        """Return the studies that stop the horizon until they are compared, the longest untried first."""
        found = [study for study, memory in self._studies.items() if self._holds_horizon(memory)]
        return sorted(found, key=self._tried)

    def slow(self) -> list[StudyInstanceUid]:
        """Return the studies of the slow round whose turn it is at this look, the longest untried first."""
        others = [study for study, memory in self._studies.items() if not self._holds_horizon(memory)]
        if self._slow_from is None or not others:
            return []
        elapsed = self._moment - self._slow_from
        turns = int(len(others) * elapsed / SLOW_ROUND_SECONDS)
        if not turns:
            return []
        self._slow_from = self._moment
        return sorted(others, key=self._tried)[:turns]

    def compared(self, study: StudyInstanceUid, at: float, shown: Timestamp, *, differs: bool) -> None:
        """Note that the study was compared by images; the clock showed `shown` at `at`."""
        memory = self._studies.get(study)
        if memory is None:
            self._fresh[study] = at, shown
        else:
            memory.tried, memory.compared = at, shown
            memory.silence = ""
            memory.clean = None if differs else (memory.count, memory.here)

    def unanswered(self, study: StudyInstanceUid, at: float, why: str) -> None:
        """Note that the primary gave no usable answer about the study."""
        memory = self._studies.get(study)
        if memory is not None:
            memory.tried, memory.silence, memory.clean = at, why, None

    def silent(self) -> dict[StudyInstanceUid, str]:
        """Return the studies without a usable answer, each with the reason."""
        return {study: memory.silence for study, memory in self._studies.items() if memory.silence}

    def never_tried(self, studies: Iterable[StudyInstanceUid]) -> bool:
        """Say whether the primary was never asked about one of these studies."""
        return any(self._tried(study) == -math.inf for study in studies)

    def complete_up_to(
        self, started: Timestamp, earliest: Callable[[Timestamp], Timestamp | None]
    ) -> Timestamp | None:
        """Return the time up to which all listed images are known to be here, None if it is not known.

        `started` is the time when the list was requested, and `earliest` is the clock's.
        """
        if not self.begun:
            return None
        moments = [earliest(started)]
        for memory in self._studies.values():
            if memory.silence or (memory.compared is None and self._holds_horizon(memory)):
                return None
            if memory.compared is not None and self._holds_horizon(memory):
                moments.append(earliest(memory.compared))
        known = [moment for moment in moments if moment is not None]
        return min(known) if len(known) == len(moments) else None

    def _holds_horizon(self, memory: _Memory) -> bool:
        if memory.silence or (memory.count is None and memory.compared is None):
            return True
        if self._moment - memory.changed < CHANGED_SECONDS:
            return True
        first, last = self._recent_dates
        return first <= memory.date <= last

    def _tried(self, study: StudyInstanceUid) -> float:
        memory = self._studies.get(study)
        return -math.inf if memory is None or memory.tried is None else memory.tried


def _date(now: Timestamp, days: int) -> str:
    return (datetime.fromtimestamp(now, UTC) + timedelta(days)).strftime("%Y%m%d")
