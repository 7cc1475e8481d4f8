"""Conflicts over REST: shown, given out version by version, acknowledged."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Annotated, BinaryIO

from fastapi import APIRouter, Depends, Path, Query, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from understudy.core.conflicts import ConflictView
from understudy.web.access import who
from understudy.web.bodies import Acknowledge, ConflictsQuery
from understudy.web.errors import ApiError, errors
from understudy.web.facade import Facade

Conflict = Annotated[int, Path(ge=1, le=2**53, description="Number of the conflict.", examples=[3])]
Md5 = Annotated[
    str, Path(pattern="^[0-9a-f]{32}$", description="MD5 of the version, as the conflict shows it.")
]

_MOST_GIVEN_OUT = 8
"""Files on their way to a caller at a time: each holds 4 MiB of memory at most, and a file descriptor."""
_PIECE = 2**16
"""Bytes of a file that are read and sent at a time."""


class _FileResponse(StreamingResponse):
    """A file that is sent piece by piece, and closed when the caller has it or has gone."""

    def __init__(self, size: int, file: BinaryIO, held: ExitStack) -> None:
        super().__init__(_pieces(file), media_type="application/dicom", headers={"Content-Length": str(size)})
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await super().__call__(scope, receive, send)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


def router(facade: Facade) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["conflicts"])
    places = threading.BoundedSemaphore(_MOST_GIVEN_OUT)

    @routes.get("/conflicts", summary="SOP Instance UIDs that came with two contents", responses=errors())
    def conflicts(asked: Annotated[ConflictsQuery, Query()]) -> Sequence[ConflictView]:
        """Answer both digests, times and senders of each: open conflicts, with `everything` all.

        `kind` says in what the two differ: `head` (the data sets are the same, nobody has to act),
        `content`, `identity` (patient, study or series) or `unjudged` (not compared yet).
        """
        return facade.conflicts.conflicts(
            everything=asked.everything, sop_instance_uid=asked.sop_instance_uid, limit=asked.limit
        )

    @routes.get(
        "/conflicts/{conflict}/versions/{md5}",
        summary="One of the two files, bit by bit",
        response_class=Response,
        responses={200: {"content": {"application/dicom": {}}}, **errors(404, 503)},
    )
    def version(conflict: Conflict, md5: Md5) -> Response:
        """Answer the DICOM file, also of the version that Orthanc has replaced; its MD5 was checked.

        A file that changes while it is read ends before its Content-Length. 503 says that others' files are
        on their way: try again after Retry-After.
        """
        if not places.acquire(blocking=False):
            raise ApiError(
                503,
                "crowded",
                f"{_MOST_GIVEN_OUT} files are on their way to callers already",
                "try again in 10 s; whoever takes nothing is given up after a minute",
            )
        with ExitStack() as held:
            held.callback(places.release)
            size, file = held.enter_context(facade.conflicts.version(conflict, md5))
            return _FileResponse(size, file, held.pop_all())
        raise AssertionError

    @routes.post(
        "/conflicts/{conflict}/acknowledge", summary="Close a conflict, with a reason", responses=errors(404)
    )
    def acknowledge(
        conflict: Conflict, body: Acknowledge, name: Annotated[str, Depends(who)]
    ) -> ConflictView:
        """Close it for the alarm; both versions stay, here and in the vaults."""
        return facade.conflicts.acknowledge(name, conflict, body.reason)

    return routes
