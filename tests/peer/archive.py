"""The peer on DICOM: an SCP of C-STORE, C-FIND, C-ECHO and storage commitment, by its script (pynetdicom)."""

import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from io import BytesIO
from socketserver import BaseServer
from types import TracebackType
from typing import Any, Self

from pydicom import Dataset, dcmread
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
)
from pynetdicom.transport import ThreadedAssociationServer

from tests.peer.acting import Acting, Sent
from tests.peer.commitment import Commitments
from tests.peer.ending import end
from tests.peer.record import DEADLINE, Entry, Moment
from tests.peer.script import Act, Break, Ending, Hang, Listing, Script, Trickle

_P_DATA = 0x04
_CONTEXT_ID = 10
"""Where a P-DATA-TF PDU has the presentation context of its first value (DICOM PS3.8 9.3.5)."""
_PENDING, _REFUSED = 0xFF00, 0xA700
_POLL = 0.01
"""Seconds until the listener sees that it is to end."""
_BUFFER = 2**16
"""Bytes that the system takes of what is not read: a sender soon feels that the peer hangs."""


class Archive(Acting):
    """Listens on a free port of this machine while it is entered; `script` may be replaced at any moment."""

    def __init__(
        self, script: Script | None = None, *, ae_title: str = "ARCHIVE", host: str = "127.0.0.1"
    ) -> None:
        super().__init__(script)
        self.ae_title = ae_title
        self.host = host
        self.port = 0
        self.commitments = Commitments(self.record, ae_title)
        self._requests: dict[Association, _Request] = {}
        self._server: Any = None
        self._thread: threading.Thread

    def __enter__(self) -> Self:
        entity = AE(ae_title=self.ae_title)
        # Who hangs and for how long is the script's to say.
        entity.network_timeout = None
        # The contexts of the script take their place when an association is asked for.
        entity.supported_contexts = [build_context(Verification)]
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, _set_up),
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_ACCEPTED, lambda _event: self.record.note(Moment.ASSOCIATED)),
            (evt.EVT_DATA_RECV, self._on_data),
            (evt.EVT_C_ECHO, lambda _event: 0x0000),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
            (evt.EVT_C_GET, self._on_get),
            (evt.EVT_N_ACTION, self._on_commitment),
            (evt.EVT_CONN_CLOSE, lambda _event: self.record.note(Moment.CLOSED)),
        ]
        self._server = entity.make_server(
            (self.host, self.port), evt_handlers=handlers, server_class=ThreadedAssociationServer
        )
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.script = Script()
        BaseServer.shutdown(self._server)
        self._server.server_close()
        self._thread.join()
        self.commitments.join()

    # Associations

    def _on_requested(self, event: evt.Event) -> None:
        script = self.script
        if script.deaf:
            self.hang()
        if script.rejection is not None:
            # Said here: pynetdicom closes the connection before its own answer has left.
            _socket(event.assoc).sendall(struct.pack(">BBLBBBB", 0x03, 0, 4, 0, *script.rejection))
            event.assoc.is_rejected = True
            self.record.note(Moment.REJECTED)
            return
        contexts = [build_context(Verification), build_context(StorageCommitmentPushModel)]
        if script.answers_queries:
            contexts.append(build_context(StudyRootQueryRetrieveInformationModelFind))
            contexts.append(build_context(StudyRootQueryRetrieveInformationModelGet))
        storage = [build_context(one, list(script.transfer_syntaxes)) for one in script.sop_classes]
        for context in storage:
            # Whoever asks by C-GET takes what is given back over the same association.
            context.scu_role = context.scp_role = True
        contexts += storage
        event.assoc.acceptor.supported_contexts = contexts

    # Instances

    def _on_data(self, event: evt.Event) -> None:
        """Count what has come of a C-STORE request, and do in its middle what is to be done there."""
        if event.data[0] != _P_DATA or not _stores(event.assoc, event.data[_CONTEXT_ID]):
            return
        request = self._request(event.assoc)
        request.came += len(event.data)
        if not isinstance(request.act, Break | Hang):
            return
        after = request.act.after_bytes
        if after is not None and request.came >= after and not request.done:
            request.done = True
            if isinstance(request.act, Hang):
                self.hang()
            else:
                self._break(event.assoc, request.act.ending)

    def _request(self, association: Association) -> "_Request":
        if association not in self._requests:
            self._requests[association] = _Request(self.next_act())
        return self._requests[association]

    def _on_store(self, event: evt.Event) -> int:
        request = self._request(event.assoc)
        del self._requests[event.assoc]
        act = request.act
        stored: Any = event.request
        status = self.take(Sent.read(event.encoded_dataset(), stored.DataSet.getvalue()), act)
        if isinstance(act, Break) and not request.done:
            self._break(event.assoc, act.ending)
        elif isinstance(act, Hang) and not request.done:
            self.hang()
        else:
            self._drip(event.assoc, act if isinstance(act, Trickle) else None)
        return status

    def _drip(self, association: Association, act: Trickle | None) -> None:
        """Let the answers from here on leave byte by byte, or no longer."""
        connection: Any = association.dul.socket
        if isinstance(connection.socket, _Tap):
            connection.socket = connection.socket.inner
        if act is not None:
            connection.socket = _Tap(connection.socket, act, self.go_on)

    def _break(self, association: Association, ending: Ending) -> None:
        end(_socket(association), ending)
        self.record.note(Moment.BROKEN)

    # Questions

    def _on_commitment(self, event: evt.Event) -> tuple[int, None]:
        return self.commitments.asked(event, self.script), None

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        listing = self.script.listing
        if listing is Listing.SILENT:
            self.hang()
        if listing is Listing.REFUSED:
            yield _REFUSED, None
            return
        if listing is Listing.ABORTED:
            self._break(event.assoc, Ending.ABORT)
            return
        self.record.note(Moment.ASKED)
        query = event.identifier
        entries = [] if listing is Listing.EMPTY else list(self.record.kept.values())
        for values in _answers(query, entries):
            answer = Dataset()
            answer.QueryRetrieveLevel = query.QueryRetrieveLevel
            for keyword, value in values.items():
                setattr(answer, keyword, value)
            yield _PENDING, answer
        yield 0x0000, None

    def _on_get(self, event: evt.Event) -> Iterator[Any]:
        if self.script.get_status is not None:
            yield 1
            yield self.script.get_status, None
            return
        file = self.given_back(str(event.identifier.SOPInstanceUID))
        yield 0 if file is None else 1
        if file is not None:
            yield _PENDING, dcmread(BytesIO(file))


