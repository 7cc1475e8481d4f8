"""Storage commitment messages: request, and report over the same association (DICOM PS3.4 annex J)."""

import time
from collections.abc import Sequence
from contextlib import suppress

from pydicom.dataset import Dataset

from understudy.adapters import dimse
from understudy.adapters.association import Accepted, Association, AssociationLostError, Context
from understudy.core.commitment import CommitmentReport

CONTEXT = Context("1.2.840.10008.1.20.1")
_INSTANCE = "1.2.840.10008.1.20.1.1"
"""The well-known SOP Instance UID of the SOP class (DICOM PS3.4 J.3.5)."""
_REQUEST = 1
"""Action Type ID (DICOM PS3.4 J.3.2)."""
_REPORTS_BEFORE_THE_ANSWER = 100
"""Maximum number of reports before the answer, on this or earlier requests. A peer that sends more may never
answer."""


def request(transaction_uid: str, references: Sequence[tuple[str, str]]) -> Dataset:
    """Return the data set of a request; each reference is a SOP class and a SOP Instance UID."""
    asked = Dataset()
    asked.TransactionUID = transaction_uid
    asked.ReferencedSOPSequence = [_reference(*reference) for reference in references]
    return asked


def ask(
    association: Association, context: Accepted, data: bytes, patience: float, linger: float
) -> tuple[dimse.Message, bytes | None]:
    """Send the request and return its answer, and the report's data set if it comes in time.

    Some peers report before they answer. A report is answered with success over this association. Raises
    AssociationLostError, also if only reports come.
    """
    elements: dimse.Elements = {
        dimse.REQUESTED_CLASS: CONTEXT.sop_class_uid,
        dimse.REQUESTED_INSTANCE: _INSTANCE,
        dimse.ACTION: _REQUEST,
    }
    dimse.send(association, context, dimse.ACT, elements, data)
    report: bytes | None = None
    for _ in range(_REPORTS_BEFORE_THE_ANSWER + 1):
        message = dimse.receive(association, patience)
        if message.requests(dimse.EVENT_REPORT):
            report = _taken(association, context, message)
        elif message.answers(dimse.ACT, 1):
            if message.status == dimse.SUCCESS and report is None:
                report = _awaited(association, context, patience, linger)
            return message, report
        else:
            raise association.garbled("an answer to something else")
    raise association.garbled("reports alone, and no answer")


def _awaited(association: Association, context: Accepted, patience: float, linger: float) -> bytes | None:
    """Return the report, None if it does not come or the association ends; it can still come over another."""
    with suppress(AssociationLostError):
        if association.arrives(time.monotonic() + linger):
            message = dimse.receive(association, patience)
            if message.requests(dimse.EVENT_REPORT):
                return _taken(association, context, message)
    return None


def _taken(association: Association, context: Accepted, report: dimse.Message) -> bytes:
    elements: dimse.Elements = {
        dimse.SOP_CLASS: CONTEXT.sop_class_uid,
        dimse.SOP_INSTANCE: _INSTANCE,
        dimse.EVENT: report.number(dimse.EVENT) or 1,
    }
    dimse.respond(association, context, report, elements, dimse.SUCCESS)
    return report.data


def read(report: Dataset, reported_by: str) -> CommitmentReport:
    """Return the content of a report; raises one of PARSE_ERRORS if it cannot be read."""
    return CommitmentReport(
        str(report.get("TransactionUID", "")),
        frozenset(_uid(item) for item in report.get("ReferencedSOPSequence") or ()),
        {_uid(item): int(item.FailureReason) for item in report.get("FailedSOPSequence") or ()},
        reported_by,
    )


def _uid(item: Dataset) -> str:
    return str(item.ReferencedSOPInstanceUID)


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = sop_class_uid
    reference.ReferencedSOPInstanceUID = sop_instance_uid
    return reference
