"""Errors of the command: one line, a hint, every detail, and an exit code."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum


class Exit(IntEnum):
    """The exit codes; a script may rely on them."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3


class CommandError(Exception):
    """An error that ends the command; the boundary in `understudy.cli` prints it."""

    def __init__(
        self, message: str, hint: str, details: Sequence[str] = (), code: Exit = Exit.REFUSED
    ) -> None:
        super().__init__(message)
        self.hint = hint
        self.details = tuple(details)
        self.code = code


@contextmanager
def telling(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors of these kinds, all of which carry a hint, into a CommandError."""
    try:
        yield
    except kinds as error:
        details = tuple(getattr(error, "details", ()))
        raise CommandError(str(error), str(getattr(error, "hint", "")), details) from error
