"""The routes for conflicts: list them, download a version, acknowledge one."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Annotated, BinaryIO, Protocol

from fastapi import APIRouter, Depends, Path, Query, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from understudy.core.conflicts import ConflictView
from understudy.core.roles import Role
from understudy.web.access import open_to, who
from understudy.web.bodies import Acknowledge, ConflictsQuery
from understudy.web.errors import ApiError, errors

Conflict = Annotated[int, Path(ge=1, le=2**53, description="Number of the conflict.", examples=[3])]
Md5 = Annotated[
    str, Path(pattern="^[0-9a-f]{32}$", description="MD5 of the version, as the conflict shows it.")
]

_MOST_GIVEN_OUT = 8
"""Files that are sent at the same time: each takes up to 4 MiB of memory and a file descriptor."""
_PIECE = 2**16
"""Bytes of a file that are read and sent at a time."""


class _FileResponse(StreamingResponse):
    """Sends a file piece by piece, and closes it at the end or when the caller has gone."""

    def __init__(self, size: int, file: BinaryIO, held: ExitStack) -> None:
        super().__init__(_pieces(file), media_type="application/dicom", headers={"Content-Length": str(size)})
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await super().__call__(scope, receive, send)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


class ConflictDesk(Protocol):
    """Calls about conflicts. NotFoundError if there is none of that number."""

    def conflicts(
        self, *, everything: bool, sop_instance_uid: str | None, limit: int
    ) -> Sequence[ConflictView]: ...

    def acknowledge(self, who: str, number: int, reason: str) -> ConflictView: ...

    def version(self, number: int, md5: str) -> AbstractContextManager[tuple[int, BinaryIO]]: ...


class ConflictsFacade(Protocol):
    """What these routes ask of the appliance."""

    @property
    def conflicts(self) -> ConflictDesk: ...


def router(facade: ConflictsFacade) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["conflicts"])
    places = threading.BoundedSemaphore(_MOST_GIVEN_OUT)

    @routes.get(
        "/conflicts", summary="SOP Instance UIDs that came with two different contents", responses=errors()
    )
    @open_to(Role.READER, grows=True)
    def conflicts(asked: Annotated[ConflictsQuery, Query()]) -> Sequence[ConflictView]:
        """Answer the open conflicts, or all with `everything`, each with both digests, times and senders.

        `kind` says how the two contents differ: `head` (the data sets are the same, nobody has to act),
        `content`, `identity` (patient, study or series) or `unjudged` (not compared yet).
        """
        return facade.conflicts.conflicts(
            everything=asked.everything, sop_instance_uid=asked.sop_instance_uid, limit=asked.limit
        )

    @routes.get(
        "/conflicts/{conflict}/versions/{md5}",
        summary="One of the two files, byte for byte",
        response_class=Response,
        responses={200: {"content": {"application/dicom": {}}}, **errors(404, 503)},
    )
    # A replaced version is only for the people who decide about the conflict.
    @open_to(Role.OPERATOR)
    def version(conflict: Conflict, md5: Md5) -> Response:
        """Answer the DICOM file of either version, also of a replaced one; its MD5 was checked.

        If the file changes while it is read, the answer ends before its Content-Length. 503 means that too
        many files are being sent to others: try again after Retry-After.
        """
        if not places.acquire(blocking=False):
            raise ApiError(
                503,
                "crowded",
                f"{_MOST_GIVEN_OUT} files are on their way to callers already",
                "try again in 10 s; a caller that reads nothing for a minute is disconnected",
            )
        with ExitStack() as held:
            held.callback(places.release)
            size, file = held.enter_context(facade.conflicts.version(conflict, md5))
            return _FileResponse(size, file, held.pop_all())
        raise AssertionError

    @routes.post(
        "/conflicts/{conflict}/acknowledge", summary="Close a conflict, with a reason", responses=errors(404)
    )
    @open_to(Role.OPERATOR)
    def acknowledge(
        conflict: Conflict, body: Acknowledge, name: Annotated[str, Depends(who)]
    ) -> ConflictView:
        """Close a conflict, which ends its alarm; both versions stay, here and in the vaults."""
        return facade.conflicts.acknowledge(name, conflict, body.reason)

    return routes
