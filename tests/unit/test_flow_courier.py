"""The lane: whatever its holder does, nothing is lost and nothing is believed without a proof."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from understudy.core.model import Delivery, HolderKind, Instance, InstanceNumber, Outcome, Proof, Timestamp
from understudy.core.obligations import ObligationState, Selection
from understudy.core.ports import HolderUnavailableError
from understudy.core.views import LaneState, iso
from understudy.flow.courier import Lane, LanePolicy
from understudy.ledger import Ledger

from tests.unit.fakes import (
    NOW,
    PROOF,
    ROUTE,
    STUDY,
    VAULT,
    Clock,
    FakeHolder,
    UnforeseenError,
    dump,
    new_instance,
    note,
    numbers_of,
    shares,
    unproven,
    work,
)

POLICY = LanePolicy(
    batch_instances=8,
    batch_bytes=10**9,
    linger=0.0,
    retry_base=10.0,
    retry_cap=100.0,
    proof_patience=60.0,
    proof_interval=5.0,
    record_every=2,
)


class Bench:
    """One lane with its holder."""

    def __init__(self, path: Path) -> None:
        self.ledger = Ledger(path)
        self.ledger.modes.start(NOW)
        self.clock = Clock()
        self.holder = FakeHolder()
        self.open = True
        self.lane = self.new_lane(self.holder)

    def new_lane(self, holder: FakeHolder) -> Lane:
        return Lane(holder, self.ledger, self.clock, POLICY, is_open=lambda: self.open, fraction=lambda: 1.0)

    def note(self, count: int) -> list[str]:
        note(self.ledger, *(new_instance(name) for name in range(1, count + 1)))
        return [f"1.2.3.4.{name}" for name in range(1, count + 1)]

    def states(self) -> list[str]:
        found = self.ledger.obligations.of_study(ROUTE, STUDY)
        return [found[number].value for number in numbers_of(self.ledger)]

    def run(self, *, seconds: float = 0.0, step: float = 5.0) -> None:
        """Work as the lane's loop does (`work`)."""
        work(self.lane, self.clock, seconds=seconds, step=step)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path / "ledger.sqlite")
    yield found
    assert unproven(found.ledger) == []
    assert found.ledger.events.broken() is None
    found.ledger.close()


def test_lane_delivers_and_proves(bench: Bench) -> None:
    uids = bench.note(20)
    bench.run()
    assert bench.holder.delivered == uids
    assert bench.states() == ["proven"] * 20
    assert bench.lane.view.state is LaneState.IDLE


def test_lane_never_sends_what_the_holder_has(bench: Bench) -> None:
    uids = bench.note(5)
    bench.holder.kept |= set(uids[1:])
    bench.run()
    assert bench.holder.delivered == uids[:1]
    assert bench.states() == ["proven"] * 5


def test_lane_believes_a_proof_that_comes_with_the_delivery(bench: Bench) -> None:
    bench.note(3)
    bench.holder.proof_at_once = True
    bench.run()
    # Asked once before sending and not again.
    assert bench.holder.asked == [3]
    assert bench.states() == ["proven"] * 3


def test_lane_keeps_still_while_it_is_not_open(bench: Bench) -> None:
    bench.note(1)
    bench.open = False
    bench.run()
    assert bench.lane.view.state is LaneState.PAUSED
    assert bench.holder.asked == []
    bench.open = True
    bench.run()
    assert bench.states() == ["proven"]


def test_lane_waits_longer_and_longer_for_a_holder_that_is_away(bench: Bench) -> None:
    bench.note(2)
    bench.holder.away = True
    waits = []
    bench.lane.step()
    for _ in range(5):
        view, began = bench.lane.view, bench.clock.now()
        assert view.state is LaneState.WAITING
        assert "it is away" in view.reason
        while bench.lane.view.until == view.until:
            bench.clock.advance(5)
            assert not bench.lane.step()
        waits.append(bench.clock.now() - began)
    assert waits == [10, 20, 40, 80, 100]
    # It has been away since the first failure, however often it was tried.
    assert bench.lane.view.since == iso(NOW)
    # No instance is to blame.
    assert [view.attempts for view in bench.ledger.obligations.listed(ROUTE, None, 10)] == [0, 0]
    bench.holder.away = False
    bench.run(seconds=200)
    assert bench.states() == ["proven"] * 2


