"""A body that arrives steadily is read however long that takes; one that stops, or drips, is given up."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import pytest
from understudy.adapters.dicomweb import DicomWebServer
from understudy.adapters.healing import GetSource
from understudy.core.model import Instance, InstanceNumber
from understudy.core.ports import HolderUnavailableError, InstanceSource

from tests.unit.fakes import new_instance

PATIENCE = 2.0
"""Seconds of silence after which the source gives up."""
HEAD = b"\0" * 128 + b"DICM" + b"\2\0\0\0UL\4\0\0\0\0\0"
DATA = bytes(range(256)) * 16


@dataclass(frozen=True)
class Pace:
    """How the body is sent: so many bytes at a time, with a pause between, and how many in all."""

    piece: int
    pause: float
    most: int = 10**9

    def send(self, connection: socket.socket, content: bytes, ended: threading.Event) -> None:
        for start in range(0, min(len(content), self.most), self.piece):
            connection.sendall(content[start : start + self.piece])
            ended.wait(self.pause)
        if self.most < len(content):
            ended.wait(10)


STEADY = Pace(128, 0.14)
"""For more than twice the patience in all."""


def instance() -> Instance:
    values = {name: getattr(new_instance(1), name) for name in new_instance(1).__dataclass_fields__}
    return Instance(**values, number=InstanceNumber(1))


class Server:
    """Serves one connection, and tells how it was done."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.ended = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        with closing(connection):
            try:
                self.answer(connection)
            except OSError:
                # Whoever asked has given up.
                return

    def answer(self, connection: socket.socket) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.ended.set()
        self._thread.join(5)
        self._listening.close()


class Web(Server):
    """A DICOMweb server that answers WADO-RS."""

    def answer(self, connection: socket.socket) -> None:
        asked = b""
        while b"\r\n\r\n" not in asked:
            asked += connection.recv(4096)
        body = b"--x\r\nContent-Type: application/dicom\r\n\r\n" + HEAD + DATA + b"\r\n--x--\r\n"
        head = f"HTTP/1.1 200 OK\r\nContent-Type: multipart/related\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode())
        self.pace.send(connection, body, self.ended)

    def source(self) -> InstanceSource:
        return DicomWebServer("archive", f"http://127.0.0.1:{self.port}", timeout=PATIENCE)


class Dicom(Server):
    """A peer that answers C-GET: it stores over the association of the request (DICOM PS3.4 C.4.3)."""

    def answer(self, connection: socket.socket) -> None:
        kind, request = read(connection)
        assert kind == 1
        assert b"\x54" in request, "a role is proposed"
        accepted = b"".join(
            item(0x21, bytes([number, 0, 0, 0]) + item(0x40, b"1.2.840.10008.1.2.1")) for number in (1, 3)
        )
        titles = request[4:36].ljust(64, b"\0")
        body = (
            struct.pack(">Hxx", 1)
            + titles
            + item(0x10, b"1.2.840.10008.3.1.1.1")
            + accepted
            + item(0x50, b"")
        )
        connection.sendall(pdu(2, body))
        # The request comes as a command set and an identifier.
        for _ in range(2):
            read(connection)
        store = command({0x0002: b"1.2.840.10008.5.1.4.1.1.2\0", 0x1000: b"1.2.3.4.1\0"}, 0x0001, 0x0001)
        connection.sendall(values(3, store, 3))
        pieces = [DATA[start : start + 128] for start in range(0, len(DATA), 128)]
        data = b"".join(values(3, one, 2 if one is pieces[-1] else 0) for one in pieces)
        self.pace.send(connection, data, self.ended)
        read(connection)
        connection.sendall(values(1, command({}, 0x8010, 0x0101, responds=True), 3))
        read(connection)
        connection.sendall(pdu(6, bytes(4)))

    def source(self) -> InstanceSource:
        return GetSource(
            "archive",
            ae_title="ARCHIVE",
            host="127.0.0.1",
            port=self.port,
            calling_ae_title="STANDBY",
            timeout=PATIENCE,
        )


def read(connection: socket.socket) -> tuple[int, bytes]:
    """Return type and body of a PDU."""
    head = connection.recv(6, socket.MSG_WAITALL)
    if len(head) < 6:
        raise ConnectionError
    kind, length = struct.unpack(">BxI", head)
    return kind, connection.recv(length, socket.MSG_WAITALL)


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxI", kind, len(body)) + body


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def values(context: int, content: bytes, flags: int) -> bytes:
    return pdu(4, struct.pack(">IBB", len(content) + 2, context, flags) + content)


def command(elements: dict[int, bytes], field: int, data_set: int, *, responds: bool = False) -> bytes:
    """Return a command set of group 0000 (DICOM PS3.7 E.1)."""
    numbers = {0x0100: field, 0x0120 if responds else 0x0110: 1, 0x0800: data_set}
    if responds:
        numbers[0x0900] = 0
    all_of_them = {**elements, **{tag: struct.pack("<H", number) for tag, number in numbers.items()}}
    body = b"".join(
        struct.pack("<HHI", 0, tag, len(value)) + value for tag, value in sorted(all_of_them.items())
    )
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


@contextmanager
def serving(kind: type[Web] | type[Dicom], pace: Pace) -> Iterator[InstanceSource]:
    server = kind(pace)
    try:
        yield server.source()
    finally:
        server.close()


@pytest.fixture(params=[Web, Dicom], ids=["WADO-RS", "C-GET"])
def kind(request: pytest.FixtureRequest) -> type[Web] | type[Dicom]:
    found: type[Web] | type[Dicom] = request.param
    return found


def test_body_that_arrives_steadily_is_read_back_however_long_it_takes(
    kind: type[Web] | type[Dicom],
) -> None:
    with serving(kind, STEADY) as source:
        began = time.monotonic()
        assert source.fetch(instance()) == DATA
        assert time.monotonic() - began > 2 * PATIENCE


def test_body_that_stops_is_given_up_after_the_silence(kind: type[Web] | type[Dicom]) -> None:
    with serving(kind, Pace(512, 0.0, most=2000)) as source:
        began = time.monotonic()
        with pytest.raises(HolderUnavailableError, match="no answer in time"):
            source.fetch(instance())
        assert time.monotonic() - began >= PATIENCE


def test_body_that_drips_is_given_up_although_it_is_never_silent(kind: type[Web] | type[Dicom]) -> None:
    drip = Pace(1, 0.02)
    with serving(kind, drip) as source, pytest.raises(HolderUnavailableError, match="no answer in time"):
        source.fetch(instance())
