"""Which study a lane takes next."""

import pytest
from understudy.core.batch import ripe_study
from understudy.core.model import Timestamp

NOW = Timestamp(1_000.0)
LINGER = 10.0


def taken(*owed: tuple[str, int, float]) -> str | None:
    """Return the study that is taken of these instances: study, bytes and age in seconds."""
    rows = [(study, size, NOW - age) for study, size, age in owed]
    return ripe_study(rows, limit=3, max_bytes=100, now=NOW, linger=LINGER)


@pytest.mark.parametrize(
    ("owed", "study"),
    [
        ((), None),
        ([("1.2", 1, 9)], None),
        ([("1.2", 1, 10)], "1.2"),
        ([("1.2", 1, 50), ("1.2", 1, 9)], None),
        ([("1.2", 1, 100), ("1.2", 1, 0)], "1.2"),
        ([("1.2", 1, 0)] * 3, "1.2"),
        ([("1.2", 60, 0), ("1.2", 40, 0)], "1.2"),
        ([("1.2", 1, -11)], "1.2"),
        ([("1.2", 1, 0), ("1.3", 1, 20), ("1.4", 1, 30)], "1.3"),
    ],
    ids=[
        "nothing is owed",
        "it may still grow",
        "it has not grown for the linger",
        "it has just grown",
        "its oldest has waited ten times the linger",
        "as many as one batch takes",
        "as many bytes as one batch takes",
        "owed in the future, as the clock was set back",
        "the first that is ripe",
    ],
)
def test_ripe_study(owed: list[tuple[str, int, float]], study: str | None) -> None:
    assert taken(*owed) == study
