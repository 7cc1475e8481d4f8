"""One DICOM association as its requestor: the PDUs of DICOM PS3.8 over a blocking socket.

pynetdicom passes each PDU between threads that poll. Here one thread writes a data set as fast as the socket
takes it. It acknowledges TCP segments at once, so that a peer with Nagle's algorithm does not wait 40 ms for
each answer.

Rule 1: every wait ends. The peer may not be silent for longer than the time-out, may not send too slowly
(core/pace.py), and has to take 128 KiB within the time-out. The time for a whole message is not limited.
Rule 2: the memory used never depends on a length that the peer claims: PDUs and messages have limits.
"""

import socket
import ssl
import struct
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Self

from understudy.adapters.tls import ClientTls, TlsSettingsError, tls_words
from understudy.core.outcomes import Loss
from understudy.core.pace import Arrival
from understudy.core.ports import Reads

IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"

MAX_CONTEXTS = 128
"""Presentation contexts of one association: odd numbers from 1 to 255 (DICOM PS3.8 9.3.2.2)."""

_APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
_IMPLEMENTATION_CLASS = b"2.25.187154527992330015779283242231163333182"
_IMPLEMENTATION_VERSION = b"UNDERSTUDY"

_OUR_PDU = 2**17
"""Largest PDU, in bytes, that we announce to the peer."""
_MAX_PDU = 2**22
"""Largest PDU, in bytes, that we accept, because some peers exceed the announced limit."""
MAX_PART = 2**25
"""Largest command set and largest data set of an answer, in bytes, unless the caller expects more."""
_THEIR_PDU = 2**17
"""Largest PDU, in bytes, that we send, even if the peer takes larger ones or names no limit."""
_WRITE = 2**17
"""Bytes handed to the socket at a time; the time-out holds for each such write."""

_ASSOCIATE_RQ, _ASSOCIATE_AC, _ASSOCIATE_RJ = 0x01, 0x02, 0x03
_DATA, _RELEASE_RQ, _RELEASE_RP, _ABORT = 0x04, 0x05, 0x06, 0x07
_TLS_ALERT = 0x15
_COMMAND, _LAST = 0x01, 0x02
_TRANSIENT = 2
"""Result "rejected-transient" of A-ASSOCIATE-RJ (DICOM PS3.8 9.3.4)."""


class AssociationRejectedError(Exception):
    """The peer rejected the association; has the three numbers of A-ASSOCIATE-RJ (DICOM PS3.8 9.3.4)."""

    def __init__(self, result: int, source: int, reason: int) -> None:
        super().__init__(f"result {result}, source {source}, reason {reason}")
        self.result = result
        self.source = source
        self.reason = reason

    @property
    def is_transient(self) -> bool:
        """Whether the peer may accept the same request later."""
        return self.result == _TRANSIENT


class AssociationLostError(Exception):
    """The association ended or was not established; nothing more can be sent over it."""

    def __init__(self, loss: Loss, detail: str) -> None:
        super().__init__(detail)
        self.loss = loss
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Context:
    """One presentation context to propose: a SOP class with its transfer syntaxes."""

    sop_class_uid: str
    transfer_syntax_uids: tuple[str, ...] = (EXPLICIT_LITTLE_ENDIAN, IMPLICIT_LITTLE_ENDIAN)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The peer's answer to a context; `result` 0 is acceptance (DICOM PS3.8 9.3.3.2)."""

    identifier: int
    result: int
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True)
class Address:
    """A peer's address; without `tls` the connection is plain text."""

    host: str
    port: int
    tls: ClientTls | None = None


