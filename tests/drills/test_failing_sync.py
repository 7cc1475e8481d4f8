"""A disk that fails the sync of the index's log: nothing is acknowledged that a power cut could then take.

strace, attached from this machine, answers each fdatasync of the log with EIO and does not do it.
"""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.drills.checker import as_of, check
from tests.drills.disks import Disk
from tests.drills.faults import count
from tests.drills.results import Results
from tests.drills.sender import FORGOTTEN_SOCKETS, Answer, Sender, instances
from tests.drills.servers import Server, ours
from tests.stack import wait_until

pytestmark = [FORGOTTEN_SOCKETS, pytest.mark.needs("image", "tracer")]

DISK_MB = 512
LOG = "/var/lib/orthanc/index/index-wal"
SYNCS = "fdatasync,fsync"
LOAD_SECONDS, FAILING_SECONDS = 1.0, 1.5


@contextmanager
def _failing_syncs(server: Server, trace: Path) -> Iterator[None]:
    """Fail every sync of the log; what is done within begins when one was failed."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.fail("this drill needs strace on this machine (Debian package strace)")
    process = subprocess.Popen(
        [
            *(strace, "-f", "-qq", "-o", str(trace), "-p", str(server.pid), "-P", LOG),
            *("-e", f"trace={SYNCS}", "-e", f"inject={SYNCS}:error=EIO"),
        ]
    )
    try:
        wait_until(
            lambda: trace.exists() and "INJECTED" in trace.read_text(),
            bool,
            deadline=60,
            what="a sync that was failed",
            pause=0.05,
        )
        yield
    finally:
        # It ends with the server that it traces.
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=30)


def test_failing_sync_acknowledges_nothing_that_a_power_cut_takes(work: Path, results: Results) -> None:
    answers: list[Answer] = []
    supply = instances(work / "template", "failing sync")
    cuts = count("DRILL_SYNCS", 3)
    with (
        Disk.inserted(work / "disk", megabytes=DISK_MB) as disk,
        Server.installed(ours(work), disk, name="understudy-drill-sync") as server,
    ):
        server.start()
        for number in range(cuts):
            with Sender(lambda: server.dicom, supply) as sender:
                time.sleep(LOAD_SECONDS)
                with _failing_syncs(server, work / f"trace-{number}"):
                    time.sleep(FAILING_SECONDS)
                    cut = server.power_cut([disk], sender)
            answers += as_of(sender.answers, cut)
            server.start()
        verdict = check(answers, server.archive)
        with Sender(lambda: server.dicom, supply) as sender:
            wait_until(lambda: sender.stored, bool, deadline=120, what="a store after the fault")
    results.add(
        "failing sync",
        [
            {
                "cuts": cuts,
                "acknowledged": verdict.acknowledged,
                "lost": len(verdict.lost),
                "damaged": len(verdict.damaged),
            }
        ],
        runs=[asdict(verdict)],
    )
    assert verdict.kept, verdict
