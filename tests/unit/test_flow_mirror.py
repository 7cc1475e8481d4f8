"""Mirror: gaps, departures and the horizon."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from understudy.core.model import SopInstanceUid, StudyInstanceUid
from understudy.core.obligations import ObligationState
from understudy.core.ports import HolderUnavailableError, UnansweredError
from understudy.core.views import iso

from tests.unit.fakes import NOW, PRIMARY, PROOF, STUDY, dump, new_instance, numbers_of
from tests.unit.world import World, uid


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path / "ledger.sqlite")
    yield found
    found.ledger.close()


def test_mirror_of_two_that_agree_asks_for_no_instance(world: World) -> None:
    world.forwarded(1, 2)
    comparison = world.mirror.step()
    assert (comparison.studies, comparison.diffs) == (1, ())
    assert world.peer.asked == []
    assert world.mirror.horizon == NOW


def test_mirror_asks_for_every_instance_of_a_primary_that_does_not_count(world: World) -> None:
    world.peer.counts = False
    world.forwarded(1, 2)
    world.mirror.step()
    assert world.peer.asked == [STUDY]
    assert world.mirror.horizon == NOW


def test_gap_of_a_whole_study_is_pulled_as_one(world: World) -> None:
    world.peer.keep(STUDY, uid(1), uid(2))
    assert world.mirror.step().missing_here() == {}
    assert world.peer.moved == [STUDY]


def test_gap_that_a_pull_of_the_study_leaves_is_pulled_by_instance(world: World) -> None:
    world.peer.keep(STUDY, uid(1), uid(2))
    world.peer.unmovable = {uid(2)}
    assert world.mirror.step().missing_here() == {}
    assert world.peer.moved == [STUDY, uid(2)]


def test_gap_in_a_study_is_pulled_by_instance_and_then_proven_at_the_primary(world: World) -> None:
    world.forwarded(1)
    world.peer.keep(STUDY, uid(2), uid(3))
    comparison = world.mirror.step()
    assert comparison.missing_here() == {}
    assert world.peer.moved == [uid(2), uid(3)]
    assert len(numbers_of(world.ledger)) == 3
    assert world.ledger.tally()[PRIMARY] == {ObligationState.PROVEN: 3}
    assert world.ledger.read_gaps() == []
    assert world.mirror.horizon == NOW


def test_gap_is_left_to_the_primarys_forwarding_until_patience_ends(world: World) -> None:
    world.peer.keep(STUDY, uid(1))
    world.mirror.step(patience=60)
    assert world.peer.moved == []
    assert [gap.instances for gap in world.ledger.read_gaps()] == [1]
    assert world.mirror.horizon is None
    world.clock.advance(60)
    world.mirror.step(patience=60)
    assert world.peer.moved == [STUDY]
    assert world.mirror.horizon == NOW + 60


def test_gap_that_cannot_be_pulled_stays_and_the_horizon_stands(world: World) -> None:
    world.mirror.step()
    world.peer.keep(STUDY, uid(1))
    world.peer.move_status = 0xA801
    world.clock.advance(10)
    assert world.mirror.step().missing_here() == {STUDY: 1}
    assert [(gap.instances, gap.since) for gap in world.ledger.read_gaps()] == [(1, NOW + 10)]
    assert world.mirror.horizon == NOW


def test_horizon_is_the_moment_before_the_question_was_asked(world: World) -> None:
    world.peer.counts = False
    world.forwarded(1)
    world.peer.after_instances = lambda _study: world.clock.advance(30)  # type: ignore[assignment]
    world.mirror.step()
    assert world.mirror.horizon == NOW


def test_primary_that_falls_silent_moves_nothing(world: World) -> None:
    world.forwarded(1)
    world.mirror.step()
    before = dump(world.ledger)
    world.peer.silent = True
    with pytest.raises(HolderUnavailableError):
        world.mirror.step()
    assert dump(world.ledger) == before


def test_what_the_primary_has_already_is_found_and_not_owed_any_more(world: World) -> None:
    world.stored_here(1, 2)
    world.peer.keep(STUDY, uid(1))
    world.mirror.step()
    one, two = numbers_of(world.ledger)
    assert world.ledger.states_of(PRIMARY, STUDY) == {one: ObligationState.PROVEN, two: ObligationState.OWED}


def test_deletion_at_the_primary_is_shown_and_changes_nothing_here(world: World) -> None:
    world.forwarded(1, 2)
    world.forwarded(3, study="1.2.4")
    world.mirror.step()
    world.peer.lose(STUDY, uid(1))
    world.peer.lose("1.2.4", uid(3))
    world.mirror.step()
    departed = {found.study: found.instances for found in world.ledger.read_departures()}
    assert departed == {STUDY: 1, StudyInstanceUid("1.2.4"): 1}
    assert world.ledger.tally()[PRIMARY] == {ObligationState.PROVEN: 3}
    world.peer.keep(STUDY, uid(1))
    world.mirror.step()
    assert [found.study for found in world.ledger.read_departures()] == ["1.2.4"]


def test_instance_that_the_lane_takes_while_the_mirror_looks_is_no_fault(world: World) -> None:
    world.stored_here(1, 2)
    world.peer.keep(STUDY, uid(1), uid(2))

    def meanwhile(study: StudyInstanceUid) -> None:
        one, two = numbers_of(world.ledger, study)
        world.ledger.claim(PRIMARY, [one], now=NOW)
        world.ledger.find(PRIMARY, {two: PROOF}, now=NOW)

    world.peer.after_instances = meanwhile
    world.mirror.step()
    one, two = numbers_of(world.ledger)
    assert world.ledger.states_of(PRIMARY, STUDY) == {
        one: ObligationState.IN_FLIGHT,
        two: ObligationState.PROVEN,
    }


def test_comparison_changes_nothing(world: World) -> None:
    world.stored_here(1)
    world.noter.catch_up()
    world.peer.keep(STUDY, uid(1), uid(2))
    before = dump(world.ledger)
    comparison = world.mirror.compare()
    assert comparison.missing_here() == {STUDY: 1}
    assert dump(world.ledger) == before


def test_two_versions_of_an_instance_count_once(world: World) -> None:
    world.forwarded(1)
    world.noter.catch_up()
    world.feed.store(new_instance(1, content="coerced", calling="PRIMARY"))
    world.mirror.step()
    assert world.peer.asked == []


def test_mirror_is_due_first_then_by_interval_and_earlier_for_a_gap_that_had_its_patience(
    world: World,
) -> None:
    def is_due() -> bool:
        return world.mirror.is_due(interval=300, patience=60)

    assert is_due()
    world.mirror.step(patience=60)
    world.clock.advance(299)
    assert not is_due()
    world.clock.advance(1)
    assert is_due()
    world.peer.keep(STUDY, uid(1))
    world.mirror.step(patience=60)
    world.clock.advance(59)
    assert not is_due()
    world.clock.advance(1)
    assert is_due()
    world.mirror.step(patience=60)
    world.mirror.forget_look()
    assert is_due()


@given(steps=st.lists(st.integers(-7200, 400), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_mirror_is_due_and_claims_no_horizon_ahead_however_the_clock_is_set(steps: list[int]) -> None:
    with TemporaryDirectory() as folder:
        world = World(Path(folder) / "ledger.sqlite")
        world.mirror.step()
        for step in steps:
            world.clock.advance(step)
            horizon = world.mirror.horizon
            assert horizon is None or horizon <= world.clock.now()
            assert world.mirror.is_due(interval=300, patience=60) == (not 0 <= step < 300)
            world.mirror.step()
            assert world.mirror.horizon == world.clock.now()
        world.ledger.close()


def test_gap_that_was_found_ahead_of_a_clock_that_was_set_back_is_pulled(world: World) -> None:
    world.peer.keep(STUDY, uid(1))
    world.mirror.step(patience=60)
    world.clock.advance(-3600)
    assert world.mirror.is_due(interval=300, patience=60)
    world.mirror.step(patience=60)
    assert world.peer.moved == [STUDY]
    assert world.mirror.horizon == NOW - 3600


def test_study_that_the_primary_cannot_list_stops_no_other_and_the_horizon_stands(world: World) -> None:
    world.peer.keep("1.2.1", uid(1))
    world.peer.keep(STUDY, uid(2))
    world.peer.capped = {"1.2.1"}
    comparison = world.mirror.step()
    assert comparison.unanswered == ("1.2.1",)
    assert len(numbers_of(world.ledger)) == 1
    assert world.mirror.horizon is None
    world.peer.capped = set()
    assert world.mirror.step().unanswered == ()
    assert world.mirror.horizon == NOW


def test_study_that_the_list_leaves_out_is_no_departure_and_the_horizon_stands(world: World) -> None:
    world.forwarded(1)
    world.forwarded(2, 3, study="1.2.4")
    world.peer.unlisted = {"1.2.4"}
    world.peer.keep("1.2.4", uid(4))
    for _ in range(2):
        comparison = world.mirror.step(believe_departures=True)
        assert (comparison.studies, comparison.unlisted) == (1, ("1.2.4",))
        assert world.ledger.read_departures() == []
        assert world.mirror.horizon is None
        (alarm,) = world.mirror.alarms()
        assert (alarm.since, alarm.what) == (
            iso(NOW),
            "the primary's list of studies leaves out 1 that it has",
        )
        world.clock.advance(300)
    assert len(numbers_of(world.ledger, "1.2.4")) == 3
    world.peer.unlisted = set()
    world.mirror.step()
    assert world.mirror.alarms() == []
    assert world.mirror.horizon == NOW + 600


def test_study_that_comes_while_the_mirror_looks_does_not_mean_that_the_list_is_cut(world: World) -> None:
    world.peer.keep("1.2.1", uid(1))
    world.stored_here(2, study="1.2.5")
    world.forwarded(3, study="1.2.1")
    world.peer.after_instances = lambda _study: world.peer.keep("1.2.5", uid(2))
    comparison = world.mirror.step()
    assert [(diff.study, diff.listed) for diff in comparison.diffs] == [("1.2.1", 2), ("1.2.5", 1)]
    assert (comparison.unlisted, world.mirror.alarms()) == ((), [])


def test_study_that_departed_whole_is_asked_for_once_and_again_where_it_matters(world: World) -> None:
    world.forwarded(1, 2)
    world.mirror.step()
    world.peer.lose(STUDY, uid(1))
    world.mirror.step(believe_departures=True)
    world.peer.lose(STUDY, uid(2))
    world.peer.asked.clear()
    for _ in range(3):
        world.mirror.step(believe_departures=True)
        assert [found.instances for found in world.ledger.read_departures()] == [2]
    assert world.peer.asked == [STUDY]
    world.mirror.step()
    assert world.peer.asked == [STUDY, STUDY]


@pytest.mark.parametrize(("studies", "error"), [(51, UnansweredError), (4, HolderUnavailableError)])
def test_many_studies_in_a_row_without_an_answer_mean_that_the_primary_is_unavailable(
    world: World, studies: int, error: type[HolderUnavailableError]
) -> None:
    def fail(_study: object) -> None:
        raise error("primary", "it fails", "mend it")

    for number in range(studies):
        world.forwarded(number, study=f"1.2.{number}")
        world.peer.keep(f"1.2.{number}", uid(number + 1000))
    world.noter.catch_up()
    world.peer.after_instances = fail
    with pytest.raises(error):
        world.mirror.step()
    assert len(world.peer.asked) == studies - 1


def test_study_of_which_nothing_is_here_is_pulled_without_a_question_for_its_images(world: World) -> None:
    world.peer.keep("1.2.9", uid(1), uid(2))
    world.peer.keep("1.2.1", uid(3))
    asked_before_a_pull: list[list[str]] = []
    receive = world.peer.receive

    def watch(study: StudyInstanceUid, one: SopInstanceUid) -> None:
        asked_before_a_pull.append(list(world.peer.asked))
        receive(study, one)

    world.peer.receive = watch
    comparison = world.mirror.step()
    assert asked_before_a_pull[0] == []
    assert world.peer.moved == ["1.2.9", "1.2.1"], "not in the order of the list"
    assert comparison.missing_here() == {}
    assert world.mirror.horizon == NOW


def receives_slowly(world: World) -> None:
    """Let each instance that is pulled take longer than a step has time for."""
    receive = world.peer.receive

    def slowly(study: StudyInstanceUid, one: SopInstanceUid) -> None:
        receive(study, one)
        world.clock.advance(61)

    world.peer.receive = slowly


def test_what_cannot_be_pulled_in_time_is_left_to_the_next_step_at_once(world: World) -> None:
    for number in range(3):
        world.peer.keep(f"1.2.{number}", uid(number))
    receives_slowly(world)
    seen = []
    for _ in range(3):
        assert world.mirror.is_due(interval=300, patience=60)
        comparison = world.mirror.step()
        seen.append((len(world.peer.moved), comparison.interrupted, world.ledger.tally_gaps().studies))
    assert seen == [(1, True, 2), (2, True, 1), (3, False, 0)]
    assert not world.mirror.is_due(interval=300, patience=60)


def test_gap_that_takes_all_the_time_and_cannot_be_pulled_holds_up_no_other(world: World) -> None:
    for number in range(3):
        world.peer.keep(f"1.2.{number}", uid(number))
    world.peer.unmovable = {uid(0)}

    def slowly(study: StudyInstanceUid) -> None:
        world.clock.advance(61 if study == "1.2.0" else 0)

    world.peer.after_instances = slowly
    receive = world.peer.receive
    world.peer.receive = lambda study, one: None if one == uid(0) else receive(study, one)
    for _ in range(2):
        world.mirror.step()
    assert [gap.study for gap in world.ledger.read_gaps()] == ["1.2.0"]
    world.peer.moved.clear()
    world.mirror.step()
    assert world.peer.moved[0] == "1.2.0", "not tried again"


def test_study_that_grows_after_its_turn_is_pulled_before_the_rest_of_the_history(world: World) -> None:
    for number in range(4):
        world.peer.keep(f"1.2.{number}", uid(number))
    receives_slowly(world)
    world.mirror.step()
    world.peer.keep("1.2.0", uid(10))
    world.mirror.step()
    assert world.peer.moved == ["1.2.0", uid(10)]


def test_study_of_which_the_primary_says_nothing_is_an_alarm_until_it_does(world: World) -> None:
    world.forwarded(1)
    world.peer.overcounted = {STUDY}
    for _ in range(2):
        world.mirror.step()
        (alarm,) = world.mirror.alarms()
        assert (alarm.since, "about the images of 1 studies" in alarm.what) == (iso(NOW), True)
        assert STUDY in alarm.hint
        world.clock.advance(300)
    world.peer.overcounted = set()
    world.mirror.step()
    assert world.mirror.alarms() == []


def test_primary_that_does_not_send_what_it_is_asked_for_is_an_alarm_until_it_does(world: World) -> None:
    world.peer.keep(STUDY, uid(1))
    world.peer.keep("1.2.2", uid(2))
    world.peer.move_status = 0xC000
    for _ in range(2):
        world.mirror.step()
        (alarm,) = world.mirror.alarms()
        assert alarm.since == iso(NOW)
        assert "missing here of 2 studies: C-MOVE ended with status 0xC000" in alarm.what
        assert "knows the AE title" in alarm.hint
        world.clock.advance(300)
    world.peer.move_status = 0
    world.mirror.step()
    assert world.mirror.alarms() == []


def test_study_that_is_left_to_another_time_is_not_pulled(world: World) -> None:
    world.peer.keep("1.2.1", uid(1))
    world.peer.keep("1.2.2", uid(2))
    comparison = world.mirror.step(leave={StudyInstanceUid("1.2.1")})
    assert world.peer.moved == ["1.2.2"]
    assert comparison.missing_here() == {"1.2.1": 1}


def test_study_that_is_counted_too_high_holds_the_horizon_and_nothing_else(world: World) -> None:
    world.forwarded(1)
    world.peer.overcounted = {STUDY}
    comparison = world.mirror.step()
    assert (comparison.capped, comparison.unanswered, comparison.missing_here()) == ((STUDY,), (), {})
    assert world.mirror.horizon is None
    world.peer.lose(STUDY, uid(1))
    world.peer.keep(STUDY, uid(2))
    assert world.mirror.step().unanswered == (STUDY,), "what it does not list it may have"


def test_study_whose_uid_cannot_be_asked_for_stops_no_other(world: World) -> None:
    world.peer.keep("1.2.*", uid(1))
    world.peer.keep(STUDY, uid(2))
    world.stored_here(3, study="1.2.\u0416")
    comparison = world.mirror.step()
    assert comparison.unanswered == ("1.2.*",)
    assert world.peer.moved == [STUDY]
    assert world.mirror.horizon is None