class Association:
    """An established association; a context manager that releases it, or aborts it after an error.

    Every call raises AssociationLostError if the association ends; it cannot be used again after that.
    """

    def __init__(self, connection: socket.socket, timeout: float) -> None:
        self._socket = connection
        self._timeout = timeout
        self._pdu = _THEIR_PDU
        self._open = True
        self._buffer = bytearray()
        self._values: list[tuple[int, bytes]] = []
        """Control header and bytes of each presentation data value that has arrived and is not read yet."""
        self.answers: Mapping[Context, Accepted] = {}
        """The peer's answer to each proposed context."""

    @classmethod
    def request(
        cls,
        address: Address,
        *,
        calling: str,
        called: str,
        contexts: Sequence[Context],
        timeout: float,
        takes: Collection[str] = (),
    ) -> Self:
        """Connect and request an association with at most MAX_CONTEXTS contexts.

        `takes` are the SOP classes whose instances the peer may send us over this association; for these we
        are the SCP (DICOM PS3.7 D.3.3.4). Raises AssociationRejectedError and AssociationLostError.
        """
        if not 0 < len(contexts) <= MAX_CONTEXTS:
            raise ValueError(f"an association has 1 to {MAX_CONTEXTS} contexts, got {len(contexts)}")
        association = cls(_connected(address, timeout), timeout)
        try:
            association._negotiate(calling, called, contexts, takes)
        except AssociationLostError as error:
            if error.loss is not Loss.CLOSED:
                raise
            if address.tls is None:
                raise AssociationLostError(Loss.CLOSED, f"{error.detail}; it may require TLS") from error
            # With TLS 1.3 the peer checks our certificate after the handshake has ended on our side.
            detail = f"it hung up after the TLS handshake, perhaps because of our certificate: {error.detail}"
            raise AssociationLostError(Loss.UNTRUSTED, detail) from error
        except BaseException:
            association._close()
            raise
        return association

    @property
    def is_open(self) -> bool:
        """Whether messages can still be sent."""
        return self._open

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.release()
        else:
            # A release would wait for answers that are under way and not needed any more.
            self.abort()

    def send(self, context: int, command: bytes, data: Reads | None = None, length: int = 0) -> None:
        """Send one message: a command set and, if given, a data set (DICOM PS3.8 annex E).

        The data set is read in pieces; `length` is its size in bytes.
        """
        pieces: list[bytes] = []
        waiting = 0
        for piece in _fragments(context, command, data, length, self._pdu):
            pieces.append(piece)
            waiting += len(piece)
            if waiting >= _WRITE:
                self._write(b"".join(pieces))
                pieces, waiting = [], 0
        if pieces:
            self._write(b"".join(pieces))

    def part(self, patience: float, *, most: int = MAX_PART) -> tuple[bool, bytes]:
        """Return whether the next part of a message is a command set (otherwise a data set), and its bytes.

        `patience` is the longest silence in seconds, `most` the largest size of the part in bytes.
        """
        progress = _progress(patience)
        content = bytearray()
        while True:
            if not self._values:
                kind, body = self._read(progress)
                if kind != _DATA:
                    raise self._ended(kind, body)
                self._values = self._split(body)
            flags, value = self._values.pop(0)
            content += value
            if len(content) > most:
                raise self.garbled("an answer without an end")
            if flags & _LAST:
                return bool(flags & _COMMAND), bytes(content)

    def arrives(self, deadline: float) -> bool:
        """Return whether the peer has sent anything by `deadline`, a value of time.monotonic()."""
        if self._values or self._buffer:
            return True
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        try:
            self._socket.settimeout(left)
            part = self._socket.recv(2**16)
        except TimeoutError:
            return False
        except OSError as error:
            raise self._failed(error) from error
        if not part:
            raise self._lost(Loss.CLOSED, "by the peer")
        self._buffer += part
        return True

    def release(self) -> None:
        """Release the association; if the peer does not answer as it should, just close the connection."""
        if not self._open:
            return
        with suppress(AssociationLostError):
            self._write(struct.pack(">BxIxxxx", _RELEASE_RQ, 4))
            progress = _progress(self._timeout)
            while self._read(progress)[0] == _DATA:
                pass
        self._close()

    def abort(self) -> None:
        """End the association at once (A-ABORT by the service user)."""
        self._end(struct.pack(">BxIxxxx", _ABORT, 4))

    def garbled(self, what: str) -> AssociationLostError:
        """End the association after an answer that breaks the protocol, and return the error to raise."""
        # A-P-ABORT with reason "unrecognized PDU" (DICOM PS3.8 9.3.8).
        self._end(struct.pack(">BxIxxBB", _ABORT, 4, 2, 1))
        return self._lost(Loss.GARBLED, what)

    def _negotiate(
        self, calling: str, called: str, contexts: Sequence[Context], takes: Collection[str]
    ) -> None:
        proposed = {2 * position + 1: context for position, context in enumerate(contexts)}
        self._write(_associate_request(calling, called, proposed, takes))
        kind, body = self._read(_progress(self._timeout))
        if kind == _ASSOCIATE_RJ and len(body) == 4:
            raise AssociationRejectedError(*body[1:4])
        if kind != _ASSOCIATE_AC:
            raise self._ended(kind, body)
        try:
            answers, their_pdu = _accepted(body)
        except (IndexError, struct.error, UnicodeDecodeError):
            raise self.garbled("an A-ASSOCIATE-AC that cannot be read") from None
        if their_pdu:
            self._pdu = min(self._pdu, max(their_pdu, 256))
        missing = Accepted(0, 255, "")
        self.answers = {context: answers.get(number, missing) for number, context in proposed.items()}

    def _split(self, body: bytes) -> list[tuple[int, bytes]]:
        """Return control header and bytes of each presentation data value in a P-DATA-TF."""
        found: list[tuple[int, bytes]] = []
        offset = 0
        while offset < len(body):
            length = int.from_bytes(body[offset : offset + 4], "big")
            end = offset + 4 + length
            if length < 2 or end > len(body):
                raise self.garbled("a presentation data value that is cut off")
            found.append((body[offset + 5], body[offset + 6 : end]))
            offset = end
        if not found:
            raise self.garbled("a P-DATA-TF without a presentation data value")
        return found

    def _read(self, progress: Arrival) -> tuple[int, bytes]:
        """Return type and body of the next PDU."""
        head = self._bytes(6, progress)
        kind, length = struct.unpack(">BxI", head)
        if kind == _TLS_ALERT:
            raise self._lost(Loss.UNTRUSTED, "it uses TLS, and our configuration does not")
        if not _ASSOCIATE_RQ <= kind <= _ABORT or length > _MAX_PDU:
            raise self.garbled("bytes that are no DICOM PDU")
        return kind, self._bytes(length, progress)

    def _bytes(self, number: int, progress: Arrival) -> bytes:
        while len(self._buffer) < number:
            left = progress.left(time.monotonic())
            if left <= 0:
                words = f"it sent no data, or almost none, for {progress.patience:g} s"
                raise self._lost(Loss.TIMED_OUT, words)
            try:
                self._socket.settimeout(left)
                part = self._socket.recv(2**16)
                _acknowledge(self._socket)
            except TimeoutError:
                continue
            except OSError as error:
                raise self._failed(error) from error
            if not part:
                raise self._lost(Loss.CLOSED, "by the peer")
            progress.took(len(part), time.monotonic())
            self._buffer += part
        found = bytes(self._buffer[:number])
        del self._buffer[:number]
        return found

    def _write(self, content: bytes) -> None:
        if not self._open:
            raise AssociationLostError(Loss.NOT_SENT, "")
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(content)
        except TimeoutError:
            raise self._lost(Loss.TIMED_OUT, f"it accepted no data for {self._timeout:g} s") from None
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> AssociationLostError:
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            return self._lost(Loss.UNTRUSTED, tls_words(error))
        return self._lost(Loss.CLOSED, error.strerror or type(error).__name__)

    def _ended(self, kind: int, body: bytes) -> AssociationLostError:
        """Return the error for a PDU other than the expected one."""
        if kind == _ABORT and len(body) == 4:
            source, reason = body[2], body[3]
            loss = Loss.ABORTED_BY_USER if source == 0 else Loss.ABORTED_BY_PROVIDER
            return self._lost(loss, f"A-ABORT source {source}, reason {reason}")
        if kind == _RELEASE_RQ:
            return self._lost(Loss.CLOSED, "it asked to end the association")
        return self.garbled(f"a PDU of type {kind} that does not belong here")

    def _end(self, last: bytes) -> None:
        if self._open:
            with suppress(OSError):
                self._socket.settimeout(1.0)
                self._socket.sendall(last)
            self._close()

    def _lost(self, loss: Loss, detail: str) -> AssociationLostError:
        self._close()
        return AssociationLostError(loss, detail)

    def _close(self) -> None:
        self._open = False
        self._socket.close()


