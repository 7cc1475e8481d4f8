"""Everything that only looks: status, health, metrics, operations, obligations, modalities.

Rule 1: what is asked for all the time (status, mode, health, metrics) waits for no disk and takes none of the
server's threads: it is `async`, and reads memory or shares one computation.
"""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from understudy.core.readiness import unready
from understudy.core.views import (
    DamageView,
    DeadLetterView,
    ExplainedView,
    ModalityView,
    ModeView,
    ObligationView,
    OperationView,
    PlanView,
    Status,
)
from understudy.web import metrics
from understudy.web.bodies import (
    DamagesQuery,
    Explain,
    HealthAnswer,
    HealthQuery,
    LettersQuery,
    ObligationsQuery,
    OperationsQuery,
)
from understudy.web.errors import errors
from understudy.web.facade import Facade
from understudy.web.present import Shared

Operation = Annotated[int, Path(ge=1, le=2**53, description="Number of the operation.", examples=[3])]


def router(facade: Facade) -> APIRouter:
    """Return the routes that read; one long function because each route is a closure over the one façade."""
    routes = APIRouter(tags=["look"])
    present = Shared(facade.status)

    @routes.get("/status", summary="The whole appliance at one moment", responses=errors(503))
    async def status() -> Status:
        """Answer mode, epoch, primary health with evidence, horizon, RPO, holders, operations and alarms.

        Moments are ISO 8601 with zone, ages and lags are seconds, rates are instances per second, counts are
        instances unless the name says studies. `horizon`, `lag_seconds` and `loss_seconds` are null before
        the first inventory diff that came to its end, `primary` is null where none is configured. Read-only;
        costs a few milliseconds, so polling every 2 s is fine.
        503 says that the ledger's own disk does not answer.
        """
        return await present.get()

    @routes.get("/mode", summary="The mode alone, from memory", responses=errors())
    async def mode() -> ModeView:
        """Answer mode, epoch and since when; no disk is waited for, so that this may be asked all the
        time."""
        seen = facade.glance()
        return ModeView(seen.mode, seen.epoch, seen.since)

    @routes.get(
        "/health",
        summary="Healthy or not, for load balancers and monitors",
        response_model=HealthAnswer,
        responses={
            503: {"description": "Not healthy by what was asked for.", "model": HealthAnswer},
            **errors(anyone=True),
        },
    )
    async def health(request: Request, asked: Annotated[HealthQuery, Query()]) -> Response:
        """Answer 200 or 503: 503 while new images are refused here, or no stored file can be read.

        With `role` only that mode is healthy, with `max_lag` only if a promotion now loses at most so many
        seconds of the primary's work.

        A mirror that was never known to be complete is not healthy by any `max_lag`. While the primary is
        down it receives nothing, so `loss_seconds` stands still while `lag_seconds` grows. The one call that
        needs no sign-in: then it answers the bare status code and no body. It is answered from memory: the
        numbers are of the last second, and it is not healthy where they are not known.
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
    async def metrics_text() -> Response:
        """Answer Prometheus' text format; ages and lags in seconds, rates in instances per second, no UID as
        a label."""
        return Response(metrics.render(await present.get()), media_type=metrics.CONTENT_TYPE)

    @routes.get(
        "/failback/plan",
        summary="What a failback would do, as it was found out last",
        responses=errors(404, 409),
    )
    def plan() -> PlanView:
        """Answer the last plan that `POST /failback` with `dry_run` made, counted in instances."""
        return facade.last_plan()

    @routes.get("/operations", summary="The last operations, newest first", responses=errors())
    def operations(asked: Annotated[OperationsQuery, Query()]) -> Sequence[OperationView]:
        """Answer each with its state, progress in `unit`, `rate` in units per second and `eta_seconds`."""
        return facade.operations(asked.limit)

    @routes.get("/operations/{operation}", summary="One operation", responses=errors(404))
    def operation(operation: Operation) -> OperationView:
        """Answer the operation; `report` is the path of its closing report once there is one."""
        return facade.operation(operation)

    @routes.get("/obligations", summary="What is owed to whom", responses=errors())
    def obligations(asked: Annotated[ObligationsQuery, Query()]) -> Sequence[ObligationView]:
        """Answer obligations with attempts, reason and what a person can do, unsettled ones first;
        `state=refused` are the dead letters."""
        return facade.letters.obligations(asked.selection, asked.state, asked.limit)

    @routes.get("/dead-letters", summary="What was refused, and what to do about it", responses=errors())
    def dead_letters(asked: Annotated[LettersQuery, Query()]) -> Sequence[DeadLetterView]:
        """Answer refused obligations counted by holder and reason, with a hint and one example each, the
        longest refused first; `GET /obligations?state=refused` lists them one by one."""
        return facade.letters.dead_letters(asked.selection)

    @routes.post(
        "/routes/explain", summary="Which routes match a study that is here, and why", responses=errors(404)
    )
    def explain(body: Explain) -> ExplainedView:
        """Answer what the routes of the configuration say to the study's instances: each condition with the
        values that it met. Nothing is changed and nothing is sent; values that tell of the patient are left
        out."""
        return facade.explain(body.study_instance_uid)

    @routes.get("/damages", summary="Stored files that were missing or changed", responses=errors())
    def damages(asked: Annotated[DamagesQuery, Query()]) -> Sequence[DamageView]:
        """Answer open damages first, then the latest that were healed, with what was tried."""
        return facade.damages(asked.limit)

    @routes.get("/modalities", summary="Who sends here, and who tried", responses=errors())
    def modalities() -> Sequence[ModalityView]:
        """Answer every device that the edge saw, by its true address, with what became of its associations;
        one that is not `known` is a stranger, and can be approved."""
        return facade.devices.modalities()

    return routes
