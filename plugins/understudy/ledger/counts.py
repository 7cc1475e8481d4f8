"""Counts that triggers keep in the ledger's file: the cost of a status does not grow with the instances.

Rule 1: every statement that changes a row changes its counts in the same transaction.
Rule 2: rows of instances and obligations are never deleted, and the columns they are counted by never change.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Boolean, Column, Connection, Float, Integer, MetaData, String, Table, event

from understudy.core.obligations import UNSETTLED, ObligationState
from understudy.ledger.schema import metadata

# Obligations by holder and state; present versions are counted apart from earlier ones.
tallies = Table(
    "tallies",
    metadata,
    Column("holder", String, primary_key=True),
    Column("state", String, primary_key=True),
    Column("present", Boolean, primary_key=True),
    Column("number", Integer, nullable=False),
    sqlite_with_rowid=False,
)

# Unsettled obligations by holder and by the time since when they are owed.
ages = Table(
    "ages",
    metadata,
    Column("holder", String, primary_key=True),
    Column("since", Float, primary_key=True),
    Column("number", Integer, nullable=False),
    sqlite_with_rowid=False,
)

# Present versions by study.
studies = Table(
    "studies",
    metadata,
    Column("study_instance_uid", String, primary_key=True),
    Column("number", Integer, nullable=False),
    sqlite_with_rowid=False,
)

# Every version by the pair of AE titles of its association.
senders = Table(
    "senders",
    metadata,
    Column("calling_ae_title", String, primary_key=True),
    Column("called_ae_title", String, primary_key=True),
    Column("remote_address", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("first", Float, nullable=False),
    Column("last", Float, nullable=False),
    sqlite_with_rowid=False,
)

# Bytes of every version by the day, since 1970, on which it was received.
days = Table(
    "days",
    metadata,
    Column("day", Integer, primary_key=True),
    Column("bytes", Integer, nullable=False),
)

# Has a row only inside a transaction. Instances with higher numbers, and their obligations, are then counted
# together at the end.
batches = Table("batches", metadata, Column("after", Integer, primary_key=True))

_SETTLED = ", ".join(f"'{state.value}'" for state in ObligationState if state not in UNSETTLED)

TRIGGERS = {
    "instances_counted": """AFTER INSERT ON instances
WHEN NOT EXISTS (SELECT 1 FROM batches WHERE after < new.number) BEGIN
    INSERT INTO studies VALUES (new.study_instance_uid, new.superseded_by IS NULL)
        ON CONFLICT DO UPDATE SET number = number + excluded.number;
    INSERT INTO senders VALUES (new.calling_ae_title, new.called_ae_title, new.remote_address, 1,
            new.received_at, new.received_at)
        ON CONFLICT DO UPDATE SET number = number + 1, first = min(first, excluded.first),
            last = max(last, excluded.last), remote_address = max(remote_address, excluded.remote_address);
    INSERT INTO days VALUES (CAST(new.received_at / 86400 AS INTEGER), new.size)
        ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
END""",
    "versions_counted": """AFTER UPDATE OF superseded_by ON instances
WHEN (old.superseded_by IS NULL) <> (new.superseded_by IS NULL) BEGIN
    UPDATE studies SET number = number + (new.superseded_by IS NULL) - (old.superseded_by IS NULL)
        WHERE study_instance_uid = new.study_instance_uid;
    UPDATE tallies SET number = number - 1 WHERE present = (old.superseded_by IS NULL)
        AND (holder, state) IN (SELECT holder, state FROM obligations WHERE instance = new.number);
    INSERT INTO tallies SELECT holder, state, new.superseded_by IS NULL, 1
        FROM obligations WHERE instance = new.number
        ON CONFLICT DO UPDATE SET number = number + 1;
END""",
    "obligations_counted": f"""AFTER INSERT ON obligations
WHEN NOT EXISTS (SELECT 1 FROM batches WHERE after < new.instance) BEGIN
    INSERT INTO tallies SELECT new.holder, new.state, superseded_by IS NULL, 1
        FROM instances WHERE number = new.instance
        ON CONFLICT DO UPDATE SET number = number + 1;
    INSERT INTO ages SELECT new.holder, new.since, 1 WHERE new.state NOT IN ({_SETTLED})
        ON CONFLICT DO UPDATE SET number = number + 1;
