"""Reads the study, series and SOP Instance UID from a file's headers (DICOM PS3.10 7.1, PS3.5 7).

This runs before every store by HTTP. For a C-STORE, docker/reception/reception.cc tells the UIDs that
Orthanc's parser has read. Reading stops at the last of the three UIDs, which are near the beginning of a
file, and no other value is read. A file that cannot be followed with certainty is left to Orthanc's own
parser.
"""

import struct
import zlib
from dataclasses import dataclass

from understudy.plugin.elements import (
    DEFLATED,
    UNDEFINED,
    Content,
    LostError,
    elements,
    encoding,
    meta,
)

_SOP_INSTANCE, _STUDY, _SERIES = 0x00080018, 0x0020000D, 0x0020000E
_UIDS = frozenset({_SOP_INSTANCE, _STUDY, _SERIES})
_MAX_UID = 64
_INFLATED = 65536
"""How many bytes of a deflated data set are examined, before and after inflating."""
PADDING = "\0 \t\r\n\v\f"


@dataclass(frozen=True, slots=True)
class NamedUids:
    """The UIDs that a file names; of several equal elements the first counts, as in DCMTK."""

    complete: bool
    """Whether the file names study, series and instance."""
    sop_instance_uid: str | None
    """Without padding; None if it is longer than a UID may be or has odd characters."""


def names(content: Content) -> NamedUids | None:
    """Return the UIDs that a DICOM Part 10 file names, None if its headers cannot be followed that far."""
    found: dict[int, str] = {}
    try:
        syntax, offset = meta(content)
        order, explicit = encoding(syntax)
        if syntax == DEFLATED:
            beginning = content[offset : offset + _INFLATED]
            content, offset = zlib.decompressobj(-zlib.MAX_WBITS).decompress(beginning, _INFLATED), 0
        for tag, _, begin, length in elements(content, offset, order, explicit=explicit, wanted=_UIDS):
            if length == UNDEFINED:
                return None
            found.setdefault(tag, content[begin : begin + min(length, 256)].decode("latin-1").strip(PADDING))
            if len(found) == len(_UIDS):
                break
    except (LostError, struct.error, zlib.error):
        return None
    uid = found.get(_SOP_INSTANCE, "")
    plain = 0 < len(uid) <= _MAX_UID and uid.isascii() and uid.isprintable()
    complete = len(found) == len(_UIDS) and all(found.values())
    return NamedUids(complete, uid if plain else None)
