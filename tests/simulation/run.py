"""Plays clinics, one seed after the other, and tells what was found in them."""

import logging
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.simulation.clinic import Clinic, Figures
from tests.simulation.invariants import ViolationError

OUTAGES = 30
"""Of one clinic."""

_REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Failure:
    """A clinic in which an invariant did not hold."""

    seed: int
    what: str
    history: tuple[str, ...]
    ages: bool = False

    def told(self, lines: int = 40) -> str:
        """Return what happened last, what it violated and how it is played again."""
        return "\n".join(
            (
                *self.history[-lines:],
                f"seed {self.seed}, commit {commit()}: {self.what}",
                f"again: PYTHONPATH=plugins python -m tests.simulation {self.seed}"
                + (" --ages" if self.ages else ""),
            )
        )


@contextmanager
def in_memory() -> Iterator[Path]:
    """Give a folder for ledgers, in memory where there is such a file system; nothing is logged meanwhile."""
    memory = Path("/dev/shm")
    logging.disable(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
            yield Path(folder)
    finally:
        logging.disable(logging.NOTSET)


def play(seed: int, folder: Path, figures: Figures, *, ages: bool = False) -> Failure | None:
    """Play the clinic of a seed and return what was violated in it, None where nothing was."""
    with tempfile.TemporaryDirectory(dir=folder) as mine:
        clinic = Clinic(seed, Path(mine), figures, ages=ages)
        try:
            clinic.play(OUTAGES)
        except ViolationError as error:
            return Failure(seed, str(error), tuple(clinic.history), ages)
        finally:
            clinic.close()
    return None


def play_some(seeds: Iterable[int], figures: Figures) -> Failure | None:
    """Play the clinics of these seeds, until one fails."""
    with in_memory() as folder:
        return next(filter(None, (play(seed, folder, figures) for seed in seeds)), None)


def commit() -> str:
    """Return the commit of this tree, empty where Git does not know it."""
    asked = ["git", "-C", str(_REPOSITORY), "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
