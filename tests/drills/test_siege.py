"""Idle, broken and slow connections and a port scan at once: a store is still answered within 1 s."""

import json
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.drills.results import Results
from tests.drills.sender import FORGOTTEN_SOCKETS, association, instances
from tests.stack import BUILD, IMAGE, Stack
from tests.stalls import Stalls

pytestmark = [FORGOTTEN_SOCKETS, pytest.mark.needs("image")]

IDLE, GARBAGE, SLOW = 200, 50, 60
STORES = 20
SIEGE_SECONDS = 8.0
"""Long enough for every besieger to come again."""
ANSWER_BOUND = 1.0
NUISANCES = Path(__file__).with_name("nuisances.py")


@dataclass(slots=True)
class Siege:
    """What the besiegers said of themselves; complete when the siege is over."""

    up: dict[str, int]
    """Open connections by kind, on average."""
    counts: dict[str, int]


@contextmanager
def _besieged(stack: Stack) -> Iterator[Siege]:
    """Bother the edge from a container in the stack's own network, and nowhere else."""
    command = [
        *("docker", "run", "--rm", "--interactive", "--name", f"{stack.project}-siege"),
        *("--network", f"{stack.project}_front", "--cap-drop", "ALL", "--ulimit", "nofile=4096"),
        *("--volume", f"{NUISANCES}:/nuisances.py:ro", "--entrypoint", "/usr/bin/python3", IMAGE),
        *("/nuisances.py", "edge", str(IDLE), str(GARBAGE), str(SLOW)),
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        siege = Siege(up=_line(process.stdout.readline())["up"], counts={})
        yield siege
        process.stdin.close()
        told = _line(process.stdout.readline())
        siege.up, siege.counts = told["up"], told["counts"]
    finally:
        process.terminate()
        process.wait(timeout=30)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def _line(text: str) -> dict[str, Any]:
    assert text, "the besiegers' container ended early"
    line = json.loads(text)
    assert isinstance(line, dict)
    return line


def test_siege_of_both_ports_delays_no_store_for_a_second(
    clinic: Stack, tmp_path: Path, results: Results
) -> None:
    address, supply = clinic.dicom, instances(tmp_path, "siege")
    seconds: list[float] = []
    statuses: list[int | None] = []
    with _besieged(clinic) as siege, Stalls(BUILD) as stalls:
        end = time.monotonic() + SIEGE_SECONDS
        while len(statuses) < STORES or time.monotonic() < end:
            instance = next(supply)
            begin = time.monotonic()
            with association(address, 35) as store:
                statuses.append(store(instance) if store is not None else None)
            seconds.append(time.monotonic() - begin)
    results.add(
        "siege",
        [
            {
                **{f"{kind} connections": number for kind, number in siege.up.items()},
                "ports scanned": siege.counts["scanned"],
                "open": siege.counts["scanned open"],
                "garbage sent": siege.counts["garbage"],
                "stores": len(seconds),
                "s to answer, median": statistics.median(seconds),
                "most": max(seconds),
                "of it for this machine": stalls.allowance,
            }
        ],
    )
    # Else nobody besieged anything.
    assert siege.up["idle"] > IDLE * 0.8
    # The edge ends these at their first bytes; they come again as often as their address may connect.
    assert siege.counts["garbage"] > GARBAGE
    assert siege.up["slow"] > SLOW * 0.8
    assert siege.counts["scanned open"] > 0
    assert statuses == [0] * len(statuses)
    assert max(seconds) <= ANSWER_BOUND + stalls.allowance
