"""The DICOM adapter against real SCPs in threads: every answer that a PACS can give, and none."""

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomFileLike
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit
from pynetdicom import AE, build_context, evt
from understudy.adapters.dicom import DicomPeer
from understudy.core.model import SopInstanceUid, StudyInstanceUid
from understudy.core.ports import FileToSend, HolderUnavailableError

# pynetdicom drops the socket of a connection that failed without closing it; CPython closes it then.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
VERIFICATION = "1.2.840.10008.1.1"
FIND, MOVE = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.2"
STUDY = StudyInstanceUid("1.2.3")
ODD = bytes.fromhex("0800 0500 4353 0a00") + b"ISO_IR 100" + bytes.fromhex("0900 1000 4c4f 0400") + b"ODD\x00"
"""A data set as a peer might have written it; its private element has no owner that we could know."""
DEADLINE = 30.0


def peer(port: int, *, timeout: float = 5.0, host: str = "127.0.0.1") -> DicomPeer:
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
def raw_server(answer: bytes, *, hold: bool) -> Iterator[int]:
    """Listen without pynetdicom: read one PDU, send the bytes, and hold the line or close it."""
    done = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            head = self.request.recv(6, socket.MSG_WAITALL)
            self.request.recv(int.from_bytes(head[2:6], "big"), socket.MSG_WAITALL)
            if answer:
                self.request.sendall(answer)
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
    """Writes Part 10 files whose data set is any bytes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(
        self, content: bytes, *, sop_class: str = CT, syntax: str = ExplicitVRLittleEndian
    ) -> FileToSend:
        number = len(list(self._folder.iterdir()))
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = UID(sop_class)
        meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.4.{number}")
        meta.TransferSyntaxUID = UID(syntax)
        path = self._folder / f"{number}"
        with path.open("wb") as file:
            file.write(bytes(128) + b"DICM")
            write_file_meta_info(DicomFileLike(file), meta, enforce_standard=False)
            file.write(content)
        return self.to_send(path, sop_class, syntax)

    def to_send(self, path: Path, sop_class: str = CT, syntax: str = ExplicitVRLittleEndian) -> FileToSend:
        return FileToSend(str(path), sop_class, syntax)  # PATH

    def missing(self) -> FileToSend:
        return self.to_send(self._folder / "missing")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "files").mkdir()
    return Files(tmp_path / "files")


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
    with pacs.serving() as port, pytest.raises(HolderUnavailableError, match=r"within 0\.3 s"):
        peer(port, timeout=0.3).echo()


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
    assert "it rejects our association" in caught.value.reason
    assert ("Permanent" if result == 1 else "Transient") in caught.value.reason
    assert ("User" if source == 1 else "Provider") in caught.value.reason
    if (source, reason) == (1, 3):
        assert "Calling AE title not recognised" in caught.value.reason
    if (source, reason) == (1, 7):
        assert "Called AE title not recognised" in caught.value.reason
    assert "AE title" in caught.value.hint


def test_peer_that_accepts_the_association_and_no_context_is_told() -> None:
    with Pacs(classes=(CT,)).serving() as port:
        for ask in (peer(port).echo, peer(port).studies, lambda: peer(port).move(STUDY, "STANDBY")):
            with pytest.raises(HolderUnavailableError, match="none of our presentation contexts"):
                ask()


# C-STORE


def test_store_sends_the_data_set_byte_for_byte(files: Files) -> None:
    contents = [ODD, ODD + bytes(range(256)) * 1024, b"", ODD * 3]
    syntaxes = [ExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGBaseline8Bit]
    pacs = Pacs()
    with pacs.serving() as port:
        sent = [files.write(content, syntax=s) for content, s in zip(contents, syntaxes, strict=True)]
        assert list(peer(port).store(sent)) == [0, 0, 0, 0]
        pacs.wait_for_the_end()
    assert pacs.received == contents
    assert (len(pacs.callers), pacs.releases, pacs.aborts) == (1, 1, 0)


def test_store_gives_every_status_as_it_came(files: Files) -> None:
    statuses = [0x0000, 0xA700, 0xC000, 0xB000, 0x0111, 0x0122, 0x0124, 0xA900, 0xB007, 0x1234, 0x0000]
    with Pacs(statuses=list(statuses)).serving() as port:
        assert list(peer(port).store([files.write(ODD) for _ in statuses])) == statuses


def test_store_of_what_the_peer_does_not_take_is_told_and_the_rest_is_sent(files: Files) -> None:
    pacs = Pacs(classes=(CT,), syntaxes=(ExplicitVRLittleEndian,))
    sent = [
        files.write(ODD, sop_class=MR),
        files.write(ODD),
        files.write(ODD, syntax=JPEGBaseline8Bit),
        files.write(ODD),
    ]
    with pacs.serving() as port:
        first, second, third, fourth = peer(port).store(sent)
    assert (second, fourth) == (0, 0)
    assert MR in str(first)
    assert JPEGBaseline8Bit in str(third)
    assert len(pacs.received) == 2


def test_store_to_a_peer_that_takes_nothing_of_it_is_told_for_each(files: Files) -> None:
    # pynetdicom aborts such an association; the instances are to blame and not the peer.
    with Pacs(classes=(VERIFICATION,)).serving() as port:
        answers = list(peer(port).store([files.write(ODD), files.write(ODD)]))
    assert len(answers) == 2
    assert all("no presentation context was accepted" in str(answer) for answer in answers)


BROKEN: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("empty", lambda _content: b""),
    ("no preamble", lambda content: content[132:]),
    ("cut in the meta header", lambda content: content[:200]),
    ("no meta header", lambda content: content[:132] + ODD),
    ("text", lambda _content: b"x" * 5000),
]


@pytest.mark.parametrize("spoil", [change for _, change in BROKEN], ids=[name for name, _ in BROKEN])
def test_store_of_a_broken_file_is_told_and_the_rest_is_sent(
    files: Files, spoil: Callable[[bytes], bytes]
) -> None:
    broken, whole = files.write(ODD), files.write(ODD)
    path = Path(broken.path)
    path.write_bytes(spoil(path.read_bytes()))
    pacs = Pacs()
    with pacs.serving() as port:
        first, second = peer(port).store([broken, whole])
    assert str(first).startswith("the file cannot be sent")
    assert second == 0
    assert pacs.received == [ODD]


def test_store_of_a_file_that_went_away_is_an_unknown_outcome(files: Files) -> None:
    with Pacs().serving() as port:
        answers = peer(port).store([files.missing(), files.write(ODD)])
        assert next(answers) is None
        with pytest.raises(HolderUnavailableError, match="ended the association"):
            next(answers)


def test_store_without_an_answer_is_an_unknown_outcome(files: Files) -> None:
    pacs = Pacs(silent=threading.Event())
    with pacs.serving() as port:
        answers = peer(port, timeout=0.3).store([files.write(ODD), files.write(ODD)])
        assert next(answers) is None
        with pytest.raises(HolderUnavailableError, match="ended the association"):
            next(answers)


def _connection(event: evt.Event) -> socket.socket:
    connection = event.assoc.dul.socket
    assert connection is not None
    assert connection.socket is not None
    return connection.socket


def _abort(event: evt.Event) -> None:
    _connection(event).sendall(b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00")


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
        sent = [files.write(content) for _ in range(3)]
        answers = peer(port, timeout=3).store(sent)
        assert next(answers) == 0
        assert next(answers) is None
        with pytest.raises(HolderUnavailableError, match="ended the association"):
            next(answers)
    # Whether the second arrived nobody can tell from here, which is what an unknown outcome says.
    assert pacs.received in ([content], [content, content])


def test_store_that_nobody_reads_to_the_end_releases_the_association(files: Files) -> None:
    pacs = Pacs()
    with pacs.serving() as port:
        answers = peer(port).store([files.write(ODD), files.write(ODD)])
        assert next(answers) == 0
        answers.close()  # type: ignore[attr-defined]
        pacs.wait_for_the_end()
    assert len(pacs.received) == 1
    assert pacs.releases + pacs.aborts == 1


# C-FIND

TWO_SERIES = {"1.2.3.1": ["1.2.3.1.1", "1.2.3.1.2"], "1.2.3.2": ["1.2.3.2.1"]}
ALL = {"1.2.3.1.1", "1.2.3.1.2", "1.2.3.2.1"}


@pytest.mark.parametrize(("counted", "expected"), [(3, 3), (None, None), ("", None), (0, 0)])
def test_studies_tell_their_counts_where_the_peer_counts(counted: object, expected: int | None) -> None:
    with Pacs(series=TWO_SERIES, counted=counted).serving() as port:
        assert peer(port).studies() == {STUDY: expected}
        assert peer(port).studies(STUDY) == {STUDY: expected}
        assert peer(port).studies(StudyInstanceUid("9.9")) == {}


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
        pytest.raises(HolderUnavailableError, match="counts 3 instances in a study and lists 1") as caught,
    ):
        peer(port).instances(STUDY)
    assert "limit" in caught.value.hint


@pytest.mark.parametrize("status", [0xA700, 0xA900, 0xC001, 0xFE00, 0x0122])
def test_find_that_ends_in_a_failure_proves_nothing(status: int) -> None:
    pacs = Pacs(series=TWO_SERIES, counted=3, find_status=status)
    with pacs.serving() as port:
        for ask in (peer(port).studies, lambda: peer(port).instances(STUDY)):
            with pytest.raises(HolderUnavailableError, match=f"0x{status:04X}"):
                ask()


@pytest.mark.parametrize("keyword", ["SeriesInstanceUID", "SOPInstanceUID"])
def test_answer_without_its_unique_key_proves_nothing(keyword: str) -> None:
    pacs = Pacs(series=TWO_SERIES, without=(keyword,))
    with pacs.serving() as port, pytest.raises(HolderUnavailableError, match=f"without {keyword}"):
        peer(port).instances(STUDY)


def test_find_without_an_answer_is_given_up_after_the_timeout() -> None:
    pacs = Pacs(silent=threading.Event())
    with pacs.serving() as port, pytest.raises(HolderUnavailableError, match="did not answer C-FIND"):
        peer(port, timeout=0.3).studies()


def test_find_with_a_failure_in_the_middle_does_not_wait_for_the_rest() -> None:
    # Many answers under way: a release would have to wait behind them, and behind a peer that never ends.
    pacs = Pacs(series={f"1.2.3.{number}": [] for number in range(1, 300)}, without=("SeriesInstanceUID",))
    with pacs.serving() as port:
        with pytest.raises(HolderUnavailableError, match="without SeriesInstanceUID"):
            peer(port).instances(STUDY)
        pacs.wait_for_the_end()


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
            wanted = [SopInstanceUid("1.2.3.1.1"), SopInstanceUid("1.2.3.2.1"), SopInstanceUid("9.9")]
            result = peer(port).move_instances(STUDY, wanted, "STANDBY")
    # The one that the peer does not list is not asked for.
    assert (result.status, result.completed, result.failed) == (0, 2, 0)


def test_move_to_a_destination_that_the_peer_does_not_know_is_told() -> None:
    with Pacs().serving() as port:
        assert peer(port).move(STUDY, "NOBODY").status == 0xA801


def test_move_without_an_answer_is_given_up_in_the_end() -> None:
    pacs = Pacs(silent=threading.Event())
    with (
        pacs.serving() as port,
        pytest.raises(HolderUnavailableError, match="stopped answering during C-MOVE"),
    ):
        peer(port, timeout=0.05).move(STUDY, "STANDBY")
