"""The words of the ledger of custody as types: instances, holders, obligations, deliveries and proofs."""

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
    """Who may hold an instance."""

    PRIMARY = "primary"
    ROUTE = "route"
    VAULT = "vault"


class ProofKind(Enum):
    """How the possession of an instance by a holder was shown (architecture, section 1)."""

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
    """What Orthanc's changes feed tells of one stored instance, before the ledger has it."""

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
    """Empty where it did not come over C-STORE."""
    called_ae_title: str
    remote_address: str
    received_at: Timestamp


@dataclass(frozen=True, slots=True)
class Instance(NewInstance):
    """One version of one instance as the ledger holds it."""

    number: InstanceNumber


class Outcome(Enum):
    """What became of one instance that was handed to a holder."""

    DELIVERED = "delivered"
    DELIVERED_ALTERED = "delivered_altered"
    CONFLICT = "conflict"
    """Something of its UID is there. Found out before it is sent again; a person has to act where the holder
    is known to keep another content."""
    RETRY = "retry"
    UNKNOWN = "unknown"
    """No answer came: the holder may have it. Found out before it is sent again."""
    REFUSED = "refused"
    """A person has to act: replay or waive."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """The outcome for one instance of a batch; `proof` only where the holder gave it in the same breath."""

    number: InstanceNumber
    outcome: Outcome
    reason: str
    proof: Proof | None = None
