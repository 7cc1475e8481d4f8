"""Operations in the ledger: what is cancelled, and what the event log says of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from understudy.core.errors import NotFoundError, RefusedError
from understudy.core.model import Timestamp
from understudy.core.views import OperationState
from understudy.flow.appliance import Appliance
from understudy.ledger import Ledger

NOW = Timestamp(1_790_000_000.0)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "ledger.sqlite")
    made.modes.start(NOW)
    yield made
    made.close()


def begun(ledger: Ledger) -> int:
    return ledger.operations.begin("verify", total=10, unit="instances", message="", now=NOW).operation


def logged(ledger: Ledger) -> int:
    """Return the number of the last event."""
    last = ledger.events.last()
    return 0 if last is None else last.event


def test_cancelled_operation_has_one_event_however_often_it_is_cancelled(ledger: Ledger) -> None:
    number = begun(ledger)
    before = logged(ledger)
    first = ledger.operations.cancel(number, "otto", NOW)
    assert (first.state, first.message) == (OperationState.CANCELLED, "cancelled by otto")
    assert ledger.operations.cancel(number, "ada", Timestamp(NOW + 1)) == first
    assert logged(ledger) == before + 1
    assert ledger.events.broken() is None


@pytest.mark.parametrize("state", [OperationState.DONE, OperationState.FAILED])
def test_cancel_of_what_has_ended_is_refused_and_not_logged(ledger: Ledger, state: OperationState) -> None:
    number = begun(ledger)
    ended = ledger.operations.update(number, now=NOW, state=state)
    before = logged(ledger)
    with pytest.raises(RefusedError, match=f"has ended: it is {state.value}"):
        ledger.operations.cancel(number, "otto", NOW)
    with pytest.raises(NotFoundError):
        ledger.operations.cancel(number + 1, "otto", NOW)
    assert (ledger.operations.get(number), logged(ledger)) == (ended, before)


def test_failback_is_not_cancelled_but_interrupted(appliance: Appliance) -> None:
    running = appliance.ledger.operations.begin("failback", total=10, unit="instances", message="", now=NOW)
    with pytest.raises(RefusedError, match="not cancelled but interrupted"):
        appliance.cancel("otto", running.operation)
    assert appliance.operation(running.operation) == running