END""",
    "states_counted": """AFTER UPDATE OF state ON obligations WHEN old.state <> new.state BEGIN
    UPDATE tallies SET number = number - 1 WHERE holder = new.holder AND state = old.state
        AND present = (SELECT superseded_by IS NULL FROM instances WHERE number = new.instance);
    INSERT INTO tallies SELECT new.holder, new.state, superseded_by IS NULL, 1
        FROM instances WHERE number = new.instance
        ON CONFLICT DO UPDATE SET number = number + 1;
END""",
    "ages_counted": f"""AFTER UPDATE OF state, since ON obligations
WHEN old.since <> new.since
    OR (old.state IN ({_SETTLED})) <> (new.state IN ({_SETTLED})) BEGIN
    UPDATE ages SET number = number - 1
        WHERE holder = old.holder AND since = old.since AND old.state NOT IN ({_SETTLED});
    DELETE FROM ages WHERE holder = old.holder AND since = old.since AND number = 0;
    INSERT INTO ages SELECT new.holder, new.since, 1 WHERE new.state NOT IN ({_SETTLED})
        ON CONFLICT DO UPDATE SET number = number + 1;
END""",
    "instances_kept": """BEFORE DELETE ON instances BEGIN
    SELECT RAISE(ABORT, 'the ledger forgets no instance');
END""",
    "obligations_kept": """BEFORE DELETE ON obligations BEGIN
    SELECT RAISE(ABORT, 'the ledger forgets no obligation');
END""",
    "instances_identified": """BEFORE UPDATE OF number, study_instance_uid, size, calling_ae_title,
    called_ae_title, remote_address, received_at ON instances BEGIN
    SELECT RAISE(ABORT, 'what an instance is counted by does not change');
END""",
    "obligations_identified": """BEFORE UPDATE OF instance, holder ON obligations BEGIN
    SELECT RAISE(ABORT, 'what an obligation is counted by does not change');
END""",
}
"""The text of every trigger, by its name."""

_COUNT_BATCH = (
    """INSERT INTO studies SELECT study_instance_uid, sum(superseded_by IS NULL)
    FROM batches CROSS JOIN instances ON number > after GROUP BY 1
    ON CONFLICT DO UPDATE SET number = number + excluded.number""",
    """INSERT INTO senders SELECT calling_ae_title, called_ae_title, max(remote_address), count(*),
        min(received_at), max(received_at)
    FROM batches CROSS JOIN instances ON number > after GROUP BY 1, 2
    ON CONFLICT DO UPDATE SET number = number + excluded.number, first = min(first, excluded.first),
        last = max(last, excluded.last), remote_address = max(remote_address, excluded.remote_address)""",
    """INSERT INTO days SELECT CAST(received_at / 86400 AS INTEGER), sum(size)
    FROM batches CROSS JOIN instances ON number > after GROUP BY 1
    ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes""",
    """INSERT INTO tallies SELECT holder, state, superseded_by IS NULL, count(*)
    FROM batches CROSS JOIN instances ON number > after CROSS JOIN obligations ON instance = number
    GROUP BY 1, 2, 3
    ON CONFLICT DO UPDATE SET number = number + excluded.number""",
    f"""INSERT INTO ages SELECT holder, since, count(*)
    FROM batches CROSS JOIN obligations ON instance > after WHERE state NOT IN ({_SETTLED}) GROUP BY 1, 2
    ON CONFLICT DO UPDATE SET number = number + excluded.number""",
)


@contextmanager
def counted_together(connection: Connection) -> Iterator[None]:
    """Count the new instances and obligations that the block inserts by one statement for each table.

    The block must not change these rows otherwise. Counting by triggers would double the time that it takes.
    """
    connection.exec_driver_sql("INSERT INTO batches SELECT coalesce(max(number), 0) FROM instances")
    yield
    for statement in (*_COUNT_BATCH, "DELETE FROM batches"):
        connection.exec_driver_sql(statement)


@event.listens_for(metadata, "after_create")
def _make_triggers(_metadata: MetaData, connection: Connection, **_: object) -> None:
    for name, text in TRIGGERS.items():
        connection.exec_driver_sql(f"CREATE TRIGGER {name} {text}")
