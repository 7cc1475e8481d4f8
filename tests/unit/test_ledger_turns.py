"""Whose turn it is: priorities of routes, and what waits until its study is stable."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from understudy.core.model import StudyInstanceUid, Timestamp
from understudy.core.rules import Debt, Priority
from understudy.ledger import Ledger

from tests.unit.fakes import NOW, ROUTE, VAULT, dump, new_instance, numbers_of

DAY = 86_400.0
AGE = 60.0


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = Ledger(tmp_path / "ledger.sqlite")
    found.modes.start(NOW)
    yield found
    found.close()


def note(ledger: Ledger, study: str, *names: int, debt: Debt, at: float = 0.0) -> None:
    ledger.intake.note(
        [(new_instance(name, study=study), [debt, Debt(VAULT)], None) for name in names],
        primary=None,
        primary_grace=0,
        vaults=[VAULT],
        cursor=1,
        now=Timestamp(NOW + at),
        stable_age=AGE,
    )


def due(ledger: Ledger, at: float, limit: int = 10) -> list[str]:
    """Return the SOP Instance UIDs of the next batch, and take it."""
    now = Timestamp(NOW + at)
    batch = ledger.queue.due(ROUTE, now=now, limit=limit, max_bytes=10**9)
    ledger.custody.claim(ROUTE, [one.number for one in batch], now=now)
    return [one.sop_instance_uid.removeprefix("1.2.3.4.") for one in batch]


def urgent(priority: Priority) -> Debt:
    return Debt(ROUTE, priority)


STABLE = Debt(ROUTE, Priority.HIGH, when_stable=True)


def test_higher_priority_is_sent_first_and_equals_in_the_order_in_which_they_came(ledger: Ledger) -> None:
    note(ledger, "1.1", 1, debt=urgent(Priority.LOW))
    note(ledger, "1.2", 2, debt=urgent(Priority.MEDIUM), at=10)
    note(ledger, "1.3", 3, debt=urgent(Priority.MEDIUM), at=20)
    note(ledger, "1.4", 4, debt=urgent(Priority.HIGH), at=30)
    assert [due(ledger, 40) for _ in range(5)] == [["4"], ["2"], ["3"], ["1"], []]


def test_lower_priority_that_has_waited_a_day_comes_before_what_is_new(ledger: Ledger) -> None:
    note(ledger, "1.1", 1, debt=urgent(Priority.MEDIUM))
    note(ledger, "1.2", 2, debt=urgent(Priority.HIGH), at=DAY - 1)
    note(ledger, "1.3", 3, debt=urgent(Priority.HIGH), at=DAY + 1)
    assert [due(ledger, DAY + 2) for _ in range(3)] == [["2"], ["1"], ["3"]]


def test_head_start_makes_nothing_older_than_it_is(ledger: Ledger) -> None:
    note(ledger, "1.1", 1, debt=urgent(Priority.HIGH))
    (view,) = ledger.obligations.listed(ROUTE, None, 10)
    assert view.due == view.changed == NOW
    assert ledger.obligations.oldest(ROUTE) == NOW


def test_study_is_sent_whole_once_it_has_not_grown_for_its_age(ledger: Ledger) -> None:
    note(ledger, "1.1", 1, 2, debt=STABLE)
    note(ledger, "1.1", 3, debt=STABLE, at=50)
    # Another study does not hold it back.
    note(ledger, "1.2", 4, debt=STABLE, at=90)
    assert due(ledger, 109.9) == []
    assert due(ledger, 110) == ["1", "2", "3"]
    assert due(ledger, 149.9) == []
    assert due(ledger, 150) == ["4"]


def test_vault_does_not_wait_for_the_study(ledger: Ledger) -> None:
    note(ledger, "1.1", 1, debt=STABLE)
    assert ledger.queue.due(VAULT, now=NOW, limit=10, max_bytes=10**9)


def test_study_that_goes_on_growing_is_waited_for_ten_times_as_long(ledger: Ledger) -> None:
    for name in range(30):
        note(ledger, "1.1", name, debt=STABLE, at=name * 50.0)
    assert due(ledger, 10 * AGE - 0.1) == []
    # Each is owed ten ages after it came at the latest.
    assert due(ledger, 10 * AGE + 100) == ["0", "1", "2"]


def test_what_is_due_or_was_tried_is_not_held_back_by_what_is_new(ledger: Ledger) -> None:
    note(ledger, "1.1", 1, debt=urgent(Priority.LOW))
    note(ledger, "1.1", 2, debt=STABLE, at=10)
    assert due(ledger, 11) == ["1"]


def test_page_that_is_noted_again_changes_nothing(ledger: Ledger) -> None:
    note(ledger, "1.1", 1, 2, debt=STABLE)
    before = dump(ledger)
    note(ledger, "1.1", 1, 2, debt=STABLE, at=30)
    assert dump(ledger) == before
    assert len(numbers_of(ledger, StudyInstanceUid("1.1"))) == 2
