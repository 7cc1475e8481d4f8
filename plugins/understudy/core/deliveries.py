"""What follows from the outcome of a delivery for the obligation."""

from collections.abc import Callable
from dataclasses import dataclass

from understudy.core.model import Delivery, Outcome, Timestamp
from understudy.core.obligations import ObligationEvent


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to an obligation, why, and when it is looked at next."""

    event: ObligationEvent
    reason: str
    due: Timestamp | None


def step_after(
    one: Delivery,
    *,
    held_otherwise: bool,
    failures: int,
    now: Timestamp,
    retry_at: Callable[[int], Timestamp],
) -> Step:
    """Return the step after a delivery that had so many failures before it.

    `held_otherwise` says that the holder has another content under its UID: no proof would settle a conflict.
    `retry_at` gives the next try by the failures so far.
    """
    match one.outcome:
        case Outcome.DELIVERED:
            return Step(ObligationEvent.ACKNOWLEDGE, "", now)
        case Outcome.DELIVERED_ALTERED:
            return Step(ObligationEvent.ACKNOWLEDGE, f"altered: {one.reason}", now)
        case Outcome.REFUSED:
            return Step(ObligationEvent.REFUSE, one.reason, None)
        case Outcome.CONFLICT if held_otherwise:
            return Step(ObligationEvent.REFUSE, one.reason, None)
        case _:
            return Step(ObligationEvent.FAIL, one.reason, retry_at(failures + 1))
