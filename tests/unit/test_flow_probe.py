"""Probe: C-ECHO and C-FIND with their reasons, and what they show."""

from dataclasses import dataclass

import pytest
from understudy.core.inventory import StudyList
from understudy.core.model import StudyInstanceUid
from understudy.core.ports import BusyError, HolderUnavailableError, RejectedError, UnansweredError
from understudy.core.views import PrimaryCondition, Sign
from understudy.flow.probe import Prober

from tests.unit.fakes import NOW, Clock, FakePeer


@dataclass
class Answering(FakePeer):
    """A primary that raises what it is told to."""

    echo_error: HolderUnavailableError | None = None
    find_error: HolderUnavailableError | None = None

    def echo(self) -> None:
        if self.echo_error is not None:
            raise self.echo_error

    def studies(self, study: StudyInstanceUid | None = None) -> StudyList:
        if self.find_error is not None:
            raise self.find_error
        return StudyList({})


@pytest.mark.parametrize(
    ("echo", "find", "sign"),
    [
        (None, None, Sign.ANSWERS),
        (HolderUnavailableError, None, Sign.SILENT),
        (UnansweredError, None, Sign.REFUSES),
        (RejectedError, None, Sign.REFUSES),
        (BusyError, None, Sign.BUSY),
        (None, UnansweredError, Sign.REFUSES),
        (None, RejectedError, Sign.REFUSES),
        (None, BusyError, Sign.BUSY),
        # It has just answered C-ECHO.
        (None, HolderUnavailableError, Sign.REFUSES),
    ],
)
def test_probe_shows_what_the_answers_say(
    echo: type[HolderUnavailableError] | None, find: type[HolderUnavailableError] | None, sign: Sign
) -> None:
    peer = Answering(
        echo_error=None if echo is None else echo("primary", "no echo", "look"),
        find_error=None if find is None else find("primary", "no find", "look"),
    )
    probe = Prober(peer, Clock(), failures_for_down=3).step().evidence[0]
    expected = ("no echo", "not asked") if echo else ("ok", "no find" if find else "ok")
    assert (probe.echo, probe.find, probe.sign) == (*expected, sign)


def test_probe_of_a_primary_that_answers_makes_it_up() -> None:
    prober = Prober(FakePeer(), Clock(), failures_for_down=3)
    assert prober.health.condition is PrimaryCondition.UNKNOWN
    assert prober.step().condition is PrimaryCondition.UP


def test_primary_that_echoes_and_answers_no_query_is_not_down() -> None:
    clock = Clock()
    prober = Prober(FakePeer(finds=False), clock, failures_for_down=3)
    for _ in range(3):
        clock.advance(10)
        prober.step()
    assert (prober.health.condition, prober.health.since) == (PrimaryCondition.REFUSES, NOW + 30)
    assert "0xC001" in prober.health.evidence[0].find


@pytest.mark.parametrize("error", [HolderUnavailableError, BusyError])
def test_primary_that_answers_our_own_work_is_up_while_the_probe_has_no_turn(
    error: type[HolderUnavailableError],
) -> None:
    clock, answers = Clock(), [0]
    peer = Answering()
    prober = Prober(peer, clock, failures_for_down=3, own_work=lambda: (answers[0], 0))
    prober.step()
    peer.echo_error = error("primary", "no turn", "wait")
    for _ in range(10):
        answers[0] += 1
        assert prober.step().evidence[0].sign is Sign.WORKS
        assert prober.health.condition is PrimaryCondition.UP
    for _ in range(3):
        prober.step()
    expected = PrimaryCondition.BUSY if error is BusyError else PrimaryCondition.DOWN
    assert prober.health.condition is expected


def test_primary_whose_images_arrive_is_up_while_the_probe_has_no_turn() -> None:
    clock = Clock()
    arrived = [0]
    peer = FakePeer()
    prober = Prober(peer, clock, failures_for_down=3, own_work=lambda: (0, arrived[0]))
    prober.step()
    peer.silent = True
    for _ in range(3):
        arrived[0] += 1
        clock.set_by(-30 * 86_400)
        assert prober.step().evidence[0].sign is Sign.WORKS
    # Nothing more comes.
    for _ in range(3):
        assert prober.step().evidence[0].sign is Sign.SILENT
    assert prober.health.condition is PrimaryCondition.DOWN


def test_answer_that_refuses_is_not_excused_by_our_own_work() -> None:
    answers = [0]
    prober = Prober(FakePeer(finds=False), Clock(), failures_for_down=3, own_work=lambda: (answers[0], 0))
    for _ in range(3):
        answers[0] += 1
        prober.step()
    assert prober.health.condition is PrimaryCondition.REFUSES
