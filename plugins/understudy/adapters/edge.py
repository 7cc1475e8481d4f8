"""The running edge: changes its tables over the control socket, and hears its reports on a datagram socket.

Rule 1: the edge never waits for the agent. A report that finds nobody, or a full socket, is lost.
Rule 2: what has to outlive a restart of the edge lies in the shared folder before the running edge is told.
"""

import json
import os
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
from understudy.adapters.files import write_durably
from understudy.core.gate import Allowed, GateOutcome, Seen

_TIMEOUT_SECONDS = 3.0
_LARGEST_REPORT = 4096
_KERNEL_BUFFER = 1 << 20
"""Bytes of reports that wait for the agent."""

_LINES_AT_ONCE = 100
"""A command has to fit into HAProxy's buffer."""

_EXPIRED = 10
"""X509_V_ERR_CERT_HAS_EXPIRED (OpenSSL, x509_vfy.h)."""


class EdgeUnavailableError(Exception):
    """The running edge did not take a command; at its next start it reads the same from the shared folder."""


class Edge:
    """Everything that is asked of the running edge."""

    def __init__(self, shared: Path) -> None:
        self._shared = shared

    def publish(self, configured: Sequence[Allowed], approved: Sequence[Allowed]) -> None:
        """Put the allow-list in force; running associations go on.

        Raises EdgeUnavailableError, and OSError where the list cannot be written for its next start.
        """
        write_durably(self._shared / APPROVED, approved_json(approved), 0o600)
        allowed = [*configured, *approved]
        # The gate sees the old list or the new one, nothing between (HAProxy, management guide, commit map).
        version = self._prepare("map", DEVICES)
        lines = [f"{calling} {entries}" for calling, entries in devices_table(allowed).items()]
        for begin in range(0, len(lines), _LINES_AT_ONCE):
            payload = "\n".join(lines[begin : begin + _LINES_AT_ONCE])
            self._command(f"add map @{version} {DEVICES} <<\n{payload}\n")
        self._command(f"commit map @{version} {DEVICES}")
        version = self._prepare("acl", ADDRESSES)
        for network in addresses_table(allowed):
            self._command(f"add acl @{version} {ADDRESSES} {network}")
        self._command(f"commit acl @{version} {ADDRESSES}")

    def _prepare(self, kind: str, file: Path) -> int:
        answer = self._command(f"prepare {kind} {file}", says="New version created: ")
        return int(answer.rpartition(" ")[2])

    def _command(self, command: str, *, says: str = "") -> str:
        """Give one command; HAProxy answers nothing where all is well, or what `says` begins with."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(_TIMEOUT_SECONDS)
                connection.connect(str(self._shared / CONTROL))
                connection.sendall(command.encode("ascii") + b"\n")
                parts = []
                while part := connection.recv(_LARGEST_REPORT):
                    parts.append(part)
        except OSError as error:
            raise EdgeUnavailableError(f"the edge's control socket: {error}") from error
        answer = b"".join(parts).decode("ascii", "replace").strip()
        if not answer.startswith(says) or (not says and answer):
            raise EdgeUnavailableError(f"the edge answered {command.split(' @')[0]!r} by {answer[:200]!r}")
        return answer


class Reports:
    """The datagram socket on which the edge reports associations."""

    def __init__(self, shared: Path) -> None:
        path = shared / REPORTS
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BUFFER)
        self._socket.bind(str(path))
        os.chmod(path, 0o600)
        self._socket.setblocking(False)

    def read(self, most: int) -> list[Seen]:
        """Return at most so many reports that have come, without waiting."""
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


def parse_reports(datagrams: Iterable[bytes]) -> Iterator[Seen]:
    """Yield what the reports say; one that is not ours and the end of a reported association say nothing."""
    for datagram in datagrams:
        try:
            report = json.loads(datagram)
            event, said = str(report["event"]), str(report["outcome"])
            if event == "end":
                if said:
                    continue
                said = GateOutcome.NO_ASSOCIATION.value
            yield Seen(
                calling_ae_title=str(report.get("calling", ""))[:16],
                called_ae_title=str(report.get("called", ""))[:16],
                address=str(report["address"])[:45],
                tls=report["tls"] is True,
                outcome=GateOutcome(said),
                reason=_reason(str(report.get("reason", "")), report.get("certificate")),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue


def _reason(text: str, certificate: object) -> str:
    if certificate == _EXPIRED:
        return "the client's certificate has expired"
    return text[:100]
