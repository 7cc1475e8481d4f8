"""The containers of a benchmark: stock Orthanc, a sender, the appliance's image; all removed at the end.

Rule 1: every container carries the label of its bench, so that what a killed run left is removed by the next.
Rule 2: parties are called by the address of their container, never by a published port: another server on
the same port would answer for them.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from tests.stack import BUILD, IMAGE, LAB_IMAGE, REPOSITORY, StackError, run, wait_until

PROJECT = os.environ.get("UNDERSTUDY_BENCH_PROJECT", "understudy-bench")
FOLDER = BUILD / PROJECT
"""The bench's files on this machine; removed with its containers."""
INDEX_FOLDER = "/var/lib/orthanc/db-v6"

_LABEL = f"understudy.bench={PROJECT}"
_INSIDE = "/bench"


@dataclass(frozen=True, slots=True)
class Stock:
    """A stock Orthanc: Debian's default configuration without plugins."""

    container: str
    address: str
    client: httpx.Client

    def count(self) -> int:
        """Return how many instances it has."""
        return int(self.get("/statistics")["CountInstances"])

    def get(self, path: str) -> Any:
        """Return the JSON that a GET answers."""
        return self.client.get(path).raise_for_status().json()

    def post(self, path: str, body: object) -> Any:
        """Return the JSON that a POST answers."""
        return self.client.post(path, json=body).raise_for_status().json()


@dataclass(frozen=True, slots=True)
class Sender:
    """A container with dcmtk's tools as they come."""

    container: str

    def send(self, address: str, port: int, folders: Sequence[Path]) -> float:
        """Send each folder over an association of its own, all at once, and return the seconds it took."""
        seconds = self.shell(_SEND, address, str(port), *(_seen(folder) for folder in folders))
        return float(seconds)

    def shell(self, script: str, *arguments: str, timeout: float = 900) -> str:
        """Run a bash script and return what it printed."""
        command = ["docker", "exec", "--interactive", self.container, "bash", "-euo", "pipefail", "-s", "--"]
        return run([*command, *arguments], stdin=script.encode(), timeout=timeout).decode()


_SEND = """
address=$1 port=$2
shift 2
senders=()
began=$(date +%s%N)
for folder in "$@"; do
    storescu --aetitle CT1 --call ORTHANC --scan-directories "$address" "$port" "$folder" &
    senders+=($!)
done
for sender in "${senders[@]}"; do wait "$sender"; done
ended=$(date +%s%N)
printf '%d.%09d\\n' $(((ended - began) / 1000000000)) $(((ended - began) % 1000000000))
"""


@contextmanager
def network() -> Iterator[str]:
    """Give a network of the bench's own, and remove it."""
    name = f"{PROJECT}-network"
    run(["docker", "network", "create", "--label", _LABEL, name])
    try:
        yield name
    finally:
        run(["docker", "network", "rm", name])


@contextmanager
def container(name: str, image: str, command: Sequence[str], *options: str) -> Iterator[str]:
    """Give a running container and remove it with its unnamed volumes."""
    full = f"{PROJECT}-{name}"
    given = ["--name", full, "--label", _LABEL, "--log-opt", "max-size=10m", *options]
    try:
        run(["docker", "run", "--detach", *given, image, *command])
        yield full
    finally:
        run(["docker", "rm", "--force", "--volumes", full])


@contextmanager
def volume(name: str) -> Iterator[str]:
    """Give a volume and remove it."""
    full = f"{PROJECT}-{name}"
    run(["docker", "volume", "create", "--label", _LABEL, full])
    try:
        yield full
    finally:
        run(["docker", "volume", "rm", "--force", full])


@contextmanager
def stock(
    name: str,
    attached: str,
    *,
    tuned: bool = False,
    keeps: str = "",
    image: str = LAB_IMAGE,
    changes: Mapping[str, str] | None = None,
) -> Iterator[Stock]:
    """Give a stock Orthanc on a network.

    `tuned` sets TCP_NODELAY=1 in its environment; `keeps` names a volume for index and files, an unnamed one
    is used otherwise; `changes` are options that differ from Debian's, in JSON.
    """
    folder = _configuration(name, changes or {})
    options = ["--network", attached, "--user", "0:0", "--volume", f"{keeps or INDEX_FOLDER}"]
    if keeps:
        options[-1] += f":{INDEX_FOLDER}"
    options += [
        "--volume",
        f"{folder}:/etc/bench:ro",
        "--entrypoint",
        "Orthanc",
        "--env",
        "MALLOC_ARENA_MAX=5",
    ]
    if tuned:
        options += ["--env", "TCP_NODELAY=1"]
    with container(name, image, ["/etc/bench"], *options) as full:
        address = address_of(full, attached)
        with httpx.Client(base_url=f"http://{address}:8042", timeout=900) as client:
            found = Stock(full, address, client)
            wait_until(
                lambda: _running(full) and found.count() >= 0, bool, deadline=120, what=full, pause=0.2
            )
            yield found


