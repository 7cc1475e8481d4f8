"""What a lane asks beside its sending: it counts when it is taken, and only for what it was asked about."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest
from understudy.core.model import Delivery, Instance, InstanceNumber, Proof, Timestamp
from understudy.core.ports import Answers, BusyError, HolderUnavailableError
from understudy.core.rules import Debt, Priority
from understudy.core.views import LaneState
from understudy.engine.beside import Beside, in_turn
from understudy.flow.courier import Lane, LanePolicy
from understudy.ledger import Ledger

from tests.unit.fakes import (
    CRASH_SHARES,
    NOW,
    ROUTE,
    Clock,
    CrashError,
    FakeHolder,
    UnforeseenError,
    crash_after,
    new_instance,
    numbers_of,
    unproven,
)

T = TypeVar("T")

POLICY = LanePolicy(
    batch_instances=2, batch_bytes=10**9, linger=0.0, retry_base=10.0, retry_cap=100.0, proof_interval=5.0
)


class Later(Beside):
    """Makes each call when the test says so, in the order in which they began."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self._calls: list[Callable[[], None]] = []

    def __call__(self, call: Callable[[], T]) -> "Future[T]":
        if self.in_turn:
            return in_turn(call)
        future: Future[T] = Future()

        def answer() -> None:
            made = in_turn(call)
            error = made.exception()
            if error is None:
                future.set_result(made.result())
            else:
                future.set_exception(error)

        self._calls.append(answer)
        return future

    def take_turns(self) -> bool:
        self.answer()
        return super().take_turns()

    def answer(self, *, but: int = 0) -> int:
        """Make every call that is out but the first ones, and return how many were made."""
        calls, self._calls = self._calls[but:], self._calls[:but]
        for call in calls:
            call()
        return len(calls)


class Holder(FakeHolder):
    """A holder during whose first delivery the test does something."""

    meanwhile: Callable[[], object] | None = None

    def deliver(self, instances: Sequence[Instance]) -> Iterator[Delivery]:
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        yield from super().deliver(instances)


class Bench:
    """A lane that asks later, and what it is owed: studies of one batch each."""

    def __init__(self, path: Path) -> None:
        self.ledger = Ledger(path)
        self.ledger.modes.start(NOW)
        self.clock = Clock()
        self.holder = Holder()
        self.is_open = True
        self.begin()

    def begin(self) -> None:
        """Begin as the agent does, first or after its process ended."""
        self.ledger.custody.release(now=self.clock.now())
        self.beside = Later(self.clock)
        self.lane = self.new_lane()

    def new_lane(self) -> Lane:
        return Lane(
            self.holder,
            self.ledger,
            self.clock,
            POLICY,
            is_open=lambda: self.is_open,
            fraction=lambda: 1.0,
            beside=self.beside,
        )

    def owe(self, *studies: int, priority: Priority = Priority.MEDIUM) -> None:
        for study in studies:
            both = [new_instance(2 * study + one, study=f"1.2.{study}") for one in (-1, 0)]
            self.ledger.intake.note(
                [(one, [Debt(ROUTE, priority)], None) for one in both],
                primary=None,
                primary_grace=0,
                vaults=[],
                cursor=1,
                now=Timestamp(NOW - 100 + study),
            )

    def states(self) -> dict[str, str]:
        """Return the states by study."""
        views = self.ledger.obligations.listed(ROUTE, None, 100)
        return {view.study_instance_uid.rpartition(".")[2]: view.state.value for view in views}

    def run(self) -> None:
        """Work for two minutes."""
        for _ in range(120):
            with suppress(UnforeseenError):
                self.lane.step()
            self.beside.answer()
            self.clock.advance(1)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path / "ledger.sqlite")
    yield found
    assert unproven(found.ledger) == []
    assert found.ledger.events.broken() is None
    found.ledger.close()


