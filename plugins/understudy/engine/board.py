"""Board: the last value that a worker saw, for callers that must not wait for a disk.

Rule 1: only the worker looks. All other callers read memory, and never wait.
Rule 2: a value that is older than the patience is not shown any more: it is "not known since" then.
"""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from understudy.core.model import Timestamp
from understudy.core.ports import Clock
from understudy.core.views import Alarm, iso

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds without a look after which the value counts as not known."""


class Watch(Generic[T]):
    """One value that a worker looks up by `step`; all other callers read `value`."""

    def __init__(
        self,
        look: Callable[[], T],
        clock: Clock,
        *,
        patience: float = PATIENCE,
    ) -> None:
        self._look = look
        self._clock = clock
        self._patience = patience
        self._seen: tuple[T, Timestamp, float] | None = None
        """The value, and its time by both clocks; replaced as a whole, so that no reader needs a lock."""
        self._began = (clock.now(), clock.monotonic())

    def step(self) -> bool:
        """Look once; an error or a disk that hangs leaves the board as it is."""
        # The time when the look began: the value may be that old.
        at, moment = self._clock.now(), self._clock.monotonic()
        self._seen = (self._look(), at, moment)
        return False

    @property
    def value(self) -> T | None:
        """The last value; None before the first look and if the last look is too long ago."""
        seen = self._seen
        return seen[0] if seen is not None and not self._is_old(seen[2]) else None

    @property
    def unknown_since(self) -> Timestamp | None:
        """Since when the value is not known; None while it is recent, or the first look has time left."""
        at, moment = self._began if self._seen is None else self._seen[1:]
        return at if self._is_old(moment) else None

    def _is_old(self, moment: float) -> bool:
        return self._clock.monotonic() - moment > self._patience


class WatchedAlarms:
    """Alarms that a worker reads from files by `step`; `alarms` waits for no disk."""

    def __init__(
        self,
        name: str,
        place: str,
        look: Callable[[], Sequence[Alarm]],
        clock: Clock,
    ) -> None:
        self._watch = Watch(look, clock)
        self._unknown = (
            f"{name} cannot be read",
            f"look at the disk under {place}: it does not answer",
        )

    def step(self) -> bool:
        """Look once."""
        return self._watch.step()

    def alarms(self) -> Sequence[Alarm]:
        """Return the alarms that were read last, or one that says that they are not known."""
        if (seen := self._watch.value) is not None:
            return seen
        since = self._watch.unknown_since
        return () if since is None else (Alarm(iso(since), *self._unknown),)
