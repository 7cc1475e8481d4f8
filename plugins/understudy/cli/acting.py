"""The commands that act: the REST API's acting routes for a person at a terminal."""

import argparse

from pydantic import TypeAdapter

from understudy.cli.client import Client, agent
from understudy.cli.errors import CommandError, Exit
from understudy.cli.heal import add_heal
from understudy.cli.options import Commands, add_command, add_epoch, add_json, add_selection, add_wait
from understudy.cli.plain import say, say_json, tell
from understudy.cli.restore import add_restore
from understudy.cli.waiting import begun, ended, fresh, watched
from understudy.core.capabilities import CapabilitiesView
from understudy.core.text import counted
from understudy.core.views import (
    ApprovalView,
    DeletionView,
    ModeView,
    OperationView,
    PlanView,
)


def add_commands(commands: Commands) -> None:
    """Add the commands that act."""
    command = add_command(commands, "promote", "take the primary's place")
    command.add_argument("--reason", required=True, help="why, for the event log")
    command.add_argument(
        "--force", action="store_true", help="even if the probes do not show that the primary is down"
    )
    command.add_argument(
        "--accept-loss",
        action="store_true",
        help="even if images are known to be missing, or the mirror lags too much",
    )
    add_epoch(command)
    command.set_defaults(run=promote)

    command = add_command(commands, "failback", "send the repaired primary every instance that it lacks")
    command.add_argument("--dry-run", action="store_true", help="show the plan and change nothing")
    add_wait(command)
    add_epoch(command)
    command.set_defaults(run=failback)

    command = add_command(commands, "settle", "end the failback: the primary serves again")
    command.add_argument(
        "--override-quiet",
        metavar="REASON",
        help="why to settle although a modality stored here a short time ago",
    )
    add_epoch(command)
    command.set_defaults(run=settle)

    for name, text in (
        ("interrupt", "stop the failback; proven instances stay proven"),
        ("hold", "begin planned work at the primary: no promotion meanwhile"),
        ("release", "end planned work at the primary"),
    ):
        command = add_command(commands, name, text)
        command.add_argument("--reason", required=True, help="why, for the event log")
        add_epoch(command)
        command.set_defaults(run=change, verb=name)

    command = add_command(commands, "accept-recipients", "accept that the recipients of a vault were changed")
    command.add_argument("--vault", required=True, metavar="NAME", help="name of the vault")
    command.add_argument("--reason", required=True, help="why, for the event log")
    command.set_defaults(run=accept_recipients)

    command = add_command(commands, "probe", "ask the primary what it can do, and say what that means here")
    command.add_argument("--last", action="store_true", help="ask nothing, and show the last probe")
    add_json(command)
    command.set_defaults(run=probe)

    command = add_command(
        commands, "verify", "ask every holder again for every instance that is proven there"
    )
    add_wait(command)
    command.set_defaults(run=verify)

    command = add_command(
        commands, "scrub", "read every stored file from the disk now and compare it with its MD5"
    )
    add_wait(command)
    command.set_defaults(run=scrub)

    add_heal(commands)

    command = add_command(commands, "cancel", "stop a running operation")
    command.add_argument("operation", type=int, metavar="N", help="its number")
    command.set_defaults(run=cancel)

    command = add_command(commands, "replay", "try refused instances again")
    add_selection(command)
    command.add_argument("--reason", help="what was fixed, for the event log")
    add_epoch(command)
    command.add_argument(
        "uids", nargs="*", metavar="SOP_INSTANCE_UID", help="these only; all refused ones if absent"
    )
    command.set_defaults(run=replay)

    command = add_command(commands, "waive", "decide that one holder never has to get these instances")
    command.add_argument("--holder", required=True, metavar="NAME", help="the holder")
    command.add_argument("--study", metavar="UID", help="all instances of this Study Instance UID")
    command.add_argument("--reason", required=True, help="why, for the event log")
    add_epoch(command)
    command.add_argument(
        "uids", nargs="*", metavar="SOP_INSTANCE_UID", help="these instances, or those of --study"
    )
    command.set_defaults(run=waive)

    command = add_command(commands, "delete", "delete a study here that is proven at other holders")
    command.add_argument("study", metavar="STUDY_INSTANCE_UID")
    command.add_argument(
        "uids", nargs="*", metavar="SOP_INSTANCE_UID", help="only these instances of the study"
    )
    command.add_argument("--series", metavar="UID", help="only this Series Instance UID")
    command.add_argument("--reason", required=True, help="why, for the event log")
    command.add_argument(
        "--force", action="store_true", help="even if it is owed to a holder, or proven at no other holder"
    )
    command.set_defaults(run=delete)

    add_restore(commands)

    for name, text in (
        ("approve", "put a device on the allow-list, at once and for good"),
        ("revoke", "undo an approval"),
    ):
        command = add_command(commands, name, text)
        command.add_argument(
            "calling_ae_title", metavar="AE_TITLE", help="the calling AE title of the device"
        )
        command.add_argument("address", metavar="ADDRESS", help="IP address or network that it calls from")
        command.add_argument("--called", metavar="AE_TITLE", help="the only AE title that it may call")
        command.set_defaults(run=device, verb=name)