def test_next_batch_is_sent_while_a_proof_is_awaited(bench: Bench) -> None:
    bench.owe(1, 2, 3)
    assert not bench.lane.step()
    for study in (1, 2):
        bench.beside.answer()
        assert bench.lane.step()
        assert bench.states()[str(study)] == "sent"
    # What is out is the proof of the first study, and the look for the third.
    assert bench.beside.answer(but=1) == 1
    assert bench.lane.step()
    assert bench.states() == {"1": "sent", "2": "sent", "3": "sent"}
    assert not bench.lane.step()
    working = bench.lane.view.state
    bench.run()
    assert set(bench.states().values()) == {"proven"}
    assert (working, bench.lane.view.state) == (LaneState.WORKING, LaneState.IDLE)
    assert len(bench.holder.delivered) == 6


def test_what_was_looked_for_during_the_sending_is_not_asked_for_again(bench: Bench) -> None:
    bench.owe(1, 2)
    bench.holder.kept.add("1.2.3.4.3")
    bench.holder.meanwhile = bench.beside.answer
    bench.lane.step()
    bench.beside.answer()
    bench.lane.step()
    assert bench.holder.asked == [2, 2]
    bench.lane.step()
    assert bench.holder.asked == [2, 2]
    assert bench.holder.delivered == ["1.2.3.4.1", "1.2.3.4.2", "1.2.3.4.4"]
    bench.run()
    assert set(bench.states().values()) == {"proven"}


def test_study_of_higher_priority_that_comes_meanwhile_goes_before_what_was_looked_for(bench: Bench) -> None:
    bench.owe(1, 2)

    def meanwhile() -> None:
        bench.beside.answer()
        bench.owe(3, priority=Priority.HIGH)

    bench.holder.meanwhile = meanwhile
    bench.run()
    assert bench.holder.delivered == [f"1.2.3.4.{name}" for name in (1, 2, 5, 6, 3, 4)]


@pytest.mark.parametrize("error", [HolderUnavailableError(ROUTE, "away", "wait"), UnforeseenError()])
def test_look_ahead_that_fails_loses_nothing(bench: Bench, error: Exception) -> None:
    bench.owe(1, 2)

    class Failing(Holder):
        looks = 0

        def find(self, instances: Sequence[Instance]) -> Mapping[InstanceNumber, Proof]:
            self.looks += 1
            if self.looks == 2:
                raise error
            return super().find(instances)

    bench.holder = holder = Failing()
    bench.lane = bench.new_lane()
    holder.meanwhile = bench.beside.answer
    bench.run()
    assert set(bench.states().values()) == {"proven"}
    assert len(holder.delivered) == 4


def test_study_whose_answer_is_slow_to_come_lets_the_next_go_ahead(bench: Bench) -> None:
    bench.owe(1, 2)
    bench.lane.step()
    bench.clock.advance(9)
    bench.lane.step()
    assert bench.beside.answer(but=2) == 0
    bench.clock.advance(1)
    bench.lane.step()
    # Neither the question for proofs nor the look for the first study is answered.
    assert bench.beside.answer(but=2) == 1
    bench.lane.step()
    assert bench.states() == {"1": "owed", "2": "sent"}
    bench.run()
    assert set(bench.states().values()) == {"proven"}


def test_look_ahead_that_is_old_is_not_believed(bench: Bench) -> None:
    bench.owe(1, 2)
    bench.holder.meanwhile = bench.beside.answer
    bench.lane.step()
    bench.beside.answer()
    bench.lane.step()
    # Meanwhile a modality sent them to the holder itself.
    bench.clock.advance(60)
    bench.holder.kept |= {"1.2.3.4.3", "1.2.3.4.4"}
    bench.run()
    assert bench.holder.delivered == ["1.2.3.4.1", "1.2.3.4.2"]
    assert set(bench.states().values()) == {"proven"}


def sent_and_asked(bench: Bench) -> None:
    """Deliver one study, and let the question for its proof be under way."""
    bench.owe(1)
    for _ in range(2):
        bench.lane.step()
        bench.beside.answer()
    bench.lane.step()
    assert bench.states() == {"1": "sent"}


def test_answer_about_what_is_owed_again_proves_nothing(bench: Bench) -> None:
    sent_and_asked(bench)
    assert bench.beside.answer() == 1
    # Somebody else found out that the holder has lost them, after it was asked.
    bench.ledger.custody.disprove(
        ROUTE, numbers_of(bench.ledger, "1.2.1"), reason="lost", now=bench.clock.now(), due=bench.clock.now()
    )
    bench.lane.step()
    assert bench.states() == {"1": "owed"}


