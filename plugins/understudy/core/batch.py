"""Which study a lane takes next: one that is whole enough, or has waited for long enough."""

from collections.abc import Iterable

from understudy.core.model import StudyInstanceUid, Timestamp

_MOST_LINGERS = 10
"""A study that goes on growing waits at most for so many times the linger."""


def ripe_study(
    owed: Iterable[tuple[str, int, float]], limit: int, max_bytes: int, now: Timestamp, linger: float
) -> StudyInstanceUid | None:
    """Return the first study of what is owed that is full or has waited for more for long enough.

    `owed` names the study, the bytes and since when it is owed, of each instance, the longest due first. A
    study is full with `limit` instances or `max_bytes`; any other waits until it has not grown for `linger`
    seconds.
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
        # Owed since a time to come: the clock was set back, and nobody knows how long it has waited.
        waited = waited or newest[study] > now + linger
        if full or waited:
            return StudyInstanceUid(study)
    return None
