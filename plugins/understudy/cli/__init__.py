"""The `understudy` command, for people at the appliance."""

import os
import sys
from collections.abc import Sequence

from understudy.cli.errors import CommandError, Exit
from understudy.cli.parser import parser
from understudy.cli.plain import tell


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; the one place that prints an error."""
    chosen = parser().parse_args(arguments)
    try:
        code: int = chosen.run(chosen)
    except CommandError as error:
        for line in (str(error), *(f"  {detail}" for detail in error.details)):
            tell(f"understudy: {line}")
        if error.hint:
            tell(f"understudy: hint: {error.hint}")
        return error.code
    except BrokenPipeError:
        # The reader of our output has ended (`| head`). Python would fail once more when it flushes at exit
        # (Python library reference, signal, note on SIGPIPE).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.REFUSED
    except KeyboardInterrupt:
        tell("understudy: stopped watching; the appliance continues its operation")
        return Exit.REFUSED
    return code
