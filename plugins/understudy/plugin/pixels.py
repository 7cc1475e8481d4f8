"""Reads from a file's headers how large its image would be when decoded (DICOM PS3.3 C.7.6.3).

A file of 1 KB can claim a frame of 60000 x 60000, and a decoder allocates the claimed memory. Both the data
set and the header of each compressed frame claim a size, and a decoder may use either.

Rule 1: no pixel is read. A fragment is read up to its frame header, and an element is skipped by its length.
Rule 2: if two claims differ, the larger one counts.
Rule 3: an image whose claims cannot be read has a fault, and must not be decoded.
"""

import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from understudy.plugin.elements import (
    DEFLATED,
    PIXELS,
    UNDEFINED,
    Content,
    LostError,
    elements,
    encoding,
    fragments,
    inflated,
    meta,
)

_MAX_MARKERS = 64
"""Maximum number of marker segments before the frame header of a JPEG stream; ten are usual."""
_BEGINNING = 4096
"""The code stream of a JPEG 2000 image begins within this many bytes of its fragment."""

_SAMPLES, _FRAMES, _ROWS, _COLUMNS, _BITS = 0x00280002, 0x00280008, 0x00280010, 0x00280011, 0x00280100
_CLAIMS = frozenset({_SAMPLES, _FRAMES, _ROWS, _COLUMNS, _BITS})
_WANTED = _CLAIMS | PIXELS
_POSSIBLE_SAMPLES = frozenset({1, 3, 4})
"""Samples per pixel (PS3.3 C.7.6.3.1.1); for another number an assertion of GDCM ends the process."""
_SHORTS = frozenset({b"", b"US", b"SS", b"UN"})
_NUMBERS = re.compile(rb"\d{1,10}")
# Markers of ISO 10918-1, 14495-1 and 15444-1.
_START_OF_IMAGE, _START_OF_SCAN, _CODE_STREAM = b"\xff\xd8", 0xDA, b"\xff\x4f\xff\x51"
_FILL = re.compile(rb"\xff*")
_FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_OPENJPEG_BYTES = 4
"""Bytes that the JPEG 2000 decoder allocates for each sample, however few bits the sample has."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """What a file claims about its image; sizes in bytes."""

    transfer_syntax_uid: str
    frames: int
    """Number of frames that the data set claims, 1 if it claims none; never more than there are fragments."""
    frame_bytes: int
    """Size of one decoded frame: the larger claim of data set and compressed frame."""
    fault: str | None = None
    """Why the image must not be decoded at all; of the file the text holds numbers only."""

    @property
    def total_bytes(self) -> int:
        return self.frames * self.frame_bytes


def pixels(content: Content) -> Pixels:
    """Return what a DICOM Part 10 file claims about its image."""
    found: dict[int, int] = {}
    stream_bytes, items, syntax, fault = 0, None, "", None
    try:
        syntax, offset = meta(content)
        order, explicit = encoding(syntax)
        if syntax == DEFLATED:
            content, offset = inflated(content, offset), 0
        described = False
        for tag, vr, begin, length in elements(content, offset, order, explicit=explicit, wanted=_WANTED):
            if tag in _CLAIMS:
                if described:
                    fault = "a part of its description follows its pixels"
                value = _number(content[begin : begin + min(length, 16)], order, tag, vr)
                found[tag] = max(found.get(tag, 0), value)
                continue
            described = True
            if length == UNDEFINED:
                items, stream_bytes = _compressed(content, begin, order)
        if described:
            fault = fault or _impossible(found)
    except (LostError, struct.error, zlib.error):
        fault = "its headers cannot be followed to their end"
    bits = max(8, found.get(_BITS, 8))
    samples = max(1, found.get(_SAMPLES, 1))
    claimed = found.get(_ROWS, 0) * found.get(_COLUMNS, 0) * samples * ((bits + 7) // 8)
    frames = max(1, found.get(_FRAMES, 1))
    if items is not None:
        # The first item is the offset table and holds no frame.
        frames = min(frames, max(1, items - 1))
    return Pixels(syntax, frames, max(claimed, stream_bytes), fault)


def _impossible(found: Mapping[int, int]) -> str | None:
    """Return why pixels with this description cannot be an image, None if they can."""
    if not (found.get(_ROWS) and found.get(_COLUMNS)):
        return "it has pixels, and no rows or no columns"
    if (samples := found.get(_SAMPLES, 1)) not in _POSSIBLE_SAMPLES:
        return f"it has {samples} samples a pixel"
    return None


def _number(value: bytes, order: str, tag: int, vr: bytes) -> int:
    """Return the largest number in a value, whatever VR the file uses for it; 0 if it has none."""
    if vr in (b"UL", b"SL") and len(value) >= 4:
        return int(max(struct.unpack_from(f"{order}{len(value) // 4}I", value)))
    if tag != _FRAMES and vr in _SHORTS and len(value) >= 2:
        return int(max(struct.unpack_from(f"{order}{len(value) // 2}H", value)))
    return max((int(number) for number in _NUMBERS.findall(value)), default=0)


def _compressed(content: Content, offset: int, order: str) -> tuple[int, int]:
    """Return how many items the encapsulated pixels have, and the largest frame size that an item claims."""
    count, largest = 0, 0
    for begin, end in fragments(content, offset, order):
        count += 1
        largest = max(largest, _claimed(content, begin, end - begin))
    return count, largest


def _claimed(content: Content, begin: int, length: int) -> int:
    """Return the decoded size of the frame that begins in this fragment, 0 if none begins there."""
    start = content[begin : begin + 4]
    if start[:2] == _START_OF_IMAGE:
        return _jpeg(content, begin + 2, begin + length)
    if start[:1] in (b"\xff", b"\0"):
        # A code stream, or the boxes of a JP2 file with one in it.
        at = content.find(_CODE_STREAM, begin, begin + min(length, _BEGINNING))
        return 0 if at < 0 else _jpeg2000(content, at)
    return 0


def _jpeg(content: Content, offset: int, end: int) -> int:
    """Return the size in a JPEG or JPEG-LS stream's frame header (ISO 10918-1 B.2.2, ISO 14495-1 C.2.2)."""
    for _ in range(_MAX_MARKERS):
        # Any number of bytes 0xFF may precede a marker; a fragment may consist of nothing else.
        fill = _FILL.match(content, offset, end)
        if fill is not None and fill.end() > offset:
            offset = fill.end() - 1
        if offset + 10 > end or content[offset] != 0xFF or content[offset + 1] == _START_OF_SCAN:
            return 0
        if content[offset + 1] in _FRAME_HEADERS:
            precision, lines, columns, components = struct.unpack_from(">BHHB", content, offset + 4)
            return int(lines * columns * max(1, components) * ((precision + 7) // 8))
        offset += 2 + struct.unpack_from(">H", content, offset + 2)[0]
    return 0


def _jpeg2000(content: Content, offset: int) -> int:
    """Return the size in a JPEG 2000 code stream's size segment (ISO 15444-1 A.5.1)."""
    try:
        right, bottom, left, top = struct.unpack_from(">IIII", content, offset + 8)
        (components,) = struct.unpack_from(">H", content, offset + 40)
    except struct.error:
        return 0
    return int(max(0, right - left) * max(0, bottom - top) * max(1, components) * _OPENJPEG_BYTES)
