"""How a command waits for an operation that it began, or leaves it running."""

import argparse
import time

from understudy.cli.client import Client
from understudy.cli.errors import CommandError, Exit
from understudy.cli.plain import say, tell
from understudy.core.views import OperationState, OperationView, iso

_POLL = 0.5
"""Seconds between two looks at an operation for which the command waits."""


def fresh(view: OperationView) -> OperationView:
    """Return the operation; say so if it ran before this call, because some of its answers are older."""
    if view.updated != view.started:
        tell(
            f"{view.kind} {view.operation} runs since {iso(view.started)}: its answers may be older than "
            "this question. After its end, ask again for new ones"
        )
    return view


def begun(client: Client, view: OperationView, arguments: argparse.Namespace) -> int:
    """Say that the operation has begun, or with `--wait` what came of it; return the exit code."""
    if not arguments.wait:
        say(f"operation {view.operation} ({view.kind}) has begun; watch it: understudy operations")
        return Exit.OK
    view = watched(client, view)
    say(f"{view.kind} {view.operation} is {view.state.value}: {view.message}")
    if view.report:
        tell(f"report: {view.report}")
    return Exit.OK if view.state is OperationState.DONE else Exit.REFUSED


def ended(client: Client, view: OperationView) -> OperationView:
    """Wait for an operation and return it; raise CommandError if it did not succeed."""
    view = watched(client, view)
    if view.state is not OperationState.DONE:
        hint = "each line says what to fix" if view.details else "understudy operations shows more"
        raise CommandError(
            f"{view.kind} {view.operation} {view.state.value}: {view.message}", hint, view.details
        )
    return view


def watched(client: Client, view: OperationView) -> OperationView:
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
