"""Delivery with proof to a second Orthanc, beside Orthanc's own store job on the same files."""

import shutil
from contextlib import ExitStack

from tests.bench.intake import make_series
from tests.bench.measured import Figure, medians
from tests.bench.parts import FOLDER, Stock, inside, network, settle_disk, stock, timed
from tests.stack import StackError


def deliver(instances: int, rounds: int) -> list[Figure]:
    """Measure instances/s to a receiver with TCP_NODELAY and to one without; each starts empty.

    Ours is finished when the receiver is proven to have every instance; the job proves nothing.
    """
    folder = FOLDER / "deliver"
    sets = [folder / str(turn) for turn in range(rounds)]
    ours: dict[bool, list[float]] = {True: [], False: []}
    theirs: dict[bool, list[float]] = {True: [], False: []}
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        make_series(sets, instances)
        attached = stack.enter_context(network())
        source = stack.enter_context(stock("source", attached))
        for data in sets:
            known = [
                str(
                    source.client.post("/instances", content=file.read_bytes())
                    .raise_for_status()
                    .json()["ID"]
                )
                for file in sorted(data.glob("*.dcm"))
            ]
            for tuned in (True, False):
                with stock("receiver", attached, tuned=tuned) as receiver:
                    settle_disk()
                    done = inside("deliver", {"host": receiver.address}, attached=attached, data=data)
                    ours[tuned].append(_checked(receiver, instances) / float(done["seconds"]))
                with stock("receiver", attached, tuned=tuned) as receiver:
                    settle_disk()
                    seconds = _store_job(source, receiver, known)
                    theirs[tuned].append(_checked(receiver, instances) / seconds)
    against = "Orthanc's store job with defaults, without proof"
    return [
        medians("deliver_stock_job", ours[True], theirs[True], "instances/s", against, goal=8),
        medians("deliver_untuned_receiver", ours[False], theirs[False], "instances/s", against, goal=4),
    ]


def _store_job(source: Stock, receiver: Stock, known: list[str]) -> float:
    modality = {"AET": "PRIMARY", "Host": receiver.address, "Port": 4242}
    source.client.put("/modalities/receiver", json=modality).raise_for_status()
    return timed(lambda: source.post("/modalities/receiver/store", {"Resources": known, "Synchronous": True}))


def _checked(receiver: Stock, instances: int) -> int:
    if receiver.count() != instances:
        raise StackError(f"sent {instances}, the receiver has {receiver.count()}")
    return instances
