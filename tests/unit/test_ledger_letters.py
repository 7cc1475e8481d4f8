"""Dead letters: what is told of them, and what a person does about them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from understudy.core.errors import NotFoundError, RefusedError, StaleEpochError
from understudy.core.model import Delivery, HolderName, InstanceNumber, Outcome, StudyInstanceUid, Timestamp
from understudy.core.modes import ModeEvent
from understudy.core.obligations import ObligationState, Selection
from understudy.core.refusals import hint_of
from understudy.ledger import Ledger

from tests.unit.fakes import NOW, PROOF, ROUTE, STUDY, VAULT, dump, new_instance, note, numbers_of

OTHER = StudyInstanceUid("1.2.9")
LATER = Timestamp(NOW + 60)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = Ledger(tmp_path / "ledger.sqlite")
    found.modes.start(NOW)
    note(found, *(new_instance(name) for name in range(1, 5)), owed=(ROUTE, VAULT))
    note(found, *(new_instance(name, study=OTHER) for name in range(5, 7)), owed=(ROUTE, VAULT))
    yield found
    found.close()


def refuse(
    ledger: Ledger, holder: HolderName, *names: int, reason: str = "it is odd", now: Timestamp = NOW
) -> None:
    numbers = [InstanceNumber(name) for name in names]
    ledger.custody.claim(holder, numbers, now=now)
    deliveries = [Delivery(number, Outcome.REFUSED, reason) for number in numbers]
    ledger.custody.record(holder, deliveries, now=now, retry_at=lambda _: now)


def refused(ledger: Ledger, holder: HolderName = ROUTE) -> int:
    return ledger.obligations.tally()[holder].get(ObligationState.REFUSED, 0)


def last_event(ledger: Ledger) -> tuple[str, str, dict[str, object]]:
    row = dump(ledger)["events"][-1]
    return row[2], row[3], json.loads(row[4])


def test_letters_are_counted_by_holder_and_reason_the_oldest_first(ledger: Ledger) -> None:
    refuse(ledger, ROUTE, 1, 2, now=LATER)
    refuse(ledger, ROUTE, 5, now=Timestamp(NOW + 90))
    refuse(ledger, ROUTE, 3, reason="its stored file is gone", now=Timestamp(NOW + 70))
    refuse(ledger, VAULT, 1)
    found = ledger.dead_letters.listed(Selection())
    told = [(view.holder, view.reason, view.instances, view.studies) for view in found]
    assert told == [
        (VAULT, "it is odd", 1, 1),
        (ROUTE, "it is odd", 3, 2),
        (ROUTE, "its stored file is gone", 1, 1),
    ]
    assert (found[1].since, found[1].latest) == (LATER, NOW + 90)
    assert found[1].sop_instance_uid == "1.2.3.4.1"
    assert "replay" in hint_of(found[1].reason)
    assert "heal" in hint_of(found[2].reason)


def test_letters_of_one_holder_and_of_one_study(ledger: Ledger) -> None:
    refuse(ledger, ROUTE, 1, 5)
    refuse(ledger, VAULT, 5)
    assert [view.holder for view in ledger.dead_letters.listed(Selection(VAULT))] == [VAULT]
    assert [view.instances for view in ledger.dead_letters.listed(Selection(ROUTE, None, OTHER))] == [1]
    assert len(ledger.obligations.listed(None, ObligationState.REFUSED, 10, study=OTHER)) == 2
    assert ledger.dead_letters.listed(Selection("nobody")) == []


def test_without_letters_there_is_nothing_to_tell(ledger: Ledger) -> None:
    assert ledger.dead_letters.listed(Selection()) == []
    assert ledger.dead_letters.since(ROUTE) is None


def test_refused_since_is_the_first_refusal(ledger: Ledger) -> None:
    refuse(ledger, ROUTE, 2, now=LATER)
    refuse(ledger, ROUTE, 1)
    assert ledger.dead_letters.since(ROUTE) == NOW
    assert ledger.dead_letters.since(VAULT) is None


def test_replay_of_a_study_takes_every_holder_and_tells_each(ledger: Ledger) -> None:
    refuse(ledger, ROUTE, 1, 2, 5)
    refuse(ledger, VAULT, 1)
    assert (
        ledger.dead_letters.replay(None, None, "ann", LATER, study=STUDY, reason="the receiver is mended")
        == 3
    )
    assert (refused(ledger), refused(ledger, VAULT)) == (1, 0)
    who, kind, fields = last_event(ledger)
    assert (who, kind) == ("ann", "replay")
    assert fields == {"holder": VAULT, "instances": 1, "epoch": 0, "reason": "the receiver is mended"}
    assert {view.reason for view in ledger.obligations.listed(VAULT, None, 10, study=STUDY)} == {
        "",
        "replayed by ann: the receiver is mended",
    }


def test_act_again_does_nothing_and_leaves_no_event(ledger: Ledger) -> None:
    refuse(ledger, ROUTE, 1)
    assert ledger.dead_letters.replay(ROUTE, None, "ann", LATER) == 1
    before = dump(ledger)
    assert ledger.dead_letters.replay(ROUTE, None, "ann", LATER) == 0
    assert dump(ledger) == before


def test_waiver_of_a_study_names_every_instance(ledger: Ledger) -> None:
    refuse(ledger, ROUTE, 5)
    assert ledger.dead_letters.waive(ROUTE, None, "a test", "ann", LATER, study=OTHER) == 2
    who, kind, fields = last_event(ledger)
    assert (who, kind, fields["uids"]) == ("ann", "waive", ["1.2.3.4.5", "1.2.3.4.6"])
    assert (fields["reason"], fields["epoch"]) == ("a test", 0)


def test_waiver_of_everything_is_refused(ledger: Ledger) -> None:
    with pytest.raises(RefusedError, match="named instances"):
        ledger.dead_letters.waive(ROUTE, None, "all of it", "ann", LATER)


@pytest.mark.parametrize(
    ("holder", "uids", "study"), [("nobody", None, None), (ROUTE, ["9.9"], None), (ROUTE, None, "9.9")]
)
def test_act_on_what_nobody_is_owed_is_told(
    ledger: Ledger, holder: str, uids: list[str] | None, study: str | None
) -> None:
    before = dump(ledger)
    with pytest.raises(NotFoundError):
        ledger.dead_letters.replay(holder, uids, "ann", LATER, study=study)
    assert dump(ledger) == before


def test_act_that_saw_another_epoch_changes_nothing(ledger: Ledger) -> None:
    refuse(ledger, ROUTE, 1)
    ledger.modes.change(ModeEvent.PROMOTE, epoch=0, who="bob", fields={}, now=LATER)
    with pytest.raises(StaleEpochError):
        ledger.dead_letters.replay(ROUTE, None, "ann", LATER, epoch=0)
    with pytest.raises(StaleEpochError):
        ledger.dead_letters.waive(ROUTE, ["1.2.3.4.1"], "a test", "ann", LATER, epoch=0)
    assert refused(ledger) == 1
    assert ledger.dead_letters.replay(ROUTE, None, "ann", LATER, epoch=1) == 1
    assert last_event(ledger)[2]["epoch"] == 1


def test_deleted_instance_says_so_with_who_has_it_and_is_owed_when_it_is_stored_again(ledger: Ledger) -> None:
    gone = "its stored file is gone"
    refuse(ledger, ROUTE, 1, 2, reason=gone)
    refuse(ledger, VAULT, 1, reason="another reason")
    number = numbers_of(ledger)[1]
    ledger.custody.claim(VAULT, [number], now=NOW)
    ledger.custody.record(VAULT, [Delivery(number, Outcome.DELIVERED, "")], now=NOW, retry_at=lambda _: NOW)
    ledger.custody.prove(VAULT, {number: PROOF}, now=NOW)
    ledger.dead_letters.deleted_here(InstanceNumber(1))
    ledger.dead_letters.deleted_here(InstanceNumber(2))
    reasons = {(view.holder, view.reason) for view in ledger.dead_letters.listed(Selection())}
    assert reasons == {
        (ROUTE, "it was deleted here; nobody is proven to have it"),
        (ROUTE, f"it was deleted here; {VAULT} has it"),
        (VAULT, "another reason"),
    }
    assert ledger.files.refused(ROUTE, 10) == []
    # The same bytes come again, in a new file.
    assert note(ledger, new_instance(1, attachment="file-again"), owed=(ROUTE, VAULT), now=LATER) == 0
    (view,) = [
        one
        for one in ledger.obligations.listed(ROUTE, None, 10, study=STUDY)
        if one.sop_instance_uid == "1.2.3.4.1"
    ]
    assert (view.state, view.reason) == (ObligationState.OWED, "it was stored again")
    assert refused(ledger, VAULT) == 1, "it was refused for what a new file does not mend"
