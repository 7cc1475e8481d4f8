"""Health with hysteresis: one lost probe moves nothing, one good probe does not call back."""

import pytest
from understudy.core.health import KEPT, Health, after_probe
from understudy.core.model import Timestamp
from understudy.core.views import Condition, Probe, Sign

SIGNS = {".": Sign.ANSWERS, "w": Sign.WORKS, "r": Sign.REFUSES, "b": Sign.BUSY, "s": Sign.SILENT}


def health(probes: str, start: Condition = Condition.UNKNOWN) -> Health:
    """Return the health after probes, one a second, by the letters of SIGNS; three are down."""
    found = Health(start, Timestamp(0.0))
    for second, letter in enumerate(probes, 1):
        probe = Probe(str(second), "", "", SIGNS[letter])
        found = after_probe(found, probe, at=Timestamp(second), failures_for_down=3)
    return found


@pytest.mark.parametrize(
    ("probes", "condition", "since"),
    [
        ("", Condition.UNKNOWN, 0),
        (".", Condition.UP, 1),
        ("w", Condition.UP, 1),
        ("s", Condition.UNKNOWN, 0),
        ("sss", Condition.DOWN, 3),
        (".ss", Condition.UP, 1),
        (".ss.", Condition.UP, 1),
        (".ss.ss", Condition.UP, 1),
        (".sss", Condition.DOWN, 4),
        (".sss.", Condition.DOWN, 4),
        (".sss.s.", Condition.DOWN, 4),
        (".sss..", Condition.UP, 6),
        (".sssss", Condition.DOWN, 4),
        # It refuses our queries, or us: it lives.
        ("rr", Condition.UNKNOWN, 0),
        ("rrr", Condition.REFUSES, 3),
        (".rrr", Condition.REFUSES, 4),
        (".rrr.", Condition.REFUSES, 4),
        (".rrr..", Condition.UP, 6),
        # It has no association for us.
        ("bbb", Condition.BUSY, 3),
        (".bb.", Condition.UP, 1),
        (".bbb", Condition.BUSY, 4),
        (".bbbr", Condition.BUSY, 4),
        (".bbbrr", Condition.REFUSES, 6),
        # Our own work is answered while the probe has no turn.
        (".wwwwwwwww", Condition.UP, 1),
        (".sswss", Condition.UP, 1),
        # Some of both: whatever answers is not down, and it is not up.
        (".srs", Condition.REFUSES, 4),
        (".sbsbsb", Condition.BUSY, 4),
        ("srs", Condition.REFUSES, 3),
        # Down only by silence, and back from it by anything else that is steady.
        (".bbbsss", Condition.DOWN, 7),
        (".rrrsss", Condition.DOWN, 7),
        (".sssb", Condition.DOWN, 4),
        (".sssbb", Condition.BUSY, 6),
        (".sssrr", Condition.REFUSES, 6),
        (".ssswb", Condition.DOWN, 4),
    ],
)
def test_health_after_probes(probes: str, condition: Condition, since: float) -> None:
    found = health(probes)
    assert (found.condition, found.since) == (condition, since)


@pytest.mark.parametrize(("probes", "seen"), [("", None), ("ss", None), (".ss", 1), (".brs", 3), ("ssw", 3)])
def test_health_knows_when_the_primary_was_last_seen(probes: str, seen: float | None) -> None:
    assert health(probes).seen == seen


@pytest.mark.parametrize("failures", [1, 2, KEPT + 5])
def test_health_is_down_after_as_many_failures_as_wanted_and_not_before(failures: int) -> None:
    found = Health(Condition.UP, Timestamp(0.0))
    for second in range(1, failures + 1):
        assert found.condition is Condition.UP
        probe = Probe(str(second), "", "", Sign.SILENT)
        found = after_probe(found, probe, at=Timestamp(second), failures_for_down=failures)
    assert found.condition is Condition.DOWN


def test_health_keeps_the_newest_probes_first() -> None:
    found = health("." * (KEPT + 5))
    assert [probe.at for probe in found.evidence] == [str(at) for at in range(KEPT + 5, 5, -1)]
