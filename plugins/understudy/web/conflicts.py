"""Conflicts over REST: shown, given out version by version, acknowledged."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response

from understudy.core.conflicts import ConflictView
from understudy.web.access import who
from understudy.web.bodies import Acknowledge, ConflictsQuery
from understudy.web.errors import errors
from understudy.web.facade import Facade

Conflict = Annotated[int, Path(ge=1, le=2**53, description="Number of the conflict.", examples=[3])]
Md5 = Annotated[
    str, Path(pattern="^[0-9a-f]{32}$", description="MD5 of the version, as the conflict shows it.")
]


def router(facade: Facade) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["conflicts"])

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
        """Answer the DICOM file, also of the version that Orthanc has replaced; its MD5 was checked."""
        return Response(facade.conflicts.version(conflict, md5), media_type="application/dicom")

    @routes.post(
        "/conflicts/{conflict}/acknowledge", summary="Close a conflict, with a reason", responses=errors(404)
    )
    def acknowledge(
        conflict: Conflict, body: Acknowledge, name: Annotated[str, Depends(who)]
    ) -> ConflictView:
        """Close it for the alarm; both versions stay, here and in the vaults."""
        return facade.conflicts.acknowledge(name, conflict, body.reason)

    return routes
