"""Note: from the feed to what is owed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from understudy.core.obligations import ObligationState
from understudy.core.rules import RouteDestination, RoutingRule, Rules
from understudy.flow.note import Noter, Reconciling
from understudy.ledger import Ledger

from tests.unit.fakes import (
    NOW,
    PRIMARY,
    PRIMARY_AE,
    PROOF,
    ROUTE,
    STUDY,
    VAULT,
    Clock,
    CrashError,
    FakeFeed,
    crash_after,
    dump,
    new_instance,
    note,
    numbers_of,
    router_of,
)

RULES = Rules(
    PRIMARY,
    frozenset({PRIMARY_AE}),
    [VAULT],
    [RoutingRule("all", [], [ROUTE])],
    {ROUTE: RouteDestination(ROUTE, "ARCHIVE")},
)


class Bench:
    """A noter over a feed."""

    def __init__(self, path: Path) -> None:
        self.feed = FakeFeed()
        self.ledger = Ledger(path)
        self.ledger.modes.start(NOW)
        self.noter = Noter(self.feed, self.ledger, router_of(RULES, self.ledger), Clock(), primary_grace=60)

    def owed(self) -> dict[str, int]:
        return {holder: sum(states.values()) for holder, states in self.ledger.obligations.tally().items()}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path / "ledger.sqlite")
    yield found
    found.ledger.close()


def test_catch_up_notes_all_pages_once(bench: Bench) -> None:
    bench.feed.page = 10
    bench.feed.store(*(new_instance(name) for name in range(35)))
    assert bench.noter.catch_up() == 35
    assert bench.noter.catch_up() == 0
    assert bench.ledger.intake.cursor("changes") == 35
    assert bench.owed() == {VAULT: 35, ROUTE: 35, PRIMARY: 35}


def test_catch_up_of_an_empty_feed_is_nothing(bench: Bench) -> None:
    before = dump(bench.ledger)
    assert bench.noter.catch_up() == 0
    assert dump(bench.ledger) == before


def test_what_the_primary_sent_is_proven_there_and_never_owed_to_it(bench: Bench) -> None:
    bench.feed.store(new_instance(1, calling=PRIMARY_AE))
    bench.noter.catch_up()
    (number,) = numbers_of(bench.ledger)
    assert bench.ledger.obligations.of_study(PRIMARY, STUDY) == {number: ObligationState.PROVEN}
    assert [row[1:4] for row in dump(bench.ledger)["proofs"]] == [(number, PRIMARY, "received")]


def test_what_a_destination_sent_does_not_go_back_to_it(bench: Bench) -> None:
    bench.feed.store(new_instance(1, calling="ARCHIVE"))
    bench.noter.catch_up()
    assert bench.owed() == {VAULT: 1, PRIMARY: 1}


def test_instance_deleted_before_it_was_described_is_passed_over(bench: Bench) -> None:
    bench.feed.store(*(new_instance(name) for name in range(1, 4)))
    bench.feed.after_changes = lambda: bench.feed.gone.add("orthanc-2")
    assert bench.noter.catch_up() == 2
    assert bench.ledger.intake.cursor("changes") == 3
    assert bench.noter.catch_up() == 0


def test_page_of_which_all_was_deleted_moves_the_cursor(bench: Bench) -> None:
    bench.feed.store(new_instance(1))
    bench.feed.gone = {"orthanc-1"}
    assert bench.noter.catch_up() == 0
    assert bench.ledger.intake.cursor("changes") == 1


def test_feed_that_was_reset_is_followed_from_its_end_and_proofs_stay(bench: Bench) -> None:
    bench.feed.store(*(new_instance(name) for name in range(1, 6)))
    bench.noter.catch_up()
    numbers = numbers_of(bench.ledger)
    bench.ledger.custody.find(VAULT, {numbers[0]: PROOF}, now=NOW)
    # The index was restored from a backup: shorter, and then something new.
    bench.feed.stored = bench.feed.stored[:2]
    bench.feed.store(new_instance(9))
    assert bench.noter.catch_up() == 0
    assert bench.ledger.intake.cursor("changes") == 3
    assert bench.ledger.obligations.of_study(VAULT, STUDY)[numbers[0]] is ObligationState.PROVEN
    assert [row[3] for row in dump(bench.ledger)["events"]] == ["begin", "rescan"]
    # What comes now does not wait for the rescan.
    bench.feed.store(new_instance(10))
    assert bench.noter.catch_up() == 1


def test_feed_that_was_reset_to_nothing_is_waited_for(bench: Bench) -> None:
    bench.feed.store(new_instance(1))
    bench.noter.catch_up()
    bench.feed.stored = []
    assert bench.noter.catch_up() == 0
    assert bench.ledger.intake.cursor("changes") == 0
    assert bench.noter.catch_up() == 0
    assert [row[3] for row in dump(bench.ledger)["events"]] == ["begin", "rescan"]


def test_catch_up_broken_off_anywhere_ends_the_same(tmp_path: Path) -> None:
    def filled(path: Path) -> Bench:
        bench = Bench(path)
        bench.feed.page = 2
        bench.feed.store(*(new_instance(name) for name in range(1, 4)))
        bench.feed.store(new_instance(4, calling=PRIMARY_AE), new_instance(1, content="B"))
        return bench

    undisturbed = filled(tmp_path / "undisturbed.sqlite")
    undisturbed.noter.catch_up()
    expected = dump(undisturbed.ledger)
    undisturbed.ledger.close()
    crashes = 0
    while True:
        bench = filled(tmp_path / f"{crashes}.sqlite")
        try:
            with crash_after(bench.ledger, crashes + 1, only_writes=True):
                bench.noter.catch_up()
        except CrashError:
            crashes += 1
            bench.noter.catch_up()
            assert dump(bench.ledger) == expected
            bench.ledger.close()
        else:
            bench.ledger.close()
            break
    assert crashes > 7


def test_noter_does_not_loop_where_the_ledger_knows_more_than_the_page_tells(bench: Bench) -> None:
    note(bench.ledger, new_instance(1), cursor=0)
    bench.feed.store(new_instance(1))
    assert bench.noter.catch_up() == 0
    assert bench.ledger.intake.cursor("changes") == 1


def test_reconcile_notes_what_a_restored_feed_hides_below_the_cursor(bench: Bench) -> None:
    bench.feed.store(*(new_instance(name) for name in range(3)))
    bench.noter.catch_up()
    # Restored from a backup that lacks the last two, and grown past the cursor again.
    bench.feed.stored = [new_instance(0), new_instance(7), new_instance(8), new_instance(9)]
    assert bench.noter.catch_up() == 1
    assert bench.noter.reconcile() == 2
    assert bench.noter.reconcile() == 0


def test_reconcile_with_nothing_hidden_reads_nothing_again(bench: Bench) -> None:
    bench.feed.store(new_instance(1))
    assert bench.noter.reconcile() == 1
    once = dump(bench.ledger)
    assert bench.noter.reconcile() == 0
    assert dump(bench.ledger) == once


def test_reconciling_goes_page_by_page_and_begins_again_after_the_last(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.flow.note._PAGE", 2)
    reconciling = Reconciling(bench.noter)
    bench.feed.store(*(new_instance(name) for name in range(3)))
    # What the feed tells comes first: two pages of it, then two of what is held, then the empty one.
    assert [reconciling.step() for _ in range(4)] == [(2, False), (1, False), (0, False), (0, True)]
    bench.feed.stored = [new_instance(name) for name in (0, 7, 8)]
    assert [reconciling.step() for _ in range(3)] == [(1, False), (1, False), (0, True)]
