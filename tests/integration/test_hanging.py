"""A vault on a mount that hangs, as a hard NFS mount does: only its own lane stands still.

The mount is a FUSE file system (bindfs) whose server is stopped, so that every call below it waits in the
kernel. UNDERSTUDY_HANG_SECONDS says for how long the appliance is watched meanwhile.
"""

import json
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.integration import raw_store
from tests.stack import REPOSITORY, TEST_PROJECT, Stack, StackError, run, wait_until

pytestmark = pytest.mark.needs("image", "fuse")

HANG_SECONDS = float(os.environ.get("UNDERSTUDY_HANG_SECONDS", "30"))
OUR_USER = 10001
MANY = 150
"""Health calls at once: the edge takes 200 connections of one address, and others of ours may be open."""
UNANSWERED_SECONDS = 5.0
"""After which the agent says that it does not know. What waits for the mount has no answer at all."""
HUNG, OTHER = "nas", "disk"
SECOND = "/var/lib/understudy/second"


@dataclass
class Mount:
    """A directory whose file system can be made to hang."""

    folder: Path
    server: subprocess.Popen[bytes]

    def hang(self) -> None:
        self.server.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.server.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    folder = tmp_path_factory.mktemp("hanging")
    real, mounted = folder / "real", folder / "mounted"
    for one in (real, mounted):
        one.mkdir()
    # The container's user reaches the folder through Docker's mount alone.
    options = (f"--force-user={OUR_USER}", f"--force-group={OUR_USER}", "--create-as-mounter")
    server = subprocess.Popen(["bindfs", "-f", *options, str(real), str(mounted)])
    found = Mount(mounted, server)
    try:
        wait_until(mounted.is_mount, bool, deadline=60, what="the mount")
        yield found
    finally:
        found.go_on()
        run(["umount", "--lazy", str(mounted)])
        server.wait(10)


@pytest.fixture(scope="module")
def stack(mount: Mount, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The appliance with one vault on the mount and another on its own volume."""
    folder = tmp_path_factory.mktemp("config")
    for file in (REPOSITORY / "orthanc-config").glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    vaults = [
        {"Name": HUNG, "Directory": "/var/lib/understudy-vault"},
        {"Name": OTHER, "Directory": SECOND},
    ]
    section = {"Primary": {"AeTitle": "PACS", "Host": "192.0.2.1"}, "Vaults": vaults}
    (folder / "understudy.json").write_text(json.dumps({"Understudy": section}))
    folder.chmod(0o755)
    found = Stack(f"{TEST_PROJECT}-hang", lab=False, environment={"UNDERSTUDY_CONFIG": str(folder)})
    found.down()
    labels = (f"com.docker.compose.project={found.project}", "com.docker.compose.volume=vault")
    options = ("type=none", "o=bind", f"device={mount.folder}")
    run(
        [
            *("docker", "volume", "create"),
            *(part for label in labels for part in ("--label", label)),
            *(part for option in options for part in ("--opt", option)),
            f"{found.project}_vault",
        ]
    )
    try:
        found.up()
        found.execute("agent", "mkdir", "-p", SECOND)
        yield found
    except StackError:
        print(found.logs())
        raise
    finally:
        # What waits in the kernel for the mount cannot be killed.
        mount.go_on()
        found.down()


_TAKEOVER = """
import http.client, json, socket
agent = http.client.HTTPConnection("localhost")
agent.sock = socket.socket(socket.AF_UNIX)
agent.sock.settimeout(2)
agent.sock.connect("/run/understudy/agent.sock")
asks = {"X-Understudy-User": "takeover", "X-Understudy-Role": "reader"}
agent.request("GET", "/understudy/mode", headers=asks)
print(json.loads(agent.getresponse().read())["mode"])
"""
"""How the host's takeover service asks (ansible/roles/takeover/files/understudy_takeover.py)."""


def proven(stack: Stack, holder: str, number: int) -> None:
    wait_until(
        stack.status,
        lambda state: state.holders[holder].proven == number,
        deadline=180,
        what=f"{number} instances proven at {holder}",
    )


def timed(call: httpx.Client, path: str) -> tuple[float, httpx.Response]:
    began = time.monotonic()
    answer = call.get(path)
    return time.monotonic() - began, answer


def test_vault_that_hangs_holds_nothing_but_its_own_lane(stack: Stack, mount: Mount) -> None:
    raw_store.store_good(stack.dicom, "before", 100_000)
    proven(stack, HUNG, 1)
    proven(stack, OTHER, 1)
    client = stack.client()
    mount.hang()
    raw_store.store_good(stack.dicom, "meanwhile", 100_000)
    proven(stack, OTHER, 2)
    told = f"the volume vault {HUNG} does not answer"
    state = wait_until(
        stack.status,
        lambda seen: any(alarm.startswith(told) for alarm in seen.alarms),
        deadline=90,
        what="the alarm",
    )
    assert [volume["name"] for volume in state.raw["disk"]["unknown"]] == [f"vault {HUNG}"]
    assert f"vault {HUNG}" not in [volume["name"] for volume in state.raw["disk"]["volumes"]]
    assert state.holders[HUNG].proven == 1

    times: dict[str, list[float]] = {path: [] for path in ("status", "health", "metrics", "mode")}
    end = time.monotonic() + HANG_SECONDS
    while time.monotonic() < end:
        for path, taken in times.items():
            elapsed, answer = timed(client, f"/understudy/{path}")
            assert answer.status_code == 200, (path, answer.text)
            taken.append(elapsed)
        time.sleep(0.2)
    medians = {path: statistics.median(taken) for path, taken in times.items()}
    worst = {path: max(taken) for path, taken in times.items()}
    print(f"median {medians}, worst {worst}")
    assert max(medians.values()) < 0.3, medians
    assert max(worst.values()) < UNANSWERED_SECONDS, worst

    with (
        httpx.Client(
            verify=stack.pinned(), timeout=30, limits=httpx.Limits(max_connections=MANY)
        ) as stranger,
        ThreadPoolExecutor(MANY) as pool,
    ):
        address = f"{stack.https}/understudy/health"
        asked = [pool.submit(timed, stranger, address) for _ in range(MANY)]
        during, answer = timed(client, "/understudy/status")
        assert answer.status_code == 200
        answers = [one.result() for one in asked]
    print(
        f"{MANY} at once: worst {max(taken for taken, _ in answers):.2f} s, status meanwhile {during:.2f} s"
    )
    assert {answer.status_code for _, answer in answers} == {200}

    began = time.monotonic()
    body = {"reason": "the vault hangs", "force": True, "accept_loss": True, "epoch": state.epoch}
    stack.post("/understudy/promote", body)
    promoted = time.monotonic() - began
    print(f"promote {promoted:.2f} s")
    assert client.get("/understudy/mode").json()["mode"] == "active"
    assert promoted < 2
    # As the takeover asks it, and as a person at the appliance does.
    seen = stack.execute("agent", "/usr/bin/python3", "-c", _TAKEOVER, timeout=30)
    assert seen.decode().strip() == "active"
    stack.execute("agent", "understudy", "status", timeout=30)
    raw_store.store_good(stack.dicom, "after the takeover", 100_000)
    proven(stack, OTHER, 3)

    mount.go_on()
    proven(stack, HUNG, 3)
    wait_until(
        stack.status, lambda seen: not seen.raw["disk"]["unknown"], deadline=90, what="the volume seen"
    )
