"""What the drills share: the seed, the folder of their disks, the results, and one appliance to be killed."""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drills.faults import seed_of_this_run
from tests.drills.ports import lasting_port
from tests.drills.results import Results
from tests.stack import BUILD, TEST_PROJECT, Stack

_RESULTS = pytest.StashKey[Results]()


@pytest.fixture(scope="session")
def results(pytestconfig: pytest.Config) -> Results:
    """Where a drill says what it found."""
    return pytestconfig.stash.setdefault(_RESULTS, Results())


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Print the tables and write the file."""
    results = config.stash.get(_RESULTS, None)
    if results is None:
        return
    terminalreporter.section("drills")
    for line in results.lines():
        terminalreporter.line(line)
    results.write(BUILD)


@pytest.fixture(autouse=True)
def quiet_pynetdicom() -> Iterator[None]:
    """Keep pynetdicom from logging each broken connection: breaking them is what drills do."""
    logger = logging.getLogger("pynetdicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@pytest.fixture
def seed() -> int:
    """The seed of this drill's fault script; what is printed beside the table."""
    return seed_of_this_run()


@pytest.fixture
def work() -> Iterator[Path]:
    """A folder for disks, below the build folder: temporary folders of tests are kept, disks are not."""
    folder = BUILD / "drills" / str(os.getpid())
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="package")
def clinic() -> Iterator[Stack]:
    """The whole appliance, to be killed and besieged; its port stays when the edge restarts."""
    environment = {"UNDERSTUDY_DICOM_PORT": f"127.0.0.1:{lasting_port()}"}
    stack = Stack(f"{TEST_PROJECT}-drill", lab=False, environment=environment)
    stack.down()
    try:
        stack.up()
        yield stack
    finally:
        stack.down()
