"""Parts of the day, over midnight too."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as some
from understudy.core.schedule import (
    MINUTES_OF_A_DAY,
    Hours,
    Limit,
    bytes_per_second,
    in_window,
    longest_closed,
)

MINUTES = some.integers(0, MINUTES_OF_A_DAY - 1)
RANGES = some.tuples(MINUTES, MINUTES).filter(lambda pair: pair[0] != pair[1]).map(lambda pair: Hours(*pair))
NOON, NIGHT = datetime(2026, 3, 2, 12, tzinfo=UTC), datetime(2026, 3, 2, 23, 59, tzinfo=UTC)
EVENING, LATE = Hours.parse("18:00-00:00"), Hours.parse("22:00-06:00")


@given(RANGES)
def test_range_is_read_back_as_written(hours: Hours) -> None:
    assert Hours.parse(str(hours)) == hours


@given(RANGES, MINUTES)
def test_range_and_the_rest_of_the_day_share_no_minute(hours: Hours, minute: int) -> None:
    assert (minute in hours) is not (minute in Hours(hours.end, hours.begin))
    assert hours.begin in hours
    assert hours.end not in hours


@pytest.mark.parametrize(
    "text", ["", "18-7", "18:00", "24:00-06:00", "18:60-06:00", "07:00-07:00", "7:00-8:00"]
)
def test_what_is_no_part_of_a_day_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no part of a day|is empty"):
        Hours.parse(text)


def test_without_windows_all_day_in_window() -> None:
    assert in_window([], NOON)
    assert not in_window([EVENING, LATE], NOON)
    assert in_window([EVENING, LATE], NIGHT)


@pytest.mark.parametrize(
    ("windows", "hours"),
    [
        ([], 0),
        (["22:00-06:00"], 16),
        (["06:00-22:00"], 8),
        (["22:00-06:00", "12:00-13:00"], 9),
        (["00:00-12:00", "12:00-00:00"], 0),
    ],
)
def test_longest_closed_is_the_longest_wait_for_a_window(windows: list[str], hours: int) -> None:
    assert longest_closed([Hours.parse(one) for one in windows]) == hours * 3600


def test_tightest_limit_counts_and_none_is_none() -> None:
    limits = [Limit(EVENING, 2000), Limit(LATE, 1000)]
    assert bytes_per_second(limits, NIGHT) == 1000
    assert bytes_per_second(limits, NOON) is None
