"""Passes `/understudy/...` from Orthanc's REST to the agent over the socket that is Orthanc's own.

Rule 1: nothing here vouches for anybody. The edge's signature goes on as it came, and the agent judges it:
whoever takes over Orthanc's process cannot act as a person.
"""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from understudy.plugin.unix_http import UnixConnection

TIMEOUT_SECONDS = 60.0
"""Long actions answer 202 at once; this bounds the HTTP thread of Orthanc that waits."""

_PASSED_ON = (
    "accept",
    "content-type",
    # Who the edge says is calling, and its signature (web/identity.py).
    "x-understudy-user",
    "x-understudy-role",
    "x-understudy-time",
    "x-understudy-nonce",
    "x-understudy-signature",
)


@dataclass(frozen=True, slots=True)
class PassedAnswer:
    """What goes back to the caller."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """What came from the caller, path relative to `/understudy/` and decoded."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


def _unavailable(error: Exception) -> PassedAnswer:
    document = {
        "error": "agent_unavailable",
        "message": "The agent does not answer; Orthanc goes on receiving and serving images.",
        "hint": "Look at `docker compose ps agent` and its log; it is restarted by itself.",
        "details": [type(error).__name__],
    }
    return PassedAnswer(503, "application/json", json.dumps(document).encode())


def call(socket_path: Path, request: Request, timeout: float = TIMEOUT_SECONDS) -> PassedAnswer:
    """Return the agent's answer, or 503 with a hint where there is none."""
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
