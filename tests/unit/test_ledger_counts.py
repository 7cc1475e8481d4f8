"""Counts: what the file keeps by itself is what its rows are, and no question reads more than it must."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert, select, update
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.exc import IntegrityError
from understudy.core.model import HolderName, InstanceNumber, Outcome, Timestamp
from understudy.core.obligations import ObligationState
from understudy.ledger import Ledger
from understudy.ledger.columns import Hexadecimal
from understudy.ledger.counts import ages, counted_together, tallies
from understudy.ledger.schema import instances, obligations

from tests.unit.fakes import (
    NOW,
    PRIMARY,
    PRIMARY_AE,
    PROOF,
    ROUTE,
    STUDY,
    VAULT,
    deliver,
    dump,
    miscounted,
    new_instance,
    note,
    numbers_of,
    received_proof,
)

ALL = [PRIMARY, ROUTE, VAULT]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = Ledger(tmp_path / "ledger.sqlite")
    found.modes.start(NOW)
    yield found
    found.close()


def test_counts_follow_versions_that_come_go_and_come_back(ledger: Ledger) -> None:
    note(ledger, new_instance(1), new_instance(2, study="1.9"), owed=ALL)
    note(ledger, new_instance(3, calling=PRIMARY_AE, received_at=NOW + 90_000), received=received_proof())
    assert miscounted(ledger) == {}
    note(ledger, new_instance(1, content="B"), new_instance(4), owed=ALL, now=Timestamp(NOW + 1))
    assert miscounted(ledger) == {}
    note(ledger, new_instance(1, attachment="again"), owed=ALL, now=Timestamp(NOW + 2))
    assert miscounted(ledger) == {}
    ledger.conflicts.keep_version(new_instance(1, content="C"), [VAULT], NOW)
    assert miscounted(ledger) == {}
    assert ledger.instances.counts() == (4, 2)


def test_counts_follow_every_state(ledger: Ledger) -> None:
    note(ledger, *(new_instance(name) for name in range(1, 1 + len(Outcome))), owed=ALL)
    numbers = numbers_of(ledger)
    ledger.custody.claim(ROUTE, numbers, now=NOW)
    for number, outcome in zip(numbers, Outcome, strict=True):
        deliver(ledger, number, outcome)
        assert miscounted(ledger) == {}
    ledger.custody.prove(ROUTE, {numbers[0]: PROOF}, now=NOW)
    ledger.custody.disprove(ROUTE, numbers[:2], reason="gone", now=Timestamp(NOW + 5), due=NOW)
    ledger.dead_letters.waive(ROUTE, [f"1.2.3.4.{len(Outcome)}"], "not wanted", "ann", NOW)
    ledger.intake.owe_all(HolderName("later"), now=Timestamp(NOW + 9))
    assert miscounted(ledger) == {}


def test_miscounted_is_told(ledger: Ledger) -> None:
    note(ledger, new_instance(1))
    with ledger.database.writing() as connection:
        connection.execute(update(tallies).values(number=7))
        connection.execute(ages.delete())
    assert miscounted(ledger).keys() == {"tallies", "ages"}


def test_batch_of_which_one_is_known_and_two_are_alike_ends_as_one_by_one(tmp_path: Path) -> None:
    """A page may hold an instance twice, one SOP Instance UID in two studies, and what is known."""
    page = [
        new_instance(1),
        new_instance(2),
        new_instance(2, content="B"),
        new_instance(3, study="1.9"),
        new_instance(4, calling=PRIMARY_AE),
    ]
    together, apart = Ledger(tmp_path / "together.sqlite"), Ledger(tmp_path / "apart.sqlite")
    for ledger in (together, apart):
        ledger.modes.start(NOW)
        note(ledger, new_instance(1), owed=ALL)
    note(together, *page, owed=[VAULT, ROUTE], received=received_proof())
    for instance in page:
        note(apart, instance, owed=[VAULT, ROUTE], received=received_proof())

    def meaning(ledger: Ledger) -> object:
        """All but the numbers, which follow the order, and what names them."""
        names = {row[0]: (row[1], row[10]) for row in dump(ledger)["instances"]}
        tables = dump(ledger)
        return (
            sorted(names.values()),
            sorted((*names[row[0]], *row[1:7], row[8]) for row in tables["obligations"]),
            sorted((*names[row[1]], *row[2:]) for row in tables["proofs"]),
            [tables[name] for name in ("studies", "senders", "days", "tallies", "ages", "batches")],
        )

    assert meaning(together) == meaning(apart)
    for ledger in (together, apart):
        assert miscounted(ledger) == {}
        ledger.close()


def test_obligation_of_an_earlier_instance_is_counted_in_a_batch_too(ledger: Ledger) -> None:
    note(ledger, new_instance(1))
    row = {"instance": 1, "holder": VAULT, "state": "owed", "attempts": 0, "since": NOW, "due": NOW}
    with ledger.database.writing() as connection, counted_together(connection):
        connection.execute(insert(obligations).values(**row, changed=NOW, reason=""))
    assert miscounted(ledger) == {}


FORBIDDEN: list[tuple[str, str]] = [
    ("DELETE FROM instances", "forgets no instance"),
    ("DELETE FROM obligations", "forgets no obligation"),
    ("UPDATE instances SET study_instance_uid = '1'", "counted by"),
    ("UPDATE obligations SET holder = 'other'", "counted by"),
]


@pytest.mark.parametrize(("statement", "named"), FORBIDDEN)
def test_what_would_make_counts_wrong_is_refused_by_the_file_itself(
    ledger: Ledger, statement: str, named: str
) -> None:
    note(ledger, new_instance(1))
    before = dump(ledger)
    with pytest.raises(IntegrityError, match=named), ledger.database.writing() as connection:
        connection.exec_driver_sql(statement)
    assert dump(ledger) == before


CONFLICT = Outcome.CONFLICT

QUESTIONS: list[Callable[[Ledger], object]] = [
    lambda ledger: ledger.queue.due(ROUTE, now=NOW, limit=10, max_bytes=10**9),
    lambda ledger: ledger.queue.sent(ROUTE, now=Timestamp(NOW + 99), limit=10),
    lambda ledger: ledger.custody.claim(ROUTE, numbers_of(ledger), now=NOW),
    lambda ledger: ledger.obligations.proven(ROUTE, after=InstanceNumber(0), limit=10),
    lambda ledger: ledger.custody.find(ROUTE, {numbers_of(ledger)[3]: PROOF}, now=NOW),
    lambda ledger: deliver(ledger, ledger.custody.claim(ROUTE, numbers_of(ledger), now=NOW)[0], CONFLICT),
    lambda ledger: ledger.obligations.of_study(ROUTE, STUDY),
    lambda ledger: ledger.obligations.studies_with(ROUTE, ObligationState.OWED),
    lambda ledger: ledger.instances.of_study(STUDY),
    lambda ledger: ledger.intake.unknown(["orthanc-1"]),
    lambda ledger: ledger.obligations.oldest(ROUTE),
    lambda ledger: ledger.custody.release(now=NOW),
    lambda ledger: note(ledger, new_instance(9)),
    lambda ledger: ledger.dead_letters.replay(ROUTE, ["1.2.3.4.2"], "ann", NOW),
]


@pytest.mark.parametrize("question", QUESTIONS)
def test_question_reads_no_table_of_instances_or_obligations_whole(
    ledger: Ledger, question: Callable[[Ledger], object]
) -> None:
    note(ledger, *(new_instance(name) for name in range(1, 5)))
    numbers = numbers_of(ledger)
    ledger.custody.claim(ROUTE, numbers[:2], now=NOW)
    deliver(ledger, numbers[0], Outcome.DELIVERED)
    deliver(ledger, numbers[1], Outcome.REFUSED)
    ledger.custody.find(ROUTE, {numbers[2]: PROOF}, now=NOW)
    asked: list[tuple[str, Any]] = []

    def remember(*arguments: object) -> None:
        if not arguments[5]:
            asked.append((str(arguments[2]), arguments[3]))

    event.listen(ledger.database.engine, "before_cursor_execute", remember)
    question(ledger)
    event.remove(ledger.database.engine, "before_cursor_execute", remember)
    # The plan of an insert names a look for rows that waited for this one: none may, so it is never taken.
    read = ("SELECT", "UPDATE", "INSERT INTO tallies", "INSERT INTO studies", "INSERT INTO ages")
    plans = plans_of(ledger, [one for one in asked if one[0].startswith(read)])
    assert plans
    assert not [line for line in plans if line.startswith(("SCAN instances", "SCAN obligations"))]
    # What lies between is not read either: a study is found by its index, a holder's row by its key.
    assert "SEARCH obligations USING INDEX obligations_by_state (holder=?)" not in plans


def plans_of(ledger: Ledger, asked: list[tuple[str, Any]]) -> list[str]:
    with ledger.database.reading() as connection:
        return [
            row[3]
            for statement, values in asked
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
        ]


def test_plans_tell_a_table_that_is_read_whole(ledger: Ledger) -> None:
    """Without this the test above could look for words that SQLite does not use."""
    whole = [("SELECT * FROM instances", ()), ("SELECT * FROM obligations WHERE reason = ''", ())]
    assert plans_of(ledger, whole) == ["SCAN instances", "SCAN obligations"]


@pytest.mark.parametrize(
    ("groups", "text", "size"),
    [
        ((32,), "0123456789abcdef" * 2, 16),
        ((8, 4, 4, 4, 12), "01234567-89ab-cdef-0123-456789abcdef", 16),
        ((8, 8, 8, 8, 8), "01234567-89abcdef-01234567-89abcdef-01234567", 20),
        ((32,), "0123456789ABCDEF" * 2, None),
        ((32,), "0123456789abcdef", None),
        ((32,), "0123456789abcdef" * 2 + "\n", None),
        ((8, 4, 4, 4, 12), "0123456789abcdef" * 2, None),
        ((32,), "", None),
    ],
)
def test_hexadecimal_gives_back_what_it_was_given(
    groups: tuple[int, ...], text: str, size: int | None
) -> None:
    kind = Hexadecimal(*groups)
    dialect = DefaultDialect()
    kept = kind.process_bind_param(text, dialect)
    assert isinstance(kept, bytes) is (size is not None)
    assert size is None or len(kept or b"") == size
    assert kind.process_result_value(kept, dialect) == text


def test_instance_is_found_by_a_digest_that_is_kept_as_bytes(ledger: Ledger) -> None:
    digest = "0123456789abcdef" * 2
    note(ledger, new_instance(1, content="A"))
    with ledger.database.writing() as connection:
        connection.execute(update(instances).values(md5=digest))
        assert connection.exec_driver_sql("SELECT typeof(md5) FROM instances").scalar() == "blob"
        assert connection.scalar(select(instances.c.number).where(instances.c.md5 == digest)) == 1
    assert ledger.conflicts.version("orthanc-1", digest).md5 == digest
