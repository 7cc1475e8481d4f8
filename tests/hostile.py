"""Makes the hostile objects: files that a broken or malicious peer may send, each with a planted patient.

Rule 1: the bytes are written here, element by element, since a DICOM library refuses to write most of them.
Rule 2: what comes out depends on the arguments alone. Every object names the planted patient where it can, so
that a log which shows it shows the fault.
"""

import gzip
import hashlib
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

CANARY_NAME = "CANARY^QUOKKA"
CANARY_ID = "CANARY-PATIENT"
CANARY_TEXT = "CANARY-FREE-TEXT"
CANARIES = ("CANARY", "QUOKKA")
FORGED = "understudy.forged mode standby -> active"
"""What a log line would say if a name could begin one."""

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
DEPTHS = (10, 32, 33, 49, 50, 64, 100, 1000, 50_000)
BOMB = 2**30
"""Bytes that a bomb inflates to: more than Orthanc's parser may keep, and half of its container's memory."""

_LONG = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_PIXELS = 0x7FE00010
_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class Hostile:
    """One object; `uid` is the SOP Instance UID that it claims, as far as it does."""

    name: str
    content: bytes
    uid: str
    sop_class: str = CT
    transfer_syntax: str = EXPLICIT
    headers: Mapping[str, str] | None = None
    """Of its REST request; an object that has some is no Part 10 file, and is sent by REST alone."""

    @property
    def data_set(self) -> bytes:
        """What follows the file meta information: what a C-STORE carries."""
        if self.content[128:132] != b"DICM" or len(self.content) < 144:
            return self.content
        return self.content[144 + struct.unpack_from("<I", self.content, 140)[0] :]


