"""Health with hysteresis: one lost probe moves nothing, one good probe does not call back."""

import pytest
from understudy.core.health import KEPT, Health, after_probe
from understudy.core.model import Timestamp
from understudy.core.views import PrimaryCondition, Probe, Sign

SIGNS = {".": Sign.ANSWERS, "w": Sign.WORKS, "r": Sign.REFUSES, "b": Sign.BUSY, "s": Sign.SILENT}


def health(probes: str, start: PrimaryCondition = PrimaryCondition.UNKNOWN) -> Health:
    """Return the health after probes, one a second, by the letters of SIGNS; three are down."""
    found = Health(start, Timestamp(0.0))
    for second, letter in enumerate(probes, 1):
        probe = Probe(str(second), "", "", SIGNS[letter])
        found = after_probe(found, probe, at=Timestamp(second), failures_for_down=3)
    return found


@pytest.mark.parametrize(
    ("probes", "condition", "since"),
    [
        ("", PrimaryCondition.UNKNOWN, 0),
        (".", PrimaryCondition.UP, 1),
        ("w", PrimaryCondition.UP, 1),
        ("s", PrimaryCondition.UNKNOWN, 0),
        ("sss", PrimaryCondition.DOWN, 3),
        (".ss", PrimaryCondition.UP, 1),
        (".ss.", PrimaryCondition.UP, 1),
        (".ss.ss", PrimaryCondition.UP, 1),
        (".sss", PrimaryCondition.DOWN, 4),
        (".sss.", PrimaryCondition.DOWN, 4),
        (".sss.s.", PrimaryCondition.DOWN, 4),
        (".sss..", PrimaryCondition.UP, 6),
        (".sssss", PrimaryCondition.DOWN, 4),
        # It refuses our queries, or us: it lives.
        ("rr", PrimaryCondition.UNKNOWN, 0),
        ("rrr", PrimaryCondition.REFUSES, 3),
        (".rrr", PrimaryCondition.REFUSES, 4),
        (".rrr.", PrimaryCondition.REFUSES, 4),
        (".rrr..", PrimaryCondition.UP, 6),
        # It has no association for us.
        ("bbb", PrimaryCondition.BUSY, 3),
        (".bb.", PrimaryCondition.UP, 1),
        (".bbb", PrimaryCondition.BUSY, 4),
        (".bbbr", PrimaryCondition.BUSY, 4),
        (".bbbrr", PrimaryCondition.REFUSES, 6),
        # Our own work is answered while the probe has no turn.
        (".wwwwwwwww", PrimaryCondition.UP, 1),
        (".sswss", PrimaryCondition.UP, 1),
        # Some of both: whatever answers is not down, and it is not up.
        (".srs", PrimaryCondition.REFUSES, 4),
        (".sbsbsb", PrimaryCondition.BUSY, 4),
        ("srs", PrimaryCondition.REFUSES, 3),
        # Down only by silence, and back from it by anything else that is steady.
        (".bbbsss", PrimaryCondition.DOWN, 7),
        (".rrrsss", PrimaryCondition.DOWN, 7),
        (".sssb", PrimaryCondition.DOWN, 4),
        (".sssbb", PrimaryCondition.BUSY, 6),
        (".sssrr", PrimaryCondition.REFUSES, 6),
        (".ssswb", PrimaryCondition.DOWN, 4),
    ],
)
def test_health_after_probes(probes: str, condition: PrimaryCondition, since: float) -> None:
    found = health(probes)
    assert (found.condition, found.since) == (condition, since)


@pytest.mark.parametrize(("probes", "seen"), [("", None), ("ss", None), (".ss", 1), (".brs", 3), ("ssw", 3)])
def test_health_knows_when_the_primary_was_last_seen(probes: str, seen: float | None) -> None:
    assert health(probes).seen == seen


@pytest.mark.parametrize("failures", [1, 2, KEPT + 5])
def test_health_is_down_after_as_many_failures_as_wanted_and_not_before(failures: int) -> None:
    found = Health(PrimaryCondition.UP, Timestamp(0.0))
    for second in range(1, failures + 1):
        assert found.condition is PrimaryCondition.UP
        probe = Probe(str(second), "", "", Sign.SILENT)
        found = after_probe(found, probe, at=Timestamp(second), failures_for_down=failures)
    assert found.condition is PrimaryCondition.DOWN


def test_health_keeps_the_newest_probes_first() -> None:
    found = health("." * (KEPT + 5))
    assert [probe.at for probe in found.evidence] == [str(at) for at in range(KEPT + 5, 5, -1)]