def _configuration(name: str, changes: Mapping[str, str]) -> Path:
    """Write Debian's configuration for this container: the lab's without what makes it a primary."""
    folder = FOLDER / "stock" / name
    folder.mkdir(parents=True, exist_ok=True)
    text = run(["docker", "run", "--rm", LAB_IMAGE, "cat", "/etc/orthanc/orthanc.json"]).decode()
    wanted = {"LuaScripts": "[ ]", "Plugins": "[ ]"} | dict(changes)
    for option, value in wanted.items():
        pattern = rf'^  "{option}" : (\[[^]]*\]|[^,\n]*)'
        text, found = re.subn(pattern, f'  "{option}" : {value}', text, count=1, flags=re.MULTILINE)
        if not found:
            # An option of a plugin, or one that Debian leaves out: said at the beginning.
            text = text.replace("{", f'{{\n  "{option}" : {value},', 1)
    (folder / "orthanc.json").write_text(text, encoding="utf-8")
    return folder


def _running(full: str) -> bool:
    if run(["docker", "inspect", "--format", "{{.State.Running}}", full]).decode().strip() != "true":
        log = run(["docker", "logs", "--tail", "20", full]).decode("utf-8", "replace")
        raise StackError(f"{full} ended: {log}")
    return True


@contextmanager
def sender(*networks: str) -> Iterator[Sender]:
    """Give a sender on some networks; it sees the bench's folder, and TCP_NODELAY is not set for it."""
    options = ["--network", networks[0], "--init", "--volume", f"{FOLDER}:{_INSIDE}:ro"]
    with container("sender", LAB_IMAGE, ["sleep", "infinity"], *options) as full:
        for further in networks[1:]:
            run(["docker", "network", "connect", further, full])
        yield Sender(full)


def inside(
    what: str,
    arguments: Mapping[str, object],
    *,
    attached: str,
    data: Path | None = None,
    secrets: str = "",
    timeout: float = 900,
) -> dict[str, Any]:
    """Run a module of tests.bench.inside in the appliance's image and return the JSON it prints last.

    Its state, storage area and vault lie on unnamed volumes, as an appliance's do; `secrets` is a volume.
    """
    options = [
        "--rm",
        "--name",
        f"{PROJECT}-{what}",
        "--label",
        _LABEL,
        "--network",
        attached,
        "--interactive",
    ]
    for folder in ("/var/lib/understudy", "/var/lib/orthanc/storage", "/var/lib/understudy-vault"):
        options += ["--volume", folder]
    options += ["--volume", f"{REPOSITORY / 'tests'}:/opt/bench/tests:ro", "--env", "TCP_NODELAY=1"]
    options += ["--env", "PYTHONPATH=/opt/understudy/plugins:/opt/bench", "--entrypoint", "python"]
    if data is not None:
        options += ["--volume", f"{data}:{_INSIDE}:ro"]
    if secrets:
        options += ["--volume", f"{secrets}:/run/secrets/s3:ro"]
    command = ["docker", "run", *options, IMAGE, "-B", "-m", f"tests.bench.inside.{what}"]
    try:
        printed = run(command, stdin=json.dumps(dict(arguments)).encode(), timeout=timeout).decode()
    finally:
        # Docker's client can end before the container, which removes itself when it ends.
        run(["docker", "rm", "--force", "--volumes", f"{PROJECT}-{what}"])
    answer: dict[str, Any] = json.loads(printed.strip().splitlines()[-1])
    return answer


@contextmanager
def paused(containers: Sequence[str]) -> Iterator[None]:
    """Keep containers from using the processor while another is measured."""
    with ExitStack() as stack:
        for name in containers:
            # A health check that begins just then makes the kernel's freezer give up: once more, then.
            wait_until(partial(_pause, name), bool, deadline=30, what=f"{name} paused")
            stack.callback(run, ["docker", "unpause", name])
        yield


def _pause(name: str) -> bool:
    run(["docker", "pause", name])
    return True


def address_of(full: str, attached: str) -> str:
    """Return the address of a container on a network."""
    (found,) = json.loads(run(["docker", "inspect", full]))
    return str(found["NetworkSettings"]["Networks"][attached]["IPAddress"])


def settle_disk() -> None:
    """Write back what earlier rounds left in the page cache, so that no later one pays for it."""
    os.sync()


def timed(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    began = time.monotonic()
    call()
    return time.monotonic() - began


def remove_leftovers() -> None:
    """Remove what a run that was killed left behind."""
    for kind, remove in (
        ("container", ["rm", "--force", "--volumes"]),
        ("volume", ["rm", "--force"]),
        ("network", ["rm"]),
    ):
        every = ["--all"] if kind == "container" else []
        found = run(["docker", kind, "ls", *every, "--quiet", "--filter", f"label={_LABEL}"]).decode().split()
        if found:
            run(["docker", kind, *remove, *found])


def _seen(path: Path) -> str:
    return f"{_INSIDE}/{path.relative_to(FOLDER)}"
