"""The peer's storage commitment (DICOM PS3.4 annex J): in time, late, in parts, elsewhere, twice or never."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from tests.peer.record import Moment, Record
from tests.peer.script import SUCCESS, Reporting, Script

_PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1.1"
_COMPLETE, _FAILURES_EXIST = 1, 2
"""Event types of a report (DICOM PS3.4 J.3.3.1)."""
_NO_SUCH_INSTANCE = 0x0112


@dataclass(frozen=True, slots=True)
class Requested:
    """One request: its transaction, and SOP class and SOP instance of everything it names."""

    transaction_uid: str
    instances: tuple[tuple[str, str], ...]


class Commitments:
    """What was asked for and what was reported; `reports_to` is where the peer opens its associations."""

    def __init__(self, record: Record, ae_title: str) -> None:
        self.reports_to: tuple[str, int, str] | None = None
        """Host, port and AE title."""
        self.requested: list[Requested] = []
        self._record = record
        self._ae_title = ae_title
        self._threads: list[threading.Thread] = []

    def asked(self, event: evt.Event, script: Script) -> int:
        """Take a request (N-ACTION), let its report begin, and return the status to answer with."""
        information = event.action_information
        references = information.get("ReferencedSOPSequence", [])
        request = Requested(
            str(information.TransactionUID),
            tuple((str(one.ReferencedSOPClassUID), str(one.ReferencedSOPInstanceUID)) for one in references),
        )
        self.requested.append(request)
        association = event.assoc if script.reporting is Reporting.SAME_ASSOCIATION else None
        times = {Reporting.TWICE: 2, Reporting.WHEN_TOLD: 0, Reporting.NEVER: 0}.get(script.reporting, 1)
        if script.commitment_status == SUCCESS and times:
            thread = threading.Thread(target=self._report, args=(request, script, association, times))
            self._threads.append(thread)
            thread.start()
        self._record.note(Moment.COMMITMENT)
        return script.commitment_status

    def report(self, request: Requested, script: Script) -> None:
        """Report now, on an association that the peer opens."""
        self._report(request, script, None, 1)

    def join(self) -> None:
        """Wait for the reports under way."""
        for thread in self._threads:
            thread.join()

    def _report(
        self, request: Requested, script: Script, association: Association | None, times: int
    ) -> None:
        self._record.wait_for(Moment.ARRIVED, script.report_after)
        if association is not None and self._send(association, request, script):
            return
        if association is not None and self.reports_to is None:
            # Who asked has hung up, and it knows no other way there.
            return
        for _ in range(times):
            if self.reports_to is None:
                raise AssertionError("the test did not say where to report to")
            host, port, called = self.reports_to
            entity = AE(ae_title=self._ae_title)
            entity.add_requested_context(StorageCommitmentPushModel)
            role = build_role(StorageCommitmentPushModel, scp_role=True)
            opened = entity.associate(host, port, ae_title=called, ext_neg=[role])
            if not opened.is_established:
                raise AssertionError("no association to report on")
            self._send(opened, request, script)
            opened.release()

    def _send(self, association: Association, request: Requested, script: Script) -> bool:
        """Send the report (N-EVENT-REPORT) and return whether it was answered."""
        failed = self._failed(request, script)
        report = Dataset()
        report.TransactionUID = request.transaction_uid
        mentioned = [one for one in request.instances if one[1] not in script.unmentioned]
        report.ReferencedSOPSequence = [_reference(*one) for one in mentioned if one[1] not in failed]
        report.FailedSOPSequence = [_reference(*one, failed[one[1]]) for one in mentioned if one[1] in failed]
        if not report.FailedSOPSequence:
            del report.FailedSOPSequence
        kind = _FAILURES_EXIST if failed else _COMPLETE
        try:
            answer, _ = association.send_n_event_report(
                report, kind, StorageCommitmentPushModel, _PUSH_MODEL_INSTANCE
            )
        except RuntimeError:
            # pynetdicom's word for an association that has ended.
            return False
        if "Status" not in answer:
            return False
        self._record.note(Moment.REPORTED)
        return True

    def _failed(self, request: Requested, script: Script) -> dict[str, int]:
        kept = self._record.kept
        missing = {uid: _NO_SUCH_INSTANCE for _, uid in request.instances if uid not in kept}
        return missing | {uid: script.uncommitted[uid] for uid in _uids(request) if uid in script.uncommitted}


def _uids(request: Requested) -> Sequence[str]:
    return [uid for _, uid in request.instances]


def _reference(sop_class: str, sop_instance: str, reason: int | None = None) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = sop_class
    reference.ReferencedSOPInstanceUID = sop_instance
    if reason is not None:
        reference.FailureReason = reason
    return reference
