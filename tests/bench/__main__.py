"""Measures: python -m tests.bench [BENCH...]; sizes come from the environment (see docs/performance.md)."""

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx
from rich.console import Console

from tests.bench.deliver import deliver
from tests.bench.intake import IntakeSize, intake
from tests.bench.ledger import USUAL, ledger
from tests.bench.measured import Figure, keep, label, show
from tests.bench.parts import FOLDER, remove_leftovers
from tests.bench.scale import scale
from tests.bench.vault import vault
from tests.stack import BUILD, StackError

RESULTS = BUILD / "bench.json"


@dataclass(frozen=True, slots=True)
class Bench:
    """One bench: what it measures and about how long that takes."""

    name: str
    what: str
    seconds: float
    measure: Callable[[], list[Figure]]


def benches() -> list[Bench]:
    """Return every bench in the order in which they run."""
    rounds = int(os.environ.get("BENCH_ROUNDS", "3"))
    size = float(os.environ.get("BENCH_SIZE", "1"))
    scales = [int(number) for number in os.environ.get("BENCH_SCALE", "1000000 10000000").split()]
    fill = int(os.environ.get("BENCH_FILL", "250000"))

    def sized(instances: int) -> int:
        return max(5, int(instances * size))

    one, eight = IntakeSize(1, sized(120), 2.0), IntakeSize(8, sized(80), 1.7)
    routed = IntakeSize(8, sized(80), 1.0, delivers=True)
    return [
        Bench("intake_1", "intake over one association", 90, lambda: intake("intake_1", one, rounds)),
        Bench("intake_8", "intake over eight associations", 150, lambda: intake("intake_8", eight, rounds)),
        Bench("intake_routed", "intake beside a route", 240, lambda: intake("intake_routed", routed, rounds)),
        Bench("deliver", "delivery with proof", 150, lambda: deliver(sized(100), rounds)),
        Bench("vault", "the vault in a directory and in S3", 120, lambda: vault(sized(400), rounds)),
        *(_ledger(number) for number in scales),
        Bench("scale", f"{fill} instances in the index", 60 + fill / 350, lambda: scale(fill, rounds)),
    ]


def _ledger(instances: int) -> Bench:
    name = "ledger" if instances == USUAL else f"ledger_{label(instances)}"
    return Bench(name, f"the ledger with {instances} instances", instances / 2500, lambda: ledger(instances))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benches, write build/bench.json, and return 0 where all were measured."""
    known = benches()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="Measure beside a peer.")
    parser.add_argument(
        "bench", nargs="*", choices=[*(bench.name for bench in known), []], help="all if none"
    )
    wanted = parser.parse_args(arguments).bench or [bench.name for bench in known]
    console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 200)
    chosen = [bench for bench in known if bench.name in wanted]
    # Ends as an exception does, so that containers and files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    remove_leftovers()
    FOLDER.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    figures: list[Figure] = []
    failures = 0
    try:
        for number, bench in enumerate(chosen):
            _announce(console, chosen, number, time.monotonic() - began)
            try:
                measured = bench.measure()
            except (StackError, httpx.HTTPError) as error:
                failures += 1
                console.print(f"FAILED {bench.name}: {error}", markup=False)
                continue
            show(console, measured)
            figures += measured
            keep(RESULTS, measured)
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
    if len(chosen) > 1:
        show(console, figures)
    spent = time.monotonic() - began
    console.print(
        f"{len(figures)} figures in {spent:.0f} s, written to {RESULTS}", markup=False, soft_wrap=True
    )
    return 1 if failures else 0


def _announce(console: Console, chosen: Sequence[Bench], number: int, elapsed: float) -> None:
    """Say what is measured now and when all will be done, by how long the benches before it took."""
    behind = sum(bench.seconds for bench in chosen[:number])
    pace = elapsed / behind if behind else 1.0
    left = pace * sum(bench.seconds for bench in chosen[number:])
    when = time.strftime("%H:%M", time.localtime(time.time() + left))
    where = f"[{number + 1}/{len(chosen)}] {elapsed:5.0f} s"
    console.print(
        f"{where}  measures {chosen[number].what}; all done in about {left / 60:.0f} min ({when})",
        markup=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
