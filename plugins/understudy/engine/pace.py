"""Pacing: a worker that sends waits until the destination's bandwidth of this hour allows it."""

import threading
from collections.abc import Callable

from understudy.core.pace import TokenBucket
from understudy.core.ports import Clock

_LONGEST_WAIT = 5.0
"""Seconds after which the rate is looked up again: the next hour may allow more."""


class Pacer:
    """Lets the workers of one lane share a bandwidth; `wait` sleeps, and returns False if the agent stops."""

    def __init__(self, rate: Callable[[], int | None], clock: Clock, wait: Callable[[float], bool]) -> None:
        self._rate = rate
        self._clock = clock
        self._wait = wait
        self._bucket = TokenBucket(at=clock.monotonic())
        self._lock = threading.Lock()

    def __call__(self, size: int) -> bool:
        """Wait until `size` bytes may be sent; return False if sending has to end."""
        while self._wait(0.0):
            with self._lock:
                seconds = self._bucket.take(size, self._clock.monotonic(), self._rate())
            if seconds == 0:
                return True
            self._wait(min(seconds, _LONGEST_WAIT))
        return False
