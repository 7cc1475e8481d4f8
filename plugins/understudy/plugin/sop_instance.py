"""Reads the SOP Instance UID from the beginning of a DICOM Part 10 file (DICOM PS3.10 7.1, PS3.5 7).

It runs before every store, so it looks at a few dozen bytes and at no value but two UIDs. What it cannot
follow with certainty it leaves to Orthanc's own parser, by answering None.
"""

import struct
import zlib

_PREAMBLE = 128
_MAX_ELEMENTS = 64
"""Headers that are followed before giving up; ten are usual."""
_MAX_UID = 256
"""Bytes; 64 are allowed, and odd files have more."""
_INFLATED = 4096
"""Bytes of a deflated data set that are looked at, however many it claims to have."""
_UNDEFINED = 0xFFFFFFFF

_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_META, _DATA = 0x0002, 0x0008
_TRANSFER_SYNTAX_UID, _SOP_INSTANCE_UID = 0x0010, 0x0018
_IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
_EXPLICIT_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_PADDING = "\0 \t\r\n\v\f"


def sop_instance_uid(content: bytes) -> str | None:
    """Return the SOP Instance UID (0008,0018) without padding, None where it is not plain to see."""
    if content[_PREAMBLE : _PREAMBLE + 4] != b"DICM":
        return None
    try:
        syntax, offset = _find(content, _PREAMBLE + 4, _META, _TRANSFER_SYNTAX_UID, "<", explicit=True)
        if syntax is None:
            return None
        if syntax == _DEFLATED:
            begin = content[offset : offset + _INFLATED]
            content, offset = zlib.decompressobj(-zlib.MAX_WBITS).decompress(begin, _INFLATED), 0
        order = ">" if syntax == _EXPLICIT_BIG_ENDIAN else "<"
        explicit = syntax != _IMPLICIT_LITTLE_ENDIAN
        uid, _ = _find(content, offset, _DATA, _SOP_INSTANCE_UID, order, explicit=explicit)
    except (struct.error, zlib.error):
        return None
    return uid if uid and uid.isascii() and uid.isprintable() else None


def _find(
    content: bytes, offset: int, group: int, wanted: int, order: str, *, explicit: bool
) -> tuple[str | None, int]:
    """Return the value of an element of this group, None where it is not seen, and where the group ends.

    The group before the data set is walked to its end; in the data set the walk ends at what it looks for.
    """
    found: str | None = None
    for _ in range(_MAX_ELEMENTS):
        if offset == len(content) and group == _META:
            return found, offset
        present, element = struct.unpack_from(order + "HH", content, offset)
        if present != group or (group == _DATA and element > wanted):
            return found, offset
        if explicit:
            if content[offset + 4 : offset + 6] in _LONG_VRS:
                (length,) = struct.unpack_from(order + "I", content, offset + 8)
                begin = offset + 12
            else:
                (length,) = struct.unpack_from(order + "H", content, offset + 6)
                begin = offset + 8
        else:
            (length,) = struct.unpack_from(order + "I", content, offset + 4)
            begin = offset + 8
        if length == _UNDEFINED:
            return None, offset
        offset = begin + length
        if element == wanted:
            if length > _MAX_UID or offset > len(content):
                return None, offset
            found = content[begin:offset].decode("latin-1").strip(_PADDING)
            if group == _DATA:
                return found, offset
    return None, offset
