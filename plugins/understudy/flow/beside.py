"""Beside: what a holder is asked goes on in threads of its own, so that no question holds the sending."""

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar

from understudy.core.ports import Clock

T = TypeVar("T")

_TURNS = 3600.0
"""Seconds for which a holder that did not bear a further association is asked one thing at a time."""


class Beside:
    """Makes the calls of one holder's lane in threads of their own, or in turn where that is wanted.

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
        """Whether a call has ended when it returns."""
        return self._always_in_turn or self._clock.monotonic() < self._turns_until

    def __call__(self, call: Callable[[], T]) -> "Future[T]":
        """Begin the call; its result, or what it raises, comes with the future."""
        if self.in_turn:
            return in_turn(call)
        future: Future[T] = Future()
        self._out.add(future)
        future.add_done_callback(self._out.discard)
        threading.Thread(target=_fulfil, args=(future, call), name="beside", daemon=True).start()
        return future

    def take_turns(self) -> bool:
        """Let the calls that are out end and make those of the next hour in turn; say whether that is new."""
        if self.in_turn:
            return False
        self._turns_until = self._clock.monotonic() + _TURNS
        wait(set(self._out))
        return True

    def end_turns(self) -> None:
        """Make no call in turn any more for what happened before: that was not the reason."""
        self._turns_until = -math.inf


def in_turn(call: Callable[[], T]) -> "Future[T]":
    """Make the call, as Beside does where it makes them in turn."""
    future: Future[T] = Future()
    _fulfil(future, call)
    return future


def _fulfil(future: "Future[T]", call: Callable[[], T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - raised again for whoever asks for the result
        future.set_exception(error)
