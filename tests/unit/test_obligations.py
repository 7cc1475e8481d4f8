"""The table of obligations: every state with every event."""

from itertools import product

import pytest
from understudy.core.obligations import (
    TRANSITIONS,
    UNSETTLED,
    ObligationEvent,
    ObligationState,
    origins,
    target,
)

ALLOWED = {
    ("owed", "claim"): "in_flight",
    ("owed", "find"): "proven",
    ("owed", "waive"): "waived",
    ("in_flight", "release"): "owed",
    ("in_flight", "acknowledge"): "sent",
    ("in_flight", "fail"): "owed",
    ("in_flight", "refuse"): "refused",
    ("sent", "give_up"): "refused",
    ("sent", "prove"): "proven",
    ("sent", "disprove"): "owed",
    ("proven", "differ"): "refused",
    ("proven", "disprove"): "owed",
    ("refused", "waive"): "waived",
    ("refused", "replay"): "owed",
    ("waived", "return"): "owed",
}
"""The table of the manual, written down a second time."""


@pytest.mark.parametrize(("state", "event"), list(product(ObligationState, ObligationEvent)))
def test_state_and_event_lead_where_the_manual_says(state: ObligationState, event: ObligationEvent) -> None:
    expected = ALLOWED.get((state.value, event.value))
    found = TRANSITIONS.get((state, event))
    assert (None if found is None else found.value) == expected
    assert (state in origins(event)) == (expected is not None)
    if expected is not None:
        assert target(event).value == expected


def test_unsettled_is_all_but_proven_and_waived() -> None:
    assert set(ObligationState) - UNSETTLED == {ObligationState.PROVEN, ObligationState.WAIVED}


def test_proven_is_reached_by_prove_and_find_alone() -> None:
    reaching = {event for (_, event), state in TRANSITIONS.items() if state is ObligationState.PROVEN}
    assert reaching == {ObligationEvent.PROVE, ObligationEvent.FIND}
