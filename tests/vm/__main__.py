"""Plays `site.yml` against a virtual machine, kills it in the middle of intake, and counts what is left.

Exits 0 when nothing acknowledged was lost and it served again by itself within three minutes of power-on.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from tests.ansible import target
from tests.drills.checker import RestArchive, check
from tests.drills.sender import Sender, first_stored_after, instances
from tests.stack import BUILD, StackError, wait_until
from tests.vm.machine import SSH_OPTIONS, STORAGE, USER, Machine

SERVES_WITHIN = 180.0
BEFORE_THE_KILL = 50
"""Instances acknowledged before the plug is pulled."""


def say(text: str) -> None:
    """Print a line with the time."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def inventory(machine: Machine, image: Path) -> Path:
    """Write the inventory for the machine and return its path."""
    host: dict[str, Any] = {
        "ansible_host": "127.0.0.1",
        "ansible_port": machine.ports[22],
        "ansible_user": USER,
        "ansible_ssh_private_key_file": str(machine.key),
        "ansible_ssh_common_args": " ".join(f"-o {option}" for option in SSH_OPTIONS),
        "appliance_image_file": str(image),
        "appliance_config": {
            "Site": "vm",
            "Vaults": [{"Name": "local", "Directory": "/var/lib/understudy-vault"}],
        },
        "host_disks": [{"device": STORAGE, "path": "/srv/understudy/storage"}],
        "monitoring_enabled": False,
        "appliance_show_secrets": True,
    }
    path = machine.folder / "inventory.json"
    path.write_text(json.dumps({"standbys": {"hosts": {"standby": host}}}), encoding="utf-8")
    return path


def killed_in_the_middle(machine: Machine, archive: RestArchive, work: Path) -> bool:
    """Pull the plug while a modality sends, switch on again, and say whether everything is there."""
    supply = instances(work, f"vm {time.time_ns()}")
    address = ("127.0.0.1", machine.ports[4242])
    with Sender(lambda: address, supply, associations=3, timeout=30) as sender:
        wait_until(
            lambda: sender.stored,
            lambda stored: stored >= BEFORE_THE_KILL,
            deadline=600,
            what="acknowledged stores",
        )
        machine.kill()
        killed, before = time.monotonic(), sender.stored
        say(f"killed after {before} acknowledged instances")
        powered = time.monotonic()
        machine.start()
        wait_until(
            lambda: first_stored_after(sender.answers, killed),
            lambda found: found is not None,
            deadline=SERVES_WITHIN * 2,
            what="a store after power-on",
        )
        served = time.monotonic() - powered
    say(f"a store was acknowledged {served:.0f} s after power-on (limit {SERVES_WITHIN:.0f} s)")
    verdict = check(sender.answers, archive)
    say(f"acknowledged {verdict.acknowledged}, lost {len(verdict.lost)}, damaged {len(verdict.damaged)}")
    return verdict.kept and served <= SERVES_WITHIN


def main() -> int:
    """Play it and return the exit code."""
    machine = Machine(BUILD / "vm")
    say("makes a Debian 13 from its packages")
    machine.install()
    try:
        machine.start()
        say(f"it runs ({machine.accelerator}); the play begins")
        image = target.image_file(machine.folder)
        began = time.monotonic()
        played = target.played("site.yml", inventory(machine, image), timeout=5400).succeeded()
        say(f"the play ended after {time.monotonic() - began:.0f} s: {played.changed}")
        user, password = target.shown(played.said)
        # The certificate is the machine's own, on this machine's loopback.
        with (
            httpx.Client(
                base_url=f"https://127.0.0.1:{machine.ports[8443]}",
                auth=(user, password),
                verify=False,
                timeout=60,
            ) as client,
            tempfile.TemporaryDirectory() as work,
        ):
            kept = killed_in_the_middle(machine, RestArchive(client), Path(work))
    except StackError as error:
        say(f"failed: {error}")
        return 1
    finally:
        machine.kill()
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
