"""Requests and answers over an association: the command sets of DICOM PS3.7."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO

from understudy.adapters.association import MAX_PART, Accepted, Association
from understudy.core.ports import Reads

# Elements of command sets (DICOM PS3.7 E.1).
SOP_CLASS, SOP_INSTANCE, DESTINATION, PRIORITY = 0x00000002, 0x00001000, 0x00000600, 0x00000700
COMPLETED, FAILED = 0x00001021, 0x00001022
REQUESTED_CLASS, REQUESTED_INSTANCE = 0x00000003, 0x00001001
ACTION, EVENT = 0x00001008, 0x00001002
_FIELD, _MESSAGE, _RESPONDED_TO = 0x00000100, 0x00000110, 0x00000120
_DATA_SET, _STATUS = 0x00000800, 0x00000900

STORE, GET, FIND, MOVE, ECHO = 0x0001, 0x0010, 0x0020, 0x0021, 0x0030
EVENT_REPORT, ACT = 0x0100, 0x0130
"""Command fields of requests."""
_RESPONSE = 0x8000
_HAS_DATA_SET, _HAS_NO_DATA_SET = 0x0001, 0x0101

SUCCESS = 0x0000
_PENDING = (0xFF00, 0xFF01)

Elements = Mapping[int, int | str]
"""Elements by tag: a number has VR US, a text AE or UI."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set that is sent in pieces; `length` is the number of bytes to read from `content`."""

    content: Reads
    length: int


@dataclass(frozen=True, slots=True)
class Message:
    """An answer or a request of the peer: the undecoded elements of its command set, and its data set.

    A request has no status; `status` is then SUCCESS.
    """

    elements: Mapping[int, bytes]
    status: int
    data: bytes = b""

    def number(self, tag: int) -> int | None:
        """Return an element of VR US, None if it is absent or has another length."""
        return _number(self.elements, tag)

    def text(self, tag: int) -> str:
        """Return an element of VR UI or AE without its padding, empty if it is absent."""
        return self.elements.get(tag, b"").rstrip(b"\0 ").decode("ascii", "replace")

    def answers(self, request: int, message: int) -> bool:
        """Return whether this is an answer to the request with this command field and message ID."""
        return self.number(_FIELD) == request | _RESPONSE and self.number(_RESPONDED_TO) == message

    def requests(self, request: int) -> bool:
        """Return whether this is a request with this command field."""
        return self.number(_FIELD) == request

    @property
    def is_pending(self) -> bool:
        """Whether more answers follow."""
        return self.status in _PENDING


def ask(
    association: Association,
    context: Accepted,
    request: int,
    elements: Elements,
    data: bytes | DataSet | None = None,
    *,
    message: int = 1,
    patience: float,
) -> Iterator[Message]:
    """Send a request and yield its answers up to the last; `patience` is as for `receive`.

    `message` is the message ID, 1 to 65535. Raises AssociationLostError, also if an answer has no status or
    belongs to another request.
    """
    send(association, context, request, elements, data, message=message)
    while True:
        answer = receive(association, patience)
        if not answer.answers(request, message):
            raise association.garbled("an answer to something else")
        yield answer
        if not answer.is_pending:
            return


def send(
    association: Association,
    context: Accepted,
    request: int,
    elements: Elements,
    data: bytes | DataSet | None = None,
    *,
    message: int = 1,
) -> None:
    """Send a request."""
    command = {**elements, _FIELD: request, _MESSAGE: message, _DATA_SET: _HAS_DATA_SET}
    if data is None:
        command[_DATA_SET] = _HAS_NO_DATA_SET
        association.send(context.identifier, _encoded(command))
        return
    if isinstance(data, bytes):
        data = DataSet(BytesIO(data), len(data))
    association.send(context.identifier, _encoded(command), data.content, data.length)


def respond(
    association: Association, context: Accepted, request: Message, elements: Elements, status: int
) -> None:
    """Answer a request of the peer, without a data set."""
    command = {
        **elements,
        _FIELD: (request.number(_FIELD) or 0) | _RESPONSE,
        _RESPONDED_TO: request.number(_MESSAGE) or 0,
        _DATA_SET: _HAS_NO_DATA_SET,
        _STATUS: status,
    }
    association.send(context.identifier, _encoded(command))


def receive(association: Association, patience: float, *, most: int = MAX_PART) -> Message:
    """Return the next message, which has a status unless it is a request.

    `patience` is the longest silence of the peer in seconds, `most` the largest data set in bytes.
    """
    is_command, content = association.part(patience)
    if not is_command:
        raise association.garbled("a data set without a command set")
    elements = _decoded(content)
    if elements is None:
        raise association.garbled("a command set that is cut off")
    is_request = not (_number(elements, _FIELD) or 0) & _RESPONSE
    status = SUCCESS if is_request else _number(elements, _STATUS)
    if status is None:
        raise association.garbled("an answer without a status")
    if _number(elements, _DATA_SET) == _HAS_NO_DATA_SET:
        return Message(elements, status)
    is_command, data = association.part(patience, most=most)
    if is_command:
        raise association.garbled("a command set in place of a data set")
    return Message(elements, status, data)


def _number(elements: Mapping[int, bytes], tag: int) -> int | None:
    value = elements.get(tag, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None


def _encoded(elements: Elements) -> bytes:
    """Return a command set in Implicit VR Little Endian (DICOM PS3.7 6.3.1)."""
    body = b""
    for tag, value in sorted(elements.items()):
        if isinstance(value, int):
            content = struct.pack("<H", value)
        else:
            content = value.encode("ascii", "replace")
            content += (b" " if tag == DESTINATION else b"\0") * (len(content) % 2)
        body += struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(content)) + content
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def _decoded(command: bytes) -> Mapping[int, bytes] | None:
    """Return the elements of a command set by tag, None if it is cut off."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset < len(command):
        if offset + 8 > len(command):
            return None
        group, element, length = struct.unpack_from("<HHI", command, offset)
        offset += 8 + length
        if offset > len(command):
            return None
        found[group << 16 | element] = command[offset - length : offset]
    return found
