"""Reads how much memory this container may take."""

import re
from pathlib import Path

_CGROUP_FILES = ("memory.max", "memory/memory.limit_in_bytes")
"""Of cgroup version 2 and 1, below the folder."""
_TOTAL = re.compile(r"^MemTotal:\s+(\d+) kB$", re.MULTILINE)


def own_limit(cgroup: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return the bytes that this container may take: the machine's memory where no lower limit is set.

    Raises OSError where the machine's memory cannot be read, ValueError where it is not told.
    """
    (total,) = _TOTAL.findall(meminfo.read_text(encoding="ascii"))
    found = [int(total) * 2**10]
    for name in _CGROUP_FILES:
        try:
            found.append(int((cgroup / name).read_text(encoding="ascii")))
        except (OSError, ValueError):
            # The other version of cgroups, or "max".
            continue
    return min(found)
