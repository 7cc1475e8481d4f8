"""The commands that call the agent: the REST API for a person at a terminal."""

import argparse
import time

from pydantic import TypeAdapter

from understudy.cli.client import Client
from understudy.cli.errors import CommandError, Exit
from understudy.cli.places import places
from understudy.cli.plain import say, say_json, tell
from understudy.cli.words import duration
from understudy.core.views import (
    ApprovalView,
    DamageView,
    DeadLetterView,
    DeletionView,
    ExplainedView,
    ModalityView,
    ModeView,
    ObligationView,
    OperationState,
    OperationView,
    PlanView,
    Status,
)
from understudy.web.bodies import HealthAnswer

_POLL = 0.5
"""Seconds between two looks at an operation for which the command waits."""


def _client() -> Client:
    return Client(places().socket)


def _epoch(client: Client, arguments: argparse.Namespace) -> int:
    """Return the epoch that the person saw, or the present one."""
    return client.read(ModeView, "/mode").epoch if arguments.epoch is None else int(arguments.epoch)


def _raw(content: bytes) -> int:
    say_json(content.decode("utf-8"))
    return Exit.OK


def status(arguments: argparse.Namespace) -> int:
    """Show the whole appliance."""
    client = _client()
    if arguments.json:
        return _raw(client.get("/status"))
    view = client.read(Status, "/status")
    from understudy.cli import show

    show.status(view)
    return Exit.OK


def health(arguments: argparse.Namespace) -> int:
    """Say by the exit code whether the appliance is healthy."""
    healthy, content = _client().health(role=arguments.role, max_lag=arguments.max_lag)
    view = HealthAnswer.model_validate_json(content)
    if not healthy:
        raise CommandError("the appliance is not healthy", "understudy status shows more", view.reasons)
    behind = "never compared" if view.lag_seconds is None else f"{duration(view.lag_seconds)} behind"
    say(f"healthy: {view.mode.value}, epoch {view.epoch}, mirror {behind}")
    for problem in view.degraded:
        say(f"degraded: the last correct configuration runs: {problem}")
    return Exit.OK


def operations(arguments: argparse.Namespace) -> int:
    """Show the last operations."""
    client = _client()
    if arguments.json:
        return _raw(client.get("/operations", limit=arguments.limit))
    views = client.read(list[OperationView], "/operations", limit=arguments.limit)
    from understudy.cli import show

    show.operations(views)
    return Exit.OK


def obligations(arguments: argparse.Namespace) -> int:
    """Show obligations."""
    client = _client()
    query = {
        "holder": arguments.holder,
        "study_instance_uid": arguments.study,
        "state": arguments.state,
        "limit": arguments.limit,
    }
    if arguments.json:
        return _raw(client.get("/obligations", **query))
    views = client.read(list[ObligationView], "/obligations", **query)
    from understudy.cli import show

    show.obligations(views, arguments.limit)
    return Exit.OK


def dead_letters(arguments: argparse.Namespace) -> int:
    """Show dead letters by holder and reason."""
    client = _client()
    query = {"holder": arguments.holder, "study_instance_uid": arguments.study}
    if arguments.json:
        return _raw(client.get("/dead-letters", **query))
    views = client.read(list[DeadLetterView], "/dead-letters", **query)
    from understudy.cli import show

    show.dead_letters(views)
    return Exit.OK


def explain(arguments: argparse.Namespace) -> int:
    """Show which routes match a study, and why."""
    client = _client()
    body = {"study_instance_uid": arguments.study_instance_uid}
    if arguments.json:
        return _raw(client.post("/routes/explain", body))
    view = client.act(ExplainedView, "/routes/explain", body)
    from understudy.cli import show

    show.explained(view)
    return Exit.OK


def modalities(arguments: argparse.Namespace) -> int:
    """Show the devices that have sent here or tried."""
    client = _client()
    if arguments.json:
        return _raw(client.get("/modalities"))
    views = client.read(list[ModalityView], "/modalities")
    from understudy.cli import show

    show.modalities(views)
    return Exit.OK


def device(arguments: argparse.Namespace) -> int:
    """Approve a device, or revoke its approval."""
    body: dict[str, object] = {"calling_ae_title": arguments.calling_ae_title, "address": arguments.address}
    if arguments.called:
        body["called_ae_title"] = arguments.called
    view = _client().act(ApprovalView, f"/modalities/{arguments.verb}", body)
    called = f", calling {view.called_ae_title}" if view.called_ae_title else ""
    word = "on the allow-list" if arguments.verb == "approve" else "no longer approved"
    say(f"{view.calling_ae_title} from {view.network}{called} is {word}")
    if not view.live:
        tell("the edge does not run, or has not accepted this yet: the agent tries again by itself")
    return Exit.OK


def _say_mode(view: ModeView) -> int:
    say(f"the mode is {view.mode.value}, epoch {view.epoch}, since {view.since}")
    return Exit.OK


def promote(arguments: argparse.Namespace) -> int:
    """Take the primary's place."""
    client = _client()
    body: dict[str, object] = {
        "reason": arguments.reason,
        "force": arguments.force,
        "accept_loss": arguments.accept_loss,
        "epoch": _epoch(client, arguments),
    }
    return _say_mode(client.act(ModeView, "/promote", body))


def failback(arguments: argparse.Namespace) -> int:
    """Show the plan of a failback, or begin it."""
    client = _client()
    if arguments.dry_run:
        _ended(client, client.act(OperationView, "/failback", {"dry_run": True}))
        from understudy.cli import show

        show.plan(client.read(PlanView, "/failback/plan"))
        return Exit.OK
    return _begun(
        client, client.act(OperationView, "/failback", {"epoch": _epoch(client, arguments)}), arguments
    )


