"""Decides what happens to an obligation after a delivery."""

from collections.abc import Callable
from dataclasses import dataclass

from understudy.core.model import Delivery, Outcome, Timestamp
from understudy.core.obligations import ObligationEvent


@dataclass(frozen=True, slots=True)
class Step:
    """The event for an obligation, its reason, and the time when the obligation is due next, if ever."""

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
    """Return the step after a delivery; `failures` is the number of failures before it.

    `held_otherwise` says that the holder has another content under the same UID, so that no proof can resolve
    a conflict. `retry_at` returns the time of the next attempt for a number of failures.
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
