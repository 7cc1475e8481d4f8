"""How much memory answers take: how many large ones are made at once, and how much waits for its callers.

A caller may ask and never take the answer. The edge ends such a connection after a minute; until then what it
asked for is in memory, and there may be as many of them as the edge lets connections in.

Rule 1: a body is handed to the server in pieces, each when the one before has left: only so is it known how
much waits. What does not fit is answered with 503, and asked for again by whoever wants it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from starlette.types import Message, Send

from understudy.web.identity import PREFIX

PIECE = 2**16
"""Bytes of a body that are handed over at a time; a body of no more is not counted."""
MOST_WAITING = 2**26
"""Bytes of all bodies together that wait for their callers. One that is larger goes while no other waits."""
_MOST_MADE = 2
"""Answers that are made at a time: ten thousand rows take 40 MB meanwhile."""
_PATIENCE = 10.0
"""Seconds that a request waits for its turn."""

_GROWING = frozenset(
    PREFIX + path
    for path in (
        "/conflicts",
        "/damages",
        "/dead-letters",
        "/failback/plan",
        "/modalities",
        "/obligations",
        "/operations",
        "/routes/explain",
    )
)
_GROWING_BELOW = f"{PREFIX}/reports/"


class NoTurnError(Exception):
    """Others' answers take all that answers may take."""


def grows(path: str) -> bool:
    """Say whether the answer of a path has as many rows as there are, and so is made in turns."""
    return path in _GROWING or path.startswith(_GROWING_BELOW)


class Bounds:
    """One for the application."""

    def __init__(self, most_waiting: int = MOST_WAITING, patience: float = _PATIENCE) -> None:
        self._most_waiting = most_waiting
        self._patience = patience
        self._waiting = 0
        self._turns = asyncio.Semaphore(_MOST_MADE)

    @asynccontextmanager
    async def turn(self, *, needed: bool) -> AsyncIterator[Callable[[], None]]:
        """Wait until an answer may be made, and give what ends the turn early; raises NoTurnError."""
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
        """Say whether a body of so many bytes may wait for its caller."""
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
            # It is handed over when the last piece has left, and so waits like the others.
            await send({"type": message["type"], "body": b"", "more_body": message.get("more_body", False)})
        finally:
            self._waiting -= len(body)
