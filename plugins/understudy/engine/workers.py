"""A worker's loop: calls a step for ever, and turns each error into an alarm and a pause."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from understudy.core.model import Timestamp
from understudy.core.ports import Clock, HolderUnavailableError, OrthancUnavailableError
from understudy.core.retry import delay_before
from understudy.core.views import Alarm, iso

_log = logging.getLogger(__name__)

_BASE, _CAP = 1.0, 60.0
"""Seconds of pause after the first failure, and the longest pause."""


class Loop:
    """Runs one step in a thread of its own until `stop`; `wake` cuts its pause short."""

    def __init__(
        self,
        name: str,
        step: Callable[[], bool],
        clock: Clock,
        *,
        interval: float,
        stop: threading.Event,
        fraction: Callable[[], float],
    ) -> None:
        self.name = name
        self._step = step
        self._clock = clock
        self._interval = interval
        self._stop = stop
        self._fraction = fraction
        self._woken = threading.Event()
        self._failures = 0
        self._alarm: Alarm | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def alarm(self) -> Alarm | None:
        """Why the worker's last step failed; None if it did not."""
        return self._alarm

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """End the pause now."""
        self._woken.set()

    def join(self, timeout: float) -> None:
        """Wait for the thread's end, at most `timeout` seconds."""
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stop.is_set():
            pause = self._once()
            self._woken.wait(pause)
            self._woken.clear()

    def _once(self) -> float:
        """Do one step and return the seconds until the next."""
        try:
            worked = self._step()
        except (HolderUnavailableError, OrthancUnavailableError) as error:
            return self._failed(str(error), error.hint)
        except Exception as error:  # noqa: BLE001 - the lane loop: recorded here, shown as an alarm, tried again
            _log.exception("worker failed name=%s", self.name)
            return self._failed(
                f"the worker {self.name} failed with {type(error).__name__}",
                "`docker compose logs agent` says where; it is tried again by itself",
            )
        self._failures = 0
        self._alarm = None
        return 0.0 if worked else self._interval

    def _failed(self, what: str, hint: str) -> float:
        self._failures += 1
        if self._alarm is None or self._alarm.what != what:
            self._alarm = Alarm(iso(Timestamp(self._clock.now())), what, hint)
            _log.warning("worker waits name=%s because=%s", self.name, what)
        return delay_before(self._failures, base=_BASE, cap=_CAP, fraction=self._fraction())


class Workers:
    """The agent's threads: one loop for each verb and for each lane."""

    def __init__(self, clock: Clock, fraction: Callable[[], float]) -> None:
        self._clock = clock
        self._fraction = fraction
        self._stop = threading.Event()
        self._loops: list[Loop] = []

    def add(self, name: str, step: Callable[[], bool], interval: float) -> None:
        """Add a loop; all start together."""
        self._loops.append(
            Loop(name, step, self._clock, interval=interval, stop=self._stop, fraction=self._fraction)
        )

    def wait(self, seconds: float) -> bool:
        """Wait inside a step; return False if the step has to end because all loops stop."""
        return not self._stop.wait(seconds)

    def start(self) -> None:
        """Start every loop."""
        for loop in self._loops:
            loop.start()

    def wake(self, *names: str) -> None:
        """Cut the pauses of the named loops short; a name ending in `-` names all loops with this prefix."""
        for loop in self._loops:
            if any(
                loop.name == name or (name.endswith("-") and loop.name.startswith(name)) for name in names
            ):
                loop.wake()

    def alarms(self) -> Sequence[Alarm]:
        """Return the alarms of the failing loops, each reason once."""
        found: dict[str, Alarm] = {}
        for loop in self._loops:
            if (alarm := loop.alarm) is not None:
                found.setdefault(alarm.what, alarm)
        return list(found.values())

    def stop(self, timeout: float) -> None:
        """Let every loop end its step, within `timeout` seconds in all; the next start releases claims."""
        self._stop.set()
        for loop in self._loops:
            loop.wake()
        deadline = time.monotonic() + timeout
        for loop in self._loops:
            loop.join(max(0.0, deadline - time.monotonic()))
