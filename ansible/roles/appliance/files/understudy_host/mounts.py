"""Tells what is mounted, by the kernel's table, and what should be mounted, by fstab."""

import os
from collections.abc import Iterable
from pathlib import Path

from understudy_host.places import Places

MOUNTS, FSTAB = Path("/proc/self/mounts"), Path("/etc/fstab")


def mounted_below(folder: Path, mounts: Path = MOUNTS) -> list[Path]:
    """Return every mount point below a folder."""
    return [point for point in _points(mounts) if folder in point.parents]


def not_mounted(disks: Iterable[Path], fstab: Path = FSTAB, mounts: Path = MOUNTS) -> list[Path]:
    """Return which of the disks fstab lists and the kernel does not."""
    return [disk for disk in disks if disk in _points(fstab) and disk not in _points(mounts)]


def vault_is_away(places: Places) -> bool:
    """Return whether a directory vault's disk or share is not mounted, or lacks the vault's folder."""
    if not_mounted([places.data / "vault"]):
        return True
    # Not Path.is_dir, which raises if a disk cannot be read; then the vault is away, too.
    return not os.path.isdir(places.volume("vault"))


def _points(table: Path) -> list[Path]:
    # A line with an unknown encoding must not prevent the appliance's start.
    text = table.read_text(encoding="utf-8", errors="replace") if table.exists() else ""
    lines = [line.split() for line in text.splitlines()]
    return [Path(fields[1]) for fields in lines if len(fields) > 1 and not fields[0].startswith("#")]
