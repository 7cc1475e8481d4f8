"""Orthanc in a container whose data lies on a disk of the drills: ours with the plugin, and Debian's own.

The stock one is the negative control: Debian's package, Debian's configuration, and the forwarding script of
the Orthanc Book, as the lab's primary runs it. Its destination does not answer, as on the day of an outage.
"""

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.drills.checker import RestArchive
from tests.drills.disks import Disk, make_folder
from tests.drills.sender import Address, Sender, association
from tests.stack import IMAGE, StackError, run, wait_until

STOCK_IMAGE = os.environ.get("UNDERSTUDY_LAB_IMAGE", "understudy-lab:local")
OUR_USER, STOCK_USER = 10001, 995
DICOM_PORT, HTTP_PORT = 4242, 8042
START_DEADLINE = 180.0
STOP_DEADLINE = 120.0


@dataclass(frozen=True, slots=True)
class Product:
    """An Orthanc that the same drills are played with."""

    name: str
    user: int
    folders: Mapping[str, str]
    """Folders of its data on the disk, and where it expects them."""
    options: tuple[str, ...]
    """Of docker create, image and command included."""
    login: tuple[str, str] | None


def stock() -> Product:
    """Return Debian's Orthanc as the lab's primary has it."""
    return Product(
        name="stock",
        user=STOCK_USER,
        folders={"data": "/var/lib/orthanc"},
        options=("--user", "orthanc", STOCK_IMAGE, "Orthanc", "/etc/orthanc"),
        login=None,
    )


def ours(keys: Path) -> Product:
    """Return the appliance's Orthanc service with keys of its own, which are made here."""
    folder, state = make_folder(keys / "keys", OUR_USER), make_folder(keys / "state", OUR_USER)
    run(
        [
            *("docker", "run", "--rm", "--user", f"{OUR_USER}:{OUR_USER}", "--network", "none"),
            *("--volume", f"{folder}:/var/lib/understudy-keys", "--volume", f"{state}:/var/lib/understudy"),
            *("--entrypoint", "understudy", IMAGE, "init"),
        ]
    )
    return Product(
        name="understudy",
        user=OUR_USER,
        folders={"index": "/var/lib/orthanc/index", "storage": "/var/lib/orthanc/storage"},
        # As docker/compose.yml confines the service.
        options=(
            *("--user", f"{OUR_USER}:{OUR_USER}", "--read-only", "--cap-drop", "ALL"),
            *("--security-opt", "no-new-privileges:true", "--env", "TCP_NODELAY=1", "--memory", "2g"),
            *("--tmpfs", "/tmp:mode=1777,size=256m"),
            *("--tmpfs", f"/run/orthanc:uid={OUR_USER},gid={OUR_USER},mode=0700,size=16m"),
            *("--volume", f"{folder}:/var/lib/understudy-keys:ro", IMAGE, "orthanc"),
        ),
        login=("agent", (folder / "service" / "agent").read_text().strip()),
    )


class Server:
    """One container of a product; made by `installed`, with the data on the disks that are given."""

    def __init__(self, product: Product, name: str) -> None:
        self.product = product
        self.container = name
        self._client: httpx.Client | None = None
        self._address = ""

    @classmethod
    @contextmanager
    def installed(
        cls, product: Product, disks: Mapping[str, Disk] | Disk, *, name: str
    ) -> Iterator["Server"]:
        """Make the container, one disk for all folders or one for each, and remove it afterwards."""
        server = cls(product, name)
        volumes: list[str] = []
        for folder, inside in product.folders.items():
            disk = disks if isinstance(disks, Disk) else disks[folder]
            volumes += ["--volume", f"{make_folder(disk.path / folder, product.user)}:{inside}"]
        server.remove()
        run(["docker", "create", "--name", name, *volumes, *product.options])
        try:
            yield server
        finally:
            server.remove()

    def start(self) -> float:
        """Start it, wait until it takes instances, and return how many seconds that took."""
        begin = time.monotonic()
        self._restart("unless-stopped")
        run(["docker", "start", self.container])
        self._close()
        self._address = self._inspect("{{.NetworkSettings.IPAddress}}")
        try:
            wait_until(self._takes, bool, deadline=START_DEADLINE, what=f"{self.container} up", pause=0.05)
        except StackError as error:
            raise StackError(f"{error}\n{self.logs()}") from error
        return time.monotonic() - begin

    def crash(self) -> None:
        """End the server's process by SIGKILL, if it runs, without waiting for its end."""
        # Docker says 0 for a container that has ended, which to kill(2) is our own process group.
        if (pid := self.pid) > 0:
            os.kill(pid, signal.SIGKILL)

    def ended(self) -> None:
        """Wait until the container has ended."""
        wait_until(
            lambda: self._inspect("{{.State.Running}}"),
            lambda running: running == "false",
            deadline=STOP_DEADLINE,
            what=f"{self.container} ended",
            pause=0.05,
        )

    def off(self, sender: Sender) -> None:
        """End server and sender for good, for a person to work on the disks."""
        self._restart("no")
        sender.finish()
        self.crash()
        self.ended()

    def power_cut(self, disks: Sequence[Disk], sender: Sender) -> float:
        """Cut the power of server and disks under the sender's load, and return the moment.

        The disks are back afterwards, the server is not. Of several disks the one with the index comes first:
        what is acknowledged has been written to it last.
        """
        self._restart("no")
        moment = time.monotonic()
        with ExitStack() as cut:
            for disk in disks:
                cut.enter_context(disk.without_power())
            self.crash()
            # Their next answer would be a broken connection.
            sender.finish()
        self.ended()
        for disk in disks:
            disk.restored()
        return moment

    @property
    def pid(self) -> int:
        """The server's process as this machine sees it."""
        return int(self._inspect("{{.State.Pid}}"))

    @property
    def dicom(self) -> Address:
        """Where it takes instances."""
        return self._address, DICOM_PORT

    @property
    def archive(self) -> RestArchive:
        """What it has."""
        return RestArchive(self.client)

    @property
    def client(self) -> httpx.Client:
        """Its REST API."""
        if self._client is None:
            self._client = httpx.Client(
                base_url=f"http://{self._address}:{HTTP_PORT}", auth=self.product.login, timeout=60
            )
        return self._client

    def logs(self) -> str:
        """Return the last lines of its log."""
        return run(["bash", "-c", f"docker logs --tail 60 {self.container} 2>&1"]).decode("utf-8", "replace")

    def remove(self) -> None:
        """Remove the container, running or not."""
        self._close()
        run(["docker", "rm", "--force", "--volumes", self.container])

    def _restart(self, policy: str) -> None:
        """Restart by itself what crashes, as docker/compose.yml has it, but not what has no power."""
        run(["docker", "update", "--restart", policy, self.container])

    def _inspect(self, what: str) -> str:
        return run(["docker", "inspect", "--format", what, self.container]).decode().strip()

    def _takes(self) -> bool:
        self.client.get("/system").raise_for_status()
        with association(self.dicom, 5) as store:
            return store is not None

    def _close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
