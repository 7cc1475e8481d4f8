"""Power cuts at random moments under load: what was acknowledged is there, and stock Orthanc loses it."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.drills.checker import Verdict, as_of, check
from tests.drills.disks import Disk
from tests.drills.faults import Script, count, power_cuts
from tests.drills.results import Results
from tests.drills.sender import FORGOTTEN_SOCKETS, Answer, Sender, instances
from tests.drills.servers import Product, Server, ours, stock
from tests.stack import wait_until

pytestmark = [FORGOTTEN_SOCKETS, pytest.mark.needs("image", "lab-image")]

DISK_MB = 1024
EARLIEST_CUT, LATEST_CUT = 0.3, 2.5


@dataclass(frozen=True, slots=True)
class Cuts:
    """What became of one server's instances."""

    each: tuple[Verdict, ...]
    """After each cut: the instances that were sent before it."""
    all: Verdict
    """At the end: everything, after all cuts."""

    @property
    def lossy(self) -> int:
        """How many cuts lost something."""
        return sum(not verdict.kept for verdict in self.each)

    def row(self, name: str) -> Mapping[str, str | int | float]:
        """Return the line of the table."""
        return {
            "server": name,
            "cuts": len(self.each),
            "acknowledged": self.all.acknowledged,
            "lost": len(self.all.lost),
            "damaged": len(self.all.damaged),
            "cuts that lost": self.lossy,
            "unknown": self.all.unknown,
            "of them there": self.all.unknown_present,
        }


def _play(product: Product, script: Script, work: Path) -> Cuts:
    """Cut one server's power again and again; each start goes on from what the cut left."""
    answers: list[Answer] = []
    verdicts: list[Verdict] = []
    supply = instances(work / "template", f"power {script.seed}")
    with (
        Disk.inserted(work / product.name, megabytes=DISK_MB) as disk,
        Server.installed(product, disk, name=f"understudy-drill-power-{product.name}") as server,
    ):
        server.start()
        for fault in script.faults:
            with Sender(lambda: server.dicom, supply) as sender:
                # On a slow machine nothing would be there to be lost.
                wait_until(
                    lambda: sender.stored, bool, deadline=60, what="a store before the cut", pause=0.02
                )
                time.sleep(fault.after_seconds)
                cut = server.power_cut([disk], sender)
            server.start()
            told = as_of(sender.answers, cut)
            verdicts.append(check(told, server.archive, earlier={a.sop_instance_uid for a in answers}))
            answers += told
        return Cuts(tuple(verdicts), check(answers, server.archive))


def test_power_cuts_under_load_lose_nothing_acknowledged_and_stock_orthanc_loses(
    work: Path, results: Results, seed: int
) -> None:
    script = power_cuts(seed, count("DRILL_POWERCUTS", 5), earliest=EARLIEST_CUT, latest=LATEST_CUT)
    cuts = {product.name: _play(product, script, work) for product in (ours(work), stock())}
    results.add(
        "power cuts",
        [played.row(name) for name, played in cuts.items()],
        script=script,
        runs=[
            {"server": name, **asdict(verdict)}
            for name, played in cuts.items()
            for verdict in (*played.each, played.all)
        ],
    )
    standby, control = cuts["understudy"], cuts["stock"]
    assert standby.all.acknowledged > 10 * len(script.faults), "hardly any load: nothing was tried"
    assert all(verdict.kept for verdict in (*standby.each, standby.all)), standby
    # The negative control: where stock Orthanc loses nothing either, this drill cuts no power.
    assert control.lossy > len(script.faults) / 3, control.row("stock")
