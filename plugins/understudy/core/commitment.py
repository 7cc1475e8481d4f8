"""Storage commitment: what a report says of an instance (DICOM PS3.4 annex J)."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

MOST_REFERENCES = 200
"""Instances of one transaction: archives look up each before they report."""

_REASONS = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0119: "class and instance conflict",
    0x0122: "SOP class not supported",
    0x0131: "duplicate transaction UID",
    0x0213: "resource limitation",
}
"""Failure Reasons (DICOM PS3.3 C.14.1.1)."""

_OF_THE_ARCHIVE = frozenset({0x0122, 0x0131, 0x0213})
"""Reasons that say nothing of the instance: whether it is there is asked in another way."""


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """What a holder says of one transaction, by SOP Instance UID; what it leaves out is not answered."""

    transaction_uid: str
    committed: Set[str]
    failed: Mapping[str, int]
    """Failure Reasons."""
    reported_by: str
    """AE title."""


def is_committed(report: CommitmentReport, sop_instance_uid: str) -> bool:
    """Say whether the holder takes responsibility for the instance; a failure counts before all."""
    return sop_instance_uid in report.committed and sop_instance_uid not in report.failed


def denial(report: CommitmentReport, sop_instance_uid: str) -> str | None:
    """Return why the holder takes no responsibility, None where it does or where it says nothing of it."""
    reason = report.failed.get(sop_instance_uid)
    if reason is None or reason in _OF_THE_ARCHIVE:
        return None
    return f"storage commitment failed: {words_of(reason)}"


def words_of(reason: int) -> str:
    """Return a Failure Reason in words and in hexadecimal."""
    return f"{_REASONS.get(reason, 'a reason that the standard does not know')} (0x{reason:04X})"
