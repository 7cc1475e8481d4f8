"""The routes that act. A change of mode names the epoch that the caller saw; an answer follows its commit."""

from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter

from understudy.core.deletion import Deletion
from understudy.core.gate import Allowed
from understudy.core.model import HolderName
from understudy.core.obligations import Selection
from understudy.core.roles import Role
from understudy.core.views import ApprovalView, DeletionView, ModeView, OperationView
from understudy.web.access import open_to, open_to_all, who
from understudy.web.bodies import (
    AcceptRecipients,
    BeginFailback,
    Changed,
    Delete,
    Device,
    Fingerprint,
    Heal,
    Nothing,
    Promote,
    Reasoned,
    Replay,
    Settle,
    Waive,
)
from understudy.web.errors import errors
from understudy.web.identity import PREFIX
from understudy.web.reading import DeviceReader, LetterReader, Operation

Who = Annotated[str, Depends(who)]


class LetterDesk(LetterReader, Protocol):
    """Acts on obligations and dead letters."""

    def replay(self, who: str, selection: Selection, *, reason: str, epoch: int | None) -> int: ...

    def waive(
        self, who: str, holder: str, selection: Selection, *, reason: str, epoch: int | None
    ) -> int: ...


class DeviceDesk(DeviceReader, Protocol):
    """Acts on the devices that call here."""

    def approve(self, who: str, entry: Allowed) -> bool: ...

    def revoke(self, who: str, entry: Allowed) -> bool: ...


class ActingFacade(Protocol):
    """What these routes ask of the appliance; Facade in application.py says which errors come back."""

    @property
    def letters(self) -> LetterDesk: ...

    @property
    def devices(self) -> DeviceDesk: ...

    def promote(self, who: str, *, reason: str, force: bool, accept_loss: bool, epoch: int) -> ModeView: ...

    def plan(self, who: str) -> OperationView: ...

    def probe(self, who: str) -> OperationView: ...

    def failback(self, who: str, *, epoch: int) -> OperationView: ...

    def settle(self, who: str, *, epoch: int, override_quiet: str | None) -> OperationView: ...

    def interrupt(self, who: str, *, reason: str, epoch: int) -> ModeView: ...

    def hold(self, who: str, *, reason: str, epoch: int) -> ModeView: ...

    def release(self, who: str, *, reason: str, epoch: int) -> ModeView: ...

    def verify(self, who: str) -> OperationView: ...

    def scrub(self, who: str) -> OperationView: ...

    def heal(self, who: str, *, missed: bool) -> OperationView: ...

    def cancel(self, who: str, number: int) -> OperationView: ...

    def delete(self, who: str, what: Deletion, *, reason: str, force: bool) -> DeletionView: ...

    def accept_recipients(self, who: str, vault: HolderName, reason: str) -> str: ...

    def wake(self) -> None: ...


