"""Custody: every obligation in every state, told of every event."""

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path

import pytest
from understudy.core.errors import RefusedError
from understudy.core.model import Delivery, InstanceNumber, Outcome, Proof, ProofKind, Timestamp
from understudy.core.obligations import TRANSITIONS, ObligationEvent, ObligationState, Selection
from understudy.core.proving import Absence
from understudy.core.refusals import hint_of
from understudy.ledger import IllegalTransitionError, Ledger
from understudy.ledger.transitions import advance

from tests.unit.fakes import (
    NOW,
    PROOF,
    ROUTE,
    STUDY,
    CrashError,
    crash_after,
    deliver,
    dump,
    new_instance,
    note,
    numbers_of,
    unproven,
)

UID = "1.2.3.4.1"
LATER = Timestamp(NOW + 1000)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = Ledger(tmp_path / "ledger.sqlite")
    found.modes.start(NOW)
    yield found
    found.close()


def brought_to(ledger: Ledger, state: ObligationState) -> InstanceNumber:
    """Note one instance and bring its obligation into the state."""
    note(ledger, new_instance(1))
    (number,) = numbers_of(ledger)
    if state in (ObligationState.IN_FLIGHT, ObligationState.SENT, ObligationState.REFUSED):
        ledger.custody.claim(ROUTE, [number], now=NOW)
    if state is ObligationState.SENT:
        deliver(ledger, number, Outcome.DELIVERED)
    if state is ObligationState.REFUSED:
        deliver(ledger, number, Outcome.REFUSED)
    if state is ObligationState.PROVEN:
        ledger.custody.find(ROUTE, {number: PROOF}, now=NOW)
    if state is ObligationState.WAIVED:
        ledger.dead_letters.waive(ROUTE, [UID], "not wanted", "ann", NOW)
    assert state_of(ledger, number) is state
    return number


def state_of(ledger: Ledger, number: InstanceNumber) -> ObligationState:
    return ledger.obligations.of_study(ROUTE, STUDY)[number]


ALL = list(product(ObligationState, ObligationEvent))


@pytest.mark.parametrize(("state", "event"), ALL)
def test_advance_follows_the_table_or_raises_and_changes_nothing(
    ledger: Ledger, state: ObligationState, event: ObligationEvent
) -> None:
    number = brought_to(ledger, state)
    note(ledger, new_instance(2))
    before = dump(ledger)

    def happen() -> None:
        with ledger.database.writing() as connection:
            advance(connection, event, ROUTE, [number], LATER)

    if (state, event) in TRANSITIONS:
        happen()
        assert state_of(ledger, number) is TRANSITIONS[state, event]
        return
    with pytest.raises(IllegalTransitionError, match=event.value):
        happen()
    assert dump(ledger) == before


def test_advance_of_several_of_which_one_is_in_a_wrong_state_changes_none(ledger: Ledger) -> None:
    brought_to(ledger, ObligationState.PROVEN)
    note(ledger, new_instance(2))
    before = dump(ledger)
    with pytest.raises(IllegalTransitionError, match="1 of 2"), ledger.database.writing() as connection:
        advance(connection, ObligationEvent.CLAIM, ROUTE, numbers_of(ledger), LATER)
    assert dump(ledger) == before


STRICT: list[tuple[ObligationEvent, Callable[[Ledger, InstanceNumber], object]]] = [
    (ObligationEvent.ACKNOWLEDGE, lambda ledger, number: deliver(ledger, number, Outcome.DELIVERED)),
    (ObligationEvent.ACKNOWLEDGE, lambda ledger, number: deliver(ledger, number, Outcome.DELIVERED_ALTERED)),
    (ObligationEvent.FAIL, lambda ledger, number: deliver(ledger, number, Outcome.RETRY)),
    (ObligationEvent.FAIL, lambda ledger, number: deliver(ledger, number, Outcome.UNKNOWN)),
    (ObligationEvent.REFUSE, lambda ledger, number: deliver(ledger, number, Outcome.REFUSED)),
    (ObligationEvent.RELEASE, lambda ledger, number: ledger.custody.give_back(ROUTE, [number], now=LATER)),
]
"""What only the lane does, about instances that nobody else touches: out of turn it is a fault."""


