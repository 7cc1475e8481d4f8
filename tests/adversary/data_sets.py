"""Makes data sets by a grammar: query identifiers and objects, valid ones and faulty ones (DICOM PS3.5 7)."""

import random
import struct

from tests import hostile

_VRS = [
    "AE",
    "AS",
    "AT",
    "CS",
    "DA",
    "DS",
    "DT",
    "FD",
    "FL",
    "IS",
    "LO",
    "LT",
    "OB",
    "OW",
    "PN",
    "SH",
    "SL",
    "SQ",
    "SS",
    "ST",
    "TM",
    "UC",
    "UI",
    "UL",
    "UN",
    "UR",
    "US",
    "UT",
]
_QUERIED = [
    int(tag, 16)
    for tag in [
        "00080005",
        "00080018",
        "00080020",
        "00080030",
        "00080050",
        "00080052",
        "00080060",
        "00080061",
        "00080090",
        "00081030",
        "0008103E",
        "00081110",
        "00100010",
        "00100020",
        "00100030",
        "00101000",
        "0020000D",
        "0020000E",
        "00200010",
        "00200013",
        "00201206",
        "00201208",
        "00400275",
        "00091010",
        "7FE00010",
        "FFFEE000",
        "00020010",
    ]
]


def _value(chance: random.Random, vr: str, depth: int) -> bytes:
    if vr == "SQ":
        items = b""
        for _ in range(chance.choice([0, 1, 1, 2])):
            inside = _elements(chance, chance.randrange(4), depth + 1) if depth < 6 else b""
            items += (
                struct.pack("<HHI", 0xFFFE, 0xE000, chance.choice([len(inside), len(inside), 0xFFFFFFFF, 7]))
                + inside
            )
        return items
    texts = [
        b"",
        b"*",
        b"?" * chance.randrange(1, 200),
        b"*a" * chance.randrange(1, 200),
        b"\\" * chance.randrange(1, 2000),
        b"19000101-20991231",
        b"-",
        b"0" * 64,
        b"1.2.840." * chance.randrange(1, 30),
        b"CANARY^QUOKKA",
        b"[/red]<script>alert(1)</script>\x1b[2J\n\r",
        chance.randbytes(chance.randrange(80)),
        b"'; DROP TABLE Resources; --",
        b"%s%n%x",
        b"x" * 70000,
    ]
    return chance.choice(texts)


def _elements(chance: random.Random, count: int, depth: int = 0) -> bytes:
    out = b""
    for tag in sorted(
        chance.choice(_QUERIED) if chance.random() < 0.9 else chance.randrange(2**32) for _ in range(count)
    ):
        vr = chance.choice(_VRS)
        value = _value(chance, vr, depth)
        if vr not in ("OB", "OW", "SQ", "UC", "UN", "UR", "UT"):
            value = value[:65534]
        value += b"\0" * (len(value) % 2)
        length = chance.choice([None] * 12 + [0, 1, 0xFFFF, 0xFFFFFFFF])
        if length is not None and vr not in ("OB", "OW", "SQ", "UC", "UN", "UR", "UT"):
            length &= 0xFFFF
        out += hostile.element(tag, vr, value, length)
    return out


def identifier(chance: random.Random) -> bytes:
    """Return the identifier of a C-FIND, C-MOVE or C-GET in Explicit VR Little Endian."""
    level = chance.choice(
        [b"PATIENT", b"STUDY", b"SERIES", b"IMAGE", b"", b"WORKLIST", b"STUDY\\SERIES", b"x" * 20]
    )
    head = hostile.text(0x00080052, "CS", level) if chance.random() < 0.9 else b""
    return head + _elements(chance, chance.randrange(1, 12))


def damaged(chance: random.Random, content: bytes) -> bytes:
    """Return an object with some bytes changed, mostly in lengths and tags, or cut."""
    out = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 3, 8])):
        place = chance.randrange(len(out))
        if chance.random() < 0.5:
            out[place] = chance.randrange(256)
        else:
            out[place : place + 4] = struct.pack(
                "<I", chance.choice([0, 1, 2, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFE])
            )
    if chance.random() < 0.2:
        del out[chance.randrange(1, len(out)) :]
    return bytes(out)
