"""Memory: what stored files may take of it while they are packed, sent or compared.

Rule 1: a worker that reads a whole file asks for memory first, for all copies of it, and gives it back after.
Rule 2: a file that can never have room is refused with its size: it would end the agent again and again.
Rule 3: a request that fits passes larger ones that wait: a store that hangs may keep its room for hours.
Rule 4: a request that has waited for a minute is passed no more, so that small ones do not keep it out. There
is one exception: it is still passed while it needs room that others have held for a minute or longer, because
stopping the small ones would not help it.
"""

import copy
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from understudy.core.refusals import too_large

RESERVE = 320 * 2**20
"""Bytes that the agent needs besides stored files: program, ledger's pages, connections."""

BOUNDLESS = 2**60
"""A limit that is never reached, for callers without a limit."""

_LONG = 60.0
"""Seconds after which a waiting request is not passed any more, and after which held room counts as kept."""
_LOOK_AGAIN = 1.0
"""Seconds between two looks of a waiting request: time alone may let it in."""


class Room:
    """A part of the memory that a worker waits for or holds; it can be made smaller."""

    def __init__(self, pool: "_Pool", who: str, size: int) -> None:
        self._pool = pool
        self.who = who
        self.size = size
        self.since = 0.0
        """When the waiting began; once the room is held, when the holding began."""

    def shrink(self, size: int) -> None:
        """Give back all but `size` bytes."""
        self._pool.shrink(self, size)


class Memory:
    """The memory for stored files; `of` names the worker that asks for a part."""

    def __init__(self, limit: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self.most = max(limit - RESERVE, limit // 8)
        """Bytes that all workers together may hold."""
        self._pool = _Pool(self.most, monotonic)
        self._who = ""

    def of(self, who: str) -> "Memory":
        """Return the same memory for one worker, which `waiting` lists by this name."""
        mine = copy.copy(self)
        mine._who = who
        return mine

    def refusal(self, size: int, copies: float) -> str | None:
        """Return why a file of this size cannot be held in `copies` copies; None if it can."""
        if size * copies <= self.most:
            return None
        needed = int(size * copies) + RESERVE
        return too_large(size, int(self.most / copies), self._limit, needed)

    @contextmanager
    def holding(self, size: float) -> Iterator[Room]:
        """Wait for `size` bytes (at most the whole memory) and hold them."""
        room = Room(self._pool, self._who, min(int(size), self.most))
        self._pool.take(room)
        try:
            yield room
        finally:
            self._pool.give_back(room)

    def waiting(self) -> Mapping[str, int]:
        """Return the names of the waiting workers, with the bytes that each waits for."""
        return self._pool.waiting()


class _Pool:
    """The free memory, the parts that are held, and the requests that wait, in order."""

    def __init__(self, most: int, monotonic: Callable[[], float]) -> None:
        self._most = self._free = most
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._waiting: list[Room] = []
        self._held: list[Room] = []

    def take(self, room: Room) -> None:
        with self._changed:
            room.since = self._monotonic()
            self._waiting.append(room)
            while not self._may_begin(room):
                self._changed.wait(_LOOK_AGAIN)
            self._waiting.remove(room)
            self._held.append(room)
            room.since = self._monotonic()
            self._free -= room.size
            self._changed.notify_all()

    def shrink(self, room: Room, size: int) -> None:
        with self._changed:
            if size < room.size:
                self._free += room.size - size
                room.size = size
                self._changed.notify_all()

    def give_back(self, room: Room) -> None:
        with self._changed:
            self._held.remove(room)
            self._free += room.size
            self._changed.notify_all()

    def waiting(self) -> Mapping[str, int]:
        with self._changed:
            return {room.who: room.size for room in reversed(self._waiting)}

    def _may_begin(self, room: Room) -> bool:
        if room.size > self._free:
            return False
        earlier = self._waiting[: self._waiting.index(room)]
        now = self._monotonic()
        return not any(one.size <= self._free or self._is_passed_no_more(one, now) for one in earlier)

    def _is_passed_no_more(self, waiting: Room, now: float) -> bool:
        kept = sum(held.size for held in self._held if now - held.since >= _LONG)
        return now - waiting.since >= _LONG and waiting.size <= self._most - kept