def element(tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    """Return an element in Explicit VR Little Endian (DICOM PS3.5 7.1.2); `length` may lie."""
    size = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    return head + (struct.pack("<HI", 0, size) if vr in _LONG else struct.pack("<H", size)) + value


def text(tag: int, vr: str, value: str | bytes) -> bytes:
    """Return an element with an even number of bytes, padded as its VR wants."""
    raw = value.encode("latin-1") if isinstance(value, str) else value
    pad = b"\0" if vr == "UI" else b" "
    return element(tag, vr, raw + pad * (len(raw) % 2))


def empty_elements(count: int) -> Iterator[bytes]:
    """Yield so many private elements without a value, 2000 at a time; no tag comes twice."""
    of_group = 0xF000
    for begin in range(0, count, 2000):
        yield b"".join(
            element((0x0011 + 2 * (number // of_group)) << 16 | 0x1000 + number % of_group, "LO", b"")
            for number in range(begin, min(begin + 2000, count))
        )


def many_elements(seed: str, count: int, vr: str = "LO") -> "Hostile":
    """Return a valid image with so many private elements of two bytes before the UIDs of study and series."""
    maker, of_group = _Maker("many-elements", seed), 0xF000
    maker.elements[0x00110000] = b"".join(
        element((0x0011 + 2 * (number // of_group)) << 16 | 0x1000 + number % of_group, vr, b"A ")
        for number in range(count)
    )
    return maker.made()


def uid_of(*parts: str) -> str:
    """Return a UID that the parts alone decide (DICOM PS3.5 B.2)."""
    return f"2.25.{int.from_bytes(hashlib.sha256('/'.join(parts).encode()).digest()[:15])}"


def header(uid: str, transfer_syntax: str = EXPLICIT) -> bytes:
    """Return what a Part 10 file begins with, before its data set (DICOM PS3.10 7.1)."""
    meta = (
        element(0x00020001, "OB", b"\0\1")
        + text(0x00020002, "UI", CT)
        + text(0x00020003, "UI", uid)
        + text(0x00020010, "UI", transfer_syntax)
        + text(0x00020012, "UI", "2.25.1")
    )
    return bytes(128) + b"DICM" + element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta


def nested_by_length(depth: int) -> bytes:
    """Return a sequence (0008,4011) nested this deep, whose lengths say where each ends."""
    content = b""
    for _ in range(depth):
        content = element(0x00084011, "SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content)
    return content


def nested(depth: int) -> bytes:
    """Return a sequence (0008,4011) nested this deep, all of undefined length."""
    begin = struct.pack("<HH2sHI", 0x0008, 0x4011, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    end = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return (begin + item) * depth + end * depth


def _deflated(before: bytes, zeros: int) -> bytes:
    """Return the bytes and so many zeros as one deflated stream.

    A block that follows a full flush says the same wherever it stands (RFC 1951), so it is made once.
    """

    def flushed(content: bytes) -> bytes:
        packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        return packer.compress(content) + packer.flush(zlib.Z_FULL_FLUSH)

    end = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS).flush()
    return flushed(before) + flushed(bytes(_BLOCK)) * (zeros // _BLOCK) + end


def _check_sum(zeros: int) -> int:
    block, found = bytes(_BLOCK), 0
    for _ in range(zeros // _BLOCK):
        found = zlib.crc32(block, found)
    return found


def _gzip(deflated: bytes, check_sum: int, size: int) -> bytes:
    """Return a gzip member (RFC 1952)."""
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + deflated + struct.pack("<II", check_sum, size)


def _zip(name: bytes, deflated: bytes, check_sum: int, size: int) -> bytes:
    """Return an archive of one file (APPNOTE.TXT 4.3)."""
    fields = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, check_sum, len(deflated), size, len(name), 0)
    local = b"PK\3\4" + fields + name + deflated
    central = b"PK\1\2" + struct.pack("<H", 20) + fields + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name
    return local + central + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), len(local), 0)


class _Maker:
    """Makes one small valid CT image, of which each object changes something."""

    def __init__(self, name: str, seed: str) -> None:
        self.name = name
        self.uid = uid_of(seed, name)
        self.elements = {
            0x00080005: text(0x00080005, "CS", "ISO_IR 192"),
            0x00080016: text(0x00080016, "UI", CT),
            0x00080018: text(0x00080018, "UI", self.uid),
            0x00080020: text(0x00080020, "DA", "20250102"),
            0x00080060: text(0x00080060, "CS", "CT"),
            0x00081030: text(0x00081030, "LO", CANARY_TEXT),
            0x00100010: text(0x00100010, "PN", CANARY_NAME),
            0x00100020: text(0x00100020, "LO", CANARY_ID),
            0x00100030: text(0x00100030, "DA", "19330303"),
            0x0020000D: text(0x0020000D, "UI", uid_of(seed, name, "study")),
            0x0020000E: text(0x0020000E, "UI", uid_of(seed, name, "series")),
            0x00200013: text(0x00200013, "IS", "1"),
            0x00280002: element(0x00280002, "US", struct.pack("<H", 1)),
            0x00280004: text(0x00280004, "CS", "MONOCHROME2"),
            0x00280010: element(0x00280010, "US", struct.pack("<H", 64)),
            0x00280011: element(0x00280011, "US", struct.pack("<H", 64)),
            0x00280100: element(0x00280100, "US", struct.pack("<H", 16)),
            0x00280101: element(0x00280101, "US", struct.pack("<H", 12)),
            0x00280102: element(0x00280102, "US", struct.pack("<H", 11)),
            0x00280103: element(0x00280103, "US", struct.pack("<H", 0)),
            _PIXELS: element(_PIXELS, "OW", hashlib.shake_256(self.uid.encode()).digest(8192)),
        }

    def data_set(self) -> bytes:
        return b"".join(self.elements[tag] for tag in sorted(self.elements))

    def made(self, claimed: str | None = None) -> Hostile:
        uid = self.uid if claimed is None else claimed
        data_set = self.data_set()
        return Hostile(self.name, header(uid) + data_set, uid)


def good(seed: str, size: int = 0) -> Hostile:
    """Return the valid image itself, made larger by so many bytes."""
    maker = _Maker("good", seed)
    if size:
        maker.elements[0x00090010] = text(0x00090010, "LO", "UNDERSTUDY")
        maker.elements[0x00091001] = element(0x00091001, "OB", hashlib.shake_256(seed.encode()).digest(size))
    return maker.made()


def without_series(seed: str, size: int) -> Hostile:
    """Return an image of so many bytes that names no series."""
    whole = good(seed, size)
    series = text(0x0020000E, "UI", uid_of(seed, "good", "series"))
    return Hostile("without-series", whole.content.replace(series, b""), whole.uid)


def corpus(seed: str, bomb: int = BOMB) -> Iterator[Hostile]:
    """Yield every object in turn, each in a study of its own; another seed gives other UIDs.

    `bomb` is what a bomb inflates to.
    """
    for make in (_broken, _lying, partial(_bombs, bomb), _nested, _uids, _texts, _large, _missing):
        yield from make(seed)


def _broken(seed: str) -> Iterator[Hostile]:
    whole = _Maker("truncated", seed).made()
    meta_end = len(whole.content) - len(whole.data_set)
    patient = whole.content.index(CANARY_NAME.encode())
    pixels = len(whole.content) - 8192
    places = {
        "preamble": 100,
        "magic": 132,
        "meta": 180,
        "meta-end": meta_end,
        "tag": meta_end + 2,
        "length": meta_end + 7,
        "name": patient + 6,
        "before-pixels": pixels - 12,
        "pixel-header": pixels - 3,
        "half-pixels": pixels + 4096,
        "last-byte": len(whole.content) - 1,
    }
    for place, size in places.items():
        own = _Maker(f"truncated-{place}", seed).made()
        # All are of one length, as their UIDs are: a shorter one would be cut elsewhere.
        shift = len(own.content) - len(whole.content)
        yield Hostile(own.name, own.content[: size if size <= 180 else size + shift], own.uid)
    yield Hostile("empty", b"", uid_of(seed, "empty"))
    yield Hostile("random", hashlib.shake_256(seed.encode()).digest(65536), uid_of(seed, "random"))
    maker = _Maker("random-after-meta", seed)
    noise = hashlib.shake_256(b"after" + seed.encode()).digest(65536)
    yield Hostile(maker.name, header(maker.uid) + noise, maker.uid)


def _lying(seed: str) -> Iterator[Hostile]:
    for name, tag, vr in (
        ("pixels", _PIXELS, "OW"),
        ("private", 0x00091010, "UN"),
        ("text", 0x00204000, "UT"),
    ):
        maker = _Maker(f"4gb-{name}", seed)
        maker.elements[tag] = element(tag, vr, bytes(8192), 0xFFFFFFF0)
        yield maker.made()
    maker = _Maker("huge-frames", seed)
    for tag in (0x00280010, 0x00280011):
        maker.elements[tag] = element(tag, "US", struct.pack("<H", 65535))
    maker.elements[0x00280008] = text(0x00280008, "IS", "2147483647")
    yield maker.made()


def _bombs(size: int, seed: str) -> Iterator[Hostile]:
    for name, zeros in (("deflate-bomb", size), ("deflate-good", 0)):
        maker = _Maker(name, seed)
        if zeros:
            maker.elements[_PIXELS] = element(_PIXELS, "OW", b"", zeros)
        data_set = _deflated(maker.data_set(), zeros)
        # One of an odd length gets a zero more (DICOM PS3.5 A.5).
        content = header(maker.uid, DEFLATED) + data_set + bytes(len(data_set) % 2)
        yield Hostile(maker.name, content, maker.uid, transfer_syntax=DEFLATED)
    bomb = (_deflated(b"", size), _check_sum(size), size)
    yield Hostile("gzip-bomb", _gzip(*bomb), "", headers={"Content-Encoding": "gzip"})
    yield Hostile("zip-bomb", _zip(b"bomb.dcm", *bomb), "", headers={"Content-Type": "application/zip"})
    small = gzip.compress(_Maker("gzip-good", seed).made().content)
    yield Hostile("gzip-good", small, uid_of(seed, "gzip-good"), headers={"Content-Encoding": "gzip"})


def _nested(seed: str) -> Iterator[Hostile]:
    for depth in DEPTHS:
        maker = _Maker(f"nested-{depth}", seed)
        maker.elements[0x00084011] = nested(depth)
        yield maker.made()
    maker = _Maker("nested-by-length-100", seed)
    maker.elements[0x00084011] = nested_by_length(100)
    yield maker.made()


def _uids(seed: str) -> Iterator[Hostile]:
    values: Mapping[str, str] = {
        "path": "../../etc/passwd",
        "absolute": "/etc/passwd",
        "76": "1." + "2" * 74,
        "blanks": "    ",
        "backslash": "1.2\\3.4",
        "wildcard": "1.2.*",
        "question": "1.?.3",
        "letters": "<script>alert(1)</script>",
        "quote": "1.2';DROP TABLE Resources;--",
        "newline": f"1.2\n{FORGED}",
        "zero": "1.02.003",
        "nul": "1.2\0003",
    }
    for where, tag in (("sop", 0x00080018), ("series", 0x0020000E), ("study", 0x0020000D)):
        for name, value in values.items():
            maker = _Maker(f"{where}-uid-{name}", seed)
            # The seed keeps the ones apart that come by two ways; the form of the value stays.
            own = value if tag != 0x00080018 or name in ("blanks", "76") else f"{value}{seed}"
            maker.elements[tag] = text(tag, "UI", own)
            yield maker.made(own if tag == 0x00080018 else None)


def _texts(seed: str) -> Iterator[Hostile]:
    values: Mapping[str, tuple[int, str, str | bytes]] = {
        "name-newline": (0x00100010, "PN", f"{CANARY_NAME}\r\n{FORGED}"),
        "id-newline": (0x00100020, "LO", f"{CANARY_ID}\n{FORGED}"),
        "name-terminal": (0x00100010, "PN", f"\x1b[2J\x1b]0;{CANARY_NAME}\x07\x1b[31m"),
        "id-terminal": (0x00100020, "LO", f"\x1b[1A{CANARY_ID}\x08\x08\x7f"),
        "name-nul": (0x00100010, "PN", f"CAN\0ARY^{CANARY_NAME}"),
        "name-html": (0x00100010, "PN", f"<img src=x onerror=alert('{CANARY_NAME}')>"),
        "id-sql": (0x00100020, "LO", f"{CANARY_ID}'; DROP TABLE instances; --"),
        "id-wildcards": (0x00100020, "LO", "*"),
        "modality-long": (0x00080060, "CS", "CT" * 2000),
        "date-wrong": (0x00080020, "DA", "99999999"),
        "charset-unknown": (0x00080005, "CS", "NO_SUCH_SET"),
        "charset-utf8-broken": (0x00100010, "PN", CANARY_NAME.encode() + b"\xff\xfe\xc3\x28\xed\xa0\x80"),
        "pn-64k": (0x00100010, "PN", (CANARY_NAME * 6000)[:65534]),
    }
    for name, (tag, vr, value) in values.items():
        maker = _Maker(name, seed)
        maker.elements[tag] = text(tag, vr, value)
        yield maker.made()
    maker = _Maker("charset-iso2022-broken", seed)
    maker.elements[0x00080005] = text(0x00080005, "CS", "\\ISO 2022 IR 87\\ISO 2022 IR 149")
    maker.elements[0x00100010] = text(
        0x00100010, "PN", CANARY_NAME.encode() + b"=\x1b$B\xff\xff\x1b$)C\xa1=\x1b"
    )
    yield maker.made()


def _large(seed: str) -> Iterator[Hostile]:
    maker = _Maker("private-20mb", seed)
    maker.elements[0x00090010] = text(0x00090010, "LO", CANARY_TEXT)
    maker.elements[0x00091001] = element(0x00091001, "OB", hashlib.shake_256(b"x").digest(2**20) * 20)
    yield maker.made()
    maker = _Maker("elements-50000", seed)
    maker.elements[0x00110010] = text(0x00110010, "LO", CANARY_TEXT)
    maker.elements[0x00111000] = b"".join(element(0x00111000 + number, "UN", b"") for number in range(50_000))
    yield maker.made()


def _missing(seed: str) -> Iterator[Hostile]:
    tags = {
        "sop-class": (0x00080016,),
        "sop-instance": (0x00080018,),
        "study": (0x0020000D,),
        "series": (0x0020000E,),
        "all-uids": (0x00080016, 0x00080018, 0x0020000D, 0x0020000E),
        "patient-id": (0x00100020,),
        "pixels": (_PIXELS,),
    }
    for name, gone in tags.items():
        maker = _Maker(f"without-{name}", seed)
        for tag in gone:
            del maker.elements[tag]
        yield maker.made()
    maker = _Maker("without-study-id-newline", seed)
    del maker.elements[0x0020000D]
    maker.elements[0x00100020] = text(0x00100020, "LO", f"1\n{CANARY_ID}\n{FORGED}")
    yield maker.made()
