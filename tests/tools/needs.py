"""Prints the targets of the Makefile that the chosen tests need (python -m tests.tools.needs ARGUMENTS...).

A test names them by `pytest.mark.needs`; a test without that mark needs nothing but the environment.
"""

import contextlib
import sys
from collections.abc import Sequence

import pytest


class Needs:
    """A plugin of pytest that notes what the collected tests need."""

    def __init__(self) -> None:
        self.targets: set[str] = set()
        """Of the tests that are left after -k and -m."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Read the marks of every chosen test."""
        for item in session.items:
            for mark in item.iter_markers("needs"):
                self.targets.update(mark.args)


def main(arguments: Sequence[str]) -> int:
    """Collect the tests and print their needs; what pytest prints itself is for a reader."""
    needs = Needs()
    with contextlib.redirect_stdout(sys.stderr):
        code = pytest.main(["--collect-only", "-qq", "--no-summary", *arguments], plugins=[needs])
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        print(f"needs: no test is chosen by {' '.join(arguments)}", file=sys.stderr)
    print(*sorted(needs.targets))
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
