"""Due: the one way to ask whether a time has come, whatever happens to the machine's clock meanwhile.

A clock can be set: by hand, or by a time service that finds it wrong. A moment that was written before such a
step says nothing by itself about how long ago it was.

Rule 1: a wait that begins and ends in this process is measured by `monotonic`, which nobody can set.
Rule 2: a moment that is shown or kept is compared by `is_due`, `has_waited` and `age`, and not by `now`.
Rule 3: in doubt, work is due: repeating it changes nothing (`is_due`).
Rule 4: in doubt, patience has not ended: nothing is given up by a step of the clock (`has_waited`).
"""

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from understudy.core.model import Timestamp

_TOLERANCE = 2.0
"""Seconds by which the two clocks may differ between two looks; a time service moves a clock less than that
without a step."""

_MOST_STEPS = 100
"""Steps that are remembered, the latest."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of the machine's clock: what it would have shown, and what it showed."""

    before: Timestamp
    after: Timestamp

    def applies_to(self, moment: float, now: Timestamp) -> bool:
        """Say whether the moment was written before this step.

        After a step back, only a moment that lies ahead is surely older than the step.
        """
        return moment <= self.before if self.after > self.before else moment > now


class Clock:
    """The machine's clock, beside one that only goes forward; both are arguments, in seconds."""

    def __init__(
        self,
        machine: Callable[[], float],
        monotonic: Callable[[], float],
        lock: AbstractContextManager[object],
    ) -> None:
        """`machine` returns seconds since 1970-01-01T00:00:00Z, `monotonic` those since any moment.

        `lock` lets one thread at a time in.
        """
        self._machine = machine
        self._monotonic = monotonic
        self._lock = lock
        self._steps: deque[_Step] = deque(maxlen=_MOST_STEPS)
        at, self._began = self._read()
        self._difference = at - self._began

    def now(self) -> Timestamp:
        """Return what the machine's clock shows: for records and screens."""
        at, moment = self._read()
        with self._lock:
            expected = moment + self._difference
            if abs(at - expected) > _TOLERANCE:
                self._steps.append(_Step(Timestamp(expected), Timestamp(at)))
            self._difference = at - moment
        return Timestamp(at)

    def monotonic(self) -> float:
        """Return seconds that only grow: for waits inside this process."""
        return self._monotonic()

    def age(self, moment: Timestamp) -> float | None:
        """Return the seconds since a moment, None where nobody knows.

        The steps of the clock that this process saw are left out. Nobody knows where the moment lies ahead
        all the same: then it was written before this process began.
        """
        now, since = self.now(), float(moment)
        with self._lock:
            steps = list(self._steps)
        for step in steps:
            if step.applies_to(since, now):
                since += step.after - step.before
        return max(0.0, now - since) if since <= now + _TOLERANCE else None

    def is_due(self, last: Timestamp | None, interval: float) -> bool:
        """Say whether work that was last done at a moment, None for never, is to be done now."""
        age = None if last is None else self.age(last)
        return age is None or age >= interval

    def has_waited(self, since: Timestamp, patience: float) -> bool:
        """Say whether more than `patience` seconds have surely passed since a moment.

        Where nobody knows, they count from the beginning of this process.
        """
        return self.waited(since) > patience

    def waited(self, since: Timestamp) -> float:
        """Return the seconds that have surely passed since a moment."""
        age = self.age(since)
        return self._monotonic() - self._began if age is None else age

    def _read(self) -> tuple[float, float]:
        """Return what both clocks show at one moment."""
        while True:
            before = self._monotonic()
            at = self._machine()
            after = self._monotonic()
            # Else the process stood still between the two: that is no step of the clock.
            if after - before <= _TOLERANCE / 2:
                return at, after
