"""The DICOM adapter against real SCPs in threads: every answer that a PACS can give, and none."""

import itertools
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit
from pynetdicom import AE, build_context, evt
from pynetdicom.pdu import P_DATA_TF
from understudy.adapters.dicom import DicomPeer
from understudy.core.inventory import ListedStudy, StudyList
from understudy.core.model import Outcome, SeriesInstanceUid, SopInstanceUid, StudyInstanceUid
from understudy.core.outcomes import Loss, Verdict, of_loss, of_rejection, of_status
from understudy.core.ports import (
    BusyError,
    CappedError,
    FileToSend,
    HolderUnavailableError,
    NoImagesError,
    RejectedError,
    UnansweredError,
)

# pynetdicom drops the socket of a connection that failed without closing it; CPython closes it then.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
VERIFICATION = "1.2.840.10008.1.1"
FIND, MOVE = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.2"
STUDY = StudyInstanceUid("1.2.3")
ODD = bytes.fromhex("0800 0500 4353 0a00") + b"ISO_IR 100" + bytes.fromhex("0900 1000 4c4f 0400") + b"ODD\x00"
"""A data set as a peer might have written it; its private element has no owner that we could know."""
DEADLINE = 30.0
SILENCE = 2.0
"""Seconds after which a silent peer is given up: enough for a busy machine to make the association."""


def peer(port: int, *, timeout: float = DEADLINE, host: str = "127.0.0.1") -> DicomPeer:
    return DicomPeer(
        "pacs", ae_title="PACS", host=host, port=port, calling_ae_title="STANDBY", timeout=timeout
    )


@dataclass
class Pacs:
    """A scripted PACS: statuses of C-STORE in order, answers to C-FIND by level, faults to commit."""

    classes: tuple[str, ...] = (VERIFICATION, FIND, MOVE, CT, MR)
    syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian, JPEGBaseline8Bit)
    statuses: list[int] = field(default_factory=list)
    series: dict[str, list[str]] = field(default_factory=dict)
    counted: Any = None
    find_status: int = 0x0000
    cap: int = 10**9
    without: tuple[str, ...] = ()
    """Keywords that its answers leave out."""
    move_port: int = 0
    moved: list[Dataset] = field(default_factory=list)
    silent: threading.Event | None = None
    """Where given, nothing is answered before it is set."""
    received: list[bytes] = field(default_factory=list)
    callers: list[tuple[str, str]] = field(default_factory=list)
    largest: int = 16382
    """Bytes of the largest PDU that it takes, 0 for any."""
    releases: int = 0
    aborts: int = 0
    ended: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def _wait(self) -> None:
        if self.silent is not None:
            self.silent.wait(DEADLINE)

    def on_echo(self, event: evt.Event) -> int:
        self._wait()
        return self.statuses.pop(0) if self.statuses else 0

    def on_store(self, event: evt.Event) -> int:
        self._wait()
        request: Any = event.request
        self.received.append(request.DataSet.getvalue())
        return self.statuses.pop(0) if self.statuses else 0

    def on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        self._wait()
        query = event.identifier
        level = query.QueryRetrieveLevel
        answers: list[tuple[str, str]]
        if level == "STUDY":
            answers = [("StudyInstanceUID", STUDY)] if query.StudyInstanceUID in ("", STUDY) else []
        elif level == "SERIES":
            answers = [("SeriesInstanceUID", uid) for uid in self.series]
        else:
            answers = [("SOPInstanceUID", uid) for uid in self.series[query.SeriesInstanceUID]]
        for keyword, value in answers[: self.cap]:
            answer = Dataset()
            answer.QueryRetrieveLevel = level
            if keyword not in self.without:
                setattr(answer, keyword, value)
            if level == "STUDY" and self.counted is not None:
                answer.NumberOfStudyRelatedInstances = self.counted
            yield 0xFF00, answer
        yield self.find_status, None

    def on_move(self, event: evt.Event) -> Iterator[Any]:
        self._wait()
        if event.move_destination != "STANDBY":
            yield None, None
            return
        yield "127.0.0.1", self.move_port, {"contexts": [build_context(CT, ExplicitVRLittleEndian)]}
        yield len(self.moved)
        for one in self.moved:
            yield 0xFF00, one

    def _on_requested(self, event: evt.Event) -> None:
        request: Any = event.assoc.requestor.primitive
        self.callers.append((request.calling_ae_title, request.called_ae_title))

    def _on_released(self, _event: evt.Event) -> None:
        self.releases += 1

    def _on_aborted(self, _event: evt.Event) -> None:
        self.aborts += 1

    def _on_closed(self, _event: evt.Event) -> None:
        self.ended.release()

    @contextmanager
    def serving(self, *more: tuple[evt.InterventionEvent | evt.NotificationEvent, Any]) -> Iterator[int]:
        """Listen on a free port and give it."""
        entity = AE(ae_title="PACS")
        entity.maximum_pdu_size = self.largest
        for sop_class in self.classes:
            syntaxes = ["1.2.840.10008.1.2", *self.syntaxes]
            entity.add_supported_context(sop_class, syntaxes if sop_class in (CT, MR) else None)
        handlers: list[Any] = [
            (evt.EVT_C_ECHO, self.on_echo),
            (evt.EVT_C_STORE, self.on_store),
            (evt.EVT_C_FIND, self.on_find),
            (evt.EVT_C_MOVE, self.on_move),
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_RELEASED, self._on_released),
            (evt.EVT_ABORTED, self._on_aborted),
            (evt.EVT_CONN_CLOSE, self._on_closed),
            *more,
        ]
        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        assert server is not None
        try:
            yield server.server_address[1]
        finally:
            if self.silent is not None:
                self.silent.set()
            server.shutdown()
            server.server_close()

    def wait_for_the_end(self) -> None:
        """Wait until the connection is closed on this side too."""
        assert self.ended.acquire(timeout=DEADLINE), "the connection was not closed"


