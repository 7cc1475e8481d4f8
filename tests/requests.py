"""Builds A-ASSOCIATE-RQ PDUs byte by byte, right and wrong ones (DICOM PS3.8 9.3.2, PS3.7 D.3.3).

The standard library alone: the integration tests also run it inside containers.
"""

import struct

APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
VERIFICATION = b"1.2.840.10008.1.1"
IMPLICIT = b"1.2.840.10008.1.2"
EXPLICIT = b"1.2.840.10008.1.2.1"


def item(kind: int, content: bytes, length: int | None = None) -> bytes:
    """Return an item or sub-item; `length` is what it claims, its true length by default."""
    return struct.pack(">BBH", kind, 0, len(content) if length is None else length) + content


def context(
    number: int = 1,
    abstract: bytes | None = VERIFICATION,
    transfer: tuple[bytes, ...] = (IMPLICIT,),
    *,
    more: bytes = b"",
    kind: int = 0x20,
    result: int = 0,
) -> bytes:
    """Return a presentation context item."""
    parts = b"" if abstract is None else item(0x30, abstract)
    parts += b"".join(item(0x40, one) for one in transfer)
    return item(kind, bytes((number, 0, result, 0)) + parts + more)


def maximum(length: int = 16384) -> bytes:
    """Return the maximum length sub-item."""
    return item(0x51, struct.pack(">I", length))


IMPLEMENTATION = item(0x52, b"1.2.3.4")


def role(uid: bytes = VERIFICATION, claimed: int | None = None, tail: bytes = b"\1\0") -> bytes:
    """Return an SCP/SCU role selection sub-item; `claimed` is the length that it gives its UID."""
    return item(0x54, struct.pack(">H", len(uid) if claimed is None else claimed) + uid + tail)


def extended(uid: bytes = VERIFICATION, claimed: int | None = None, information: bytes = b"\1\1\1") -> bytes:
    """Return a SOP class extended negotiation sub-item."""
    return item(0x56, struct.pack(">H", len(uid) if claimed is None else claimed) + uid + information)


def identity(
    primary: bytes = b"user", secondary: bytes = b"", *, kind: int = 1, claimed: int | None = None
) -> bytes:
    """Return a user identity sub-item."""
    length = len(primary) if claimed is None else claimed
    body = struct.pack(">BBH", kind, 0, length) + primary + struct.pack(">H", len(secondary)) + secondary
    return item(0x58, body)


def user(*parts: bytes, length: int | None = None) -> bytes:
    """Return the user information item; with maximum length and implementation class by default."""
    return item(0x50, b"".join(parts) if parts else maximum() + IMPLEMENTATION, length)


def request(
    calling: bytes = b"CT1",
    called: bytes = b"STANDBY",
    *,
    items: bytes | None = None,
    contexts: bytes | None = None,
    application: bytes | None = item(0x10, APPLICATION_CONTEXT),
    information: bytes | None = None,
    version: int = 1,
    reserved: bytes = bytes(32),
    length: int | None = None,
    kind: int = 1,
) -> bytes:
    """Return the whole PDU; every argument that is given takes the place of a right part."""
    if items is None:
        items = (application or b"") + (context() if contexts is None else contexts)
        items += user() if information is None else information
    body = struct.pack(">HH", version, 0) + called.ljust(16) + calling.ljust(16) + reserved + items
    return struct.pack(">BBI", kind, 0, len(body) if length is None else length) + body


LONG = b"1." * 40 + b"1"

