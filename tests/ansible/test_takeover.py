"""The address of the PACS: taken on promote, never while somebody has it, given back on settle."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.ansible import clients
from tests.ansible.conftest import DICOM, Standby
from tests.stack import IMAGE, TEST_PROJECT, run, wait_until

pytestmark = [pytest.mark.longer, pytest.mark.needs("image", "lab-image", "target-image", "ssh")]

ADDRESS = "172.31.251.99"
"""The address that the modalities call; here that of an old PACS, and nobody's at first."""
MOVES_WITHIN = 3.0


@pytest.fixture(scope="module")
def taking_over(standby: Standby) -> Iterator[Standby]:
    """The standby, told to take the address over."""
    variables: Mapping[str, Any] = {
        **standby.variables,
        "takeover_method": "keepalived",
        "takeover_address": f"{ADDRESS}/24",
    }
    standby.host.play("site.yml", variables).succeeded()
    again = standby.host.play("site.yml", variables).succeeded()
    assert again.changed == {"standby": 0}, again.changed_tasks
    yield standby
    standby.host.play("site.yml", {**variables, "takeover_method": "none"}).succeeded()
    assert running(standby) == {"understudy-takeover": False, "keepalived": False}


def running(standby: Standby) -> dict[str, bool]:
    """Say which of the two units runs, or will at the next start."""
    states = {}
    for unit in ("understudy-takeover", "keepalived"):
        told = standby.host.execute("systemctl", "show", "--property=ActiveState,UnitFileState", unit)
        states[unit] = "ActiveState=active" in told or "UnitFileState=enabled" in told
    return states


def addresses(standby: Standby) -> str:
    return standby.host.execute("ip", "-brief", "address", "show", "eth0")


def back_to_standby(standby: Standby) -> None:
    """Give back and settle."""
    standby.understudy("failback", "--wait")
    settle(standby)


def settle(standby: Standby) -> None:
    """End a return."""
    wait_until(
        lambda: standby.understudy("settle", "--override-quiet", "end of a test"),
        lambda said: "standby" in said,
        deadline=60,
        what="settled",
    )


def test_address_moves_on_promote_and_returns_on_settle(taking_over: Standby) -> None:
    assert ADDRESS not in addresses(taking_over)
    taking_over.understudy("promote", "--force", "--accept-loss", "--reason", "test of the takeover")
    promoted = time.monotonic()
    wait_until(
        lambda: clients.is_open(ADDRESS, DICOM, seconds=0.2),
        bool,
        deadline=MOVES_WITHIN,
        what="the address served",
        pause=0.05,
    )
    print(f"takeover: the address served {time.monotonic() - promoted:.2f} s after promote had answered")
    assert clients.echo(ADDRESS, DICOM, calling="CT1", called="PRIMARY") == 0
    back_to_standby(taking_over)
    wait_until(
        lambda: addresses(taking_over),
        lambda seen: ADDRESS not in seen,
        deadline=MOVES_WITHIN,
        what="the address given back",
    )


def test_address_that_answers_is_not_taken_until_it_is_free(taking_over: Standby) -> None:
    old = f"{TEST_PROJECT}-old-pacs"
    begin = ["docker", "run", "--detach", "--rm", "--name", old, "--network", taking_over.host.network]
    run([*begin, "--ip", ADDRESS, "--entrypoint", "sleep", IMAGE, "infinity"])
    try:
        taking_over.understudy(
            "promote", "--force", "--accept-loss", "--reason", "the old PACS is still there"
        )
        wait_for_alarm(taking_over, f"the address {ADDRESS} is not taken over")
        assert ADDRESS not in addresses(taking_over)
    finally:
        run(["docker", "rm", "--force", old])
    wait_until(
        lambda: addresses(taking_over),
        lambda seen: ADDRESS in seen,
        deadline=15,
        what="the free address taken",
    )
    # The repaired PACS comes back with it, before settle.
    try:
        run([*begin, "--ip", ADDRESS, "--entrypoint", "sleep", IMAGE, "infinity"])
        wait_for_alarm(taking_over, f"two hosts have the address {ADDRESS}")
        assert ADDRESS in addresses(taking_over)
    finally:
        run(["docker", "rm", "--force", old])
    wait_until(
        lambda: alarms(taking_over),
        lambda seen: not any(ADDRESS in what for what in seen),
        deadline=20,
        what="the end of the alarm",
    )
    back_to_standby(taking_over)


def test_address_is_taken_again_after_the_host_restarts(taking_over: Standby) -> None:
    host = taking_over.host
    taking_over.understudy("promote", "--force", "--accept-loss", "--reason", "test of a restart")
    wait_until(
        lambda: addresses(taking_over), lambda seen: ADDRESS in seen, deadline=10, what="the address taken"
    )
    run(["docker", "restart", host.name], timeout=300)
    wait_until(
        lambda: clients.echo(ADDRESS, DICOM, calling="CT1", called="PRIMARY"),
        lambda status: status == 0,
        deadline=180,
        what="C-ECHO at the address after the restart",
    )
    assert ADDRESS in addresses(taking_over)
    back_to_standby(taking_over)


def alarms(standby: Standby) -> list[str]:
    """Return what the appliance has to say to people."""
    told = json.loads(standby.host.execute("sh", "-c", "understudy status --json"))
    return [alarm["what"] for alarm in told["alarms"]]


def wait_for_alarm(standby: Standby, beginning: str) -> None:
    wait_until(
        lambda: alarms(standby),
        lambda seen: any(what.startswith(beginning) for what in seen),
        deadline=20,
        what=f"the alarm: {beginning}",
    )


def test_hooks_run_until_they_succeed_on_promote_and_on_settle(standby: Standby, tmp_path: Path) -> None:
    said = "/var/tmp/hooks"
    (tmp_path / "promote").write_text(
        f'#!/bin/sh\necho "promote $1" >> {said}\n[ "$(grep -c promote {said})" -ge 2 ]\n', encoding="ascii"
    )
    (tmp_path / "demote").write_text(f'#!/bin/sh\necho "demote $1" >> {said}\n', encoding="ascii")
    variables: Mapping[str, Any] = {
        **standby.variables,
        "takeover_method": "hooks",
        "takeover_address": f"{ADDRESS}/24",
        "takeover_promote": str(tmp_path / "promote"),
        "takeover_demote": str(tmp_path / "demote"),
    }
    # Another method before: its program ends.
    before = {**variables, "takeover_method": "keepalived"}
    standby.host.play("site.yml", before, "--tags", "takeover").succeeded()
    assert running(standby) == {"understudy-takeover": True, "keepalived": True}
    standby.host.play("site.yml", variables, "--tags", "takeover").succeeded()
    assert running(standby) == {"understudy-takeover": True, "keepalived": False}

    def lines() -> list[str]:
        return standby.host.execute("sh", "-c", f"cat {said} || true").splitlines()

    standby.host.execute("rm", "-f", said)
    standby.understudy("promote", "--force", "--accept-loss", "--reason", "test of the hooks")
    wait_until(lines, lambda seen: seen.count(f"promote {ADDRESS}") == 2, deadline=30, what="promote's hook")
    back_to_standby(standby)
    wait_until(lines, lambda seen: seen[-1] == f"demote {ADDRESS}", deadline=30, what="demote's hook")
    assert lines().count(f"promote {ADDRESS}") == 2, "a hook that succeeded ran again"
    standby.host.play("site.yml", {**variables, "takeover_method": "none"}, "--tags", "takeover").succeeded()
