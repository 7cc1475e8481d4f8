"""Reads how much memory this container may take."""

import re
from pathlib import Path

_CGROUP_FILES = ("memory.max", "memory/memory.limit_in_bytes")
"""Files with the limit below the cgroup folder, for cgroup version 2 and 1."""
_TOTAL = re.compile(r"^MemTotal:\s+(\d+) kB$", re.MULTILINE)


def own_limit(cgroup: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")) -> int:
    """Return the memory limit of this container in bytes; without a lower limit, the machine's memory.

    Raises OSError if `meminfo` cannot be read, ValueError if it does not tell the machine's memory.
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
