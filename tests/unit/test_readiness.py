"""Readiness: what monitors are told, and the colour of the banner."""

import pytest
from understudy.core.modes import Mode
from understudy.core.readiness import by_urgency, tone, unready
from understudy.core.views import Alarm, Tone, Urgency

STANDBY, ACTIVE = Mode.STANDBY, Mode.ACTIVE
FULL, MODE = "new images are refused here: a disk is full", "the mode is standby, not active"
NEVER = "no comparison with the primary has been completed, so nobody knows which images are missing here"
LATE = "the mirror lags 901 s, more than 900 s"


@pytest.mark.parametrize(
    ("loss", "refused", "role", "max_lag", "reasons"),
    [
        (0.0, "", None, None, []),
        (None, "", None, None, []),
        (901.0, "", STANDBY, None, []),
        (900.0, "", STANDBY, 900.0, []),
        (901.0, "", None, 900.0, [LATE]),
        (None, "", None, 900.0, [NEVER]),
        (None, "", None, 1e9, [NEVER]),
        (0.0, "", ACTIVE, None, [MODE]),
        (0.0, "a disk is full", None, None, [FULL]),
        (0.0, "a disk is full", STANDBY, 900.0, [FULL]),
        (None, "a disk is full", ACTIVE, 900.0, [FULL, MODE, NEVER]),
    ],
)
def test_reasons_against_health(
    loss: float | None, refused: str, role: Mode | None, max_lag: float | None, reasons: list[str]
) -> None:
    found = unready(mode=STANDBY, loss_seconds=loss, intake_refused=refused, role=role, max_lag=max_lag)
    assert found == reasons


def test_storage_that_gives_no_file_is_a_reason_of_its_own() -> None:
    found = unready(mode=STANDBY, loss_seconds=0.0, intake_refused="", storage_unknown_since="10:00")
    assert found == ["the volume storage has not answered since 10:00: no image can be stored or shown here"]


def alarm(urgency: Urgency, what: str = "x") -> Alarm:
    return Alarm("2026-01-01T00:00:00Z", what, "do", urgency)


@pytest.mark.parametrize(
    ("urgencies", "expected"),
    [
        ([], Tone.GOOD),
        ([Urgency.LATER], Tone.GOOD),
        ([Urgency.LATER, Urgency.SOON], Tone.WARN),
        ([Urgency.SOON, Urgency.NOW, Urgency.LATER], Tone.BAD),
    ],
)
def test_banner_has_the_colour_of_the_most_urgent_alarm(urgencies: list[Urgency], expected: Tone) -> None:
    assert tone([alarm(one) for one in urgencies]) is expected


def test_most_urgent_alarm_stands_first_and_others_keep_their_order() -> None:
    soon, later, now = alarm(Urgency.SOON, "a"), alarm(Urgency.LATER, "b"), alarm(Urgency.NOW, "c")
    assert by_urgency([later, soon, now, alarm(Urgency.SOON, "d")]) == [
        now,
        soon,
        alarm(Urgency.SOON, "d"),
        later,
    ]
