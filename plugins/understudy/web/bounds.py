"""Bounds the memory of answers: how many large ones are made at once, and how many bytes wait for callers.

A caller may ask and never read the answer. The edge ends such a connection after a minute. Until then the
answer is in memory, and each connection that the edge allows may have one.

Rule 1: a body is handed to the server in pieces, each after the one before was sent, so that it is known how
many bytes wait. An answer that does not fit becomes a 503, and the caller may ask again.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from starlette.types import Message, Send

PIECE = 2**16
"""Bytes of a body that are handed over at a time. A body that fits into one piece is not counted."""
MOST_WAITING = 2**26
"""Bytes of all bodies that may wait for their callers together. A larger body is sent if no other waits."""
_MOST_MADE = 2
"""Large answers that are made at the same time: one of ten thousand rows takes 40 MB meanwhile."""
_PATIENCE = 10.0
"""Seconds that a request waits for its turn."""


class NoTurnError(Exception):
    """Too many other large answers are being made."""


class Bounds:
    """The bounds, one object for the whole application."""

    def __init__(self, most_waiting: int = MOST_WAITING, patience: float = _PATIENCE) -> None:
        self._most_waiting = most_waiting
        self._patience = patience
        self._waiting = 0
        self._turns = asyncio.Semaphore(_MOST_MADE)

    @asynccontextmanager
    async def turn(self, *, needed: bool) -> AsyncIterator[Callable[[], None]]:
        """Wait until an answer may be made, and yield a function that ends the turn early.

        Raises NoTurnError.
        """
        if not needed:
            yield lambda: None
            return
        try:
            await asyncio.wait_for(self._turns.acquire(), self._patience)
        except TimeoutError:
            raise NoTurnError from None
        ends = [self._turns.release]

        def end() -> None:
            with suppress(IndexError):
                ends.pop()()

        try:
            yield end
        finally:
            end()

    def has_room(self, size: int) -> bool:
        """Return whether a body of this size in bytes may wait for its caller."""
        return size <= PIECE or not self._waiting or self._waiting + size <= self._most_waiting

    async def hand_over(self, message: Message, send: Send) -> None:
        """Send a part of a body, piece by piece."""
        body = memoryview(message.get("body", b""))
        if len(body) <= PIECE:
            await send(message)
            return
        self._waiting += len(body)
        try:
            for start in range(0, len(body), PIECE):
                piece = bytes(body[start : start + PIECE])
                await send({"type": message["type"], "body": piece, "more_body": True})
            # Ends the body only after the last piece was sent, so that the last piece is counted, too.
            await send({"type": message["type"], "body": b"", "more_body": message.get("more_body", False)})
        finally:
            self._waiting -= len(body)