def router(facade: ActingFacade) -> APIRouter:
    """Return the routes that act; one long function because each route is a closure over the one façade."""
    routes = APIRouter(tags=["act"])
    operation_adapter = TypeAdapter(OperationView)

    def accepted(view: OperationView) -> Response:
        return JSONResponse(
            operation_adapter.dump_python(view, mode="json"),
            status_code=202,
            headers={"Location": f"{PREFIX}/operations/{view.operation}"},
        )

    @routes.post("/promote", summary="Take the primary's place", responses=errors(409, 412))
    @open_to(Role.OPERATOR)
    def promote(body: Promote, name: Who) -> ModeView:
        """Change the mode from standby to active, with a new epoch; both are on disk before the answer.

        412 lists every unmet precondition. The probes have to show that the primary is down, unless `force`
        is set. No image may be known to be missing here, and the seconds of the primary's work that may be
        missing have to be known and at most Policy.MaxLag, unless `accept_loss` is set. 409 means that the
        mode or the epoch is another one.
        """
        return facade.promote(
            name, reason=body.reason, force=body.force, accept_loss=body.accept_loss, epoch=body.epoch
        )

    @routes.post(
        "/failback",
        summary="Send the repaired primary what it lacks, or plan this",
        status_code=202,
        response_model=OperationView,
        responses=errors(409, 412),
    )
    @open_to(Role.OPERATOR)
    def failback(body: BeginFailback, name: Who) -> Response:
        """Change the mode from active to returning and deliver every instance that is owed to the primary.

        The operation shows the progress. With `dry_run` nothing changes: the operation compares both
        inventories, and `GET /failback/plan` answers the result. If such an operation runs already, it is
        answered, and `started` says since when it asks. 412 lists the questions that the primary does not
        answer yet.
        """
        if body.dry_run or body.epoch is None:
            return accepted(facade.plan(name))
        return accepted(facade.failback(name, epoch=body.epoch))

    @routes.post(
        "/failback/settle",
        summary="End the failback: the primary serves the clinic again",
        status_code=202,
        response_model=OperationView,
        responses=errors(409, 412),
    )
    @open_to(Role.OPERATOR)
    def settle(body: Settle, name: Who) -> Response:
        """Ask the primary once more for every instance of the outage, then change from returning to standby.

        The operation shows the progress. It is done when the mode has changed; if it failed, `details` has
        every reason. 412 comes at once if a modality has stored here within Policy.QuietPeriod.
        `override_quiet` is the reason to skip that period. The proofs cannot be skipped.
        """
        return accepted(facade.settle(name, epoch=body.epoch, override_quiet=body.override_quiet))

    @routes.post(
        "/failback/interrupt",
        summary="Stop the failback; proven instances stay proven",
        responses=errors(409, 412),
    )
    @open_to(Role.OPERATOR)
    def interrupt(body: Reasoned, name: Who) -> ModeView:
        """Change the mode from returning back to active. Proofs stay; a later failback continues there."""
        return facade.interrupt(name, reason=body.reason, epoch=body.epoch)

    @routes.post("/hold", summary="Begin planned work at the primary", responses=errors(409, 412))
    @open_to(Role.OPERATOR)
    def hold(body: Reasoned, name: Who) -> ModeView:
        """Change the mode from standby to maintenance: probes raise no alarm, and a promotion is refused."""
        return facade.hold(name, reason=body.reason, epoch=body.epoch)

    @routes.post("/release", summary="End planned work at the primary", responses=errors(409, 412))
    @open_to(Role.OPERATOR)
    def release(body: Reasoned, name: Who) -> ModeView:
        """Change the mode from maintenance to standby."""
        return facade.release(name, reason=body.reason, epoch=body.epoch)

    @routes.post(
        "/verify",
        summary="Ask every holder again for every proven instance",
        status_code=202,
        response_model=OperationView,
        responses=errors(),
    )
    @open_to(Role.OPERATOR)
    def verify(name: Who, body: Nothing | None = None) -> Response:
        """Begin to ask every holder for every proven instance, or join the verification that runs.

        `started` says since when it runs: answers from before this call count in it. Absent instances are
        owed again and listed in the report. Images of a sample are fetched from the primary again and
        compared by content; those that differ are only reported.
        """
        return accepted(facade.verify(name))

    @routes.post(
        "/probe",
        summary="Ask the primary what it can do",
        status_code=202,
        response_model=OperationView,
        responses=errors(404),
    )
    @open_to(Role.OPERATOR)
    def probe(name: Who, body: Nothing | None = None) -> Response:
        """Begin to ask the primary about its services, lists, limits and associations, or join the probe that
        runs.

        It takes about a minute, and changes nothing at the primary. At most one study that is missing here is
        fetched. The operation fails if the primary does not suit; `GET /probe` answers the findings. 404
        means that no primary is configured.
        """
        return accepted(facade.probe(name))

    @routes.post(
        "/scrub",
        summary="Read every stored file from the disk now",
        status_code=202,
        response_model=OperationView,
        responses=errors(),
    )
    @open_to(Role.OPERATOR)
    def scrub(name: Who, body: Nothing | None = None) -> Response:
        """Begin to compare every stored file with its MD5 at full speed.

        A missing or changed file is healed if a holder has the instance, and is listed in the report.
        """
        return accepted(facade.scrub(name))

    @routes.post(
        "/heal",
        summary="Try now to heal missing or changed files",
        status_code=202,
        response_model=OperationView,
        responses=errors(),
    )
    @open_to(Role.OPERATOR)
    def heal(name: Who, body: Heal | None = None) -> Response:
        """Begin to ask the holders for every stored file that is missing or changed, or join the operation
        that does so.

        Each file is tried once. The operation fails if a file is left, and its report lists those files.
        """
        return accepted(facade.heal(name, missed=body is not None and body.missed))

    @routes.post(
        "/operations/{operation}/cancel", summary="Stop a running operation", responses=errors(404, 409)
    )
    @open_to(Role.OPERATOR)
    def cancel(operation: Operation, name: Who, body: Nothing | None = None) -> OperationView:
        """Stop after the present batch; what is done stays done.

        409 means that the operation has ended, or that it is a failback, which is interrupted instead.
        Nothing is logged then.
        """
        return facade.cancel(name, operation)

    @routes.post("/obligations/replay", summary="Try refused instances again", responses=errors(404, 409))
    @open_to(Role.OPERATOR)
    def replay(body: Replay, name: Who) -> Changed:
        """Change refused obligations to owed, all or those that match every key; answer how many changed.

        Obligations that are owed already are left alone, so a call may be repeated. 404 means that there is
        no such obligation.
        """
        changed = facade.letters.replay(name, body.selection, reason=body.reason or "", epoch=body.epoch)
        return Changed(changed=changed)

    @routes.post(
        "/obligations/waive",
        summary="Decide that one holder never has to get these instances",
        responses=errors(404, 409),
    )
    # A waiver cannot be undone.
    @open_to(Role.ADMIN)
    def waive(body: Waive, name: Who) -> Changed:
        """Change owed or refused obligations to waived; administrators only. The event log gets the reason.

        Obligations that are waived already are left alone. 404 means that there is no such obligation.
        """
        changed = facade.letters.waive(
            name, body.holder, body.selection, reason=body.reason, epoch=body.epoch
        )
        return Changed(changed=changed)

    @routes.post("/deletions", summary="Delete instances here, for good", responses=errors(404, 412, 503))
    # Only an administrator deletes images.
    @open_to(Role.ADMIN)
    def delete(body: Delete, name: Who) -> DeletionView:
        """Delete a study, a series or instances from this standby, with one event; administrators only.

        412 lists the reasons against it: instances that are owed or not proven yet, and those that are
        proven at no other holder. `force` deletes them all the same and waives their obligations. No holder
        loses anything.
        """
        return facade.delete(name, body.what, reason=body.reason, force=body.force)

    @routes.post("/modalities/approve", summary="Put a device on the allow-list", responses=errors())
    @open_to(Role.ADMIN)
    def approve(body: Device, name: Who) -> ApprovalView:
        """Allow a calling AE title from an address or network, durably; running associations continue.

        `live` says whether the running edge applies it already. If not, the edge does within seconds of its
        start.
        """
        return body.view(live=facade.devices.approve(name, body.entry))

    @routes.post("/modalities/revoke", summary="Undo an approval", responses=errors(404))
    @open_to(Role.ADMIN)
    def revoke(body: Device, name: Who) -> ApprovalView:
        """Revoke an approval; running associations continue to their end.

        404 means that there is no such approval. An entry of the configuration is not an approval.
        """
        return body.view(live=facade.devices.revoke(name, body.entry))

    @routes.post(
        "/vaults/recipients",
        summary="Accept that a vault's recipients were changed",
        responses=errors(404, 409),
    )
    # An accepted recipient can read all later packs.
    @open_to(Role.ADMIN)
    def accept_recipients(body: AcceptRecipients, name: Who) -> Fingerprint:
        """Pin the recipients that are configured for the vault now; administrators only.

        The event log gets the reason. Later packs open with the keys of these recipients. 409 means that they
        are pinned already.
        """
        told = facade.accept_recipients(name, HolderName(body.vault), body.reason)
        return Fingerprint(fingerprint=told)

    @routes.post("/wake", summary="Look for new instances now", status_code=204, responses=errors())
    # Orthanc's plugin makes this call. The agent then reads the changes feed, and does nothing else.
    # At the edge it needs a password like every other path.
    @open_to_all
    def wake() -> None:
        """Make the agent read Orthanc's changes feed at once. Orthanc's plugin makes this call."""
        facade.wake()

    return routes
