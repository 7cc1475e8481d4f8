"""Intake: an unmodified storescu to the whole appliance, and the same files to stock Orthanc."""

import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measured import Figure, medians
from tests.bench.parts import FOLDER, PROJECT, Sender, address_of, paused, sender, settle_disk, stock
from tests.data import ct_series
from tests.stack import Stack, StackError, wait_until

AGAINST = "stock Orthanc"


@dataclass(frozen=True, slots=True)
class IntakeSize:
    """How much one intake bench sends."""

    associations: int
    instances: int
    """Of one association."""
    goal: float


class Appliance:
    """A whole appliance under zero configuration on volumes and a network of its own."""

    def __init__(self, name: str, environment: dict[str, str] | None = None) -> None:
        self.stack = Stack(f"{PROJECT}-{name}", lab=False, environment=environment)

    @property
    def network(self) -> str:
        return f"{self.stack.project}_front"

    @property
    def containers(self) -> list[str]:
        return [self.stack.container(service) for service in ("edge", "orthanc", "agent")]

    @property
    def address(self) -> str:
        return address_of(self.stack.container("edge"), self.network)

    def count(self) -> int:
        """Return how many instances its Orthanc has."""
        return int(self.stack.get("/statistics")["CountInstances"])

    def proven(self, instances: int, *, deadline: float) -> None:
        """Wait until its vault is proven to have all."""
        wait_until(
            self.stack.status,
            lambda state: state.instances == instances and state.holders["local"].proven == instances,
            deadline=deadline,
            what=f"{instances} instances in the vault",
        )


def make_series(folders: Sequence[Path], instances: int) -> None:
    """Make one series of 512 x 512 x 16 bit a folder; every frame has its own noise."""
    with ProcessPoolExecutor(max_workers=2) as pool:
        for done in [pool.submit(_make, folder, instances) for folder in folders]:
            done.result()


def _make(folder: Path, instances: int) -> None:
    ct_series(folder, seed=str(folder.relative_to(FOLDER)), instances=instances)


def ready(party: Sender, address: str) -> None:
    """Wait until the DICOM port answers: what was paused needs a moment to find its neighbours again."""

    def echo() -> bool:
        party.shell('echoscu --timeout 5 "$1" 4242', address)
        return True

    wait_until(echo, bool, deadline=60, what=f"C-ECHO to {address}", pause=0.2)


def intake(name: str, size: IntakeSize, rounds: int) -> list[Figure]:
    """Measure instances/s, ours and stock alternately; the first round of each warms up and is not counted.

    While one is measured the other is paused. So in each round ours has the vault's work of the round before
    to do as well, and the ledger's and vault's of this one.
    """
    folder = FOLDER / name
    sets = [
        [folder / str(turn) / str(part) for part in range(size.associations)] for turn in range(rounds + 1)
    ]
    appliance = Appliance(name)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        make_series([part for parts in sets for part in parts], size.instances)
        stack.callback(appliance.stack.down)
        appliance.stack.up()
        peer = stack.enter_context(stock(f"{name}-stock", appliance.network))
        party = stack.enter_context(sender(appliance.network))
        ours: list[float] = []
        theirs: list[float] = []
        sent = size.associations * size.instances
        for parts in sets:
            with paused([peer.container]):
                ready(party, appliance.address)
                settle_disk()
                ours.append(sent / party.send(appliance.address, 4242, parts))
            with paused(appliance.containers):
                ready(party, peer.address)
                settle_disk()
                theirs.append(sent / party.send(peer.address, 4242, parts))
        expected = sent * len(sets)
        if (appliance.count(), peer.count()) != (expected, expected):
            raise StackError(f"sent {expected}, ours has {appliance.count()}, stock {peer.count()}")
        appliance.proven(expected, deadline=300)
    return [medians(name, ours[1:], theirs[1:], "instances/s", AGAINST, goal=size.goal)]
