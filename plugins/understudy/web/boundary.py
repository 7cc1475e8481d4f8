"""The API's outermost layer: identifies callers, limits bodies, hardens answers, catches all exceptions."""

import logging
import math
import secrets
import time
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from understudy.web.bounds import Bounds, NoTurnError
from understudy.web.errors import HEALTH_PATH, crowded, unexpected, unproven
from understudy.web.identity import Identify, UnprovenIdentityError

_LOG = logging.getLogger(__name__)

_TOLD_EVERY = 60.0
"""Seconds between two log lines on refused identities, so that forged requests cannot flood the log."""

BODY_LIMIT = 1 << 20
"""Bytes of a request body at most: ten thousand UIDs for a replay. No call needs more."""

_HEADERS = {
    b"content-security-policy": (
        b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    # Every answer shows the state of one moment.
    b"cache-control": b"no-store",
}


class Boundary:
    """Wraps the application. One of the two places with a broad `except`; it records the exception."""

    def __init__(
        self, app: ASGIApp, identify: Identify, grows: Callable[[str], bool], bounds: Bounds | None = None
    ) -> None:
        self._app = app
        self._identify = identify
        self._grows = grows
        self._bounds = bounds or Bounds()
        self._refused = 0
        self._told_at = -math.inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. A fault of ours becomes 500 with an event number; the log has the cause."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False
        taken = 0
        head: Message | None = None
        """The start of the answer, held back until it is known whether there is room for the body."""
        dropped = False

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > BODY_LIMIT:
                raise HTTPException(413, f"a request body may have {BODY_LIMIT} bytes at most")
            return message

        async def hardened(message: Message) -> None:
            nonlocal started, head, dropped
            if dropped:
                return
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                extra = [(name, value) for name, value in _HEADERS.items() if name not in present]
                head = {**message, "headers": [*message["headers"], *extra]}
                return
            if head is not None:
                begun, head = head, None
                if not self._bounds.has_room(len(message.get("body", b""))):
                    await crowded()(scope, receive, hardened)
                    dropped = True
                    return
                started = True
                await send(begun)
            await self._bounds.hand_over(message, send)

        try:
            # Once for each request and before its body is read, because a signature is accepted only once.
            identity = self._identify(Request(scope))
            scope.setdefault("state", {})["identity"] = identity
            needed = identity is not None and self._grows(scope["path"])
            async with self._bounds.turn(needed=needed) as end_turn:

                async def made(message: Message) -> None:
                    # The answer has been computed when its first message comes.
                    end_turn()
                    await hardened(message)

                await self._app(scope, limited, made)
        except NoTurnError:
            await crowded()(scope, receive, hardened)
        except UnprovenIdentityError as error:
            self._tell(error)
            await JSONResponse(unproven(error).model_dump(), status_code=401)(scope, receive, hardened)
        except Exception:
            event = secrets.token_hex(4)
            # The route's template instead of the path: no text of a client gets into the log.
            route = getattr(scope.get("route"), "path", "unknown")
            _LOG.exception("rest failed event=%s method=%s route=%s", event, scope["method"], route)
            if started:
                raise
            await _failed(Request(scope), event)(scope, receive, hardened)

    def _tell(self, error: UnprovenIdentityError) -> None:
        self._refused += 1
        now = time.monotonic()
        if now - self._told_at >= _TOLD_EVERY:
            _LOG.warning("identity refused because=%s since_start=%d", error.error, self._refused)
            self._told_at = now


def _failed(request: Request, event: str) -> Response:
    signed_in = getattr(request.state, "identity", None) is not None
    if request.url.path == HEALTH_PATH and not signed_in:
        return Response(status_code=503)
    return JSONResponse(unexpected(event).model_dump(), status_code=500)
