"""The process ends after any statement of an act, or just before its commit: done again, it ends the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
from understudy.core.model import Delivery, InstanceNumber, Outcome, Proof, ProofKind, Timestamp
from understudy.core.modes import ModeEvent
from understudy.core.obligations import ObligationState
from understudy.core.ports import Settlement
from understudy.core.proving import Absence
from understudy.ledger import Ledger
from understudy.ledger.copying import copy_ledger

from tests.unit.fakes import (
    NOW,
    PRIMARY,
    PROOF,
    ROUTE,
    STUDY,
    VAULT,
    CrashError,
    crash_after,
    deliver,
    dump,
    miscounted,
    new_instance,
    note,
    unproven,
)

LATER = Timestamp(NOW + 100)
OWED, OTHER_OWED, SENT, REFUSED, PROVEN, *FLYING = (InstanceNumber(number) for number in range(1, 11))
"""Instances by the state of what the route is owed; five are on their way."""

COMMITTED = Proof(ProofKind.COMMITMENT, NOW, {"transaction": "2.25.1"})
DELIVERIES = [
    Delivery(FLYING[0], Outcome.DELIVERED, "stored"),
    Delivery(FLYING[1], Outcome.DELIVERED, "stored", Proof(ProofKind.CHECKSUM, NOW, {"pack": "p"})),
    Delivery(FLYING[2], Outcome.RETRY, "busy"),
    Delivery(FLYING[3], Outcome.REFUSED, "no"),
    Delivery(FLYING[4], Outcome.UNKNOWN, "no answer"),
]

ACTS: dict[str, Callable[[Ledger], object]] = {
    "claim": lambda ledger: ledger.custody.claim(ROUTE, [OWED, OTHER_OWED], now=LATER),
    "deliver": lambda ledger: ledger.custody.record(
        ROUTE, DELIVERIES, now=LATER, retry_at=lambda _attempt: LATER
    ),
    "give_back": lambda ledger: ledger.custody.give_back(ROUTE, FLYING, now=LATER),
    "release": lambda ledger: ledger.custody.release(now=LATER),
    "prove": lambda ledger: ledger.custody.prove(ROUTE, {SENT: PROOF}, now=LATER),
    "find": lambda ledger: ledger.custody.find(ROUTE, {OWED: PROOF, OTHER_OWED: PROOF}, now=LATER),
    "absent": lambda ledger: ledger.custody.absent(
        ROUTE,
        [SENT],
        now=LATER,
        judge=lambda _waited, _losses: Absence.LOST,
        ask_again=lambda _waited: LATER,
        retry_at=lambda _attempt: LATER,
    ),
    "give_up": lambda ledger: ledger.custody.absent(
        ROUTE,
        [SENT],
        now=LATER,
        judge=lambda _waited, _losses: Absence.UNPROVABLE,
        ask_again=lambda _waited: LATER,
        retry_at=lambda _attempt: LATER,
    ),
    "disprove": lambda ledger: ledger.custody.disprove(
        ROUTE, [SENT, PROVEN], reason="gone", now=LATER, due=LATER
    ),
    "differ": lambda ledger: ledger.custody.differ(ROUTE, [SENT, PROVEN], why="it differs", now=LATER),
    "give_up_at_once": lambda ledger: ledger.custody.give_up(
        ROUTE, {SENT: "it differs", OWED: "it differs"}, now=LATER
    ),
    "begin_commitment": lambda ledger: ledger.commitments.begin(ROUTE, "2.25.2", [SENT, PROVEN], LATER),
    "settle_commitment": lambda ledger: ledger.commitments.settle(
        ROUTE,
        Settlement("2.25.1", {SENT: COMMITTED, OWED: COMMITTED}, {PROVEN: "no such object instance"}),
        now=LATER,
        retry_at=lambda _attempt: LATER,
    ),
    "end_commitment": lambda ledger: ledger.commitments.end("2.25.1"),
    "replay": lambda ledger: ledger.dead_letters.replay(ROUTE, None, "ann", LATER),
    "waive": lambda ledger: ledger.dead_letters.waive(ROUTE, ["1.2.3.4.4"], "not wanted", "ann", LATER),
    "owe_all": lambda ledger: ledger.intake.owe_all(VAULT, now=LATER),
    "note": lambda ledger: note(
        ledger, new_instance(1, content="B"), new_instance(11), new_instance(12), owed=[ROUTE, PRIMARY]
    ),
    "promote": lambda ledger: ledger.modes.change(
        ModeEvent.PROMOTE, epoch=0, who="ann", fields={"reason": "down"}, now=LATER
    ),
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ledger with an obligation in every state."""
    path = tmp_path_factory.mktemp("template") / "ledger.sqlite"
    ledger = Ledger(path)
    ledger.modes.start(NOW)
    note(ledger, *(new_instance(name) for name in range(1, 11)))
    ledger.custody.claim(ROUTE, [SENT, REFUSED, *FLYING], now=NOW)
    deliver(ledger, SENT, Outcome.DELIVERED)
    deliver(ledger, REFUSED, Outcome.REFUSED)
    ledger.custody.find(ROUTE, {PROVEN: PROOF}, now=NOW)
    ledger.commitments.begin(ROUTE, "2.25.1", [SENT, PROVEN, OWED], NOW)
    assert set(ledger.obligations.of_study(ROUTE, STUDY).values()) == set(ObligationState) - {
        ObligationState.WAIVED
    }
    ledger.close()
    return path


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_act_broken_off_after_any_statement_ends_the_same(
    tmp_path: Path, template: Path, act: Callable[[Ledger], object]
) -> None:
    def begun(name: str) -> Ledger:
        copy_ledger(template, tmp_path / name)
        return Ledger(tmp_path / name)

    undisturbed = begun("undisturbed")
    before = dump(undisturbed)
    act(undisturbed)
    expected = dump(undisturbed)
    undisturbed.close()
    assert expected != before
    crashes = 0
    while True:
        ledger = begun(f"{crashes}")
        try:
            with crash_after(ledger, crashes + 1):
                act(ledger)
        except CrashError:
            crashes += 1
        else:
            ledger.close()
            break
        ledger.close()
        again = Ledger(tmp_path / f"{crashes - 1}")
        assert dump(again) == before, f"after {crashes}"
        act(again)
        assert dump(again) == expected, f"after {crashes}"
        assert (miscounted(again), unproven(again), again.events.broken()) == ({}, [], None)
        again.close()
    # At least a statement and the commit.
    assert crashes >= 2