def test_holder_that_goes_away_in_mid_batch_is_asked_first_when_it_is_back(bench: Bench) -> None:
    uids = bench.note(8)
    bench.holder.away_after = 3
    bench.run()
    assert bench.states() == ["sent"] * 3 + ["owed"] * 5
    bench.holder.away_after = None
    # It had taken the fourth, and its answer was lost.
    bench.holder.kept.add(uids[3])
    bench.run(seconds=30)
    assert bench.states() == ["proven"] * 8
    assert bench.holder.delivered == uids[:3] + uids[4:]


def test_refused_instance_waits_for_a_person_and_the_others_go_on(bench: Bench) -> None:
    uids = bench.note(4)
    bench.holder.outcomes[uids[1]] = Outcome.REFUSED
    bench.run(seconds=1000, step=50)
    assert bench.states() == ["proven", "refused", "proven", "proven"]
    assert bench.holder.delivered.count(uids[1]) == 1
    del bench.holder.outcomes[uids[1]]
    bench.ledger.dead_letters.replay(ROUTE, None, "ann", bench.clock.now())
    bench.run()
    assert bench.states() == ["proven"] * 4


@pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.UNKNOWN])
def test_transient_failure_is_tried_again_without_an_end(bench: Bench, outcome: Outcome) -> None:
    uids = bench.note(2)
    bench.holder.outcomes[uids[0]] = outcome
    bench.run(seconds=1000, step=10)
    assert bench.states() == ["owed", "proven"]
    # 10, 20, 40, 80 and then every 100 seconds.
    assert bench.holder.delivered.count(uids[0]) == 13
    del bench.holder.outcomes[uids[0]]
    bench.run(seconds=100, step=10)
    assert bench.states() == ["proven", "proven"]


def test_unknown_outcome_is_found_out_before_it_is_sent_again(bench: Bench) -> None:
    uids = bench.note(1)
    bench.holder.outcomes[uids[0]] = Outcome.UNKNOWN
    bench.run()
    bench.holder.kept.add(uids[0])
    bench.run(seconds=10)
    assert bench.states() == ["proven"]
    assert bench.holder.delivered == uids


def test_altered_delivery_is_told_and_proven_all_the_same(bench: Bench) -> None:
    uids = bench.note(1)
    bench.holder.outcomes[uids[0]] = Outcome.DELIVERED_ALTERED
    bench.run()
    (view,) = bench.ledger.obligations.listed(ROUTE, None, 10)
    assert (view.state, view.reason) == (ObligationState.PROVEN, "altered: because")


def test_acknowledged_and_never_listed_is_owed_again_after_patience(bench: Bench) -> None:
    uids = bench.note(2)
    bench.holder.unlisted = {uids[0]}
    bench.run(seconds=60)
    assert bench.states() == ["sent", "proven"]
    bench.run(seconds=15)
    assert bench.holder.delivered == [uids[0], uids[1], uids[0]]
    bench.holder.unlisted.clear()
    bench.run(seconds=15)
    assert bench.states() == ["proven", "proven"]


@shares(9, "poison")
@pytest.mark.parametrize("where", ["find", "deliver"])
def test_poison_that_raises_what_nobody_foresaw_ends_up_alone(bench: Bench, poison: int, where: str) -> None:
    uids = bench.note(9)
    bad = bench.holder.poison_to_find if where == "find" else bench.holder.poison_to_deliver
    bad.add(uids[poison])
    raised = 0
    for _ in range(200):
        try:
            worked = bench.lane.step()
        except UnforeseenError:
            raised += 1
            worked = True
        assert "in_flight" not in bench.states()
        if not worked:
            bench.clock.advance(5)
    expected = ["proven"] * 9
    expected[poison] = "owed"
    assert bench.states() == expected
    assert 1 < raised < 20
    (view,) = bench.ledger.obligations.listed(ROUTE, ObligationState.OWED, 10)
    assert "UnforeseenError" in view.reason
    bad.clear()
    bench.run(seconds=200)
    assert bench.states() == ["proven"] * 9


@pytest.mark.parametrize("done", range(9))
def test_process_that_ends_in_mid_batch_is_continued_by_its_successor(bench: Bench, done: int) -> None:
    uids = bench.note(9)
    bench.holder.crash_after = done
    if done < 8:
        with pytest.raises(KeyboardInterrupt):
            bench.lane.step()
    bench.holder.crash_after = None
    bench.ledger.custody.release(now=bench.clock.now())
    bench.lane = bench.new_lane(bench.holder)
    bench.run(seconds=30)
    assert bench.states() == ["proven"] * 9
    # What was taken is found there and not sent twice.
    assert sorted(bench.holder.delivered) == sorted(uids)


