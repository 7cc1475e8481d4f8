"""Runs the fuzzer on the named parsers, or on all, a fixed number of times (--runs N --seed S [NAME...])."""

import argparse
import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

import atheris

from tests.stack import BUILD

INSTRUMENTED = ["understudy", "tests.fuzz", "pydicom.filereader", "tarfile", "json5"]

with atheris.instrument_imports(include=INSTRUMENTED):
    from tests.fuzz.targets import SELF_TEST, Target, targets

SECONDS_A_RUN, MEGABYTES = 10, 1024
"""What one run may take before it counts as a fault."""


def fuzz(name: str, target: Target, runs: int, seed: int) -> int:
    """Fuzz one parser in a process of its own, since the fuzzer ends it; return its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        for number, example in enumerate(target.examples):
            (Path(folder) / str(number)).write_bytes(example)
        process = os.fork()
        if process == 0:
            _child(target, runs, seed, folder)
        _, status = os.waitpid(process, 0)
    code = os.waitstatus_to_exitcode(status)
    if code:
        print(
            f"fuzz: {name} failed; again: python -m tests.fuzz --runs {runs} --seed {seed} {name}", flush=True
        )
    return code


def _child(target: Target, runs: int, seed: int, folder: str) -> None:
    # What odd bytes make libraries say is not what is looked for here.
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    options = [
        f"-runs={runs}",
        f"-seed={seed}",
        f"-timeout={SECONDS_A_RUN}",
        f"-rss_limit_mb={MEGABYTES}",
        "-max_len=20000",
        "-verbosity=0",
        f"-artifact_prefix={BUILD}/fuzz-",
    ]
    atheris.Setup([sys.argv[0], *options, folder], target.run)
    atheris.Fuzz()
    os._exit(0)


def main() -> int:
    """Fuzz one parser after another and print what each took."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    known = targets()
    failed = []
    for name in arguments.names or known:
        began = time.monotonic()
        target = SELF_TEST if name == "self_test" else known[name]
        if fuzz(name, target, arguments.runs, arguments.seed):
            failed.append(name)
        print(f"fuzz: {name}: {arguments.runs} runs in {time.monotonic() - began:.1f} s", flush=True)
    if failed:
        print(f"fuzz: {len(failed)} of {len(arguments.names or known)} broke a promise: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
