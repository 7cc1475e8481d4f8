"""What is known of two contents under one SOP Instance UID, as types."""

from dataclasses import dataclass
from enum import Enum

from understudy.core.views import Moment


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
    received: Moment
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
    at: Moment
    earlier: VersionView
    later: VersionView
    unresolved: bool
    acknowledged: Moment | None
    acknowledged_by: str
    reason: str


def is_unresolved(kind: ConflictKind, acknowledged: float | None) -> bool:
    """Say whether a person has to look at a conflict."""
    return acknowledged is None and kind is not ConflictKind.HEAD


HEAD_BYTES = 144
"""Offset of what the group length of the file meta information counts (DICOM PS3.10 7.1)."""


def dataset_at(head: bytes) -> int | None:
    """Return where the data set begins, None where the first bytes of the file do not say so."""
    if len(head) < HEAD_BYTES or head[128:132] != b"DICM" or head[132:140] != b"\2\0\0\0UL\4\0":
        return None
    return HEAD_BYTES + int.from_bytes(head[140:144], "little")


def judge(earlier: str | None, later: str | None, *, same_syntax: bool) -> ConflictKind:
    """Say in what two files of one instance differ, by the digests of their data sets; None is of none."""
    same = same_syntax and earlier is not None and earlier == later
    return ConflictKind.HEAD if same else ConflictKind.CONTENT
