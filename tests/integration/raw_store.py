"""Sends a data set by C-STORE as it is: a library would refuse to write most of what is sent here."""

import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.hostile import Hostile, element, good

CONTEXT = 1
_PDU_BYTES = 16_000


@dataclass(frozen=True, slots=True)
class Answer:
    """What a C-STORE was answered with, in words, and the DIMSE status where there was one."""

    text: str
    status: int | None = None


def store(address: tuple[str, int], item: Hostile, *, patience: float, calling: str = "HOSTILE") -> Answer:
    """Open an association, send the data set and return the answer that came within `patience` seconds."""
    return send(address, item, [_message(item)], patience=patience, calling=calling)


def store_good(address: tuple[str, int], seed: str, size: int = 0, *, patience: float = 20) -> Hostile:
    """Store a valid image with so many bytes more, which has to succeed."""
    item = good(seed, size)
    answer = store(address, item, patience=patience)
    assert answer.status == 0, answer
    return item


def store_large(
    address: tuple[str, int], item: Hostile, size: int, *, patience: float, calling: str = "HOSTILE"
) -> Answer:
    """Store the image made larger by so many bytes, none of which is in memory for longer than it is sent."""
    return send(address, item, _large(item, size), patience=patience, calling=calling)


def _large(item: Hostile, size: int) -> Iterator[bytes]:
    yield request(item)
    yield from large_pieces(item, size)
    yield fragment(2, bytes(size % _PDU_BYTES))


def large_pieces(item: Hostile, size: int, claim: int = 0) -> Iterator[bytes]:
    """Yield the PDUs of the image made larger by so many bytes, without the last of them.

    It may claim to become larger than that.
    """
    block = bytes(_PDU_BYTES)
    yield fragment(0, item.data_set)
    # A private element behind the pixels: it is the last one.
    yield fragment(
        0, element(0x7FE10010, "LO", b"UNDERSTUDY") + element(0x7FE11001, "OB", b"", claim or size)
    )
    for _ in range(size // len(block)):
        yield fragment(0, block)


def send(
    address: tuple[str, int], item: Hostile, pdus: Iterable[bytes], *, patience: float, calling: str
) -> Answer:
    """Open an association, send the PDUs and return the answer that came within `patience` seconds."""
    try:
        with opened(address, item, calling=calling, patience=patience) as connection:
            for pdu in pdus:
                connection.sendall(pdu)
            given = answer(connection)
            if given.status is not None:
                connection.sendall(struct.pack(">BBII", 5, 0, 4, 0))
            return given
    except NotAcceptedError as refused:
        return Answer(str(refused))
    except TimeoutError:
        return Answer("no answer")
    except OSError as error:
        return Answer(f"connection lost ({type(error).__name__})")


class NotAcceptedError(Exception):
    """The association, or its one presentation context, was refused."""


def opened(address: tuple[str, int], item: Hostile, *, calling: str, patience: float = 10) -> socket.socket:
    """Return the connection of an accepted association. Raises OSError and NotAcceptedError."""
    connection = socket.create_connection(address, 5)
    try:
        connection.settimeout(patience)
        connection.sendall(associate_request(item, calling))
        kind, body = _pdu(connection)
        if kind != 2:
            raise NotAcceptedError(f"association refused (PDU {kind}, {body[1:4].hex()})")
        if b"\x21\0\0\x04\x01\0\0" in body and body[body.index(b"\x21\0\0") + 6] != 0:
            raise NotAcceptedError("presentation context refused")
    except BaseException:
        connection.close()
        raise
    return connection


def answer(connection: socket.socket) -> Answer:
    """Return the answer that comes next. Raises OSError."""
    kind, body = _pdu(connection)
    if kind == 4:
        # Length of the PDV (4), context (1), control header (1), then the command set in Implicit VR.
        status = _element(body[6:], 0x0000, 0x0900)
        if status is not None:
            (number,) = struct.unpack("<H", status)
            return Answer(f"0x{number:04X}", number)
    return Answer({7: "association aborted"}.get(kind, f"PDU {kind} in place of an answer"))


def _element(command: bytes, group: int, number: int) -> bytes | None:
    position = 0
    while position + 8 <= len(command):
        tag = struct.unpack_from("<HH", command, position)
        (length,) = struct.unpack_from("<I", command, position + 4)
        if tag == (group, number):
            return command[position + 8 : position + 8 + length]
        position += 8 + length
    return None


def _pdu(connection: socket.socket) -> tuple[int, bytes]:
    head = _exactly(connection, 6)
    kind, _, length = struct.unpack(">BBI", head)
    return kind, _exactly(connection, length)


def _exactly(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        more = connection.recv(size - len(received))
        if not more:
            raise ConnectionResetError
        received += more
    return received


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def associate_request(item: Hostile, calling: str) -> bytes:
    """Return an A-ASSOCIATE-RQ with one presentation context (DICOM PS3.8 9.3.2)."""
    syntaxes = _item(0x30, item.sop_class.encode()) + _item(0x40, item.transfer_syntax.encode())
    items = (
        _item(0x10, b"1.2.840.10008.3.1.1.1")
        + _item(0x20, bytes([CONTEXT, 0, 0, 0]) + syntaxes)
        + _item(0x50, _item(0x51, struct.pack(">I", 65536)) + _item(0x52, b"2.25.1"))
    )
    names = b"UNDERSTUDY".ljust(16) + calling.encode().ljust(16)
    body = struct.pack(">HH", 1, 0) + names + bytes(32) + items
    return struct.pack(">BBI", 1, 0, len(body)) + body


def _message(item: Hostile) -> bytes:
    """Return the P-DATA-TF PDUs of C-STORE-RQ and data set (DICOM PS3.7 9.3.1, PS3.8 9.3.5)."""
    data_set = item.data_set
    pieces = [data_set[i : i + _PDU_BYTES] for i in range(0, len(data_set), _PDU_BYTES)] or [b""]
    pdus = [request(item)]
    pdus += [fragment(2 if number == len(pieces) else 0, piece) for number, piece in enumerate(pieces, 1)]
    return b"".join(pdus)


def request(item: Hostile) -> bytes:
    """Return the PDU of the C-STORE-RQ alone."""

    def command(element: int, value: bytes) -> bytes:
        value += b"\0" * (len(value) % 2)
        return struct.pack("<HHI", 0, element, len(value)) + value

    fields = (
        command(0x0002, item.sop_class.encode())
        + command(0x0100, struct.pack("<H", 1))
        + command(0x0110, struct.pack("<H", 1))
        + command(0x0700, struct.pack("<H", 0))
        + command(0x0800, struct.pack("<H", 1))
        + command(0x1000, item.uid.encode("latin-1"))
    )
    return fragment(3, command(0x0000, struct.pack("<I", len(fields))) + fields)


def fragment(control: int, content: bytes) -> bytes:
    """Return a P-DATA-TF PDU with one PDV; bit 0 of `control` says command, bit 1 that it is the last."""
    value = struct.pack(">IBB", len(content) + 2, CONTEXT, control) + content
    return struct.pack(">BBI", 4, 0, len(value)) + value
