"""Hours of the day: ranges of local time for sending windows and bandwidth limits."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

_CLOCK = r"([01]\d|2[0-3]):([0-5]\d)"
_RANGE = re.compile(f"{_CLOCK}-{_CLOCK}")

MINUTES_OF_A_DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class Hours:
    """A part of every day in minutes since midnight, without `end` itself; it may span midnight."""

    begin: int
    end: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the range from its text `HH:MM-HH:MM`, or raise ValueError."""
        found = _RANGE.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no part of a day: write it as 18:00-07:30")
        begin_hour, begin_minute, end_hour, end_minute = map(int, found.groups())
        begin, end = begin_hour * 60 + begin_minute, end_hour * 60 + end_minute
        if begin == end:
            raise ValueError(f"{text!r} is empty: for the whole day leave it out")
        return cls(begin, end)

    def __contains__(self, minute: int) -> bool:
        """Say whether the minute of the day is in the range."""
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end

    def __str__(self) -> str:
        begin, end = divmod(self.begin, 60), divmod(self.end, 60)
        return f"{begin[0]:02}:{begin[1]:02}-{end[0]:02}:{end[1]:02}"


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit in bytes a second for a part of every day."""

    hours: Hours
    bytes_per_second: int


def minute_of(local: datetime) -> int:
    """Return the minute of the day of a time in the site's time zone."""
    return local.hour * 60 + local.minute


def in_window(windows: Sequence[Hours], local: datetime) -> bool:
    """Say whether one of the windows is open. Without any window, every time is open."""
    return not windows or any(minute_of(local) in window for window in windows)


def bytes_per_second(limits: Iterable[Limit], local: datetime) -> int | None:
    """Return the lowest limit that applies now, None if none applies."""
    minute = minute_of(local)
    return min((limit.bytes_per_second for limit in limits if minute in limit.hours), default=None)


def longest_closed(windows: Sequence[Hours]) -> float:
    """Return the longest time in seconds for which no window is open, 0 without any window."""
    if not windows:
        return 0.0
    longest = run = 0
    # Two days, so that a closed time over midnight counts as one piece.
    for minute in range(2 * MINUTES_OF_A_DAY):
        closed = not any(minute % MINUTES_OF_A_DAY in window for window in windows)
        run = run + 1 if closed else 0
        longest = max(longest, run)
    return 60.0 * min(longest, MINUTES_OF_A_DAY)
