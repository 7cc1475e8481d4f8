"""Says whether a file would crash Orthanc, from its element headers alone (DICOM PS3.10 7.1, PS3.5 7).

For files that come by REST and STOW-RS. Orthanc 1.13 parses nested sequences recursively, so a deeply nested
file overflows any stack. It also allocates the memory that a length claims, up to 4 GB for a file of 9 KB.

Rule 1: only the transfer syntax is read as a value, nothing recurses, elements and inflated bytes have
limits.
Rule 2: only a certain fault is refused, because a file in an odd form may be an examination. A file that this
module cannot follow is left to Orthanc, where docker/reception limits nesting and memory of every parser.
"""

import struct
import zlib

from understudy.plugin.elements import (
    DEFLATED,
    ITEM,
    ITEM_END,
    MAX_ELEMENTS,
    SEQUENCE_END,
    UNDEFINED,
    FaultError,
    LostError,
    after_fragments,
    encoding,
    fits,
    header,
    inflated,
    is_encapsulated,
    is_part10,
    items_are_explicit,
    meta,
)

MAX_DEPTH = 32
"""Maximum depth of nesting; images have less than ten levels. docker/reception sets the same for DCMTK."""
_UNTOLD = frozenset({b"", b"UN"})


def fault(content: bytes) -> str | None:
    """Return why the file would crash Orthanc, None if no such fault is found."""
    if not is_part10(content):
        return None
    try:
        syntax, offset = meta(content)
        if syntax == DEFLATED:
            content, offset = inflated(content, offset), 0
        order, explicit = encoding(syntax)
        _walk(content, offset, order, explicit=explicit)
    except FaultError as found:
        return str(found)
    except (LostError, struct.error, zlib.error):
        return None
    return None


def _walk(content: bytes, offset: int, order: str, *, explicit: bool) -> None:
    """Check every header; raise FaultError at a fault.

    For each open item, `open_items` has its end (None if a delimiter ends it) and whether its VRs are
    explicit. Sequences between the items need no entry.
    """
    open_items: list[tuple[int | None, bool]] = []
    syntaxes = [explicit]
    """For each depth, whether the VRs are explicit in the items of the sequence that began last there."""
    item = struct.pack(order + "HH", 0xFFFE, 0xE000)
    for _ in range(MAX_ELEMENTS):
        while open_items and (end := open_items[-1][0]) is not None and offset >= end:
            open_items.pop()
            syntaxes.pop()
        if offset >= len(content):
            return
        inside = open_items[-1][1] if open_items else explicit
        tag, vr, length, begin = header(content, offset, order, explicit=inside)
        if tag == ITEM_END:
            if open_items and open_items[-1][0] is None:
                open_items.pop()
                syntaxes.pop()
            offset = begin
        elif tag == SEQUENCE_END:
            offset = begin
        elif tag == ITEM:
            if length != UNDEFINED:
                fits(content, begin, length)
            open_items.append((None if length == UNDEFINED else begin + length, syntaxes[-1]))
            syntaxes.append(syntaxes[-1])
            if len(open_items) > MAX_DEPTH:
                raise FaultError(f"its sequences are nested deeper than {MAX_DEPTH}")
            offset = begin
        elif length == UNDEFINED and is_encapsulated(tag, vr):
            offset = after_fragments(content, begin, order)
        elif length == UNDEFINED:
            syntaxes[-1] = items_are_explicit(vr, order, explicit=inside)
            offset = begin
        else:
            fits(content, begin, length)
            # If the VR does not tell, an item tag does: another value has these four bytes only by chance.
            sequence = vr == b"SQ" or (vr in _UNTOLD and content[begin : begin + 4] == item)
            syntaxes[-1] = inside and vr == b"SQ"
            offset = begin if sequence else begin + length
    raise FaultError(f"it has more than {MAX_ELEMENTS} elements")
