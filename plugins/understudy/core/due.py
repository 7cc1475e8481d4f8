"""Due: the only way to check whether a time has come, safe against steps of the machine's clock.

A clock can be set by hand or by a time service. A timestamp from before such a step does not tell how long
ago it was written.

Rule 1: a wait that begins and ends in this process is measured by `monotonic`, which nobody can set.
Rule 2: a stored or shown timestamp is compared by `is_due`, `has_waited` and `age`, and not by `now`.
Rule 3: in doubt, work is due, because repeating it changes nothing (`is_due`).
Rule 4: in doubt, a timeout has not expired, so a step of the clock gives nothing up (`has_waited`).
"""

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from understudy.core.model import Timestamp

_TOLERANCE = 2.0
"""Seconds by which the two clocks may drift apart between two reads. A larger difference is a step: a time
service that only slews the clock stays below."""

_MOST_STEPS = 100
"""The number of latest steps that are remembered."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of the machine's clock: the time expected without the step, and the time shown after it."""

    before: Timestamp
    after: Timestamp

    def applies_to(self, moment: float, now: Timestamp) -> bool:
        """Say whether the timestamp was written before this step.

        After a step back, this is certain only for a timestamp in the future.
        """
        return moment <= self.before if self.after > self.before else moment > now


class Clock:
    """The machine's clock together with a monotonic one. Both are arguments and return seconds."""

    def __init__(
        self,
        machine: Callable[[], float],
        monotonic: Callable[[], float],
        lock: AbstractContextManager[object],
    ) -> None:
        """`machine` returns seconds since 1970-01-01T00:00:00Z, `monotonic` seconds since any fixed moment.

        `lock` admits one thread at a time.
        """
        self._machine = machine
        self._monotonic = monotonic
        self._lock = lock
        self._steps: deque[_Step] = deque(maxlen=_MOST_STEPS)
        at, self._began = self._read()
        self._difference = at - self._began

    def now(self) -> Timestamp:
        """Return the machine's time, for records and screens."""
        at, moment = self._read()
        with self._lock:
            expected = moment + self._difference
            if abs(at - expected) > _TOLERANCE:
                self._steps.append(_Step(Timestamp(expected), Timestamp(at)))
            self._difference = at - moment
        return Timestamp(at)

    def monotonic(self) -> float:
        """Return seconds that only grow, for waits inside this process."""
        return self._monotonic()

    def age(self, moment: Timestamp) -> float | None:
        """Return the seconds since a timestamp, or None if the age is not known.

        Steps of the clock that this process saw are left out. The age is not known if the timestamp is in the
        future even so: it was then written before this process started.
        """
        now, since = self.now(), float(moment)
        with self._lock:
            steps = list(self._steps)
        for step in steps:
            if step.applies_to(since, now):
                since += step.after - step.before
        return max(0.0, now - since) if since <= now + _TOLERANCE else None

    def earliest(self, moment: Timestamp) -> Timestamp | None:
        """Return the earliest time, by the clock as it is set now, that a timestamp can stand for.

        Steps back are left out. A step forward is not: the machine may have stood still meanwhile. None if
        the age of the timestamp is not known.
        """
        age = self.age(moment)
        return None if age is None else Timestamp(min(moment, self.now() - age))

    def is_due(self, last: Timestamp | None, interval: float) -> bool:
        """Say whether work is due whose last run was at `last`, None for never."""
        age = None if last is None else self.age(last)
        return age is None or age >= interval

    def has_waited(self, since: Timestamp, patience: float) -> bool:
        """Say whether more than `patience` seconds have certainly passed since a timestamp.

        If the age is not known, the seconds count from the start of this process.
        """
        return self.waited(since) > patience

    def waited(self, since: Timestamp) -> float:
        """Return the seconds that have certainly passed since a timestamp."""
        age = self.age(since)
        return self._monotonic() - self._began if age is None else age

    def _read(self) -> tuple[float, float]:
        """Return the times of both clocks at one moment."""
        while True:
            before = self._monotonic()
            at = self._machine()
            after = self._monotonic()
            # Otherwise the process was suspended between the reads, which is no step of the clock.
            if after - before <= _TOLERANCE / 2:
                return at, after
