"""The commands that look: the REST API's reading routes for a person at a terminal."""

import argparse

from understudy.cli.client import agent
from understudy.cli.conflicts import add_conflicts
from understudy.cli.errors import CommandError, Exit
from understudy.cli.options import Commands, add_command, add_json, add_selection
from understudy.cli.plain import say, say_json
from understudy.cli.words import duration
from understudy.core.modes import Mode
from understudy.core.obligations import ObligationState
from understudy.core.views import (
    DamageView,
    DeadLetterView,
    ExplainedView,
    GapView,
    ModalityView,
    ObligationView,
    OperationView,
    Status,
)
from understudy.web.bodies import HealthAnswer


def add_commands(commands: Commands) -> None:
    """Add the commands that only look."""
    command = add_command(commands, "status", "show mode, primary, mirror, holders, operations and alarms")
    add_json(command)
    command.set_defaults(run=status)

    command = add_command(commands, "health", "tell by the exit code whether the appliance is healthy")
    command.add_argument("--role", choices=[mode.value for mode in Mode], help="healthy only in this mode")
    command.add_argument(
        "--max-lag", type=float, metavar="SECONDS", help="healthy only if the mirror lags no more than this"
    )
    command.set_defaults(run=health)

    command = add_command(commands, "operations", "show the last operations, newest first")
    command.add_argument("--limit", type=int, default=20, metavar="N", help="how many at most (20)")
    add_json(command)
    command.set_defaults(run=operations)

    command = add_command(commands, "obligations", "show which instances are owed to which holder")
    add_selection(command)
    command.add_argument(
        "--state", choices=[state.value for state in ObligationState], help="only in this state"
    )
    command.add_argument("--limit", type=int, default=100, metavar="N", help="how many at most (100)")
    add_json(command)
    command.set_defaults(run=obligations)

    command = add_command(
        commands, "dead-letters", "show refused instances by reason, and what to do about them"
    )
    add_selection(command)
    add_json(command)
    command.set_defaults(run=dead_letters)

    command = add_command(commands, "damages", "show stored files that were found missing or changed")
    command.add_argument("--limit", type=int, default=100, metavar="N", help="how many at most (100)")
    add_json(command)
    command.set_defaults(run=damages)

    command = add_command(commands, "gaps", "show the studies of which one side lacks images")
    command.add_argument("--limit", type=int, default=100, metavar="N", help="how many at most (100)")
    add_json(command)
    command.set_defaults(run=gaps)

    add_conflicts(commands)

    command = add_command(commands, "routes", "show what the routes of the configuration do")
    actions = command.add_subparsers(title="actions", metavar="ACTION", required=True)
    command = add_command(actions, "explain", "show which routes match a study that is here, and why")
    command.add_argument("study_instance_uid", metavar="STUDY_INSTANCE_UID")
    add_json(command)
    command.set_defaults(run=explain)

    command = add_command(commands, "modalities", "show the devices that send here or have tried to")
    add_json(command)
    command.set_defaults(run=modalities)


def _raw(content: bytes) -> int:
    say_json(content.decode("utf-8"))
    return Exit.OK


def status(arguments: argparse.Namespace) -> int:
    """Show the whole appliance."""
    client = agent()
    if arguments.json:
        return _raw(client.get("/status"))
    view = client.read(Status, "/status")
    from understudy.cli import show

    show.status(view)
    return Exit.OK


def health(arguments: argparse.Namespace) -> int:
    """Say by the exit code whether the appliance is healthy."""
    healthy, content = agent().health(role=arguments.role, max_lag=arguments.max_lag)
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
    client = agent()
    if arguments.json:
        return _raw(client.get("/operations", limit=arguments.limit))
    views = client.read(list[OperationView], "/operations", limit=arguments.limit)
    from understudy.cli import show

    show.operations(views)
    return Exit.OK


def obligations(arguments: argparse.Namespace) -> int:
    """Show obligations."""
    client = agent()
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
    client = agent()
    query = {"holder": arguments.holder, "study_instance_uid": arguments.study}
    if arguments.json:
        return _raw(client.get("/dead-letters", **query))
    views = client.read(list[DeadLetterView], "/dead-letters", **query)
    from understudy.cli import show

    show.dead_letters(views)
    return Exit.OK


def explain(arguments: argparse.Namespace) -> int:
    """Show which routes match a study, and why."""
    client = agent()
    body = {"study_instance_uid": arguments.study_instance_uid}
    if arguments.json:
        return _raw(client.post("/routes/explain", body))
    view = client.act(ExplainedView, "/routes/explain", body)
    from understudy.cli import show

    show.explained(view)
    return Exit.OK


def modalities(arguments: argparse.Namespace) -> int:
    """Show the devices that have sent here or tried."""
    client = agent()
    if arguments.json:
        return _raw(client.get("/modalities"))
    views = client.read(list[ModalityView], "/modalities")
    from understudy.cli import show

    show.modalities(views)
    return Exit.OK


def gaps(arguments: argparse.Namespace) -> int:
    """Show the studies of which this standby or the primary lacks images."""
    client = agent()
    if arguments.json:
        return _raw(client.get("/gaps", limit=arguments.limit))
    views = client.read(list[GapView], "/gaps", limit=arguments.limit)
    from understudy.cli import show

    show.gaps(views)
    return Exit.OK


def damages(arguments: argparse.Namespace) -> int:
    """Show stored files that were found missing or changed."""
    client = agent()
    if arguments.json:
        return _raw(client.get("/damages", limit=arguments.limit))
    views = client.read(list[DamageView], "/damages", limit=arguments.limit)
    from understudy.cli import show

    show.damages(views)
    return Exit.OK
