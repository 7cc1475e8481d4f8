"""The tables of the ledger as they are now; the folder `revisions` has the steps that led here."""

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

from understudy.core.model import NewInstance
from understudy.core.obligations import ObligationState
from understudy.ledger.columns import Hexadecimal

metadata = MetaData()

ledger_facts = Table(
    "ledger_facts",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", String, nullable=False),
)

instances = Table(
    "instances",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("orthanc_id", Hexadecimal(8, 8, 8, 8, 8), nullable=False),
    Column("attachment_uuid", Hexadecimal(8, 4, 4, 4, 12), nullable=False),
    Column("sop_instance_uid", String, nullable=False),
    Column("sop_class_uid", String, nullable=False),
    Column("series_instance_uid", String, nullable=False),
    Column("study_instance_uid", String, nullable=False),
    Column("transfer_syntax_uid", String, nullable=False),
    Column("modality", String, nullable=False),
    Column("size", Integer, nullable=False),
    Column("md5", Hexadecimal(32), nullable=False),
    Column("calling_ae_title", String, nullable=False),
    Column("called_ae_title", String, nullable=False),
    Column("remote_address", String, nullable=False),
    Column("received_at", Float, nullable=False),
    Column("epoch", Integer, nullable=False),
    # The later version of the same instance, if its content was changed under the same identity.
    Column("superseded_by", Integer, ForeignKey("instances.number"), nullable=True),
    UniqueConstraint("orthanc_id", "md5", name="one_row_a_version"),
)
INSTANCE_COLUMNS = [instances.c[name] for name in (*NewInstance.__dataclass_fields__, "number")]
"""The columns that make an Instance, in the order of its fields."""
Index("instances_by_study", instances.c.study_instance_uid)
Index("instances_by_sop", instances.c.sop_instance_uid)

# Two contents under one SOP Instance UID.
conflicts = Table(
    "conflicts",
    metadata,
    Column("conflict", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("kind", String, nullable=False),
    Column("earlier", Integer, ForeignKey("instances.number"), nullable=False),
    Column("later", Integer, ForeignKey("instances.number"), nullable=False),
    Column("acknowledged", Float, nullable=True),
    Column("acknowledged_by", String, nullable=False),
    Column("reason", String, nullable=False),
    UniqueConstraint("earlier", "later", name="one_row_a_conflict"),
)
Index("conflicts_by_kind", conflicts.c.kind, conflicts.c.acknowledged)

_STATES = ", ".join(f"'{state.value}'" for state in ObligationState)

obligations = Table(
    "obligations",
    metadata,
    Column("instance", Integer, ForeignKey("instances.number"), primary_key=True),
    Column("holder", String, primary_key=True),
    Column("state", String, CheckConstraint(f"state IN ({_STATES})", name="known_state"), nullable=False),
    Column("attempts", Integer, nullable=False),
    # When it was first owed, when it may next be tried, when it last changed.
    Column("since", Float, nullable=False),
    Column("due", Float, nullable=False),
    Column("changed", Float, nullable=False),
    Column("reason", String, nullable=False),
    # How often since the last proof the holder acknowledged it and then did not list it.
    Column("losses", Integer, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
)
Index("obligations_by_state", obligations.c.holder, obligations.c.state, obligations.c.due)

proofs = Table(
    "proofs",
    metadata,
    Column("proof", Integer, primary_key=True, autoincrement=True),
    Column("instance", Integer, nullable=False),
    Column("holder", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("at", Float, nullable=False),
    Column("evidence", String, nullable=False),
)
Index("proofs_by_obligation", proofs.c.instance, proofs.c.holder)

# Requests for storage commitment without a report yet.
commitments = Table(
    "commitments",
    metadata,
    Column("transaction_uid", String, primary_key=True),
    Column("holder", String, nullable=False),
    Column("requested", Float, nullable=False),
)

commitment_members = Table(
    "commitment_members",
    metadata,
    Column("instance", Integer, primary_key=True),
    Column("transaction_uid", String, ForeignKey("commitments.transaction_uid"), primary_key=True),
    sqlite_with_rowid=False,
)
Index("commitment_members_by_transaction", commitment_members.c.transaction_uid)

packs = Table(
    "packs",
    metadata,
    Column("key", String, primary_key=True),
    Column("holder", String, nullable=False),
    Column("intent", LargeBinary, nullable=False),
    Column("open", Integer, nullable=False),
)
Index("packs_open", packs.c.holder, packs.c.open)

pack_members = Table(
    "pack_members",
    metadata,
    Column("instance", Integer, primary_key=True),
    Column("key", String, ForeignKey("packs.key"), primary_key=True),
    sqlite_with_rowid=False,
)

gaps = Table(
    "gaps",
    metadata,
    Column("study_instance_uid", String, primary_key=True),
    Column("instances", Integer, nullable=False),
    Column("since", Float, nullable=False),
)

# Instances that the primary was proven to have and no longer lists. They are only shown.
departures = Table(
    "departures",
    metadata,
    Column("study_instance_uid", String, primary_key=True),
    Column("instances", Integer, nullable=False),
    Column("since", Float, nullable=False),
)

# Stored files that were found missing or changed on the disk. A row stays after the healing, as a record.
damages = Table(
    "damages",
    metadata,
    Column("attachment_uuid", String, primary_key=True),
    Column("instance", Integer, ForeignKey("instances.number"), nullable=False),
    Column("state", String, nullable=False),
    Column("found_by", String, nullable=False),
    Column("since", Float, nullable=False),
    Column("due", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("reason", String, nullable=False),
)
Index("damages_by_state", damages.c.state, damages.c.due)

# Devices that asked for associations, by the edge's reports. An attempt without an AE title has an empty one.
devices = Table(
    "devices",
    metadata,
    Column("calling_ae_title", String, primary_key=True),
    Column("called_ae_title", String, primary_key=True),
    Column("remote_address", String, primary_key=True),
    Column("tls", Boolean, primary_key=True),
    Column("first_seen", Float, nullable=False),
    Column("last_seen", Float, nullable=False),
    Column("associations", Integer, nullable=False),
    Column("refused", Integer, nullable=False),
    Column("outcome", String, nullable=False),
    Column("reason", String, nullable=False),
)
Index("devices_by_time", devices.c.last_seen)

# One row: the number of the edge's last noted batch of counts. The edge repeats a batch until it is noted.
edge_batch = Table("edge_batch", metadata, Column("number", Integer, primary_key=True))

# Entries of the edge's allow-list beyond the configuration. An empty called AE title stands for any.
approvals = Table(
    "approvals",
    metadata,
    Column("calling_ae_title", String, primary_key=True),
    Column("network", String, primary_key=True),
    Column("called_ae_title", String, primary_key=True),
    Column("who", String, nullable=False),
    Column("at", Float, nullable=False),
)

modes = Table(
    "modes",
    metadata,
    Column("change", Integer, primary_key=True, autoincrement=True),
    Column("mode", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("at", Float, nullable=False),
)

operations = Table(
    "operations",
    metadata,
    Column("operation", Integer, primary_key=True, autoincrement=True),
    Column("kind", String, nullable=False),
    Column("state", String, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("started", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("message", String, nullable=False),
    Column("done", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    Column("unit", String, nullable=False),
    Column("report", String, nullable=True),
)

events = Table(
    "events",
    metadata,
    Column("event", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("who", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("fields", String, nullable=False),
    Column("chain", String, nullable=False),
)