@pytest.mark.parametrize("state", list(ObligationState))
@pytest.mark.parametrize(("event", "call"), STRICT)
def test_lane_out_of_turn_raises_and_changes_nothing(
    ledger: Ledger,
    state: ObligationState,
    event: ObligationEvent,
    call: Callable[[Ledger, InstanceNumber], object],
) -> None:
    number = brought_to(ledger, state)
    before = dump(ledger)
    if (state, event) in TRANSITIONS:
        call(ledger, number)
        assert state_of(ledger, number) is TRANSITIONS[state, event]
        return
    with pytest.raises(IllegalTransitionError):
        call(ledger, number)
    assert dump(ledger) == before


LENIENT: list[tuple[ObligationEvent, Callable[[Ledger, InstanceNumber], object]]] = [
    (ObligationEvent.CLAIM, lambda ledger, number: ledger.custody.claim(ROUTE, [number], now=LATER)),
    (ObligationEvent.PROVE, lambda ledger, number: ledger.custody.prove(ROUTE, {number: PROOF}, now=LATER)),
    (ObligationEvent.FIND, lambda ledger, number: ledger.custody.find(ROUTE, {number: PROOF}, now=LATER)),
    (
        ObligationEvent.DISPROVE,
        lambda ledger, number: ledger.custody.disprove(ROUTE, [number], reason="gone", now=LATER, due=LATER),
    ),
    (
        ObligationEvent.DIFFER,
        lambda ledger, number: ledger.custody.differ(ROUTE, [number], why="it differs", now=LATER),
    ),
]
"""What two threads or a person may do first: out of turn it says so by what it returns."""


@pytest.mark.parametrize("state", list(ObligationState))
@pytest.mark.parametrize(("event", "call"), LENIENT)
def test_what_another_did_first_is_left_alone_and_told(
    ledger: Ledger,
    state: ObligationState,
    event: ObligationEvent,
    call: Callable[[Ledger, InstanceNumber], object],
) -> None:
    number = brought_to(ledger, state)
    before = dump(ledger)
    done = call(ledger, number)
    assert bool(done) is ((state, event) in TRANSITIONS)
    if done:
        assert state_of(ledger, number) is TRANSITIONS[state, event]
        assert unproven(ledger) == []
    else:
        assert dump(ledger) == before


PERSONS: list[tuple[ObligationEvent, Callable[[Ledger], int]]] = [
    (ObligationEvent.REPLAY, lambda ledger: ledger.dead_letters.replay(ROUTE, [UID], "ann", LATER)),
    (ObligationEvent.REPLAY, lambda ledger: ledger.dead_letters.replay(ROUTE, None, "ann", LATER)),
    (
        ObligationEvent.WAIVE,
        lambda ledger: ledger.dead_letters.waive(ROUTE, [UID], "not wanted", "ann", LATER),
    ),
]


@pytest.mark.parametrize("state", list(ObligationState))
@pytest.mark.parametrize(("event", "call"), PERSONS)
def test_act_of_a_person_changes_what_it_may_and_leaves_the_rest_alone(
    ledger: Ledger, state: ObligationState, event: ObligationEvent, call: Callable[[Ledger], int]
) -> None:
    number = brought_to(ledger, state)
    before = dump(ledger)
    if (state, event) in TRANSITIONS:
        assert call(ledger) == 1
        assert state_of(ledger, number) is TRANSITIONS[state, event]
        assert dump(ledger)["events"][-1][2:4] == ("ann", event.value)
        before = dump(ledger)
    # Once more, and of whatever is in no state for it: nothing is done and nobody is told a lie.
    assert call(ledger) == 0
    assert dump(ledger) == before


def test_waiver_without_a_reason_is_refused(ledger: Ledger) -> None:
    brought_to(ledger, ObligationState.REFUSED)
    before = dump(ledger)
    with pytest.raises(RefusedError, match="reason"):
        ledger.dead_letters.waive(ROUTE, [UID], "  ", "ann", LATER)
    assert dump(ledger) == before


def test_waiver_logs_the_instances_that_it_gave_up_and_no_others(ledger: Ledger) -> None:
    brought_to(ledger, ObligationState.PROVEN)
    note(ledger, new_instance(2))
    assert ledger.dead_letters.waive(ROUTE, [UID, "1.2.3.4.2", "9.9"], "not wanted", "ann", LATER) == 1
    fields = dump(ledger)["events"][-1][4]
    assert '"uids":["1.2.3.4.2"]' in fields


def test_replay_of_nothing_named_replays_all_refused(ledger: Ledger) -> None:
    note(ledger, *(new_instance(name) for name in range(1, 4)))
    numbers = numbers_of(ledger)
    ledger.custody.claim(ROUTE, numbers, now=NOW)
    deliver(ledger, numbers[0], Outcome.REFUSED)
    deliver(ledger, numbers[1], Outcome.REFUSED)
    assert ledger.dead_letters.replay(ROUTE, None, "ann", LATER) == 2
    assert state_of(ledger, numbers[2]) is ObligationState.IN_FLIGHT


