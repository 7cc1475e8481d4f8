"""Chooses the study that a lane sends next: one that is full, or that has waited long enough."""

from collections.abc import Iterable

from understudy.core.model import StudyInstanceUid, Timestamp

_MOST_LINGERS = 10
"""A study that keeps growing waits at most this many times the linger."""


def ripe_study(
    owed: Iterable[tuple[str, int, float]], limit: int, max_bytes: int, now: Timestamp, linger: float
) -> StudyInstanceUid | None:
    """Return the first owed study that is full or has waited long enough for more instances, or None.

    `owed` has for each instance its study, its bytes and the time since when it is owed, the longest due
    first. A study is full with `limit` instances or `max_bytes`. Any other study waits until it has not grown
    for `linger` seconds.
    """
    total: dict[str, int] = {}
    count: dict[str, int] = {}
    newest: dict[str, float] = {}
    oldest: dict[str, float] = {}
    for study, size, since in owed:
        total[study] = total.get(study, 0) + size
        count[study] = count.get(study, 0) + 1
        newest[study] = max(newest.get(study, since), since)
        oldest[study] = min(oldest.get(study, since), since)
    for study in total:
        full = total[study] >= max_bytes or count[study] >= limit
        waited = newest[study] <= now - linger or oldest[study] <= now - _MOST_LINGERS * linger
        # A start in the future means that the clock was set back: the waiting time is not known.
        waited = waited or newest[study] > now + linger
        if full or waited:
            return StudyInstanceUid(study)
    return None
