"""Delivery with proof to a second Orthanc, beside Orthanc's own store job on the same files."""

import shutil
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.bench.intake import make_series
from tests.bench.measured import Figure, medians
from tests.bench.parts import FOLDER, Stock, inside, network, paused, settle_disk, stock, timed
from tests.stack import StackError

_JOBS = 4
"""Store jobs at a time of the tuned peer."""


REPORTS = ("at once", "on a new association", "late", "never")
"""When a receiver reports on a request for storage commitment."""


def deliver(instances: int, rounds: int, reports: Sequence[str] = REPORTS) -> list[Figure]:
    """Measure instances/s to a receiver with TCP_NODELAY and to one without; each starts empty.

    Ours is finished when the receiver is proven to have every instance; the jobs prove nothing. Ours is the
    slowest of what it is to receivers that report at these times.
    """
    folder = FOLDER / "deliver"
    sets = [folder / str(turn) for turn in range(rounds)]
    ours: dict[tuple[bool, str], list[float]] = {
        (tuned, when): [] for tuned in (True, False) for when in reports
    }
    theirs: dict[bool, list[float]] = {True: [], False: []}
    four: list[float] = []
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        make_series(sets, instances)
        attached = stack.enter_context(network())
        source = stack.enter_context(stock("source", attached))
        jobs = {"ConcurrentJobs": str(_JOBS)}
        tuned_source = stack.enter_context(stock("tuned-source", attached, tuned=True, changes=jobs))
        for data in sets:
            known, known_tuned = _uploaded(source, data), _uploaded(tuned_source, data)
            for tuned, when in ours:
                with stock("receiver", attached, tuned=tuned) as receiver:
                    settle_disk()
                    asked = {"host": receiver.address, "reports": when}
                    with paused([source.container, tuned_source.container]):
                        done = inside("deliver", asked, attached=attached, data=data)
                    ours[tuned, when].append(_checked(receiver, instances) / float(done["seconds"]))
            for tuned in theirs:
                with stock("receiver", attached, tuned=tuned) as receiver:
                    settle_disk()
                    seconds = _store_jobs(source, receiver, [known])
                    theirs[tuned].append(_checked(receiver, instances) / seconds)
            with stock("receiver", attached, tuned=True) as receiver:
                settle_disk()
                seconds = _store_jobs(
                    tuned_source, receiver, [known_tuned[one::_JOBS] for one in range(_JOBS)]
                )
                four.append(_checked(receiver, instances) / seconds)
    job = "Orthanc's store job with defaults, without proof"
    jobs_of = f"{_JOBS} store jobs at a time of an Orthanc with TCP_NODELAY, without proof"
    (fast, fast_each), (slow, slow_each) = (_slowest(ours, tuned, reports) for tuned in (True, False))
    to_fast, to_slow = (f"{job}; ours {each}" for each in (fast_each, slow_each))
    return [
        medians("deliver_stock_job", fast, theirs[True], "instances/s", to_fast, goal=8),
        medians("deliver_untuned_receiver", slow, theirs[False], "instances/s", to_slow, goal=4),
        medians("deliver_four_tuned_jobs", fast, four, "instances/s", jobs_of, goal=0.8),
    ]


def _slowest(
    ours: Mapping[tuple[bool, str], list[float]], tuned: bool, reports: Sequence[str]
) -> tuple[list[float], str]:
    """Return the rounds of the slowest median, and the medians of all receivers."""
    middles = {when: statistics.median(ours[tuned, when]) for when in reports}
    slowest = min(reports, key=lambda when: middles[when])
    return ours[tuned, slowest], ", ".join(f"{when} {middle:.0f}" for when, middle in middles.items())


def _uploaded(source: Stock, data: Path) -> list[str]:
    """Give the source the files by REST and return its identifiers of them."""
    return [
        str(source.client.post("/instances", content=file.read_bytes()).raise_for_status().json()["ID"])
        for file in sorted(data.glob("*.dcm"))
    ]


def _store_jobs(source: Stock, receiver: Stock, shares: Sequence[list[str]]) -> float:
    """Send each share by a store job of its own, all at once, and return the seconds until all have ended."""
    modality = {"AET": "PRIMARY", "Host": receiver.address, "Port": 4242}
    source.client.put("/modalities/receiver", json=modality).raise_for_status()

    def send(share: list[str]) -> None:
        source.post("/modalities/receiver/store", {"Resources": share, "Synchronous": True})

    with ThreadPoolExecutor(len(shares)) as pool:
        return timed(lambda: list(pool.map(send, shares)))


def _checked(receiver: Stock, instances: int) -> int:
    if receiver.count() != instances:
        raise StackError(f"sent {instances}, the receiver has {receiver.count()}")
    return instances
