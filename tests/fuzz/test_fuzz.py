"""Every parser of ours keeps its promise on a fixed number of inputs that the fuzzer makes."""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.stack import BUILD, REPOSITORY

pytestmark = pytest.mark.long

RUNS = 2000
SECONDS = 600


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris has no wheel for this platform")
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "plugins")},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_every_parser_keeps_its_promise() -> None:
    done = fuzz("--runs", str(RUNS))
    told = [line for line in done.stdout.splitlines() if line.startswith("fuzz:")]
    print("\n".join(told))
    assert done.returncode == 0, done.stderr[-4000:]
    assert sum(f"{RUNS} runs" in line for line in told) >= 18


def test_a_parser_that_breaks_its_promise_is_found() -> None:
    done = fuzz("--runs", "100000", "self_test")
    assert done.returncode == 1
    assert "fuzz: self_test failed" in done.stdout
    for artifact in BUILD.glob("fuzz-crash-*"):
        artifact.unlink()
