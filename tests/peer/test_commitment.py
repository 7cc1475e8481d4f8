"""The peer's storage commitment, asked by pynetdicom: it reports as the script says."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import CTImageStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from tests.peer.archive import Archive
from tests.peer.record import Entry, Moment
from tests.peer.script import Reporting, Script

KEPT, LOST, REFUSED = "1.2.3.1", "1.2.3.2", "1.2.3.3"
ALL = (KEPT, LOST, REFUSED)
TRANSACTION = "1.2.3.99"


@dataclass
class Standby:
    """Whoever asks for commitment: takes reports on its own associations and on those that the peer opens."""

    reports: list[tuple[int, dict[str, int]]] = field(default_factory=list)
    """Event type, and by SOP Instance UID 0 or the failure reason."""
    here: list[bool] = field(default_factory=list)
    """For each report, whether it came on the association of the request."""

    def on_report(self, event: evt.Event) -> tuple[int, None]:
        report = event.event_information
        assert report.TransactionUID == TRANSACTION
        told = {one.ReferencedSOPInstanceUID: 0 for one in report.get("ReferencedSOPSequence", [])}
        told |= {
            one.ReferencedSOPInstanceUID: one.FailureReason for one in report.get("FailedSOPSequence", [])
        }
        request: Any = event.request
        self.reports.append((request.EventTypeID, told))
        self.here.append(event.assoc.is_requestor)
        return 0x0000, None


@contextmanager
def asked(archive: Archive) -> Iterator[tuple[Standby, int]]:
    """Ask for commitment of three instances, and give what is reported and the status of the answer."""
    standby = Standby()
    entity = AE(ae_title="STANDBY")
    entity.add_requested_context(StorageCommitmentPushModel)
    entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, standby.on_report)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    archive.commitments.reports_to = ("127.0.0.1", server.server_address[1], "STANDBY")
    association = entity.associate(archive.host, archive.port, ae_title="ARCHIVE", evt_handlers=handlers)
    action = Dataset()
    action.TransactionUID = TRANSACTION
    action.ReferencedSOPSequence = []
    for uid in ALL:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = CTImageStorage, uid
        action.ReferencedSOPSequence.append(reference)
    try:
        status, _ = association.send_n_action(action, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")
        yield standby, status.Status
    finally:
        association.release()
        server.shutdown()


@pytest.fixture
def archive() -> Iterator[Archive]:
    with Archive() as found:
        for uid in (KEPT, REFUSED):
            found.record.arrived(b"", uid, 0, Entry("1.2", "1.2.3", uid, CTImageStorage))
        yield found


PARTLY = {KEPT: 0, LOST: 0x0112, REFUSED: 0x0110}


@pytest.mark.parametrize(
    ("reporting", "here"),
    [
        (Reporting.SAME_ASSOCIATION, [True]),
        (Reporting.OTHER_ASSOCIATION, [False]),
        (Reporting.TWICE, [False, False]),
    ],
)
def test_commitment_is_reported_where_and_as_often_as_the_script_says(
    archive: Archive, reporting: Reporting, here: list[bool]
) -> None:
    archive.script = Script(reporting=reporting, uncommitted={REFUSED: 0x0110})
    with asked(archive) as (standby, status):
        archive.record.wait_for(Moment.REPORTED, len(here))
        assert (status, standby.here) == (0, here)
        assert standby.reports == [(2, PARTLY)] * len(here)
    (request,) = archive.commitments.requested
    assert request.instances == tuple((CTImageStorage, uid) for uid in ALL)


def test_commitment_is_reported_late_when_the_test_says_so(archive: Archive) -> None:
    archive.script = Script(reporting=Reporting.WHEN_TOLD)
    with asked(archive) as (standby, status):
        assert (status, standby.reports) == (0, [])
        archive.commitments.report(archive.commitments.requested[0], Script(unmentioned=frozenset({LOST})))
        assert standby.reports == [(2, {KEPT: 0, REFUSED: 0})]


@pytest.mark.parametrize(
    "script", [Script(reporting=Reporting.NEVER), Script(commitment_status=0x0110)], ids=["never", "refused"]
)
def test_commitment_without_a_report_stays_without(archive: Archive, script: Script) -> None:
    archive.script = script
    with asked(archive) as (standby, status):
        assert status == script.commitment_status
    archive.commitments.join()
    assert standby.reports == []
    assert archive.record.times(Moment.REPORTED) == 0
