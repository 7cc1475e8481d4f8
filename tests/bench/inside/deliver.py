"""Delivers the files below /bench to a DICOM receiver by the appliance's own lane, with proof."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from understudy.adapters.dicom import DicomPeer
from understudy.core.model import NewInstance
from understudy.flow.appliance import Appliance

from tests.bench.inside.common import (
    DATA,
    answer,
    arguments,
    delivered,
    files_of,
    lane_of,
    note,
    stored,
    wired,
)
from tests.peer.archive import Archive
from tests.peer.listener import Listener
from tests.peer.record import Entry
from tests.peer.script import Reporting, Script

_LATE = 1.0
"""Seconds until a late report: longer than the sending takes."""

_REPORTING = {
    "at once": Reporting.SAME_ASSOCIATION,
    "on a new association": Reporting.OTHER_ASSOCIATION,
    "late": Reporting.WHEN_TOLD,
    "never": Reporting.NEVER,
}


def main() -> None:
    """Deliver and tell the seconds from the first look at the ledger to the last proof."""
    asked = arguments()
    receiver = {"Name": "receiver", "AeTitle": "PRIMARY", "Host": asked["host"], "Port": 4242}
    # The AE title that the lab's Orthanc lets query: without an answer to C-FIND there is no proof.
    appliance, workers = wired({"AeTitle": "STANDBY", "Destinations": [receiver], "Vaults": []}, "deliver")
    instances = stored(files_of(DATA))
    note(appliance, instances, ["receiver"], cursor=1)
    with _committing(appliance, instances, asked["reports"]):
        seconds = delivered(appliance, workers, "receiver", len(instances), deadline=300)
    answer({"seconds": seconds, "instances": len(instances)})


@contextmanager
def _committing(appliance: Appliance, instances: Sequence[NewInstance], reports: str) -> Iterator[None]:
    """Let the receiver be asked for storage commitment where somebody answers who reports so.

    Orthanc reports over a new association alone.
    """
    script = Script(reporting=_REPORTING[reports])
    with Archive(script) as archive, Listener() as listener:
        archive.commitments.reports_to = ("127.0.0.1", listener.port, listener.ae_title)
        for one in instances:
            entry = Entry(
                one.study_instance_uid, one.series_instance_uid, one.sop_instance_uid, one.sop_class_uid
            )
            archive.record.arrived(b"", one.sop_instance_uid, 0, entry)
        commitment: Any = lane_of(appliance, "receiver").holder
        commitment = commitment._commitment
        commitment._reports = listener
        commitment._peer = DicomPeer(
            "receiver",
            ae_title=archive.ae_title,
            host=archive.host,
            port=archive.port,
            calling_ae_title="STANDBY",
            timeout=30,
        )
        late = threading.Timer(_LATE, _report, (archive,))
        if reports == "late":
            late.start()
        yield
        late.cancel()


def _report(archive: Archive) -> None:
    for request in archive.commitments.requested:
        archive.commitments.report(request, Script())


if __name__ == "__main__":
    main()
