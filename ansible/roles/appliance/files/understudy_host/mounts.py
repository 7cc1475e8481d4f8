"""Tells what is mounted, by the kernel's table, and what is to be, by fstab."""

import os
from collections.abc import Iterable
from pathlib import Path

from understudy_host.places import Places

MOUNTS, FSTAB = Path("/proc/self/mounts"), Path("/etc/fstab")


def mounted_below(folder: Path, mounts: Path = MOUNTS) -> list[Path]:
    """Return every mount point in a folder."""
    return [point for point in _points(mounts) if folder in point.parents]


def not_mounted(disks: Iterable[Path], fstab: Path = FSTAB, mounts: Path = MOUNTS) -> list[Path]:
    """Return which of the disks are to be mounted at every start, and are not now."""
    return [disk for disk in disks if disk in _points(fstab) and disk not in _points(mounts)]


def vault_is_away(places: Places) -> bool:
    """Whether the disk or share of a vault in a folder is not mounted, or has no folder for it."""
    if not_mounted([places.data / "vault"]):
        return True
    # Not Path.is_dir, which raises where a disk cannot be read: that is no vault either.
    return not os.path.isdir(places.volume("vault"))


def _points(table: Path) -> list[Path]:
    # A line that only a person can read must not keep the appliance from its start.
    text = table.read_text(encoding="utf-8", errors="replace") if table.exists() else ""
    lines = [line.split() for line in text.splitlines()]
    return [Path(fields[1]) for fields in lines if len(fields) > 1 and not fields[0].startswith("#")]
