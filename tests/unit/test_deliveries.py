"""What follows from each outcome of a delivery."""

import pytest
from understudy.core.deliveries import Step, step_after
from understudy.core.model import Delivery, InstanceNumber, Outcome, Timestamp
from understudy.core.obligations import ObligationEvent

NOW = Timestamp(1_000.0)
AGAIN = Step(ObligationEvent.FAIL, "because", Timestamp(1_003.0))
REFUSED = Step(ObligationEvent.REFUSE, "because", None)


CASES = [
    (Outcome.DELIVERED, False, Step(ObligationEvent.ACKNOWLEDGE, "", NOW)),
    (Outcome.DELIVERED_ALTERED, False, Step(ObligationEvent.ACKNOWLEDGE, "altered: because", NOW)),
    (Outcome.CONFLICT, False, AGAIN),
    (Outcome.CONFLICT, True, REFUSED),
    (Outcome.RETRY, True, AGAIN),
    (Outcome.UNKNOWN, True, AGAIN),
    (Outcome.REFUSED, False, REFUSED),
]


@pytest.mark.parametrize(("outcome", "held_otherwise", "step"), CASES)
def test_step_after_an_outcome(outcome: Outcome, held_otherwise: bool, step: Step) -> None:
    one = Delivery(InstanceNumber(1), outcome, "because")
    found = step_after(
        one,
        held_otherwise=held_otherwise,
        failures=2,
        now=NOW,
        retry_at=lambda failures: Timestamp(NOW + failures),
    )
    assert found == step


def test_cases_name_every_outcome() -> None:
    assert {outcome for outcome, _, _ in CASES} == set(Outcome)
