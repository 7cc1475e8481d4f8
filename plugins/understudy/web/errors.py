"""Turns every refusal into `{"error", "message", "hint", "details"}` with the right HTTP status."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from understudy.core.errors import NotFoundError, PreconditionError, RefusedError, StaleEpochError
from understudy.core.modes import WrongModeError
from understudy.core.ports import HolderUnavailableError, OrthancUnavailableError
from understudy.web.identity import UnprovenIdentityError

HEALTH_PATH = "/understudy/health"
RETRY_AFTER = "10"
"""Seconds until there may be room again, as text for the header Retry-After (RFC 9110 10.2.3)."""


class ErrorBody(BaseModel):
    """The body of every error."""

    error: str = Field(description="A fixed word for programs.", examples=["wrong_mode"])
    message: str = Field(
        description="The refused action, in one sentence.",
        examples=["promote is not possible in mode active"],
    )
    hint: str = Field(description="What to do about it.", examples=["promote is possible in mode standby"])
    details: list[str] = Field(description="All problems that were found.")


_DESCRIPTIONS = {
    400: "The request has problems; `details` lists all of them.",
    401: "The caller is not signed in.",
    403: "The role does not allow it.",
    404: "There is no object of this name or number.",
    409: "The mode or epoch is not the one that the caller saw; nothing changed.",
    412: "A precondition is not met; `details` names each of them. Nothing changed.",
    503: "A holder or the ledger cannot be asked now; nothing changed.",
}


def errors(*more: int, anyone: bool = False) -> dict[int | str, dict[str, Any]]:
    """Return a route's errors for its OpenAPI description: the usual ones, and `more`."""
    usual = (400,) if anyone else (400, 401, 403)
    return {
        status: {"description": _DESCRIPTIONS[status], "model": ErrorBody}
        for status in sorted((*usual, *more))
    }


_NOBODY = ErrorBody(
    error="unauthenticated",
    message="nobody is signed in",
    hint="sign in at the HTTPS port of the appliance",
    details=[],
)


class ApiError(Exception):
    """A refusal of the API itself, with its HTTP status."""

    def __init__(self, status: int, error: str, message: str, hint: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.error = error
        self.headers = {"Retry-After": RETRY_AFTER} if status == 503 else None
        self.hint = hint
        self.details = tuple(details)


def answer(
    request: Request, status: int, body: ErrorBody, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the error as a response; the health without a sign-in answers only the status code."""
    signed_in = getattr(request.state, "identity", None) is not None
    if request.url.path == HEALTH_PATH and not signed_in:
        return Response(status_code=status)
    return JSONResponse(body.model_dump(), status_code=status, headers=headers)


def crowded() -> Response:
    """Return the 503 for an answer whose body has no room in memory now."""
    body = ErrorBody(
        error="crowded",
        message="answers that others asked for, and have not taken yet, take all the memory for answers",
        hint=f"ask again in {RETRY_AFTER} s, with a smaller limit where the call has one",
        details=[],
    )
    return JSONResponse(body.model_dump(), status_code=503, headers={"Retry-After": RETRY_AFTER})


def unproven(error: UnprovenIdentityError) -> ErrorBody:
    """Return the body for a request whose person is not proven."""
    return ErrorBody(error=error.error, message=str(error), hint=error.hint, details=[])


def unexpected(event: str) -> ErrorBody:
    """Return the body for a fault of ours. It has only the event number; the log has the cause under it."""
    return ErrorBody(
        error="internal",
        message="the appliance failed to answer; nothing is known to have changed",
        hint=f"look up event {event} in the log of the agent, then look at the status before trying again",
        details=[f"event {event}"],
    )


def _refused(error: RefusedError) -> tuple[int, str]:
    if isinstance(error, NotFoundError):
        return 404, "not_found"
    if isinstance(error, PreconditionError):
        return 412, "precondition_unmet"
    return 409, "stale_epoch" if isinstance(error, StaleEpochError) else "refused"


def _location(parts: Sequence[int | str]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def install(app: FastAPI) -> None:
    """Register the handlers with the application.

    They are `async`, because the server's threads, which run the others, may all wait for a disk.
    """

    @app.exception_handler(ApiError)
    async def api(request: Request, error: ApiError) -> Response:
        return answer(
            request,
            error.status,
            ErrorBody(error=error.error, message=str(error), hint=error.hint, details=list(error.details)),
            error.headers,
        )

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        status, word = _refused(error)
        return answer(
            request,
            status,
            ErrorBody(error=word, message=str(error), hint=error.hint, details=list(error.details)),
        )

    @app.exception_handler(WrongModeError)
    async def wrong_mode(request: Request, error: WrongModeError) -> Response:
        return answer(
            request, 409, ErrorBody(error="wrong_mode", message=str(error), hint=error.hint, details=[])
        )

    @app.exception_handler(HolderUnavailableError)
    async def unavailable(request: Request, error: HolderUnavailableError) -> Response:
        body = ErrorBody(
            error="holder_unavailable", message=str(error), hint=error.hint, details=[error.reason]
        )
        return answer(request, 503, body)

    @app.exception_handler(OrthancUnavailableError)
    async def no_orthanc(request: Request, error: OrthancUnavailableError) -> Response:
        body = ErrorBody(error="orthanc_unavailable", message=str(error), hint=error.hint, details=[])
        return answer(request, 503, body)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        # FastAPI validates the body before `authorise` runs.
        if request.state.identity is None:
            return answer(request, 400 if request.url.path == HEALTH_PATH else 401, _NOBODY)
        problems = [f"{_location(item['loc'])}: {item['msg']}" for item in error.errors()]
        body = ErrorBody(
            error="invalid_request",
            message=f"the request has {len(problems)} problem{'s' if len(problems) > 1 else ''}",
            hint="fix what `details` lists; /understudy/docs describes every call",
            details=problems,
        )
        return answer(request, 400, body)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code in (404, 405) and request.state.identity is None:
            # A caller who is not signed in does not learn which paths exist.
            return answer(request, 401, _NOBODY)
        phrase = HTTPStatus(error.status_code).phrase
        body = ErrorBody(
            error=phrase.lower().replace(" ", "_"),
            message=error.detail
            if error.detail != phrase
            else f"{request.method} {request.url.path}: {phrase.lower()}",
            hint="/understudy/docs describes every call",
            details=[],
        )
        return answer(request, error.status_code, body)
