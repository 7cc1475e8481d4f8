"""The pages for people: console, OpenAPI page and reports. The appliance itself serves all their files."""

import copy
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response

from understudy.core.errors import NotFoundError
from understudy.core.roles import Role
from understudy.web.access import open_to
from understudy.web.errors import errors
from understudy.web.report import CONTENT_SECURITY_POLICY, parse_report, render_report

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_CONSOLE = ("index.html", "console.css", "console.js", "flow.js", "words.js", "icon.svg")
_DOCS = ("index.html", "start.js", "page.css")
_SWAGGER = ("swagger-ui.css", "swagger-ui-bundle.js")
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_REPORT_NAME = re.compile(r"(?P<number>[1-9][0-9]{0,15})(?P<suffix>\.json|\.html)?")


class PagesFacade(Protocol):
    """What these routes ask of the appliance."""

    @property
    def reports(self) -> Path: ...


def router(facade: PagesFacade, swagger: Path) -> APIRouter:
    """Return the routes of the pages; `swagger` is the folder with the two files of swagger-ui-dist."""
    routes = APIRouter(tags=["pages"])
    console, docs = _packaged("console", _CONSOLE), _packaged("docs", _DOCS)

    # A relative redirect: the appliance does not know under which name and port a browser reached it.
    @routes.get("/console", include_in_schema=False)
    @open_to(Role.READER)
    def console_folder() -> Response:
        """Redirect a browser to the folder, so that the page's relative addresses work."""
        return RedirectResponse("console/", status_code=308)

    @routes.get("/console/", summary="The console for people", response_class=Response, responses=errors())
    @open_to(Role.READER)
    def console_page() -> Response:
        """Answer the read-only page; it asks for the status every 2 s by itself."""
        return _page(console, "index.html")

    @routes.get("/console/{name}", include_in_schema=False)
    @open_to(Role.READER)
    def console_file(name: str) -> Response:
        """Answer one file of the console."""
        return _page(console, name)

    @routes.get("/docs", summary="This description, for people", response_class=Response, responses=errors())
    @open_to(Role.READER)
    def docs_page() -> Response:
        """Answer Swagger UI for /openapi.json; the appliance serves all its files."""
        return _page(docs, "index.html")

    @routes.get("/docs/{name}", include_in_schema=False)
    @open_to(Role.READER)
    def docs_file(name: str) -> Response:
        """Answer one file of the OpenAPI page, ours or Swagger UI's."""
        if name not in _SWAGGER:
            return _page(docs, name)
        file = swagger / name
        if not file.is_file():
            raise NotFoundError(
                f"{name} is not installed here", "put the files of swagger-ui-dist into its folder"
            )
        return FileResponse(file, media_type=_TYPES[file.suffix])

    @routes.get(
        "/openapi.json", summary="This description, for programs", response_class=Response, responses=errors()
    )
    @open_to(Role.READER)
    def openapi(request: Request) -> Response:
        """Answer the OpenAPI document of every call."""
        return JSONResponse(_description(request.app))

    @routes.get(
        "/reports/{name}",
        summary="The closing report of an operation",
        response_class=Response,
        responses=errors(404),
    )
    @open_to(Role.READER, grows=True)
    def report(name: str, request: Request) -> Response:
        """Answer the report of an operation: `3.json`, `3.html`, or `3` in the format that Accept prefers."""
        match = _REPORT_NAME.fullmatch(name)
        if match is None:
            raise NotFoundError(
                "a report is named by the number of its operation", "for example /understudy/reports/3"
            )
        file = facade.reports / f"{match['number']}.json"
        if not file.is_file():
            raise NotFoundError(
                f"operation {match['number']} has no report",
                "a report is written when an operation ends; /understudy/operations lists the operations",
            )
        content = file.read_bytes()
        as_page = match["suffix"] == ".html" or (
            match["suffix"] is None and "text/html" in request.headers.get("accept", "")
        )
        if not as_page:
            return Response(content, media_type="application/json")
        # Rendered again, not read from the file: the policy allows only the page style of this version.
        return Response(
            render_report(parse_report(content)),
            media_type="text/html",
            headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY},
        )

    return routes


def _description(app: FastAPI) -> dict[str, object]:
    """Return the OpenAPI document without the 422 that FastAPI adds: here an invalid request gets 400."""
    document: dict[str, Any] = copy.deepcopy(app.openapi())
    for call in (call for calls in document["paths"].values() for call in calls.values()):
        call["responses"].pop("422", None)
    for schema in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(schema, None)
    return document


def _packaged(folder: str, names: tuple[str, ...]) -> Mapping[str, bytes]:
    root = files("understudy.web") / folder
    return {name: (root / name).read_bytes() for name in names}


def _page(available: Mapping[str, bytes], name: str) -> Response:
    if name not in available:
        raise NotFoundError(
            "no such page", "the console is at /understudy/console/, this description at /understudy/docs"
        )
    return Response(
        available[name],
        media_type=_TYPES[Path(name).suffix],
        headers={"Content-Security-Policy": _PAGE_POLICY},
    )
