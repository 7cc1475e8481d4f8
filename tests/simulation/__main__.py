"""Plays clinics: `python -m tests.simulation SEED` plays one again, `--outages NUMBER` so many outages."""

import argparse
import multiprocessing
import os
import secrets
import sys
import time
from functools import partial

from tests.simulation.clinic import Figures
from tests.simulation.run import OUTAGES, Failure, commit, in_memory, play


def _play(seed: int, *, ages: bool = False) -> tuple[Failure | None, Figures]:
    figures = Figures()
    with in_memory() as folder:
        return play(seed, folder, figures, ages=ages), figures


def main() -> int:
    """Return 1 where an invariant did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", nargs="?", type=int, help="the clinic to play, or the first of many")
    parser.add_argument("--outages", type=int, default=0, help="how many outages to play, on every processor")
    parser.add_argument(
        "--ages", action="store_true", help="the primary comes back with older contents at times"
    )
    given = parser.parse_args()
    first = secrets.randbelow(2**31) if given.seed is None else given.seed
    if not given.outages:
        failure, figures = _play(first, ages=given.ages)
        print(failure.told(lines=400) if failure else f"seed {first}: nothing was violated. {figures}")
        return int(failure is not None)
    print(f"commit {commit()}, seeds from {first}", flush=True)
    total, failures, began = Figures(), 0, time.monotonic()
    seeds = range(first, first - (-given.outages // OUTAGES))
    with multiprocessing.Pool(os.cpu_count()) as processes:
        for failure, figures in processes.imap_unordered(partial(_play, ages=given.ages), seeds):
            total.add(figures)
            if failure is not None:
                failures += 1
                print(failure.told(), flush=True)
    rate = total.outages / (time.monotonic() - began)
    print(f"{total}, {rate:.1f} outages a second, {failures} violations")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
