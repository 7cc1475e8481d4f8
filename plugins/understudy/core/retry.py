"""When to try again: capped exponential back-off with jitter, without an end."""


def delay_before(attempt: int, *, base: float, cap: float, fraction: float) -> float:
    """Return the seconds to wait before a further attempt.

    `attempt` counts the failures so far, from 1. `fraction` in [0, 1] is the caller's random number: half of
    the delay is fixed and half is jitter, so that neighbours who failed together do not come back together.
    """
    if attempt < 1:
        raise ValueError(f"attempt counts from 1, got {attempt}")
    full = min(cap, base * 2.0 ** min(attempt - 1, 32))
    return full * (0.5 + 0.5 * fraction)
