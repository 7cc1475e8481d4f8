"""Conflicts: two contents under one SOP Instance UID, as types."""

from dataclasses import dataclass
from enum import Enum

from understudy.core.views import Moment


class ConflictKind(Enum):
    """The part in which the two contents differ."""

    UNJUDGED = "unjudged"
    """Not compared yet."""
    HEAD = "head"
    """They differ only in the file meta information. The data sets are the same, so nobody has to act."""
    CONTENT = "content"
    """They differ in the data set: one instance has two contents."""
    IDENTITY = "identity"
    """They differ in patient, study or series. Orthanc shows both, as two instances with one UID."""


@dataclass(frozen=True, slots=True)
class VersionView:
    """One of the two contents; `sender` is empty if it did not come by C-STORE."""

    orthanc_id: str
    md5: str
    size: int
    received: Moment
    sender: str
    address: str
    study_instance_uid: str
    present: bool
    """Whether Orthanc shows it. If not, it is kept beside Orthanc's own files."""


@dataclass(frozen=True, slots=True)
class ConflictView:
    """Two contents under one SOP Instance UID; `unresolved` says whether a person has to look at them."""

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
"""Offset of the bytes that the group length of the file meta information counts (DICOM PS3.10 7.1)."""


def dataset_at(head: bytes) -> int | None:
    """Return the offset of the data set, or None if the first bytes of the file do not give it."""
    if len(head) < HEAD_BYTES or head[128:132] != b"DICM" or head[132:140] != b"\2\0\0\0UL\4\0":
        return None
    return HEAD_BYTES + int.from_bytes(head[140:144], "little")


def judge(earlier: str | None, later: str | None, *, same_syntax: bool) -> ConflictKind:
    """Return how two files of one instance differ, by the digests of their data sets.

    A digest is None if the file's data set was not found; then the contents count as different.
    """
    same = same_syntax and earlier is not None and earlier == later
    return ConflictKind.HEAD if same else ConflictKind.CONTENT
