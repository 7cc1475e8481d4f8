"""The basic types of the ledger: instances, holders, deliveries and proofs."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NewType

SopInstanceUid = NewType("SopInstanceUid", str)
StudyInstanceUid = NewType("StudyInstanceUid", str)
SeriesInstanceUid = NewType("SeriesInstanceUid", str)
InstanceNumber = NewType("InstanceNumber", int)
"""The ledger's own row number of one version of one instance."""
HolderName = NewType("HolderName", str)
Timestamp = NewType("Timestamp", float)
"""Seconds since 1970-01-01T00:00:00Z."""

Evidence = Mapping[str, str | int | float]


class HolderKind(Enum):
    """The kinds of holders."""

    PRIMARY = "primary"
    ROUTE = "route"
    VAULT = "vault"


class ProofKind(Enum):
    """The kind of evidence that a holder has an instance (docs/architecture.md, "One idea: custody")."""

    COMMITMENT = "commitment"
    INVENTORY = "inventory"
    READBACK = "readback"
    CHECKSUM = "checksum"
    RECEIVED = "received"


@dataclass(frozen=True, slots=True)
class Proof:
    """Evidence that a holder has an instance: identifiers and digests, never patient attributes."""

    kind: ProofKind
    at: Timestamp
    evidence: Evidence


@dataclass(frozen=True, slots=True)
class NewInstance:
    """A stored instance from Orthanc's changes feed, before it is in the ledger."""

    orthanc_id: str
    attachment_uuid: str
    sop_instance_uid: SopInstanceUid
    sop_class_uid: str
    series_instance_uid: SeriesInstanceUid
    study_instance_uid: StudyInstanceUid
    transfer_syntax_uid: str
    modality: str
    size: int
    """Bytes of the stored Part 10 file."""
    md5: str
    calling_ae_title: str
    """Empty if the instance did not arrive by C-STORE."""
    called_ae_title: str
    remote_address: str
    received_at: Timestamp


@dataclass(frozen=True, slots=True)
class Instance(NewInstance):
    """One version of one instance as the ledger holds it."""

    number: InstanceNumber


class Outcome(Enum):
    """The outcome of sending one instance to a holder."""

    DELIVERED = "delivered"
    DELIVERED_ALTERED = "delivered_altered"
    CONFLICT = "conflict"
    """The holder has an object of this UID. The agent checks what the holder has before it sends again. A
    person has to act if the holder is known to have another content."""
    RETRY = "retry"
    UNKNOWN = "unknown"
    """No answer came, so the holder may have the instance. The agent checks before it sends again."""
    REFUSED = "refused"
    """A person has to act: replay or waive."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """The outcome for one instance of a batch; `proof` is set if the holder proved the instance at once."""

    number: InstanceNumber
    outcome: Outcome
    reason: str
    proof: Proof | None = None
