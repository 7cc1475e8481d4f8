"""Retry and priority: back-off without an end, and priority without starvation."""

HEAD_START = 86_400.0
"""Seconds of waiting that one level of priority is worth."""


def head_start(level: int) -> float:
    """Return the number of seconds by which an instance is due before the time when it became owed.

    `level` counts from 0, the lowest. A higher level is sent first, but delays a lower one by at most a day a
    level, because instances are sent in the order of their due times. A failed instance is due at its next
    attempt, without a head start, so instances that were not tried yet go before it for up to that time.
    """
    return level * HEAD_START


def delay_before(attempt: int, *, base: float, cap: float, fraction: float) -> float:
    """Return the seconds to wait before a further attempt.

    `attempt` counts the failures so far, from 1. `fraction` in [0, 1] is the caller's random number. Half of
    the delay is fixed and half is jitter, so that lanes that failed together do not retry together.
    """
    if attempt < 1:
        raise ValueError(f"attempt counts from 1, got {attempt}")
    full = min(cap, base * 2.0 ** min(attempt - 1, 32))
    return full * (0.5 + 0.5 * fraction)