def test_answer_that_is_older_than_the_claim_of_its_instances_proves_nothing(bench: Bench) -> None:
    sent_and_asked(bench)
    # Claimed and sent again while the question is out, whose answer names them.
    bench.ledger.custody.disprove(
        ROUTE, numbers_of(bench.ledger, "1.2.1"), reason="lost", now=bench.clock.now(), due=bench.clock.now()
    )
    bench.holder.kept.clear()
    assert not bench.lane.step()
    assert bench.beside.answer(but=1) == 1
    assert bench.lane.step()
    assert bench.holder.delivered == ["1.2.3.4.1", "1.2.3.4.2"] * 2
    assert bench.beside.answer() == 1
    bench.holder.away = True
    bench.lane.step()
    assert bench.states() == {"1": "sent"}
    bench.holder.away = False
    bench.run()
    assert bench.states() == {"1": "proven"}


def test_answer_that_is_older_than_a_pause_of_the_lane_proves_nothing(bench: Bench) -> None:
    sent_and_asked(bench)
    assert bench.beside.answer() == 1
    # Planned work at the holder begins, and it comes back without what it had.
    bench.is_open = False
    bench.lane.step()
    bench.holder.kept.clear()
    bench.is_open = True
    bench.lane.step()
    assert bench.states() == {"1": "sent"}
    bench.run()
    assert bench.states() == {"1": "proven"}
    assert bench.holder.delivered == ["1.2.3.4.1", "1.2.3.4.2"] * 2


class One(FakeHolder):
    """A holder that takes one association at a time; its first proof takes until it turned somebody away."""

    def __init__(self) -> None:
        super().__init__()
        self._association = threading.Lock()
        self._turned_away = threading.Event()

    @contextmanager
    def _associated(self) -> Iterator[None]:
        if not self._association.acquire(blocking=False):
            self._turned_away.set()
            raise BusyError(self.name, "local limit exceeded", "allow it more")
        try:
            yield
        finally:
            self._association.release()

    def prove(self, instances: Sequence[Instance]) -> Answers:
        if not instances:
            return Answers({})
        with self._associated():
            assert self._turned_away.wait(60)
            return Answers(super().find(instances))

    def find(self, instances: Sequence[Instance]) -> Mapping[InstanceNumber, Proof]:
        with self._associated():
            return super().find(instances)

    def deliver(self, instances: Sequence[Instance]) -> Iterator[Delivery]:
        with self._associated():
            yield from super().deliver(instances)


def test_holder_that_takes_no_further_association_is_asked_in_turn_for_an_hour(bench: Bench) -> None:
    bench.owe(*range(1, 6))
    bench.beside = Beside(bench.clock)  # type: ignore[assignment]
    bench.holder = One()  # type: ignore[assignment]
    bench.lane = bench.new_lane()
    deadline = time.monotonic() + 60
    while set(bench.states().values()) != {"proven"}:
        assert time.monotonic() < deadline, bench.states()
        bench.lane.step()
        assert bench.lane.view.state is not LaneState.WAITING
    assert len(bench.holder.delivered) == 10
    assert bench.beside.in_turn
    bench.clock.advance(3601)
    assert not bench.beside.in_turn


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(at, marks=[pytest.mark.long] if at % (2 * CRASH_SHARES) > 1 else [])
        for at in range(1, 60, 2)
    ],
)
def test_process_that_ends_at_any_write_with_questions_out_is_continued(bench: Bench, statement: int) -> None:
    bench.owe(1, 2, 3)
    with crash_after(bench.ledger, statement, only_writes=True) as seen:
        with suppress(CrashError):
            bench.run()
        assert seen() >= min(statement, 10)
    bench.clock.advance(100)
    bench.begin()
    bench.run()
    bench.clock.advance(100)
    bench.run()
    assert set(bench.states().values()) == {"proven"}
    assert sorted(set(bench.holder.kept)) == [f"1.2.3.4.{name}" for name in range(1, 7)]
