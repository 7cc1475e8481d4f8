"""Follows the appliance's mode: from promote to settle it holds the address that devices call, or runs hooks.

Rule 1: an address that somebody answers for is never taken. It is asked for by ARP just before (RFC 5227).
Rule 2: while the agent does not answer, everything stays as it is: it may restart in the middle of an outage.
Rule 3: what is held is told by a file on the disk, so that a restart neither takes nor gives twice.
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
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

AGENT = Path("/srv/understudy/sockets/data/agent.sock")
HOLDING_MODES = frozenset({"active", "returning"})
LOOK_SECONDS = 0.3
PROBES = 3
PROBE_SECONDS = 0.2
RETRY_SECONDS = 5
"""Between two attempts where the address is alive, or a hook fails."""


class Step(Enum):
    """What is to be done now."""

    NOTHING = "nothing"
    TAKE = "take"
    GIVE = "give"


def step(mode: str | None, held: bool) -> Step:
    """Return what the mode asks for; None where the agent did not tell it."""
    if mode is None or (mode in HOLDING_MODES) == held:
        return Step.NOTHING
    return Step.GIVE if held else Step.TAKE


class _Agent(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(2)
        self.sock.connect(str(AGENT))


def mode() -> str | None:
    """Return the appliance's mode, or None where the agent does not answer."""
    connection = _Agent("localhost")
    try:
        connection.request(
            "GET",
            "/understudy/status",
            headers={"X-Understudy-User": "takeover", "X-Understudy-Role": "reader"},
        )
        return str(json.loads(connection.getresponse().read())["mode"])
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def owner(interface: str, address: str) -> str | None:
    """Return the MAC address of whoever answers for an IPv4 address, or None where nobody does."""
    wanted = ipaddress.IPv4Address(address).packed
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as line:
        line.bind((interface, 0x0806))
        own = line.getsockname()[4]
        # Ethernet to everybody, then an ARP request of 0.0.0.0: it changes nobody's table.
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
    """How the address, or whatever stands for it, is taken and given back."""

    take: Callable[[], None]
    give: Callable[[], None]
    interface: str
    address: str
    mark: Path
    """There while it is held."""

    @property
    def held(self) -> bool:
        return self.mark.exists()

    def follow(self, told: str | None) -> bool:
        """Do what the mode asks for, and return whether it is done."""
        match step(told, self.held):
            case Step.TAKE:
                somebody = owner(self.interface, self.address) if self.address else None
                if somebody is not None:
                    print(
                        f"takeover refused address={self.address} because={somebody} answers for it: "
                        "take the old PACS off the network",
                        flush=True,
                    )
                    return False
                self.take()
                self.mark.touch()
                print(f"takeover taken address={self.address or '-'} mode={told}", flush=True)
            case Step.GIVE:
                self.give()
                self.mark.unlink()
                print(f"takeover given address={self.address or '-'} mode={told}", flush=True)
            case Step.NOTHING:
                pass
        return True


def keepalived(interface: str, address: str, runtime: Path, state: Path) -> Holder:
    """Return a holder that tells keepalived by the weight that it tracks."""
    weight = runtime / "weight"

    def write(value: int) -> None:
        # In place, because keepalived watches this very file.
        weight.write_text(f"{value}\n", encoding="ascii")

    holder = Holder(lambda: write(0), lambda: write(-254), interface, address, state / "held")
    # After a start of the host nothing is held until somebody has looked who has the address.
    if not weight.exists():
        holder.mark.unlink(missing_ok=True)
        write(-254)
    return holder


def hooks(interface: str, address: str, folder: Path, state: Path) -> Holder:
    """Return a holder that runs the site's scripts; CalledProcessError where one fails."""

    def run(name: str) -> None:
        script = folder / name
        if script.exists():
            subprocess.run([script, address], check=True, timeout=120)

    return Holder(lambda: run("promote"), lambda: run("demote"), interface, address, state / "held")


def main(arguments: list[str]) -> int:
    """Follow the mode until the service ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", choices=["keepalived", "hooks"], required=True)
    parser.add_argument("--interface", required=True)
    parser.add_argument("--address", default="", help="with its prefix length")
    parsed = parser.parse_args(arguments)
    address = parsed.address.partition("/")[0]
    state = Path(os.environ["STATE_DIRECTORY"])
    if parsed.method == "keepalived":
        holder = keepalived(parsed.interface, address, Path(os.environ["RUNTIME_DIRECTORY"]), state)
    else:
        holder = hooks(parsed.interface, address, Path("/etc/understudy/takeover"), state)
    while True:
        try:
            done = holder.follow(mode())
        except (OSError, subprocess.SubprocessError) as error:
            print(f"takeover failed: {error}", flush=True)
            done = False
        time.sleep(LOOK_SECONDS if done else RETRY_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
