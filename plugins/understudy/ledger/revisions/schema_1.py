"""The tables of the first ledgers, as they were: what every later revision starts from."""

from alembic import op

revision = "1"
down_revision = None

_TABLES = """
CREATE TABLE approvals (
    calling_ae_title VARCHAR NOT NULL,
    network VARCHAR NOT NULL,
    called_ae_title VARCHAR NOT NULL,
    who VARCHAR NOT NULL,
    at FLOAT NOT NULL,
    PRIMARY KEY (calling_ae_title, network, called_ae_title)
);
CREATE TABLE departures (
    study_instance_uid VARCHAR NOT NULL,
    instances INTEGER NOT NULL,
    since FLOAT NOT NULL,
    PRIMARY KEY (study_instance_uid)
);
CREATE TABLE devices (
    calling_ae_title VARCHAR NOT NULL,
    called_ae_title VARCHAR NOT NULL,
    remote_address VARCHAR NOT NULL,
    tls BOOLEAN NOT NULL,
    first_seen FLOAT NOT NULL,
    last_seen FLOAT NOT NULL,
    associations INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    outcome VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    PRIMARY KEY (calling_ae_title, called_ae_title, remote_address, tls)
);
CREATE INDEX devices_by_time ON devices (last_seen);
CREATE TABLE events (
    event INTEGER NOT NULL,
    at FLOAT NOT NULL,
    who VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    fields VARCHAR NOT NULL,
    chain VARCHAR NOT NULL,
    PRIMARY KEY (event)
);
CREATE TABLE gaps (
    study_instance_uid VARCHAR NOT NULL,
    instances INTEGER NOT NULL,
    since FLOAT NOT NULL,
    PRIMARY KEY (study_instance_uid)
);
CREATE TABLE instances (
    number INTEGER NOT NULL,
    orthanc_id VARCHAR NOT NULL,
    attachment_uuid VARCHAR NOT NULL,
    sop_instance_uid VARCHAR NOT NULL,
    sop_class_uid VARCHAR NOT NULL,
    series_instance_uid VARCHAR NOT NULL,
    study_instance_uid VARCHAR NOT NULL,
    transfer_syntax_uid VARCHAR NOT NULL,
    modality VARCHAR NOT NULL,
    size INTEGER NOT NULL,
    md5 VARCHAR NOT NULL,
    calling_ae_title VARCHAR NOT NULL,
    called_ae_title VARCHAR NOT NULL,
    remote_address VARCHAR NOT NULL,
    received_at FLOAT NOT NULL,
    epoch INTEGER NOT NULL,
    superseded_by INTEGER,
    PRIMARY KEY (number),
    CONSTRAINT one_row_a_version UNIQUE (orthanc_id, md5),
    FOREIGN KEY(superseded_by) REFERENCES instances (number)
);
CREATE INDEX instances_by_sender ON instances (calling_ae_title, received_at);
CREATE INDEX instances_by_sop ON instances (sop_instance_uid);
CREATE INDEX instances_by_study ON instances (study_instance_uid);
CREATE TABLE ledger_facts (
    name VARCHAR NOT NULL,
    value VARCHAR NOT NULL,
    PRIMARY KEY (name)
);
CREATE TABLE modes (
    change INTEGER NOT NULL,
    mode VARCHAR NOT NULL,
    epoch INTEGER NOT NULL,
    at FLOAT NOT NULL,
    PRIMARY KEY (change)
);
CREATE TABLE operations (
    operation INTEGER NOT NULL,
    kind VARCHAR NOT NULL,
    state VARCHAR NOT NULL,
    epoch INTEGER NOT NULL,
    started FLOAT NOT NULL,
    updated FLOAT NOT NULL,
    message VARCHAR NOT NULL,
    done INTEGER NOT NULL,
    total INTEGER NOT NULL,
    unit VARCHAR NOT NULL,
    report VARCHAR,
    PRIMARY KEY (operation)
);
CREATE TABLE packs (
    "key" VARCHAR NOT NULL,
    holder VARCHAR NOT NULL,
    intent BLOB NOT NULL,
    open INTEGER NOT NULL,
    PRIMARY KEY ("key")
);
CREATE INDEX packs_open ON packs (holder, open);
CREATE TABLE proofs (
    proof INTEGER NOT NULL,
    instance INTEGER NOT NULL,
    holder VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    at FLOAT NOT NULL,
    evidence VARCHAR NOT NULL,
    PRIMARY KEY (proof)
);
CREATE INDEX proofs_by_obligation ON proofs (instance, holder);
CREATE TABLE conflicts (
    "conflict" INTEGER NOT NULL,
    at FLOAT NOT NULL,
    kind VARCHAR NOT NULL,
    earlier INTEGER NOT NULL,
    later INTEGER NOT NULL,
    acknowledged FLOAT,
    acknowledged_by VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    PRIMARY KEY ("conflict"),
    CONSTRAINT one_row_a_conflict UNIQUE (earlier, later),
    FOREIGN KEY(earlier) REFERENCES instances (number),
    FOREIGN KEY(later) REFERENCES instances (number)
);
CREATE INDEX conflicts_by_kind ON conflicts (kind, acknowledged);
CREATE TABLE damages (
    attachment_uuid VARCHAR NOT NULL,
    instance INTEGER NOT NULL,
    state VARCHAR NOT NULL,
    found_by VARCHAR NOT NULL,
    since FLOAT NOT NULL,
    due FLOAT NOT NULL,
    attempts INTEGER NOT NULL,
    reason VARCHAR NOT NULL,
    PRIMARY KEY (attachment_uuid),
    FOREIGN KEY(instance) REFERENCES instances (number)
);
CREATE INDEX damages_by_state ON damages (state, due);
CREATE TABLE obligations (
    instance INTEGER NOT NULL,
    holder VARCHAR NOT NULL,
    state VARCHAR NOT NULL
        CONSTRAINT known_state CHECK (state IN ('owed', 'in_flight', 'sent', 'proven', 'refused', 'waived')),
    attempts INTEGER NOT NULL,
    since FLOAT NOT NULL,
    due FLOAT NOT NULL,
    lease_until FLOAT,
    changed FLOAT NOT NULL,
    reason VARCHAR NOT NULL,
    PRIMARY KEY (instance, holder),
    FOREIGN KEY(instance) REFERENCES instances (number)
) WITHOUT ROWID;
CREATE INDEX obligations_by_state ON obligations (holder, state, due);
CREATE TABLE pack_members (
    instance INTEGER NOT NULL,
    "key" VARCHAR NOT NULL,
    PRIMARY KEY (instance, "key"),
    FOREIGN KEY("key") REFERENCES packs ("key")
) WITHOUT ROWID;
"""


def upgrade() -> None:
    """Make the tables in an empty file."""
    for statement in _TABLES.split(";"):
        if statement.strip():
            op.execute(statement)
