"""The table of the role that each route needs, and its check. A route outside the table is refused to all."""

from collections.abc import Mapping

from fastapi import Request
from fastapi.routing import APIRoute

from understudy.core.roles import Role
from understudy.web.errors import ApiError
from understudy.web.identity import PREFIX, Identity

ROLES: Mapping[tuple[str, str], Role] = {
    ("GET", "/status"): Role.READER,
    ("GET", "/mode"): Role.READER,
    ("GET", "/metrics"): Role.READER,
    ("GET", "/operations"): Role.READER,
    ("GET", "/operations/{operation}"): Role.READER,
    ("GET", "/obligations"): Role.READER,
    ("GET", "/dead-letters"): Role.READER,
    ("GET", "/modalities"): Role.READER,
    # It changes nothing. It is a POST because bodies, unlike addresses, are not logged, and it has a UID.
    ("POST", "/routes/explain"): Role.READER,
    ("GET", "/damages"): Role.READER,
    ("GET", "/conflicts"): Role.READER,
    # A replaced version is only for the people who decide about the conflict.
    ("GET", "/conflicts/{conflict}/versions/{md5}"): Role.OPERATOR,
    ("POST", "/conflicts/{conflict}/acknowledge"): Role.OPERATOR,
    ("GET", "/reports/{name}"): Role.READER,
    ("GET", "/console"): Role.READER,
    ("GET", "/console/"): Role.READER,
    ("GET", "/console/{name}"): Role.READER,
    ("GET", "/docs"): Role.READER,
    ("GET", "/docs/{name}"): Role.READER,
    ("GET", "/openapi.json"): Role.READER,
    ("POST", "/promote"): Role.OPERATOR,
    ("POST", "/failback"): Role.OPERATOR,
    ("GET", "/failback/plan"): Role.READER,
    ("POST", "/failback/settle"): Role.OPERATOR,
    ("POST", "/failback/interrupt"): Role.OPERATOR,
    ("POST", "/hold"): Role.OPERATOR,
    ("POST", "/release"): Role.OPERATOR,
    ("POST", "/verify"): Role.OPERATOR,
    ("POST", "/scrub"): Role.OPERATOR,
    ("POST", "/heal"): Role.OPERATOR,
    ("POST", "/operations/{operation}/cancel"): Role.OPERATOR,
    ("POST", "/obligations/replay"): Role.OPERATOR,
    ("POST", "/modalities/approve"): Role.ADMIN,
    ("POST", "/modalities/revoke"): Role.ADMIN,
    # An accepted recipient can read all later packs.
    ("POST", "/vaults/recipients"): Role.ADMIN,
    # Only an administrator deletes images.
    ("POST", "/deletions"): Role.ADMIN,
    # A waiver cannot be undone.
    ("POST", "/obligations/waive"): Role.ADMIN,
}

OPEN = frozenset({("GET", "/health"), ("POST", "/wake")})
"""The calls that need no person. At the edge, `/wake` needs a password like every other path.

Monitors ask for `/health`. Orthanc's plugin calls `/wake`: the agent then reads the changes feed at once, and
does nothing else.
"""


async def authorise(request: Request) -> None:
    """Let the request pass if the table allows it, or raise 401, 403 or 415.

    It is `async`, so that health and mode answer even if all of the server's threads wait for a disk.
    """
    route = request.scope.get("route")
    path = route.path.removeprefix(PREFIX) if isinstance(route, APIRoute) else ""
    identity: Identity | None = request.state.identity
    is_open = (request.method, path) in OPEN
    needed = ROLES.get((request.method, path))
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
