"""Everything that only looks: status, health, metrics, operations, obligations, modalities."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response

from understudy.core.views import (
    DamageView,
    DeadLetterView,
    ExplainedView,
    ModalityView,
    ObligationView,
    OperationView,
    Status,
)
from understudy.web import metrics
from understudy.web.bodies import (
    DamagesQuery,
    Explain,
    Health,
    HealthQuery,
    LettersQuery,
    ObligationsQuery,
    OperationsQuery,
)
from understudy.web.errors import errors
from understudy.web.facade import Facade

Operation = Annotated[int, Path(ge=1, le=2**53, description="Number of the operation.", examples=[3])]


def router(facade: Facade) -> APIRouter:
    """Return the routes that read; one long function because each route is a closure over the one façade."""
    routes = APIRouter(tags=["look"])

    @routes.get("/status", summary="The whole appliance at one moment", responses=errors())
    def status() -> Status:
        """Answer mode, epoch, primary health with evidence, horizon, RPO, holders, operations and alarms.

        Moments are ISO 8601 with zone, ages and lags are seconds, rates are instances per second, counts are
        instances unless the name says studies. `horizon` is null before the first inventory diff, `primary`
        is null where none is configured. Read-only; costs a few milliseconds, so polling every 2 s is fine.
        """
        return facade.status()

    @routes.get(
        "/health",
        summary="Healthy or not, for load balancers and monitors",
        response_model=Health,
        responses={
            503: {"description": "Not healthy by what was asked for.", "model": Health},
            **errors(anyone=True),
        },
    )
    def health(request: Request, asked: Annotated[HealthQuery, Query()]) -> Response:
        """Answer 200 or 503: with `role` only that mode is healthy, with `max_lag` (seconds) only a mirror
        that close.

        The one call that needs no sign-in: then it answers the bare status code and no body.
        """
        present = facade.status()
        reasons = []
        if asked.role is not None and present.mode is not asked.role:
            reasons.append(f"the mode is {present.mode.value}, not {asked.role.value}")
        if asked.max_lag is not None and present.lag_seconds > asked.max_lag:
            reasons.append(f"the mirror lags {present.lag_seconds:.0f} s, more than {asked.max_lag:.0f} s")
        code = 503 if reasons else 200
        if request.state.identity is None:
            return Response(status_code=code)
        view = Health(
            healthy=not reasons,
            mode=present.mode,
            epoch=present.epoch,
            lag_seconds=present.lag_seconds,
            rpo_seconds=present.rpo_seconds,
            reasons=reasons,
        )
        return JSONResponse(view.model_dump(mode="json"), status_code=code)

    @routes.get("/metrics", summary="The status for Prometheus", response_class=Response, responses=errors())
    def metrics_text() -> Response:
        """Answer Prometheus' text format; ages and lags in seconds, rates in instances per second, no UID as
        a label."""
        return Response(metrics.render(facade.status()), media_type=metrics.CONTENT_TYPE)

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
        return facade.obligations(asked.selection, asked.state, asked.limit)

    @routes.get("/dead-letters", summary="What was refused, and what to do about it", responses=errors())
    def dead_letters(asked: Annotated[LettersQuery, Query()]) -> Sequence[DeadLetterView]:
        """Answer refused obligations counted by holder and reason, with a hint and one example each, the
        longest refused first; `GET /obligations?state=refused` lists them one by one."""
        return facade.dead_letters(asked.selection)

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
        return facade.modalities()

    return routes
