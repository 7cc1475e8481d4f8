"""The options that several commands have, and how a command is added to the others."""

import argparse
from typing import TypeAlias

EPILOG = "exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the agent cannot be reached"

# argparse gives this type no public name, and the class takes no type argument at run time.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(commands: Commands, name: str, text: str) -> argparse.ArgumentParser:
    """Add a command and return its parser; `text` is its help."""
    return commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", epilog=EPILOG)


def add_json(command: argparse.ArgumentParser) -> None:
    """Let the command print the agent's own answer."""
    command.add_argument("--json", action="store_true", help="print the agent's answer as JSON, for programs")


def add_selection(command: argparse.ArgumentParser) -> None:
    """Let the command choose a holder and a study."""
    command.add_argument("--holder", metavar="NAME", help="only for this holder")
    command.add_argument("--study", metavar="UID", help="only for this Study Instance UID")


def add_epoch(command: argparse.ArgumentParser) -> None:
    """Let the command name the epoch that the person saw."""
    command.add_argument(
        "--epoch",
        type=int,
        metavar="N",
        help="the epoch that you saw in the status; the current one if absent",
    )


def add_wait(command: argparse.ArgumentParser) -> None:
    """Let the command wait for the operation that it begins."""
    command.add_argument("--wait", action="store_true", help="show the progress until the operation ends")
