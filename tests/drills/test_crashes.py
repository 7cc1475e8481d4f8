"""`kill -9` of each service at random moments under load: nothing lost, and intake is back in time."""

import os
import signal
import statistics
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from tests.drills.checker import RestArchive, check
from tests.drills.faults import count, crashes
from tests.drills.results import Results
from tests.drills.sender import FORGOTTEN_SOCKETS, Sender, first_stored_after, instances, longest_gap
from tests.stack import Stack, wait_until

pytestmark = [FORGOTTEN_SOCKETS, pytest.mark.needs("image")]

SERVICES = ("orthanc", "agent", "edge")
EARLIEST_KILL, LATEST_KILL = 3.5, 5.5
"""Seconds of undisturbed intake before each kill: three services in turn, so that each has run for 10 s."""
LONG_ENOUGH = 10.0
"""Seconds of a run after which Docker restarts at once what ends."""
RECOVERY_BOUND = 5.0
"""Seconds from the kill of orthanc or edge to the next acknowledged store that began after it."""
UNDISTURBED_BOUND = 1.0
"""Seconds without an acknowledged store that do not count as a stop."""
RECOVERY_DEADLINE = 180.0
LEDGER_DEADLINE = 180.0


@dataclass(frozen=True, slots=True)
class Killed:
    """One kill as the sender saw it."""

    service: str
    recovery: float
    """Seconds from the kill to the first acknowledgement of a store that began after it."""
    gap: float
    """Longest time without an acknowledgement from the kill until then, and one second on."""


def _kill(stack: Stack, service: str) -> float:
    """Kill the service's first process as the kernel's OOM killer does, so that Docker restarts it."""
    pid = stack.pid(service)
    moment = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    return moment


def _stored_again(sender: Sender, moment: float) -> float:
    recovery = wait_until(
        lambda: first_stored_after(sender.answers, moment),
        lambda seconds: seconds is not None,
        deadline=RECOVERY_DEADLINE,
        what="a store acknowledged after the kill",
        pause=0.1,
    )
    assert recovery is not None
    return recovery


def _is_slow(kill: Killed) -> bool:
    return kill.recovery > RECOVERY_BOUND or (kill.service == "agent" and kill.gap > UNDISTURBED_BOUND)


def _row(service: str, kills: list[Killed]) -> Mapping[str, str | int | float]:
    return {
        "killed": service,
        "times": len(kills),
        "s to next store, median": statistics.median(kill.recovery for kill in kills),
        "most": max(kill.recovery for kill in kills),
        "longest gap s": max(kill.gap for kill in kills),
    }


def test_kills_under_load_lose_nothing_and_intake_is_back(
    clinic: Stack, tmp_path: Path, results: Results, seed: int
) -> None:
    script = crashes(seed, count("DRILL_KILLS", 1), SERVICES, earliest=EARLIEST_KILL, latest=LATEST_KILL)
    waiting = threading.Event()
    moments: list[tuple[str, float, float]] = []

    def kill_after(seconds: float, service: str) -> None:
        waiting.wait(seconds)
        moment = _kill(clinic, service)
        moments.append((service, moment, _stored_again(sender, moment)))

    def seen() -> list[Killed]:
        """Return every kill; a second after the last."""
        waiting.wait(EARLIEST_KILL)
        answers = sender.answers
        return [
            Killed(service, recovery, longest_gap(answers, moment, moment + recovery + 1))
            for service, moment, recovery in moments
        ]

    address = clinic.dicom
    with Sender(lambda: address, instances(tmp_path, f"kills {seed}")) as sender:
        begin = time.monotonic()
        for fault in script.faults:
            kill_after(fault.after_seconds, fault.target)
        first = seen()
        # The machine may have been busy with something else: once more each.
        for slow in filter(_is_slow, first):
            kill_after(LONG_ENOUGH, slow.service)
        kills = seen()
        end = time.monotonic()
    answers = sender.answers
    # The edge that began again may have another port.
    clinic.close()
    clinic.healthy(*SERVICES, deadline=RECOVERY_DEADLINE)
    verdict = check(answers, RestArchive(clinic.client()))
    quiet = longest_gap(answers, begin + 1, moments[0][1])
    results.add(
        "kills",
        [
            {"killed": "nothing", "longest gap s": quiet},
            *(_row(service, [kill for kill in kills if kill.service == service]) for service in SERVICES),
            {
                "killed": "all of them",
                "times": len(kills),
                "acknowledged": verdict.acknowledged,
                "lost": len(verdict.lost),
                "damaged": len(verdict.damaged),
                "unknown": verdict.unknown,
                "stores a s": verdict.acknowledged / (end - begin),
            },
        ],
        script=script,
        runs=[*(asdict(kill) for kill in kills), asdict(verdict)],
    )
    assert verdict.acknowledged > 10 * len(kills), "hardly any load: nothing was tried"
    assert verdict.kept, verdict
    # What was received while the agent was dead is in its custody as well.
    present = len(RestArchive(clinic.client()).instances())
    wait_until(
        lambda: clinic.status().instances,
        lambda instances: instances == present,
        deadline=LEDGER_DEADLINE,
        what=f"{present} instances in the ledger",
    )
    assert not [kill for kill in kills[len(first) :] if _is_slow(kill)], kills
