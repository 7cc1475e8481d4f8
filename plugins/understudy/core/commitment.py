"""Storage commitment: what a report says about an instance (DICOM PS3.4 annex J)."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

MOST_REFERENCES = 200
"""Largest number of instances in one transaction: archives look up each of them before they report."""

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
"""Reasons that say nothing about the instance, so that the agent asks for it in another way."""


@dataclass(frozen=True, slots=True)
class CommitmentReport:
    """A holder's report on one transaction, by SOP Instance UID; an omitted instance is unanswered."""

    transaction_uid: str
    committed: Set[str]
    failed: Mapping[str, int]
    """Failure Reason by SOP Instance UID."""
    reported_by: str
    """AE title of the reporting holder."""


def is_committed(report: CommitmentReport, sop_instance_uid: str) -> bool:
    """Say whether the holder takes responsibility for the instance. A failure outweighs a success."""
    return sop_instance_uid in report.committed and sop_instance_uid not in report.failed


def denial(report: CommitmentReport, sop_instance_uid: str) -> str | None:
    """Return why the holder takes no responsibility, or None if it does or if the report does not say."""
    reason = report.failed.get(sop_instance_uid)
    if reason is None or reason in _OF_THE_ARCHIVE:
        return None
    return f"storage commitment failed: {words_of(reason)}"


def words_of(reason: int) -> str:
    """Return a Failure Reason in words and in hexadecimal."""
    return f"{_REASONS.get(reason, 'a reason that the standard does not know')} (0x{reason:04X})"
