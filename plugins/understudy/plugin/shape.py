"""Says whether a file would end Orthanc, from its element headers alone (DICOM PS3.10 7.1, PS3.5 7).

For files that come by REST and STOW-RS: Orthanc 1.13 parses each level of nesting in a call of its own, so
that a file that is nested deep enough overflows any stack. It also takes the memory that a length claims,
which is 4 GB for a file of 9 KB.

Rule 1: no value is read but the transfer syntax, nothing recurses, elements and inflated bytes have limits.
Rule 2: only what is certain is refused, since a file in an odd form may be an examination. What this cannot
follow is left to Orthanc, where the limits of docker/reception on nesting and memory hold for every parser.
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
"""Levels of nesting; images have less than ten. docker/reception has the same limit for DCMTK."""
_UNTOLD = frozenset({b"", b"UN"})


def fault(content: bytes) -> str | None:
    """Return why the file would end Orthanc, None where nothing is seen that would."""
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
            # Where no VR tells, an item does: no other value begins with those four bytes but by chance.
            sequence = vr == b"SQ" or (vr in _UNTOLD and content[begin : begin + 4] == item)
            syntaxes[-1] = inside and vr == b"SQ"
            offset = begin if sequence else begin + length
    raise FaultError(f"it has more than {MAX_ELEMENTS} elements")
