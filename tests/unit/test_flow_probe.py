"""Probe: C-ECHO and C-FIND with their reasons."""

from understudy.core.views import Condition
from understudy.flow.probe import Prober

from tests.unit.fakes import NOW, Clock, FakePeer


def test_probe_of_a_primary_that_answers_makes_it_up() -> None:
    prober = Prober(FakePeer(), Clock(), failures_for_down=3)
    assert prober.health.condition is Condition.UNKNOWN
    health = prober.step()
    assert (health.condition, health.evidence[0].echo, health.evidence[0].find) == (Condition.UP, "ok", "ok")


def test_probe_does_not_query_a_primary_that_gives_no_echo() -> None:
    prober = Prober(FakePeer(silent=True), Clock(), failures_for_down=3)
    probe = prober.step().evidence[0]
    assert (probe.echo, probe.find) == ("no association", "not asked")


def test_probe_of_a_primary_that_echoes_and_answers_no_query_is_a_failure() -> None:
    clock = Clock()
    prober = Prober(FakePeer(finds=False), clock, failures_for_down=3)
    for _ in range(3):
        clock.advance(10)
        prober.step()
    assert (prober.health.condition, prober.health.since) == (Condition.DOWN, NOW + 30)
    assert "0xC001" in prober.health.evidence[0].find
