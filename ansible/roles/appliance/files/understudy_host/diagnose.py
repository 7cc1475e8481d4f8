"""Collects information for finding a fault, without secrets and without attributes of patients.

Rule 1: only the items listed here are collected. From the configuration that is understudy.json, which has no
secrets. The logs are those of our own units and services, which name no patient.
"""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from understudy_host.compose import run
from understudy_host.places import HostError, Places

_COMPOSE = ("docker", "compose", "--ansi", "never", "--project-directory", "/opt/understudy")

COMMANDS: Mapping[str, Sequence[str]] = {
    "versions": ("uname", "-a"),
    "packages": (
        "dpkg-query",
        "--show",
        "docker.io",
        "docker-compose",
        "chrony",
        "nftables",
        "openssh-server",
    ),
    "units": (
        "systemctl",
        "--no-pager",
        "list-units",
        "--all",
        "understudy*",
        "docker*",
        "chrony*",
        "nftables*",
    ),
    "failed": ("systemctl", "--no-pager", "list-units", "--failed"),
    "timers": ("systemctl", "--no-pager", "list-timers", "--all"),
    "disks": ("df", "--human-readable", "--output"),
    "mounts": ("findmnt", "--real"),
    "memory": ("free", "--mebi"),
    "addresses": ("ip", "-brief", "address"),
    "firewall": ("nft", "list", "table", "inet", "understudy"),
    "time": ("chronyc", "-n", "tracking"),
    "services": (*_COMPOSE, "ps", "--all"),
    "status": (*_COMPOSE, "exec", "--no-TTY", "agent", "understudy", "status", "--json"),
    "operations": (*_COMPOSE, "exec", "--no-TTY", "agent", "understudy", "operations", "--json"),
    "agent.log": (*_COMPOSE, "logs", "--no-color", "--timestamps", "--tail", "2000", "agent"),
    "edge.log": (*_COMPOSE, "logs", "--no-color", "--timestamps", "--tail", "2000", "edge"),
    "orthanc.log": (*_COMPOSE, "logs", "--no-color", "--timestamps", "--tail", "2000", "orthanc"),
    "host.log": ("journalctl", "--no-pager", "--lines", "500", "--unit", "understudy*"),
}


def diagnose(places: Places, target: Path) -> list[str]:
    """Write the archive and return the names of the items that failed; the archive says so, too."""
    failed = []
    with tarfile.open(target, "w:gz") as archive:
        for name, command in COMMANDS.items():
            try:
                content = run(command, timeout=60)
            except HostError as error:
                failed.append(name)
                content = f"not to be had: {error}\n".encode()
            _add(archive, name, content)
        _add(archive, "understudy.json", (places.configuration / "understudy.json").read_bytes())
    target.chmod(0o600)
    return failed


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(f"diagnostics/{name}")
    entry.size, entry.mode = len(content), 0o600
    archive.addfile(entry, io.BytesIO(content))
