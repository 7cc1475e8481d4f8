"""The appliance that is attacked, its attackers and its witness, each in a container of its own."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.stack import BUILD, IMAGE, REPOSITORY, TEST_PROJECT, Stack, run
from tests.stalls import Stalls

SERVICES = ("edge", "orthanc", "agent")
ANSWER_BOUND = 1.0
"""Seconds in which a known device's store is answered, whatever goes on beside it."""

PRIVATE = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]
"""The networks of Docker, from which witness and attackers come."""

ELSEWHERE = ["198.51.100.0/24"]
"""An address that nobody here has (RFC 5737): whoever uses a title listed there is an impostor."""

SECTION: dict[str, Any] = {
    "Site": "adversary",
    "Vaults": [{"Name": "local", "Directory": "/var/lib/understudy-vault"}],
    "Primary": {"AeTitle": "PACS", "Host": "198.51.100.9", "Port": 104, "Addresses": ELSEWHERE},
    "Modalities": [
        {"Name": "ct1", "AeTitle": "CT1", "Host": "198.51.100.1", "Addresses": PRIVATE},
        {"Name": "us1", "AeTitle": "US1", "Host": "198.51.100.5", "Addresses": PRIVATE},
        {"Name": "ws1", "AeTitle": "WS1", "Host": "198.51.100.2", "Addresses": PRIVATE, "Reads": True},
        {"Name": "ws2", "AeTitle": "WS2", "Host": "198.51.100.3", "Addresses": ELSEWHERE, "Reads": True},
        {"Name": "mr1", "AeTitle": "MR1", "Host": "198.51.100.4", "Addresses": ELSEWHERE},
    ],
}
ATTACKERS_SHARE, WITNESS_SHARE = 256, 4096
"""Of the processors, where a service of the appliance has 1024 (Docker's default): outside these tests
attackers and devices compute on machines of their own."""

_FILL = """
import sys
from tests.integration.raw_store import store
from tests import hostile
seed, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for number in range(count):
    answer = store(("edge", 4242), hostile.good(f"{seed} {number}", size), patience=20, calling="CT1")
    assert answer.status == 0, answer
"""

IMPOSTORS = ("WS2", "MR1", "PACS")
"""Titles that are listed at another address, by role: reader, modality, primary."""


@dataclass(slots=True)
class Testimony:
    """What the witness saw; complete when its watch is over."""

    stores: int = 0
    failed: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0
    stored: list[str] = field(default_factory=list)
    allowance: float = 0.0
    """Seconds for which this machine itself may have kept it waiting."""

    def assert_never_kept_waiting(self) -> None:
        """Fail unless every store of the known device was taken within the bound."""
        assert self.stores > 0, "the witness stored nothing"
        assert self.failed == []
        waited = f"a known device waited {self.slowest_seconds} s, for this machine {self.allowance:.1f} s"
        assert self.slowest_seconds <= ANSWER_BOUND + self.allowance, waited


