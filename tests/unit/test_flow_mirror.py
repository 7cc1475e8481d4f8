"""Mirror: gaps, departures and the horizon."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from understudy.core.model import SeriesInstanceUid, SopInstanceUid, StudyInstanceUid, Timestamp
from understudy.core.obligations import ObligationState
from understudy.core.ports import BusyError, HolderUnavailableError, UnansweredError
from understudy.core.rounds import CHANGED_SECONDS, SLOW_ROUND_SECONDS
from understudy.core.views import iso

from tests.unit.fakes import NOW, PRIMARY, PROOF, STUDY, dump, new_instance, numbers_of
from tests.unit.world import World, uid

LONG = CHANGED_SECONDS + 1
"""Seconds after which what was received is recent no more."""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path / "ledger.sqlite")
    yield found
    found.ledger.close()


def test_mirror_of_two_that_agree_for_long_asks_for_no_instance(world: World) -> None:
    world.forwarded(1, 2)
    world.clock.advance(LONG)
    comparison = world.mirror.step()
    assert (comparison.studies, comparison.diffs) == (1, ())
    assert world.peer.asked == []
    assert world.mirror.horizon == NOW + LONG


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
    assert world.ledger.obligations.tally()[PRIMARY] == {ObligationState.PROVEN: 3}
    assert world.ledger.gaps.read() == []
    assert world.mirror.horizon == NOW


def test_gap_is_left_to_the_primarys_forwarding_until_patience_ends(world: World) -> None:
    world.peer.keep(STUDY, uid(1))
    world.mirror.step(patience=60)
    assert world.peer.moved == []
    assert [gap.instances for gap in world.ledger.gaps.read()] == [1]
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
    assert [(gap.instances, gap.since) for gap in world.ledger.gaps.read()] == [(1, NOW + 10)]
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
    assert world.ledger.obligations.of_study(PRIMARY, STUDY) == {
        one: ObligationState.PROVEN,
        two: ObligationState.OWED,
    }


def test_deletion_at_the_primary_is_shown_and_changes_nothing_here(world: World) -> None:
    world.forwarded(1, 2)
    world.forwarded(3, study="1.2.4")
    world.mirror.step()
    world.peer.lose(STUDY, uid(1))
    world.peer.lose("1.2.4", uid(3))
    world.mirror.step()
    departed = {found.study: found.instances for found in world.ledger.gaps.read_departures()}
    assert departed == {STUDY: 1, StudyInstanceUid("1.2.4"): 1}
    assert world.ledger.obligations.tally()[PRIMARY] == {ObligationState.PROVEN: 3}
    world.peer.keep(STUDY, uid(1))
    world.mirror.step()
    assert [found.study for found in world.ledger.gaps.read_departures()] == ["1.2.4"]


def test_departure_stays_known_while_the_primary_has_no_answer_about_the_study(world: World) -> None:
    world.forwarded(1, 2)
    world.mirror.step()
    world.peer.lose(STUDY, uid(1))
    world.mirror.step()
    world.peer.capped = {STUDY}
    for _ in range(2):
        world.mirror.step()
        assert [found.instances for found in world.ledger.gaps.read_departures()] == [1]
        assert "no usable answer" in world.mirror.doubt(STUDY)
    world.peer.capped = set()
    world.mirror.step()
    assert world.mirror.doubt(STUDY) == "the primary no longer lists 1 image of the study"
    world.peer.keep(STUDY, uid(1))
    world.mirror.step()
    assert world.mirror.doubt(STUDY) == ""


def test_instance_that_the_lane_takes_while_the_mirror_looks_is_no_fault(world: World) -> None:
    world.stored_here(1, 2)
    world.peer.keep(STUDY, uid(1), uid(2))

    def meanwhile(study: StudyInstanceUid) -> None:
        one, two = numbers_of(world.ledger, study)
        world.ledger.custody.claim(PRIMARY, [one], now=NOW)
        world.ledger.custody.find(PRIMARY, {two: PROOF}, now=NOW)

    world.peer.after_instances = meanwhile
    world.mirror.step()
    one, two = numbers_of(world.ledger)
    assert world.ledger.obligations.of_study(PRIMARY, STUDY) == {
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
    world.clock.advance(LONG)
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


@given(steps=st.lists(st.tuples(st.integers(-7200, 7200), st.integers(0, 400)), min_size=1, max_size=20))
@settings(max_examples=30, deadline=None)
def test_mirror_is_due_and_claims_no_horizon_ahead_however_the_clock_is_set(
    steps: list[tuple[int, int]],
) -> None:
    with TemporaryDirectory() as folder:
        world = World(Path(folder) / "ledger.sqlite")
        world.mirror.step()
        back = 0
        for step, seconds in steps:
            world.clock.set_by(step)
            world.clock.advance(seconds)
            horizon = world.mirror.horizon
            assert horizon is None or horizon <= world.clock.now()
            assert world.mirror.is_due(interval=300, patience=60) == (seconds >= 300)
            world.mirror.step()
            # A moment that the clock shows twice is taken for the earlier of both.
            back += max(0, -step)
            assert world.mirror.horizon is not None
            assert world.clock.now() - back <= world.mirror.horizon <= world.clock.now()
        world.ledger.close()


def test_gap_that_was_found_ahead_of_a_clock_that_was_set_back_is_pulled(world: World) -> None:
    world.peer.keep(STUDY, uid(1))
    world.mirror.step(patience=60)
    world.clock.advance(-3600)
    world.mirror.step(patience=60)
    assert world.peer.moved == [], "the step gave the primary's forwarding no more time, and no less"
    world.clock.advance(60)
    assert world.mirror.is_due(interval=300, patience=60)
    world.mirror.step(patience=60)
    assert world.peer.moved == [STUDY]
    assert world.mirror.horizon == NOW - 3540


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
        assert world.ledger.gaps.read_departures() == []
        assert world.mirror.horizon is None
        (alarm,) = world.mirror.alarms()
        assert (alarm.since, alarm.what) == (
            iso(NOW),
            "the primary's list of studies is cut: it leaves out 1 study that it has",
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
        assert [found.instances for found in world.ledger.gaps.read_departures()] == [2]
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
        seen.append((len(world.peer.moved), comparison.interrupted, world.ledger.gaps.tally().studies))
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
    assert [gap.study for gap in world.ledger.gaps.read()] == ["1.2.0"]
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
        assert (alarm.since, "cannot compare 1 of the 1 study" in alarm.what) == (iso(NOW), True)
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
        assert "missing images of 2 studies: it answered C-MOVE with status 0xC000, and" in alarm.what
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


# Counts that prove nothing


def test_primary_that_does_not_count_is_asked_for_each_old_study_once_and_then_in_slow_rounds(
    world: World,
) -> None:
    world.peer.counts = False
    for number in range(24):
        world.forwarded(number, study=f"1.2.{number}")
    world.clock.advance(LONG)
    world.mirror.step()
    assert len(world.peer.asked) == 24
    assert world.mirror.horizon == world.clock.now()
    world.peer.asked.clear()
    for _ in range(24):
        world.clock.advance(300)
        world.mirror.step()
        assert world.mirror.horizon == world.clock.now()
    assert len(world.peer.asked) == 24 * 24 * 300 // SLOW_ROUND_SECONDS


def test_primary_that_does_not_count_is_mirrored_before_it_is_asked_for_any_image(world: World) -> None:
    world.peer.counts = False
    world.peer.keep("1.2.9", uid(1), uid(2))
    world.peer.keep("1.2.1", uid(3))
    world.mirror.step(patience=60)
    assert (world.peer.asked, world.mirror.horizon) == ([], None)
    assert world.ledger.gaps.tally().instances == 2, "a study without a count is one missing image at least"
    world.clock.advance(60)
    assert world.mirror.step(patience=60).missing_here() == {}
    assert world.peer.moved == ["1.2.9", "1.2.1"]
    assert (
        len(numbers_of(world.ledger))
        + len(numbers_of(world.ledger, "1.2.9"))
        + len(numbers_of(world.ledger, "1.2.1"))
        == 3
    )
    assert world.mirror.horizon == NOW + 60


@pytest.mark.parametrize("lately", ["by its date", "by its images"])
def test_image_that_came_for_another_that_went_is_pulled_at_the_next_look(world: World, lately: str) -> None:
    if lately == "by its date":
        world.peer.dates[STUDY] = datetime.fromtimestamp(NOW, UTC).strftime("%Y%m%d")
    world.forwarded(1, 2)
    world.clock.advance(LONG if lately == "by its date" else 60)
    world.mirror.step()
    world.peer.lose(STUDY, uid(1))
    world.peer.keep(STUDY, uid(3))
    world.clock.advance(300)
    comparison = world.mirror.step()
    assert world.peer.moved == [uid(3)]
    assert [len(diff.lost) for diff in comparison.diffs] == [1]
    assert world.mirror.horizon == world.clock.now()


@pytest.mark.parametrize("step", [-30 * 86_400, 30 * 86_400])
def test_study_that_changed_lately_stays_so_and_the_slow_round_slow_however_the_clock_is_set(
    world: World, step: float
) -> None:
    for number in range(10):
        world.forwarded(number, study=f"1.2.{number}")
    world.clock.advance(LONG)
    world.mirror.step()
    world.forwarded(10, study="1.2.9")
    world.mirror.step()
    world.peer.asked.clear()
    world.clock.set_by(step)
    world.clock.advance(300)
    world.mirror.step()
    assert world.peer.asked == ["1.2.9"]
    assert world.mirror.horizon == world.clock.now()


@pytest.mark.parametrize("step", [-30 * 86_400, 30 * 86_400])
def test_horizon_goes_back_with_the_clock_and_not_forward(world: World, step: float) -> None:
    world.mirror.step()
    world.clock.set_by(step)
    world.clock.advance(100)
    assert world.mirror.horizon == NOW + min(step, 0)


def test_exchange_in_an_old_study_is_pulled_within_the_slow_round_and_not_forgotten_before(
    world: World,
) -> None:
    world.forwarded(1, 2)
    world.clock.advance(LONG)
    world.mirror.step()
    world.peer.lose(STUDY, uid(1))
    world.peer.keep(STUDY, uid(3))
    world.clock.advance(SLOW_ROUND_SECONDS)
    world.mirror.step(patience=60)
    assert (world.peer.moved, world.ledger.gaps.tally().instances) == ([], 1)
    world.clock.advance(60)
    world.mirror.step(patience=60)
    assert (world.peer.moved, world.ledger.gaps.tally().instances) == ([uid(3)], 0)
    for _ in range(3):
        world.clock.advance(300)
        world.mirror.step()
        assert [found.instances for found in world.ledger.gaps.read_departures()] == [1]


def test_studies_that_take_longer_than_a_look_has_share_the_turns_and_date_the_horizon(world: World) -> None:
    today = datetime.fromtimestamp(NOW, UTC).strftime("%Y%m%d")
    for number in range(4):
        world.forwarded(number, study=f"1.2.{number}")
        world.peer.dates[f"1.2.{number}"] = today
    world.peer.after_instances = lambda _study: world.clock.advance(31)  # type: ignore[assignment]
    horizons = []
    for _ in range(4):
        world.mirror.step()
        horizons.append(world.mirror.horizon)
        world.clock.advance(300)
    assert world.peer.asked == [f"1.2.{number}" for number in (0, 1, 2, 3, 0, 1, 2, 3)]
    assert horizons[0] is None
    assert horizons[1:] == [NOW, NOW + 362, NOW + 724]


def test_studies_that_were_never_compared_go_on_at_once(world: World) -> None:
    world.peer.counts = False
    for number in range(3):
        world.forwarded(number, study=f"1.2.{number}")
    world.peer.after_instances = lambda _study: world.clock.advance(61)  # type: ignore[assignment]
    due = []
    for _ in range(3):
        world.mirror.step()
        due.append(world.mirror.is_due(interval=300, patience=60))
    assert due == [True, True, False]


def test_primary_that_always_counts_wrongly_is_not_asked_for_every_image_at_every_look(world: World) -> None:
    world.forwarded(1, 2)
    count = world.peer._count
    world.peer._count = lambda study: (count(study) or 0) - 1  # type: ignore[method-assign]
    world.clock.advance(LONG)
    for _ in range(3):
        world.mirror.step()
        assert world.mirror.horizon == world.clock.now()
        world.clock.advance(300)
    assert world.peer.asked == [STUDY]


@pytest.mark.parametrize("counts", [True, False])
def test_study_without_a_listed_image_is_moved_and_never_complete(world: World, *, counts: bool) -> None:
    world.peer.counts = counts
    world.peer.imageless = {STUDY}
    world.peer.keep(STUDY, uid(1), uid(2))
    world.peer.keep("1.2.4", uid(3))
    for _ in range(3):
        comparison = world.mirror.step()
        assert comparison.unanswered == (STUDY,)
        (alarm,) = world.mirror.alarms()
        assert alarm.since == iso(NOW)
        assert alarm.what == (
            "this standby cannot compare 1 of the 2 studies that the primary lists: it lists no image of it"
        )
        world.clock.advance(300)
    assert world.peer.moved == [STUDY, "1.2.4"]
    assert len(numbers_of(world.ledger)) == 2
    assert (world.mirror.horizon, world.ledger.gaps.tally().instances) == (None, 0)
    if counts:
        world.peer.keep(STUDY, uid(4))
        world.mirror.step()
        assert world.peer.moved == [STUDY, "1.2.4", STUDY]
        assert len(numbers_of(world.ledger)) == 3
    world.peer.imageless = set()
    world.mirror.step()
    assert (world.mirror.alarms(), world.mirror.horizon) == ([], world.clock.now())


def test_many_studies_without_a_listed_image_are_all_moved(world: World) -> None:
    for number in range(60):
        world.peer.keep(f"1.2.{number}", uid(number))
    world.peer.imageless = {f"1.2.{number}" for number in range(60)}
    world.mirror.step()
    assert len(world.peer.moved) == 60
    assert world.mirror.horizon is None


def test_many_studies_about_whose_images_nothing_is_answered_are_all_moved(world: World) -> None:
    for number in range(120):
        world.peer.keep(f"1.2.{number}", uid(number))
    world.peer.capped = {f"1.2.{number}" for number in range(120)}
    world.mirror.step()
    assert len(world.peer.moved) == 120
    world.peer.keep("1.2.500", uid(500))
    for _ in range(4):
        world.clock.advance(300)
        world.mirror.step()
    assert world.peer.moved[120:] == ["1.2.500"]
    assert world.mirror.horizon is None
    (alarm,) = world.mirror.alarms()
    assert "cannot compare 120 of the 121 studies" in alarm.what


def test_study_of_which_all_was_given_up_is_compared_where_nothing_is_counted(world: World) -> None:
    world.peer.counts = False
    world.stored_here(1)
    world.noter.catch_up()
    world.ledger.dead_letters.waive(PRIMARY, [uid(1)], "a test object", "ann", NOW)
    world.peer.keep(STUDY, uid(2))
    world.clock.advance(LONG)
    world.mirror.step()
    assert world.peer.moved == [STUDY]


def test_study_without_a_usable_answer_is_asked_again_and_delays_no_other(world: World) -> None:
    world.peer.counts = False
    for number in range(3):
        world.forwarded(number, study=f"1.2.{number}")
    world.peer.imageless = {"1.2.0"}
    world.mirror.step()
    assert world.peer.asked == ["1.2.0", "1.2.1", "1.2.2"]
    world.clock.advance(LONG)
    world.peer.asked.clear()
    world.mirror.step()
    assert world.peer.asked[0] == "1.2.0"
    assert world.mirror.horizon is None


# Lists that are cut, comparisons that fail


def test_list_that_is_cut_is_used_and_the_horizon_stands(world: World) -> None:
    world.mirror.step()
    world.peer.cut = "it ended its list of studies after 40: 0xA700; asked by date it lists 50"
    world.peer.keep(STUDY, uid(1))
    for _ in range(3):
        world.clock.advance(300)
        world.mirror.step()
        (alarm,) = world.mirror.alarms()
        assert (alarm.since, "after 40: 0xA700" in alarm.what) == (iso(Timestamp(NOW + 300)), True)
        assert world.mirror.horizon == NOW
    assert world.peer.moved == [STUDY]
    world.peer.cut = ""
    world.mirror.step()
    assert (world.mirror.alarms(), world.mirror.horizon) == ([], NOW + 900)


def test_comparison_that_fails_is_one_steady_alarm_until_one_succeeds(world: World) -> None:
    world.mirror.step()
    world.peer.finds = False
    since = Timestamp(NOW + 300)
    world.clock.advance(300)
    for second in range(190):
        if world.mirror.is_due(interval=300, patience=60):
            with pytest.raises(UnansweredError):
                world.mirror.step()
        (alarm,) = world.mirror.alarms()
        assert alarm.since == iso(since), second
        assert "it answered C-FIND with status 0xC001" in alarm.what
        world.clock.advance(1)
    world.peer.finds = True
    assert world.mirror.is_due(interval=300, patience=60) is (190 % 60 == 0)
    world.clock.advance(60)
    assert world.mirror.is_due(interval=300, patience=60)
    world.mirror.step()
    assert (world.mirror.alarms(), world.mirror.horizon) == ([], world.clock.now())


def test_comparison_that_meets_a_busy_primary_is_tried_soon_and_told_after_a_minute(world: World) -> None:
    world.peer.busy = True
    with pytest.raises(BusyError):
        world.mirror.step()
    assert world.mirror.alarms() == []
    assert not world.mirror.is_due(interval=300, patience=60)
    world.clock.advance(5)
    assert world.mirror.is_due(interval=300, patience=60)
    world.clock.advance(55)
    (alarm,) = world.mirror.alarms()
    assert alarm.since == iso(NOW)


# One SOP Instance UID in two series


def test_uid_in_two_series_is_pulled_twice_named_and_lets_the_horizon_go_on(world: World) -> None:
    other = SeriesInstanceUid("1.2.3.2")
    world.forwarded(1, 2)
    world.mirror.step()
    world.peer.twins = {(other, SopInstanceUid(uid(2)))}
    world.peer.receive = lambda study, one: world.feed.store(
        replace(
            new_instance(9, study=study, calling="PRIMARY"), sop_instance_uid=one, series_instance_uid=other
        )
    )
    for _ in range(2):
        world.clock.advance(300)
        world.mirror.step()
        (alarm,) = world.mirror.alarms()
        assert alarm.since == iso(Timestamp(NOW + 300))
        assert alarm.what == "the primary has one SOP Instance UID in two series, in 1 study"
        assert uid(2) in alarm.hint
        assert world.mirror.horizon == world.clock.now()
    assert world.peer.moved == [uid(2)]
    assert len(numbers_of(world.ledger)) == 3
