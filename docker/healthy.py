#!/usr/bin/python3 -IS
"""Exits 0 when the service named by its argument answers; a container's health check that costs 30 ms."""

import base64
import socket
import ssl
import sys
from pathlib import Path

AGENT_SOCKET = "/run/understudy/agent.sock"
KEYS = Path("/var/lib/understudy-keys")
TIMEOUT_SECONDS = 4


def http_status(connection: socket.socket, path: str, header: str = "") -> str:
    """Returns the status code that a GET of the path is answered with."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n"
    connection.sendall(request.encode())
    with connection.makefile("rb") as answer:
        return answer.readline(200).decode("latin-1").split(" ")[1]


def agent_answers() -> bool:
    """Tells whether the agent's health call says 200 over its socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(AGENT_SOCKET)
        return http_status(connection, "/understudy/health") == "200"


def orthanc_answers() -> bool:
    """Tells whether Orthanc's REST answers the agent's account."""
    secret = (KEYS / "service" / "agent").read_text().strip()
    authorization = base64.b64encode(f"agent:{secret}".encode()).decode()
    with socket.create_connection(("127.0.0.1", 8042), TIMEOUT_SECONDS) as connection:
        return http_status(connection, "/system", f"Authorization: Basic {authorization}\r\n") == "200"


def edge_answers() -> bool:
    """Tells whether HAProxy itself answers over TLS: 401, since nobody is logged in."""
    # The certificate is the appliance's own, and the peer is this container: nothing to verify.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", 8443), TIMEOUT_SECONDS) as plain,
        context.wrap_socket(plain) as connection,
    ):
        return http_status(connection, "/") == "401"


def main() -> int:
    """Runs the check of the named service."""
    checks = {"agent": agent_answers, "orthanc": orthanc_answers, "edge": edge_answers}
    name = sys.argv[1]
    try:
        healthy = checks[name]()
    except (OSError, IndexError) as error:
        print(f"{name} does not answer: {error}")
        return 1
    print(f"{name} {'answers' if healthy else 'does not answer as it should'}")
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
