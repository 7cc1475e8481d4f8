"""Proving: decides what to do if a holder acknowledged an instance and then does not show it."""

from enum import Enum

MOST_LOSSES = 3
"""After this number of acknowledgements of one instance without a proof, a person has to act."""

_GROWTH = 4.0
"""Each further acknowledgement is trusted longer by this factor: after an outage an index can lag far."""

_SHARE = 0.1
"""The pause before the next query, as a fraction of the time waited so far."""

_LONGEST_PAUSE = 900.0
"""Most seconds between two queries: after a long outage a person waits for the proof, to settle."""


class Absence(Enum):
    """How an acknowledged instance that the holder does not show is treated."""

    LATE = "late"
    """It may still appear, so the agent asks for it again."""
    LOST = "lost"
    """The agent sends it again."""
    UNPROVABLE = "unprovable"
    """The holder would not show another copy either, so a person has to act."""


def judge_absence(waited: float, losses: int, *, patience: float) -> Absence:
    """Return the verdict on an instance that was acknowledged `waited` seconds ago and is not shown.

    `losses` is the number of earlier acknowledgements without a proof. `patience` is the number of seconds
    for which the first one is trusted. Without this limit, a holder that stores instances under other UIDs
    would get copies for ever.
    """
    if waited <= patience * _GROWTH**losses:
        return Absence.LATE
    return judge_denial(losses)


def judge_denial(losses: int) -> Absence:
    """Return the verdict on an instance that the holder says it lacks; `losses` as for `judge_absence`."""
    return Absence.LOST if losses + 1 < MOST_LOSSES else Absence.UNPROVABLE


def pause_before_question(waited: float, *, interval: float) -> float:
    """Return the seconds until the agent asks again: at least `interval`, otherwise at most 15 minutes."""
    return max(interval, min(waited * _SHARE, _LONGEST_PAUSE))


def pause_before_look(waited: float, *, interval: float) -> float:
    """Return the seconds until the agent looks for a storage commitment report again, at least `interval`.

    Orthanc writes an error into its log for each report that it does not have.
    """
    return max(interval, waited / 2)
