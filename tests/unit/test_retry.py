"""Back-off: doubles, is capped, never ends, and half of it is jitter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from understudy.core.retry import delay_before, head_start


def test_delay_doubles_from_the_base_to_the_cap() -> None:
    delays = [delay_before(attempt, base=1, cap=60, fraction=1) for attempt in range(1, 9)]
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]


def test_delay_of_the_millionth_attempt_is_the_cap() -> None:
    assert delay_before(10**6, base=1, cap=300, fraction=1) == 300


@given(
    attempt=st.integers(1, 10_000),
    base=st.floats(0.01, 10),
    cap=st.floats(10, 3600),
    fraction=st.floats(0, 1),
)
def test_delay_is_between_half_and_whole(attempt: int, base: float, cap: float, fraction: float) -> None:
    whole = delay_before(attempt, base=base, cap=cap, fraction=1)
    assert whole / 2 <= delay_before(attempt, base=base, cap=cap, fraction=fraction) <= whole <= cap


@pytest.mark.parametrize("attempt", [0, -1])
def test_delay_before_the_first_failure_is_refused(attempt: int) -> None:
    with pytest.raises(ValueError, match="counts from 1"):
        delay_before(attempt, base=1, cap=60, fraction=0)


def test_higher_level_comes_first_and_a_day_of_waiting_outweighs_it() -> None:
    night, day = 12 * 3600.0, 25 * 3600.0
    assert night - head_start(1) < 0.0 - head_start(0) < day - head_start(1)
    assert head_start(2) > head_start(1) > head_start(0) == 0
