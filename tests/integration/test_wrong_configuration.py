"""A wrong configuration at a restart takes nothing down: the last correct one runs, loudly."""

import json
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pydicom
import pytest

from tests.data import ct_series
from tests.integration.edge_peers import echo, store
from tests.stack import REPOSITORY, TEST_PROJECT, Stack, StackError, wait_until

pytestmark = pytest.mark.needs("image")

GOOD = {
    "Site": "north",
    "Modalities": [{"Name": "ct1", "AeTitle": "CT1", "Host": "192.0.2.20", "Addresses": ["0.0.0.0/0"]}],
    "Policy": {"AcceptStrangers": False},
}
WRONG = {"Site": "south", "Modalities": [], "Sight": "x", "Policy": {"RetryBase": -1}}
FAULTS = ("Understudy.Sight: unknown key; is Site meant?", "Understudy.Policy.RetryBase")
SERVICES = ("edge", "orthanc", "agent")


def configure(folder: Path, section: object) -> None:
    file = folder / "understudy.json"
    file.write_text(json.dumps({"Understudy": section}))
    file.chmod(0o644)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "config"
    shutil.copytree(REPOSITORY / "orthanc-config", folder)
    folder.chmod(0o755)
    return folder


@pytest.fixture
def appliance_of(folder: Path) -> Iterator[Stack]:
    stack = Stack(f"{TEST_PROJECT}-wrong", lab=False, environment={"UNDERSTUDY_CONFIG": str(folder)})
    stack.down()
    try:
        yield stack
    except Exception:
        print(stack.logs())
        raise
    finally:
        stack.down()


@pytest.mark.parametrize("restarted", [SERVICES, ("edge",), ("orthanc",), ("agent",)])
def test_wrong_configuration_at_a_restart_runs_the_last_good_one_in_every_service(
    appliance_of: Stack, folder: Path, tmp_path: Path, restarted: tuple[str, ...]
) -> None:
    stack = appliance_of
    configure(folder, GOOD)
    stack.up()
    instance = pydicom.dcmread(ct_series(tmp_path, seed="wrong", instances=1, rows=8, columns=8).paths[0])
    stack.get("/understudy/status")
    kept = "/var/lib/understudy-keys-of-edge/configuration.json"
    assert "north" in stack.execute("agent", "cat", kept).decode()

    configure(folder, WRONG)
    stack.restart(*restarted)

    assert echo(stack.dicom, "CT1", "UNDERSTUDY") == 0, "the edge lets in whom the last good one lists"
    assert store(stack.dicom, instance).status == 0
    assert stack.get("/understudy/status")["site"] == "north"
    for service in restarted:
        log = stack.compose("logs", "--no-color", service)
        assert "the last correct one runs" in log
        assert all(fault in log for fault in FAULTS)
    with pytest.raises(StackError) as wrong:
        stack.execute("agent", "understudy", "check-config")
    assert all(fault in str(wrong.value) for fault in FAULTS)
    if "agent" in restarted:
        # Until the agent looks again, an Orthanc that started after it is an alarm as well.
        wait_until(
            lambda: stack.status().alarms,
            lambda found: bool(found) and all(fault in found[0] for fault in FAULTS),
            deadline=60,
            what="the faults as the first alarm",
        )
        health = wait_until(
            lambda: stack.get("/understudy/health"), bool, deadline=60, what="a healthy appliance"
        )
        assert len(health["degraded"]) == len(FAULTS)
    # All three run the same: nothing differs for so long that it would be told.
    assert not any(re.search("different configurations", alarm) for alarm in stack.status().alarms)

    configure(folder, GOOD | {"Site": "west"})
    stack.restart(*SERVICES)

    def alarms() -> list[str]:
        return stack.status().alarms

    wait_until(alarms, lambda seen: not [one for one in seen if "wrong" in one], deadline=60, what="no alarm")
    assert stack.get("/understudy/status")["site"] == "west"


def test_first_start_with_a_wrong_configuration_is_refused_by_every_service(
    appliance_of: Stack, folder: Path
) -> None:
    configure(folder, WRONG)
    appliance_of.compose("up", "--detach", "--no-build")
    for service in SERVICES:
        log = wait_until(
            partial(appliance_of.compose, "logs", "--no-color", service),
            partial(contains, f"start: {service} does not start"),
            deadline=180,
            what=f"the refusal in the log of {service}",
        )
        assert "the configuration in /etc/understudy/config has 2 problems" in log
        assert all(fault in log for fault in FAULTS)


def contains(text: str, log: str) -> bool:
    return text in log
