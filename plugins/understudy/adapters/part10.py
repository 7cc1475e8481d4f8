"""Says whether a file is a complete DICOM Part 10 file, from its headers alone (DICOM PS3.10 7.1, PS3.5 7).

Rule 1: only UIDs and numbers of a few bytes are read as values, so no claimed length can make memory use
large.
Rule 2: nothing recurses, and depth, elements and inflated bytes have limits, so a hostile file costs no more.
"""

import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import BinaryIO

MAX_DEPTH = 48
"""Maximum depth of nesting. Orthanc 1.13 crashes if it gets a file with 50 levels by REST."""
MAX_ELEMENTS = 1_000_000
MAX_INFLATED = 2**30
"""Maximum size of a deflated data set after inflating, in bytes; none of them is kept."""

_UNDEFINED = 0xFFFFFFFF
_MAX_UID = 64
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_WITHOUT_ITEMS = (_SHORT_VRS | _LONG_VRS) - {b"SQ", b"UN"}
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_SOP_INSTANCE_UID, _ROWS, _COLUMNS = 0x00080018, 0x00280010, 0x00280011
_META_SOP_INSTANCE_UID, _META_TRANSFER_SYNTAX_UID = 0x00020003, 0x00020010
_IDENTITY = frozenset({0x0020000D, 0x0020000E})
_COMPRESSED = "1.2.840.10008.1.2.4."
"""Prefix of the transfer syntaxes that exist only for images (PS3.5 A.4)."""
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_WANTED = frozenset({_SOP_INSTANCE_UID, _META_SOP_INSTANCE_UID, _META_TRANSFER_SYNTAX_UID})

IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"


class BrokenFileError(Exception):
    """The file is no complete DICOM Part 10 file; the reason has offsets and numbers, never a value."""


@dataclass(frozen=True, slots=True)
class Part10:
    """The identity and transfer syntax of a complete file."""

    sop_instance_uid: str
    transfer_syntax_uid: str
    dataset_offset: int
    """Offset of the data set, after the file meta information."""


def examine(path: Path) -> Part10:
    """Examine the file; raise BrokenFileError if it is not complete, OSError if it cannot be read."""
    with path.open("rb") as file:
        return examine_stream(file, os.fstat(file.fileno()).st_size)


def examine_stream(file: BinaryIO, size: int) -> Part10:
    """Examine the stream of `size` bytes; raise BrokenFileError if it is not a complete file."""
    if size == 0:
        raise BrokenFileError("it is empty")
    if file.read(132)[128:] != b"DICM":
        raise BrokenFileError("it does not begin as DICOM Part 10 files do")
    meta = _Walk(file, size, explicit=True, order="<", only_group=2)
    meta.run()
    syntax = meta.text(_META_TRANSFER_SYNTAX_UID)
    if not syntax:
        raise BrokenFileError("its file meta information names no transfer syntax")
    offset = file.tell()
    if syntax == DEFLATED:
        _inflate(file)
        uid = meta.text(_META_SOP_INSTANCE_UID)
    else:
        order = ">" if syntax == EXPLICIT_BIG_ENDIAN else "<"
        dataset = _Walk(file, size, explicit=syntax != IMPLICIT_LITTLE_ENDIAN, order=order)
        dataset.run()
        # A data set that is cut between two elements still parses, but an image then lacks its pixels.
        image = dataset.seen >= {_ROWS, _COLUMNS} or syntax.startswith(_COMPRESSED)
        if image and not dataset.seen & _PIXELS:
            raise BrokenFileError("it describes an image and ends before its pixels")
        if not dataset.seen >= _IDENTITY:
            raise BrokenFileError("it names no study or no series")
        uid = dataset.text(_SOP_INSTANCE_UID)
    if not uid:
        raise BrokenFileError("it has no SOP Instance UID")
    return Part10(uid, syntax, offset)