ACCEPTED: dict[str, bytes] = {
    "plain": request(),
    "titles padded by zeros": request(b"CT1".ljust(16, b"\0"), b"STANDBY".ljust(16, b"\0")),
    "rest of a buffer behind a title's zero": request(b"CT1\0garbage"),
    "lower-case titles": request(b"ct1", b"standby"),
    "inner blanks": request(b"CT 1 A", b"STAND BY"),
    "leading blanks": request(b"  CT1", b"  STANDBY"),
    "all printable": request(b"!#$%&'()*+,-./:;", b"<=>?@[]^_`{|}~aZ"),
    "reserved bytes of any value": request(reserved=b"\xff" * 32),
    "128 contexts": request(
        contexts=b"".join(
            context(
                2 * n + 1,
                b"1.2.840.10008.5.1.4.1.1.%d" % (n + 1),
                (IMPLICIT, EXPLICIT, b"1.2.840.10008.1.2.4.70"),
            )
            for n in range(128)
        )
    ),
    "UIDs padded by zeros": request(
        application=item(0x10, APPLICATION_CONTEXT + b"\0"),
        contexts=context(1, VERIFICATION + b"\0", (IMPLICIT + b"\0",)),
        information=user(maximum(), item(0x52, b"1.2.3\0")),
    ),
    "private class": request(contexts=context(1, b"1.2.840.113619.5.2") + context(3)),
    "UID of 64 characters": request(contexts=context(1, b"1." * 31 + b"11") + context(3)),
    "role": request(information=user(maximum(), IMPLEMENTATION, role())),
    "role of both kinds": request(information=user(maximum(), IMPLEMENTATION, role(tail=b"\1\1"))),
    "extended negotiation": request(information=user(maximum(), IMPLEMENTATION, extended())),
    "common extended negotiation": request(
        information=user(
            maximum(), IMPLEMENTATION, item(0x57, struct.pack(">H", 3) + b"1.2" + struct.pack(">H", 0))
        )
    ),
    "user identity": request(information=user(maximum(), IMPLEMENTATION, identity())),
    "user and password": request(information=user(maximum(), IMPLEMENTATION, identity(b"a", b"b", kind=2))),
    "asynchronous window": request(information=user(maximum(), IMPLEMENTATION, item(0x53, b"\0\1\0\1"))),
    "version name": request(information=user(maximum(), IMPLEMENTATION, item(0x55, b"OFFIS_DCMTK_370"))),
    "version name of 20": request(information=user(maximum(), IMPLEMENTATION, item(0x55, b"X" * 20))),
    "unknown sub-item": request(information=user(maximum(), IMPLEMENTATION, item(0x5F, b"xyz"))),
    "unknown item": request(items=item(0x10, APPLICATION_CONTEXT) + item(0x77, b"xyz") + context() + user()),
    "items in another order": request(items=user() + context() + item(0x10, APPLICATION_CONTEXT)),
    "no implementation class": request(information=user(maximum())),
    "unlimited PDU": request(information=user(maximum(0), IMPLEMENTATION)),
    "no maximum length": request(information=user(IMPLEMENTATION)),
    "version 3": request(version=3),
    "no user information": request(information=b""),
    "empty user information": request(information=item(0x50, b"")),
    "class padded by a blank": request(contexts=context(1, VERIFICATION + b" ")),
    "umlaut in a title": request(b"CT\xdc1"),
    "maximum length of 6": request(information=user(maximum(6), IMPLEMENTATION)),
    "unknown sub-item of a context": request(contexts=context(more=item(0x41, b"x"))),
    "bytes behind the request": request() + b"x",
}
"""What devices send and Orthanc accepts at once."""

