"""Modes, events, operations and the file itself."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.event import listen
from sqlalchemy.exc import IntegrityError
from understudy.core.errors import NotFoundError, PreconditionError, StaleEpochError
from understudy.core.model import HolderName, InstanceNumber, StudyInstanceUid, Timestamp
from understudy.core.modes import TRANSITIONS, Mode, ModeEvent, WrongModeError
from understudy.core.obligations import ObligationState
from understudy.core.packing import Digests, PackIntent
from understudy.core.views import OperationState
from understudy.ledger import GapsTally, Ledger
from understudy.ledger.schema import events, obligations, proofs

from tests.unit.fakes import (
    NOW,
    PROOF,
    ROUTE,
    VAULT,
    CrashError,
    crash_after,
    dump,
    new_instance,
    note,
)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = Ledger(tmp_path / "ledger.sqlite")
    found.modes.start(NOW)
    yield found
    found.close()


def change(ledger: Ledger, event: ModeEvent, epoch: int) -> None:
    ledger.modes.change(event, epoch=epoch, who="ann", fields={"reason": "test"}, now=NOW)


PATHS: dict[Mode, list[ModeEvent]] = {
    Mode.STANDBY: [],
    Mode.ACTIVE: [ModeEvent.PROMOTE],
    Mode.RETURNING: [ModeEvent.PROMOTE, ModeEvent.FAILBACK],
    Mode.MAINTENANCE: [ModeEvent.HOLD],
}


def brought_to(ledger: Ledger, mode: Mode) -> int:
    for event in PATHS[mode]:
        change(ledger, event, ledger.modes.current().epoch)
    assert ledger.modes.current().mode is mode
    return ledger.modes.current().epoch


# Modes


@pytest.mark.parametrize("mode", Mode)
def test_known_mode_is_the_committed_one_without_a_look_at_the_file(ledger: Ledger, mode: Mode) -> None:
    brought_to(ledger, mode)
    assert ledger.modes.known == ledger.modes.current()
    with pytest.raises(StaleEpochError):
        change(ledger, ModeEvent.PROMOTE, 99)
    assert ledger.modes.known.mode is mode
    ledger.close()
    ledger.database.path.unlink()
    assert ledger.modes.known.mode is mode


def test_known_mode_is_that_of_the_file_after_a_start(ledger: Ledger, tmp_path: Path) -> None:
    brought_to(ledger, Mode.ACTIVE)
    again = Ledger(tmp_path / "ledger.sqlite")
    again.modes.start(NOW)
    assert again.modes.known == ledger.modes.current()
    again.close()


@pytest.mark.parametrize("event", list(ModeEvent))
@pytest.mark.parametrize("mode", list(Mode))
def test_mode_changes_as_the_table_says_or_raises_and_changes_nothing(
    ledger: Ledger, mode: Mode, event: ModeEvent
) -> None:
    epoch = brought_to(ledger, mode)
    before = dump(ledger)
    if (mode, event) not in TRANSITIONS:
        with pytest.raises(WrongModeError):
            change(ledger, event, epoch)
        assert dump(ledger) == before
        return
    change(ledger, event, epoch)
    after = ledger.modes.current()
    assert after.mode is TRANSITIONS[mode, event]
    assert after.epoch == epoch + (event is ModeEvent.PROMOTE)
    assert dump(ledger)["events"][-1][2:4] == ("ann", event.value)
    assert ledger.events.broken() is None


@pytest.mark.parametrize("epoch", [-1, 1])
def test_mode_with_another_epoch_is_refused(ledger: Ledger, epoch: int) -> None:
    before = dump(ledger)
    with pytest.raises(StaleEpochError, match=f"not {epoch}"):
        change(ledger, ModeEvent.PROMOTE, epoch)
    assert dump(ledger) == before


def test_mode_guard_names_all_that_is_unmet_and_nothing_changes(ledger: Ledger) -> None:
    before = dump(ledger)
    with pytest.raises(PreconditionError) as caught:
        ledger.modes.change(
            ModeEvent.PROMOTE, epoch=0, who="ann", fields={}, now=NOW, guard=lambda _transaction: ["a", "b"]
        )
    assert caught.value.details == ("a", "b")
    assert dump(ledger) == before


def test_mode_and_its_event_are_one_step_wherever_it_is_broken_off(ledger: Ledger) -> None:
    before = dump(ledger)
    crashes = 0
    while ledger.modes.current().mode is Mode.STANDBY:
        try:
            with crash_after(ledger, crashes + 1):
                change(ledger, ModeEvent.PROMOTE, 0)
        except CrashError:
            crashes += 1
            assert dump(ledger) == before
    assert crashes >= 4


def test_fifty_promotions_at_once_give_one_epoch_and_refusals(ledger: Ledger) -> None:
    barrier = threading.Barrier(50)
    results: list[str] = []

    def promote() -> None:
        barrier.wait(timeout=120)
        try:
            change(ledger, ModeEvent.PROMOTE, 0)
        except (StaleEpochError, WrongModeError) as error:
            results.append(type(error).__name__)
        else:
            results.append("done")

    threads = [threading.Thread(target=promote) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=240)
    assert sorted(results) == ["StaleEpochError"] * 49 + ["done"]
    assert (ledger.modes.current().mode, ledger.modes.current().epoch) == (Mode.ACTIVE, 1)
    assert [row[3] for row in dump(ledger)["events"]] == ["begin", "promote"]


def test_start_again_keeps_mode_and_beginning(ledger: Ledger) -> None:
    brought_to(ledger, Mode.ACTIVE)
    before = dump(ledger)
    ledger.modes.start(Timestamp(NOW + 100))
    assert dump(ledger) == before
    assert ledger.modes.began() == NOW


# Events


def chained(ledger: Ledger, count: int = 5) -> None:
    for number in range(count):
        ledger.events.log("ann", "note", {"number": number}, Timestamp(NOW + number))
    assert ledger.events.broken() is None


@pytest.mark.parametrize(
    "values", [{"who": "bob"}, {"kind": "x"}, {"fields": "{}"}, {"at": NOW}, {"chain": "0" * 64}]
)
def test_event_that_was_changed_is_named(ledger: Ledger, values: dict[str, object]) -> None:
    chained(ledger)
    with ledger.database.writing() as connection:
        connection.execute(update(events).where(events.c.event == 3).values(**values))
    assert ledger.events.broken() == 3


@pytest.mark.parametrize("number", [1, 2, 5])
def test_event_that_was_taken_out_is_named(ledger: Ledger, number: int) -> None:
    chained(ledger)
    with ledger.database.writing() as connection:
        connection.execute(delete(events).where(events.c.event == number))
    assert ledger.events.broken() == number


@pytest.mark.parametrize(("first", "named"), [(6, 6), (3, 3), (1, 1)])
def test_events_that_were_cut_off_at_the_end_are_named(ledger: Ledger, first: int, named: int) -> None:
    chained(ledger)
    with ledger.database.writing() as connection:
        connection.execute(delete(events).where(events.c.event >= first))
    assert ledger.events.broken() == named
    # What comes afterwards does not hide it.
    for _ in range(10):
        ledger.events.log("ann", "note", {}, NOW)
        assert ledger.events.broken() is not None


def test_event_that_was_cut_off_is_named_after_a_start_and_more(
    reopened: Callable[[], Ledger],
) -> None:
    chained(reopened())
    ledger = reopened()
    with ledger.database.writing() as connection:
        connection.execute(delete(events).where(events.c.event == 6))
    ledger.events.log("ann", "note", {}, NOW)
    assert ledger.events.broken() == 6


@pytest.mark.parametrize("place", [0, 7])
def test_event_that_was_put_in_is_named(ledger: Ledger, place: int) -> None:
    chained(ledger)
    foreign = {"at": NOW, "who": "eve", "kind": "note", "fields": "{}", "chain": "0" * 64}
    with ledger.database.writing() as connection:
        connection.execute(insert(events).values(event=place, **foreign))
    assert ledger.events.broken() == max(place, 1)


@pytest.fixture
def reopened(tmp_path: Path) -> Iterator[Callable[[], Ledger]]:
    """Give a call that closes the ledger and opens it again."""
    opened: list[Ledger] = []

    def reopen() -> Ledger:
        for one in opened:
            one.close()
        opened.append(Ledger(tmp_path / "kept.sqlite"))
        opened[-1].modes.start(NOW)
        return opened[-1]

    yield reopen
    reopen().close()


def test_ledger_put_in_the_place_of_another_is_named_until_the_anchor_is_taken_away(
    tmp_path: Path, reopened: Callable[[], Ledger]
) -> None:
    chained(reopened())
    reopened()
    (tmp_path / "kept.sqlite").unlink()
    other = reopened()
    assert other.events.broken() == 2
    for _ in range(10):
        other.events.log("ann", "note", {}, NOW)
    assert other.events.broken() == 6
    (tmp_path / "kept.sqlite.anchor").unlink()
    assert reopened().events.broken() is None
    reopened().events.log("ann", "note", {}, NOW)
    assert (tmp_path / "kept.sqlite.anchor").exists()


def test_anchor_that_was_not_written_follows_at_the_next_start(
    tmp_path: Path, reopened: Callable[[], Ledger]
) -> None:
    chained(reopened(), 1)
    before = (tmp_path / "kept.sqlite.anchor").read_bytes()
    chained(reopened())
    (tmp_path / "kept.sqlite.anchor").write_bytes(before)
    assert reopened().events.broken() is None
    assert (tmp_path / "kept.sqlite.anchor").read_bytes() != before


def test_anchor_that_cannot_be_read_is_told(tmp_path: Path, reopened: Callable[[], Ledger]) -> None:
    chained(reopened())
    (tmp_path / "kept.sqlite.anchor").write_text("nonsense")
    assert reopened().events.broken() == 0


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE modes SET epoch = 7 WHERE change = 2", 2),
        ("UPDATE modes SET mode = 'standby' WHERE change = 2", 2),
        ("DELETE FROM modes WHERE change = 1", 1),
        ("DELETE FROM modes WHERE change = 3", 3),
        ("INSERT INTO modes SELECT 4, mode, epoch, at FROM modes WHERE change = 1", 4),
    ],
)
def test_mode_that_the_event_log_does_not_attest_is_named(ledger: Ledger, statement: str, named: int) -> None:
    brought_to(ledger, Mode.RETURNING)
    assert ledger.events.contradictions() == []
    with ledger.database.writing() as connection:
        connection.exec_driver_sql(statement)
    assert ledger.events.contradictions() == [f"mode change {named} is not what the event log says of it"]


def test_obligation_that_is_proven_without_a_proof_is_named(ledger: Ledger) -> None:
    note(ledger, new_instance(1), new_instance(2), owed=[ROUTE, VAULT])
    ledger.custody.find(VAULT, {InstanceNumber(1): PROOF, InstanceNumber(2): PROOF}, now=NOW)
    assert ledger.events.contradictions() == []
    with ledger.database.writing() as connection:
        connection.execute(delete(proofs).where(proofs.c.instance == 2))
    (told,) = ledger.events.contradictions()
    assert told == f"1 obligation is proven without a proof, first instance 2 at {VAULT}"


def test_event_at_a_whole_second_given_as_int_keeps_the_chain(ledger: Ledger) -> None:
    ledger.events.log("ann", "note", {}, Timestamp(1_700_000_000))
    assert ledger.events.broken() is None


# Operations


def begun(ledger: Ledger, kind: str = "verify", now: float = NOW) -> int:
    view = ledger.operations.begin(kind, total=100, unit="proofs", message="begun", now=Timestamp(now))
    return view.operation


def test_operation_tells_progress_rate_and_end(ledger: Ledger) -> None:
    number = begun(ledger)
    assert ledger.operations.get(number).eta_seconds is None
    running = ledger.operations.update(number, now=Timestamp(NOW + 10), done=50, message="half")
    assert (running.done, running.total, running.rate, running.eta_seconds) == (50, 100, 5.0, 10.0)
    ended = ledger.operations.update(
        number, now=Timestamp(NOW + 20), done=100, state=OperationState.DONE, report="/understudy/reports/1"
    )
    assert (ended.state, ended.eta_seconds, ended.report) == (
        OperationState.DONE,
        None,
        "/understudy/reports/1",
    )


def test_operation_that_ended_does_not_change(ledger: Ledger) -> None:
    number = begun(ledger)
    ended = ledger.operations.update(number, now=NOW, state=OperationState.CANCELLED)
    again = ledger.operations.update(number, now=Timestamp(NOW + 9), done=99, state=OperationState.DONE)
    assert again == ended


def test_operation_unknown_is_told(ledger: Ledger) -> None:
    with pytest.raises(NotFoundError, match="no operation 7"):
        ledger.operations.get(7)
    with pytest.raises(NotFoundError, match="no operation 7"):
        ledger.operations.update(7, now=NOW, done=1)


def test_operations_are_listed_newest_first_and_found_by_kind(ledger: Ledger) -> None:
    first = begun(ledger, "failback")
    others = [begun(ledger) for _ in range(30)]
    assert [view.operation for view in ledger.operations.newest(2)] == [others[-1], others[-2]]
    latest = ledger.operations.latest("failback", running=True)
    assert latest is not None
    assert latest.operation == first
    ledger.operations.update(first, now=NOW, state=OperationState.DONE)
    assert ledger.operations.latest("failback", running=True) is None
    assert ledger.operations.latest("failback") is not None
    assert ledger.operations.latest("drill") is None


# Findings, facts, packs


def test_gap_that_stays_keeps_its_age_and_one_that_is_filled_is_forgotten(ledger: Ledger) -> None:
    one, two = StudyInstanceUid("1.1"), StudyInstanceUid("1.2")
    ledger.gaps.write({one: 3, two: 1}, NOW)
    ledger.gaps.write({one: 2}, Timestamp(NOW + 60))
    (gap,) = ledger.gaps.read()
    assert ledger.gaps.tally() == GapsTally(1, 2, NOW)
    assert (gap.study, gap.instances, gap.since) == (one, 2, NOW)
    assert ledger.gaps.read_departures() == []
    ledger.gaps.write({}, NOW)
    assert ledger.gaps.read() == []
    assert ledger.gaps.tally() == GapsTally(0, 0, None)


def test_facts_and_cursors_are_kept(ledger: Ledger) -> None:
    assert (ledger.facts.read("horizon"), ledger.intake.cursor("changes")) == (None, 0)
    ledger.facts.write("horizon", "1")
    ledger.facts.write("horizon", "2")
    note(ledger, new_instance(1), cursor=41)
    assert (ledger.facts.read("horizon"), ledger.intake.cursor("changes")) == ("2", 41)


def intent(key: str, *numbers: int) -> PackIntent:
    digest = Digests(3, "s" * 64, "m" * 32)
    return PackIntent(
        key=key,
        manifest_key=f"manifests/{key}",
        numbers=tuple(InstanceNumber(number) for number in numbers),
        file_sha256=tuple("f" * 64 for _ in numbers),
        pack=digest,
        # Sealed bytes may hold line ends and anything else.
        manifest=b"\n\x00{}\n",
        manifest_digests=digest,
    )


def test_packs_are_found_by_their_instances_until_they_are_closed(ledger: Ledger) -> None:
    first, second = intent("a", 1, 2), intent("b", 2, 3)
    ledger.packs.plan(VAULT, first)
    ledger.packs.plan(VAULT, second)
    assert ledger.packs.open(VAULT, [InstanceNumber(1)]) == [first]
    assert ledger.packs.open(VAULT, [InstanceNumber(number) for number in (1, 2, 3)]) == [first, second]
    assert ledger.packs.open(HolderName("other"), [InstanceNumber(1)]) == []
    ledger.packs.close(VAULT, "a")
    assert ledger.packs.open(VAULT, [InstanceNumber(1), InstanceNumber(2)]) == [second]


# The file


def test_reopened_ledger_holds_all_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    first = Ledger(path)
    first.modes.start(NOW)
    note(first, new_instance(1))
    brought_to(first, Mode.RETURNING)
    expected = dump(first)
    first.close()
    second = Ledger(path)
    assert dump(second) == expected
    assert second.events.broken() is None
    second.close()


def test_file_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger.sqlite").close()
    assert (tmp_path / "ledger.sqlite").stat().st_mode & 0o777 == 0o600


def test_commits_are_on_disk_before_they_return(ledger: Ledger) -> None:
    with ledger.database.reading() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert pragmas == ["wal", 2, 1]


def test_unknown_state_is_refused_by_the_file_itself(ledger: Ledger) -> None:
    note(ledger, new_instance(1))
    with pytest.raises(IntegrityError, match="known_state"), ledger.database.writing() as connection:
        connection.execute(update(obligations).values(state="lost"))
    assert ledger.obligations.tally() == {ROUTE: {ObligationState.OWED: 1}}


def test_reading_sees_one_moment_while_another_writes(ledger: Ledger) -> None:
    count = select(func.count()).select_from(events)
    with ledger.database.reading() as connection:
        before = connection.scalar(count)
        ledger.events.log("ann", "note", {}, NOW)
        assert connection.scalar(count) == before
    with ledger.database.reading() as connection:
        assert connection.scalar(count) == (before or 0) + 1


def owe_unknown_instance(ledger: Ledger) -> None:
    with ledger.database.writing() as connection:
        # SQLite looks for the instance at the commit, and keeps the transaction open.
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        connection.exec_driver_sql(
            "INSERT INTO obligations (instance, holder, state, attempts, since, due, changed, reason) "
            "VALUES (99, 'pacs', 'owed', 0, 0, 0, 0, '')"
        )


def test_commit_that_fails_leaves_nothing_to_the_next_transaction(ledger: Ledger) -> None:
    with pytest.raises(IntegrityError):
        owe_unknown_instance(ledger)
    with ledger.database.writing() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM obligations").scalar() == 0


def test_closing_the_ledger_closes_each_connection_that_it_kept(ledger: Ledger) -> None:
    opened: list[object] = []
    closed: list[object] = []
    listen(ledger.database.engine, "connect", lambda connection, _: opened.append(connection))
    listen(ledger.database.engine, "close", lambda connection, _: closed.append(connection))
    ledger.close()
    with ledger.database.reading() as one, ledger.database.reading() as another:
        assert one is not another
    ledger.events.log("ann", "look", {}, NOW)
    assert len(opened) >= 2
    ledger.close()
    assert set(map(id, opened)) <= set(map(id, closed))
