"""Drives the appliance, alone or in its lab, as one compose project, and speaks to it as its users do.

Rule 1: nothing here imports the appliance's code: what it says of itself is compared with what others see.
Rule 2: waiting is done by `wait_until` alone, which fails with the last state it saw.
"""

import hashlib
import json
import os
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

REPOSITORY = Path(__file__).resolve().parent.parent
BUILD = REPOSITORY / "build"
COMPOSE_FILES = ("docker/compose.yml", "docker/compose.lab.yml")
TEST_PROJECT = os.environ.get("UNDERSTUDY_TEST_PROJECT", "understudy-test")
"""How the names of the tests' compose projects begin."""
IMAGE = os.environ.get("UNDERSTUDY_IMAGE", "understudy:local")
LAB_IMAGE = os.environ.get("UNDERSTUDY_LAB_IMAGE", "understudy-lab:local")

T = TypeVar("T")


class StackError(Exception):
    """A command or a call of the stack failed; the message says which and what it answered."""


class DeadlineError(StackError):
    """What was waited for did not come in time."""


class RefusedError(StackError):
    """The appliance refused a REST call, or the operation that it began failed; nothing changed."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        self.status = status
        self.error = str(body.get("error", ""))
        self.message = str(body.get("message", ""))
        self.hint = str(body.get("hint", ""))
        self.details = tuple(str(detail) for detail in body.get("details", ()))
        super().__init__(f"{status} {self.error}: {self.message} {list(self.details)} ({self.hint})")


@dataclass(frozen=True, slots=True)
class Access:
    """What the first start shows once."""

    user: str
    password: str
    fingerprint: str
    """SHA-256 of the TLS certificate, lower-case hex."""
    identity: str
    """The private age identity of the vaults; empty where none was made."""

    @property
    def login(self) -> tuple[str, str]:
        return self.user, self.password


@dataclass(frozen=True, slots=True)
class HolderCounts:
    """Obligations to one holder by state."""

    owed: int
    in_flight: int
    sent: int
    proven: int
    refused: int
    waived: int

    @property
    def unproven(self) -> int:
        return self.owed + self.in_flight + self.sent + self.refused


@dataclass(frozen=True, slots=True)
class State:
    """The appliance's own status as far as the tests ask for it; `raw` is all of it."""

    mode: str
    epoch: int
    condition: str
    """Of the primary: up, down, refuses, busy or unknown; empty where there is none."""
    instances: int
    rpo_seconds: float
    lag_seconds: float | None
    gaps: int
    holders: Mapping[str, HolderCounts]
    raw: Mapping[str, Any]

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        counts = ("owed", "in_flight", "sent", "proven", "refused", "waived")
        return cls(
            mode=raw["mode"],
            epoch=raw["epoch"],
            condition=(raw["primary"] or {"condition": ""})["condition"],
            instances=raw["instances"],
            rpo_seconds=raw["rpo_seconds"],
            lag_seconds=raw["lag_seconds"],
            gaps=raw["gaps"]["instances"],
            holders={
                holder["name"]: HolderCounts(*(holder[count] for count in counts))
                for holder in raw["holders"]
            },
            raw=raw,
        )

    @property
    def alarms(self) -> list[str]:
        return [alarm["what"] for alarm in self.raw["alarms"]]

    def __str__(self) -> str:
        holders = {name: f"{h.proven} proven, {h.unproven} not" for name, h in self.holders.items()}
        return (
            f"mode {self.mode}, epoch {self.epoch}, primary {self.condition}, {self.instances} instances, "
            f"{self.gaps} gaps, {holders}, alarms {self.alarms}"
        )


def wait_until(
    look: Callable[[], T], good: Callable[[T], bool], *, deadline: float, what: str, pause: float = 0.25
) -> T:
    """Look again and again until what is seen is good, and return it.

    After `deadline` seconds raise DeadlineError with the last thing seen. No answer is a thing seen, too.
    """
    end = time.monotonic() + deadline
    while True:
        seen: T | StackError
        try:
            seen = look()
            if good(seen):
                return seen
        except (StackError, httpx.TransportError, OSError) as error:
            seen = error if isinstance(error, StackError) else StackError(f"{type(error).__name__}: {error}")
        if time.monotonic() >= end:
            raise DeadlineError(f"{what}: not within {deadline:g} s; last seen: {seen}")
        time.sleep(pause)


