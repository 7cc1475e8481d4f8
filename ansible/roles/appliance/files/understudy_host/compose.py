"""Calls the appliance's compose project, and the agent inside it."""

import http.client
import json
import re
import socket
import subprocess
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from understudy_host.mounts import vault_is_away
from understudy_host.places import HostError, Places
from understudy_host.volumes import connect

SERVICES = ("edge", "orthanc", "agent")
"""In the order in which they stop: the edge first, so that nobody connects while the others end."""

START_SECONDS = 240
"""How long a start may take with an image that has served before."""

_ANSWER_SECONDS = 10
_LARGEST_ANSWER = 64 * 2**20
"""Bytes; more than any status, and little enough for the host's memory."""
_WITHOUT_VAULT = ("compose.yml", "compose.override.yml", "compose.without-vault.yml")


class Health(Enum):
    """The health of a service by Docker; `ABSENT` if no container runs."""

    HEALTHY = "healthy"
    STARTING = "starting"
    UNHEALTHY = "unhealthy"
    ABSENT = "absent"


def run(command: Sequence[str], *, stdin: bytes | None = None, timeout: float | None = None) -> bytes:
    """Run a command and return its output; raise HostError with the end of the output if it fails."""
    try:
        done = subprocess.run(list(command), input=stdin, capture_output=True, check=False, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"{' '.join(command[:6])}: {error}") from error
    if done.returncode:
        told = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
        raise HostError(f"{' '.join(command[:6])}: exit {done.returncode}: {told[-1500:]}")
    return done.stdout


class Compose:
    """The compose project in its folder."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def up(self, *services: str, seconds: int) -> None:
        """Start services, all if none is named, and wait until they are healthy; raise HostError if not.

        While the vault's disk is not mounted, the agent gets a folder in its place that it cannot enter.
        """
        wait = ("--detach", "--wait", "--wait-timeout", str(seconds))
        files = [f"--file={self._places.project / file}" for file in _WITHOUT_VAULT]
        self._compose(
            *(files if vault_is_away(self._places) else ()),
            "up",
            "--no-build",
            "--pull",
            "never",
            "--remove-orphans",
            *wait,
            *services,
        )

    def exists(self) -> bool:
        """Return whether the project has any container, running or not."""
        return bool(self._compose("ps", "--all", "--quiet").strip())

    def stop(self, *services: str) -> None:
        """Stop services, all if none is named, one after another; each has its own time to finish."""
        for service in services or SERVICES:
            self._compose("stop", service)

    def restart(self, service: str) -> None:
        """Restart one service."""
        self._compose("restart", service)

    def restart_healthy(self, service: str) -> str:
        """Restart one service and wait until it is healthy; raise HostError with its last log lines if not.

        Before the edge restarts, the agent renews its keys, which are copies. If the agent does not run, the
        edge keeps the keys that it has.
        """
        kept = ""
        if service == "edge":
            try:
                self._compose("exec", "--no-TTY", "agent", "understudy", "init")
            except HostError as error:
                kept = f", with the keys that it had: {error}"
        self.restart(service)
        try:
            self.up(service, seconds=START_SECONDS)
        except HostError as error:
            raise HostError(f"{service} does not start again: {error}\n{self.last_words(service)}") from error
        return f"{service} is healthy{kept}"

    def remove(self) -> None:
        """Remove containers and networks; the volumes' data stays."""
        self._compose("down", "--remove-orphans", "--volumes")

    def health(self) -> Mapping[str, Health]:
        """Return the health of each service by Docker."""
        seen = dict.fromkeys(SERVICES, Health.ABSENT)
        for line in self._compose("ps", "--format", "json").decode().splitlines():
            container = json.loads(line)
            if container["Service"] in seen and container["State"] == "running":
                seen[container["Service"]] = Health(container["Health"] or "starting")
        return seen

    def last_words(self, *services: str, lines: int = 5) -> str:
        """Return the state of each of the services and the last lines of its log."""
        told = []
        for service in services:
            state = self._compose("ps", "--all", "--format", "{{.Status}}", service).decode().strip()
            log = self._compose("logs", "--no-color", "--no-log-prefix", "--tail", str(lines), service)
            told.append(f"{service}: {state}: {_printable(log.decode('utf-8', 'replace'))}")
        return "\n".join(told)

    def _compose(self, *arguments: str) -> bytes:
        folder = str(self._places.project)
        return run(["docker", "compose", "--progress", "quiet", "--project-directory", folder, *arguments])


def _printable(text: str) -> str:
    """Return the text without a terminal's escape sequences."""
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).strip()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, places: Places) -> None:
        super().__init__("localhost", timeout=_ANSWER_SECONDS)
        self._agent = (places.volume("sockets"), "agent.sock")

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        connect(self.sock, *self._agent)


def status(places: Places) -> dict[str, Any]:
    """Return the agent's status; raise HostError if it does not answer."""
    connection = _UnixConnection(places)
    try:
        connection.request(
            "GET", "/understudy/status", headers={"X-Understudy-User": "host", "X-Understudy-Role": "reader"}
        )
        answer = connection.getresponse()
        content = answer.read(_LARGEST_ANSWER)
        if answer.status != 200:
            raise HostError(f"the agent answers {answer.status} when asked for its status")
        read: dict[str, Any] = json.loads(content)
        return read
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise HostError(f"the agent does not answer: {error}") from error
    finally:
        connection.close()
