"""The memory that stored files may take: shared fairly, given back, refused to what can never fit."""

import threading
from contextlib import ExitStack

import pytest
from understudy.core.refusals import hint_of
from understudy.engine import memory as engine_memory
from understudy.engine.memory import RESERVE, Memory
from understudy.holders.vault import WORKING, held_in_memory

from tests.stack import wait_until
from tests.unit.fakes import Clock

MEGABYTE = 2**20
LIMIT = RESERVE + 100 * MEGABYTE
LOOK_AGAIN = 0.02
"""Seconds between two looks of a waiting request."""


def test_file_that_never_fits_is_refused_by_its_size_with_what_it_needs() -> None:
    memory = Memory(LIMIT)
    assert memory.refusal(33 * MEGABYTE, 3) is None
    refusal = memory.refusal(34 * MEGABYTE, 3)
    assert refusal is not None
    assert refusal.startswith("it is too large: 34 MiB, and the agent holds 33 MiB at most")
    assert f"it needs a limit of {(RESERVE + 102 * MEGABYTE) // MEGABYTE} MiB" in refusal
    assert "UNDERSTUDY_AGENT_MEMORY" in hint_of(refusal)


class Holder(threading.Thread):
    """Holds some memory in a thread of its own until it is let go."""

    def __init__(self, memory: Memory, size: int) -> None:
        super().__init__(daemon=True)
        self._memory, self._size = memory, size
        self._let_go, self._shrink_to = threading.Event(), size
        self._shrunk, self._has_it = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self._memory.holding(self._size) as room:
            self._has_it.set()
            self._shrunk.wait(300)
            room.shrink(self._shrink_to)
            self._let_go.wait(300)

    @property
    def holds(self) -> bool:
        """Whether it has what it asked for, or had it."""
        return self._has_it.is_set()

    def has_it(self) -> None:
        """Wait until it has what it asked for."""
        assert self._has_it.wait(60)

    def is_kept_waiting(self) -> None:
        """See that it does not get what it asked for, although it looks again."""
        assert not self._has_it.wait(5 * LOOK_AGAIN)

    def shrink(self, size: int) -> None:
        """Give back the rest."""
        self._shrink_to = size
        self._shrunk.set()

    def end(self) -> None:
        """Give all of it back."""
        self._shrunk.set()
        self._let_go.set()
        self.join(60)


def holder(memory: Memory, megabytes: int) -> Holder:
    """Return one that has asked for memory."""
    one = Holder(memory.of(str(megabytes)), megabytes * MEGABYTE)
    wait_until(
        lambda: one.holds or str(megabytes) in memory.waiting(),
        bool,
        deadline=60,
        what=f"asked for {megabytes}",
        pause=0.01,
    )
    return one


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Memory:
    monkeypatch.setattr(engine_memory, "_LOOK_AGAIN", LOOK_AGAIN)
    return Memory(LIMIT, clock.now)


def test_two_that_do_not_fit_together_are_held_one_after_the_other(memory: Memory) -> None:
    first, second = holder(memory, 60), holder(memory, 50)
    second.is_kept_waiting()
    assert memory.waiting() == {"50": 50 * MEGABYTE}
    first.end()
    second.has_it()
    assert memory.waiting() == {}
    second.end()


def test_of_those_that_fit_the_one_that_asked_first_comes_first(memory: Memory) -> None:
    first = holder(memory, 100)
    others = [holder(memory, size) for size in (70, 60, 65)]
    first.end()
    others[0].has_it()
    others[1].is_kept_waiting()
    assert not others[2].holds
    for one in others:
        one.has_it()
        one.end()


def test_what_shrinks_gives_the_rest_to_others_while_it_is_held(memory: Memory) -> None:
    first, second = holder(memory, 90), holder(memory, 60)
    first.shrink(30 * MEGABYTE)
    second.has_it()
    first.end()
    second.end()
    with memory.holding(memory.most) as all_of_it:
        assert all_of_it.size == memory.most


@pytest.mark.parametrize("seconds", [1, 61, 3600])
def test_large_one_that_waits_for_a_store_that_hangs_keeps_no_smaller_one_waiting(
    memory: Memory, clock: Clock, seconds: int
) -> None:
    hangs, large = holder(memory, 60), holder(memory, 55)
    clock.advance(seconds)
    for size in (1, 30, 5):
        passes = holder(memory, size)
        passes.has_it()
        passes.end()
    assert not large.holds
    hangs.end()
    large.has_it()
    large.end()


def test_one_that_has_waited_for_long_is_not_kept_out_by_small_ones(memory: Memory, clock: Clock) -> None:
    small, large = holder(memory, 20), holder(memory, 90)
    # Small ones come without an end, each before the one before it has ended.
    for size in (21, 22):
        clock.advance(20)
        before, small = small, holder(memory, size)
        small.has_it()
        before.end()
    clock.advance(20)
    next_one = holder(memory, 23)
    next_one.is_kept_waiting()
    small.end()
    large.has_it()
    next_one.is_kept_waiting()
    large.end()
    next_one.has_it()
    next_one.end()


def test_one_that_has_waited_for_long_keeps_others_out_only_where_that_helps_it(
    memory: Memory, clock: Clock
) -> None:
    hangs = holder(memory, 30)
    clock.advance(61)
    quick, large = holder(memory, 40), holder(memory, 65)
    clock.advance(59)
    passes = holder(memory, 1)
    passes.has_it()
    passes.end()
    clock.advance(1)
    # What the quick one gives back is enough: 30 + 65 fit.
    quick_too = holder(memory, 2)
    quick.end()
    large.has_it()
    quick_too.has_it()
    for one in (hangs, large, quick_too):
        one.end()


@pytest.mark.parametrize("vaults", [1, 2, 5])
def test_vault_has_room_for_its_pack_while_all_others_hang_with_theirs(vaults: int) -> None:
    memory = Memory(LIMIT)
    room = held_in_memory(memory.most, vaults) + WORKING
    with ExitStack() as hanging:
        for _ in range(vaults - 1):
            hanging.enter_context(memory.holding(room))
        last = Holder(memory, room)
        last.has_it()
        last.end()


def test_error_gives_the_memory_back() -> None:
    memory = Memory(LIMIT)
    with pytest.raises(OSError, match="gone"), memory.holding(memory.most):
        raise OSError("gone")
    with memory.holding(memory.most):
        pass