class Clinic:
    """The appliance under attack on its defaults, but for the devices that it knows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "config"
        shutil.copytree(REPOSITORY / "orthanc-config", self.folder)
        self._section = dict(SECTION)
        self.configure()
        self.stack = Stack(
            f"{TEST_PROJECT}-adversary", lab=False, environment={"UNDERSTUDY_CONFIG": str(self.folder)}
        )
        self._number = 0

    def configure(self, **changes: Any) -> None:
        """Write the configuration; the services read it when they start."""
        self._section |= changes
        file = self.folder / "understudy.json"
        file.write_text(json.dumps({"Understudy": self._section}), encoding="ascii")
        file.chmod(0o644)
        self.folder.chmod(0o755)

    def runs(self) -> dict[str, str]:
        """Return when each service's process was started: another moment means that one ended."""
        return {service: self.stack.inspect(service)["State"]["StartedAt"] for service in SERVICES}

    @contextmanager
    def unharmed(self) -> Iterator[None]:
        """Fail where a service ended in the meantime."""
        before = self.runs()
        yield
        after = self.runs()
        ended = [service for service in SERVICES if before[service] != after[service]]
        assert ended == [], f"ended: {', '.join(ended)}"

    @contextmanager
    def witnessed(self) -> Iterator[Testimony]:
        """Let a known device store all along, from an address of its own."""
        self._number += 1
        name = f"{self.stack.project}-witness-{self._number}"
        command = self._command(name, "tests.adversary.witness", ["--seed", name], interactive=True)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        testimony = Testimony()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with Stalls(BUILD) as stalls:
                assert process.stdout.readline() == "ready\n", "the witness's container ended early"
                yield testimony
                process.stdin.close()
                told = json.loads(process.stdout.readline())
            testimony.allowance = stalls.allowance
            testimony.stores, testimony.failed = told["stores"], told["failed"]
            testimony.slowest_seconds, testimony.stored = told["slowest_seconds"], told["stored"]
        finally:
            # The witness ends when its input does; as its container's first process it ignores SIGTERM.
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
            process.wait(timeout=30)

    def attack(
        self, kind: str, *, seconds: float, seed: int, login: str = "", instances: Sequence[str] = ()
    ) -> Any:
        """Attack for so long and return what the attacker saw."""
        self._number += 1
        name = f"{self.stack.project}-attacker-{self._number}"
        arguments = [kind, "--seconds", str(seconds), "--seed", str(seed), "--instances", " ".join(instances)]
        command = self._command(name, "tests.adversary.attack", arguments, login=login)
        return json.loads(run(command, timeout=seconds + 120).decode().strip().splitlines()[-1])

    def script(self, source: str, *arguments: str, login: str = "", timeout: float = 300) -> str:
        """Run a script in an attacker's container and return what it printed."""
        self._number += 1
        name = f"{self.stack.project}-attacker-{self._number}"
        command = self._command(name, None, ["-c", source, *arguments], login=login)
        return run(command, timeout=timeout).decode()

    def fill(self, seed: str, count: int, size: int = 0) -> None:
        """Store so many images with so many bytes more, as a known device."""
        self.script(_FILL, seed, str(count), str(size))

    def begun(self, source: str, *arguments: str, login: str = "") -> Callable[[], str]:
        """Begin a script in an attacker's container; what is returned waits for its end and its output."""
        self._number += 1
        name = f"{self.stack.project}-attacker-{self._number}"
        command = self._command(name, None, ["-c", source, *arguments], login=login)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

        def ended() -> str:
            told, _ = process.communicate(timeout=120)
            assert process.returncode == 0, told
            return told

        return ended

    def _command(
        self,
        name: str,
        module: str | None,
        arguments: Sequence[str],
        *,
        interactive: bool = False,
        login: str = "",
    ) -> list[str]:
        options = ["docker", "run", "--rm", "--name", name, "--network", f"{self.stack.project}_front"]
        options += ["--cap-drop", "ALL", "--ulimit", "nofile=4096", "--env", f"ADVERSARY_LOGIN={login}"]
        options += ["--cpu-shares", str(WITNESS_SHARE if interactive else ATTACKERS_SHARE)]
        options += [
            "--volume",
            f"{REPOSITORY / 'tests'}:/adversary/tests:ro",
            "--env",
            "PYTHONPATH=/adversary",
        ]
        options += ["--entrypoint", "/usr/bin/python3", *(["--interactive"] if interactive else []), IMAGE]
        return [*options, "-B", *([] if module is None else ["-m", module]), *arguments]


def seconds_of_a_case() -> float:
    """Return how long each generator attacks: `make adversary` gives an hour to all of them."""
    return float(os.environ.get("ADVERSARY_SECONDS", "15"))


def seed() -> int:
    """Return the seed; another one makes other cases."""
    return int(os.environ.get("ADVERSARY_SEED", "1"))
