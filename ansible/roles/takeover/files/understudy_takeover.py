"""Follows the appliance's mode: from promote to settle it holds the address that devices call, or runs hooks.

Rule 1: an address is never taken while another host answers for it. An ARP probe (RFC 5227) asks just before.
Hooks may move the address to another host, which then answers for it, so they are preceded by a probe only
before their first attempt.
Rule 2: while the agent does not answer, nothing changes: the agent may restart in the middle of an outage.
Rule 3: a file on disk says which address is held, so a restart neither takes nor gives it twice. After a boot
of the host the address is taken again, because its setup is lost.
Rule 4: a fault becomes an alarm of the appliance, because the person who promotes looks there, not in this
host's log.
"""

import argparse
import http.client
import ipaddress
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from understudy_host.alarms import Alarm, tell
from understudy_host.places import HostError, Places
from understudy_host.supervise import notify
from understudy_host.volumes import connect

AGENT = Path("/srv/understudy/sockets/data/agent.sock")
HOLDING_MODES = frozenset({"active", "returning"})
LOOK_SECONDS = 0.3
_LARGEST_ANSWER = 64 * 2**20
PROBES = 3
PROBE_SECONDS = 0.2
RETRY_SECONDS = 5
"""Between two attempts while another host answers for the address or a hook fails."""
WATCH_SECONDS = 5
"""Between two checks whether another host has the address that is held."""


class Step(Enum):
    """The next act."""

    NOTHING = "nothing"
    TAKE = "take"
    GIVE = "give"


class Held(Enum):
    """Whether the address is held, or the hook was run."""

    NO = "no"
    BEFORE = "before"
    """Taken only in part, another address, or taken before the host's boot, so that the setup is lost."""
    YES = "yes"


def step(mode: str | None, held: Held) -> Step:
    """Return the act that the mode requires; the mode is None if the agent did not answer."""
    if mode is None:
        return Step.NOTHING
    if mode in HOLDING_MODES:
        return Step.NOTHING if held is Held.YES else Step.TAKE
    return Step.NOTHING if held is Held.NO else Step.GIVE


