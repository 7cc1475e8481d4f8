"""A clinic's host in a container, and the plays that are run against it over SSH.

Rule 1: the host is judged from outside, by its own programs only where it is asked what listens.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.stack import IMAGE, REPOSITORY, TEST_PROJECT, StackError, run, wait_until

TARGET_IMAGE = os.environ.get("UNDERSTUDY_TARGET_IMAGE", "understudy-target:local")
PLAYS = REPOSITORY / "ansible"
CAPABILITIES = ("SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE")
_RECAP = re.compile(
    r"^(?P<host>\S+) +: ok=(?P<ok>\d+) +changed=(?P<changed>\d+) +unreachable=(?P<unreachable>\d+)"
    r" +failed=(?P<failed>\d+)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Played:
    """What a play said and did."""

    code: int
    said: str
    changed: Mapping[str, int]

    @property
    def changed_tasks(self) -> list[str]:
        """The names of the tasks that changed something."""
        task, names = "", []
        for line in self.said.splitlines():
            if match := re.match(r"(?:TASK|RUNNING HANDLER) \[(.*)\] \*", line):
                task = match[1]
            elif line.startswith("changed: "):
                names.append(task)
        return names

    def succeeded(self) -> "Played":
        """Return this play, or raise StackError with its last words where it failed."""
        if self.code:
            raise StackError(f"the play ended with {self.code}:\n{self.said[-6000:]}")
        return self


class Target:
    """One host on a Docker network, with the tests' key in its door."""

    def __init__(self, name: str, network: str, folder: Path) -> None:
        self.name = f"{TEST_PROJECT}-{name}"
        self.network = network
        self.folder = folder
        self.key = folder / "id_ed25519"

    def start(self, *options: str) -> None:
        """Start the host from nothing, and let the tests' key in."""
        self.remove()
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.key.exists():
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)])
        given = [option for capability in CAPABILITIES for option in ("--cap-add", capability)]
        confined = ["--security-opt", "seccomp=unconfined", "--cgroupns", "private"]
        mounts = ["--tmpfs", "/run", "--tmpfs", "/tmp", "--volume", f"{self.name}:/var/lib/docker"]
        begin = ["docker", "run", "--detach", "--name", self.name, "--hostname", "standby"]
        run([*begin, "--network", self.network, *given, *confined, *mounts, *options, TARGET_IMAGE])
        public = self.key.with_suffix(".pub").read_bytes()
        self.execute("sh", "-c", "umask 077; cat > /var/lib/admin/.ssh/authorized_keys", stdin=public)
        self.execute("chown", "admin:admin", "/var/lib/admin/.ssh/authorized_keys")
        wait_until(
            lambda: self.execute("systemctl", "is-active", "ssh.service").strip(),
            lambda seen: seen == "active",
            deadline=180,
            what="SSH of the target",
        )

    def remove(self) -> None:
        """Remove the host and its disk."""
        run(["docker", "rm", "--force", "--volumes", self.name])
        run(["docker", "volume", "rm", "--force", self.name])

    def execute(self, *command: str, stdin: bytes = b"", timeout: float = 120) -> str:
        """Run a command on the host as root, past SSH, and return what it printed."""
        return run(
            ["docker", "exec", "--interactive", self.name, *command], stdin=stdin, timeout=timeout
        ).decode()

    @property
    def address(self) -> str:
        """The host's address on its network."""
        (told,) = json.loads(run(["docker", "inspect", self.name]))
        return str(told["NetworkSettings"]["Networks"][self.network]["IPAddress"])

    def inventory(self, variables: Mapping[str, Any]) -> Path:
        """Write an inventory with this host alone, and return its path."""
        connection = {
            "ansible_host": self.address,
            "ansible_user": "admin",
            "ansible_ssh_private_key_file": str(self.key),
            # The host was made a moment ago: there is no key of it to know.
            "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
        }
        path = self.folder / "inventory.json"
        path.write_text(
            json.dumps({"standbys": {"hosts": {"standby": {**connection, **variables}}}}), encoding="utf-8"
        )
        return path

    def play(self, play: str, variables: Mapping[str, Any], *options: str, timeout: float = 1800) -> Played:
        """Run a play against this host."""
        return played(play, self.inventory(variables), *options, timeout=timeout)


def played(play: str, inventory: Path, *options: str, timeout: float = 1800) -> Played:
    """Run a play as a person would, in the folder `ansible`."""
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "--inventory", str(inventory)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        [*command, play, *options],
        cwd=PLAYS,
        env={**environment, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0"},
        capture_output=True,
        check=False,
        text=True,
        timeout=timeout,
    )
    changed = {match["host"]: int(match["changed"]) for match in _RECAP.finditer(done.stdout)}
    return Played(done.returncode, done.stdout + done.stderr, changed)


HANDED_OVER = "/root/understudy/first-start.txt"
"""Where a play leaves the first start's secrets on the host."""


def shown(said: str) -> tuple[str, str]:
    """Return user and password from what the play left on the host."""
    found = dict(re.findall(r"\b(user|password): +([^\s'\",]+)", said))
    return found["user"], found["password"]


def image_file(folder: Path, image: str = IMAGE) -> Path:
    """Return the appliance's image as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "image.tar"
    run(["docker", "save", "--output", str(path), image])
    return path


def network(name: str, *options: str) -> str:
    """Make a Docker network and return its name."""
    full = f"{TEST_PROJECT}-{name}"
    remove_network(full)
    run(["docker", "network", "create", *options, full])
    return full


def remove_network(name: str) -> None:
    """Remove a network where it is there."""
    if shutil.which("docker") and run(["docker", "network", "ls", "--quiet", "--filter", f"name=^{name}$"]):
        run(["docker", "network", "rm", name])


def gateway(name: str) -> str:
    """Return the address under which this machine is on a network."""
    (told,) = json.loads(run(["docker", "network", "inspect", name]))
    return str(told["IPAM"]["Config"][0]["Gateway"])


def listening(target: Target) -> Sequence[int]:
    """Return the TCP ports on which the host listens for others than itself."""
    lines = target.execute("ss", "--tcp", "--listening", "--numeric", "--no-header").splitlines()
    local = [line.split()[3] for line in lines]
    return sorted({int(a.rpartition(":")[2]) for a in local if not a.startswith(("127.", "[::1]"))})
