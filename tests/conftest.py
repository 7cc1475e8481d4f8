"""The stacks that the tests of one file share: the full lab and the appliance alone, each a compose project.

Each starts when the first test of a file asks for it, and is removed with its volumes at the end of the file:
what one file deletes or breaks on purpose is nothing that another has to reckon with.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, settings
from pytest_docker.plugin import get_docker_services

from tests.lab import Lab
from tests.stack import BUILD, TEST_PROJECT, Stack, StackError

# How long an example takes tells of the machine's other work: only what comes out is judged.
settings.register_profile("understudy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("understudy")


@pytest.fixture(scope="session")
def docker_compose_command() -> str:
    """Return pytest-docker's command, with free ports: demo, appliance and tests can run side by side."""
    ports = " ".join(f"UNDERSTUDY_{name}_PORT=127.0.0.1:0" for name in ("DICOM", "DICOM_TLS", "HTTPS"))
    return f"env {ports} docker compose --progress quiet"


@pytest.fixture(scope="module")
def lab(docker_compose_command: str) -> Iterator[Lab]:
    """The full lab, started once: primary, S3, archive, modality and reader around the appliance."""
    stack = Lab(f"{TEST_PROJECT}-lab")
    with _running(stack, docker_compose_command):
        yield stack


@pytest.fixture(scope="module")
def appliance(docker_compose_command: str) -> Iterator[Stack]:
    """The appliance alone, started once on its embedded defaults without any configuration."""
    stack = Stack(f"{TEST_PROJECT}-alone", lab=False)
    with _running(stack, docker_compose_command):
        yield stack


@contextmanager
def _running(stack: Stack, command: str) -> Iterator[None]:
    """Start a stack from nothing, and remove it with all its data."""
    # What a killed run left behind would be somebody else's data.
    stack.down()
    (BUILD / "lab").mkdir(parents=True, exist_ok=True)
    try:
        with get_docker_services(
            command,
            stack.files,
            stack.project,
            ["up --detach --wait --no-build"],
            ["down --volumes --timeout 5"],
        ):
            yield
    except Exception:
        print(_logs(stack))
        raise
    finally:
        stack.down()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the containers' last lines to the report of a failed test."""
    report = yield
    if report.failed and isinstance(item, pytest.Function):
        for value in item.funcargs.values():
            if isinstance(value, Stack):
                report.sections.append((f"containers of {value.project}", _logs(value)))
    return report


def _logs(stack: Stack) -> str:
    try:
        return stack.logs()
    except StackError as error:
        return str(error)
