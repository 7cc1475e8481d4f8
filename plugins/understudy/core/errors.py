"""Errors for refused actions. Each says what was refused, why, and what to do."""

from collections.abc import Sequence


class RefusedError(Exception):
    """The action is refused, and nothing changed."""

    def __init__(self, message: str, hint: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.hint = hint
        self.details = tuple(details)


class StaleEpochError(RefusedError):
    """The caller named an epoch that is not the current one, because another person acted meanwhile."""


class PreconditionError(RefusedError):
    """A condition for the action is not met; `details` names every unmet condition."""


class NotFoundError(RefusedError):
    """There is no object of this name or number."""
