"""Beside: a lane asks its holder in threads of their own, so that no question delays the sending."""

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from understudy.core.ports import Clock

T = TypeVar("T")

_TURNS = 3600.0
"""Seconds for which a holder that accepted no further association is asked one question at a time."""


class Beside:
    """Makes the calls of one holder's lane in threads of their own, or one after the other ("in turn").

    Every call has time limits of its own. The threads are daemons: a stop of the agent waits for none.
    """

    def __init__(
        self, clock: Clock, wake: Callable[[], None] = lambda: None, *, in_turn: bool = False
    ) -> None:
        self._clock = clock
        self.wake = wake
        """Lets the lane take its next step now."""
        self._always_in_turn = in_turn
        self._turns_until = -math.inf
        self._out: set[Future[Any]] = set()

    @property
    def in_turn(self) -> bool:
        """Whether calls are made in turn: each has ended when `__call__` returns."""
        return self._always_in_turn or self._clock.monotonic() < self._turns_until

    def __call__(self, call: Callable[[], T]) -> "Future[T]":
        """Begin the call; the future gets its result or its exception."""
        if self.in_turn:
            return in_turn(call)
        future: Future[T] = Future()
        self._out.add(future)
        future.add_done_callback(self._out.discard)
        threading.Thread(target=_fulfil, args=(future, call), name="beside", daemon=True).start()
        return future

    def take_turns(self) -> bool:
        """Wait for the running calls and make those of the next hour in turn; return whether that is new."""
        if self.in_turn:
            return False
        self._turns_until = self._clock.monotonic() + _TURNS
        wait(set(self._out))
        return True

    def end_turns(self) -> None:
        """Make calls in threads again: the calls beside each other were not the reason for the failure."""
        self._turns_until = -math.inf


def in_turn(call: Callable[[], T]) -> "Future[T]":
    """Make the call in this thread, as Beside does in turn."""
    future: Future[T] = Future()
    _fulfil(future, call)
    return future


def _fulfil(future: "Future[T]", call: Callable[[], T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - raised again for whoever asks for the result
        future.set_exception(error)