def test_delivery_with_its_own_proof_is_proven_in_one_step(ledger: Ledger) -> None:
    number = brought_to(ledger, ObligationState.IN_FLIGHT)
    proof = Proof(ProofKind.CHECKSUM, NOW, {"pack": "p"})
    ledger.custody.record(
        ROUTE,
        [Delivery(number, Outcome.DELIVERED, "stored", proof)],
        now=NOW,
        retry_at=lambda _attempt: NOW,
    )
    assert state_of(ledger, number) is ObligationState.PROVEN
    assert [row[3] for row in dump(ledger)["proofs"]] == ["checksum"]


def test_reason_of_a_failure_goes_when_the_instance_is_found(ledger: Ledger) -> None:
    note(ledger, new_instance(1))
    (number,) = numbers_of(ledger)
    ledger.custody.claim(ROUTE, [number], now=NOW)
    deliver(ledger, number, Outcome.UNKNOWN)
    assert [view.reason for view in ledger.obligations.listed(ROUTE, None, 1)] == ["because"]
    ledger.custody.find(ROUTE, {number: PROOF}, now=NOW)
    assert [view.reason for view in ledger.obligations.listed(ROUTE, None, 1)] == [""]


def test_alteration_stays_told_when_the_instance_is_proven(ledger: Ledger) -> None:
    note(ledger, new_instance(1))
    (number,) = numbers_of(ledger)
    ledger.custody.claim(ROUTE, [number], now=NOW)
    deliver(ledger, number, Outcome.DELIVERED_ALTERED)
    ledger.custody.prove(ROUTE, {number: PROOF}, now=NOW)
    assert [view.reason for view in ledger.obligations.listed(ROUTE, None, 1)] == ["altered: because"]


def test_failures_are_counted_and_given_to_the_back_off(ledger: Ledger) -> None:
    number = brought_to(ledger, ObligationState.OWED)
    seen: list[int] = []

    def retry_at(attempt: int) -> Timestamp:
        seen.append(attempt)
        return Timestamp(NOW + 10 * attempt)

    for _ in range(3):
        ledger.custody.claim(ROUTE, [number], now=NOW)
        ledger.custody.record(ROUTE, [Delivery(number, Outcome.RETRY, "busy")], now=NOW, retry_at=retry_at)
    assert seen == [1, 2, 3]
    (view,) = ledger.obligations.listed(ROUTE, None, 10)
    assert (view.attempts, view.reason) == (3, "busy")
    assert not ledger.queue.due(ROUTE, now=Timestamp(NOW + 29), limit=10, max_bytes=10**9)
    assert ledger.queue.due(ROUTE, now=Timestamp(NOW + 30), limit=10, max_bytes=10**9)


def test_given_back_is_due_as_before_and_counts_no_attempt(ledger: Ledger) -> None:
    number = brought_to(ledger, ObligationState.IN_FLIGHT)
    ledger.custody.give_back(ROUTE, [number], now=LATER)
    (view,) = ledger.obligations.listed(ROUTE, None, 10)
    assert (view.state, view.attempts, view.reason) == (ObligationState.OWED, 0, "")
    assert [one.number for one in ledger.queue.due(ROUTE, now=NOW, limit=10, max_bytes=10**9)] == [number]


def in_ten_seconds(_attempt: int) -> Timestamp:
    return Timestamp(NOW + 10)


def missed(ledger: Ledger, number: InstanceNumber, absence: Absence, now: Timestamp) -> Mapping[Absence, int]:
    """Take note of an absence that is judged so, and ask again after five seconds."""
    return ledger.custody.absent(
        ROUTE,
        [number],
        now=now,
        judge=lambda _waited, _losses: absence,
        ask_again=lambda _waited: Timestamp(now + 5),
        retry_at=in_ten_seconds,
    )