@pytest.mark.parametrize("name", ["record", "give_back"])
def test_batch_that_the_ledger_could_not_be_told_of_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    uids = bench.note(8)
    bench.holder.away_after = 1

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(bench.ledger.custody, name, full)
    with pytest.raises(OSError, match="no space"):
        bench.lane.step()
    monkeypatch.undo()
    assert "in_flight" in bench.states()
    bench.holder.away_after = None
    bench.run(seconds=30)
    assert bench.states() == ["proven"] * 8
    # What was taken is found there and not sent twice.
    assert sorted(bench.holder.delivered) == sorted(uids)


def test_instance_waived_between_look_and_claim_is_not_sent(bench: Bench) -> None:
    uids = bench.note(3)

    class Waiving(FakeHolder):
        def find(self, instances: Sequence[Instance]) -> Mapping[InstanceNumber, Proof]:
            if not self.asked:
                bench.ledger.dead_letters.waive(ROUTE, [uids[1]], "not wanted", "ann", NOW)
            return super().find(instances)

    bench.holder = Waiving()
    bench.lane = bench.new_lane(bench.holder)
    bench.run()
    assert bench.states() == ["proven", "waived", "proven"]
    assert bench.holder.delivered == [uids[0], uids[2]]


def test_instance_found_by_the_mirror_between_look_and_claim_is_not_sent(bench: Bench) -> None:
    uids = bench.note(2)
    first, _ = numbers_of(bench.ledger)

    class Late(FakeHolder):
        def find(self, instances: Sequence[Instance]) -> Mapping[InstanceNumber, Proof]:
            found = dict(super().find(instances))
            if len(self.asked) == 1:
                bench.ledger.custody.find(ROUTE, {first: PROOF}, now=NOW)
            return found

    bench.holder = Late()
    bench.lane = bench.new_lane(bench.holder)
    bench.run()
    assert bench.holder.delivered == [uids[1]]
    assert bench.states() == ["proven", "proven"]


def test_content_that_took_anothers_place_is_sent_though_its_uid_is_listed(bench: Bench) -> None:
    uids = bench.note(1)
    bench.run()
    note(bench.ledger, new_instance(1, content="B"))
    bench.run()
    assert bench.holder.delivered == [uids[0], uids[0]]
    assert bench.states() == ["proven"]


def test_duplicate_is_looked_for_again_and_proven_where_it_is_listed(bench: Bench) -> None:
    uids = bench.note(1)
    bench.holder.outcomes[uids[0]] = Outcome.CONFLICT
    bench.run()
    assert bench.states() == ["owed"]
    bench.holder.kept.add(uids[0])
    bench.run(seconds=10)
    assert bench.states() == ["proven"]
    assert bench.holder.delivered == uids


def test_duplicate_of_a_content_that_was_replaced_waits_for_a_person(bench: Bench) -> None:
    uids = bench.note(1)
    bench.run()
    note(bench.ledger, new_instance(1, content="B"))
    bench.holder.outcomes[uids[0]] = Outcome.CONFLICT
    bench.run(seconds=1000, step=50)
    assert bench.states() == ["refused"]
    assert bench.holder.delivered == [uids[0], uids[0]]


class OneBad(FakeHolder):
    """A holder that has no usable answer for some studies, to a question or to an instance itself."""

    unanswered: frozenset[str] = frozenset()
    unsendable: frozenset[str] = frozenset()

    def find(self, instances: Sequence[Instance]) -> Mapping[InstanceNumber, Proof]:
        if any(one.study_instance_uid in self.unanswered for one in instances):
            raise HolderUnavailableError(self.name, "its answers are capped", "raise the limit")
        return super().find(instances)

    def deliver(self, instances: Sequence[Instance]) -> Iterator[Delivery]:
        for one in instances:
            if one.sop_instance_uid in self.unsendable:
                raise HolderUnavailableError(self.name, "413 for this one", "raise the limit")
            yield from super().deliver([one])


@pytest.fixture
def one_bad(bench: Bench) -> OneBad:
    """Three studies of two instances each, the first owed the longest."""
    for study in (1, 2, 3):
        both = [new_instance(2 * study + one, study=f"1.2.{study}") for one in (-1, 0)]
        note(bench.ledger, *both, now=Timestamp(NOW - 100 + study))
    holder = OneBad()
    bench.holder = holder
    bench.lane = bench.new_lane(holder)
    return holder


def states(bench: Bench) -> dict[str, str]:
    return {
        view.sop_instance_uid.rpartition(".")[2]: view.state.value
        for view in bench.ledger.obligations.listed(ROUTE, None, 10)
    }


