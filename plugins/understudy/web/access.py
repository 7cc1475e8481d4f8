"""The role that each route needs, as the route itself says it, and its check.

Rule 1: a route that does not say who may call it is refused to all.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from understudy.core.roles import Role
from understudy.web.errors import ApiError
from understudy.web.identity import PREFIX, Identity

Endpoint = TypeVar("Endpoint", bound=Callable[..., object])

_MARK = "understudy_access"


@dataclass(frozen=True, slots=True)
class Access:
    """Who may call a route, and whether the answer needs a turn."""

    role: Role | None
    """None if the call needs no person."""
    grows: bool = False
    """Whether the answer's size grows with the number of rows, so that it has to be made in turns."""


def open_to(role: Role, *, grows: bool = False) -> Callable[[Endpoint], Endpoint]:
    """Open a route to a role and the roles above it; `grows` as in Access."""

    def mark(endpoint: Endpoint) -> Endpoint:
        vars(endpoint)[_MARK] = Access(role, grows)
        return endpoint

    return mark


def open_to_all(endpoint: Endpoint) -> Endpoint:
    """Open a route to callers who are not signed in."""
    vars(endpoint)[_MARK] = Access(None)
    return endpoint


def access_of(route: object) -> Access | None:
    """Return who may call the route, or None if it does not say so."""
    access: Access | None = vars(route.endpoint).get(_MARK) if isinstance(route, APIRoute) else None
    return access


def growing(routes: Iterable[BaseRoute]) -> Callable[[str], bool]:
    """Return a function that says of a path whether its answer grows with the number of rows."""
    patterns = [
        route.path_regex
        for route in routes
        if isinstance(route, APIRoute) and (access := access_of(route)) is not None and access.grows
    ]

    def grows(path: str) -> bool:
        below = path.removeprefix(PREFIX)
        return below != path and any(pattern.match(below) for pattern in patterns)

    return grows


async def authorise(request: Request) -> None:
    """Let the request pass if its route is open to the caller, or raise 401, 403 or 415.

    It is `async`, so that health and mode answer even if all of the server's threads wait for a disk.
    """
    route = request.scope.get("route")
    path = route.path.removeprefix(PREFIX) if isinstance(route, APIRoute) else ""
    identity: Identity | None = request.state.identity
    access = access_of(route)
    is_open = access is not None and access.role is None
    needed = None if access is None else access.role
    if identity is None and not is_open:
        raise ApiError(
            401, "unauthenticated", "nobody is signed in", "sign in at the HTTPS port of the appliance"
        )
    if not is_open and (needed is None or identity is None or identity.role < needed):
        needs = "no role" if needed is None else needed.word
        has = "" if identity is None else identity.role.word
        raise ApiError(
            403,
            "forbidden",
            f"{request.method} {PREFIX}{path} is not open to the role {has}",
            f"it is open to: {needs}; ask the administrator of the appliance",
        )
    # A page of another site can make a signed-in browser post a form, but not JSON: that needs a preflight,
    # which nothing here answers (Fetch standard, CORS-safelisted request-header). `/wake` has no body and
    # changes nothing that a person sees.
    kind = request.headers.get("content-type", "").split(";")[0].strip()
    if request.method == "POST" and path != "/wake" and kind != "application/json":
        raise ApiError(
            415,
            "unsupported_media_type",
            "a POST has to say that it is JSON",
            "send the header Content-Type: application/json; it keeps other sites from acting in your name",
        )


async def who(request: Request) -> str:
    """Return the name of the person for the event log; `authorise` has run before."""
    identity = request.state.identity
    if not isinstance(identity, Identity):
        raise ApiError(
            401, "unauthenticated", "nobody is signed in", "sign in at the HTTPS port of the appliance"
        )
    return identity.user
