"""Talks to the agent over its Unix socket; a caller that can reach the socket counts as administrator."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import urlencode

from pydantic import TypeAdapter

from understudy.cli.errors import CommandError, Exit
from understudy.cli.places import places
from understudy.plugin.unix_http import UnixConnection

Answer = TypeVar("Answer")
Query = str | int | float | None

_HEADERS = {"X-Understudy-User": "cli", "X-Understudy-Role": "admin", "Content-Type": "application/json"}
_TIMEOUT = 60.0
"""Seconds. A call may take long: a plan asks the primary for its whole inventory."""
_PIECE = 2**18
"""Bytes of a file that are read at a time: the agent's container has no memory for a whole file."""


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    content: bytes


class Client:
    """A client of one agent."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, path: str, **query: Query) -> bytes:
        """Return the body of a GET, or raise CommandError."""
        return _checked(self._call("GET", path, query, None))

    def save(self, path: str, target: BinaryIO) -> None:
        """Write the body of a GET to `target` in pieces; raises CommandError, or OSError of the target."""
        connection = UnixConnection(self._path, _TIMEOUT)
        try:
            with _reaching(self._path):
                connection.request("GET", f"/understudy{path}", None, _HEADERS)
                response = connection.getresponse()
                if response.status != 200:
                    _checked(_Response(response.status, response.read()))
            while True:
                with _reaching(self._path):
                    piece = response.read(_PIECE)
                if not piece:
                    break
                target.write(piece)
            if response.length:
                raise CommandError(
                    f"the answer ended {response.length} bytes early",
                    "look at its log: docker compose logs agent",
                )
        finally:
            connection.close()

    def post(self, path: str, body: Mapping[str, object]) -> bytes:
        """Return the body of a POST, or raise CommandError."""
        return _checked(self._call("POST", path, {}, body))

    def read(self, kind: type[Answer], path: str, **query: Query) -> Answer:
        """Return the answer of a GET as a view."""
        return TypeAdapter(kind).validate_json(self.get(path, **query))

    def act(self, kind: type[Answer], path: str, body: Mapping[str, object]) -> Answer:
        """Return the answer of a POST as a view."""
        return TypeAdapter(kind).validate_json(self.post(path, body))

    def health(self, **query: Query) -> tuple[bool, bytes]:
        """Return whether the appliance is healthy by the conditions in `query`, and the agent's answer."""
        answer = self._call("GET", "/health", query, None)
        return (False, answer.content) if answer.status == 503 else (True, _checked(answer))

    def _call(
        self, method: str, path: str, query: Mapping[str, Query], body: Mapping[str, object] | None
    ) -> _Response:
        present = {name: value for name, value in query.items() if value is not None}
        address = f"/understudy{path}" + (f"?{urlencode(present)}" if present else "")
        connection = UnixConnection(self._path, _TIMEOUT)
        try:
            with _reaching(self._path):
                connection.request(method, address, None if body is None else json.dumps(body), _HEADERS)
                response = connection.getresponse()
                return _Response(response.status, response.read())
        finally:
            connection.close()


def agent() -> Client:
    """Return a client of the appliance's own agent."""
    return Client(places().socket)


@contextmanager
def _reaching(path: Path) -> Iterator[None]:
    """Turn the errors of a connection to the agent into a CommandError."""
    try:
        yield
    except TimeoutError:
        raise CommandError(
            f"the agent does not answer within {_TIMEOUT:.0f} s",
            "look at its log: docker compose logs agent",
            code=Exit.UNREACHABLE,
        ) from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise CommandError(
            f"the agent cannot be reached at {path}: {reason}",
            "run this in the agent's container, and check that it runs: docker compose ps agent",
            code=Exit.UNREACHABLE,
        ) from None


def _checked(answer: _Response) -> bytes:
    if 200 <= answer.status < 300:
        return answer.content
    try:
        body = json.loads(answer.content)
        problem = CommandError(body["message"], body["hint"], body["details"])
    except (ValueError, KeyError, TypeError):
        problem = CommandError(
            f"the agent answers HTTP status {answer.status} without a reason", "look at its log"
        )
    raise problem