@pytest.mark.parametrize("bad", [{1}, {1, 2}, {2}])
def test_study_without_a_usable_answer_delays_no_other(bench: Bench, one_bad: OneBad, bad: set[int]) -> None:
    one_bad.unanswered = frozenset(f"1.2.{study}" for study in bad)
    bench.run(seconds=200)
    assert {name for name, state in states(bench).items() if state == "owed"} == {
        str(2 * study + one) for study in bad for one in (-1, 0)
    }
    assert Counter(states(bench).values())["proven"] == 6 - 2 * len(bad)
    # Its own answer says why, and it is tried again at growing intervals until there is one.
    bench.run(seconds=1000)
    stuck = bench.ledger.obligations.listed(ROUTE, ObligationState.OWED, 10)
    assert len(bad) == 2 or {view.reason for view in stuck} == {"its answers are capped; raise the limit"}
    one_bad.unanswered = frozenset()
    bench.run(seconds=200)
    assert set(states(bench).values()) == {"proven"}


def test_acknowledged_study_without_a_usable_answer_delays_no_other(bench: Bench, one_bad: OneBad) -> None:
    bench.lane.step()
    one_bad.unanswered = frozenset({"1.2.1"})
    bench.run(seconds=60)
    assert states(bench) == {"1": "sent", "2": "sent"} | dict.fromkeys("3456", "proven")
    one_bad.unanswered = frozenset()
    bench.run(seconds=200)
    assert set(states(bench).values()) == {"proven"}


def test_instance_that_the_holder_cannot_take_delays_no_other(bench: Bench, one_bad: OneBad) -> None:
    one_bad.unsendable = frozenset({"1.2.3.4.1"})
    bench.run(seconds=60)
    assert states(bench) == {"1": "owed"} | dict.fromkeys("23456", "proven")
    one_bad.unsendable = frozenset()
    bench.run(seconds=200)
    assert set(states(bench).values()) == {"proven"}


def test_holder_that_takes_nothing_blames_no_instance_and_changes_no_turn(
    bench: Bench, one_bad: OneBad
) -> None:
    # It answers every question: only what it is given tells that it is full.
    uids = [f"1.2.3.4.{name}" for name in range(1, 7)]
    one_bad.unsendable = frozenset(uids)
    bench.run(seconds=3000)
    assert bench.lane.view.state is LaneState.WAITING
    assert {view.attempts for view in bench.ledger.obligations.listed(ROUTE, None, 10)} == {0}
    one_bad.unsendable = frozenset()
    bench.run(seconds=200)
    assert one_bad.delivered == uids
    assert set(states(bench).values()) == {"proven"}


HOUR, YEAR = 3600.0, 365 * 86_400.0


def with_linger(bench: Bench) -> None:
    policy = replace(POLICY, linger=3.0, longest_wait=100.0)
    bench.lane = Lane(
        bench.holder, bench.ledger, bench.clock, policy, is_open=lambda: bench.open, fraction=lambda: 1.0
    )


@pytest.mark.parametrize("ahead", [2 * HOUR, YEAR])
def test_what_is_owed_from_before_the_clock_was_set_back_is_delivered(bench: Bench, ahead: float) -> None:
    with_linger(bench)
    note(bench.ledger, new_instance(1), owed=[ROUTE], now=Timestamp(NOW + ahead))
    failed = new_instance(2)
    note(bench.ledger, failed, owed=[ROUTE], now=NOW)
    bench.ledger.custody.claim(ROUTE, numbers_of(bench.ledger)[1:], now=NOW)
    bench.ledger.custody.record(
        ROUTE,
        [Delivery(numbers_of(bench.ledger)[1], Outcome.RETRY, "busy")],
        now=Timestamp(NOW + ahead),
        retry_at=lambda _: Timestamp(NOW + ahead + 100),
    )
    bench.run(seconds=30)
    assert bench.states() == ["proven", "proven"]


def test_acknowledged_before_the_clock_was_set_back_is_proven_and_patience_begins_anew(bench: Bench) -> None:
    with_linger(bench)
    bench.clock.advance(YEAR)
    bench.note(2)
    bench.holder.unlisted = {"1.2.3.4.1", "1.2.3.4.2"}
    bench.run(seconds=5)
    assert bench.states() == ["sent", "sent"]
    bench.clock.advance(-YEAR)
    bench.holder.unlisted = {"1.2.3.4.2"}
    bench.run(seconds=10)
    assert bench.states() == ["proven", "sent"]
    bench.run(seconds=200)
    assert bench.holder.delivered.count("1.2.3.4.2") > 1