class _Agent(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(2)
        connect(self.sock, AGENT.parent, AGENT.name)


def mode() -> str | None:
    """Return the appliance's mode, or None if the agent does not answer.

    The agent answers the mode from memory. An older version of the agent, after a rollback, lacks that call
    and is asked for the whole status.
    """
    try:
        return _asked("/understudy/mode")
    except UnknownCallError:
        with suppress(UnknownCallError):
            return _asked("/understudy/status")
    return None


class UnknownCallError(Exception):
    """The agent has no such call."""


def _asked(path: str) -> str | None:
    connection = _Agent("localhost")
    try:
        connection.request(
            "GET", path, headers={"X-Understudy-User": "takeover", "X-Understudy-Role": "reader"}
        )
        answer = connection.getresponse()
        if answer.status == http.HTTPStatus.NOT_FOUND:
            raise UnknownCallError
        return str(json.loads(answer.read(_LARGEST_ANSWER))["mode"])
    except (OSError, ValueError, KeyError, HostError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def owner(interface: str, address: str) -> str | None:
    """Return the MAC address of the host that answers for an IPv4 address, or None if no host does."""
    wanted = ipaddress.IPv4Address(address).packed
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as line:
        line.bind((interface, 0x0806))
        own = line.getsockname()[4]
        # An Ethernet broadcast with an ARP request from 0.0.0.0, which changes no ARP table.
        probe = struct.pack(
            "!6s6sHHHBBH6s4s6s4s",
            b"\xff" * 6,
            own,
            0x0806,
            1,
            0x0800,
            6,
            4,
            1,
            own,
            bytes(4),
            bytes(6),
            wanted,
        )
        for _ in range(PROBES):
            line.send(probe)
            end = time.monotonic() + PROBE_SECONDS
            while (left := end - time.monotonic()) > 0:
                line.settimeout(left)
                try:
                    frame = line.recv(128)
                except TimeoutError:
                    break
                if len(frame) >= 42 and frame[28:32] == wanted and frame[22:28] != own:
                    return frame[22:28].hex(":")
    return None


@dataclass(frozen=True, slots=True)
class Holder:
    """Takes the address and gives it back, by keepalived or by hooks."""

    take: Callable[[], None]
    give: Callable[[], None]
    interface: str
    address: str
    state: Path
    """Folder on the disk."""
    runtime: Path
    """Folder that a boot of the host empties."""
    elsewhere: bool = False
    """Whether another host may have the address once it is taken."""

    @property
    def held(self) -> Held:
        begun, done = self._begun, (self.runtime / "held").exists()
        if begun is None and not done:
            return Held.NO
        return Held.YES if done and begun == self._what else Held.BEFORE

    @property
    def _begun(self) -> str | None:
        path = self.state / "held"
        return path.read_text(encoding="utf-8") if path.exists() else None

    @property
    def _what(self) -> str:
        return f"{self.interface} {self.address}\n"

    def follow(self, told: str | None) -> Alarm | None:
        """Do the act that the mode requires, or return an alarm that says why it is not done."""
        match step(told, self.held):
            case Step.TAKE:
                again = self.elsewhere and self._begun == self._what
                if not again and (somebody := self._somebody_else()) is not None:
                    return Alarm(
                        f"the address {self.address} is not taken over: {somebody} answers for it",
                        "take the old PACS off the network",
                    )
                (self.runtime / "held").unlink(missing_ok=True)
                try:
                    # Written first, so that an address that was taken only in part is given back, too.
                    (self.state / "held").write_text(self._what, encoding="utf-8")
                finally:
                    # Done even if the disk cannot be written.
                    self.take()
                    (self.runtime / "held").touch()
                print(f"takeover taken address={self.address or '-'} mode={told}", flush=True)
            case Step.GIVE:
                self.give()
                (self.runtime / "held").unlink(missing_ok=True)
                (self.state / "held").unlink(missing_ok=True)
                print(f"takeover given address={self.address or '-'} mode={told}", flush=True)
            case Step.NOTHING:
                pass
        return None

    def watch(self) -> Alarm | None:
        """Return an alarm if another host has the address that is held."""
        if self.elsewhere or self.held is not Held.YES or (somebody := self._somebody_else()) is None:
            return None
        return Alarm(
            f"two hosts have the address {self.address}: this one, and {somebody}",
            "remove it from the other host until settle, which gives it back",
        )

    def _somebody_else(self) -> str | None:
        return owner(self.interface, self.address) if self.address else None


def keepalived(interface: str, address: str, runtime: Path, state: Path) -> Holder:
    """Return a holder that controls keepalived by the file of a weight that keepalived tracks."""
    weight = runtime / "weight"

    def write(value: int) -> None:
        # In place, because keepalived watches this file.
        weight.write_text(f"{value}\n", encoding="ascii")

    holder = Holder(lambda: write(0), lambda: write(-254), interface, address, state, runtime)
    # The address must not be taken before a probe.
    if holder.held is not Held.YES:
        write(-254)
    return holder


def hooks(interface: str, address: str, folder: Path, runtime: Path, state: Path) -> Holder:
    """Return a holder that runs the site's scripts; CalledProcessError if one fails."""

    def run(name: str) -> None:
        script = folder / name
        if script.exists():
            subprocess.run([script, address], check=True, timeout=120)

    return Holder(
        lambda: run("promote"), lambda: run("demote"), interface, address, state, runtime, elsewhere=True
    )


def look(holder: Holder, told: str | None, *, watch: bool) -> Alarm | None:
    """Do the act that the mode requires, and return an alarm if there is a fault, such as a failed hook."""
    try:
        return holder.follow(told) or (holder.watch() if watch else None)
    except (OSError, subprocess.SubprocessError) as error:
        return Alarm(f"the takeover fails: {error}", "`journalctl --unit understudy-takeover` says more")


def main(arguments: list[str]) -> int:
    """Follow the mode until the service ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=["keepalived", "hooks"], required=True)
    parser.add_argument("--interface", required=True)
    parser.add_argument("--address", default="", help="with its prefix length")
    parsed = parser.parse_args(arguments)
    address = parsed.address.partition("/")[0]
    state, runtime = Path(os.environ["STATE_DIRECTORY"]), Path(os.environ["RUNTIME_DIRECTORY"])
    if parsed.method == "keepalived":
        holder = keepalived(parsed.interface, address, runtime, state)
    else:
        holder = hooks(parsed.interface, address, Path("/etc/understudy/takeover"), runtime, state)
    # keepalived, which systemd starts after this service, now finds the weight.
    notify("READY=1")
    present: Sequence[Alarm] = ()
    watched = 0.0
    while True:
        told = mode()
        if told is None:
            time.sleep(LOOK_SECONDS)
            continue
        watch = bool(present) or time.monotonic() - watched >= WATCH_SECONDS
        wrong = look(holder, told, watch=watch)
        watched = time.monotonic() if watch else watched
        found = (wrong,) if wrong else () if watch else present
        if found != present:
            print(f"takeover {found[0].what}: {found[0].hint}" if found else "takeover in order", flush=True)
        present = found
        # A disk that cannot be written is no reason to give the address up; the next round writes the alarm.
        with suppress(OSError):
            tell(Places(), "takeover", present)
        time.sleep(RETRY_SECONDS if present else LOOK_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
