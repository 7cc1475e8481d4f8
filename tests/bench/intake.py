"""Intake: an unmodified storescu to the whole appliance, and the same files to stock Orthanc."""

import json
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.measured import Figure, medians
from tests.bench.parts import FOLDER, PROJECT, Sender, address_of, paused, sender, settle_disk, stock
from tests.data import ct_series
from tests.stack import REPOSITORY, Stack, StackError, wait_until

AGAINST = "stock Orthanc"
_LISTS = {"DicomAlwaysAllowFind": "true"}
"""Of the route's receiver: it answers C-FIND from whom it does not know, as it would once it knew us."""


@dataclass(frozen=True, slots=True)
class IntakeSize:
    """How much one intake bench sends."""

    associations: int
    instances: int
    """Of one association."""
    goal: float
    delivers: bool = False
    """Whether the destination of the route is there; where it is not, what it is owed accumulates."""


class Appliance:
    """A whole appliance on volumes and a network of its own, under zero configuration if none is given."""

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

    def proven(self, instances: int, *, deadline: float, holders: Sequence[str] = ("local",)) -> None:
        """Wait until its vault, or other holders, are proven to have all."""
        wait_until(
            self.stack.status,
            lambda state: (
                state.instances == instances
                and all(state.holders[name].proven == instances for name in holders)
            ),
            deadline=deadline,
            what=f"{instances} instances at {', '.join(holders)}",
        )


def configured(folder: Path, section: Mapping[str, Any]) -> dict[str, str]:
    """Write a configuration with these of our keys and the vault of zero configuration.

    Returns the environment of an appliance that has it.
    """
    copied = folder / "config"
    shutil.copytree(REPOSITORY / "orthanc-config", copied)
    vault = {"Name": "local", "Directory": "/var/lib/understudy-vault"}
    ours = {"Understudy": {"Vaults": [vault], **section}}
    (copied / "understudy.json").write_text(json.dumps(ours), encoding="utf-8")
    return {"UNDERSTUDY_CONFIG": str(copied)}


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
    to do as well, and the ledger's, vault's and route's of this one. Where the route delivers, its receiver
    runs on the same processors in our turn, and is paused in stock's, which forwards nothing.
    """
    folder = FOLDER / name
    sets = [
        [folder / str(turn) / str(part) for part in range(size.associations)] for turn in range(rounds + 1)
    ]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        make_series([part for parts in sets for part in parts], size.instances)
        there = {"AeTitle": "ORTHANC", "Host": f"{PROJECT}-{name}-archive", "Port": 4242}
        section = {
            "Destinations": [{"Name": "archive", **there}],
            "Routes": [{"Name": "all", "To": ["archive"]}],
        }
        appliance = Appliance(name, configured(folder, section))
        stack.callback(appliance.stack.down)
        appliance.stack.up()
        peer = stack.enter_context(stock(f"{name}-stock", appliance.network))
        archives = [
            stack.enter_context(stock(f"{name}-archive", appliance.network, tuned=True, changes=_LISTS))
            for _ in range(size.delivers)
        ]
        party = stack.enter_context(sender(appliance.network))
        ours: list[float] = []
        theirs: list[float] = []
        delivered: list[int] = []
        """While instances came. In the first round the route has nothing left from the one before."""
        sent = size.associations * size.instances
        for parts in sets:
            with paused([peer.container]):
                ready(party, appliance.address)
                settle_disk()
                before = sum(archive.count() for archive in archives)
                ours.append(sent / party.send(appliance.address, 4242, parts))
                delivered.append(sum(archive.count() for archive in archives) - before)
            with paused([*appliance.containers, *(archive.container for archive in archives)]):
                ready(party, peer.address)
                settle_disk()
                theirs.append(sent / party.send(peer.address, 4242, parts))
        if archives and 0 in delivered[1:]:
            raise StackError(f"the route delivered nothing while instances came: {delivered}")
        expected = sent * len(sets)
        if (appliance.count(), peer.count()) != (expected, expected):
            raise StackError(f"sent {expected}, ours has {appliance.count()}, stock {peer.count()}")
        appliance.proven(expected, deadline=300, holders=["local", *("archive" for _ in archives)])
    against = f"{AGAINST}; the route delivered {delivered[1:]} meanwhile" if size.delivers else AGAINST
    return [medians(name, ours[1:], theirs[1:], "instances/s", against, goal=size.goal)]
