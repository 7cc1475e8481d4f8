"""Refusals that an operator meets: each says what, why and what to do."""

from collections.abc import Sequence


class RefusedError(Exception):
    """An action that is not done; nothing changed."""

    def __init__(self, message: str, hint: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.hint = hint
        self.details = tuple(details)


class StaleEpochError(RefusedError):
    """The caller saw another epoch than the present one: somebody else acted meanwhile."""


class PreconditionError(RefusedError):
    """A guard of the mode table is not met; `details` names every unmet one."""


class NotFoundError(RefusedError):
    """Nothing of that name or number is known."""
