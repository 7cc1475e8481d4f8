"""The states of an obligation: one table of all transitions."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from understudy.core.model import HolderName, Timestamp


class ObligationState(Enum):
    """The state of an instance on its way to one holder."""

    OWED = "owed"
    IN_FLIGHT = "in_flight"
    SENT = "sent"
    PROVEN = "proven"
    REFUSED = "refused"
    WAIVED = "waived"


class ObligationEvent(Enum):
    """What can happen to an obligation."""

    CLAIM = "claim"
    RELEASE = "release"
    ACKNOWLEDGE = "acknowledge"
    FAIL = "fail"
    REFUSE = "refuse"
    PROVE = "prove"
    DISPROVE = "disprove"
    GIVE_UP = "give_up"
    DIFFER = "differ"
    FIND = "find"
    WAIVE = "waive"
    REPLAY = "replay"
    RETURN = "return"


_OWED, _FLIGHT, _SENT = ObligationState.OWED, ObligationState.IN_FLIGHT, ObligationState.SENT
_PROVEN, _REFUSED, _WAIVED = ObligationState.PROVEN, ObligationState.REFUSED, ObligationState.WAIVED

TRANSITIONS: dict[tuple[ObligationState, ObligationEvent], ObligationState] = {
    (_OWED, ObligationEvent.CLAIM): _FLIGHT,
    # The instance was not sent, and is not the cause of what stopped the lane.
    (_FLIGHT, ObligationEvent.RELEASE): _OWED,
    (_FLIGHT, ObligationEvent.ACKNOWLEDGE): _SENT,
    (_FLIGHT, ObligationEvent.FAIL): _OWED,
    (_FLIGHT, ObligationEvent.REFUSE): _REFUSED,
    (_SENT, ObligationEvent.PROVE): _PROVEN,
    (_SENT, ObligationEvent.DISPROVE): _OWED,
    # The holder acknowledged the instance repeatedly, and never showed it.
    (_SENT, ObligationEvent.GIVE_UP): _REFUSED,
    # A holder that was proven to have an instance can lose it: to a restore from an old backup, or to another
    # content under its SOP Instance UID.
    (_PROVEN, ObligationEvent.DISPROVE): _OWED,
    # The holder gives back another content than it was proven to have: a person decides which one is right.
    (_PROVEN, ObligationEvent.DIFFER): _REFUSED,
    (_OWED, ObligationEvent.FIND): _PROVEN,
    (_OWED, ObligationEvent.WAIVE): _WAIVED,
    (_REFUSED, ObligationEvent.WAIVE): _WAIVED,
    (_REFUSED, ObligationEvent.REPLAY): _OWED,
    # The reason for waiving is void: an earlier content is the current one again, or a deletion was not done.
    (_WAIVED, ObligationEvent.RETURN): _OWED,
}

UNSETTLED = frozenset({_OWED, _FLIGHT, _SENT, _REFUSED})
"""States in which the instance is neither proven at the holder nor waived."""

REACHED = frozenset({_FLIGHT, _SENT, _PROVEN})
"""States in which the holder may have the instance."""


def origins(event: ObligationEvent) -> frozenset[ObligationState]:
    """Return the states in which the event may happen."""
    return frozenset(origin for (origin, known) in TRANSITIONS if known is event)


def target(event: ObligationEvent) -> ObligationState:
    """Return the only state that the event leads to."""
    (state,) = {state for (_, known), state in TRANSITIONS.items() if known is event}
    return state


@dataclass(frozen=True, slots=True)
class Selection:
    """A filter for obligations by holder, instances and study; None matches all."""

    holder: str | None = None
    sop_instance_uids: Sequence[str] | None = None
    study_instance_uid: str | None = None


@dataclass(frozen=True, slots=True)
class Obligation:
    """One obligation with its history; `due` is the time of the next attempt."""

    holder: HolderName
    state: ObligationState
    sop_instance_uid: str
    study_instance_uid: str
    attempts: int
    due: Timestamp
    changed: Timestamp
    reason: str


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Refused obligations that share holder and reason; `since` is when the first of them was refused."""

    holder: HolderName
    reason: str
    instances: int
    studies: int
    since: Timestamp
    latest: Timestamp
    sop_instance_uid: str
    """One of the refused instances."""