@contextmanager
def raw_server(first: bytes, second: bytes = b"", *, hold: bool) -> Iterator[int]:
    """Listen without pynetdicom: read a PDU and send bytes, once or twice, then hold the line or close it."""
    done = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            for said in (first, second):
                head = self.request.recv(6, socket.MSG_WAITALL)
                self.request.recv(int.from_bytes(head[2:6], "big"), socket.MSG_WAITALL)
                if said:
                    self.request.sendall(said)
                if said is first and not second:
                    break
            if hold:
                done.wait(DEADLINE)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            done.set()
            server.shutdown()
            thread.join(DEADLINE)


class Files:
    """Makes Part 10 files whose data set is any bytes."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def make(
        self, content: bytes, *, sop_class: str = CT, syntax: str = ExplicitVRLittleEndian
    ) -> FileToSend:
        uid = f"1.2.3.4.{next(self._numbers)}"
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = UID(sop_class)
        meta.MediaStorageSOPInstanceUID = UID(uid)
        meta.TransferSyntaxUID = UID(syntax)
        file = BytesIO()
        file.write(bytes(128) + b"DICM")
        write_file_meta_info(DicomFileLike(file), meta, enforce_standard=False)
        file.write(content)
        size = file.tell()
        file.seek(0)
        return FileToSend(uid, sop_class, syntax, file, size)


@pytest.fixture
def files() -> Files:
    return Files()


def store(port: int, sent: list[FileToSend], *, timeout: float = DEADLINE) -> list[Verdict]:
    """Send the files over one association, as long as it is open."""
    verdicts: list[Verdict] = []
    pairs = [(file.sop_class_uid, file.transfer_syntax_uid) for file in sent]
    with peer(port, timeout=timeout).storing(pairs) as association:
        for file in sent:
            if association.is_open:
                verdicts.append(association.store(file))
    return verdicts


def outcomes(verdicts: list[Verdict]) -> list[Outcome]:
    return [verdict.outcome for verdict in verdicts]


# C-ECHO and what precedes it


def test_echo_tells_both_ae_titles_and_releases() -> None:
    pacs = Pacs()
    with pacs.serving() as port:
        peer(port).echo()
        pacs.wait_for_the_end()
    assert pacs.callers == [("STANDBY", "PACS")]
    assert (pacs.releases, pacs.aborts) == (1, 0)


def test_echo_with_a_failure_status_is_told() -> None:
    with Pacs(statuses=[0x0122]).serving() as port, pytest.raises(HolderUnavailableError, match="0x0122"):
        peer(port).echo()


def test_echo_without_an_answer_is_given_up_after_the_timeout() -> None:
    pacs = Pacs(silent=threading.Event())
    with (
        pacs.serving() as port,
        pytest.raises(HolderUnavailableError, match="no data, or almost none, for 2 s"),
    ):
        peer(port, timeout=SILENCE).echo()


def test_port_without_a_listener_is_told() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(HolderUnavailableError, match=f"no association with 127.0.0.1:{port}") as caught:
            peer(port).echo()
    assert "address" in caught.value.hint


def test_host_name_that_nobody_knows_is_told() -> None:
    with pytest.raises(HolderUnavailableError, match=r"pacs\.invalid"):
        peer(104, host="pacs.invalid").echo()


@pytest.mark.parametrize(
    ("answer", "hold"),
    [
        (b"", True),
        (b"", False),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False),
        (b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00", False),
    ],
)
def test_peer_that_speaks_no_dicom_or_aborts_is_told(answer: bytes, hold: bool) -> None:
    with raw_server(answer, hold=hold) as port, pytest.raises(HolderUnavailableError, match="no association"):
        peer(port, timeout=0.3).echo()


REJECTIONS = [
    (result, source, reason)
    for result in (1, 2)
    for source, reasons in ((1, (1, 2, 3, 7)), (2, (1, 2)), (3, (1, 2)))
    for reason in reasons
]
"""Every result, source and reason that the standard knows (DICOM PS3.8 table 9-21)."""


@pytest.mark.parametrize(("result", "source", "reason"), REJECTIONS)
def test_rejection_is_told_in_words_with_result_source_and_reason(
    result: int, source: int, reason: int
) -> None:
    answer = b"\x03\x00\x00\x00\x00\x04\x00" + bytes([result, source, reason])
    with raw_server(answer, hold=True) as port, pytest.raises(HolderUnavailableError) as caught:
        peer(port).echo()
    verdict = of_rejection(result, source, reason)
    assert caught.value.reason == f"it rejects our association: {verdict.reason}"
    assert caught.value.hint == verdict.hint


def test_peer_that_accepts_the_association_and_no_context_is_told() -> None:
    with Pacs(classes=(CT,)).serving() as port:
        for ask in (peer(port).echo, peer(port).studies, lambda: peer(port).move(STUDY, "STANDBY")):
            with pytest.raises(HolderUnavailableError, match="SOP class not supported"):
                ask()


# C-STORE


def test_store_sends_the_data_set_byte_for_byte(files: Files) -> None:
    contents = [ODD, ODD + bytes(range(256)) * 1024, ODD * 2, ODD * 3]
    syntaxes = [ExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGBaseline8Bit]
    pacs = Pacs()
    with pacs.serving() as port:
        sent = [files.make(content, syntax=s) for content, s in zip(contents, syntaxes, strict=True)]
        assert outcomes(store(port, sent)) == [Outcome.DELIVERED] * 4
        pacs.wait_for_the_end()
    assert pacs.received == contents
    assert (len(pacs.callers), pacs.releases, pacs.aborts) == (1, 1, 0)


@pytest.mark.parametrize("largest", [0, 1024, 16382, 2**17])
def test_store_keeps_to_the_pdu_size_that_the_peer_takes(files: Files, largest: int) -> None:
    content = ODD + bytes(200_001)
    sizes: list[int] = []

    def on_pdu(event: evt.Event) -> None:
        if isinstance(event.pdu, P_DATA_TF):
            sizes.append(event.pdu.pdu_length)

    pacs = Pacs(largest=largest)
    with pacs.serving((evt.EVT_PDU_RECV, on_pdu)) as port:
        assert outcomes(store(port, [files.make(content)])) == [Outcome.DELIVERED]
        pacs.wait_for_the_end()
    assert pacs.received == [content]
    assert max(sizes) <= (largest or 2**17)


def test_store_gives_every_status_as_it_came(files: Files) -> None:
    statuses = [0x0000, 0xA700, 0xC000, 0xB000, 0x0111, 0x0122, 0x0124, 0xA900, 0xB007, 0x1234, 0x0000]
    with Pacs(statuses=list(statuses)).serving() as port:
        verdicts = store(port, [files.make(ODD) for _ in statuses])
    assert verdicts == [of_status(status) for status in statuses]


def test_store_of_what_the_peer_does_not_take_is_told_and_the_rest_is_sent(files: Files) -> None:
    pacs = Pacs(classes=(CT,), syntaxes=(ExplicitVRLittleEndian,))
    sent = [
        files.make(ODD, sop_class=MR),
        files.make(ODD),
        files.make(ODD, syntax=JPEGBaseline8Bit),
        files.make(ODD),
    ]
    with pacs.serving() as port:
        verdicts = store(port, sent)
    refused, delivered = Outcome.REFUSED, Outcome.DELIVERED
    assert outcomes(verdicts) == [refused, delivered, refused, delivered]
    assert MR in verdicts[0].reason
    assert "SOP class not supported" in verdicts[0].reason
    assert JPEGBaseline8Bit in verdicts[2].reason
    assert "transfer syntax not supported" in verdicts[2].reason
    assert len(pacs.received) == 2


def test_store_to_a_peer_that_takes_nothing_of_it_is_told_for_each(files: Files) -> None:
    # The instances are to blame and not the peer.
    with Pacs(classes=(VERIFICATION,)).serving() as port:
        verdicts = store(port, [files.make(ODD), files.make(ODD)])
    assert outcomes(verdicts) == [Outcome.REFUSED, Outcome.REFUSED]


BROKEN: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("empty", lambda _content: b""),
    ("no preamble", lambda content: content[132:]),
    ("cut in the meta header", lambda content: content[:200]),
    ("text", lambda _content: b"x" * 5000),
    ("no data set", lambda content: content[: -len(ODD)]),
]


@pytest.mark.parametrize("spoil", [change for _, change in BROKEN], ids=[name for name, _ in BROKEN])
def test_store_of_a_broken_file_is_told_and_the_rest_is_sent(
    files: Files, spoil: Callable[[bytes], bytes]
) -> None:
    broken, whole = files.make(ODD), files.make(ODD)
    pacs = Pacs()
    with pacs.serving() as port:
        content = spoil(broken.content.read())
        spoilt = replace(broken, content=BytesIO(content), size=len(content))
        first, second = store(port, [spoilt, whole])
    assert first.outcome is Outcome.REFUSED
    assert first.reason.startswith("the file cannot be sent")
    assert second.outcome is Outcome.DELIVERED
    assert pacs.received == [ODD]


def test_store_without_an_answer_is_an_unknown_outcome(files: Files) -> None:
    pacs = Pacs(silent=threading.Event())
    with pacs.serving() as port:
        (verdict,) = store(port, [files.make(ODD), files.make(ODD)], timeout=SILENCE)
    assert verdict == of_loss(Loss.TIMED_OUT, "it sent no data, or almost none, for 2 s")


def _connection(event: evt.Event) -> socket.socket:
    connection = event.assoc.dul.socket
    assert connection is not None
    assert connection.socket is not None
    return connection.socket


def _abort(event: evt.Event) -> None:
    _connection(event).sendall(b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00")


def _aborting(event: evt.Event) -> int:
    _abort(event)
    return 0


def _hang_up(event: evt.Event) -> None:
    _connection(event).shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("end", [_abort, _hang_up])
def test_store_broken_off_in_the_data_set_is_an_unknown_outcome(
    files: Files, end: Callable[[evt.Event], None]
) -> None:
    content = ODD + bytes(2_000_000)
    seen = 0
    ended = threading.Event()

    def on_data(event: evt.Event) -> None:
        nonlocal seen
        seen += len(event.data)
        # The first file has come whole and is answered; the second is under way.
        if seen > 2_500_000 and not ended.is_set():
            ended.set()
            end(event)

    pacs = Pacs()
    with pacs.serving((evt.EVT_DATA_RECV, on_data)) as port:
        verdicts = store(port, [files.make(content) for _ in range(3)])
    # The third is not sent: the association has ended.
    assert outcomes(verdicts) == [Outcome.DELIVERED, Outcome.UNKNOWN]
    # Whether the second arrived nobody can tell from here, which is what an unknown outcome says.
    assert pacs.received in ([content], [content, content])


def accept() -> bytes:
    """Return an A-ASSOCIATE-AC that accepts context 1 in Explicit VR Little Endian."""
    syntax = ExplicitVRLittleEndian.encode()
    context = b"\x40\x00" + len(syntax).to_bytes(2, "big") + syntax
    items = b"\x21\x00" + (len(context) + 4).to_bytes(2, "big") + b"\x01\x00\x00\x00" + context
    items += b"\x50\x00\x00\x08\x51\x00\x00\x04\x00\x00\x40\x00"
    body = b"\x00\x01" + bytes(66) + items
    return b"\x02\x00" + len(body).to_bytes(4, "big") + body


def data(*values: tuple[int, bytes]) -> bytes:
    """Return a P-DATA-TF of presentation data values: control header and bytes."""
    body = b"".join((len(value) + 2).to_bytes(4, "big") + bytes([1, kind]) + value for kind, value in values)
    return b"\x04\x00" + len(body).to_bytes(4, "big") + body


def answer(
    field: int = 0x8001, message: int = 2, status: bytes = b"\x00\x00", has_data: int = 0x0101
) -> bytes:
    """Return the command set of an answer to C-STORE."""
    parts = [
        (0x0100, field.to_bytes(2, "little")),
        (0x0120, message.to_bytes(2, "little")),
        (0x0800, has_data.to_bytes(2, "little")),
        (0x0900, status),
    ]
    return b"".join(
        b"\x00\x00" + element.to_bytes(2, "little") + len(value).to_bytes(4, "little") + value
        for element, value in parts
    )


GARBLED = {
    "no DICOM": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a PDU of another kind": b"\x02\x00\x00\x00\x00\x00",
    "a PDU of four gigabytes": b"\x04\x00\xff\xff\xff\xff",
    "a value longer than its PDU": b"\x04\x00\x00\x00\x00\x06\x00\x00\xff\xff\x01\x03",
    "a value without a length": b"\x04\x00\x00\x00\x00\x02\x00\x00",
    "a data set alone": data((2, b"\x08\x00")),
    "a command cut off": data((3, answer()[:-1])),
    "a command of seven bytes": data((3, b"\x00" * 7)),
    "an answer to another message": data((3, answer(message=77))),
    "an answer to C-ECHO": data((3, answer(field=0x8030))),
    "no status": data((3, answer(status=b""))),
    "a command for a data set": data((3, answer(has_data=0)), (3, answer())),
    "no end": data(*[(1, bytes(100_000))] * 20) * 20,
}


@pytest.mark.parametrize("said", GARBLED.values(), ids=GARBLED.keys())
def test_answer_that_breaks_the_protocol_is_an_unknown_outcome(files: Files, said: bytes) -> None:
    with raw_server(accept(), said, hold=True) as port:
        (verdict,) = store(port, [files.make(ODD), files.make(ODD)])
    assert verdict.outcome is Outcome.UNKNOWN
    assert verdict.reason.startswith("its answer breaks the protocol")


def test_answer_in_many_pieces_is_read(files: Files) -> None:
    whole = answer()
    said = data((1, whole[:5])) + data((1, whole[5:20]), (3, whole[20:]))
    with raw_server(accept(), said, hold=True) as port:
        (verdict,) = store(port, [files.make(ODD)], timeout=SILENCE)
    assert verdict == of_status(0)


def test_peer_that_asks_to_end_the_association_instead_of_answering_is_an_unknown_outcome(
    files: Files,
) -> None:
    with raw_server(accept(), b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00", hold=True) as port:
        (verdict,) = store(port, [files.make(ODD)])
    assert verdict == of_loss(Loss.CLOSED, "it asked to end the association")


@pytest.mark.parametrize("source", [0, 2])
def test_abort_instead_of_an_answer_tells_whose_it_is(files: Files, source: int) -> None:
    said = b"\x07\x00\x00\x00\x00\x04\x00\x00" + bytes([source, 1])
    with raw_server(accept(), said, hold=True) as port:
        (verdict,) = store(port, [files.make(ODD)])
    assert verdict.outcome is Outcome.UNKNOWN
    assert f"A-ABORT source {source}, reason 1" in verdict.reason


def test_context_that_is_not_answered_is_tried_again(files: Files) -> None:
    with raw_server(accept(), b"", hold=True) as port:
        sent = [files.make(ODD, sop_class="1.2"), files.make(ODD, sop_class="1.3")]
        verdicts = store(port, list(reversed(sent)), timeout=SILENCE)
    assert verdicts[0].outcome is Outcome.RETRY
    assert "not answered" in verdicts[0].reason


def test_store_that_nobody_reads_to_the_end_ends_the_association(files: Files) -> None:
    pacs = Pacs()
    with pacs.serving() as port:
        with suppress(KeyError), peer(port).storing([(CT, ExplicitVRLittleEndian)]) as association:
            association.store(files.make(ODD))
            raise KeyError
        pacs.wait_for_the_end()
    assert len(pacs.received) == 1
    assert (pacs.releases, pacs.aborts) == (0, 1)


# C-FIND

TWO_SERIES = {"1.2.3.1": ["1.2.3.1.1", "1.2.3.1.2"], "1.2.3.2": ["1.2.3.2.1"]}
ALL = {"1.2.3.1.1", "1.2.3.1.2", "1.2.3.2.1"}


@pytest.mark.parametrize(("counted", "expected"), [(3, 3), (None, None), ("", None), (0, None)])
def test_studies_tell_their_counts_where_the_peer_counts(counted: object, expected: int | None) -> None:
    with Pacs(series=TWO_SERIES, counted=counted).serving() as port:
        found = StudyList({STUDY: ListedStudy(expected)})
        assert peer(port).studies() == found
        assert peer(port).studies(STUDY) == found
        assert peer(port).studies(StudyInstanceUid("9.9")) == StudyList({})


@pytest.mark.parametrize("counted", [3, 2, None])
def test_instances_are_listed_series_by_series_over_one_association(counted: int | None) -> None:
    pacs = Pacs(series=TWO_SERIES, counted=counted)
    with pacs.serving() as port:
        assert peer(port).instances(STUDY) == ALL
        pacs.wait_for_the_end()
    assert (len(pacs.callers), pacs.releases) == (1, 1)


def test_instances_of_a_peer_that_caps_its_answers_prove_nothing() -> None:
    with (
        Pacs(series=TWO_SERIES, counted=3, cap=1).serving() as port,
        pytest.raises(CappedError, match="counts 3 images in a study and lists 1") as caught,
    ):
        peer(port).instances(STUDY)
    assert "limit" in caught.value.hint


@pytest.mark.parametrize(
    ("counted", "words"), [(3, "counts 3 images"), (0, "does not count"), (None, "does not")]
)
def test_study_that_is_listed_without_an_image_is_no_empty_study(counted: int | None, words: str) -> None:
    with Pacs(counted=counted).serving() as port:
        with pytest.raises(NoImagesError, match=f"it lists a study, {words}.* and lists no image") as caught:
            peer(port).images(STUDY)
        assert caught.value.counted == (counted or None)
        assert "limit" not in caught.value.hint
        assert peer(port).images(StudyInstanceUid("9.9")) == set()
        if counted:
            with pytest.raises(NoImagesError):
                peer(port).instances(STUDY)
        else:
            assert peer(port).instances(STUDY) == set(), "a destination is given what it does not list"


def test_uid_in_two_series_is_listed_in_both() -> None:
    with Pacs(series={"1.2.3.1": ["1.2.3.1.1"], "1.2.3.2": ["1.2.3.1.1"]}, counted=2).serving() as port:
        assert peer(port).images(STUDY) == {("1.2.3.1", "1.2.3.1.1"), ("1.2.3.2", "1.2.3.1.1")}
        assert peer(port).instances(STUDY) == {"1.2.3.1.1"}


@pytest.mark.parametrize("status", [0xA700, 0xA900, 0xC001, 0xFE00, 0x0122])
def test_find_that_ends_in_a_failure_proves_nothing(status: int) -> None:
    pacs = Pacs(series=TWO_SERIES, counted=3, find_status=status)
    with pacs.serving() as port:
        for ask in (lambda: peer(port).studies(STUDY), lambda: peer(port).images(STUDY)):
            with pytest.raises(HolderUnavailableError, match=f"0x{status:04X}"):
                ask()
        found = peer(port).studies()
    assert found.studies == {STUDY: ListedStudy(3)}
    assert found.cut == (
        f"it ended after 1 study, it answered C-FIND with status 0x{status:04X}; "
        "asked by date it lists 1 and ends early again"
    )


def test_rejection_for_now_is_busy_and_one_for_good_is_a_refusal() -> None:
    for result, error in ((1, RejectedError), (2, BusyError)):
        answer = b"\x03\x00\x00\x00\x00\x04\x00" + bytes([result, 3, 2])
        with raw_server(answer, hold=True) as port, pytest.raises(error):
            peer(port).echo()


def test_question_is_asked_again_where_the_peer_has_no_association_free_for_a_moment() -> None:
    pacs = Pacs(series=TWO_SERIES, counted=3)
    left = [2]

    def reject(event: evt.Event) -> None:
        if left[0]:
            left[0] -= 1
            _connection(event).sendall(b"\x03\x00\x00\x00\x00\x04\x00\x02\x03\x02")
            event.assoc.is_rejected = True

    with pacs.serving((evt.EVT_REQUESTED, reject)) as port:
        assert peer(port).studies() == StudyList({STUDY: ListedStudy(3)})
        left[0] = 1
        with pytest.raises(BusyError), peer(port).storing([(CT, ExplicitVRLittleEndian)]):
            pass
    assert len(pacs.callers) == 4


def test_echo_that_ends_in_an_abort_is_no_answer() -> None:
    with (
        Pacs().serving((evt.EVT_C_ECHO, _aborting)) as port,
        pytest.raises(HolderUnavailableError, match="it aborted") as caught,
    ):
        peer(port).echo()
    assert not isinstance(caught.value, UnansweredError)


def test_answers_to_our_own_work_are_heard_and_those_to_the_probes_echo_are_not(files: Files) -> None:
    ours = Pacs()
    with ours.serving() as here:
        pacs = Pacs(series=TWO_SERIES, move_port=here, moved=[to_move(1)])
        with pacs.serving() as port:
            one = peer(port)
            heard = [one.heard]
            with one.storing([(CT, ExplicitVRLittleEndian)]) as association:
                for act in (
                    one.echo,
                    one.studies,
                    lambda: one.move(STUDY, "STANDBY"),
                    lambda: association.store(files.make(ODD)),
                ):
                    act()
                    heard.append(one.heard)
    assert heard[0] == heard[1] < heard[2] < heard[3] < heard[4]


@pytest.mark.parametrize("keyword", ["SeriesInstanceUID", "SOPInstanceUID"])
def test_answer_without_its_unique_key_proves_nothing(keyword: str) -> None:
    pacs = Pacs(series=TWO_SERIES, without=(keyword,))
    with pacs.serving() as port, pytest.raises(HolderUnavailableError, match=f"without {keyword}"):
        peer(port).instances(STUDY)


def test_find_without_an_answer_is_given_up_after_the_timeout() -> None:
    pacs = Pacs(silent=threading.Event())
    with (
        pacs.serving() as port,
        pytest.raises(HolderUnavailableError, match=r"C-FIND: no answer in time \(.* for 2 s\)"),
    ):
        peer(port, timeout=SILENCE).studies()


def test_find_with_a_failure_in_the_middle_does_not_wait_for_the_rest() -> None:
    # Many answers under way: a release would have to wait behind them, and behind a peer that never ends.
    pacs = Pacs(series={f"1.2.3.{number}": [] for number in range(1, 300)}, without=("SeriesInstanceUID",))
    with pacs.serving() as port:
        with pytest.raises(HolderUnavailableError, match="without SeriesInstanceUID"):
            peer(port).instances(STUDY)
        pacs.wait_for_the_end()


@contextmanager
def endless(pause: float = 0.0, *, same: bool = False, moves: bool = False) -> Iterator[int]:
    """Listen and answer any question with studies until the caller hangs up, `pause` seconds apart."""
    moving = data((3, answer(field=0x8021, message=1, status=b"\x00\xff")))
    done = threading.Event()
    pending = data((3, answer(field=0x8020, message=1, status=b"\x00\xff", has_data=1)))

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            for said in (accept(), b""):
                head = self.request.recv(6, socket.MSG_WAITALL)
                self.request.recv(int.from_bytes(head[2:6], "big"), socket.MSG_WAITALL)
                self.request.sendall(said)
            with suppress(OSError):
                for number in itertools.count(1):
                    uid = f"1.2.3.{1 if same else number}".encode()
                    uid += bytes(len(uid) % 2)
                    study = bytes.fromhex("2000 0d00 5549") + len(uid).to_bytes(2, "little") + uid
                    self.request.sendall(moving if moves else pending + data((2, study)))
                    done.wait(pause)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            done.set()
            server.shutdown()
            thread.join(DEADLINE)


@pytest.mark.parametrize("same", [False, True], ids=["other studies", "one study"])
def test_list_of_studies_without_an_end_is_no_list(monkeypatch: pytest.MonkeyPatch, same: bool) -> None:
    monkeypatch.setattr("understudy.adapters.dicom._MOST_STUDIES", 500)
    with (
        endless(same=same) as port,
        pytest.raises(UnansweredError, match="500 answers to C-FIND, and no end"),
    ):
        peer(port).studies()


def test_list_of_one_study_without_an_end_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.adapters.dicom._MOST_OF_STUDY", 50)
    with endless() as port, pytest.raises(UnansweredError, match="50 answers to C-FIND, and no end"):
        peer(port).studies(STUDY)
    with endless() as port, pytest.raises(UnansweredError, match="50 answers to C-FIND, and no end"):
        peer(port).images(STUDY)


def test_move_without_an_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.adapters.dicom._MOST_OF_STUDY", 50)
    with (
        endless(moves=True) as port,
        pytest.raises(UnansweredError, match="50 answers to C-MOVE, and no end"),
    ):
        peer(port).move(STUDY, "STANDBY")


def test_answers_that_drip_are_given_up_although_none_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.adapters.dicom.ANSWER", 1)
    with (
        endless(pause=0.5) as port,
        pytest.raises(HolderUnavailableError, match=r"no answer in time \(its answers come too slowly"),
    ):
        peer(port, timeout=SILENCE).studies()


# C-MOVE


def to_move(number: int) -> Dataset:
    one = Dataset()
    one.SOPClassUID, one.SOPInstanceUID = UID(CT), UID(f"1.2.3.1.{number}")
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return one


def test_move_tells_its_end_and_the_numbers() -> None:
    ours = Pacs(statuses=[0x0000, 0xA700])
    with ours.serving() as here, Pacs(move_port=here, moved=[to_move(1), to_move(2)]).serving() as port:
        result = peer(port).move(STUDY, "STANDBY")
    assert (result.status, result.completed, result.failed) == (0xB000, 1, 1)
    assert len(ours.received) == 2


def test_move_by_instance_adds_up_the_results() -> None:
    ours = Pacs()
    with ours.serving() as here:
        pacs = Pacs(series=TWO_SERIES, move_port=here, moved=[to_move(1)])
        with pacs.serving() as port:
            wanted = [
                (SeriesInstanceUid(series), SopInstanceUid(uids[0])) for series, uids in TWO_SERIES.items()
            ]
            result = peer(port).move_instances(STUDY, wanted, "STANDBY")
    assert (result.status, result.completed, result.failed) == (0, 2, 0)


def test_move_to_a_destination_that_the_peer_does_not_know_is_told() -> None:
    with Pacs().serving() as port:
        assert peer(port).move(STUDY, "NOBODY").status == 0xA801


def test_move_without_an_answer_is_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.adapters.dicom._MOVE_PATIENCE", 1.5)
    pacs = Pacs(silent=threading.Event())
    with (
        pacs.serving() as port,
        pytest.raises(HolderUnavailableError, match=r"C-MOVE: no answer in time .* for 3 s"),
    ):
        peer(port, timeout=SILENCE).move(STUDY, "STANDBY")
