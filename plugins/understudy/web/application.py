"""Builds the API's application from a façade."""

from pathlib import Path
from typing import Protocol

from fastapi import APIRouter, Depends, FastAPI

from understudy.web import acting, conflicts, errors, pages, reading
from understudy.web.access import authorise, growing
from understudy.web.boundary import Boundary
from understudy.web.identity import PREFIX, Identify

SWAGGER = Path("/opt/understudy/www/swagger")

_DESCRIPTION = """
The standby PACS appliance: look at it, promote it when the PACS fails, and give everything back with proof.

* **Identity** comes from the HTTPS front. A *reader* may GET, an *operator* may also act, an *admin* may also
  waive.
* **Every POST** has the header `Content-Type: application/json`, and every change of mode names the `epoch`
  that the caller saw: if somebody acted meanwhile, it is refused with 409 and nothing changes.
* **Units**: ages, lags and durations are seconds, sizes are bytes, rates are units per second, moments are
  ISO 8601 with zone, counts are instances unless the name says otherwise.
* **Errors** are always `{"error", "message", "hint", "details"}`; unknown keys are refused with all problems
  at once.
"""


class Facade(
    acting.ActingFacade, reading.ReadingFacade, conflicts.ConflictsFacade, pages.PagesFacade, Protocol
):
    """The appliance as the REST API sees it, so that the API can be tested without an Orthanc.

    Its calls raise the errors of core/errors.py and core.modes.WrongModeError.
    """


def application(facade: Facade, version: str, identify: Identify, swagger: Path = SWAGGER) -> FastAPI:
    """Return the ASGI application, with every route under /understudy; `identify` identifies the caller."""
    app = FastAPI(
        title="Understudy",
        version=version,
        description=_DESCRIPTION,
        # Replaced by routes of our own, which need a sign-in and load nothing from other hosts.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # The redirect would have an absolute address, made from the client's Host header.
        redirect_slashes=False,
    )
    parts = (
        reading.router(facade),
        acting.router(facade),
        conflicts.router(facade),
        pages.router(facade, swagger),
    )
    grows = growing(route for part in parts for route in part.routes)
    app.add_middleware(Boundary, identify=identify, grows=grows)
    errors.install(app)
    routes = APIRouter(prefix=PREFIX, dependencies=[Depends(authorise)])
    for part in parts:
        routes.include_router(part)
    app.include_router(routes)
    return app
