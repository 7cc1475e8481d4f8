"""Makes small objects that claim images of gigabytes, in every codec that Orthanc decodes.

Rule 1: the bytes are written here, and depend on the arguments alone, as in tests/hostile.py.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from tests.hostile import CANARY_ID, CANARY_NAME, CT, Hostile, element, header, text, uid_of

SYNTAXES = {
    "rle": "1.2.840.10008.1.2.5",
    "jpeg": "1.2.840.10008.1.2.4.50",
    "jpeg-lossless": "1.2.840.10008.1.2.4.70",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
    "jpeg2000": "1.2.840.10008.1.2.4.90",
    "htj2k": "1.2.840.10008.1.2.4.201",
}
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
NAMES = (*SYNTAXES, "uncompressed")
SIDE = {"rle": 65535, "jpeg2000": 60000, "htj2k": 60000}
_PIXELS = 0x7FE00010


def frame(name: str, side: int) -> bytes:
    """Return a compressed frame whose own header claims so many rows and columns."""
    if name == "rle":
        return bytes(64)
    if name in ("jpeg2000", "htj2k"):
        size = struct.pack(">HHIIIIIIIIH", 41, 0, side, side, 0, 0, side, side, 0, 0, 1) + b"\x07\x01\x01"
        rest = "ff52000c00000001000504040000ff5c00134040484850484850484850484850ff90000a00000000000000"
        rest += "0100ff93ffd9"
        return bytes.fromhex("ff4fff51") + size + bytes.fromhex(rest)
    if name == "jpeg-ls":
        head = bytes.fromhex("ffd8fff7000b08") + struct.pack(">HH", side, side)
        return head + bytes.fromhex("01011100ffda0008010100000000") + bytes(40) + bytes.fromhex("ffd9")
    start = b"\xff\xc3" if name == "jpeg-lossless" else b"\xff\xc0"
    table = bytes.fromhex("ffd8ffdb004300") + b"\x01" * 64
    head = start + b"\x00\x0b\x08" + struct.pack(">HH", side, side) + b"\x01\x01\x11\x00"
    huffman = bytes.fromhex("ffc4001f0000010501010101010100000000000000000102030405060708090a0b")
    return table + head + huffman + bytes.fromhex("ffda0008010100003f00") + bytes(20) + bytes.fromhex("ffd9")


def corpus(seed: str) -> Iterator[Hostile]:
    """Yield each bomb, those whose data set claims a harmless size, and those that hide their claims."""
    for name in NAMES:
        yield bomb(name, seed)
    for name in ("jpeg", "jpeg-lossless", "jpeg-ls", "jpeg2000", "htj2k"):
        lying = bomb(name, f"{seed} lying", rows=64, columns=64)
        yield replace(lying, name=f"{lying.name}-lying")
    for shape, hidden in HIDDEN.items():
        for name in ("rle", "jpeg"):
            made = bomb(name, f"{seed} {shape}", change=hidden)
            yield replace(made, name=f"{made.name}-{shape}")
    for name in ("rle", "jpeg", "jpeg2000"):
        samples = {0x00280002: element(0x00280002, "US", struct.pack("<H", 5))}
        small = [frame(name, 64)]
        made = bomb(name, f"{seed} samples", rows=64, columns=64, frames=small, change=samples)
        yield replace(made, name=f"{made.name}-samples")


def _hidden() -> Mapping[str, Mapping[int, bytes | None]]:
    """Return what stands before the description of an image, to lose whoever looks for it by headers."""
    undefined = 0xFFFFFFFF
    begin = struct.pack("<HHI", 0xFFFE, 0xE000, undefined)
    end = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    icon = element(_PIXELS, "OB", b"", undefined) + _item(b"") + _item(bytes.fromhex("ffd8ffd9"))
    icon += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    tag = struct.pack("<HH", 0x0021, 0x1010)
    return {
        "behind-nested-pixels": {
            0x00211010: element(0x00211010, "SQ", b"", undefined) + begin + icon + end,
        },
        "behind-unknown-vr": {0x00211010: tag + b"ZZ" + struct.pack("<HI", 0, 4) + b"abcd"},
        "behind-unknown-short-vr": {0x00211010: tag + b"Z1" + struct.pack("<H", 4) + b"abcd"},
        "behind-dcmtk-vr": {0x00211010: tag + b"ox" + struct.pack("<HI", 0, 4) + b"abcd"},
        "behind-unknown-sequence": {0x00211010: tag + b"ZZ" + struct.pack("<HI", 0, undefined) + begin + end},
        "without-rows": {0x00280010: None},
        "described-behind": {
            0x00280010: None,
            0x7FE10010: element(0x00280010, "US", struct.pack("<H", 60000)),
        },
    }


def _item(value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(value)) + value


def _elements(name: str, seed: str, rows: int, columns: int, bits: int) -> dict[int, bytes]:
    def number(tag: int, value: int) -> bytes:
        return element(tag, "US", struct.pack("<H", value))

    return {
        0x00080016: text(0x00080016, "UI", CT),
        0x00080018: text(0x00080018, "UI", uid_of(seed, name)),
        0x00080060: text(0x00080060, "CS", "CT"),
        0x00100010: text(0x00100010, "PN", CANARY_NAME),
        0x00100020: text(0x00100020, "LO", CANARY_ID),
        0x0020000D: text(0x0020000D, "UI", uid_of(seed, name, "study")),
        0x0020000E: text(0x0020000E, "UI", uid_of(seed, name, "series")),
        0x00280002: number(0x00280002, 1),
        0x00280004: text(0x00280004, "CS", "MONOCHROME2"),
        0x00280010: number(0x00280010, rows),
        0x00280011: number(0x00280011, columns),
        0x00280100: number(0x00280100, bits),
        0x00280101: number(0x00280101, bits),
        0x00280102: number(0x00280102, bits - 1),
        0x00280103: number(0x00280103, 0),
    }


def bomb(
    name: str,
    seed: str,
    *,
    rows: int | None = None,
    columns: int | None = None,
    frames: Sequence[bytes] | None = None,
    number_of_frames: int | None = None,
    change: Mapping[int, bytes | None] | None = None,
) -> Hostile:
    """Return the bomb of a codec; rows and columns are those of the data set.

    `change` puts whole elements, whatever they are, in the place of tags, and takes them away by None.
    """
    side = SIDE.get(name, 65500)
    if name == "uncompressed":
        return uncompressed(seed, rows=rows or side, columns=columns or side)
    frames = [frame(name, side)] if frames is None else frames
    elements = _elements(name, seed, rows or side, columns or side, 8)
    if number_of_frames or len(frames) > 1:
        elements[0x00280008] = text(0x00280008, "IS", str(number_of_frames or len(frames)))
    items = _item(b"") + b"".join(map(_item, frames)) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    elements[_PIXELS] = element(_PIXELS, "OB", b"", 0xFFFFFFFF) + items
    for tag, whole in (change or {}).items():
        if whole is None:
            del elements[tag]
        else:
            elements[tag] = whole
    return _made(f"bomb-{name}", uid_of(seed, name), SYNTAXES[name], elements)


def uncompressed(
    seed: str,
    *,
    rows: int = 64,
    columns: int = 64,
    icon: int = 0,
    implicit: bool = False,
    pixels: bytes = bytes(64 * 64 * 2),
    change: Mapping[int, bytes | None] | None = None,
) -> Hostile:
    """Return an uncompressed image with these pixels, whatever it claims.

    `change` gives elements other values, and takes them away by None.
    """
    elements = _elements("uncompressed", seed, rows, columns, 16)
    if icon:
        nested = element(0x00280010, "US", struct.pack("<H", icon)) * 2
        if implicit:
            nested = struct.pack("<HHIH", 0x0028, 0x0010, 2, icon) * 2
        begin = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + nested
        ended = begin + struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
        elements[0x00880200] = element(0x00880200, "SQ", b"", 0xFFFFFFFF) + ended
        if implicit:
            elements[0x00880200] = struct.pack("<HHI", 0x0088, 0x0200, 0xFFFFFFFF) + ended
    elements[_PIXELS] = element(_PIXELS, "OW", pixels)
    for tag, value in (change or {}).items():
        if value is None:
            del elements[tag]
        else:
            elements[tag] = element(tag, "UI", value)
    if implicit:
        elements = {tag: _implicit(tag, one) for tag, one in elements.items()}
    syntax = IMPLICIT if implicit else EXPLICIT
    return _made("bomb-uncompressed", uid_of(seed, "uncompressed"), syntax, elements)


def _implicit(tag: int, explicit: bytes) -> bytes:
    """Return an element in Implicit VR."""
    if explicit[4:6] == b"\xff\xff" or explicit[4:8] == b"\xff\xff\xff\xff":
        return explicit
    begin = 12 if explicit[4:6] in (b"OW", b"OB", b"SQ") else 8
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(explicit) - begin) + explicit[begin:]


def _made(name: str, uid: str, syntax: str, elements: Mapping[int, bytes]) -> Hostile:
    data_set = b"".join(elements[tag] for tag in sorted(elements))
    return Hostile(name, header(uid, syntax) + data_set, uid, transfer_syntax=syntax)


HIDDEN: Mapping[str, Mapping[int, bytes | None]] = _hidden()