REFUSED: dict[str, bytes] = {
    "blank called title": request(called=b" " * 16),
    "zero called title": request(called=b"\0" * 16),
    "blank calling title": request(b" " * 16),
    "zero calling title": request(b"\0" * 16),
    "leading zero in calling title": request(b"\0CT1"),
    "leading zero in called title": request(called=b"\0CT1"),
    "backslash in calling title": request(b"A\\B"),
    "backslash in called title": request(called=b"A\\B"),
    "tab in calling title": request(b"A\tB"),
    "tab in called title": request(called=b"A\tB"),
    "escape in calling title": request(b"\x1b[2J"),
    "line end in calling title": request(b"A\nB"),
    "delete in calling title": request(b"CT\x7f"),
    "even context ID": request(contexts=context(2)),
    "context ID 0": request(contexts=context(0)),
    "context ID twice": request(contexts=context(1) + context(1)),
    "two abstract syntaxes": request(contexts=context(1, more=item(0x30, VERIFICATION))),
    "letters in a class UID": request(contexts=context(1, b"1.2.x") + context(3)),
    "application context padded by a blank": request(application=item(0x10, APPLICATION_CONTEXT + b" ")),
    "two application contexts": request(application=item(0x10, APPLICATION_CONTEXT) * 2),
    "two user informations": request(information=user() + user()),
    "two maximum lengths": request(information=user(maximum(), maximum(), IMPLEMENTATION)),
    "maximum length of 2 bytes": request(information=user(item(0x51, b"\0\1"), IMPLEMENTATION)),
    "asynchronous window of 2 bytes": request(information=user(maximum(), item(0x53, b"\0\1"))),
    "role with more behind it": request(information=user(maximum(), role(tail=b"\1\0\0\0"))),
    "role of a UID of 81": request(information=user(maximum(), role(LONG))),
    "answer to a user identity": request(information=user(maximum(), item(0x59, b"\0\0"))),
    "no context": request(contexts=b""),
    "no transfer syntax": request(contexts=context(transfer=())),
    "no abstract syntax": request(contexts=context(abstract=None)),
    "empty abstract syntax": request(contexts=context(abstract=b"")),
    "empty transfer syntax": request(contexts=context(transfer=(b"",))),
    "accepted context in a request": request(contexts=context(kind=0x21)),
    "refused context in a request": request(contexts=context(kind=0x21, result=3)),
    "class UID of 81": request(contexts=context(1, LONG)),
    "transfer syntax of 81": request(contexts=context(transfer=(LONG,))),
    "implementation class of 81": request(information=user(maximum(), item(0x52, LONG))),
    "version name of 81": request(information=user(maximum(), IMPLEMENTATION, item(0x55, LONG))),
    "application context of 81": request(application=item(0x10, LONG)),
    "another application context": request(application=item(0x10, b"1.2.840.10008.3.1.1.2")),
    "no application context": request(application=None),
    "protocol version 0": request(version=0),
    "protocol version 2": request(version=2),
    "three bytes behind the last item": request(information=user() + b"\0\0\0"),
    "a zero behind the last item": request(information=user() + b"\0"),
    "item longer than the PDU": request(
        items=item(0x10, APPLICATION_CONTEXT) + item(0x20, b"\1\0\0\0", 5000)
    ),
    "user information longer than the PDU": request(information=user(length=500)),
    "context longer than the PDU": request(contexts=b"", information=item(0x20, b"\1\0\0\0", 60)),
    "context of 2 bytes": request(contexts=item(0x20, b"\1\0")),
    "syntax longer than its context": request(contexts=context(more=item(0x40, IMPLICIT, 500))),
    "sub-item longer than its item": request(information=user(maximum(), item(0x52, b"1.2", 400))),
    "role with a lying length": request(information=user(maximum(), IMPLEMENTATION, role(claimed=60))),
    "role of 2 bytes": request(information=user(maximum(), IMPLEMENTATION, item(0x54, b"\0\0"))),
    "extended negotiation with a lying length": request(information=user(maximum(), extended(claimed=600))),
    "user identity with a lying length": request(information=user(maximum(), identity(claimed=600))),
    "user identity of 2 bytes": request(information=user(maximum(), item(0x58, b"\1\0"))),
    "more transfer syntaxes than names of DICOM fit": request(
        contexts=b"".join(context(number, transfer=(b"1",) * 94) for number in range(1, 256, 2))
    ),
    "fixed part alone": request(items=b""),
    "PDU of 10 bytes": struct.pack(">BBI", 1, 0, 10) + bytes(10),
    "PDU of no bytes": struct.pack(">BBI", 1, 0, 0),
}
"""What held Orthanc's intake up, or is no request."""
