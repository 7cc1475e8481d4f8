"""What goes wrong when: fault scripts as data, from a seed that is printed, so that a run can be repeated.

`DRILL_SEED` gives the seed of a run that is to be repeated.
"""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class FaultKind(Enum):
    """What happens."""

    POWER_CUT = "power cut"
    CRASH = "kill -9"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: so many seconds after the load began or after intake had recovered from the one before."""

    kind: FaultKind
    target: str
    after_seconds: float
    after_events: int = 0
    """What has to have happened of the load before, where the drill counts that."""


@dataclass(frozen=True, slots=True)
class Script:
    """The faults of one run in their order."""

    seed: int
    faults: tuple[Fault, ...]


def seed_of_this_run() -> int:
    """Return the seed that was asked for, or a new one."""
    asked = os.environ.get("DRILL_SEED")
    return int(asked) if asked else random.SystemRandom().randrange(1 << 32)


def count(variable: str, default: int) -> int:
    """Return how many faults the environment asks for."""
    return int(os.environ.get(variable, default))


def power_cuts(seed: int, number: int, *, earliest: float, latest: float) -> Script:
    """Return power cuts at random moments under load."""
    randomness = random.Random(f"power cuts {seed}")
    return Script(
        seed,
        tuple(
            Fault(FaultKind.POWER_CUT, "orthanc", round(randomness.uniform(earliest, latest), 3))
            for _ in range(number)
        ),
    )


def crashes(seed: int, number: int, services: Sequence[str], *, earliest: float, latest: float) -> Script:
    """Return crashes of each service in turn, `number` of each, in random order and at random moments.

    No service is killed twice in a row: Docker waits longer before each restart of a container that has
    run for less than 10 s.
    """
    randomness = random.Random(f"crashes {seed}")
    faults: list[Fault] = []
    for _ in range(number):
        turn = list(services)
        randomness.shuffle(turn)
        if faults and turn[0] == faults[-1].target:
            turn.append(turn.pop(0))
        faults += [
            Fault(FaultKind.CRASH, service, round(randomness.uniform(earliest, latest), 3))
            for service in turn
        ]
    return Script(seed, tuple(faults))


def storm(seed: int, number: int, targets: Sequence[str], *, events: int) -> Script:
    """Return crashes of random targets, each after a random number of the events of its portion of load.

    Counted events spread the crashes over all that happens, on a fast machine as on a slow one.
    """
    randomness = random.Random(f"storm {seed}")
    return Script(
        seed,
        tuple(
            Fault(
                FaultKind.CRASH,
                randomness.choice(targets),
                after_seconds=0.0,
                after_events=randomness.randrange(events),
            )
            for _ in range(number)
        ),
    )