def test_absent_is_asked_for_again_until_it_is_judged_lost_and_then_owed_again(ledger: Ledger) -> None:
    number = brought_to(ledger, ObligationState.SENT)
    again = Timestamp(NOW + 5)
    assert missed(ledger, number, Absence.LATE, NOW)[Absence.LATE] == 1
    assert ledger.queue.sent(ROUTE, now=Timestamp(NOW + 4), limit=10) == []
    assert [one.number for one in ledger.queue.sent(ROUTE, now=again, limit=10)] == [number]
    assert missed(ledger, number, Absence.LOST, again)[Absence.LOST] == 1
    assert state_of(ledger, number) is ObligationState.OWED
    assert ledger.queue.due(ROUTE, now=Timestamp(NOW + 9), limit=10, max_bytes=10**9) == []
    assert ledger.queue.due(ROUTE, now=Timestamp(NOW + 10), limit=10, max_bytes=10**9)
    assert dump(ledger)["events"][-1][3] == "disprove"


def test_absence_is_judged_by_the_time_since_the_acknowledgement_and_the_losses(ledger: Ledger) -> None:
    number = brought_to(ledger, ObligationState.OWED)
    judged: list[tuple[float, int]] = []
    attempts: list[int] = []

    def judge(waited: float, losses: int) -> Absence:
        judged.append((waited, losses))
        return Absence.LOST

    def retry_at(attempt: int) -> Timestamp:
        attempts.append(attempt)
        return NOW

    def lose(waited: float) -> None:
        ledger.custody.claim(ROUTE, [number], now=NOW)
        deliver(ledger, number, Outcome.DELIVERED)
        now = Timestamp(NOW + waited)
        ledger.custody.absent(
            ROUTE, [number], now=now, judge=judge, ask_again=lambda _waited: now, retry_at=retry_at
        )

    lose(7.0)
    lose(8.0)
    ledger.custody.find(ROUTE, {number: PROOF}, now=NOW)
    ledger.custody.disprove(ROUTE, [number], reason="gone", now=NOW, due=NOW)
    lose(9.0)
    assert judged == [(7.0, 0), (8.0, 1), (9.0, 0)], "a proof forgives the losses before it"
    assert attempts == [1, 2, 4]


def test_unprovable_is_a_dead_letter_with_reason_and_hint_and_can_be_replayed(ledger: Ledger) -> None:
    number = brought_to(ledger, ObligationState.SENT)
    missed(ledger, number, Absence.LOST, NOW)
    ledger.custody.claim(ROUTE, [number], now=NOW)
    deliver(ledger, number, Outcome.DELIVERED)
    assert missed(ledger, number, Absence.UNPROVABLE, NOW)[Absence.UNPROVABLE] == 1
    (letter,) = ledger.dead_letters.listed(Selection())
    assert "unproven: acknowledged 2 times" in letter.reason
    assert "SOP Instance UID" in hint_of(letter.reason)
    assert dump(ledger)["events"][-1][3] == "give_up"
    ledger.dead_letters.replay(ROUTE, None, "ann", NOW)
    assert state_of(ledger, number) is ObligationState.OWED


@pytest.mark.parametrize("state", [one for one in ObligationState if one is not ObligationState.SENT])
@pytest.mark.parametrize("absence", Absence)
def test_absent_says_nothing_of_what_was_not_acknowledged(
    ledger: Ledger, state: ObligationState, absence: Absence
) -> None:
    number = brought_to(ledger, state)
    before = dump(ledger)
    assert missed(ledger, number, absence, LATER) == {}
    assert dump(ledger) == before


def test_release_returns_every_claim_once(ledger: Ledger) -> None:
    number = brought_to(ledger, ObligationState.IN_FLIGHT)
    assert ledger.custody.release(now=LATER) == 1
    assert state_of(ledger, number) is ObligationState.OWED
    assert ledger.custody.release(now=LATER) == 0


def test_proof_and_state_are_one_step_wherever_it_is_broken_off(ledger: Ledger) -> None:
    number = brought_to(ledger, ObligationState.SENT)
    before = dump(ledger)
    crashes = 0
    while True:
        try:
            with crash_after(ledger, crashes + 1):
                ledger.custody.prove(ROUTE, {number: PROOF}, now=NOW)
        except CrashError:
            crashes += 1
            assert dump(ledger) == before
        else:
            break
    assert crashes >= 3
    assert state_of(ledger, number) is ObligationState.PROVEN
    assert unproven(ledger) == []


def test_more_numbers_than_one_statement_holds_are_advanced(ledger: Ledger) -> None:
    note(ledger, *(new_instance(name) for name in range(1, 1203)))
    numbers = numbers_of(ledger)
    assert len(numbers) == 1202
    assert ledger.custody.claim(ROUTE, numbers, now=NOW) == numbers
    assert ledger.obligations.tally()[ROUTE] == {ObligationState.IN_FLIGHT: 1202}
