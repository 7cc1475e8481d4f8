"""What is known of two contents under one SOP Instance UID, as types."""

from dataclasses import dataclass
from enum import Enum


class ConflictKind(Enum):
    """In what the two differ."""

    UNJUDGED = "unjudged"
    """Not compared yet."""
    HEAD = "head"
    """In the file meta information alone: the data sets are the same, so nobody has to act."""
    CONTENT = "content"
    """In the data set: one instance with two contents."""
    IDENTITY = "identity"
    """In patient, study or series: both are present, as two instances of one UID."""


@dataclass(frozen=True, slots=True)
class VersionView:
    """One of the two contents; `sender` is empty where it did not come over C-STORE."""

    orthanc_id: str
    md5: str
    size: int
    received: str
    sender: str
    address: str
    study_instance_uid: str
    present: bool
    """Whether Orthanc shows it; else it is kept beside Orthanc's own files."""


@dataclass(frozen=True, slots=True)
class ConflictView:
    """Two contents under one SOP Instance UID; `unresolved` until somebody acknowledged it."""

    conflict: int
    kind: ConflictKind
    sop_instance_uid: str
    at: str
    earlier: VersionView
    later: VersionView
    unresolved: bool
    acknowledged: str | None
    acknowledged_by: str
    reason: str


_DATASET_AT = 144
"""Offset of what the group length of the file meta information counts (DICOM PS3.10 7.1)."""


def dataset_of(content: bytes) -> bytes | None:
    """Return what follows the file meta information, None where the file does not say where that ends."""
    head = content[:_DATASET_AT]
    if len(head) < _DATASET_AT or head[128:132] != b"DICM" or head[132:140] != b"\2\0\0\0UL\4\0":
        return None
    return content[_DATASET_AT + int.from_bytes(head[140:144], "little") :] or None


def judge(earlier: bytes, later: bytes, *, same_syntax: bool) -> ConflictKind:
    """Say in what two files of one instance differ."""
    first, second = dataset_of(earlier), dataset_of(later)
    same = same_syntax and first is not None and first == second
    return ConflictKind.HEAD if same else ConflictKind.CONTENT