def _fragments(context: int, command: bytes, data: Reads | None, length: int, limit: int) -> Iterator[bytes]:
    """Yield the P-DATA-TF PDUs of a message in pieces; no PDU is larger than the limit."""
    most = limit - 6
    parts: list[tuple[Reads | None, int, int]] = [
        (BytesIO(command), len(command), _COMMAND),
        (data, length, 0),
    ]
    for content, left, kind in parts:
        while content is not None and left:
            part = content.read(min(most, left))
            if not part:
                raise EOFError("the data set is shorter than it was said to be")
            left -= len(part)
            last = 0 if left else _LAST
            yield struct.pack(">BxIIBB", _DATA, len(part) + 6, len(part) + 2, context, kind | last)
            yield part


def _progress(patience: float) -> Arrival:
    return Arrival(patience, time.monotonic())


def _associate_request(
    calling: str, called: str, proposed: Mapping[int, Context], takes: Collection[str]
) -> bytes:
    items = _item(0x10, _APPLICATION_CONTEXT)
    for identifier, context in proposed.items():
        names = _item(0x30, context.sop_class_uid.encode("ascii", "replace"))
        for syntax in context.transfer_syntax_uids:
            names += _item(0x40, syntax.encode("ascii", "replace"))
        items += _item(0x20, bytes([identifier, 0, 0, 0]) + names)
    items += _item(
        0x50,
        _item(0x51, struct.pack(">I", _OUR_PDU))
        + _item(0x52, _IMPLEMENTATION_CLASS)
        + b"".join(_item(0x54, _role(sop_class)) for sop_class in sorted(takes))
        + _item(0x55, _IMPLEMENTATION_VERSION),
    )
    titles = called.encode("ascii", "replace").ljust(16) + calling.encode("ascii", "replace").ljust(16)
    body = struct.pack(">Hxx", 1) + titles + bytes(32) + items
    return struct.pack(">BxI", _ASSOCIATE_RQ, len(body)) + body


