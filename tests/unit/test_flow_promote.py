"""Promote, hold and release: by evidence, or by force with a reason; once."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from understudy.core.errors import PreconditionError, RefusedError, StaleEpochError
from understudy.core.health import Health
from understudy.core.model import Timestamp
from understudy.core.modes import Mode, WrongModeError
from understudy.core.views import Alarm, PrimaryCondition, Probe, Sign, iso
from understudy.flow import promote
from understudy.ledger import Ledger, ModeRecord

from tests.unit.fakes import NOW, STUDY, Clock, dump

DAY = 86_400.0

PROBES = [Probe("2023-11-14T22:13:20Z", "no association", "not asked", Sign.SILENT)]
DOWN = Health(PrimaryCondition.DOWN, NOW, PROBES)
UP = Health(PrimaryCondition.UP, NOW, [Probe("2023-11-14T22:13:20Z", "ok", "ok", Sign.ANSWERS)])


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = Ledger(tmp_path / "ledger.sqlite")
    found.modes.start(NOW)
    yield found
    found.close()


def promoted(
    ledger: Ledger,
    *,
    health: Health | None = DOWN,
    reason: str = "the PACS is on fire",
    force: bool = False,
    accept_loss: bool = False,
    loss_seconds: float | None = 0.0,
    doubts: Sequence[str] = (),
    epoch: int = 0,
) -> ModeRecord:
    return promote.promote(
        ledger,
        "ann",
        reason=reason,
        force=force,
        accept_loss=accept_loss,
        epoch=epoch,
        health=health,
        loss_seconds=loss_seconds,
        doubts=doubts,
        max_lag=900.0,
        now=NOW,
    )


def unmet(ledger: Ledger, **arguments: object) -> Sequence[str]:
    before = dump(ledger)
    with pytest.raises(PreconditionError) as caught:
        promoted(ledger, **arguments)  # type: ignore[arg-type]
    assert dump(ledger) == before
    return caught.value.details


def test_promotion_with_evidence_keeps_the_evidence(ledger: Ledger) -> None:
    assert promoted(ledger) == ModeRecord(Mode.ACTIVE, 1, NOW)
    fields = dump(ledger)["events"][-1][4]
    assert "no association" in fields
    assert '"reason":"the PACS is on fire"' in fields


@pytest.mark.parametrize(
    ("condition", "seen"),
    [
        (PrimaryCondition.UP, "the primary is up"),
        (PrimaryCondition.UNKNOWN, "it is not known whether the primary is up"),
        (PrimaryCondition.REFUSES, "the primary answers, but it refuses this standby"),
        (PrimaryCondition.BUSY, "the primary answers that it is busy"),
    ],
)
def test_promotion_without_evidence_needs_force(
    ledger: Ledger, condition: PrimaryCondition, seen: str
) -> None:
    health = Health(condition, NOW)
    (told,) = unmet(ledger, health=health)
    assert told.startswith(seen)
    assert promoted(ledger, health=health, force=True).epoch == 1


def test_promotion_without_a_primary_needs_force(ledger: Ledger) -> None:
    (told,) = unmet(ledger, health=None)
    assert "there is no primary" in told
    assert promoted(ledger, health=None, force=True, loss_seconds=10**6).epoch == 1


def test_promotion_with_known_loss_needs_it_accepted(ledger: Ledger) -> None:
    ledger.gaps.write({STUDY: 7}, NOW)
    (told,) = unmet(ledger)
    assert "7 images of 1 study" in told
    assert promoted(ledger, accept_loss=True).epoch == 1


def test_promotion_over_the_lag_needs_it_accepted(ledger: Ledger) -> None:
    (told,) = unmet(ledger, loss_seconds=901)
    assert "901 s" in told
    assert promoted(ledger, loss_seconds=900).epoch == 1


def test_promotion_tells_everything_that_is_unmet_at_once(ledger: Ledger) -> None:
    ledger.gaps.write({STUDY: 7}, NOW)
    assert len(unmet(ledger, health=UP, loss_seconds=901)) == 3


def test_force_does_not_accept_a_loss(ledger: Ledger) -> None:
    ledger.gaps.write({STUDY: 7}, NOW)
    assert len(unmet(ledger, force=True)) == 1


@pytest.mark.parametrize("reason", ["", "  "])
def test_every_verb_needs_a_reason(ledger: Ledger, reason: str) -> None:
    with pytest.raises(RefusedError, match="reason"):
        promoted(ledger, reason=reason)
    with pytest.raises(RefusedError, match="reason"):
        promote.hold(ledger.modes, "ann", reason=reason, epoch=0, now=NOW)
    with pytest.raises(RefusedError, match="reason"):
        promote.release(ledger.modes, "ann", reason=reason, epoch=0, now=NOW)
    assert ledger.modes.current().mode is Mode.STANDBY


def test_hold_keeps_promotion_away_until_release(ledger: Ledger) -> None:
    promote.hold(ledger.modes, "ann", reason="upgrade", epoch=0, now=NOW)
    with pytest.raises(WrongModeError):
        promoted(ledger)
    promote.release(ledger.modes, "ann", reason="done", epoch=0, now=NOW)
    assert promoted(ledger).epoch == 1


@pytest.mark.parametrize("step", [-30 * DAY, 0, 30 * DAY])
def test_planned_work_that_nobody_ends_is_an_alarm_after_a_day(ledger: Ledger, step: float) -> None:
    clock = Clock()

    def alarms() -> list[Alarm]:
        return promote.hold_alarms(ledger.modes.current(), ledger.events, clock.has_waited)

    clock.advance(10 * DAY)
    assert alarms() == [], "standby is no planned work"
    began = clock.now()
    promote.hold(ledger.modes, "ann", reason="upgrade of A^B", epoch=0, now=began)
    clock.set_by(step)
    clock.advance(DAY)
    assert alarms() == []
    clock.advance(1)
    (alarm,) = alarms()
    assert alarm.since == iso(began)
    assert "by ann" in alarm.what
    assert "understudy release" in alarm.hint
    assert "A^B" not in f"{alarm}", "a reason is free text"
    promote.release(ledger.modes, "bob", reason="done", epoch=0, now=clock.now())
    assert alarms() == []


def test_fifty_operators_at_once_give_one_promotion(ledger: Ledger) -> None:
    barrier = threading.Barrier(50)
    told: list[str] = []

    def press() -> None:
        barrier.wait(timeout=120)
        try:
            told.append(str(promoted(ledger).epoch))
        except (StaleEpochError, WrongModeError) as error:
            told.append(type(error).__name__)

    threads = [threading.Thread(target=press) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=240)
    assert sorted(told) == ["1", *["StaleEpochError"] * 49]
    assert ledger.modes.current().epoch == 1


def test_promotion_of_a_standby_that_never_compared_needs_the_unknown_loss_accepted(ledger: Ledger) -> None:
    (told,) = unmet(ledger, loss_seconds=None)
    assert told.startswith("nobody knows how many images of the primary are missing here")
    (told,) = unmet(ledger, loss_seconds=None, doubts=["the list is cut"])
    assert "(the list is cut)" in told
    assert "--accept-loss" in told
    assert promoted(ledger, loss_seconds=None, accept_loss=True).epoch == 1
    assert '"loss_seconds":null' in dump(ledger)["events"][-1][4]


@pytest.mark.parametrize(
    ("horizon", "health", "lag", "loss"),
    [
        (NOW - 10, UP, 110, 110),
        (NOW - 10, None, 110, 110),
        # What is down receives nothing: the loss stops growing, and the age of the horizon does not.
        (NOW - 10, DOWN, 110, 10),
        (NOW + 10, DOWN, 90, 0),
        # Before the first diff nothing is known.
        (None, UP, None, None),
        (None, DOWN, None, None),
        # The clock was set back.
        (NOW + 101, UP, None, None),
        (NOW + 101, DOWN, None, None),
    ],
)
def test_lag_grows_for_ever_and_the_loss_until_the_primary_went_down(
    horizon: float | None, health: Health | None, lag: float | None, loss: float | None
) -> None:
    since = None if horizon is None else Timestamp(horizon)
    now = Timestamp(NOW + 100)
    assert (promote.lag(since, now), promote.loss(since, health, now)) == (lag, loss)
