"""What the ledger is asked: what is due, counts, ages, senders."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from understudy.core.gate import GateOutcome, Seen
from understudy.core.model import InstanceNumber, Outcome, ProofKind, StudyInstanceUid, Timestamp
from understudy.core.modes import ModeEvent
from understudy.core.obligations import ObligationState
from understudy.core.refusals import advice
from understudy.ledger import Ledger, devices, unsettled_to

from tests.unit.fakes import (
    NOW,
    PRIMARY,
    PRIMARY_AE,
    PROOF,
    ROUTE,
    STUDY,
    VAULT,
    deliver,
    new_instance,
    note,
    numbers_of,
    received_proof,
)

OTHER = StudyInstanceUid("1.2.4")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = Ledger(tmp_path / "ledger.sqlite")
    found.modes.start(NOW)
    yield found
    found.close()


def due(
    ledger: Ledger, after: float = 0, *, limit: int = 100, max_bytes: int = 10**9, linger: float = 0
) -> list[int]:
    found = ledger.queue.due(
        ROUTE, now=Timestamp(NOW + after), limit=limit, max_bytes=max_bytes, linger=linger
    )
    return [instance.number for instance in found]


def test_due_gives_one_study_the_longest_due_first(ledger: Ledger) -> None:
    note(ledger, new_instance(1, study=OTHER), now=Timestamp(NOW - 1))
    note(ledger, new_instance(2), new_instance(3), now=Timestamp(NOW - 2))
    assert due(ledger) == numbers_of(ledger)
    ledger.custody.claim(ROUTE, numbers_of(ledger), now=NOW)
    assert due(ledger) == numbers_of(ledger, OTHER)


def test_due_keeps_to_instances_and_bytes(ledger: Ledger) -> None:
    note(ledger, *(new_instance(name, size=1000) for name in range(1, 6)))
    numbers = numbers_of(ledger)
    assert due(ledger, limit=2) == numbers[:2]
    assert due(ledger, max_bytes=3000) == numbers[:3]
    assert due(ledger, max_bytes=3999) == numbers[:3]


def test_due_gives_one_instance_that_is_larger_than_the_limit_alone(ledger: Ledger) -> None:
    note(ledger, new_instance(1, size=5000), new_instance(2, size=10))
    assert due(ledger, max_bytes=1000) == numbers_of(ledger)[:1]


def test_due_waits_for_more_of_a_study_until_it_lingered(ledger: Ledger) -> None:
    note(ledger, new_instance(1), now=Timestamp(NOW - 5))
    note(ledger, new_instance(2), now=NOW)
    assert due(ledger, 2.9, linger=3) == []
    assert due(ledger, 3, linger=3) == numbers_of(ledger)


def test_due_does_not_wait_for_a_study_that_is_full(ledger: Ledger) -> None:
    note(ledger, new_instance(1), new_instance(2))
    assert due(ledger, linger=3, max_bytes=2000) == numbers_of(ledger)
    assert due(ledger, linger=3, limit=2) == numbers_of(ledger)


def test_due_does_not_wait_for_ever_for_a_study_that_trickles_in(ledger: Ledger) -> None:
    for second in range(0, 31, 2):
        note(ledger, new_instance(second), now=Timestamp(NOW + second))
    assert due(ledger, 29.9, linger=3) == []
    assert due(ledger, 30, linger=3) == numbers_of(ledger)


def test_due_passes_a_young_study_for_a_ripe_one(ledger: Ledger) -> None:
    note(ledger, new_instance(1), now=NOW)
    note(ledger, new_instance(2, study=OTHER), now=Timestamp(NOW - 10))
    (young,) = numbers_of(ledger)
    # The young one is due earlier: it was tried before.
    ledger.custody.claim(ROUTE, [young], now=NOW)
    ledger.custody.record(ROUTE, [], now=NOW, retry_at=lambda _attempt: NOW)
    ledger.custody.release(now=Timestamp(NOW - 20))
    assert due(ledger, linger=3) == numbers_of(ledger, OTHER)


def test_sent_gives_one_study(ledger: Ledger) -> None:
    note(ledger, new_instance(1), new_instance(2, study=OTHER))
    for study in (STUDY, OTHER):
        for number in numbers_of(ledger, study):
            ledger.custody.claim(ROUTE, [number], now=NOW)
            deliver(ledger, number, Outcome.DELIVERED)
    assert len(ledger.queue.sent(ROUTE, now=NOW, limit=10)) == 1
    assert ledger.queue.sent(VAULT, now=NOW, limit=10) == []


def test_studies_and_counts_speak_of_present_versions(ledger: Ledger) -> None:
    note(ledger, new_instance(1), new_instance(2), new_instance(3, study=OTHER), owed=[VAULT])
    note(ledger, new_instance(1, content="B"), owed=[VAULT])
    assert ledger.instances.counts() == (3, 2)
    assert ledger.obligations.studies_with(VAULT, ObligationState.OWED) == {STUDY: 2, OTHER: 1}
    assert ledger.obligations.studies_with(VAULT, ObligationState.PROVEN) == {}
    assert ledger.obligations.tally() == {VAULT: {ObligationState.OWED: 4}}


def test_studies_of_an_epoch_are_those_with_an_instance_of_it(ledger: Ledger) -> None:
    note(ledger, new_instance(1))
    ledger.modes.change(ModeEvent.PROMOTE, epoch=0, who="ann", fields={}, now=NOW)
    note(ledger, new_instance(2, study=OTHER), new_instance(3, study=OTHER))
    assert ledger.instances.studies_of_epoch(0) == {STUDY}
    assert ledger.instances.studies_of_epoch(1) == {OTHER}


def test_proofs_of_an_epoch_count_the_latest_kind_of_what_is_proven(ledger: Ledger) -> None:
    note(ledger, new_instance(1), new_instance(2), owed=[PRIMARY])
    note(ledger, new_instance(3, calling=PRIMARY_AE), owed=[], received=received_proof())
    one, two, three = numbers_of(ledger)
    ledger.custody.find(PRIMARY, {one: PROOF, two: PROOF}, now=NOW)
    ledger.custody.disprove(PRIMARY, [two, three], reason="gone", now=NOW, due=NOW)
    ledger.custody.find(PRIMARY, {three: PROOF}, now=NOW)
    assert ledger.obligations.proofs_of_epoch(PRIMARY, 0) == [(STUDY, ProofKind.INVENTORY, 2)]
    assert ledger.obligations.proofs_of_epoch(ROUTE, 0) == []


def test_proven_pages_in_order_without_superseded_versions(ledger: Ledger) -> None:
    note(ledger, *(new_instance(name) for name in range(1, 6)))
    numbers = numbers_of(ledger)
    ledger.custody.find(ROUTE, dict.fromkeys(numbers, PROOF), now=NOW)
    note(ledger, new_instance(2, content="B"))
    first = ledger.obligations.proven(ROUTE, after=InstanceNumber(0), limit=3)
    rest = ledger.obligations.proven(ROUTE, after=first[-1].number, limit=3)
    assert [one.number for one in (*first, *rest)] == [numbers[0], *numbers[2:]]


def test_oldest_unsettled_is_since_when_the_longest_is_owed(ledger: Ledger) -> None:
    assert ledger.obligations.oldest(ROUTE) is None
    note(ledger, new_instance(1), now=Timestamp(NOW - 100))
    note(ledger, new_instance(2), now=NOW)
    first, second = numbers_of(ledger)
    ledger.custody.claim(ROUTE, [first], now=NOW)
    deliver(ledger, first, Outcome.REFUSED)
    assert ledger.obligations.oldest(ROUTE) == NOW - 100
    ledger.dead_letters.waive(ROUTE, ["1.2.3.4.1"], "not wanted", "ann", NOW)
    assert ledger.obligations.oldest(ROUTE) == NOW
    with ledger.database.reading() as connection:
        assert unsettled_to(connection, ROUTE) == 1
    ledger.custody.find(ROUTE, {second: PROOF}, now=NOW)
    assert ledger.obligations.oldest(ROUTE) is None


def test_disproved_is_owed_since_it_was_disproved(ledger: Ledger) -> None:
    note(ledger, new_instance(1), now=Timestamp(NOW - 10**6))
    numbers = numbers_of(ledger)
    ledger.custody.find(ROUTE, dict.fromkeys(numbers, PROOF), now=NOW)
    ledger.custody.disprove(ROUTE, numbers, reason="gone", now=NOW, due=NOW)
    assert ledger.obligations.oldest(ROUTE) == NOW


def test_last_store_leaves_out_the_primary_and_what_came_over_http(ledger: Ledger) -> None:
    assert ledger.intake.last_store(except_from=frozenset({PRIMARY_AE})) is None
    note(ledger, new_instance(1, received_at=5), new_instance(2, calling=PRIMARY_AE, received_at=9))
    note(ledger, new_instance(3, calling="", received_at=9))
    assert ledger.intake.last_store(except_from=frozenset({PRIMARY_AE})) == Timestamp(5)


def test_images_of_a_sender_are_counted_whatever_the_clock_showed(ledger: Ledger) -> None:
    assert ledger.intake.number_from(frozenset({PRIMARY_AE})) == 0
    note(ledger, new_instance(1, received_at=5), new_instance(2, calling=PRIMARY_AE, received_at=9))
    note(ledger, new_instance(3, calling=PRIMARY_AE, received_at=4))
    assert ledger.intake.number_from(frozenset({PRIMARY_AE})) == 2


def test_modalities_tell_who_sent_how_much_and_when(ledger: Ledger) -> None:
    note(ledger, new_instance(1, received_at=NOW), new_instance(2, received_at=NOW + 60))
    note(ledger, new_instance(3, calling="MR1", received_at=NOW + 90))
    assert [(one.calling_ae_title, one.instances) for one in ledger.devices.modalities(lambda *_: False)] == [
        ("MR1", 1),
        ("CT1", 2),
    ]
    ct = ledger.devices.modalities(lambda *_: False)[1]
    assert (ct.called_ae_title, ct.remote_address) == ("STANDBY", "192.0.2.1")
    assert (ct.first_seen, ct.last_seen) == (NOW, NOW + 60)


def test_modalities_list_the_latest_senders_and_every_reported_one(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_MOST_DEVICES", 3)
    accepted = Seen("OLD", "STANDBY", "192.0.2.1", False, GateOutcome.ACCEPTED)
    ledger.devices.note_seen([accepted], NOW)
    note(ledger, new_instance(0, calling="OLD", received_at=NOW - 10))
    note(ledger, *(new_instance(n, calling=f"NEW{n}", received_at=NOW + n) for n in range(1, 6)))
    listed = ledger.devices.modalities(lambda *_: False)
    assert [(one.calling_ae_title, one.instances) for one in listed] == [
        ("NEW5", 1),
        ("NEW4", 1),
        ("NEW3", 1),
        ("OLD", 1),
    ]


def test_obligations_are_listed_by_holder_and_state_with_a_hint(ledger: Ledger) -> None:
    note(ledger, new_instance(1), owed=[ROUTE, VAULT])
    (number,) = numbers_of(ledger)
    ledger.custody.claim(ROUTE, [number], now=NOW)
    deliver(ledger, number, Outcome.REFUSED)
    (refused,) = ledger.obligations.listed(None, ObligationState.REFUSED, 10)
    assert (refused.holder, refused.reason, refused.study_instance_uid) == (ROUTE, "because", STUDY)
    assert "replay" in advice(refused.state, refused.reason)
    assert len(ledger.obligations.listed(None, None, 10)) == 2
    assert len(ledger.obligations.listed(None, None, 1)) == 1
    assert [one.holder for one in ledger.obligations.listed(VAULT, None, 10)] == [VAULT]


def test_obligations_that_are_settled_are_listed_last(ledger: Ledger) -> None:
    note(ledger, new_instance(1), owed=[ROUTE])
    ledger.custody.find(ROUTE, dict.fromkeys(numbers_of(ledger), PROOF), now=NOW)
    note(ledger, new_instance(2), owed=[ROUTE], now=Timestamp(NOW + 1))
    assert [one.state for one in ledger.obligations.listed(ROUTE, None, 10)] == [
        ObligationState.OWED,
        ObligationState.PROVEN,
    ]
