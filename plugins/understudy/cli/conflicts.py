"""The command `conflicts`: lists conflicts, writes both versions of one to a folder, closes one."""

import argparse
from contextlib import suppress
from pathlib import Path

from understudy.cli.client import Client
from understudy.cli.errors import CommandError, Exit
from understudy.cli.options import Commands, add_command, add_json
from understudy.cli.places import places
from understudy.cli.plain import say, say_json
from understudy.core.conflicts import ConflictView


def add_conflicts(commands: Commands) -> None:
    """Add the command `conflicts`."""
    command = add_command(
        commands, "conflicts", "show SOP Instance UIDs that came with two different contents"
    )
    command.add_argument("--all", action="store_true", help="also those that need no action")
    command.add_argument("--limit", type=int, default=100, metavar="N", help="how many at most (100)")
    act = command.add_mutually_exclusive_group()
    act.add_argument(
        "--export", nargs=2, metavar=("UID", "DIR"), help="write every version of this instance into a folder"
    )
    act.add_argument("--acknowledge", type=int, metavar="N", help="close this conflict; needs --reason")
    command.add_argument("--reason", help="why it is closed, for the event log")
    add_json(command)
    command.set_defaults(run=conflicts)


def conflicts(arguments: argparse.Namespace) -> int:
    """Show conflicts, export the versions of one, or acknowledge one."""
    client = Client(places().socket)
    if arguments.export:
        uid, folder = arguments.export
        return _export(client, uid, Path(folder))
    if arguments.acknowledge is not None:
        return _acknowledge(client, arguments)
    query = {"everything": "true" if arguments.all else None, "limit": arguments.limit}
    if arguments.json:
        say_json(client.get("/conflicts", **query).decode("utf-8"))
        return Exit.OK
    _show(client.read(list[ConflictView], "/conflicts", **query))
    return Exit.OK


def _acknowledge(client: Client, arguments: argparse.Namespace) -> int:
    if not arguments.reason:
        raise CommandError("a conflict can only be closed with a reason", "add --reason")
    path = f"/conflicts/{arguments.acknowledge}/acknowledge"
    view = client.act(ConflictView, path, {"reason": arguments.reason})
    say(f"conflict {view.conflict} is closed by {view.acknowledged_by}: {view.reason}")
    return Exit.OK


def _export(client: Client, uid: str, folder: Path) -> int:
    found = client.read(
        list[ConflictView], "/conflicts", everything="true", sop_instance_uid=uid, limit=10_000
    )
    if not found:
        raise CommandError(
            "no conflict of that SOP Instance UID is known", "`understudy conflicts --all` lists the UIDs"
        )
    versions = {
        side.md5: (conflict.conflict, side)
        for conflict in found
        for side in (conflict.earlier, conflict.later)
    }
    for md5, (number, side) in sorted(versions.items(), key=lambda item: item[1][1].received):
        # The name is the digest, so no text of a sender gets into a path.
        path = folder / f"{md5}.dcm"
        part = path.with_suffix(".part")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                client.save(f"/conflicts/{number}/versions/{md5}", file)
            part.replace(path)
        except OSError as error:
            raise CommandError(
                f"{path} cannot be written: {error.strerror}",
                "write to /tmp in the agent's container; `docker compose cp` copies it to the host",
            ) from error
        finally:
            # An incomplete file must not be taken for a version.
            with suppress(OSError):
                part.unlink(missing_ok=True)
        shown = "shown by Orthanc" if side.present else "kept"
        sender = side.sender or "REST"
        say(f"{path}  {side.size} bytes, {side.received} from {sender} ({side.address}), {shown}")
    return Exit.OK


def _show(views: list[ConflictView]) -> None:
    from understudy.cli.screen import Rows, Screen, lines
    from understudy.cli.words import moment

    table = Rows("Conflicts", ">No", "kind", "state", "SOP Instance UID", "versions: MD5, when, from")
    for view in views:
        sides = [
            f"{side.md5} {moment(side.received)} {side.sender or 'REST'} {side.address}"
            f"{'' if side.present else ' (kept)'}"
            for side in (view.earlier, view.later)
        ]
        state = "open" if view.unresolved else "closed" if view.acknowledged else "no action needed"
        table.add_row(str(view.conflict), view.kind.value, state, view.sop_instance_uid, lines(*sides))
    Screen().print(table)