def _role(sop_class_uid: str) -> bytes:
    """Return an SCP/SCU role selection in which we are only the SCP."""
    name = sop_class_uid.encode("ascii", "replace")
    return struct.pack(">H", len(name)) + name + bytes([0, 1])


def _item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def _items(content: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset < len(content):
        kind, length = struct.unpack_from(">BxH", content, offset)
        yield kind, content[offset + 4 : offset + 4 + length]
        offset += 4 + length


def _accepted(body: bytes) -> tuple[dict[int, Accepted], int]:
    """Return the answers of an A-ASSOCIATE-AC by context ID, and the peer's largest PDU; 0 is no limit."""
    answers: dict[int, Accepted] = {}
    largest = 0
    for kind, content in _items(body[68:]):
        if kind == 0x21:
            syntaxes = [value for name, value in _items(content[4:]) if name == 0x40]
            syntax = syntaxes[0].rstrip(b"\0 ").decode("ascii") if syntaxes else ""
            answers[content[0]] = Accepted(content[0], content[2], syntax)
        elif kind == 0x50:
            for name, value in _items(content):
                if name == 0x51:
                    (largest,) = struct.unpack(">I", value)
    return answers, largest


def _connected(address: Address, timeout: float) -> socket.socket:
    try:
        connection = socket.create_connection((address.host, address.port), timeout)
    except socket.gaierror as error:
        raise AssociationLostError(Loss.UNREACHABLE, f"{address.host}: {error.strerror}") from error
    except OSError as error:
        words = error.strerror or "it does not answer"
        raise AssociationLostError(Loss.UNREACHABLE, f"{address.host}:{address.port}: {words}") from error
    try:
        # A PDU's header and body may be written separately; with Nagle's algorithm the body would wait.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection if address.tls is None else _secured(connection, address.host, address.tls)
    except BaseException:
        connection.close()
        raise


def _secured(connection: socket.socket, host: str, tls: ClientTls) -> ssl.SSLSocket:
    try:
        return tls.context().wrap_socket(connection, server_hostname=tls.server_name or host)
    except TlsSettingsError as error:
        raise AssociationLostError(Loss.UNTRUSTED, str(error)) from error
    except ssl.SSLError as error:
        raise AssociationLostError(Loss.UNTRUSTED, tls_words(error)) from error
    except OSError as error:
        words = error.strerror or "it did not answer"
        raise AssociationLostError(Loss.UNTRUSTED, f"{words} in the TLS handshake") from error


def _acknowledge(connection: socket.socket) -> None:
    # A peer with Nagle's algorithm sends the rest of an answer only when its beginning is acknowledged, and
    # Linux delays that by 40 ms. The option lasts for one acknowledgement.
    if hasattr(socket, "TCP_QUICKACK"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