def _inflate(file: BinaryIO) -> None:
    """Read a deflated data set to its end (RFC 1951), keeping nothing."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    total = 0
    while not inflater.eof:
        pending = inflater.unconsumed_tail or file.read(2**16)
        if not pending:
            raise BrokenFileError("its deflated data set ends too early")
        try:
            total += len(inflater.decompress(pending, 2**20))
        except zlib.error:
            raise BrokenFileError("its deflated data set cannot be inflated") from None
        if total > MAX_INFLATED:
            raise BrokenFileError(f"it inflates to more than {MAX_INFLATED} bytes")


class _Kind(Enum):
    DATASET = "data set"
    SEQUENCE = "sequence"
    FRAGMENTS = "pixel fragments"


@dataclass(frozen=True, slots=True)
class _Frame:
    kind: _Kind
    end: int | None
    """Offset of its end; None if a delimiter ends it."""
    explicit: bool


@dataclass(slots=True)
class _Walk:
    """One pass over the element headers of a data set; `seen` are the tags at its outermost level."""

    file: BinaryIO
    size: int
    explicit: bool
    order: str
    only_group: int | None = None
    """Stop before the first element of another group."""
    seen: set[int] = field(default_factory=set)
    values: dict[int, bytes] = field(default_factory=dict)

    def run(self) -> None:
        stack = [_Frame(_Kind.DATASET, self.size, self.explicit)]
        steps: dict[_Kind, Callable[[list[_Frame], int], None]] = {
            _Kind.DATASET: self._element,
            _Kind.SEQUENCE: self._item,
            _Kind.FRAGMENTS: self._item,
        }
        for _ in range(MAX_ELEMENTS):
            position = self.file.tell()
            end = stack[-1].end
            if end is not None and position >= end:
                return
            tag = self._tag()
            if self.only_group is not None and tag >> 16 != self.only_group:
                self.file.seek(position)
                return
            steps[stack[-1].kind](stack, tag)
            if len(stack) > MAX_DEPTH:
                raise BrokenFileError(f"its sequences are nested deeper than {MAX_DEPTH}")
        raise BrokenFileError(f"it has more than {MAX_ELEMENTS} elements")

    def text(self, tag: int) -> str:
        """Return the value of a UID without its padding."""
        return self.values.get(tag, b"").decode("latin-1").rstrip("\0 ")

    def _element(self, stack: list[_Frame], tag: int) -> None:
        frame = stack[-1]
        if tag == _ITEM_END and frame.end is None:
            self._number("I")
            stack.pop()
            return
        if tag >> 16 in (0x0000, 0xFFFE):
            raise BrokenFileError(f"no element begins at offset {self.file.tell() - 4}")
        vr, length = self._length(explicit=frame.explicit)
        if len(stack) == 1:
            self.seen.add(tag)
        if length != _UNDEFINED:
            if len(stack) == 1 and tag in _WANTED and length <= _MAX_UID:
                self.values[tag] = self._read(length)
            else:
                self._skip(length)
        elif tag in _PIXELS and vr != b"SQ":
            stack.append(_Frame(_Kind.FRAGMENTS, None, frame.explicit))
        elif vr not in _WITHOUT_ITEMS:
            # The content of a UN element of undefined length is Implicit VR (PS3.5 6.2.2, note 6). DCMTK
            # reads an unknown VR in the same way.
            stack.append(_Frame(_Kind.SEQUENCE, None, frame.explicit and vr == b"SQ"))
        else:
            raise BrokenFileError(f"an element without a length begins before offset {self.file.tell()}")

    def _item(self, stack: list[_Frame], tag: int) -> None:
        frame = stack[-1]
        length = self._number("I")
        if tag == _SEQUENCE_END:
            stack.pop()
        elif tag != _ITEM:
            raise BrokenFileError(f"no item begins at offset {self.file.tell() - 8}")
        elif length != _UNDEFINED:
            self._skip(length)
        elif frame.kind is _Kind.SEQUENCE:
            stack.append(_Frame(_Kind.DATASET, None, frame.explicit))
        else:
            raise BrokenFileError("a pixel fragment has no length")

    def _length(self, *, explicit: bool) -> tuple[bytes | None, int]:
        if not explicit:
            return None, self._number("I")
        vr = self._read(2)
        if not (vr.isalpha() and vr.isupper()):
            raise BrokenFileError(f"no value representation stands at offset {self.file.tell() - 2}")
        # A VR that a later edition of the standard adds has the long form (PS3.5 7.1.2).
        if vr not in _SHORT_VRS:
            self._read(2)
            return vr, self._number("I")
        return vr, self._number("H")

    def _tag(self) -> int:
        group, element = struct.unpack(self.order + "HH", self._read(4))
        return int(group) << 16 | int(element)

    def _number(self, code: str) -> int:
        (value,) = struct.unpack(self.order + code, self._read(struct.calcsize(code)))
        return int(value)

    def _skip(self, length: int) -> None:
        position = self.file.tell()
        if position + length > self.size:
            raise BrokenFileError(
                f"it ends at {self.size} bytes, and an element at offset {position} needs {length}"
            )
        self.file.seek(length, os.SEEK_CUR)

    def _read(self, length: int) -> bytes:
        content = self.file.read(length)
        if len(content) != length:
            raise BrokenFileError(f"it ends at {self.size} bytes, within an element")
        return content


def head_length(file: BinaryIO, size: int) -> int:
    """Return the offset of the data set, or raise BrokenFileError if the head before it is broken."""
    if file.read(132)[128:] != b"DICM":
        raise BrokenFileError("it does not begin as DICOM Part 10 files do")
    _Walk(file, size, explicit=True, order="<", only_group=2).run()
    return file.tell()


def begin_data_set(file: BinaryIO, size: int) -> int:
    """Read a file up to its data set and return the offset of the data set, or raise BrokenFileError."""
    length = head_length(file, size)
    # Read once more from the beginning without a gap, for a file object that digests what is read.
    file.seek(0)
    left = length
    while left and (part := file.read(min(left, 2**16))):
        left -= len(part)
    return length


def dcmtk_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, version: str) -> bytes:
    """Return preamble and file meta information as DCMTK writes them, and so as Orthanc stores them."""
    meta = struct.pack("<HH2sHI2s", 2, 1, b"OB", 0, 2, b"\0\1")
    for element, vr, text, padding in (
        (0x02, b"UI", sop_class_uid, b"\0"),
        (0x03, b"UI", sop_instance_uid, b"\0"),
        (0x10, b"UI", transfer_syntax_uid, b"\0"),
        (0x12, b"UI", "1.2.276.0.7230010.3.0." + ".".join(version.removeprefix("OFFIS_DCMTK_")), b"\0"),
        (0x13, b"SH", version, b" "),
    ):
        value = text.encode("ascii", "replace")
        value += padding * (len(value) % 2)
        meta += struct.pack("<HH2sH", 2, element, vr, len(value)) + value
    return bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta)) + meta
