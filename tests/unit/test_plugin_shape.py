"""What would end Orthanc is told by its headers alone, and everything else is left to Orthanc."""

import gzip
import struct
import time
import warnings
from pathlib import Path

import pydicom
import pytest
from understudy.plugin import shape

from tests import bombs, hostile

BOMB = 2**28

REFUSED = {
    *(f"4gb-{name}" for name in ("pixels", "private", "text")),
    *("deflate-bomb", "nested-by-length-100"),
    *(f"nested-{depth}" for depth in hostile.DEPTHS if depth > shape.MAX_DEPTH),
    # Cut within an element: Orthanc would answer 400 to these.
    *(f"truncated-{place}" for place in ("meta", "name", "half-pixels", "last-byte")),
}


def test_fault_of_every_hostile_file_is_found_in_time() -> None:
    found, slowest = set(), 0.0
    for item in hostile.corpus("shape", BOMB):
        began = time.process_time()
        if shape.fault(item.content) is not None:
            found.add(item.name)
        slowest = max(slowest, time.process_time() - began)
    assert found == REFUSED
    assert slowest < 2


def test_fault_is_none_for_every_file_of_pydicom() -> None:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    looked_at = 0
    for path in sorted(folder.rglob("*.dcm")):
        content = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                pydicom.dcmread(path, defer_size=1024)
            except Exception:  # noqa: BLE001 - what pydicom cannot read is no valid file
                continue
        fault = shape.fault(content)
        # pydicom reads more than is there: such a file ends within an element.
        assert fault is None or "claims" in fault, path.name
        looked_at += 1
        if fault:
            assert path.name in SHORT, path.name
    assert looked_at > 60


SHORT = frozenset(
    {
        "MR_truncated.dcm",
        "rtplan_truncated.dcm",
        "SC_rgb_jpeg.dcm",
        "bad_sequence.dcm",
        "empty_charset_LEI.dcm",
    }
)
"""Files that really end within an element."""


@pytest.mark.parametrize("depth", [shape.MAX_DEPTH, shape.MAX_DEPTH + 1])
@pytest.mark.parametrize("implicit", [False, True])
def test_fault_draws_the_line_at_the_greatest_depth(depth: int, implicit: bool) -> None:
    if implicit:
        item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
        begin = struct.pack("<HHI", 0x0008, 0x4011, 0xFFFFFFFF)
        end = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
        content = hostile.header("1.2.3", "1.2.840.10008.1.2") + (begin + item) * depth + end * depth
    else:
        content = hostile.header("1.2.3") + hostile.nested(depth)
    assert (shape.fault(content) is None) == (depth == shape.MAX_DEPTH)


@pytest.mark.parametrize("hidden", bombs.HIDDEN)
def test_fault_is_found_behind_whatever_dcmtk_reads(hidden: str) -> None:
    before = b"".join(whole for whole in bombs.HIDDEN[hidden].values() if whole is not None)
    deep = hostile.nested(shape.MAX_DEPTH + 1)
    assert shape.fault(hostile.header("1.2.3") + before + deep) is not None


def test_fault_names_no_value() -> None:
    for item in hostile.corpus("named", BOMB):
        told = shape.fault(item.content) or ""
        assert not any(canary in told for canary in hostile.CANARIES)


def test_gzip_is_none_of_its_business() -> None:
    assert shape.fault(gzip.compress(hostile.good("gzip").content)) is None
