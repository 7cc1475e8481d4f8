"""Says whether a file would end Orthanc, from its element headers alone (DICOM PS3.10 7.1, PS3.5 7).

For what comes by REST and STOW-RS: Orthanc 1.13 parses a body in a thread with a small stack, which a file
nested 50 deep overflows, and takes the memory that a length claims, which is 4 GB for a file of 9 KB.

Rule 1: no value is read but the transfer syntax, nothing recurses, elements and inflated bytes have limits.
Rule 2: what this cannot follow is left to Orthanc, which answers 400 to it. Only what is certain is refused.
"""

import struct
import zlib

MAX_DEPTH = 32
"""Levels of nesting; images have less than ten. Orthanc's HTTP threads bear about 45."""
MAX_ELEMENTS = 1_000_000
MAX_INFLATED = 128 * 2**20
"""Bytes that the data set of a deflated file may have; what deflates well is a text, not an image."""

_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_UNTOLD = frozenset({b"", b"UN"})
_META_GROUP = b"\x02\x00"
_TRANSFER_SYNTAX_UID = 0x00020010
_IMPLICIT, _BIG_ENDIAN, _DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"


class _LostError(Exception):
    """The headers cannot be followed any further."""


class _FaultError(Exception):
    """The file would end Orthanc; the message says by what, and holds numbers alone."""


def fault(content: bytes) -> str | None:
    """Return why the file would end Orthanc, None where nothing is seen that would."""
    if content[128:132] != b"DICM":
        return None
    try:
        syntax, offset = _meta(content)
        if not syntax:
            return None
        if syntax == _DEFLATED:
            content, offset = _inflated(content, offset), 0
        order = ">" if syntax == _BIG_ENDIAN else "<"
        _walk(content, offset, order, explicit=syntax != _IMPLICIT)
    except _FaultError as found:
        return str(found)
    except (_LostError, struct.error, zlib.error):
        return None
    return None


def _meta(content: bytes) -> tuple[str, int]:
    """Return the transfer syntax and where the data set begins."""
    syntax, offset = "", 132
    for _ in range(MAX_ELEMENTS):
        if content[offset : offset + 2] != _META_GROUP:
            break
        tag, _, length, begin = _header(content, offset, "<", explicit=True)
        _fits(content, begin, length)
        if tag == _TRANSFER_SYNTAX_UID:
            syntax = content[begin : begin + min(length, 64)].decode("latin-1").rstrip("\0 ")
        offset = begin + length
    return syntax, offset


def _inflated(content: bytes, offset: int) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(memoryview(content)[offset:], MAX_INFLATED)
    if not inflater.eof and inflater.unconsumed_tail:
        raise _FaultError(f"it inflates to more than {MAX_INFLATED} bytes")
    return inflated


def _header(content: bytes, offset: int, order: str, *, explicit: bool) -> tuple[int, bytes, int, int]:
    """Return tag, VR (empty where there is none), length of the value and where it begins."""
    group, element = struct.unpack_from(order + "HH", content, offset)
    tag = group << 16 | element
    if group == 0xFFFE or not explicit:
        (length,) = struct.unpack_from(order + "I", content, offset + 4)
        return tag, b"", length, offset + 8
    vr = content[offset + 4 : offset + 6]
    if not (vr.isalpha() and vr.isupper()):
        raise _LostError
    if vr in _LONG_VRS:
        (length,) = struct.unpack_from(order + "I", content, offset + 8)
        return tag, vr, length, offset + 12
    (length,) = struct.unpack_from(order + "H", content, offset + 6)
    return tag, vr, length, offset + 8


def _fits(content: bytes, begin: int, length: int) -> None:
    if begin + length > len(content):
        raise _FaultError(f"an element claims {length} bytes, and {max(0, len(content) - begin)} are there")


def _walk(content: bytes, offset: int, order: str, *, explicit: bool) -> None:
    """Look at every header. `open_items` has, for each item that is open, its end (None where a delimiter
    ends it) and whether it is explicit; the sequences between need no place of their own."""
    open_items: list[tuple[int | None, bool]] = []
    syntaxes = [explicit]
    """Of the sequence that was begun last at each depth."""
    item = struct.pack(order + "HH", 0xFFFE, 0xE000)
    for _ in range(MAX_ELEMENTS):
        while open_items and (end := open_items[-1][0]) is not None and offset >= end:
            open_items.pop()
            syntaxes.pop()
        if offset >= len(content):
            return
        inside = open_items[-1][1] if open_items else explicit
        tag, vr, length, begin = _header(content, offset, order, explicit=inside)
        if tag == _ITEM_END:
            if open_items and open_items[-1][0] is None:
                open_items.pop()
                syntaxes.pop()
            offset = begin
        elif tag == _SEQUENCE_END:
            offset = begin
        elif tag == _ITEM:
            if length != _UNDEFINED:
                _fits(content, begin, length)
            open_items.append((None if length == _UNDEFINED else begin + length, syntaxes[-1]))
            syntaxes.append(syntaxes[-1])
            if len(open_items) > MAX_DEPTH:
                raise _FaultError(f"its sequences are nested deeper than {MAX_DEPTH}")
            offset = begin
        elif length == _UNDEFINED and tag in _PIXELS and vr != b"SQ":
            offset = _fragments(content, begin, order)
        elif length == _UNDEFINED:
            # What stands in an UN of undefined length is Implicit VR (PS3.5 6.2.2, note 6).
            syntaxes[-1] = inside and vr == b"SQ"
            offset = begin
        else:
            _fits(content, begin, length)
            # Where no VR tells, an item does: no other value begins with those four bytes but by chance.
            sequence = vr == b"SQ" or (vr in _UNTOLD and content[begin : begin + 4] == item)
            syntaxes[-1] = inside and vr == b"SQ"
            offset = begin if sequence else begin + length
    raise _FaultError(f"it has more than {MAX_ELEMENTS} elements")


def _fragments(content: bytes, offset: int, order: str) -> int:
    """Return where encapsulated pixels end (PS3.5 A.4); what is in their items is no data set."""
    for _ in range(MAX_ELEMENTS):
        tag, _, length, begin = _header(content, offset, order, explicit=False)
        if tag != _ITEM:
            return begin
        _fits(content, begin, length)
        offset = begin + length
    raise _FaultError(f"it has more than {MAX_ELEMENTS} fragments")
