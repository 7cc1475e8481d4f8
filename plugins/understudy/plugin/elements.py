"""Follows the element headers of a DICOM file as DCMTK 3.7 does for Orthanc (DICOM PS3.10 7.1, PS3.5 7).

A limit that is checked from headers holds only if DCMTK finds the same headers. So this module reads
non-standard VRs, the end of the file meta information, and sequences with another VR than SQ as DCMTK reads
them (dcvr.cc, dcmetinf.cc, dcitem.cc).

Rule 1: if it is not certain what DCMTK would do, this module raises LostError or struct.error. The caller
decides what to do with such a file.
Rule 2: only the transfer syntax is read as a value, nothing recurses, elements and inflated bytes have
limits.
"""

import mmap
import re
import struct
import zlib
from collections.abc import Container, Iterator

MAX_ELEMENTS = 1_000_000
MAX_INFLATED = 128 * 2**20
"""Largest data set of a deflated file, in bytes, after inflating. Only text deflates well, images do not."""

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
PIXELS = frozenset({0x7FE00008, 0x7FE00009, PIXEL_DATA})
_DELIMITERS = frozenset({ITEM, ITEM_END, SEQUENCE_END})
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_DCMTK_LONG_VRS, _DCMTK_REFUSES = frozenset({b"ox", b"px", b"lt"}), frozenset({b"na", b"pi"})
_WITHOUT_SEQUENCE = (_SHORT_VRS | _LONG_VRS | _DCMTK_LONG_VRS | {b"xs", b"up"}) - {b"SQ", b"UN"}
"""VRs whose elements have a length. DCMTK takes an element of any other VR with undefined length for a
sequence."""
_ENCAPSULATED_VRS = frozenset({b"", b"OB", b"OW", b"OX", b"ox"})

_META_GROUP = b"\x02\x00"
_GROUP_LENGTH, _TRANSFER_SYNTAX_UID = 0x00020000, 0x00020010
IMPLICIT, BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
_KNOWN_SYNTAXES = re.compile(
    r"1\.2\.840\.10008\.1\.2(\.1|\.1\.9[89]|\.2|\.5|\.8\.1"
    r"|\.4\.(5\d|6[0-6]|70|8[01]|9[0-5]|10[0-8]|10[0-6]\.1|11[0-2]|20[1-5]))?"
)

Content = bytes | mmap.mmap


class LostError(Exception):
    """The headers cannot be followed any further."""


class FaultError(LostError):
    """The file would crash Orthanc; the message gives the cause, and of the file only numbers."""


def is_part10(content: Content) -> bool:
    """Return whether the content begins like a DICOM Part 10 file."""
    return content[128:132] == b"DICM"


def meta(content: Content) -> tuple[str, int]:
    """Return the transfer syntax, empty if the file names none, and the offset of the data set."""
    if not is_part10(content):
        raise LostError
    syntax, offset, end = "", 132, None
    for _ in range(MAX_ELEMENTS):
        if content[offset : offset + 2] != _META_GROUP if end is None else offset >= end:
            return syntax, offset
        tag, _, length, begin = header(content, offset, "<", explicit=True)
        if tag == _GROUP_LENGTH and offset == 132 and length == 4:
            end = begin + length + struct.unpack_from("<I", content, begin)[0]
        if tag == _TRANSFER_SYNTAX_UID and not syntax:
            syntax = content[begin : begin + min(length, 64)].decode("latin-1").rstrip("\0 ")
        fits(content, begin, length)
        offset = begin + length
    raise LostError


def fits(content: Content, begin: int, length: int) -> None:
    """Raise FaultError if a value claims more bytes than the file has left."""
    if begin + length > len(content):
        raise FaultError(f"an element claims {length} bytes, and {max(0, len(content) - begin)} are there")


def encoding(syntax: str) -> tuple[str, bool]:
    """Return the byte order for `struct`, and whether VRs are explicit.

    Raises LostError for a transfer syntax for which DCMTK guesses the encoding.
    """
    if _KNOWN_SYNTAXES.fullmatch(syntax) is None:
        raise LostError
    return ">" if syntax == BIG_ENDIAN else "<", syntax != IMPLICIT


