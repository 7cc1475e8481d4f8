"""Large images: the agent's memory does not grow with them, and their neighbours are proven."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import raw_store
from tests.large import WAYS
from tests.stack import IMAGE, REPOSITORY, TEST_PROJECT, Stack, StackError, run, wait_until

pytestmark = pytest.mark.needs("image")

MEGABYTE = 2**20
LARGE = 200 * MEGABYTE
"""Orthanc takes it. The agent has 700 MiB, of which 380 MiB are for what it holds: it fits no two times."""


@pytest.fixture(scope="module")
def appliance() -> Iterator[Stack]:
    stack = Stack(f"{TEST_PROJECT}-large", lab=False, environment={"UNDERSTUDY_AGENT_MEMORY": "700m"})
    stack.down()
    try:
        stack.up()
        yield stack
    except StackError:
        print(stack.logs())
        raise
    finally:
        stack.down()


def store(stack: Stack, seed: str, size: int) -> None:
    raw_store.store_good(stack.dicom, seed, size, patience=120)


def restarts(stack: Stack) -> int:
    return int(stack.inspect("agent")["RestartCount"])


def test_large_image_and_its_neighbours_are_proven_in_the_vault(appliance: Stack) -> None:
    store(appliance, "neighbour before", MEGABYTE)
    store(appliance, "large", LARGE)
    store(appliance, "neighbour after", MEGABYTE)
    wait_until(
        appliance.status,
        lambda seen: seen.holders["local"].proven == 3,
        deadline=600,
        what="three proven",
    )
    assert appliance.get("/understudy/dead-letters") == []
    assert restarts(appliance) == 0


@pytest.mark.long
@pytest.mark.parametrize(
    "megabytes", [300, *(pytest.param(size, marks=pytest.mark.longer) for size in (1000, 4000))]
)
def test_image_of_any_size_passes_the_agent_within_its_memory(megabytes: int, tmp_path: Path) -> None:
    """The agent's own parts, in its image and with its limit: vault and restore, C-STORE and STOW-RS.

    Each way takes two at once. The image lies where Orthanc would have put it, which takes seven times as
    much memory for it. The larger ones need 30 GB of disk, and a run of their own:
    `make test TEST_ARGUMENTS="tests/integration/test_large.py -m longer"`.
    """
    tmp_path.chmod(0o777)
    options = ["--memory", "1g", "--memory-swap", "1g", "--network", "none", "--volume", f"{tmp_path}:/data"]
    options += ["--volume", f"{REPOSITORY}:/repository:ro", "--entrypoint", "python"]
    options += ["--env", "PYTHONPATH=/repository/plugins:/repository"]
    for way in WAYS:
        command = ["-B", "-m", "tests.large", way, str(megabytes), f"/data/{way}", "2"]
        told = run(["docker", "run", "--rm", *options, IMAGE, *command], timeout=3600)
        peak = json.loads(told)["peak"]
        print(f"{way} {megabytes} MB, two at once: peak {peak:.0f} MB")
        assert peak < 300
