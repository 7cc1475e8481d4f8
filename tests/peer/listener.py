"""Takes reports of storage commitment that a peer sends over associations of its own, as our Orthanc does."""

import threading
from socketserver import BaseServer
from types import TracebackType
from typing import Any, Self

from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer
from understudy.core.commitment import CommitmentReport


class Listener:
    """Keeps reports by their transaction, whoever asked for them (core.ports.Reports)."""

    def __init__(self, ae_title: str = "STANDBY") -> None:
        self.ae_title = ae_title
        self.port = 0
        self._lock = threading.Lock()
        self._reports: dict[str, CommitmentReport] = {}
        self._server: Any = None
        self._thread: threading.Thread

    def __enter__(self) -> Self:
        entity = AE(ae_title=self.ae_title)
        entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        self._server = entity.make_server(
            ("127.0.0.1", 0),
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._on_report)],
            server_class=ThreadedAssociationServer,
        )
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        BaseServer.shutdown(self._server)
        self._server.server_close()
        self._thread.join()

    def commitment_report(self, transaction_uid: str) -> CommitmentReport | None:
        """Return the last report on the transaction, None where there is none."""
        with self._lock:
            return self._reports.get(transaction_uid)

    def forget(self) -> None:
        """Lose all reports, as Orthanc does with its process."""
        with self._lock:
            self._reports.clear()

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        information = event.event_information
        report = CommitmentReport(
            str(information.TransactionUID),
            frozenset(
                str(one.ReferencedSOPInstanceUID) for one in information.get("ReferencedSOPSequence") or ()
            ),
            {
                str(one.ReferencedSOPInstanceUID): int(one.FailureReason)
                for one in information.get("FailedSOPSequence") or ()
            },
            str(event.assoc.requestor.ae_title),
        )
        with self._lock:
            self._reports[report.transaction_uid] = report
        return 0x0000, None
