"""The way back: planned, begun with evidence, carried on after any crash, settled by proof alone."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from understudy.core.errors import PreconditionError, RefusedError, StaleEpochError
from understudy.core.inventory import StudyList
from understudy.core.model import Delivery, InstanceNumber, Outcome, StudyInstanceUid
from understudy.core.modes import Mode, ModeEvent, WrongModeError
from understudy.core.obligations import ObligationState, Selection
from understudy.core.ports import HolderUnavailableError
from understudy.core.refusals import hint_of
from understudy.core.views import OperationState, OperationView, PrimaryCondition
from understudy.engine.beside import Beside
from understudy.flow import failback
from understudy.flow.failback import KIND

from tests.unit.fakes import (
    CRASH_SHARES,
    NOW,
    PRIMARY,
    PRIMARY_AE,
    STUDY,
    CrashError,
    crash_after,
    dump,
    new_instance,
    shares,
    unproven,
)
from tests.unit.world import QUIET, World, uid

DAY = 86_400.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path / "ledger.sqlite")
    yield found
    assert unproven(found.ledger) == []
    assert found.ledger.events.broken() is None
    found.ledger.close()


def outage(world: World) -> None:
    """Three studies known, an outage, two instances stored here meanwhile, and the primary repaired."""
    world.forwarded(1, 2)
    world.forwarded(3, study="1.2.4")
    world.mirror.step()
    world.outage()
    world.clock.advance(60)
    world.stored_here(4, 5, 6, 7, study="1.2.5")
    world.stored_here(8)
    world.noter.catch_up()
    world.clock.advance(60)
    world.repaired()


def latest(world: World) -> OperationView:
    found = world.ledger.operations.latest(KIND)
    assert found is not None
    return found


def number_of(world: World, name: int) -> InstanceNumber:
    found = [
        one.number for one in world.ledger.instances.of_study(STUDY) if one.sop_instance_uid == uid(name)
    ]
    return found[0]


def running(world: World) -> list[int]:
    return [
        one.operation for one in world.ledger.operations.newest(99) if one.state is OperationState.RUNNING
    ]


def test_whole_way_back_sends_what_is_missing_and_settles(world: World) -> None:
    outage(world)
    world.begin()
    world.work()
    assert latest(world).state is OperationState.DONE
    assert (latest(world).done, latest(world).total) == (5, 5)
    report = world.reports[latest(world).operation]
    assert report.succeeded
    assert ("1.2.5", "inventory", "4") in {tuple(row) for row in report.tables[0].rows}
    assert world.holder.sent == [uid(4), uid(5), uid(6), uid(7), uid(8)]
    world.clock.advance(QUIET)
    world.settle()
    assert world.ledger.modes.current().mode is Mode.STANDBY
    assert world.ledger.obligations.tally()[PRIMARY] == {ObligationState.PROVEN: 8}


def test_lane_to_the_primary_is_still_before_the_way_back_begins(world: World) -> None:
    outage(world)
    world.work()
    assert world.holder.sent == []


def test_instance_that_a_modality_sent_to_both_is_not_sent_again(world: World) -> None:
    outage(world)
    world.peer.keep("1.2.5", uid(4), uid(5))
    world.begin()
    world.work()
    assert world.holder.sent == [uid(6), uid(7), uid(8)]


def test_instances_that_the_primary_got_alone_are_pulled(world: World) -> None:
    outage(world)
    world.peer.keep("1.2.6", uid(9))
    world.begin()
    world.work()
    assert "1.2.6" in world.peer.moved
    assert latest(world).state is OperationState.DONE
    assert world.ledger.instances.counts() == (9, 4)


def begin_with_a_gap_that_cannot_be_pulled(world: World) -> None:
    """Begin a failback; the primary has one instance more, and cannot move it until `move_status` is 0."""
    outage(world)
    world.peer.keep("1.2.6", uid(9))
    world.peer.move_status = 0xA801
    world.begin()
    world.work()


def test_failback_waits_for_a_gap_that_cannot_be_pulled(world: World) -> None:
    begin_with_a_gap_that_cannot_be_pulled(world)
    assert latest(world).state is OperationState.RUNNING
    assert latest(world).message == "1 image to deliver, prove or fetch"
    world.peer.move_status = 0
    world.work(31)
    assert latest(world).state is OperationState.DONE


@pytest.mark.parametrize("unlisted", [{"1.2.4"}, {"1.2.5"}, {STUDY, "1.2.4", "1.2.5"}])
def test_failback_goes_by_the_instances_where_the_list_of_studies_is_cut(
    world: World, unlisted: set[str]
) -> None:
    outage(world)
    world.peer.unlisted = unlisted
    assert world.failback.plan().lost_at_primary == 0
    world.begin()
    world.work()
    assert latest(world).state is OperationState.DONE
    assert "disprove" not in {row[3] for row in dump(world.ledger)["events"]}
    assert len(world.holder.sent) == 5
    world.clock.advance(QUIET)
    world.settle()
    assert world.ledger.modes.current().mode is Mode.STANDBY


# Plan and begin


def test_plan_counts_what_would_be_sent_pulled_and_found(world: World) -> None:
    outage(world)
    world.peer.keep("1.2.5", uid(4))
    world.peer.keep("1.2.6", uid(9))
    world.peer.lose("1.2.4", uid(3))
    before = dump(world.ledger)
    plan = world.failback.plan()
    assert (plan.epoch, plan.primary_studies, plan.found_at_primary, plan.refused) == (1, 3, 1, 0)
    assert plan.to_send == {STUDY: 1, "1.2.4": 1, "1.2.5": 3}
    assert (plan.to_pull, plan.lost_at_primary) == ({"1.2.6": 1}, 1)
    assert dump(world.ledger) == before


def test_begin_is_refused_while_the_primary_is_silent(world: World) -> None:
    outage(world)
    world.peer.silent = True
    with pytest.raises(PreconditionError) as caught:
        world.begin()
    assert caught.value.details == ("the primary does not answer: C-ECHO no association; C-FIND not asked",)
    assert world.ledger.modes.current().mode is Mode.ACTIVE
    assert world.ledger.operations.newest(9) == []


def test_begin_does_not_wait_for_a_primary_that_hangs(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    outage(world)
    answers = threading.Event()
    monkeypatch.setattr(failback, "_ANSWERS_WITHIN", 0.1)
    monkeypatch.setattr(world.failback, "_beside", Beside(world.clock))
    echo = world.peer.echo
    monkeypatch.setattr(world.peer, "echo", lambda: (answers.wait(30), echo()))
    with pytest.raises(PreconditionError) as caught:
        world.begin()
    assert caught.value.details == ("the primary did not answer C-ECHO and C-FIND within 0.1 s: try again",)
    assert world.ledger.modes.current().mode is Mode.ACTIVE
    answers.set()
    monkeypatch.setattr(failback, "_ANSWERS_WITHIN", 30)
    world.begin()
    assert world.ledger.modes.current().mode is Mode.RETURNING


def test_begin_is_refused_while_the_primary_answers_no_query(world: World) -> None:
    outage(world)
    world.peer.finds = False
    with pytest.raises(PreconditionError, match="refused") as caught:
        world.begin()
    assert "C-ECHO ok; C-FIND it answered C-FIND with status 0xC001" in caught.value.details[0]


def test_begin_of_another_epoch_is_refused(world: World) -> None:
    outage(world)
    with pytest.raises(StaleEpochError):
        world.failback.begin("ann", epoch=0)


@pytest.mark.parametrize("mode", [Mode.STANDBY, Mode.MAINTENANCE])
def test_begin_outside_an_outage_is_refused(world: World, mode: Mode) -> None:
    if mode is Mode.MAINTENANCE:
        world.ledger.modes.change(ModeEvent.HOLD, epoch=0, who="ann", fields={}, now=NOW)
    with pytest.raises(WrongModeError):
        world.begin()


def test_begin_twice_gives_the_same_operation(world: World) -> None:
    outage(world)
    first = world.failback.begin("ann", epoch=1)
    second = world.failback.begin("bob", epoch=1)
    assert second.operation == first.operation
    assert [one.operation for one in world.ledger.operations.newest(9)] == [first.operation]


# What can happen on the way


def test_instance_lost_at_the_primary_is_owed_again_and_sent(world: World) -> None:
    outage(world)
    # It came from the primary before the outage, and the primary was restored from an older backup.
    world.peer.lose("1.2.4", uid(3))
    world.begin()
    world.work()
    assert uid(3) in world.holder.sent
    assert latest(world).state is OperationState.DONE
    assert world.peer.studies_kept[StudyInstanceUid("1.2.4")] == {uid(3)}


def test_instance_refused_by_the_primary_keeps_the_operation_open(world: World) -> None:
    outage(world)
    world.begin()
    world.noter.catch_up()
    number = number_of(world, 8)
    world.ledger.custody.claim(PRIMARY, [number], now=world.clock.now())
    refusal = Delivery(number, Outcome.REFUSED, "not wanted")
    world.ledger.custody.record(PRIMARY, [refusal], now=world.clock.now(), retry_at=lambda _attempt: NOW)
    world.work()
    assert latest(world).state is OperationState.RUNNING
    assert "the PACS refused 1: replay or waive" in latest(world).message
    world.ledger.dead_letters.waive(PRIMARY, [uid(8)], "a test image", "ann", world.clock.now())
    world.work(5)
    assert latest(world).state is OperationState.DONE


def test_failback_that_waits_asks_the_primary_when_something_changed_and_else_twice_a_minute(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists: list[float] = []
    studies = world.peer.studies

    def listing(study: StudyInstanceUid | None = None) -> StudyList:
        if study is None:
            lists.append(world.clock.now() - begun)
        return studies(study)

    outage(world)
    world.begin()
    for name in (7, 8):
        study = STUDY if name == 8 else StudyInstanceUid("1.2.5")
        (number,) = (
            one.number for one in world.ledger.instances.of_study(study) if one.sop_instance_uid == uid(name)
        )
        world.ledger.custody.claim(PRIMARY, [number], now=world.clock.now())
        refusal = Delivery(number, Outcome.REFUSED, "not wanted")
        world.ledger.custody.record(PRIMARY, [refusal], now=world.clock.now(), retry_at=lambda _attempt: NOW)
    begun = world.clock.now()
    monkeypatch.setattr(world.peer, "studies", listing)
    for _ in range(100):
        world.work(1)
    # Before the lane began, after it was done, and then in its pauses.
    assert lists == [0, 1, 31, 61, 91]
    world.ledger.dead_letters.waive(PRIMARY, [uid(8)], "a test image", "ann", world.clock.now())
    world.work(5)
    assert lists[5:] == [100]
    world.ledger.dead_letters.replay(PRIMARY, [uid(7)], "ann", world.clock.now())
    world.work(5)
    assert lists[6:] == [106]
    assert latest(world).state is OperationState.DONE


@pytest.mark.parametrize("step", [-30 * DAY, 30 * DAY])
def test_failback_that_waits_looks_after_its_pause_although_the_clock_was_set(
    world: World, step: float
) -> None:
    begin_with_a_gap_that_cannot_be_pulled(world)
    world.peer.move_status = 0
    world.clock.set_by(step)
    world.work(31)
    assert latest(world).state is OperationState.DONE


@pytest.mark.parametrize("step", [-30 * DAY, 30 * DAY])
def test_failback_that_is_done_begins_no_other_where_the_clock_was_set(world: World, step: float) -> None:
    outage(world)
    world.begin()
    world.clock.set_by(step)
    world.work(100)
    assert latest(world).state is OperationState.DONE
    assert len(world.ledger.operations.newest(100)) == 1


def test_failback_whose_primary_gives_out_nothing_tells_a_person_and_can_be_settled(world: World) -> None:
    begin_with_a_gap_that_cannot_be_pulled(world)
    world.clock.set_by(30 * DAY)
    assert world.failback.alarms() == []
    world.clock.advance(900)
    world.work(31)
    (alarm,) = world.failback.alarms()
    assert alarm.what.endswith("the primary does not send 1 image that this standby lacks")
    assert "`understudy settle` does not wait for these images" in alarm.hint
    since = alarm.since
    world.clock.advance(3600)
    world.failback.step()
    assert [told.since for told in world.failback.alarms()] == [since]
    world.settle()
    assert world.ledger.modes.current().mode is Mode.STANDBY
    world.failback.step()
    assert world.failback.alarms() == []


def test_failback_whose_primary_takes_nothing_says_how_to_decide(world: World) -> None:
    outage(world)
    world.lane.step = lambda: False  # type: ignore[method-assign]
    world.begin()
    world.work(31)
    world.clock.advance(901)
    (alarm,) = world.failback.alarms()
    assert "5 images not delivered to the primary yet, or not proven there" in alarm.what
    assert "replay or waive" in alarm.hint


def test_settle_does_not_take_a_step_of_the_clock_for_quiet(world: World) -> None:
    outage(world)
    world.begin()
    world.work(60)
    world.clock.set_by(30 * DAY)
    with pytest.raises(PreconditionError, match="refused") as caught:
        world.settle()
    (unmet,) = caught.value.details
    assert unmet.startswith("a modality stored here 120 s ago")
    world.work(QUIET - 120)
    world.settle()
    assert world.ledger.modes.current().mode is Mode.STANDBY


def test_settle_asks_a_person_where_the_clock_was_set_back_behind_the_last_store(world: World) -> None:
    """A store that comes now would not show beside one that is dated ahead."""
    outage(world)
    world.begin()
    world.clock.set_by(-30 * DAY)
    world.work(QUIET + 60)
    with pytest.raises(PreconditionError, match="refused") as caught:
        world.settle()
    (unmet,) = caught.value.details
    assert "in the future: the clock was set back" in unmet
    world.settle(override_quiet="all devices are pointed back")
    assert world.ledger.modes.current().mode is Mode.STANDBY


def test_primary_down_again_makes_us_active_and_progress_stays(world: World) -> None:
    outage(world)
    world.begin()
    world.lane.step()
    world.peer.silent = True
    for _ in range(3):
        world.prober.step()
    assert world.prober.health.condition is PrimaryCondition.DOWN
    world.failback.step()
    assert world.ledger.modes.current().mode is Mode.ACTIVE
    assert latest(world).state is OperationState.CANCELLED
    assert latest(world).message == "interrupted: the primary is down again"
    sent = list(world.holder.sent)
    assert len(sent) == 3
    # Given back to at its first answer, before the probes count it as up.
    world.repaired()
    world.begin()
    world.work()
    assert latest(world).state is OperationState.DONE
    # Nothing that had arrived was sent a second time.
    assert sorted(world.holder.sent) == [uid(4), uid(5), uid(6), uid(7), uid(8)]


@pytest.mark.parametrize("trouble", ["busy", "finds"])
def test_primary_that_is_busy_or_refuses_for_a_while_interrupts_no_failback(
    world: World, trouble: str
) -> None:
    outage(world)
    world.begin()
    world.lane.step()
    setattr(world.peer, trouble, trouble == "busy")
    for _ in range(10):
        world.prober.step()
        with suppress(HolderUnavailableError):
            world.failback.step()
        world.clock.advance(10)
    assert world.prober.health.condition in (PrimaryCondition.BUSY, PrimaryCondition.REFUSES)
    assert world.ledger.modes.current().mode is Mode.RETURNING
    assert latest(world).state is OperationState.RUNNING
    assert latest(world).message.startswith("waiting for the PACS: ")
    setattr(world.peer, trouble, trouble != "busy")
    world.work()
    assert latest(world).state is OperationState.DONE


def test_interrupt_at_once_and_begin_again_at_the_same_moment_goes_on(world: World) -> None:
    outage(world)
    for one in (4, 5, 6, 7, 8):
        world.peer.keep("1.2.5" if one < 8 else STUDY, uid(one))
    world.mirror.step()
    world.begin()
    world.failback.interrupt("ann", reason="wrong button", epoch=1)
    world.begin()
    world.work(5)
    assert latest(world).state is OperationState.DONE
    assert running(world) == []


def test_interrupt_needs_a_reason(world: World) -> None:
    outage(world)
    world.begin()
    with pytest.raises(RefusedError, match="reason"):
        world.failback.interrupt("ann", reason=" ", epoch=1)
    assert world.ledger.modes.current().mode is Mode.RETURNING


def test_silent_primary_is_told_to_the_loop_and_to_people_and_nothing_else_changes(world: World) -> None:
    outage(world)
    world.begin()
    before = dump(world.ledger)
    world.peer.silent = True
    with pytest.raises(HolderUnavailableError):
        world.failback.step()
    after = dump(world.ledger)
    assert latest(world).message == "waiting for the PACS: no association; it is asked again automatically"
    del before["operations"], after["operations"]
    assert after == before


# Settle


def test_settle_names_every_instance_that_the_primary_does_not_list(world: World) -> None:
    outage(world)
    world.begin()
    world.work()
    world.clock.advance(QUIET)
    # Between the proof and the settling the primary loses one: yesterday's proof is not believed.
    world.peer.lose("1.2.5", uid(6))
    with pytest.raises(PreconditionError) as caught:
        world.settle()
    assert f"the primary does not list instance {uid(6)} of study 1.2.5" in caught.value.details
    assert "the primary has not confirmed 1 image" in caught.value.details
    assert world.ledger.modes.current().mode is Mode.RETURNING
    world.work()
    world.settle()
    assert world.ledger.modes.current().mode is Mode.STANDBY
    assert world.holder.sent.count(uid(6)) == 2


def test_settle_names_the_first_fifty_and_counts_the_rest(world: World) -> None:
    world.outage()
    world.stored_here(*range(1, 61))
    world.repaired()
    world.begin()
    with pytest.raises(PreconditionError) as caught:
        world.settle(override_quiet="now")
    named = [line for line in caught.value.details if line.startswith("the primary does not list instance ")]
    assert len(named) == 50
    assert "the primary does not list 10 more instances" in caught.value.details


def test_settle_waits_for_quiet_or_an_override_with_a_reason(world: World) -> None:
    outage(world)
    world.begin()
    world.work()
    with pytest.raises(PreconditionError) as caught:
        world.settle()
    (detail,) = caught.value.details
    assert detail.startswith("a modality stored here 120 s ago, and settle needs 300 s without a store")
    world.settle(override_quiet="CT1 was switched by hand")
    assert world.ledger.modes.current().mode is Mode.STANDBY
    assert '"override_quiet":"CT1 was switched by hand"' in dump(world.ledger)["events"][-1][4]


def test_settle_does_not_take_the_primarys_own_stores_for_noise(world: World) -> None:
    outage(world)
    world.begin()
    world.work()
    world.clock.advance(QUIET)
    world.forwarded(20)
    world.settle()
    assert world.ledger.modes.current().mode is Mode.STANDBY


@pytest.mark.parametrize("state", [ObligationState.IN_FLIGHT, ObligationState.SENT, ObligationState.REFUSED])
def test_settle_is_impossible_while_anything_is_unsettled(world: World, state: ObligationState) -> None:
    outage(world)
    world.begin()
    world.work()
    world.clock.advance(QUIET)
    world.stored_here(30)
    world.noter.catch_up()
    number = number_of(world, 30)
    world.ledger.custody.claim(PRIMARY, [number], now=world.clock.now())
    if state is not ObligationState.IN_FLIGHT:
        outcome = Outcome.DELIVERED if state is ObligationState.SENT else Outcome.REFUSED
        delivery = Delivery(number, outcome, "because")
        world.ledger.custody.record(PRIMARY, [delivery], now=world.clock.now(), retry_at=lambda _attempt: NOW)
    assert world.ledger.obligations.of_study(PRIMARY, STUDY)[number] is state
    with pytest.raises(PreconditionError) as caught:
        world.settle(override_quiet="now")
    assert caught.value.details == ("the primary has not confirmed 1 image",)
    assert world.ledger.modes.current().mode is Mode.RETURNING


def test_settle_while_the_primary_is_silent_changes_nothing(world: World) -> None:
    outage(world)
    world.begin()
    world.work()
    world.clock.advance(QUIET)
    before = dump(world.ledger)
    world.peer.silent = True
    with pytest.raises(HolderUnavailableError):
        world.settle()
    after = dump(world.ledger)
    # The settling waits for the primary.
    for table in ("operations", "ledger_facts", "events"):
        assert before.pop(table) != after.pop(table)
    assert after == before


def test_settle_before_the_operation_noticed_its_end_closes_it_with_a_report(world: World) -> None:
    outage(world)
    world.begin()
    for one in (4, 5, 6, 7, 8):
        world.peer.keep("1.2.5" if one < 8 else STUDY, uid(one))
    world.clock.advance(QUIET)
    world.settle()
    assert latest(world).state is OperationState.DONE
    assert running(world) == []
    assert world.reports[latest(world).operation].succeeded


def test_settle_in_another_mode_or_epoch_is_refused(world: World) -> None:
    with pytest.raises(WrongModeError):
        world.settle()
    outage(world)
    world.begin()
    with pytest.raises(StaleEpochError):
        world.failback.settle("ann", epoch=0, override_quiet=None)


def test_modality_that_goes_on_sending_reopens_the_work(world: World) -> None:
    outage(world)
    world.begin()
    world.work()
    first = latest(world).operation
    world.stored_here(40)
    world.work(120)
    assert latest(world).operation != first
    assert latest(world).state is OperationState.DONE
    assert uid(40) in world.holder.sent


def test_second_outage_is_a_second_way_back(world: World) -> None:
    outage(world)
    world.begin()
    world.work()
    world.clock.advance(QUIET)
    world.settle()
    world.outage()
    world.stored_here(50)
    world.noter.catch_up()
    world.clock.advance(60)
    world.repaired()
    world.begin()
    world.work()
    world.clock.advance(QUIET)
    world.settle()
    mode = world.ledger.modes.current()
    assert (mode.mode, mode.epoch) == (Mode.STANDBY, 2)
    assert (latest(world).state, latest(world).total) == (OperationState.DONE, 1)


# Crashes


def way_back(world: World) -> None:
    """Go from wherever the ledger stands to the end, as a person and the agent would."""
    if world.ledger.modes.current().mode is Mode.ACTIVE:
        world.begin()
    if world.ledger.modes.current().mode is Mode.RETURNING:
        world.failback.begin("ann", epoch=world.epoch)
        for _ in range(60):
            world.work(1)
            if latest(world).state is OperationState.DONE:
                break
        world.clock.advance(QUIET)
    # What was asked before a crash goes on by itself.
    if world.ledger.modes.current().mode is Mode.RETURNING:
        world.settle()
    world.failback.step()


def ending(world: World) -> tuple[object, ...]:
    """Return what has to be the same whatever happened on the way."""
    tables = dump(world.ledger)
    return (
        world.ledger.modes.current().mode,
        world.ledger.modes.current().epoch,
        [(row[0], row[1], row[2]) for row in tables["obligations"]],
        sorted((str(study), sorted(kept)) for study, kept in world.peer.studies_kept.items()),
        world.ledger.gaps.read(),
        running(world),
    )


def prepared(path: Path) -> World:
    world = World(path)
    outage(world)
    world.peer.keep("1.2.5", uid(4))
    world.peer.keep("1.2.6", uid(9))
    world.peer.lose("1.2.4", uid(3))
    return world


@shares(CRASH_SHARES)
def test_way_back_broken_off_at_any_write_is_continued_to_the_same_end(tmp_path: Path, share: int) -> None:
    undisturbed = prepared(tmp_path / "undisturbed.sqlite")
    with crash_after(undisturbed.ledger, 0, only_writes=True) as writes:
        way_back(undisturbed)
        total = writes()
    expected = ending(undisturbed)
    undisturbed.ledger.close()
    assert total > 40
    for point in range(1 + share, total + 1, CRASH_SHARES):
        world = prepared(tmp_path / f"{point}.sqlite")
        with pytest.raises(CrashError), crash_after(world.ledger, point, only_writes=True):
            way_back(world)
        world.restart()
        world.clock.advance(60)
        way_back(world)
        assert ending(world) == expected, f"after write {point}"
        assert unproven(world.ledger) == []
        assert world.ledger.events.broken() is None
        # At most the one that was in flight is handed over twice, and only because nobody knew.
        assert len(world.holder.sent) <= len(set(world.holder.sent)) + 1
        world.ledger.close()


def test_operation_left_running_by_a_crash_after_settling_is_ended_by_the_next(world: World) -> None:
    outage(world)
    world.begin()
    world.ledger.modes.change(ModeEvent.SETTLE, epoch=1, who="ann", fields={}, now=world.clock.now())
    stale = latest(world).operation
    world.clock.advance(5)
    world.outage()
    world.repaired()
    world.begin()
    assert world.ledger.operations.get(stale).state is OperationState.CANCELLED
    assert latest(world).operation != stale
    assert running(world) == [latest(world).operation]


def test_version_changed_during_the_outage_is_sent_though_the_uid_is_listed(world: World) -> None:
    world.outage()
    world.stored_here(1)
    world.noter.catch_up()
    world.feed.store(new_instance(1, content="B", calling=""))
    world.peer.keep(STUDY, uid(1))
    world.repaired()
    world.begin()
    world.work(90)
    assert world.holder.sent == [uid(1)]
    assert latest(world).state is OperationState.DONE


@pytest.mark.parametrize("step", [0, -30 * 86_400, 30 * 86_400])
def test_archive_of_which_half_was_here_keeps_the_way_back_from_no_end(world: World, step: float) -> None:
    world.peer.keep("1.2.7", uid(70))
    world.peer.move_status = 0xA801
    world.mirror.step()
    world.clock.advance(60)
    world.outage()
    world.clock.set_by(step)
    world.stored_here(1)
    world.repaired()
    world.peer.keep("1.2.8", uid(80))
    world.begin()
    world.work(90)
    assert latest(world).state is OperationState.RUNNING, "what it received alone is not here"
    world.peer.move_status = 0x0000
    world.peer.moved.clear()
    world.work(90)
    assert world.peer.moved == ["1.2.8"], "history was pulled before the end of the way back"
    assert latest(world).state is OperationState.DONE
    world.settle(override_quiet="test")
    world.mirror.step()
    assert world.peer.moved == ["1.2.8", "1.2.7"]


@pytest.mark.parametrize("ours_is_listed", [True, False])
def test_study_that_is_counted_too_high_forbids_settle_only_where_ours_is_not_listed(
    world: World, ours_is_listed: bool
) -> None:
    world.forwarded(1, 2, 3)
    world.mirror.step()
    world.outage()
    world.stored_here(9, study="1.2.9")
    world.repaired()
    world.peer.overcounted = {STUDY}
    if not ours_is_listed:
        world.peer.lose(STUDY, uid(2), uid(3))
    world.begin()
    world.work(90)
    if ours_is_listed:
        world.settle(override_quiet="test")
        return
    with pytest.raises(PreconditionError) as refused:
        world.settle(override_quiet="test")
    assert list(refused.value.details) == [f"the primary gives no usable answer about study {STUDY}"]


def test_instance_whose_study_nobody_can_be_asked_for_is_waived_and_the_way_back_ends(world: World) -> None:
    world.outage()
    world.stored_here(1)
    world.stored_here(2, study="1.2.\u0416")
    world.noter.catch_up()
    world.ledger.dead_letters.waive(PRIMARY, [uid(2)], "its UID is none", "ann", world.clock.now())
    world.repaired()
    world.begin()
    world.work(90)
    assert world.failback.plan().to_send == {}
    world.settle(override_quiet="test")


def test_correction_of_what_the_primary_forwarded_before_the_outage_is_sent(world: World) -> None:
    world.forwarded(1)
    world.mirror.step()
    world.outage()
    world.clock.advance(1)
    world.feed.store(new_instance(1, content="C", received_at=world.clock.now()))
    world.repaired()
    world.begin()
    world.work(90)
    assert world.holder.sent == [uid(1)]


def test_instance_stored_again_for_another_patient_is_sent_although_its_uid_is_listed(world: World) -> None:
    world.outage()
    world.stored_here(1)
    another = replace(new_instance(1, content="B", received_at=world.clock.now()), orthanc_id="orthanc-1-B")
    world.feed.store(another)
    world.repaired()
    world.begin()
    world.work(90)
    assert world.holder.sent == [uid(1), uid(1)]
    with pytest.raises(PreconditionError) as refused:
        world.settle(override_quiet="test")
    (told,) = refused.value.details
    assert f"{uid(1)} names two patients" in told
    (conflict,) = world.ledger.conflicts.identities_of_epoch(PRIMARY, world.epoch)
    world.ledger.conflicts.acknowledge(conflict.conflict, "ann", "the PACS has both", world.clock.now())
    world.settle(override_quiet="test")


def test_image_of_another_patient_than_the_primarys_own_waits_for_a_person(world: World) -> None:
    world.forwarded(1)
    world.outage()
    another = replace(new_instance(1, content="B", received_at=world.clock.now()), orthanc_id="orthanc-1-B")
    world.feed.store(another)
    world.repaired()
    world.begin()
    world.work(90)
    assert world.holder.sent == [uid(1)]
    (report,) = world.reports.values()
    assert "Settle waits until a person has checked" in report.outcome
    assert any(f"{uid(1)} names two patients" in hint for hint in report.hints)
    with pytest.raises(PreconditionError) as refused:
        world.settle(override_quiet="test")
    assert f"{uid(1)} names two patients" in refused.value.details[0]


def test_report_calls_no_replaced_version_waived(world: World) -> None:
    world.outage()
    world.stored_here(1)
    world.noter.catch_up()
    world.feed.store(new_instance(1, content="C", received_at=world.clock.now()))
    world.repaired()
    world.begin()
    world.work(90)
    (report,) = world.reports.values()
    assert report.outcome == "The PACS has confirmed the one image of this outage."


def test_study_that_cannot_be_asked_for_and_is_proven_forbids_no_settle(world: World) -> None:
    world.forwarded(1, study="1.2.A")
    world.noter.catch_up()
    world.peer.keep("1.2.A", uid(2))
    world.outage()
    world.stored_here(3)
    world.repaired()
    world.begin()
    world.work(90)
    assert latest(world).state is OperationState.DONE
    world.settle(override_quiet="test")


def test_plan_counts_a_correction_among_what_would_be_sent(world: World) -> None:
    world.forwarded(1)
    world.mirror.step()
    world.outage()
    world.feed.store(new_instance(1, content="C", received_at=world.clock.now()))
    world.repaired()
    plan = world.failback.plan()
    assert (plan.found_at_primary, plan.to_send) == (0, {STUDY: 1})


def test_report_names_what_was_waived_and_does_not_call_it_proven(world: World) -> None:
    world.outage()
    world.stored_here(1, 2)
    world.noter.catch_up()
    world.ledger.dead_letters.waive(PRIMARY, [uid(1)], "a test object", "ann", world.clock.now())
    world.repaired()
    world.begin()
    world.work(90)
    (report,) = world.reports.values()
    assert report.outcome == "The PACS has confirmed 1 image of this outage, and 1 other was waived."
    assert [[STUDY, "1", "a test object"]] in [list(table.rows) for table in report.tables]
    operation = world.ledger.operations.latest("failback")
    assert operation is not None
    assert operation.message.startswith("The PACS has confirmed ")
    world.settle(override_quiet="test")
    settled = world.ledger.operations.latest("settle")
    assert settled is not None
    assert settled.message == (
        "The PACS has confirmed 1 image of this outage, and 1 other was waived; it serves the clinic again"
    )


# What the primary has under the UIDs that it lists


def restored(world: World, *names: int) -> None:
    """An outage after which the primary has older contents of these, which it sent here before."""
    world.forwarded(1, 2)
    world.forwarded(3, study="1.2.4")
    world.mirror.step()
    world.outage()
    world.stored_here(4, study="1.2.5")
    world.noter.catch_up()
    world.clock.advance(60)
    world.repaired()
    world.peer.contents = {uid(name): b"as it was before the correction" for name in names}
    world.begin()
    world.work()


def replay(world: World) -> None:
    world.ledger.dead_letters.replay(PRIMARY, None, "ann", world.clock.now())
    world.work()


def test_primary_with_an_older_content_of_a_listed_instance_is_noticed_until_a_person_decides(
    world: World,
) -> None:
    restored(world, 3)
    assert latest(world).state is OperationState.RUNNING
    assert "the PACS refused 1" in latest(world).message
    (letter,) = world.ledger.dead_letters.listed(Selection(PRIMARY))
    assert letter.sop_instance_uid == uid(3)
    assert "may be damaged or come from an older backup" in hint_of(letter.reason)
    for _ in range(2):
        with pytest.raises(PreconditionError) as caught:
            world.settle(override_quiet="test")
        assert caught.value.details[0].startswith(
            f"the primary has another content of instance {uid(3)} of study 1.2.4 than it was proven to have"
        )
    # Replayed while the primary still has it, it is not sent, and differs again.
    replay(world)
    assert uid(3) not in world.holder.sent
    assert len(world.ledger.dead_letters.listed(Selection(PRIMARY))) == 1
    # The older one is deleted there, as the hint says: ours is sent.
    world.peer.lose("1.2.4", uid(3))
    world.peer.contents.clear()
    replay(world)
    assert uid(3) in world.holder.sent
    assert latest(world).state is OperationState.DONE
    world.settle(override_quiet="test")


def test_waived_difference_lets_settle_and_is_named_no_more(world: World) -> None:
    restored(world, 3)
    assert [one.sop_instance_uid for one in world.recheck.undecided()] == [uid(3)]
    world.ledger.dead_letters.waive(PRIMARY, [uid(3)], "corrected at the PACS", "ann", world.clock.now())
    world.work(31)
    assert latest(world).state is OperationState.DONE
    world.settle(override_quiet="test")
    # The next outage takes no new look at it.
    world.clock.advance(60)
    world.outage()
    world.repaired()
    world.begin()
    world.work()
    world.settle(override_quiet="test")


def test_settle_looks_again_at_contents_that_were_the_same_at_the_failback(world: World) -> None:
    restored(world)
    assert latest(world).state is OperationState.DONE
    world.peer.contents = {uid(2): b"damaged"}
    with pytest.raises(PreconditionError) as caught:
        world.settle(override_quiet="test")
    assert f"another content of instance {uid(2)}" in caught.value.details[0]
    assert world.ledger.modes.current().mode is Mode.RETURNING


def test_primary_that_gives_no_image_out_can_be_settled_and_the_report_says_so(world: World) -> None:
    world.peer.gives = False
    restored(world, 3)
    world.settle(override_quiet="test")
    report = world.reports[max(world.reports)]
    rows = {row.name: row.value for row in report.summary}
    assert rows["Images of the sample, fetched again and compared"] == (
        "0 of 2; not the others: it offers no C-GET"
    )
    assert [uid(2), STUDY, "not compared"] in [list(row) for row in report.tables[-1].rows]


def test_every_instance_that_was_corrected_is_compared_and_of_other_studies_the_newest(world: World) -> None:
    world.forwarded(1)
    world.noter.catch_up()
    world.feed.store(new_instance(1, content="B", calling=PRIMARY_AE))
    world.forwarded(2, 3)
    world.noter.catch_up()
    # It is restored to its state before the correction, which it had forwarded.
    world.outage()
    world.repaired()
    world.peer.contents = {uid(1): b"md5-1-A", uid(2): b"never in the sample"}
    world.begin()
    world.work()
    assert [one.sop_instance_uid for one in world.recheck.undecided()] == [uid(1)]


def test_content_that_the_primary_never_showed_is_not_compared(world: World) -> None:
    """It may coerce what a device sends to both; a listing was all the proof there was."""
    world.stored_here(1)
    world.peer.keep(STUDY, uid(1))
    world.mirror.step()
    world.outage()
    world.repaired()
    world.peer.contents = {uid(1): b"coerced"}
    world.begin()
    world.work()
    assert world.recheck.look().different == []
    world.settle(override_quiet="test")
    assert world.ledger.modes.current().mode is Mode.STANDBY


def test_sample_of_a_large_ledger_is_bounded(world: World) -> None:
    for study in range(40):
        world.forwarded(10 * study, 10 * study + 1, study=f"1.2.9.{study}")
    world.noter.catch_up()
    found = world.recheck.look(before=1)
    assert [one.sop_instance_uid for one in found.same] == [uid(10 * one + 1) for one in range(39, 19, -1)]
    assert world.recheck.look(before=0).same == []


def returned(world: World) -> None:
    """An outage of which the failback is done, and nobody has stored here for long enough."""
    outage(world)
    world.begin()
    world.work()
    world.clock.advance(QUIET)


def test_settle_answers_before_the_primary_is_asked_and_tells_how_far_it_is(world: World) -> None:
    returned(world)
    world.peer.silent = True
    asked = world.failback.settle("ann", epoch=world.epoch, override_quiet=None)
    assert (asked.kind, asked.state) == ("settle", OperationState.RUNNING)
    assert world.failback.settle("eve", epoch=world.epoch, override_quiet=None).operation == asked.operation
    with pytest.raises(HolderUnavailableError):
        world.failback.step()
    assert world.ledger.operations.get(asked.operation).message.startswith("waits: ")
    world.peer.silent = False
    world.failback.step()
    ended = world.ledger.operations.get(asked.operation)
    assert (ended.state, ended.done, ended.total) == (OperationState.DONE, 2, 2)
    assert world.ledger.modes.current().mode is Mode.STANDBY
    assert world.reports[ended.operation].hints == ()
    settled = next(row for row in dump(world.ledger)["events"] if row[3] == "settle")
    assert settled[2] == "ann"


def test_settle_goes_on_after_a_restart_with_who_asked_and_why(world: World) -> None:
    returned(world)
    world.stored_here(21)
    world.work(180)
    asked = world.failback.settle("ann", epoch=world.epoch, override_quiet="CT1 was switched by hand")
    world.restart()
    world.failback.step()
    assert world.ledger.operations.get(asked.operation).state is OperationState.DONE
    (settled,) = [row for row in dump(world.ledger)["events"] if row[3] == "settle"]
    assert settled[2] == "ann"
    assert "CT1 was switched by hand" in str(settled)


def test_settle_that_was_cancelled_or_interrupted_changes_no_mode(world: World) -> None:
    returned(world)
    asked = world.failback.settle("ann", epoch=world.epoch, override_quiet=None)

    def cancelled(_study: StudyInstanceUid) -> None:
        world.ledger.operations.update(
            asked.operation, now=world.clock.now(), state=OperationState.CANCELLED, message="cancelled"
        )

    world.peer.after_instances = cancelled
    world.failback.step()
    assert world.ledger.modes.current().mode is Mode.RETURNING
    world.peer.after_instances = lambda _study: None
    second = world.failback.settle("ann", epoch=world.epoch, override_quiet=None)
    world.failback.interrupt("bob", reason="the PACS fails again", epoch=world.epoch)
    assert world.ledger.operations.get(second.operation).state is OperationState.CANCELLED
    world.failback.step()
    assert world.ledger.modes.current().mode is Mode.ACTIVE


def test_settle_that_crashes_after_any_write_ends_settled_once(tmp_path: Path) -> None:
    def settling(world: World, point: int) -> int:
        returned(world)
        world.failback.settle("ann", epoch=world.epoch, override_quiet=None)
        with suppress(CrashError), crash_after(world.ledger, point, only_writes=True) as writes:
            world.failback.step()
        return writes()

    undisturbed = World(tmp_path / "undisturbed.sqlite")
    total = settling(undisturbed, 0)
    undisturbed.ledger.close()
    assert total > 3
    for point in range(1, total + 1):
        world = World(tmp_path / f"{point}.sqlite")
        settling(world, point)
        world.restart()
        world.failback.step()
        asked = world.ledger.operations.latest("settle")
        assert asked is not None
        assert asked.state is OperationState.DONE, point
        assert world.ledger.modes.current().mode is Mode.STANDBY
        assert len([row for row in dump(world.ledger)["events"] if row[3] == "settle"]) == 1
        world.ledger.close()


# What a settle must not pass over


def test_settle_left_by_a_crash_in_an_interruption_settles_no_later_failback(world: World) -> None:
    returned(world)
    asked = world.failback.settle("ann", epoch=world.epoch, override_quiet="at night")
    # The process ends between the change of mode and the end of the operation.
    world.ledger.modes.change(
        ModeEvent.INTERRUPT, epoch=world.epoch, who="bob", fields={"reason": "no"}, now=world.clock.now()
    )
    world.restart()
    world.failback.step()
    assert world.ledger.operations.get(asked.operation).state is OperationState.CANCELLED


def test_settle_of_an_interrupted_failback_does_not_end_the_next_one(world: World) -> None:
    returned(world)
    asked = world.failback.settle("ann", epoch=world.epoch, override_quiet="at night")
    for event in (ModeEvent.INTERRUPT, ModeEvent.FAILBACK):
        world.clock.advance(1)
        world.ledger.modes.change(
            event, epoch=world.epoch, who="bob", fields={"reason": "no"}, now=world.clock.now()
        )
    world.restart()
    world.failback.step()
    assert world.ledger.operations.get(asked.operation).state is OperationState.CANCELLED
    assert world.ledger.modes.current().mode is Mode.RETURNING


def test_settle_notes_what_came_while_it_asked_the_primary(world: World) -> None:
    returned(world)
    late = iter([30])

    def store(_study: StudyInstanceUid) -> None:
        for name in late:
            world.stored_here(name)

    world.peer.after_instances = store
    with pytest.raises(PreconditionError) as caught:
        world.settle(override_quiet="test")
    assert caught.value.details == ("the primary has not confirmed 1 image",)


def test_settle_waits_for_a_rescan_which_may_find_owed_instances(world: World) -> None:
    returned(world)
    world.ledger.intake.begin_rescan(
        "Orthanc has another index", cursor=world.feed.end(), now=world.clock.now()
    )
    with pytest.raises(PreconditionError) as caught:
        world.settle()
    assert "a rescan has not ended" in caught.value.details[0]
    rescan = world.ledger.operations.latest("rescan", running=True)
    assert rescan is not None
    world.ledger.operations.update(rescan.operation, now=world.clock.now(), state=OperationState.DONE)
    world.settle()


@pytest.mark.parametrize("delivered", [False, True])
def test_correction_in_place_of_which_an_older_content_came_back_waits_for_a_person(
    world: World, delivered: bool
) -> None:
    world.forwarded(1)
    world.mirror.step()
    world.outage()
    world.clock.advance(1)
    world.feed.store(new_instance(1, content="C", received_at=world.clock.now()))
    world.repaired()
    world.begin()
    world.work(90 if delivered else 1)
    assert (world.holder.sent == [uid(1)]) is delivered
    # The restored primary forwards its studies again.
    world.feed.store(new_instance(1, calling=PRIMARY_AE, attachment="again", received_at=world.clock.now()))
    world.work(90)
    if delivered:
        world.settle(override_quiet="test")
        return
    with pytest.raises(PreconditionError) as caught:
        world.settle(override_quiet="test")
    (told,) = caught.value.details
    assert f"an older content of SOP Instance UID {uid(1)} took the place of one of this outage" in told
    (conflict,) = world.ledger.conflicts.undone_in_epoch(PRIMARY, world.epoch)
    world.ledger.conflicts.acknowledge(conflict.conflict, "ann", "sent by hand", world.clock.now())
    world.settle(override_quiet="test")


def test_content_that_was_replaced_before_it_was_noted_keeps_no_settle(world: World) -> None:
    world.outage()
    world.clock.advance(1)
    world.feed.store(new_instance(1, content="C", received_at=world.clock.now()))
    world.noter.catch_up()
    assert world.ledger.conflicts.keep_version(new_instance(1, content="B"), [], world.clock.now())
    world.clock.advance(60)
    world.repaired()
    world.begin()
    world.work(90)
    world.settle(override_quiet="test")
