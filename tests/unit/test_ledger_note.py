"""Note: repeated or broken off anywhere, it ends the same."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from understudy.core.model import HolderName, InstanceNumber, Outcome, Proof, ProofKind, Timestamp
from understudy.core.modes import ModeEvent
from understudy.core.obligations import ObligationState
from understudy.ledger import Ledger

from tests.unit.fakes import (
    CRASH_SHARES,
    NOW,
    PRIMARY,
    PRIMARY_AE,
    PROOF,
    ROUTE,
    STUDY,
    VAULT,
    CrashError,
    crash_after,
    deliver,
    dump,
    new_instance,
    note,
    numbers_of,
    received_proof,
    shares,
    unproven,
)


def opened(path: Path) -> Ledger:
    ledger = Ledger(path)
    ledger.modes.start(NOW)
    return ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = opened(tmp_path / "ledger.sqlite")
    yield found
    found.close()


def state(ledger: Ledger, number: InstanceNumber, holder: HolderName) -> ObligationState | None:
    return ledger.obligations.of_study(holder, STUDY).get(number)


def test_note_repeated_changes_nothing(ledger: Ledger) -> None:
    assert note(ledger, new_instance(1), new_instance(2)) == 2
    once = dump(ledger)
    assert note(ledger, new_instance(1), new_instance(2)) == 0
    assert dump(ledger) == once


def test_note_owes_the_primary_after_its_grace_and_others_at_once(ledger: Ledger) -> None:
    note(ledger, new_instance(1), owed=[VAULT, ROUTE, PRIMARY], grace=60)

    def is_due(holder: HolderName, after: float) -> bool:
        return bool(ledger.queue.due(holder, now=Timestamp(NOW + after), limit=10, max_bytes=10**9))

    assert is_due(ROUTE, 0)
    assert is_due(VAULT, 0)
    assert not is_due(PRIMARY, 59)
    assert is_due(PRIMARY, 60)


def test_note_of_what_the_primary_sent_proves_that_it_has_it(ledger: Ledger) -> None:
    note(ledger, new_instance(1, calling=PRIMARY_AE), owed=[VAULT], received=received_proof())
    (number,) = numbers_of(ledger)
    assert state(ledger, number, PRIMARY) is ObligationState.PROVEN
    (row,) = dump(ledger)["proofs"]
    assert row[1:4] == (number, PRIMARY, "received")


def test_note_of_a_changed_content_supersedes_and_owes_the_new_one(ledger: Ledger) -> None:
    note(ledger, new_instance(1), owed=[ROUTE, VAULT])
    (first,) = numbers_of(ledger)
    note(ledger, new_instance(1, content="B"), owed=[ROUTE, VAULT])
    (second,) = numbers_of(ledger)
    assert second != first
    assert state(ledger, first, ROUTE) is ObligationState.WAIVED
    assert state(ledger, first, VAULT) is ObligationState.OWED
    assert state(ledger, second, ROUTE) is ObligationState.OWED
    assert state(ledger, second, VAULT) is ObligationState.OWED
    assert [row[3] for row in dump(ledger)["events"]] == ["begin", "conflict"]
    assert ledger.instances.counts() == (1, 1)


def test_note_of_a_content_that_comes_back_owes_it_again(ledger: Ledger) -> None:
    note(ledger, new_instance(1), owed=[ROUTE, VAULT, PRIMARY])
    (first,) = numbers_of(ledger)
    note(ledger, new_instance(1, content="B"), owed=[ROUTE, VAULT, PRIMARY])
    (second,) = numbers_of(ledger)
    assert note(ledger, new_instance(1, attachment="new-file"), owed=[ROUTE, VAULT, PRIMARY]) == 0
    assert numbers_of(ledger) == [first]
    assert state(ledger, first, ROUTE) is ObligationState.OWED
    assert state(ledger, first, PRIMARY) is ObligationState.OWED
    assert state(ledger, second, ROUTE) is ObligationState.WAIVED
    (instance,) = ledger.instances.of_study(STUDY)
    assert instance.attachment_uuid == "new-file"
    assert [row[3] for row in dump(ledger)["events"]] == ["begin", "conflict", "conflict"]


def test_note_of_a_content_that_comes_back_keeps_its_proofs(ledger: Ledger) -> None:
    note(ledger, new_instance(1))
    (first,) = numbers_of(ledger)
    ledger.custody.find(ROUTE, {first: PROOF}, now=NOW)
    note(ledger, new_instance(1, content="B"))
    note(ledger, new_instance(1, attachment="new-file"))
    assert state(ledger, first, ROUTE) is ObligationState.PROVEN


def _send(ledger: Ledger, number: InstanceNumber, until: ObligationState) -> None:
    """Bring an owed instance to the route, as far as said."""
    ledger.custody.claim(ROUTE, [number], now=NOW)
    match until:
        case ObligationState.OWED:
            deliver(ledger, number, Outcome.UNKNOWN)
        case ObligationState.REFUSED:
            deliver(ledger, number, Outcome.DELIVERED)
            ledger.custody.give_up(ROUTE, {number: "changed"}, now=NOW)
        case ObligationState.SENT:
            deliver(ledger, number, Outcome.DELIVERED)
        case ObligationState.PROVEN:
            deliver(ledger, number, Outcome.DELIVERED)
            ledger.custody.prove(ROUTE, {number: PROOF}, now=NOW)


@pytest.mark.parametrize("first_is", [ObligationState.SENT, ObligationState.PROVEN])
@pytest.mark.parametrize("second_is", sorted(set(ObligationState) - {ObligationState.WAIVED}, key=str))
def test_note_of_a_content_that_comes_back_owes_it_where_the_other_may_have_come_to(
    ledger: Ledger, first_is: ObligationState, second_is: ObligationState
) -> None:
    note(ledger, new_instance(1))
    (first,) = numbers_of(ledger)
    _send(ledger, first, first_is)
    note(ledger, new_instance(1, content="B"))
    (second,) = numbers_of(ledger)
    _send(ledger, second, second_is)
    note(ledger, new_instance(1, attachment="new-file"))
    assert state(ledger, first, ROUTE) is ObligationState.OWED
    assert ("disprove", 1) in [
        (row[3], json.loads(row[4]).get("instances")) for row in dump(ledger)["events"]
    ]
    # The archive lists the UID of both.
    assert ledger.custody.find(ROUTE, {first: PROOF}, now=NOW) == set()


def test_note_of_a_content_that_comes_back_owes_it_after_a_third_that_was_never_sent(ledger: Ledger) -> None:
    note(ledger, new_instance(1))
    (first,) = numbers_of(ledger)
    _send(ledger, first, ObligationState.PROVEN)
    note(ledger, new_instance(1, content="B"))
    (second,) = numbers_of(ledger)
    _send(ledger, second, ObligationState.PROVEN)
    note(ledger, new_instance(1, content="C"))
    note(ledger, new_instance(1, attachment="new-file"), owed=[])
    assert state(ledger, first, ROUTE) is ObligationState.OWED


def test_note_of_a_content_that_comes_back_keeps_the_proofs_of_vaults_and_of_its_sender(
    ledger: Ledger,
) -> None:
    note(ledger, new_instance(1, calling=PRIMARY_AE), owed=[VAULT], received=received_proof())
    (first,) = numbers_of(ledger)
    ledger.custody.find(VAULT, {first: PROOF}, now=NOW)
    note(ledger, new_instance(1, content="B"), owed=[VAULT, PRIMARY])
    (second,) = numbers_of(ledger)
    assert ledger.custody.find(VAULT, {second: PROOF}, now=NOW) == set()
    checksum = Proof(ProofKind.CHECKSUM, NOW, {})
    assert ledger.custody.find(VAULT, {second: checksum}, now=NOW) == {second}
    assert ledger.custody.find(PRIMARY, {second: checksum}, now=NOW) == {second}
    again = new_instance(1, calling=PRIMARY_AE, attachment="new-file")
    note(ledger, again, owed=[VAULT], received=received_proof())
    assert {state(ledger, first, holder) for holder in (VAULT, PRIMARY)} == {ObligationState.PROVEN}


def test_note_of_a_new_file_with_the_same_bytes_changes_the_file_alone(ledger: Ledger) -> None:
    note(ledger, new_instance(1))
    (number,) = numbers_of(ledger)
    ledger.dead_letters.waive(ROUTE, ["1.2.3.4.1"], "not wanted", "ann", NOW)
    assert note(ledger, new_instance(1, attachment="new-file")) == 0
    (instance,) = ledger.instances.of_study(STUDY)
    assert (instance.number, instance.attachment_uuid) == (number, "new-file")
    # A person gave it up, and nothing else has come.
    assert state(ledger, number, ROUTE) is ObligationState.WAIVED


def test_inventory_proves_nothing_of_a_content_that_took_anothers_place(ledger: Ledger) -> None:
    note(ledger, new_instance(1))
    (first,) = numbers_of(ledger)
    ledger.custody.find(ROUTE, {first: PROOF}, now=NOW)
    note(ledger, new_instance(1, content="B"))
    (second,) = numbers_of(ledger)
    # The archive lists the SOP Instance UID: it may well be the earlier content.
    assert ledger.custody.find(ROUTE, {second: PROOF}, now=NOW) == set()
    assert state(ledger, second, ROUTE) is ObligationState.OWED
    checksum = Proof(ProofKind.CHECKSUM, NOW, {})
    assert ledger.custody.find(ROUTE, {second: checksum}, now=NOW) == {second}


def test_inventory_is_believed_once_the_new_content_was_acknowledged(ledger: Ledger) -> None:
    note(ledger, new_instance(1))
    note(ledger, new_instance(1, content="B"))
    (second,) = numbers_of(ledger)
    ledger.custody.claim(ROUTE, [second], now=NOW)
    deliver(ledger, second, Outcome.DELIVERED)
    ledger.custody.prove(ROUTE, {second: PROOF}, now=NOW)
    assert state(ledger, second, ROUTE) is ObligationState.PROVEN


def test_inventory_is_believed_where_the_holder_had_sent_the_other_content(ledger: Ledger) -> None:
    # A device sends to both, and the PACS forwards what it coerced before the device's own copy arrives.
    note(ledger, new_instance(1, content="coerced", calling=PRIMARY_AE), owed=[], received=received_proof())
    note(ledger, new_instance(1), owed=[PRIMARY])
    (second,) = numbers_of(ledger)
    assert ledger.custody.find(PRIMARY, {second: PROOF}, now=NOW) == {second}


@pytest.mark.parametrize("outage", [True, False])
def test_inventory_is_believed_beside_what_the_holder_had_sent_outside_outages_alone(
    ledger: Ledger, outage: bool
) -> None:
    note(ledger, new_instance(1, content="A", calling=PRIMARY_AE), owed=[], received=received_proof())
    if outage:
        ledger.modes.change(ModeEvent.PROMOTE, epoch=0, who="ann", fields={}, now=NOW)
    note(ledger, new_instance(1, content="B", received_at=NOW + 3600), owed=[PRIMARY])
    (second,) = numbers_of(ledger)
    assert ledger.custody.find(PRIMARY, {second: PROOF}, now=NOW) == (set() if outage else {second})


def test_inventory_is_not_believed_of_what_came_before_anybody_declared_the_outage(ledger: Ledger) -> None:
    note(ledger, new_instance(1, content="A", calling=PRIMARY_AE), owed=[], received=received_proof())
    # The PACS has died, and a modality stores its correction here by itself.
    note(ledger, new_instance(1, content="B", received_at=NOW + 3600), owed=[PRIMARY])
    ledger.modes.change(ModeEvent.PROMOTE, epoch=0, who="ann", fields={}, now=NOW)
    (second,) = numbers_of(ledger)
    assert ledger.custody.find(PRIMARY, {second: PROOF}, now=NOW) == set()
    assert ledger.custody.ambiguous(PRIMARY, [second]) == {second}


def _replaced(ledger: Ledger, holder: HolderName) -> tuple[InstanceNumber, InstanceNumber]:
    """Return two contents of one UID: the earlier one was acknowledged before the later one came."""
    note(ledger, new_instance(1), owed=[holder])
    (first,) = numbers_of(ledger)
    ledger.custody.claim(holder, [first], now=NOW)
    deliver(ledger, first, Outcome.DELIVERED, holder)
    note(ledger, new_instance(1, content="B"), owed=[holder])
    (second,) = numbers_of(ledger)
    return first, second


def test_inventory_proves_no_content_that_was_replaced(ledger: Ledger) -> None:
    first, second = _replaced(ledger, PRIMARY)
    assert ledger.custody.ambiguous(PRIMARY, [first, second]) == {first, second}
    ledger.custody.disprove(PRIMARY, [first], reason="it is not listed", now=NOW, due=NOW)
    assert ledger.custody.find(PRIMARY, {first: PROOF}, now=NOW) == set()


def test_replaced_content_that_is_denied_is_given_up_and_waits_for_nobody(ledger: Ledger) -> None:
    first, second = _replaced(ledger, PRIMARY)
    ledger.custody.give_up(
        PRIMARY, {first: "the instance that it gives back differs from the sent one"}, now=NOW
    )
    assert state(ledger, first, PRIMARY) is ObligationState.WAIVED
    assert state(ledger, second, PRIMARY) is ObligationState.OWED
    assert ledger.dead_letters.replay(PRIMARY, None, "ann", NOW) == 0


def test_replaced_content_is_never_sent_over_the_present_one(ledger: Ledger) -> None:
    first, second = _replaced(ledger, PRIMARY)
    ledger.custody.disprove(PRIMARY, [first], reason="lost", now=NOW, due=NOW)
    assert ledger.custody.claim(PRIMARY, [first, second], now=NOW) == [second]
    assert state(ledger, first, PRIMARY) is ObligationState.WAIVED


def test_vault_gets_a_replaced_content_too(ledger: Ledger) -> None:
    first, second = _replaced(ledger, VAULT)
    ledger.custody.disprove(VAULT, [first], reason="lost", now=NOW, due=NOW)
    assert ledger.custody.claim(VAULT, [first, second], now=NOW, keeps_versions=True) == [first, second]


def test_inventory_is_not_believed_of_an_instance_that_names_another_patient(ledger: Ledger) -> None:
    note(ledger, new_instance(1), owed=[PRIMARY])
    note(ledger, replace(new_instance(1, content="B"), orthanc_id="another"), owed=[PRIMARY])
    first, second = numbers_of(ledger)
    assert ledger.custody.find(PRIMARY, {first: PROOF, second: PROOF}, now=NOW) == set()
    assert ledger.custody.ambiguous(PRIMARY, [first, second]) == {first, second}


def _noting(ledger: Ledger) -> None:
    """Note a page with all that can happen: new, new version, version that came back, received, known."""
    note(
        ledger,
        new_instance(1, content="B"),
        new_instance(2, attachment="again"),
        new_instance(3),
        new_instance(4),
        owed=[ROUTE, VAULT, PRIMARY],
        cursor=9,
    )
    note(ledger, new_instance(5, calling=PRIMARY_AE), owed=[VAULT], received=received_proof(), cursor=10)


def _starting(ledger: Ledger) -> None:
    note(ledger, new_instance(1), new_instance(2), new_instance(3), owed=[ROUTE, VAULT, PRIMARY], cursor=3)
    note(ledger, new_instance(2, content="B"), owed=[ROUTE, VAULT, PRIMARY], cursor=4)


@shares(CRASH_SHARES)
def test_note_broken_off_after_any_statement_ends_the_same(tmp_path: Path, share: int) -> None:
    undisturbed = opened(tmp_path / "undisturbed.sqlite")
    _starting(undisturbed)
    with crash_after(undisturbed, 0) as statements:
        _noting(undisturbed)
        total = statements()
    expected = dump(undisturbed)
    undisturbed.close()
    assert {row[3] for row in expected["events"]} == {"begin", "conflict"}
    assert total > 30
    for statement in range(1 + share, total + 1, CRASH_SHARES):
        path = tmp_path / f"{statement}.sqlite"
        ledger = opened(path)
        _starting(ledger)
        with pytest.raises(CrashError), crash_after(ledger, statement):
            _noting(ledger)
        ledger.close()
        ledger = opened(path)
        _noting(ledger)
        assert dump(ledger) == expected, f"after statement {statement}"
        assert unproven(ledger) == []
        ledger.close()


def test_owe_all_to_a_holder_named_later_owes_what_came_before_once(ledger: Ledger) -> None:
    later = HolderName("later")
    note(ledger, new_instance(1), new_instance(2), owed=[VAULT])
    assert ledger.intake.owe_all(later, now=NOW) == 2
    assert ledger.intake.owe_all(later, now=NOW) == 0
    assert ledger.intake.owe_all(VAULT, now=NOW) == 0
    assert len(ledger.queue.due(later, now=NOW, limit=10, max_bytes=10**9)) == 2
