#!/usr/bin/python3 -IS
"""A container's health check: exits 0 if the service named by its argument does its work; it takes 50 ms.

A healthy `orthanc` accepts a store, and a healthy `edge` accepts an association. So the check acts as a
modality, in DICOM (PS3.8 9.3, PS3.7 9.3), from an address and an AE title that only this container has.

Rule 1: a check leaves nothing behind. Orthanc's plugin knows the object that is stored here, tests everything
that a store needs, and answers with a status that no other store gets (plugins/understudy/plugin/probe.py).
Rule 2: one time limit holds for the whole check, so a peer that answers byte by byte is not healthy.
"""

import base64
import socket
import struct
import sys
import time
from pathlib import Path

AGENT_SOCKET = "/run/understudy/agent.sock"
FULL = Path("/run/understudy-intake/refuse-intake")
KEYS = Path("/var/lib/understudy-keys")
TIMEOUT_SECONDS = 9
"""Less than compose allows; a busy Orthanc answers a store within a second."""

CHECK_TITLE = "UNDERSTUDY-CHECK"
PROBE_UID = "2.25.88006"
PROBED = 0xC0DE
"""As in plugins/understudy/plugin/probe.py."""
VERIFICATION, CT = "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT = "1.2.840.10008.1.2"
SUCCESS = 0


class UnhealthyError(Exception):
    """The service does not do its work; the message says why."""


