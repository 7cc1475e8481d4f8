"""Health with hysteresis: one lost probe moves nothing, one good probe does not call back."""

import pytest
from understudy.core.health import KEPT, Health, after_probe
from understudy.core.model import Timestamp
from understudy.core.views import Condition, Probe


def health(probes: str, start: Condition = Condition.UNKNOWN) -> Health:
    """Return the health after probes, one a second: `.` good, `e` no echo, `f` no find; three are down."""
    found = Health(start, Timestamp(0.0))
    for second, sign in enumerate(probes, 1):
        probe = Probe(str(second), "timeout" if sign == "e" else "ok", "refused" if sign == "f" else "ok")
        found = after_probe(found, probe, at=Timestamp(second), failures_for_down=3)
    return found


@pytest.mark.parametrize(
    ("probes", "condition", "since"),
    [
        ("", Condition.UNKNOWN, 0),
        (".", Condition.UP, 1),
        ("e", Condition.UNKNOWN, 0),
        ("eee", Condition.DOWN, 3),
        ("efe", Condition.DOWN, 3),
        ("fff", Condition.DOWN, 3),
        (".ee", Condition.UP, 1),
        (".ee.", Condition.UP, 1),
        (".ee.ee", Condition.UP, 1),
        (".eee", Condition.DOWN, 4),
        (".eee.", Condition.DOWN, 4),
        (".eee.e.", Condition.DOWN, 4),
        (".eee..", Condition.UP, 6),
        (".eeeee", Condition.DOWN, 4),
    ],
)
def test_health_after_probes(probes: str, condition: Condition, since: float) -> None:
    found = health(probes)
    assert (found.condition, found.since) == (condition, since)


def test_health_keeps_the_newest_probes_first() -> None:
    found = health("." * (KEPT + 5))
    assert [probe.at for probe in found.evidence] == [str(at) for at in range(KEPT + 5, 5, -1)]
