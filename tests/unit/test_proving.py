"""What an instance is taken for that was acknowledged and is not shown."""

import pytest
from understudy.core.proving import (
    MOST_LOSSES,
    Absence,
    judge_absence,
    judge_denial,
    pause_before_look,
    pause_before_question,
)


@pytest.mark.parametrize(("losses", "trusted"), [(0, 60.0), (1, 240.0), (2, 960.0)])
def test_absence_is_late_for_longer_with_each_loss_before(losses: int, trusted: float) -> None:
    assert judge_absence(trusted, losses, patience=60.0) is Absence.LATE
    assert judge_absence(trusted + 0.1, losses, patience=60.0) is not Absence.LATE


def test_absence_is_lost_until_as_many_copies_were_sent_as_may_be() -> None:
    judged = [judge_absence(1e9, losses, patience=60.0) for losses in range(MOST_LOSSES + 2)]
    assert judged == [Absence.LOST] * (MOST_LOSSES - 1) + [Absence.UNPROVABLE] * 3


def test_denial_is_a_loss_until_as_many_copies_were_sent_as_may_be() -> None:
    judged = [judge_denial(losses) for losses in range(MOST_LOSSES)]
    assert judged == [Absence.LOST] * (MOST_LOSSES - 1) + [Absence.UNPROVABLE]


def test_pause_before_a_question_grows_with_the_time_waited() -> None:
    assert [pause_before_question(waited, interval=1.0) for waited in (0.0, 10.0, 600.0)] == [1.0, 1.0, 60.0]


def test_question_is_asked_again_within_a_quarter_of_an_hour_after_an_outage_of_weeks() -> None:
    assert pause_before_question(20 * 86400.0, interval=1.0) == 900.0
    assert pause_before_question(20 * 86400.0, interval=3600.0) == 3600.0


def test_report_is_looked_for_a_dozen_times_in_five_minutes() -> None:
    looks, at = 0, 0.0
    while at < 300.0:
        at += pause_before_look(at, interval=1.0)
        looks += 1
    assert looks == 15