class _Request:
    """One C-STORE request on its way: what is done with it, and how much of it has come."""

    def __init__(self, act: Act) -> None:
        self.act = act
        self.came = 0
        self.done = False
        """Whether the act was done in the middle of it."""


class _Tap:
    """A socket whose messages leave byte by byte."""

    def __init__(self, inner: socket.socket, act: Trickle, go_on: threading.Event) -> None:
        self.inner = inner
        self._act = act
        self._go_on = go_on

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def send(self, content: bytes) -> int:
        """Send all of it; or as much as is allowed, and hang."""
        for number, byte in enumerate(content):
            if self._act.most is not None and number >= self._act.most:
                self._go_on.wait(DEADLINE)
            self._go_on.wait(self._act.pause)
            self.inner.sendall(bytes([byte]))
        return len(content)


def _answers(query: Dataset, entries: Sequence[Entry]) -> list[dict[str, object]]:
    """Return the answers of a hierarchical query (DICOM PS3.4 C.4.1.3.1.1)."""
    study, series = query.get("StudyInstanceUID", ""), query.get("SeriesInstanceUID", "")
    wanted = [one for one in entries if study in ("", one.study_instance_uid)]
    if query.QueryRetrieveLevel == "STUDY":
        counts: dict[str, int] = {}
        for one in wanted:
            counts[one.study_instance_uid] = counts.get(one.study_instance_uid, 0) + 1
        return [
            {"StudyInstanceUID": uid, "NumberOfStudyRelatedInstances": count} for uid, count in counts.items()
        ]
    wanted = [one for one in wanted if series in ("", one.series_instance_uid)]
    if query.QueryRetrieveLevel == "SERIES":
        return [
            {"SeriesInstanceUID": uid} for uid in dict.fromkeys(one.series_instance_uid for one in wanted)
        ]
    return [{"SOPInstanceUID": one.sop_instance_uid} for one in wanted]


def _stores(association: Association, context_id: int) -> bool:
    """Say whether the presentation context is one for storage."""
    others = (
        Verification,
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelGet,
        StorageCommitmentPushModel,
    )
    return any(
        context.context_id == context_id and context.abstract_syntax not in others
        for context in association.accepted_contexts
    )


def _socket(association: Association) -> socket.socket:
    connection: Any = association.dul.socket
    found: socket.socket = connection.socket
    return found


def _set_up(event: evt.Event) -> None:
    connection = _socket(event.assoc)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
