"""Makes association requests and P-DATA, valid ones and ones with faults (DICOM PS3.8 9.3)."""

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
VERIFICATION = b"1.2.840.10008.1.1"
CT = b"1.2.840.10008.5.1.4.1.1.2"
FIND = b"1.2.840.10008.5.1.4.1.2.2.1"
GET = b"1.2.840.10008.5.1.4.1.2.2.3"
MOVE = b"1.2.840.10008.5.1.4.1.2.2.2"
IMPLICIT, EXPLICIT = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1"

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    """Return a PDU; `length` may lie."""
    return struct.pack(">BBI", kind, 0, len(body) if length is None else length) + body


def item(kind: int, body: bytes, length: int | None = None) -> bytes:
    """Return an item of an association request; `length` may lie."""
    size = len(body) if length is None else length
    return struct.pack(">BBH", kind, 0, size & 0xFFFF) + body


@dataclass(slots=True)
class Request:
    """An A-ASSOCIATE-RQ by its parts, each of which may be wrong."""

    calling: bytes = b"CT1"
    called: bytes = b"UNDERSTUDY"
    contexts: list[tuple[int, bytes, list[bytes]]] = field(
        default_factory=lambda: [(1, VERIFICATION, [IMPLICIT])]
    )
    version: int = 1
    application_context: bytes = APPLICATION_CONTEXT
    user_items: list[bytes] = field(
        default_factory=lambda: [item(0x51, struct.pack(">I", 16384)), item(0x52, b"2.25.1")]
    )
    behind: bytes = b""
    """Bytes after the last item, counted in the PDU's length."""

    def encoded(self) -> bytes:
        items = item(0x10, self.application_context)
        for number, abstract, transfers in self.contexts:
            inner = item(0x30, abstract) + b"".join(item(0x40, one) for one in transfers)
            items += item(0x20, bytes([number & 0xFF, 0, 0, 0]) + inner)
        items += item(0x50, b"".join(self.user_items))
        titles = self.called.ljust(16)[:16] + self.calling.ljust(16)[:16]
        return pdu(
            ASSOCIATE_RQ, struct.pack(">HH", self.version, 0) + titles + bytes(32) + items + self.behind
        )


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of faulty request, by its name."""

    name: str
    content: bytes


def faulty_requests(calling: bytes = b"CT1") -> list[Shape]:
    """Return every kind of faulty request that stopped all intake once, and its neighbours."""

    def made(**parts: object) -> bytes:
        return Request(calling=calling, **parts).encoded()  # type: ignore[arg-type]

    usual = [item(0x51, struct.pack(">I", 16384)), item(0x52, b"2.25.1")]
    whole = made()
    long_item = made(contexts=[(1, VERIFICATION, [IMPLICIT])])
    return [
        Shape("called title blank", made(called=b" " * 16)),
        Shape("called title NUL", made(called=b"\0" * 16)),
        Shape("called title with a tab", made(called=b"A\tB")),
        Shape("called title with a backslash", made(called=b"A\\B")),
        Shape("called title with a leading NUL", made(called=b"\0AB")),
        Shape("calling title blank", Request(calling=b" " * 16).encoded()),
        Shape("calling title with a backslash", Request(calling=b"CT\\1").encoded()),
        Shape("calling title with a line end", Request(calling=b"CT\n1").encoded()),
        Shape("no context", made(contexts=[])),
        Shape("no transfer syntax", made(contexts=[(1, VERIFICATION, [])])),
        Shape("context number even", made(contexts=[(2, VERIFICATION, [IMPLICIT])])),
        Shape("context number twice", made(contexts=[(1, VERIFICATION, [IMPLICIT]), (1, CT, [IMPLICIT])])),
        Shape("abstract syntax empty", made(contexts=[(1, b"", [IMPLICIT])])),
        Shape("abstract syntax of 80 characters", made(contexts=[(1, b"1." * 39 + b"11", [IMPLICIT])])),
        Shape(
            "abstract syntax that is a long run of blanks",
            made(contexts=[(1, b" " * 64_000 + b"x", [IMPLICIT])]),
        ),
        Shape("transfer syntax no UID", made(contexts=[(1, VERIFICATION, [b"not a UID"])])),
        Shape("bytes behind the last item", made(behind=b"\xff" * 7)),
        Shape("one byte behind the last item", made(behind=b"\x10")),
        Shape("item longer than the PDU", long_item[:-2] + struct.pack(">H", 0xFFFF)),
        Shape("item longer than its parent", made(user_items=[item(0x51, bytes(4), 400), usual[1]])),
        Shape(
            "implementation class of 81 characters",
            made(user_items=[usual[0], item(0x52, b"1." * 40 + b"1")]),
        ),
        Shape("maximum length of 3 bytes", made(user_items=[item(0x51, b"\0\0\0"), usual[1]])),
        Shape(
            "role selection with a lying length",
            made(user_items=[*usual, item(0x54, struct.pack(">H", 500) + CT + b"\1\1")]),
        ),
        Shape("role selection without a UID", made(user_items=[*usual, item(0x54, b"\0\0\1\1")])),
        Shape(
            "extended negotiation with a lying length",
            made(user_items=[*usual, item(0x56, struct.pack(">H", 9000) + CT)]),
        ),
        Shape(
            "user identity with a lying length",
            made(user_items=[*usual, item(0x58, b"\1\0" + struct.pack(">H", 9000) + b"x")]),
        ),
        Shape("application context of another protocol", made(application_context=b"1.2.3")),
        Shape("application context of 81 characters", made(application_context=b"1." * 40 + b"1")),
        Shape("application context empty", made(application_context=b"")),
        Shape("protocol version 0", made(version=0)),
        Shape("protocol version 2", made(version=2)),
        Shape("P-DATA first", pdu(P_DATA, struct.pack(">IBB", 6, 1, 3) + bytes(4))),
        Shape("release first", pdu(RELEASE_RQ, bytes(4))),
        Shape("unknown PDU first", pdu(0x42, bytes(4))),
        Shape("PDU of 4 GB", whole[:2] + struct.pack(">I", 0xFFFFFFFE) + whole[6:]),
        Shape("PDU longer than what comes", whole[:2] + struct.pack(">I", len(whole) + 900) + whole[6:]),
        Shape("PDU shorter than its fixed part", pdu(ASSOCIATE_RQ, bytes(10))),
        Shape("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        Shape("TLS", bytes.fromhex("16030100c8010000c403035b") + bytes(190)),
    ]


def _title(chance: random.Random) -> bytes:
    return chance.choice(
        [
            b"CT1",
            b"WS1",
            b"PACS",
            b"MR1",
            b"ct1",
            b"CT1\0",
            b" CT1",
            bytes(chance.randrange(256) for _ in range(16)),
            b"[/red]",
            b"<b>x</b>",
            b"x" * 16,
            b"",
        ]
    )


def _uid(chance: random.Random) -> bytes:
    return chance.choice(
        [
            VERIFICATION,
            CT,
            FIND,
            GET,
            MOVE,
            IMPLICIT,
            EXPLICIT,
            b"1.2.840.10008.1.2.4.50",
            b"1.2.840.10008.1.20.1",
            b"1.2.840.113619.5.2",
            b"1." * chance.randrange(1, 60) + b"1",
            bytes(chance.randrange(256) for _ in range(chance.randrange(70))),
            b"",
            CT + b"\0",
        ]
    )


def random_request(chance: random.Random) -> bytes:
    """Return a request made by the grammar, then damaged in some places or in none."""
    contexts = [
        (
            chance.choice([1, 3, 5, 255, 0, 2, chance.randrange(256)]),
            _uid(chance),
            [_uid(chance) for _ in range(chance.choice([0, 1, 1, 2, 5]))],
        )
        for _ in range(chance.choice([0, 1, 1, 1, 3, 128, 200]))
    ]
    subitems = [
        lambda: item(0x51, struct.pack(">I", chance.choice([0, 1, 127, 16384, 0xFFFFFFFF]))),
        lambda: item(0x52, _uid(chance)),
        lambda: item(0x53, struct.pack(">HH", chance.randrange(3), chance.randrange(3))),
        lambda: item(0x54, struct.pack(">H", chance.choice([0, 4, 25, 900])) + _uid(chance) + b"\1\1"),
        lambda: item(0x55, bytes(chance.randrange(32, 127) for _ in range(chance.randrange(40)))),
        lambda: item(0x56, struct.pack(">H", chance.choice([0, 25, 5000])) + _uid(chance) + b"\1\1\1"),
        lambda: item(
            0x58, struct.pack(">BBH", chance.randrange(8), 1, chance.choice([0, 4, 60000])) + b"name"
        ),
        lambda: item(chance.randrange(256), chance.randbytes(chance.randrange(50))),
    ]
    content = bytearray(
        Request(
            calling=_title(chance),
            called=chance.choice([b"UNDERSTUDY", b"PACS", _title(chance)]),
            contexts=contexts,
            version=chance.choice([1, 1, 1, 0, 2, 0xFFFF]),
            application_context=chance.choice([APPLICATION_CONTEXT, APPLICATION_CONTEXT, _uid(chance)]),
            user_items=[chance.choice(subitems)() for _ in range(chance.randrange(5))],
            behind=chance.choice([b"", b"", b"", chance.randbytes(chance.randrange(40))]),
        ).encoded()
    )
    for _ in range(chance.choice([0, 0, 1, 1, 2, 6])):
        place = chance.randrange(len(content))
        act = chance.randrange(4)
        if act == 0:
            content[place] = chance.randrange(256)
        elif act == 1:
            del content[place : place + chance.randrange(1, 20)]
        elif act == 2:
            content[place:place] = chance.randbytes(chance.randrange(1, 20))
        else:
            content[place : place + 2] = struct.pack(">H", chance.choice([0, 1, 0x7FFF, 0xFFFF]))
        if not content:
            return b"\1"
    if chance.random() < 0.6 and len(content) >= 6:
        # Otherwise nearly all would fail for the length alone.
        content[2:6] = struct.pack(">I", len(content) - 6)
    return bytes(content)


def command(fields: dict[int, bytes], group_length: int | None = None) -> bytes:
    """Return a command set in Implicit VR Little Endian (PS3.7 6.3.1); `group_length` may lie."""
    content = b"".join(
        struct.pack("<HHI", 0, number, len(value) + len(value) % 2) + value + b"\0" * (len(value) % 2)
        for number, value in fields.items()
    )
    length = len(content) if group_length is None else group_length
    return struct.pack("<HHII", 0, 0, 4, length & 0xFFFFFFFF) + content


def value_item(context: int, control: int, content: bytes, length: int | None = None) -> bytes:
    """Return a presentation data value; `length` may lie."""
    size = len(content) + 2 if length is None else length
    return struct.pack(">IBB", size & 0xFFFFFFFF, context & 0xFF, control & 0xFF) + content


def message(kind: int, sop_class: bytes, data: bytes, *, context: int = 1, uid: bytes = b"") -> bytes:
    """Return a request with its data set as P-DATA."""
    fields = {
        0x0002: sop_class,
        0x0100: struct.pack("<H", kind),
        0x0110: struct.pack("<H", 1),
        0x0700: struct.pack("<H", 0),
        0x0800: struct.pack("<H", 0x0001 if data else 0x0101),
    }
    if uid:
        fields[0x1000] = uid
    out = pdu(P_DATA, value_item(context, 3, command(fields)))
    for start in range(0, len(data), 16000):
        last = start + 16000 >= len(data)
        out += pdu(P_DATA, value_item(context, 2 if last else 0, data[start : start + 16000]))
    return out


def random_data(chance: random.Random, valid: Callable[[], bytes]) -> bytes:
    """Return what is said after an association is accepted: a valid message, damaged, cut or out of turn."""
    content = bytearray(valid())
    for _ in range(chance.choice([0, 1, 1, 2, 4])):
        place = chance.randrange(len(content))
        act = chance.randrange(5)
        if act == 0:
            content[place] = chance.randrange(256)
        elif act == 1:
            del content[place : place + chance.randrange(1, 60)]
        elif act == 2:
            content[place:place] = chance.randbytes(chance.randrange(1, 60))
        elif act == 3:
            content[place : place + 4] = struct.pack(
                chance.choice("<>") + "I", chance.choice([0, 1, 2, 0x7FFFFFFF, 0xFFFFFFFF])
            )
        else:
            content[place:place] = chance.choice(
                [
                    pdu(RELEASE_RQ, bytes(4)),
                    pdu(ABORT, bytes(4)),
                    pdu(P_DATA, b""),
                    pdu(P_DATA, value_item(chance.randrange(256), chance.randrange(256), b"x")),
                    pdu(P_DATA, value_item(1, 3, b"", 0)),
                    pdu(ASSOCIATE_AC, bytes(80)),
                    pdu(chance.randrange(256), chance.randbytes(20)),
                    Request().encoded(),
                ]
            )
        if not content:
            return b"\4"
    return bytes(content)
