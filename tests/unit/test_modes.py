"""The mode table: every mode with every event."""

from itertools import product

import pytest
from understudy.core.modes import (
    TRANSITIONS,
    Mode,
    ModeEvent,
    WrongModeError,
    after,
    delivers_to_primary,
    next_epoch,
)

ALLOWED = {
    ("standby", "promote"): "active",
    ("active", "failback"): "returning",
    ("returning", "settle"): "standby",
    ("returning", "interrupt"): "active",
    ("standby", "hold"): "maintenance",
    ("maintenance", "release"): "standby",
}
"""The table of the manual, written down a second time."""


@pytest.mark.parametrize(("mode", "event"), list(product(Mode, ModeEvent)))
def test_mode_and_event_lead_where_the_manual_says_or_raise(mode: Mode, event: ModeEvent) -> None:
    expected = ALLOWED.get((mode.value, event.value))
    if expected is not None:
        assert after(mode, event).value == expected
        return
    with pytest.raises(WrongModeError) as caught:
        after(mode, event)
    assert (caught.value.mode, caught.value.event) == (mode, event)
    possible = sorted(origin for origin, known in ALLOWED if known == event.value)
    assert caught.value.hint == f"{event.value} is possible in mode {' or '.join(possible)}"


def test_modes_every_one_can_be_left_and_reached() -> None:
    assert {origin for origin, _ in TRANSITIONS} == set(Mode)
    assert set(TRANSITIONS.values()) == set(Mode)


@pytest.mark.parametrize("event", list(ModeEvent))
def test_epoch_grows_with_promotion_alone(event: ModeEvent) -> None:
    assert next_epoch(7, event) == (8 if event is ModeEvent.PROMOTE else 7)


def test_lane_to_primary_is_still_while_active_and_during_planned_work() -> None:
    assert {mode for mode in Mode if delivers_to_primary(mode)} == {Mode.STANDBY, Mode.RETURNING}
