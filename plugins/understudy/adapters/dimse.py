"""Requests and answers over an association: the command sets of DICOM PS3.7."""

import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from understudy.adapters.association import Accepted, Association

# Elements of command sets (DICOM PS3.7 E.1).
SOP_CLASS, SOP_INSTANCE, DESTINATION, PRIORITY = 0x00000002, 0x00001000, 0x00000600, 0x00000700
COMPLETED, FAILED = 0x00001021, 0x00001022
_FIELD, _MESSAGE, _RESPONDED_TO = 0x00000100, 0x00000110, 0x00000120
_DATA_SET, _STATUS = 0x00000800, 0x00000900

STORE, FIND, MOVE, ECHO = 0x0001, 0x0020, 0x0021, 0x0030
"""Command fields of requests."""
_RESPONSE = 0x8000
_HAS_DATA_SET, _HAS_NO_DATA_SET = 0x0001, 0x0101

SUCCESS = 0x0000
_PENDING = (0xFF00, 0xFF01)

Elements = Mapping[int, int | str]
"""By tag: a number is a US, a text an AE or a UI."""


@dataclass(frozen=True, slots=True)
class Message:
    """An answer: the elements of its command set, undecoded, and the bytes of its data set."""

    elements: Mapping[int, bytes]
    status: int
    data: bytes = b""

    def number(self, tag: int) -> int | None:
        """Return an element of VR US, None where it is absent or none."""
        return _number(self.elements, tag)

    def text(self, tag: int) -> str:
        """Return an element of VR UI or AE without its padding, empty where it is absent."""
        return self.elements.get(tag, b"").rstrip(b"\0 ").decode("ascii", "replace")

    @property
    def is_pending(self) -> bool:
        """Whether further answers follow."""
        return self.status in _PENDING


def ask(
    association: Association,
    context: Accepted,
    request: int,
    elements: Elements,
    data: bytes | memoryview | None = None,
    *,
    message: int = 1,
    patience: float,
) -> Iterator[Message]:
    """Send a request and yield its answers up to the last, each within `patience` seconds.

    `message`, 1 to 65535, tells the request from others. Raises AssociationLostError, also where an answer
    has no status or is one to something else.
    """
    command = {
        **elements,
        _FIELD: request,
        _MESSAGE: message,
        _DATA_SET: _HAS_NO_DATA_SET if data is None else _HAS_DATA_SET,
    }
    association.send(context.identifier, _encoded(command), data or b"")
    while True:
        answer = _received(association, time.monotonic() + patience)
        if answer.number(_FIELD) != request | _RESPONSE or answer.number(_RESPONDED_TO) != message:
            raise association.garbled("an answer to something else")
        yield answer
        if not answer.is_pending:
            return


def _received(association: Association, deadline: float) -> Message:
    is_command, content = association.part(deadline)
    if not is_command:
        raise association.garbled("a data set without a command set")
    elements = _decoded(content)
    if elements is None:
        raise association.garbled("a command set that is cut off")
    status = _number(elements, _STATUS)
    if status is None:
        raise association.garbled("an answer without a status")
    if _number(elements, _DATA_SET) == _HAS_NO_DATA_SET:
        return Message(elements, status)
    is_command, data = association.part(deadline)
    if is_command:
        raise association.garbled("a command set in place of a data set")
    return Message(elements, status, data)


def _number(elements: Mapping[int, bytes], tag: int) -> int | None:
    value = elements.get(tag, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None


def _encoded(elements: Elements) -> bytes:
    """Return a command set, which is Implicit VR Little Endian (DICOM PS3.7 6.3.1)."""
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
    """Return the elements of a command set by tag, None where it is cut off."""
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
