"""The caller's identity: a person for whom the edge has signed, or this appliance's own command.

Rule 1: a signature of the edge is the only evidence of a person. It covers the person, the role, the method
and the address of one request for a few seconds, so that nobody can use it for another request.
Rule 2: on the agent's own socket the headers are trusted without a signature. Only the agent's container and
the host's root can reach that socket.
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import Request

from understudy.core.roles import ROLES_OF_PEOPLE, Role

PREFIX = "/understudy"
USER_HEADER = "x-understudy-user"
ROLE_HEADER = "x-understudy-role"
TIME_HEADER = "x-understudy-time"
NONCE_HEADER = "x-understudy-nonce"
SIGNATURE_HEADER = "x-understudy-signature"

FRESH_SECONDS = 30.0
"""How long a signature is valid. Edge and agent read the same clock, that of their host."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The person as the edge established it."""

    user: str
    role: Role


class UnprovenIdentityError(Exception):
    """The request names a person, and nothing proves that the edge let this person in."""

    def __init__(self, error: str, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.error = error
        self.hint = hint


Identify = Callable[[Request], Identity | None]


def identity_of(headers: Headers) -> Identity | None:
    """Return the identity in the headers, or None if a header is absent, repeated or not understood."""
    users, roles = headers.getlist(USER_HEADER), headers.getlist(ROLE_HEADER)
    if len(users) != 1 or len(roles) != 1 or not users[0].strip():
        return None
    role = ROLES_OF_PEOPLE.get(roles[0])
    return None if role is None else Identity(users[0].strip()[:64], role)


def statement(*, moment: str, nonce: str, role: str, user: str, method: str, target: str) -> bytes:
    """Return the bytes that are signed; edge/haproxy.cfg builds the same."""
    return " ".join((moment, nonce, role, user, method, target)).encode("latin-1")


def sign(key: bytes, statement: bytes) -> str:
    """Return the signature as it is written in its header."""
    return hmac.new(key, statement, hashlib.sha256).hexdigest()


class Doorkeeper:
    """Identifies callers. `own` is the agent's own socket; on any other a person needs a signature by `key`.

    Each signature is accepted once, so that an eavesdropper cannot use it again. All calls have to come from
    the event loop's thread.
    """

    def __init__(
        self, own: Path, key: bytes, now: Callable[[], float], monotonic: Callable[[], float]
    ) -> None:
        """`now` is the machine's clock, which the edge reads as well."""
        self._own = str(own)
        self._key = key
        self._now = now
        self._monotonic = monotonic
        self._used: dict[str, float] = {}
        """When each nonce was used, by the monotonic clock: a clock that is set back keeps none longer."""

    def __call__(self, request: Request) -> Identity | None:
        """Return the person, or None if none is named. Raises UnprovenIdentityError."""
        identity = identity_of(request.headers)
        server = request.scope.get("server")
        if identity is None or (server is not None and server[0] == self._own):
            return identity
        self._verify(request)
        return identity

    def _verify(self, request: Request) -> None:
        names = (TIME_HEADER, NONCE_HEADER, SIGNATURE_HEADER)
        found = [request.headers.getlist(name) for name in names]
        if any(len(values) != 1 for values in found):
            raise UnprovenIdentityError(
                "unsigned_identity",
                "the request names a person, and the edge has not signed for it",
                "call the HTTPS port of the appliance and sign in there",
            )
        moment, nonce, signature = (values[0] for values in found)
        query = request.scope["query_string"]
        target = request.scope["raw_path"] + (b"?" + query if query else b"")
        said = statement(
            moment=moment,
            nonce=nonce,
            role=request.headers[ROLE_HEADER],
            user=request.headers[USER_HEADER],
            method=request.method,
            target=target.decode("latin-1"),
        )
        if not hmac.compare_digest(sign(self._key, said).encode(), signature.encode("latin-1").lower()):
            raise UnprovenIdentityError(
                "wrong_signature",
                "the signature was not made by the edge, or was made for another request",
                "restart the edge: `docker compose restart edge`; it reads its key when it starts",
            )
        self._use_once(moment, nonce)

    def _use_once(self, moment: str, nonce: str) -> None:
        now = self._now()
        # The text is a number, because the edge wrote it: the signature has just proven that.
        if abs(now - float(moment)) > FRESH_SECONDS:
            raise UnprovenIdentityError(
                "stale_signature",
                f"the signature is older than {FRESH_SECONDS:.0f} s, or dated in the future",
                "send the request again; if it fails each time, the host's clock was set: restart the edge",
            )
        # The oldest come first, so the loop ends at the first that has to be kept.
        used_at = self._monotonic()
        while self._used and used_at - self._used[oldest := next(iter(self._used))] > 2 * FRESH_SECONDS:
            del self._used[oldest]
        if nonce in self._used:
            raise UnprovenIdentityError(
                "used_signature",
                "the signature was used before",
                "send the request again through the HTTPS port of the appliance",
            )
        self._used[nonce] = used_at