def _epoch(client: Client, arguments: argparse.Namespace) -> int:
    """Return the epoch that the person saw, or the present one."""
    return client.read(ModeView, "/mode").epoch if arguments.epoch is None else int(arguments.epoch)


def device(arguments: argparse.Namespace) -> int:
    """Approve a device, or revoke its approval."""
    body: dict[str, object] = {"calling_ae_title": arguments.calling_ae_title, "address": arguments.address}
    if arguments.called:
        body["called_ae_title"] = arguments.called
    view = agent().act(ApprovalView, f"/modalities/{arguments.verb}", body)
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
    client = agent()
    body: dict[str, object] = {
        "reason": arguments.reason,
        "force": arguments.force,
        "accept_loss": arguments.accept_loss,
        "epoch": _epoch(client, arguments),
    }
    return _say_mode(client.act(ModeView, "/promote", body))


def failback(arguments: argparse.Namespace) -> int:
    """Show the plan of a failback, or begin it."""
    client = agent()
    if arguments.dry_run:
        ended(client, fresh(client.act(OperationView, "/failback", {"dry_run": True})))
        from understudy.cli import show

        show.plan(client.read(PlanView, "/failback/plan"))
        return Exit.OK
    return begun(
        client, client.act(OperationView, "/failback", {"epoch": _epoch(client, arguments)}), arguments
    )


def settle(arguments: argparse.Namespace) -> int:
    """End the failback."""
    client = agent()
    body: dict[str, object] = {"epoch": _epoch(client, arguments), "override_quiet": arguments.override_quiet}
    view = ended(client, client.act(OperationView, "/failback/settle", body))
    if view.report:
        tell(f"report: {view.report}")
    return _say_mode(client.read(ModeView, "/mode"))


def change(arguments: argparse.Namespace) -> int:
    """Interrupt a failback, or begin (hold) or end (release) planned work."""
    client = agent()
    path = "/failback/interrupt" if arguments.verb == "interrupt" else f"/{arguments.verb}"
    body: dict[str, object] = {"reason": arguments.reason, "epoch": _epoch(client, arguments)}
    return _say_mode(client.act(ModeView, path, body))


def accept_recipients(arguments: argparse.Namespace) -> int:
    """Accept that a vault's recipients were changed."""
    content = agent().post("/vaults/recipients", {"vault": arguments.vault, "reason": arguments.reason})
    told = TypeAdapter(dict[str, str]).validate_json(content)["fingerprint"]
    say(f"packs for {arguments.vault} open with the key {told} from now on")
    return Exit.OK


def probe(arguments: argparse.Namespace) -> int:
    """Ask the primary what it can do, and show it; exit code 1 if it does not suit."""
    client = agent()
    if not arguments.last:
        watched(client, client.act(OperationView, "/probe", {}))
    view = TypeAdapter(CapabilitiesView | None).validate_json(client.get("/probe"))
    if view is None:
        raise CommandError("the primary was not probed yet", "understudy probe asks it, in about a minute")
    if arguments.json:
        say_json(client.get("/probe").decode("utf-8"))
    else:
        from understudy.cli import show

        show.capabilities(view)
    return Exit.OK if view.suits else Exit.REFUSED


def verify(arguments: argparse.Namespace) -> int:
    """Ask every holder again."""
    client = agent()
    return begun(client, fresh(client.act(OperationView, "/verify", {})), arguments)


def scrub(arguments: argparse.Namespace) -> int:
    """Read every stored file now."""
    client = agent()
    return begun(client, client.act(OperationView, "/scrub", {}), arguments)


def cancel(arguments: argparse.Namespace) -> int:
    """Stop a running operation."""
    view = agent().act(OperationView, f"/operations/{arguments.operation}/cancel", {})
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
    return _changed(agent().post("/obligations/replay", _selected(arguments)), words)


def delete(arguments: argparse.Namespace) -> int:
    """Delete a study here."""
    body = {
        "study_instance_uid": arguments.study,
        "series_instance_uid": arguments.series,
        "sop_instance_uids": arguments.uids or None,
        "reason": arguments.reason,
        "force": arguments.force,
    }
    view = agent().act(DeletionView, "/deletions", body)
    say(f"deleted here: {counted(view.instances, 'image')} of study {view.study_instance_uid}")
    for holder, number in sorted(view.proven.items()):
        say(f"{holder} is proven to have {number} of them")
    return Exit.OK


def waive(arguments: argparse.Namespace) -> int:
    """Give up instances for one holder."""
    answer = agent().post("/obligations/waive", _selected(arguments))
    return _changed(answer, f"waived for {arguments.holder}")


def _selected(arguments: argparse.Namespace) -> dict[str, object]:
    return {
        "holder": arguments.holder,
        "sop_instance_uids": arguments.uids or None,
        "study_instance_uid": arguments.study,
        "reason": arguments.reason,
        "epoch": arguments.epoch,
    }