def settle(arguments: argparse.Namespace) -> int:
    """End the failback."""
    client = _client()
    body: dict[str, object] = {"epoch": _epoch(client, arguments), "override_quiet": arguments.override_quiet}
    view = _ended(client, client.act(OperationView, "/failback/settle", body))
    if view.report:
        tell(f"report: {view.report}")
    return _say_mode(client.read(ModeView, "/mode"))


def change(arguments: argparse.Namespace) -> int:
    """Interrupt a failback, or begin (hold) or end (release) planned work."""
    client = _client()
    path = "/failback/interrupt" if arguments.verb == "interrupt" else f"/{arguments.verb}"
    body: dict[str, object] = {"reason": arguments.reason, "epoch": _epoch(client, arguments)}
    return _say_mode(client.act(ModeView, path, body))


def accept_recipients(arguments: argparse.Namespace) -> int:
    """Accept that a vault's recipients were changed."""
    content = _client().post("/vaults/recipients", {"vault": arguments.vault, "reason": arguments.reason})
    told = TypeAdapter(dict[str, str]).validate_json(content)["fingerprint"]
    say(f"packs for {arguments.vault} open with the key {told} from now on")
    return Exit.OK


def verify(arguments: argparse.Namespace) -> int:
    """Ask every holder again."""
    client = _client()
    return _begun(client, client.act(OperationView, "/verify", {}), arguments)


def scrub(arguments: argparse.Namespace) -> int:
    """Read every stored file now."""
    client = _client()
    return _begun(client, client.act(OperationView, "/scrub", {}), arguments)


def damages(arguments: argparse.Namespace) -> int:
    """Show stored files that were found missing or changed."""
    client = _client()
    if arguments.json:
        return _raw(client.get("/damages", limit=arguments.limit))
    views = client.read(list[DamageView], "/damages", limit=arguments.limit)
    from understudy.cli import show

    show.damages(views)
    return Exit.OK


def cancel(arguments: argparse.Namespace) -> int:
    """Stop a running operation."""
    view = _client().act(OperationView, f"/operations/{arguments.operation}/cancel", {})
    say(f"operation {view.operation} ({view.kind}) is {view.state.value}")
    return Exit.OK


def _changed(content: bytes, word: str) -> int:
    from pydantic import TypeAdapter

    count = TypeAdapter(dict[str, int]).validate_json(content)["changed"]
    say(f"{count} instance{'' if count == 1 else 's'} {word}")
    return Exit.OK


def replay(arguments: argparse.Namespace) -> int:
    """Owe refused instances again."""
    words = f"owed to {arguments.holder} again" if arguments.holder else "owed again"
    return _changed(_client().post("/obligations/replay", _selected(arguments)), words)


def delete(arguments: argparse.Namespace) -> int:
    """Delete a study here."""
    body = {
        "study_instance_uid": arguments.study,
        "series_instance_uid": arguments.series,
        "sop_instance_uids": arguments.uids or None,
        "reason": arguments.reason,
        "force": arguments.force,
    }
    view = _client().act(DeletionView, "/deletions", body)
    say(f"deleted here: {view.instances} instances of study {view.study_instance_uid}")
    for holder, number in sorted(view.proven.items()):
        say(f"{holder} is proven to have {number} of them")
    return Exit.OK


def waive(arguments: argparse.Namespace) -> int:
    """Give up instances for one holder."""
    answer = _client().post("/obligations/waive", _selected(arguments))
    return _changed(answer, f"waived for {arguments.holder}")


def _selected(arguments: argparse.Namespace) -> dict[str, object]:
    return {
        "holder": arguments.holder,
        "sop_instance_uids": arguments.uids or None,
        "study_instance_uid": arguments.study,
        "reason": arguments.reason,
        "epoch": arguments.epoch,
    }


def _begun(client: Client, view: OperationView, arguments: argparse.Namespace) -> int:
    if not arguments.wait:
        say(f"operation {view.operation} ({view.kind}) has begun; watch it: understudy operations")
        return Exit.OK
    view = _watched(client, view)
    say(f"{view.kind} {view.operation} is {view.state.value}: {view.message}")
    if view.report:
        tell(f"report: {view.report}")
    return Exit.OK if view.state is OperationState.DONE else Exit.REFUSED


def _ended(client: Client, view: OperationView) -> OperationView:
    """Wait for an operation and return it; raise CommandError if it did not succeed."""
    view = _watched(client, view)
    if view.state is not OperationState.DONE:
        hint = "each line says what to fix" if view.details else "understudy operations shows more"
        raise CommandError(
            f"{view.kind} {view.operation} {view.state.value}: {view.message}", hint, view.details
        )
    return view


def _watched(client: Client, view: OperationView) -> OperationView:
    """Show an operation until it ends. Ctrl-C leaves it running, and the person may watch it again."""
    from understudy.cli.progress import Bar

    try:
        with Bar(f"{view.kind} {view.operation}", view.unit) as bar:
            while view.state is OperationState.RUNNING:
                bar.show(view.done, view.total, view.rate, view.eta_seconds, view.message)
                time.sleep(_POLL)
                view = client.read(OperationView, f"/operations/{view.operation}")
            bar.show(view.done, view.total, view.rate, view.eta_seconds, view.message)
    except KeyboardInterrupt:
        tell(
            f"{view.kind} {view.operation} continues; the same command watches it again, and "
            f"`understudy cancel {view.operation}` stops it"
        )
        raise
    return view