class Connection:
    """A stream with one time limit for the whole check."""

    def __init__(self, stream: socket.socket, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def send(self, content: bytes) -> None:
        """Send the whole content."""
        self._limit()
        self._stream.sendall(content)

    def exactly(self, size: int) -> bytes:
        """Return exactly `size` bytes."""
        received = b""
        while len(received) < size:
            self._limit()
            more = self._stream.recv(size - len(received))
            if not more:
                raise UnhealthyError("the connection was closed")
            received += more
        return received

    def status(self, path: str, header: str = "") -> str:
        """Return the status code of a GET of the path."""
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n"
        self.send(request.encode())
        status = self.exactly(12).decode("latin-1")[9:]
        # Read to the end, because Orthanc logs an error if a client does not read the whole answer.
        self._limit()
        while self._stream.recv(65536):
            self._limit()
        return status

    def _limit(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("it takes too long")
        self._stream.settimeout(left)


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(body)) + body


def _element(tag: tuple[int, int], value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", *tag, len(value)) + value


class Association:
    """A DICOM association like a modality's; presentation context 1 is for C-ECHO and 3 for C-STORE."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        contexts = b"".join(
            _item(0x20, bytes([context, 0, 0, 0]) + _item(0x30, of.encode()) + _item(0x40, IMPLICIT.encode()))
            for context, of in ((1, VERIFICATION), (3, CT))
        )
        user = _item(0x50, _item(0x51, struct.pack(">I", 16384)) + _item(0x52, PROBE_UID.encode()))
        titles = b"UNDERSTUDY".ljust(16) + CHECK_TITLE.encode().ljust(16)
        items = _item(0x10, b"1.2.840.10008.3.1.1.1") + contexts + user
        body = struct.pack(">HH", 1, 0) + titles + bytes(32) + items
        connection.send(struct.pack(">BBI", 1, 0, len(body)) + body)
        kind, answer = self._pdu()
        if kind != 2:
            raise UnhealthyError(f"an association is refused (PDU {kind}, {answer[1:4].hex()})")

    def echo(self) -> None:
        """Send a C-ECHO; raise UnhealthyError unless it succeeds."""
        status = self._ask(1, 0x0030, [((0, 0x0002), VERIFICATION.encode())])
        if status != SUCCESS:
            raise UnhealthyError(f"C-ECHO is answered with 0x{status:04X}")

    def store(self) -> None:
        """Send a C-STORE of the object that the plugin knows; raise UnhealthyError unless PROBED returns."""
        named = [(0x0002, CT.encode()), (0x0700, struct.pack("<H", 0)), (0x1000, PROBE_UID.encode())]
        data_set = b"".join(
            _element(tag, value.encode())
            for tag, value in (
                ((0x0008, 0x0016), CT),
                ((0x0008, 0x0018), PROBE_UID),
                ((0x0020, 0x000D), PROBE_UID),
                ((0x0020, 0x000E), PROBE_UID),
            )
        )
        status = self._ask(3, 0x0001, [((0, number), value) for number, value in named], data_set)
        if status != PROBED:
            raise UnhealthyError(f"C-STORE is answered with 0x{status:04X}")

    def release(self) -> None:
        """Release the association."""
        self._connection.send(struct.pack(">BBII", 5, 0, 4, 0))
        self._pdu()

    def _ask(
        self, context: int, command: int, more: list[tuple[tuple[int, int], bytes]], data_set: bytes = b""
    ) -> int:
        """Send a request and return the status of its answer."""
        fields = dict(more) | {
            (0, 0x0100): struct.pack("<H", command),
            (0, 0x0110): struct.pack("<H", 1),
            (0, 0x0800): struct.pack("<H", 1 if data_set else 0x0101),
        }
        group = b"".join(_element(tag, fields[tag]) for tag in sorted(fields))
        pieces = [(3, _element((0, 0), struct.pack("<I", len(group))) + group)]
        pieces += [(2, data_set)] if data_set else []
        for control, piece in pieces:
            value = bytes([context, control]) + piece
            self._connection.send(struct.pack(">BBII", 4, 0, len(value) + 4, len(value)) + value)
        kind, answer = self._pdu()
        if kind != 4:
            raise UnhealthyError(f"PDU {kind} came in place of an answer")
        # Length of the PDV (4), context (1), control header (1), then the command set in Implicit VR.
        offset = 6
        while offset + 10 <= len(answer):
            number, element, length = struct.unpack_from("<HHI", answer, offset)
            if (number, element) == (0, 0x0900):
                return int(struct.unpack_from("<H", answer, offset + 8)[0])
            offset += 8 + length
        raise UnhealthyError("the answer has no status")

    def _pdu(self) -> tuple[int, bytes]:
        kind, _, length = struct.unpack(">BBI", self._connection.exactly(6))
        return kind, self._connection.exactly(min(length, 65536))


def _dicom(address: tuple[str, int], deadline: float, *, stores: bool) -> None:
    with socket.create_connection(address, TIMEOUT_SECONDS) as stream:
        association = Association(Connection(stream, deadline))
        association.echo()
        if stores:
            association.store()
        association.release()


def _expect(found: str, wanted: str) -> None:
    if found != wanted:
        raise UnhealthyError(f"HTTP is answered with {found}")


def agent(deadline: float) -> None:
    """Check that the agent itself answers. A full disk or a stopped Orthanc does not make it unhealthy."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(TIMEOUT_SECONDS)
        stream.connect(AGENT_SOCKET)
        _expect(Connection(stream, deadline).status("/understudy/health?alive=true"), "200")


def orthanc(deadline: float) -> None:
    """Check that Orthanc's REST answers the agent's account, and that a modality can store."""
    secret = (KEYS / "service" / "agent").read_text().strip()
    authorization = base64.b64encode(f"agent:{secret}".encode()).decode()
    with socket.create_connection(("127.0.0.1", 8042), TIMEOUT_SECONDS) as stream:
        status = Connection(stream, deadline).status("/system", f"Authorization: Basic {authorization}\r\n")
        _expect(status, "200")
    _dicom(("127.0.0.1", 4242), deadline, stores=True)


def edge(deadline: float) -> None:
    """Check that HAProxy answers over TLS (401, because nobody is signed in) and accepts an association."""
    # Imported here, because it takes as long to load as all the rest, and only this check needs it.
    import ssl

    # The certificate is the appliance's own, and the peer is this container: nothing to verify.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", 8443), TIMEOUT_SECONDS) as plain,
        context.wrap_socket(plain) as stream,
    ):
        _expect(Connection(stream, deadline).status("/"), "401")
    if FULL.exists():
        raise UnhealthyError("a disk is full, and associations are refused")
    try:
        _dicom(("127.0.0.1", 4242), deadline, stores=False)
    except ConnectionRefusedError:
        # `DicomTls.Required` closes this port. The other one needs a certificate that this container lacks.
        socket.create_connection(("127.0.0.1", 2762), TIMEOUT_SECONDS).close()
        _dicom(("orthanc", 4242), deadline, stores=False)


def main() -> int:
    """Run the check of the named service."""
    checks = {"agent": agent, "orthanc": orthanc, "edge": edge}
    name = sys.argv[1]
    try:
        checks[name](time.monotonic() + TIMEOUT_SECONDS)
    except (OSError, UnhealthyError, struct.error) as error:
        print(f"{name} does not do its work: {error}")
        return 1
    print(f"{name} does its work")
    return 0


if __name__ == "__main__":
    sys.exit(main())
