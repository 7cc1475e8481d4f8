"""Full disks and file systems that give up: nothing is acknowledged that is not there afterwards.

After a full disk, space that returns is all it takes; a file system that shut itself down takes a person, who
has it repaired and mounted again.
"""

import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.drills.checker import Verdict, as_of, check
from tests.drills.disks import Disk
from tests.drills.faults import count
from tests.drills.results import Results
from tests.drills.sender import FORGOTTEN_SOCKETS, Answer, Sender, first_stored_after, instances
from tests.drills.servers import Server, ours
from tests.stack import wait_until

pytestmark = [FORGOTTEN_SOCKETS, pytest.mark.needs("image")]

FOLDERS = ("index", "storage")
DISK_MB = 256
LEFT_BYTES = 200_000
"""What a full disk has left: some instances of 32 KB, or some pages of the index's log."""
ANSWERS = 20
ANSWERS_DEADLINE = 120.0
QUIET_SECONDS = 2.0
"""So long without an acknowledged store, and intake has stopped."""
RECOVERY_BOUND = 60.0
"""Seconds until space that returns is used, without anybody's help."""
LOAD_SECONDS = 1.0
"""At most so long after its first stores the file system gives up."""


def _stored(sender: Sender, *, after: float) -> None:
    """Wait until so many stores that began after a moment were acknowledged."""
    wait_until(
        lambda: sum(answer.stored and answer.sent >= after for answer in sender.answers),
        lambda stored: stored >= ANSWERS,
        deadline=ANSWERS_DEADLINE,
        what=f"{ANSWERS} acknowledged stores",
    )


def _stopped(sender: Sender) -> None:
    """Wait until nothing is acknowledged any more."""
    begin = time.monotonic()
    wait_until(
        lambda: max((answer.answered for answer in sender.answers if answer.stored), default=begin),
        lambda last: time.monotonic() - max(last, begin) >= QUIET_SECONDS,
        deadline=ANSWERS_DEADLINE,
        what="no more acknowledged stores",
    )


def _statuses(answers: Sequence[Answer]) -> Counter[str]:
    """Return how often each status was answered; a broken association is none."""
    return Counter("none" if a.status is None else f"{a.status:04x}" for a in answers)


def _row(
    full: str, recovery: float, answers: Sequence[Answer], verdict: Verdict
) -> dict[str, str | int | float]:
    return {
        "full": full,
        "s to next store": recovery,
        "acknowledged": verdict.acknowledged,
        "answers": " ".join(f"{status}:{times}" for status, times in _statuses(answers).items()),
        "lost": len(verdict.lost),
        "damaged": len(verdict.damaged),
    }


@pytest.mark.parametrize("full", ["storage", "index"])
def test_full_disk_acknowledges_nothing_that_a_power_cut_takes_and_recovers_by_itself(
    full: str, work: Path, results: Results
) -> None:
    with ExitStack() as stack:
        disks = {
            folder: stack.enter_context(Disk.inserted(work / folder, megabytes=DISK_MB)) for folder in FOLDERS
        }
        server = stack.enter_context(Server.installed(ours(work), disks, name="understudy-drill-disk"))
        server.start()
        supply = instances(work / "template", f"disks {full}")
        with Sender(lambda: server.dicom, supply) as sender:
            _stored(sender, after=0)
            with disks[full].filled(leaving=LEFT_BYTES):
                _stopped(sender)
            passed = time.monotonic()
            _stored(sender, after=passed)
            recovery = first_stored_after(sender.answers, passed)
            assert recovery is not None
            # Once more, and this time the power fails meanwhile: success has to be true even then.
            with disks[full].filled(leaving=LEFT_BYTES):
                _stopped(sender)
                cut = server.power_cut([disks[folder] for folder in FOLDERS], sender)
        told = as_of(sender.answers, cut)
        for disk in disks.values():
            disk.remounted()
        server.start()
        verdict = check(told, server.archive)
        with Sender(lambda: server.dicom, supply) as sender:
            _stored(sender, after=0)
    results.add(f"full {full}", [_row(full, recovery, told, verdict)], runs=[asdict(verdict)])
    assert verdict.kept, verdict
    assert recovery <= RECOVERY_BOUND


@pytest.mark.parametrize("failing", FOLDERS)
def test_file_system_that_gives_up_under_load_takes_nothing_that_was_acknowledged(
    failing: str, work: Path, results: Results
) -> None:
    faults = count("DRILL_FAULTS", 2)
    moments = random.Random(f"file system of {failing}")
    supply = instances(work / "template", f"gives up {failing}")
    answers: list[Answer] = []
    with ExitStack() as stack:
        disks = {
            folder: stack.enter_context(Disk.inserted(work / folder, megabytes=DISK_MB)) for folder in FOLDERS
        }
        server = stack.enter_context(Server.installed(ours(work), disks, name="understudy-drill-disk"))
        for _ in range(faults):
            server.start()
            with Sender(lambda: server.dicom, supply) as sender:
                _stored(sender, after=0)
                time.sleep(moments.uniform(0, LOAD_SECONDS))
                disks[failing].fail_file_system()
                failed = time.monotonic()
                _stopped(sender)
                server.off(sender)
            answers += sender.answers
            disks[failing].remounted()
        server.start()
        verdict = check(answers, server.archive)
        with Sender(lambda: server.dicom, supply) as sender:
            _stored(sender, after=0)
    told = sum(answer.stored and answer.sent >= failed for answer in answers)
    results.add(
        f"{failing} gives up",
        [
            {
                "faults": faults,
                "acknowledged": verdict.acknowledged,
                "after the last fault": told,
                "lost": len(verdict.lost),
                "damaged": len(verdict.damaged),
            }
        ],
        runs=[asdict(verdict)],
    )
    assert verdict.kept, verdict
    assert not told
