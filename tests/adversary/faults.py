"""Puts faults of this project's history back, one at a time, and asks whether the adversary finds each.

Usage: python -m tests.adversary.faults [NAME ...]. Each fault is put into a copy of the committed tree, an
image is built of it, and the named test runs against that image. A fault that no test finds is a fault of
the tests: the exit status is 1.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from tests.stack import REPOSITORY, TEST_PROJECT

IMAGE = "understudy:fault"


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of the product as it was, and the test that has to fail with it."""

    name: str
    file: str
    present: str
    put_back: str
    test: str


FAULTS = (
    Fault(
        "faulty association requests go on to Orthanc",
        "plugins/understudy/edge/gate.lua",
        "    elseif found.answer then\n",
        "    elseif false then\n",
        "test_stranger.py::test_every_faulty_request_is_answered_though_held_and_keeps_nobody_waiting",
    ),
    Fault(
        "a listed title is believed from any address",
        "plugins/understudy/edge/admission.lua",
        'claimed and "address" or "calling"',
        'claimed and "known" or "calling"',
        "test_stranger.py::test_listed_title_from_another_address_gets_nothing_and_is_named",
    ),
    Fault(
        "HTTP threads have small stacks",
        "docker/reception/stack.cc",
        "return set(attributes, std::max(size, STACK_BYTES));",
        "return set(attributes, std::min(size, STACK_BYTES));",
        "test_reader.py::test_brackets_of_any_depth_end_nothing",
    ),
    Fault(
        "a rendering may have any size",
        "plugins/understudy/plugin/decoding.py",
        "MAX_SIDE = 8192\n",
        "MAX_SIDE = 1_000_000_000\n",
        "test_reader.py::test_sizes_and_frames_beyond_reason_are_refused",
    ),
    Fault(
        "any number of searches run at a time",
        "docker/reception/places.cc",
        "return all.callers.size() < SEARCHES_AT_ONCE &&",
        "return true ||",
        "test_reader.py::test_sixteen_searches_at_once_delay_no_store_and_no_search_of_another",
    ),
    Fault(
        "Orthanc has eight threads for all associations",
        "plugins/understudy/adapters/orthanc_config.py",
        '"DicomThreadsCount": configuration.edge.associations + SPARE_THREADS,',
        '"DicomThreadsCount": SPARE_THREADS,',
        "test_device.py",
    ),
)


def main(wanted: Sequence[str]) -> int:
    """Try each fault and say whether it was found."""
    missed = []
    for fault in FAULTS:
        if wanted and fault.name not in wanted:
            continue
        began = time.monotonic()
        found = is_found(fault)
        word = "found" if found else "NOT FOUND"
        print(f"faults: {word} in {time.monotonic() - began:.0f} s: {fault.name}", flush=True)
        if not found:
            missed.append(fault.name)
    print(f"faults: {len(missed)} of {len(wanted or FAULTS)} were missed")
    return 1 if missed else 0


def is_found(fault: Fault) -> bool:
    """Return whether the fault's test fails on an image with the fault, by its assertions."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        archive = subprocess.run(["git", "archive", "HEAD"], cwd=REPOSITORY, check=True, capture_output=True)
        with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
            files.extractall(tree, filter="data")
        file = tree / fault.file
        text = file.read_text(encoding="utf-8")
        if text.count(fault.present) != 1:
            raise SystemExit(f"faults: {fault.file} has not exactly one {fault.present!r}")
        file.write_text(text.replace(fault.present, fault.put_back), encoding="utf-8")
        build = ["docker/build.sh", IMAGE, "docker/Dockerfile", "."]
        subprocess.run(build, cwd=tree, check=True, stderr=subprocess.DEVNULL)
    environment = {
        **os.environ,
        "UNDERSTUDY_IMAGE": IMAGE,
        "UNDERSTUDY_TEST_PROJECT": f"{TEST_PROJECT}-fault",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", f"tests/adversary/{fault.test}"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    # 1: tests were run and some failed. An error of the set-up would find nothing.
    return done.returncode == 1 and " failed" in done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
