"""The memory of a container, as every service and Orthanc's plugin read it."""

from pathlib import Path

import pytest
from understudy.plugin.memory import own_limit

GIB = 2**30


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("memory.max", "2147483648\n", 2 * GIB),
        ("memory.max", "max\n", 8 * GIB),
        ("memory.max", "", 8 * GIB),
        ("memory/memory.limit_in_bytes", "1073741824\n", GIB),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", 8 * GIB),
        ("something.else", "1\n", 8 * GIB),
    ],
)
def test_own_limit_is_that_of_either_version_of_cgroups_or_the_machines(
    tmp_path: Path, name: str, text: str, expected: int
) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / name).write_text(text)
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal:       {8 * GIB // 1024} kB\nMemFree: 1 kB\n")
    assert own_limit(tmp_path, meminfo) == expected


def test_own_limit_without_the_machines_memory_is_an_error(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemFree: 1 kB\n")
    with pytest.raises(ValueError, match="values"):
        own_limit(tmp_path, meminfo)