def test_lane_that_waits_when_the_clock_is_set_back_tries_again(bench: Bench) -> None:
    with_linger(bench)
    bench.note(1)
    bench.clock.advance(YEAR)
    bench.holder.away = True
    bench.run()
    bench.holder.away = False
    bench.clock.advance(-YEAR)
    bench.clock.advance(10)
    bench.run(seconds=5)
    assert bench.states() == ["proven"]


def test_wait_that_is_meant_is_kept(bench: Bench) -> None:
    with_linger(bench)
    uids = bench.note(1)
    bench.holder.outcomes[uids[0]] = Outcome.RETRY
    bench.run(seconds=1000)
    # As many as without a look at the clock: after 10, 20, 40, 80 and then every 100 seconds.
    assert bench.holder.delivered.count(uids[0]) == 13


def test_lanes_share_nothing(bench: Bench) -> None:
    note(bench.ledger, *(new_instance(name) for name in range(1, 6)), owed=[ROUTE, VAULT])
    broken = FakeHolder(name=VAULT, kind=HolderKind.VAULT, away=True)
    other = bench.new_lane(broken)
    other.step()
    before = [row for row in dump(bench.ledger)["obligations"] if row[1] == VAULT]
    bench.run()
    assert bench.states() == ["proven"] * 5
    assert [row for row in dump(bench.ledger)["obligations"] if row[1] == VAULT] == before
    assert (other.view.state, bench.lane.view.state) == (LaneState.WAITING, LaneState.IDLE)


def test_instances_that_were_not_sent_are_owed_as_before(bench: Bench) -> None:
    bench.note(8)
    bench.holder.away_after = 3
    bench.lane.step()
    views = bench.ledger.obligations.listed(ROUTE, ObligationState.OWED, 10)
    assert [view.attempts for view in views] == [0] * 5
    bench.holder.away_after = None
    bench.run(seconds=30)
    assert bench.states() == ["proven"] * 8


def test_holder_that_was_away_is_tried_with_one_instance_and_then_with_more(bench: Bench) -> None:
    bench.note(20)
    bench.holder.away = True
    bench.lane.step()
    bench.holder.away = False
    bench.run(seconds=30)
    assert bench.states() == ["proven"] * 20
    # Each batch is looked for before and proven after: 1, 2, 4, 8 instances and the rest.
    assert bench.holder.asked == [1, 1, 2, 2, 4, 4, 8, 8, 5, 5]


def test_lane_that_is_to_stop_gives_back_what_it_has_not_sent(bench: Bench) -> None:
    bench.note(8)

    class Stopping(FakeHolder):
        def deliver(self, instances: Sequence[Instance]) -> Iterator[Delivery]:
            return super().deliver(instances[:3])

    bench.holder = Stopping()
    bench.lane = bench.new_lane(bench.holder)
    bench.lane.step()
    assert bench.states() == ["sent"] * 3 + ["owed"] * 5


def test_lane_keeps_still_outside_its_window(bench: Bench) -> None:
    bench.note(1)
    opens = NOW + 3600
    bench.lane = Lane(
        bench.holder,
        bench.ledger,
        bench.clock,
        POLICY,
        is_open=lambda: True,
        fraction=lambda: 1.0,
        in_window=lambda: bench.clock.now() >= opens,
    )
    bench.run(seconds=3000, step=600)
    assert bench.holder.asked == []
    assert "window" in bench.lane.view.reason
    bench.run(seconds=600, step=600)
    assert bench.states() == ["proven"]


def test_instance_that_is_acknowledged_and_never_listed_is_left_to_a_person(bench: Bench) -> None:
    first, second = bench.note(2)
    bench.holder.unlisted = {first}
    bench.run(seconds=400)
    assert bench.holder.delivered == [first, second, first, first]
    assert bench.states() == ["sent", "proven"]
    bench.run(seconds=1200)
    assert bench.states() == ["refused", "proven"]
    (letter,) = bench.ledger.dead_letters.listed(Selection())
    assert letter.reason.startswith("unproven: acknowledged 3 times")
    bench.holder.unlisted = set()
    bench.ledger.dead_letters.replay(ROUTE, None, "ann", bench.clock.now())
    bench.run()
    assert bench.holder.delivered == [first, second, first, first]
    assert bench.states() == ["proven", "proven"]


def test_holder_that_shows_nothing_is_asked_less_and_less_often(bench: Bench) -> None:
    (first,) = bench.note(1)
    bench.holder.unlisted = {first}
    bench.run(seconds=1300)
    # 260 questions, if it was asked every 5 seconds.
    assert len(bench.holder.asked) < 100
