"""Reads the file in which Orthanc's reception counts its refusals (docker/reception/refusals.cc)."""

from collections.abc import Sequence
from pathlib import Path

from understudy.core.reception import Refusal, refusals

REFUSALS = Path("understudy", "refusals")
_MOST_BYTES = 2**20
"""Several times the largest size of the file."""


def read_refusals(storage: Path) -> Sequence[Refusal]:
    """Return the refusals, nothing if the reception has refused nothing yet."""
    try:
        with (storage / REFUSALS).open("rb") as file:
            content = file.read(_MOST_BYTES)
    except FileNotFoundError:
        return ()
    return refusals(content.decode("ascii", "replace").splitlines())
