"""Whether a time has come is asked in one way, which no step of the machine's clock deceives."""

import re
import threading
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from understudy.core import due
from understudy.core.model import Timestamp
from understudy.core.pace import FLOOR, Arrival

from tests.stack import REPOSITORY
from tests.unit.fakes import NOW, Clock

DAY = 86_400.0
MONTH = 30 * DAY


@pytest.mark.parametrize("step", [-MONTH, MONTH, -10.0, 10.0])
def test_age_leaves_out_what_the_clock_was_set_by(step: float) -> None:
    clock = Clock()
    moment = clock.now()
    clock.advance(100)
    clock.set_by(step)
    # After a small step back, what was written before may be taken for younger than it is.
    assert clock.age(moment) in (100.0, 100.0 + min(step, 0.0))
    assert not clock.is_due(moment, 101)
    assert not clock.has_waited(moment, 100)
    clock.advance(100)
    assert clock.is_due(moment, 190)
    assert clock.has_waited(moment, 189)


@given(steps=st.lists(st.tuples(st.floats(-2 * MONTH, 2 * MONTH), st.floats(3, DAY)), max_size=6))
def test_nothing_is_taken_for_older_than_this_process_saw_it_grow(
    steps: list[tuple[float, float]],
) -> None:
    clock = Clock()
    written = [(clock.now(), 0.0)]
    passed = 0.0
    for step, seconds in steps:
        clock.set_by(step)
        clock.advance(seconds)
        passed += seconds
        written.append((clock.now(), passed))
    # A clock that went back shows a moment twice: which of both was meant nobody knows.
    if all(later > earlier for (earlier, _), (later, _) in pairwise(written)):
        # What was written before a step back that time made good since is taken for younger.
        back = sum(-step for step, _ in steps if step < 0)
        for moment, at in written:
            age = clock.age(moment)
            assert age is not None
            assert passed - at - back - 10.0 <= age <= passed - at + 10.0
    assert all(age is None or age >= 0 for age in (clock.age(moment) for moment, _ in written))


@pytest.mark.parametrize("step", [-MONTH / 7, MONTH / 7, -12345.678, 12345.678])
def test_moment_of_the_step_itself_has_no_age(step: float) -> None:
    clock = Clock()
    clock.advance(DAY / 3)
    moment = clock.now()
    clock.set_by(step)
    assert clock.age(moment) == pytest.approx(0.0, abs=1e-3)
    assert not clock.has_waited(moment, 1.0)


@pytest.mark.parametrize("step", [-MONTH, MONTH])
def test_earliest_moment_leaves_out_a_step_back_and_no_step_forward(step: float) -> None:
    """A machine that stood still shows a step forward, and the time has passed for all others."""
    clock = Clock()
    written = clock.now()
    clock.set_by(step)
    clock.advance(100)
    assert clock.earliest(written) == NOW + min(step, 0.0)
    assert clock.earliest(clock.now()) == clock.now()
    assert Clock().earliest(Timestamp(NOW + 60)) is None, "an earlier process wrote it"


def test_step_that_was_taken_back_is_none() -> None:
    clock = Clock()
    moment = clock.now()
    clock.set_by(MONTH)
    clock.advance(60)
    between = clock.now()
    clock.advance(60)
    clock.set_by(-MONTH)
    clock.advance(60)
    assert (clock.age(moment), clock.age(between)) == (180, 120)


def test_moment_that_lies_ahead_of_a_new_process_is_due_and_its_patience_counts_from_the_start() -> None:
    clock = Clock()
    ahead = Timestamp(NOW + MONTH)
    assert clock.age(ahead) is None
    assert clock.is_due(ahead, 7 * DAY)
    assert not clock.has_waited(ahead, 60)
    clock.advance(61)
    assert clock.has_waited(ahead, 60)


def test_clock_that_was_wrong_when_the_process_began_says_nothing_of_what_was_written_before() -> None:
    """A machine without a battery begins in 1970, and its time service sets the clock."""
    clock = Clock(0.0)
    clock.set_by(NOW)
    assert clock.age(Timestamp(NOW - DAY)) == DAY


def test_clock_that_is_slewed_and_a_process_that_stood_still_make_no_step() -> None:
    shown, passed = [float(NOW)], [0.0]
    stop = [False]

    def machine() -> float:
        if stop[0]:
            # SIGSTOP after the machine's clock was read.
            stop[0], before = False, shown[0]
            shown[0] += 3600
            passed[0] += 3600
            return before
        return shown[0]

    clock = due.Clock(machine, lambda: passed[0], threading.Lock())
    moment = clock.now()
    for _ in range(10):
        shown[0] += 61
        passed[0] += 60
        clock.now()
    assert clock.age(moment) == 610
    stop[0] = True
    assert clock.age(moment) == 4210


def test_no_moment_of_the_machines_clock_is_subtracted_from_another() -> None:
    """Who asks how long ago something was asks `Clock`; a difference of two moments hides a step."""
    folder = REPOSITORY / "plugins" / "understudy"
    subtracted = re.compile(r"clock\.now\(\)\s*-|-\s*(self\.)?_?clock\.now\(\)")
    assert subtracted.search("quiet = self._clock.now() - last"), "the test itself sees one"
    found = [
        f"{path.relative_to(folder)}: {line.strip()}"
        for path in folder.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if subtracted.search(line)
    ]
    # What was received lately is asked of the ledger once, when the agent starts.
    assert found == ["flow/mirror.py: since = Timestamp(self._clock.now() - CHANGED_SECONDS)"]


_COMPARED = {
    # The last store and the change of mode: a moment that lies ahead is told apart.
    "flow/failback.py": 2,
    # The end of a lock lies ahead, as it should.
    "holders/immutability.py": 2,
    # By the monotonic clock.
    "engine/memory.py": 2,
    "web/boundary.py": 1,
    "engine/operations.py": 1,
    # The mirror tells the horizon as the clock is set now.
    "flow/promote.py": 1,
    # Whole days, of which an image came on one.
    "flow/disk.py": 1,
    # The alarm on a clock that was set back.
    "flow/status.py": 1,
    # The lane hands over a moment, and asks the clock for its age.
    "flow/courier.py": 1,
    # The edge signs by the machine's clock.
    "web/identity.py": 1,
}


def test_nothing_else_is_compared_with_the_present() -> None:
    """Whoever compares a moment with `now` says here why no step of the clock deceives it."""
    folder = REPOSITORY / "plugins" / "understudy"
    now = r"(self\.)?(_?clock\.now\(\)|\bnow\b(?!\())"
    compared = re.compile(rf"{now} (-|[<>]=?) |(-|[<>]=?) {now}")
    assert compared.search("if now - since >= _PATIENCE:"), "the test itself sees one"
    found = Counter(
        path.relative_to(folder).as_posix()
        for part in ("flow", "holders", "web", "engine", "wiring")
        for path in (folder / part).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if compared.search(line) and "CHANGED_SECONDS" not in line and "->" not in line
    )
    assert found == _COMPARED


def test_progress_allows_any_length_and_ends_with_silence_or_a_drip() -> None:
    steady = Arrival(30, 0.0)
    for second in range(1, 3600):
        steady.took(2 * FLOOR, second)
        assert steady.left(second) == 30
    assert steady.left(3600 + 28) > 0 >= steady.left(3600 + 29)
    drip = Arrival(30, 0.0)
    for second in range(1, 31):
        drip.took(1, second)
    assert drip.left(31) < 0
