"""When to try again, and what comes first: back-off without an end, and priority without starvation."""

HEAD_START = 86_400.0
"""Seconds of waiting that one level of priority is worth."""


def head_start(level: int) -> float:
    """Return by how many seconds the turn of an instance comes before the moment at which it is owed.

    `level` counts from 0, the lowest. Whoever waits grows older, so a higher level is served first and delays
    a lower one by a day a level at most. What failed is due when it is tried again and has no head start: it
    comes behind what was not tried yet, for as long.
    """
    return level * HEAD_START


def delay_before(attempt: int, *, base: float, cap: float, fraction: float) -> float:
    """Return the seconds to wait before a further attempt.

    `attempt` counts the failures so far, from 1. `fraction` in [0, 1] is the caller's random number: half of
    the delay is fixed and half is jitter, so that neighbours who failed together do not come back together.
    """
    if attempt < 1:
        raise ValueError(f"attempt counts from 1, got {attempt}")
    full = min(cap, base * 2.0 ** min(attempt - 1, 32))
    return full * (0.5 + 0.5 * fraction)
