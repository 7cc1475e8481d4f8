"""The routes that only read: status, health, metrics, operations, obligations, modalities.

Rule 1: the calls that are made all the time (status, mode, health, metrics) are `async` and take none of the
server's threads. They read memory or share one computation, so that a hanging disk cannot block them.
"""

from collections.abc import Sequence
from typing import Annotated, Protocol

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from understudy.core.capabilities import CapabilitiesView
from understudy.core.obligations import ObligationState, Selection
from understudy.core.readiness import unready
from understudy.core.roles import Role
from understudy.core.views import (
    DamageView,
    DeadLetterView,
    ExplainedView,
    GapView,
    Glance,
    ModalityView,
    ModeView,
    ObligationView,
    OperationView,
    PlanView,
    Status,
)
from understudy.web import metrics
from understudy.web.access import open_to, open_to_all
from understudy.web.bodies import (
    DamagesQuery,
    Explain,
    GapsQuery,
    HealthAnswer,
    HealthQuery,
    LettersQuery,
    ObligationsQuery,
    OperationsQuery,
)
from understudy.web.errors import errors
from understudy.web.present import Shared

Operation = Annotated[int, Path(ge=1, le=2**53, description="Number of the operation.", examples=[3])]


class LetterReader(Protocol):
    """Looks at obligations and dead letters."""

    def obligations(
        self, selection: Selection, state: ObligationState | None, limit: int
    ) -> Sequence[ObligationView]: ...

    def dead_letters(self, selection: Selection) -> Sequence[DeadLetterView]: ...


class DeviceReader(Protocol):
    """Looks at the devices that call here."""

    def modalities(self) -> Sequence[ModalityView]: ...


class ReadingFacade(Protocol):
    """What these routes ask the appliance; Facade in application.py says which errors come back."""

    @property
    def letters(self) -> LetterReader: ...

    @property
    def devices(self) -> DeviceReader: ...

    def status(self) -> Status: ...

    def glance(self) -> Glance: ...

    def last_plan(self) -> PlanView: ...

    def operations(self, limit: int) -> Sequence[OperationView]: ...

    def operation(self, number: int) -> OperationView: ...

    def explain(self, study_instance_uid: str) -> ExplainedView: ...

    def damages(self, limit: int, *, missed: bool) -> Sequence[DamageView]: ...

    def capabilities(self) -> CapabilitiesView | None: ...

    def gaps(self, limit: int) -> Sequence[GapView]: ...


