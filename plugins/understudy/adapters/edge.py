"""Changes the running edge's tables and fetches its counts over the control socket, and receives its reports.

Rule 1: the edge never waits for the agent. It counts associations and refusals, and keeps the counts until
the agent has noted them. A report on a failed TLS handshake is lost if the agent does not run or the socket
is full.
Rule 2: data that has to outlive a restart of the edge is written to the shared folder before the running edge
gets it.
"""

import json
import logging
import os
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from understudy.adapters.edge_config import (
    ADDRESSES,
    APPROVED,
    CONTROL,
    DEVICES,
    REPORTS,
    addresses_table,
    approved_json,
    devices_table,
)
from understudy.core.gate import Allowed, GateOutcome, Seen, network_of
from understudy.system.files import write_durably

_log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 3.0
_LARGEST_REPORT = 4096
_LARGEST_ANSWER = 8 << 20
_KERNEL_BUFFER = 1 << 20
"""Size of the socket's buffer for reports that wait for the agent, in bytes."""

_CHARACTERS_AT_ONCE = 32_000
"""Maximum length of a command, which has to fit into HAProxy's buffer (tune.bufsize in edge/haproxy.cfg)."""

_FAILURES = re.compile(r"key=(?P<address>\S+) .*gpc1_rate\(\d+\)=(?P<count>\d+)")
"""A line of `show table` (HAProxy, management guide)."""

_EXPIRED = 10
"""X509_V_ERR_CERT_HAS_EXPIRED (OpenSSL, x509_vfy.h)."""


class EdgeUnavailableError(Exception):
    """The running edge did not take a command; at its next start it reads the same from the shared folder."""


class EdgeLink:
    """The commands to the running edge."""

    def __init__(self, shared: Path) -> None:
        self._shared = shared

    def publish(self, configured: Sequence[Allowed], approved: Sequence[Allowed]) -> None:
        """Put the allow-list into force; running associations continue.

        Raises EdgeUnavailableError, and OSError if the list cannot be written for the edge's next start.
        """
        write_durably(self._shared / APPROVED, approved_json(approved), 0o640)
        allowed = [*configured, *approved]
        # The gate sees either the old or the new list (HAProxy, management guide, commit map).
        version = self._prepare("map", DEVICES)
        lines = [f"{calling} {entries}" for calling, entries in devices_table(allowed).items()]
        for payload in _joined(lines):
            self._command(f"add map @{version} {DEVICES} <<\n{payload}\n")
        self._command(f"commit map @{version} {DEVICES}")
        version = self._prepare("acl", ADDRESSES)
        for network in addresses_table(allowed):
            self._command(f"add acl @{version} {ADDRESSES} {network}")
        self._command(f"commit acl @{version} {ADDRESSES}")

    def wrong_passwords(self, least: int) -> dict[str, int]:
        """Return, by address, the number of wrong passwords in the last hour if it is `least` or more.

        Raises EdgeUnavailableError.
        """
        table = "show table http_failures"
        shown = self._command(f"{table} data.gpc1_rate ge {least}", says="# table: http_failures")
        return {found["address"]: int(found["count"]) for found in _FAILURES.finditer(shown)}

    def counted(self, noted: int) -> tuple[int, list[Seen]]:
        """Return the number of the next batch and its counts; `noted` is the batch that was noted last.

        The edge keeps a batch until its number is given here as `noted`. Raises EdgeUnavailableError, and
        ValueError if the answer has no number.
        """
        number, *lines = self._command(f"show associations {noted}", says="1").splitlines()
        if not lines or lines.pop() != "end":
            # Otherwise the incomplete counts would be noted as the whole batch. The edge keeps the batch.
            raise EdgeUnavailableError("the edge's answer is cut off")
        return int(number), list(parse_counts(lines))

    def _prepare(self, kind: str, file: Path) -> int:
        answer = self._command(f"prepare {kind} {file}", says="New version created: ")
        return int(answer.strip().rpartition(" ")[2])

    def _command(self, command: str, *, says: str = "") -> str:
        """Give one command and return the answer, which is empty on success, or begins with `says`."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_TIMEOUT_SECONDS)
                connection.connect(str(self._shared / CONTROL))
                connection.sendall(command.encode("ascii") + b"\n")
                answered = bytearray()
                while (part := connection.recv(1 << 16)) and len(answered) < _LARGEST_ANSWER:
                    answered += part
        except OSError as error:
            raise EdgeUnavailableError(f"the edge's control socket: {error}") from error
        answer = answered.decode("ascii", "replace").strip("\n")
        if not answer.startswith(says) or (not says and answer.strip()):
            raise EdgeUnavailableError(f"the edge answered {command.split(' @')[0]!r} by {answer[:200]!r}")
        return answer


def _joined(lines: Iterable[str]) -> Iterator[str]:
    """Join the lines to payloads that each fit into one command."""
    payload = ""
    for line in lines:
        if payload and len(payload) + len(line) >= _CHARACTERS_AT_ONCE:
            yield payload
            payload = ""
        payload += f"\n{line}" if payload else line
    if payload:
        yield payload


def addresses_of_name(host: str) -> list[str]:
    """Return the addresses of a host name as networks, or raise OSError if the name service has none."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = {str(address[0]) for *_, address in found}
    # An address with a scope is valid only on one link of one host.
    return [network_of(address) for address in addresses if "%" not in address]


class HandshakeReports:
    """The datagram socket on which the edge reports failed TLS handshakes."""

    def __init__(self, shared: Path) -> None:
        path = shared / REPORTS
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BUFFER)
        self._socket.bind(str(path))
        # The edge is another user, of the same group.
        os.chmod(path, 0o660)
        self._socket.setblocking(False)

    def read(self, most: int) -> list[Seen]:
        """Return up to `most` reports that have arrived, without waiting."""
        return list(parse_reports(self._datagrams(most)))

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def _datagrams(self, most: int) -> Iterator[bytes]:
        for _ in range(most):
            try:
                yield self._socket.recv(_LARGEST_REPORT)
            except BlockingIOError:
                return


def parse_counts(lines: Iterable[str]) -> Iterator[Seen]:
    """Yield the counts in the lines of a batch, which have the format of edge/gate.lua.

    A line in another format is logged, and does not keep the other lines from being counted.
    """
    for line in filter(None, lines):
        number, _, fields = line.partition(" ")
        try:
            address, tls, outcome, calling, called, reason = fields.split("\t")
            seen = Seen(
                calling[:16],
                called[:16],
                address[:45],
                tls == "1",
                GateOutcome(outcome),
                reason[:100],
                int(number),
            )
        except ValueError:
            _log.error("edge count left out line=%.200r", line)
        else:
            yield seen


def parse_reports(datagrams: Iterable[bytes]) -> Iterator[Seen]:
    """Yield the reported failed handshakes; skip a datagram that is not in the edge's format."""
    for datagram in datagrams:
        try:
            report = json.loads(datagram)
            address, reason = (
                str(report["address"])[:45],
                _reason(str(report["reason"]), report["certificate"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue
        yield Seen("", "", address, True, GateOutcome.TLS_FAILED, reason)


def _reason(text: str, certificate: object) -> str:
    if certificate == _EXPIRED:
        return "the client's certificate has expired"
    return text[:100]