def least(measure: Callable[[], float], *, enough: float) -> float:
    """Return the first of three measurements that is not above `enough`, or else the least.

    What the machine does beside makes one of them long; a fault makes all three long.
    """
    found = measure()
    for _ in range(2):
        if found <= enough:
            break
        found = min(found, measure())
    return found


class Stack:
    """One compose project on its own volumes and, unless told otherwise, on free ports."""

    def __init__(
        self,
        project: str,
        *,
        lab: bool,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.project = project
        self.lab = lab
        self.environment = {
            "UNDERSTUDY_DICOM_PORT": "127.0.0.1:0",
            "UNDERSTUDY_DICOM_TLS_PORT": "127.0.0.1:0",
            "UNDERSTUDY_HTTPS_PORT": "127.0.0.1:0",
            **(environment or {}),
        }
        self._access: Access | None = None
        self._clients: dict[tuple[str, str], httpx.Client] = {}

    # --- Containers -----------------------------------------------------------------------------------------

    @property
    def files(self) -> list[str]:
        return [str(REPOSITORY / file) for file in (COMPOSE_FILES if self.lab else COMPOSE_FILES[:1])]

    @property
    def data(self) -> Path:
        """The folder of this project that the modality sees as /data/PROJECT."""
        folder = BUILD / "lab" / self.project
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def compose(self, *arguments: str, stdin: bytes = b"", timeout: float = 300) -> str:
        """Run docker compose and return what it printed; raise StackError where it failed."""
        return self.compose_bytes(*arguments, stdin=stdin, timeout=timeout).decode("utf-8", "replace")

    def compose_bytes(self, *arguments: str, stdin: bytes = b"", timeout: float = 300) -> bytes:
        files = [part for file in self.files for part in ("--file", file)]
        return run(
            ["docker", "compose", "--progress", "quiet", "--project-name", self.project, *files, *arguments],
            stdin=stdin,
            environment=self.environment,
            timeout=timeout,
        )

    def up(self, *services: str, timeout: float = 180) -> None:
        """Start the services, all of them if none is named, and wait until they are healthy."""
        # The mount point of the modality has to be ours, not Docker's.
        (BUILD / "lab").mkdir(parents=True, exist_ok=True)
        self.compose("up", "--detach", "--no-build", *services, timeout=timeout)
        self.healthy(*(services or self.compose("config", "--services").split()), deadline=timeout)

    def down(self) -> None:
        """Remove the project with all its volumes."""
        self.close()
        self._access = None
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")
        shutil.rmtree(BUILD / "lab" / self.project, ignore_errors=True)

    def execute(self, service: str, *command: str, stdin: bytes = b"", timeout: float = 300) -> bytes:
        """Run a command in a running service and return what it printed."""
        return self.compose_bytes("exec", "--no-TTY", service, *command, stdin=stdin, timeout=timeout)

    def shell(self, service: str, script: str, *arguments: str, timeout: float = 300) -> str:
        """Run a bash script in a running service and return what it printed."""
        command = ("bash", "-euo", "pipefail", "-s", "--", *arguments)
        return self.execute(service, *command, stdin=script.encode(), timeout=timeout).decode(
            "utf-8", "replace"
        )

    def kill(self, *services: str) -> None:
        """End the services as a crash would: SIGKILL, and nothing restarts them."""
        self.compose("kill", "--signal", "SIGKILL", *services)

    def start(self, *services: str, timeout: float = 120) -> None:
        """Start stopped services and wait until they are healthy."""
        self.compose("start", *services)
        if "edge" in services:
            # It listens on other ports of this machine now.
            self.close()
        self.healthy(*services, deadline=timeout)

    def stop(self, *services: str) -> None:
        """Stop the services in an orderly way."""
        self.compose("stop", "--timeout", "20", *services)

    def restart(self, *services: str) -> None:
        """Restart the services and wait until they are healthy."""
        self.stop(*services)
        self.start(*services)

    def healthy(self, *services: str, deadline: float) -> None:
        """Wait until the services pass their health checks and, if Orthanc is one, the edge sees it."""
        for service in services:
            self._passes(service, deadline)
        if "orthanc" in services:
            # The edge looks for it once a second.
            what = "Orthanc seen by the edge"
            wait_until(lambda: self.get("/system"), bool, deadline=deadline, what=what)

    def _passes(self, service: str, deadline: float) -> None:
        # The Engine itself makes the check only now and then.
        container = self.container(service)
        nothing = {"Test": ["CMD", "true"]}
        check = self.inspect(service)["Config"].get("Healthcheck", nothing)["Test"][1:]
        wait_until(
            lambda: run(["docker", "exec", container, *check]),
            lambda _: True,
            deadline=deadline,
            what=f"{service} healthy",
        )

    def container(self, service: str) -> str:
        """Return the id of the service's container, running or not."""
        found = self.compose("ps", "--all", "--quiet", service).split()
        if len(found) != 1:
            raise StackError(f"{service} has {len(found)} containers in project {self.project}")
        return found[0]

    def inspect(self, service: str) -> dict[str, Any]:
        """Return what Docker knows of the service's container."""
        (found,) = json.loads(run(["docker", "inspect", self.container(service)]))
        return dict(found)

    def pid(self, service: str, *, deadline: float = 60) -> int:
        """Return the number that the service's first process has on this machine, once it runs."""
        return wait_until(
            lambda: int(self.inspect(service)["State"]["Pid"]),
            lambda pid: pid > 0,
            deadline=deadline,
            what=f"{service} running",
        )

    def logs(self, *services: str) -> str:
        """Return the last lines of the services' logs."""
        return self.compose("logs", "--no-color", "--tail", "60", *services)

    def port(self, service: str, inside: int) -> tuple[str, int]:
        """Return the address under which this machine reaches a published port."""
        host, _, port = self.compose("port", service, str(inside)).strip().rpartition(":")
        if not port.isdigit():
            raise StackError(f"port {inside} of {service} is not published now")
        return ("127.0.0.1" if host in ("0.0.0.0", "[::]") else host), int(port)

    # --- HTTPS ----------------------------------------------------------------------------------------------

    @property
    def dicom(self) -> tuple[str, int]:
        """Host and port of the appliance's DICOM listener."""
        return self.port("edge", 4242)

    @property
    def https(self) -> str:
        """The address of the appliance's HTTPS front, without a slash at the end."""
        host, port = self.port("edge", 8443)
        return f"https://{host}:{port}"

    @property
    def admin(self) -> tuple[str, str]:
        """User and password of the administrator."""
        return self.first_start().login

    def first_start(self) -> Access:
        """Return what the first start shows: it does so once, so it is remembered here."""
        if self._access is None:
            shown = self.execute("agent", "understudy", "first-start").decode()
            values = dict(
                re.findall(r"^(user|password|SHA-256|age identity)\b.*?: +(\S+)$", shown, re.MULTILINE)
            )
            self._access = Access(
                user=values["user"],
                password=values["password"],
                fingerprint=values["SHA-256"].replace(":", "").lower(),
                identity=values.get("age identity", ""),
            )
        return self._access

    def add_user(self, name: str, role: str) -> tuple[str, str]:
        """Make a user, wait until the edge knows it, and return user and password.

        Until then each question counts as a wrong password of that name, so there are few.
        """
        login = (
            name,
            self.execute("agent", "understudy", "user", "add", name, "--role", role).decode().strip(),
        )
        wait_until(
            lambda: self.client(login).get("/understudy/mode").status_code,
            lambda status: status == 200,
            deadline=10,
            what=f"{name} known at the edge",
            pause=1,
        )
        return login

    def pinned(self) -> ssl.SSLContext:
        """Return a context that trusts the one certificate whose fingerprint the first start showed."""
        host, port = self.port("edge", 8443)
        certificate = ssl.get_server_certificate((host, port), timeout=10)
        fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate)).hexdigest()
        if fingerprint != self.first_start().fingerprint:
            raise StackError(
                f"the edge's certificate {fingerprint} is not the one that the first start showed"
            )
        context = ssl.create_default_context(cadata=certificate)
        # The pin is the certificate itself: it need not be an authority's, nor name this address.
        context.verify_flags = ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        context.check_hostname = False
        return context

    def client(self, login: tuple[str, str] | None = None) -> httpx.Client:
        """Return an HTTPS client for this login, the administrator's if none is given."""
        login = login or self.admin
        if login not in self._clients:
            self._clients[login] = httpx.Client(
                base_url=self.https,
                auth=login,
                verify=self.pinned(),
                timeout=30,
                headers={"Accept": "application/json"},
            )
        return self._clients[login]

    def remember(self, access: Access) -> None:
        """Use what another process was shown at the first start."""
        self._access = access

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def get(self, path: str) -> Any:
        """Return the JSON that a GET answers; raise RefusedError where it refuses."""
        return self._answer(self.client().get(path))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the JSON that a POST answers; raise RefusedError where it refuses."""
        return self._answer(self.client().post(path, json=dict(body)))

    def _answer(self, answer: httpx.Response) -> Any:
        try:
            body = answer.json()
        except ValueError:
            raise StackError(
                f"{answer.request.url.path} answered {answer.status_code} without JSON"
            ) from None
        if answer.is_success:
            return body
        raise RefusedError(answer.status_code, body if isinstance(body, dict) else {})

    # --- What an operator does ------------------------------------------------------------------------------

    def status(self) -> State:
        """Return the appliance's status."""
        return State.of(self.get("/understudy/status"))

    def promote(self, reason: str, *, force: bool = False) -> State:
        """Promote in the epoch that the status shows, and return the status after it."""
        body = {"reason": reason, "force": force, "epoch": self.status().epoch}
        self.post("/understudy/promote", body)
        return self.status()

    def plan(self) -> Mapping[str, Any]:
        """Return what a failback would do."""
        asked = self.post("/understudy/failback", {"dry_run": True})
        self.finished(int(asked["operation"]), deadline=60)
        plan: Mapping[str, Any] = self.get("/understudy/failback/plan")
        return plan

    def probe(self) -> Mapping[str, Any]:
        """Return what the primary can do; raise RefusedError if it does not suit."""
        self.finished(int(self.post("/understudy/probe", {})["operation"]), deadline=120)
        found: Mapping[str, Any] = self.get("/understudy/probe")
        return found

    def failback(self) -> int:
        """Begin the failback and return the number of its operation."""
        return int(self.post("/understudy/failback", {"epoch": self.status().epoch})["operation"])

    def operation(self, number: int) -> Mapping[str, Any]:
        """Return the operation."""
        operation: Mapping[str, Any] = self.get(f"/understudy/operations/{number}")
        return operation

    def finished(
        self, number: int, *, deadline: float, look: Callable[[Mapping[str, Any]], None] = lambda _: None
    ) -> Mapping[str, Any]:
        """Wait until the operation is done and return it, raise where it failed; `look` sees it meanwhile."""

        def shown() -> Mapping[str, Any]:
            operation = self.operation(number)
            look(operation)
            return operation

        last = wait_until(
            shown,
            lambda seen: seen["state"] != "running",
            deadline=deadline,
            what=f"operation {number} at its end",
        )
        if last["state"] != "done":
            message = f"operation {number} is {last['state']}: {last['message']}"
            raise RefusedError(200, {"error": "operation", "message": message, "details": last["details"]})
        return last

    def settle(self, override_quiet: str | None = None) -> State:
        """End the failback, and return the status after it; raise where it is refused, with every reason."""
        asked = self.post(
            "/understudy/failback/settle", {"epoch": self.status().epoch, "override_quiet": override_quiet}
        )
        self.finished(int(asked["operation"]), deadline=60)
        return self.status()

    def settled(self, *, deadline: float) -> State:
        """Settle as soon as the appliance lets us; the last refusal is shown when time is up."""
        return wait_until(
            self.settle,
            lambda state: state.mode == "standby",
            deadline=deadline,
            what="failback settled",
            pause=1,
        )


def run(
    command: Sequence[str],
    *,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    timeout: float = 300,
) -> bytes:
    """Run a command and return what it wrote to standard output; raise StackError where it failed."""
    try:
        done = subprocess.run(
            list(command),
            input=stdin,
            capture_output=True,
            check=False,
            timeout=timeout,
            cwd=REPOSITORY,
            env={**os.environ, **(environment or {})},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackError(f"{' '.join(command[:12])}: {error}") from error
    if done.returncode != 0:
        told = (done.stderr.strip() or done.stdout).decode("utf-8", "replace").strip()[-2000:]
        raise StackError(f"{' '.join(command)[:300]}: exit {done.returncode}: {told}")
    return done.stdout
