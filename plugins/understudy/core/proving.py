"""Proving: what follows when a holder does not show an instance that it acknowledged."""

from enum import Enum

MOST_LOSSES = 3
"""Acknowledgements of one instance that come to nothing before a person has to look."""

_GROWTH = 4.0
"""By how much longer each further acknowledgement is trusted: after an outage an index can be far behind."""

_SHARE = 0.1
"""Of the time waited so far, that passes until the next question."""

_LONGEST_PAUSE = 900.0
"""Seconds between two questions at most: after a long outage a person waits for the answer, to settle."""


class Absence(Enum):
    """What an instance that is not shown is taken for."""

    LATE = "late"
    """It may come yet: asked for again."""
    LOST = "lost"
    """It is sent again."""
    UNPROVABLE = "unprovable"
    """One more copy would not be shown either: a person has to act."""


def judge_absence(waited: float, losses: int, *, patience: float) -> Absence:
    """Return what an instance is that was acknowledged `waited` seconds ago and is not shown.

    `losses` counts the acknowledgements before this one that came to nothing, `patience` is how many seconds
    the first one is trusted. A holder that keeps instances under other UIDs would else get copies for ever.
    """
    if waited <= patience * _GROWTH**losses:
        return Absence.LATE
    return judge_denial(losses)


def judge_denial(losses: int) -> Absence:
    """Return what an instance is that the holder says it lacks; `losses` as for `judge_absence`."""
    return Absence.LOST if losses + 1 < MOST_LOSSES else Absence.UNPROVABLE


def pause_before_question(waited: float, *, interval: float) -> float:
    """Return the seconds until it is asked for again: at least `interval`, at most a quarter of an hour."""
    return max(interval, min(waited * _SHARE, _LONGEST_PAUSE))


def pause_before_look(waited: float, *, interval: float) -> float:
    """Return the seconds until a report of storage commitment is looked for again; at least `interval`.

    Orthanc writes an error into its log for each report that it does not have.
    """
    return max(interval, waited / 2)
