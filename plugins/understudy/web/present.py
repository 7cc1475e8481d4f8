"""Shares one computation of the status, in a thread of its own, among all who ask at the same time.

Rule 1: each caller gets a status whose computation began after the call, so it shows the caller's changes.
Rule 2: if the ledger's disk hangs, only one thread waits for it, and callers are told after `PATIENCE`.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from understudy.web.errors import ApiError

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds that a caller waits. A busy machine needs some of them; a longer wait means that the disk hangs."""


class Shared(Generic[T]):
    """Computes a value once for all callers that wait for it."""

    def __init__(self, compute: Callable[[], T], patience: float = PATIENCE) -> None:
        self._compute = compute
        self._patience = patience
        self._lock = threading.Lock()
        self._next: Future[T] | None = None
        """The result for callers that came after the present computation began."""
        self._busy = False

    async def get(self) -> T:
        """Return the value, or raise what the computation raises, or ApiError 503 if it takes too long."""
        future = asyncio.wrap_future(self._ask())
        # `wait` does not cancel the future at the timeout: other callers may wait for it.
        done, _ = await asyncio.wait([future], timeout=self._patience)
        if not done:
            raise ApiError(
                503,
                "not_known",
                f"the ledger does not answer within {self._patience:.0f} s: its disk hangs",
                "look at the volume `state` on the host; GET /understudy/mode answers from memory",
            )
        return future.result()

    def _ask(self) -> Future[T]:
        with self._lock:
            if self._next is None:
                self._next = Future()
            future = self._next
            if not self._busy:
                self._busy = True
                threading.Thread(target=self._work, name="status", daemon=True).start()
            return future

    def _work(self) -> None:
        while True:
            with self._lock:
                future, self._next = self._next, None
                if future is None:
                    self._busy = False
                    return
            try:
                future.set_result(self._compute())
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits, and recorded there
                future.set_exception(error)
