"""Passes `/understudy/...` from Orthanc's REST to the agent, over a socket that only Orthanc uses.

Rule 1: this module confirms nobody's identity. It passes on the edge's signature unchanged, and the agent
checks it. So an attacker who takes over Orthanc's process cannot act as a person.
"""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from understudy.plugin.unix_http import UnixConnection

TIMEOUT_SECONDS = 60.0
"""Longest wait of Orthanc's HTTP thread for the agent; long actions answer 202 at once."""

_PASSED_ON = (
    "accept",
    "content-type",
    # The caller as the edge names it, and the edge's signature (web/identity.py).
    "x-understudy-user",
    "x-understudy-role",
    "x-understudy-time",
    "x-understudy-nonce",
    "x-understudy-signature",
)


@dataclass(frozen=True, slots=True)
class PassedAnswer:
    """The answer for the caller."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """The caller's request; the path is relative to `/understudy/` and decoded."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


def _unavailable(error: Exception) -> PassedAnswer:
    document = {
        "error": "agent_unavailable",
        "message": "The agent does not answer; Orthanc continues to receive and serve images.",
        "hint": "Look at `docker compose ps agent` and the log of the agent, which restarts by itself.",
        "details": [type(error).__name__],
    }
    return PassedAnswer(503, "application/json", json.dumps(document).encode())


def call(socket_path: Path, request: Request, timeout: float = TIMEOUT_SECONDS) -> PassedAnswer:
    """Return the agent's answer, or 503 with a hint if the agent does not answer."""
    headers = {
        name: value for name, value in request.headers.items() if name in _PASSED_ON and value.isprintable()
    }
    target = "/understudy/" + quote(request.path, safe="/")
    if request.query:
        target += "?" + urlencode(request.query)
    connection = UnixConnection(socket_path, timeout)
    try:
        connection.request(request.method, target, body=request.body or None, headers=headers)
        response = connection.getresponse()
        body = response.read()
        return PassedAnswer(
            response.status, response.getheader("content-type", "application/octet-stream"), body
        )
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        return _unavailable(error)
    finally:
        connection.close()