def inflated(content: Content, offset: int) -> bytes:
    """Return the inflated data set of a deflated file. Raises FaultError beyond the limit, and zlib.error."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    found = inflater.decompress(memoryview(content)[offset:], MAX_INFLATED)
    if not inflater.eof and inflater.unconsumed_tail:
        raise FaultError(f"it inflates to more than {MAX_INFLATED} bytes")
    return found


def header(content: Content, offset: int, order: str, *, explicit: bool) -> tuple[int, bytes, int, int]:
    """Return tag, VR (empty if there is none), and length and offset of the value."""
    group, element = struct.unpack_from(order + "HH", content, offset)
    tag = group << 16 | element
    if tag in _DELIMITERS or not explicit:
        (length,) = struct.unpack_from(order + "I", content, offset + 4)
        return tag, b"", length, offset + 8
    vr = content[offset + 4 : offset + 6]
    if vr in _SHORT_VRS or not has_long_header(vr):
        (length,) = struct.unpack_from(order + "H", content, offset + 6)
        return tag, vr, length, offset + 8
    (length,) = struct.unpack_from(order + "I", content, offset + 8)
    return tag, vr, length, offset + 12


def has_long_header(vr: bytes) -> bool:
    """Return whether a VR has a length of four bytes; an unknown VR has it if it is two capital letters."""
    if (vr.isalpha() and vr.isupper() and vr not in _SHORT_VRS) or vr in _DCMTK_LONG_VRS:
        return True
    if vr in _DCMTK_REFUSES or not all(32 <= letter <= 127 for letter in vr):
        raise LostError
    return False


def is_encapsulated(tag: int, vr: bytes) -> bool:
    """Return whether an element of undefined length has fragments of pixels; otherwise it is a sequence."""
    if (tag == PIXEL_DATA and vr in _ENCAPSULATED_VRS) or vr == b"px":
        return True
    if vr in _WITHOUT_SEQUENCE:
        raise LostError
    return False


def items_are_explicit(vr: bytes, order: str, *, explicit: bool) -> bool:
    """Return whether the items of a sequence with this VR have explicit VRs.

    If the VR is not SQ, the items are Implicit VR Little Endian (PS3.5 6.2.2, note 6).
    """
    if vr != b"SQ" and order == ">":
        raise LostError
    return explicit and vr == b"SQ"


def fragments(content: Content, offset: int, order: str) -> Iterator[tuple[int, int]]:
    """Yield beginning and end of each item of encapsulated pixels, the offset table first (PS3.5 A.4).

    A delimiter of eight bytes follows the last item. The items hold no data sets.
    """
    for _ in range(MAX_ELEMENTS):
        tag, _, length, begin = header(content, offset, order, explicit=False)
        if tag == SEQUENCE_END:
            return
        if tag != ITEM:
            raise LostError
        fits(content, begin, length)
        offset = begin + length
        yield begin, offset
    raise FaultError(f"it has more than {MAX_ELEMENTS} fragments")


def after_fragments(content: Content, offset: int, order: str) -> int:
    """Return the end of the encapsulated pixels that begin at `offset`."""
    for _, end in fragments(content, offset, order):
        offset = end
    return offset + 8


def elements(
    content: Content, offset: int, order: str, *, explicit: bool, wanted: Container[int]
) -> Iterator[tuple[int, bytes, int, int]]:
    """Yield tag, VR, beginning and length of each wanted element of the data set itself, not of its items.

    Every store by HTTP runs this, so it skips the usual element in a fast path.
    """
    inside = [explicit]
    """For each sequence of undefined length that is open, whether its items are explicit."""
    short = struct.Struct(order + "HH2sH")
    last = len(content) - short.size
    for _ in range(MAX_ELEMENTS):
        if inside[-1] and offset <= last:
            group, number, vr, length = short.unpack_from(content, offset)
            if vr in _SHORT_VRS and group << 16 | number not in wanted:
                offset += short.size + length
                continue
        if offset == len(content) and len(inside) == 1:
            return
        tag, vr, length, begin = header(content, offset, order, explicit=inside[-1])
        offset = begin
        if tag in _DELIMITERS:
            # Outside a sequence DCMTK ends the data set at an item delimiter, and refuses the other
            # delimiters.
            if len(inside) == 1:
                raise LostError
            if tag == SEQUENCE_END:
                inside.pop()
            continue
        if len(inside) == 1 and tag in wanted:
            yield tag, vr, begin, length
        if length != UNDEFINED:
            offset = begin + length
        elif is_encapsulated(tag, vr):
            offset = after_fragments(content, begin, order)
        else:
            inside.append(items_are_explicit(vr, order, explicit=inside[-1]))
    raise LostError