def router(facade: ReadingFacade) -> APIRouter:
    """Return the routes that read; one long function because each route is a closure over the one façade."""
    routes = APIRouter(tags=["look"])
    present = Shared(facade.status)

    @routes.get("/status", summary="The whole appliance at one moment", responses=errors(503))
    @open_to(Role.READER)
    async def status() -> Status:
        """Answer mode, epoch, primary health with evidence, horizon, RPO, holders, operations and alarms.

        Moments are ISO 8601 with zone, ages and lags are seconds, rates are instances per second, counts are
        instances unless the name says studies. `horizon`, `lag_seconds` and `loss_seconds` are null until an
        inventory comparison is complete. `primary` is null if none is configured. The call takes a few
        milliseconds, so polling every 2 s is fine. 503 means that the ledger's own disk does not answer.
        """
        return await present.get()

    @routes.get("/mode", summary="The mode alone, from memory", responses=errors())
    @open_to(Role.READER)
    async def mode() -> ModeView:
        """Answer mode, epoch and since when. The call waits for no disk, so frequent polling is fine."""
        seen = facade.glance()
        return ModeView(seen.mode, seen.epoch, seen.since)

    @routes.get(
        "/health",
        summary="Healthy or not, for load balancers and monitors",
        response_model=HealthAnswer,
        responses={
            503: {"description": "Not healthy by the criteria of the request.", "model": HealthAnswer},
            **errors(anyone=True),
        },
    )
    # Monitors ask for it.
    @open_to_all
    async def health(request: Request, asked: Annotated[HealthQuery, Query()]) -> Response:
        """Answer 200 or 503: 503 while new images are refused here, or no stored file can be read.

        With `role`, only that mode is healthy. With `max_lag`, the appliance is healthy only if a promotion
        now loses at most this many seconds of the primary's work. A mirror that was never known to be
        complete is not healthy with any `max_lag`.

        While the primary is down it receives nothing, so `loss_seconds` does not change while `lag_seconds`
        grows. This is the only call that needs no sign-in; without one it answers the status code and no
        body. It answers from memory. The numbers are at most a second old, and if they are unknown the
        appliance is not healthy.
        """
        seen = facade.glance()
        reasons = unready(
            mode=seen.mode,
            loss_seconds=seen.loss_seconds,
            intake_refused="" if asked.alive else seen.intake_refused,
            unknown_since=seen.unknown_since,
            storage_unknown_since=None if asked.alive else seen.storage_unknown_since,
            role=asked.role,
            max_lag=asked.max_lag,
        )
        code = 503 if reasons else 200
        if request.state.identity is None:
            return Response(status_code=code)
        view = HealthAnswer(
            healthy=not reasons,
            mode=seen.mode,
            epoch=seen.epoch,
            lag_seconds=seen.lag_seconds,
            loss_seconds=seen.loss_seconds,
            rpo_seconds=seen.rpo_seconds,
            reasons=reasons,
            degraded=list(seen.configuration_problems),
        )
        return JSONResponse(view.model_dump(mode="json"), status_code=code)

    @routes.get(
        "/metrics", summary="The status for Prometheus", response_class=Response, responses=errors(503)
    )
    @open_to(Role.READER)
    async def metrics_text() -> Response:
        """Answer Prometheus' text format: ages and lags in seconds, rates per second, no UID as a label."""
        return Response(metrics.render(await present.get()), media_type=metrics.CONTENT_TYPE)

    @routes.get(
        "/failback/plan",
        summary="The last plan of a failback",
        responses=errors(404, 409),
    )
    @open_to(Role.READER, grows=True)
    def plan() -> PlanView:
        """Answer the last plan of `POST /failback` with `dry_run`, counted in instances."""
        return facade.last_plan()

    @routes.get("/operations", summary="The last operations, newest first", responses=errors())
    @open_to(Role.READER, grows=True)
    def operations(asked: Annotated[OperationsQuery, Query()]) -> Sequence[OperationView]:
        """Answer operations with state, progress in `unit`, `rate` in units per second and `eta_seconds`."""
        return facade.operations(asked.limit)

    @routes.get("/operations/{operation}", summary="One operation", responses=errors(404))
    @open_to(Role.READER)
    def operation(operation: Operation) -> OperationView:
        """Answer the operation; `report` is the path of its closing report once there is one."""
        return facade.operation(operation)

    @routes.get("/obligations", summary="Which instances are owed to which holder", responses=errors())
    @open_to(Role.READER, grows=True)
    def obligations(asked: Annotated[ObligationsQuery, Query()]) -> Sequence[ObligationView]:
        """Answer obligations with attempts, reason and what a person can do, unsettled ones first.

        `state=refused` selects the dead letters.
        """
        return facade.letters.obligations(asked.selection, asked.state, asked.limit)

    @routes.get(
        "/dead-letters", summary="Refused instances by reason, and what to do about them", responses=errors()
    )
    @open_to(Role.READER, grows=True)
    def dead_letters(asked: Annotated[LettersQuery, Query()]) -> Sequence[DeadLetterView]:
        """Answer refused obligations, grouped by holder and reason, the longest refused first.

        Each group has a hint and one example. `GET /obligations?state=refused` lists the obligations singly.
        """
        return facade.letters.dead_letters(asked.selection)

    @routes.post("/routes/explain", summary="Which routes match a study here, and why", responses=errors(404))
    # It changes nothing. It is a POST because bodies, unlike addresses, are not logged, and it has a UID.
    @open_to(Role.READER, grows=True)
    def explain(body: Explain) -> ExplainedView:
        """Answer, for each route of the configuration, whether its conditions match the study's instances.

        Each condition has the values that it was compared with, except values that identify the patient.
        Nothing is changed and nothing is sent.
        """
        return facade.explain(body.study_instance_uid)

    @routes.get("/damages", summary="Stored files that were missing or changed", responses=errors())
    @open_to(Role.READER, grows=True)
    def damages(asked: Annotated[DamagesQuery, Query()]) -> Sequence[DamageView]:
        """Answer open damages first, then the latest healed ones, with the attempts to heal them."""
        return facade.damages(asked.limit, missed=asked.missed)

    @routes.get(
        "/gaps", summary="Studies of which this standby or the primary lacks images", responses=errors(404)
    )
    @open_to(Role.READER, grows=True)
    def gaps(asked: Annotated[GapsQuery, Query()]) -> Sequence[GapView]:
        """Answer the differences that the last comparison found, the oldest first.

        `missing` is `here` for images that the primary has, and `primary` for images that the primary was
        proven to have and no longer lists. `reason` says why images are still missing here. 404 means that no
        primary is configured.
        """
        return facade.gaps(asked.limit)

    @routes.get("/probe", summary="What the primary can do", responses=errors(404))
    @open_to(Role.READER)
    def capabilities() -> CapabilitiesView | None:
        """Answer the findings of the last probe, each with its evidence and its meaning here.

        `ability` is works, limited, missing or unknown. `suits` says whether all that is `needed` was found.
        `changes` are the differences from the probe before. `seconds` is how long the probe took. The answer
        is null if the primary was not probed yet. 404 means that none is configured.
        """
        return facade.capabilities()

    @routes.get("/modalities", summary="The devices that send here, or have tried to", responses=errors())
    @open_to(Role.READER, grows=True)
    def modalities() -> Sequence[ModalityView]:
        """Answer every device that the edge saw, with its true address and the outcome of its associations.

        A device that is not `known` is a stranger, and can be approved.
        """
        return facade.devices.modalities()

    return routes
