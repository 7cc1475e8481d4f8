"""Digests as bytes, counts by triggers, statistics for the planner; without the indexes made needless."""

import re

from alembic import op

revision = "3"
down_revision = "2"

_HEXADECIMAL = {
    "orthanc_id": "[0-9a-f]{8}(-[0-9a-f]{8}){4}",
    "attachment_uuid": "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "md5": "[0-9a-f]{32}",
}

_TABLES = (
    """CREATE TABLE tallies (
    holder VARCHAR NOT NULL,
    state VARCHAR NOT NULL,
    present BOOLEAN NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (holder, state, present)
) WITHOUT ROWID""",
    """CREATE TABLE ages (
    holder VARCHAR NOT NULL,
    since FLOAT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (holder, since)
) WITHOUT ROWID""",
    """CREATE TABLE studies (
    study_instance_uid VARCHAR NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (study_instance_uid)
) WITHOUT ROWID""",
    """CREATE TABLE senders (
    calling_ae_title VARCHAR NOT NULL,
    called_ae_title VARCHAR NOT NULL,
    remote_address VARCHAR NOT NULL,
    number INTEGER NOT NULL,
    first FLOAT NOT NULL,
    last FLOAT NOT NULL,
    PRIMARY KEY (calling_ae_title, called_ae_title)
) WITHOUT ROWID""",
    """CREATE TABLE days (
    day INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (day)
)""",
    """CREATE TABLE batches (
    "after" INTEGER NOT NULL,
    PRIMARY KEY ("after")
)""",
)

_COUNTS = (
    "INSERT INTO studies SELECT study_instance_uid, sum(superseded_by IS NULL) FROM instances GROUP BY 1",
    """INSERT INTO senders SELECT calling_ae_title, called_ae_title, max(remote_address), count(*),
    min(received_at), max(received_at) FROM instances GROUP BY 1, 2""",
    "INSERT INTO days SELECT CAST(received_at / 86400 AS INTEGER), sum(size) FROM instances GROUP BY 1",
    """INSERT INTO tallies SELECT holder, state, superseded_by IS NULL, count(*)
    FROM obligations JOIN instances ON number = instance GROUP BY 1, 2, 3""",
    """INSERT INTO ages SELECT holder, since, count(*) FROM obligations
    WHERE state NOT IN ('proven', 'waived') GROUP BY 1, 2""",
)

_TRIGGERS = {
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
    "obligations_counted": """AFTER INSERT ON obligations
WHEN NOT EXISTS (SELECT 1 FROM batches WHERE after < new.instance) BEGIN
    INSERT INTO tallies SELECT new.holder, new.state, superseded_by IS NULL, 1
        FROM instances WHERE number = new.instance
        ON CONFLICT DO UPDATE SET number = number + 1;
    INSERT INTO ages SELECT new.holder, new.since, 1 WHERE new.state NOT IN ('proven', 'waived')
        ON CONFLICT DO UPDATE SET number = number + 1;
END""",
    "states_counted": """AFTER UPDATE OF state ON obligations WHEN old.state <> new.state BEGIN
    UPDATE tallies SET number = number - 1 WHERE holder = new.holder AND state = old.state
        AND present = (SELECT superseded_by IS NULL FROM instances WHERE number = new.instance);
    INSERT INTO tallies SELECT new.holder, new.state, superseded_by IS NULL, 1
        FROM instances WHERE number = new.instance
        ON CONFLICT DO UPDATE SET number = number + 1;
END""",
    "ages_counted": """AFTER UPDATE OF state, since ON obligations
WHEN old.since <> new.since
    OR (old.state IN ('proven', 'waived')) <> (new.state IN ('proven', 'waived')) BEGIN
    UPDATE ages SET number = number - 1
        WHERE holder = old.holder AND since = old.since AND old.state NOT IN ('proven', 'waived');
    DELETE FROM ages WHERE holder = old.holder AND since = old.since AND number = 0;
    INSERT INTO ages SELECT new.holder, new.since, 1 WHERE new.state NOT IN ('proven', 'waived')
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

_STATISTICS = [
    ("instances", "instances_by_study", "1000000 400"),
    ("instances", "instances_by_sop", "1000000 1"),
    ("instances", "sqlite_autoindex_instances_1", "1000000 1 1"),
    ("obligations", "obligations", "3000000 3 1"),
    ("obligations", "obligations_by_state", "3000000 1000000 300000 500"),
    ("proofs", "proofs_by_obligation", "3000000 3 1"),
]


def upgrade() -> None:
    """Rewrite the digests, count what is there, and let triggers count from now on."""
    op.drop_index("obligations_unsettled")
    op.drop_index("instances_by_sender")
    for column, pattern in _HEXADECIMAL.items():
        _rewrite(column, re.compile(pattern))
    for statement in _TABLES + _COUNTS:
        op.execute(statement)
    for name, text in _TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {name} {text}")
    op.execute("ANALYZE sqlite_schema")
    op.get_bind().exec_driver_sql("INSERT INTO sqlite_stat1 VALUES (?, ?, ?)", _STATISTICS)


def _rewrite(column: str, pattern: re.Pattern[str]) -> None:
    def as_bytes(text: str) -> str | bytes:
        return bytes.fromhex(text.replace("-", "")) if pattern.fullmatch(text) else text

    # unhex() is not in every SQLite that the tests meet.
    connection = op.get_bind().connection.dbapi_connection
    assert connection is not None
    connection.create_function("as_bytes", 1, as_bytes, deterministic=True)
    op.execute(f"UPDATE instances SET {column} = as_bytes({column})")
