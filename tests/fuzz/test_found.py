"""What the fuzzer found once is tried every time."""

import base64
import io
import time
from pathlib import Path

import pytest
from understudy.adapters.storage import StorageArea

from tests import hostile
from tests.fuzz.targets import ACCEPTANCE, targets


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("identity", base64.b64decode("QmFzaWMgWVdkc2n//////////2FkbWluCmFkbWn/")),
        ("users", b"userlist understudy\n    group addmin\n"),
        # An acceptance, and a P-DATA-TF without any presentation data value.
        ("association", ACCEPTANCE + bytes([4, 0, 0, 0, 0, 0])),
    ],
)
def test_found_input_breaks_no_promise(name: str, content: bytes) -> None:
    targets()[name].run(content)


def test_facts_of_a_file_that_calls_itself_deflated_are_not_read() -> None:
    """The file decides how pydicom reads it, whatever the index says: a bomb would be inflated."""
    storage = StorageArea(Path("/nowhere"))
    honest = hostile.good("facts").content
    facts = storage.study_facts(io.BytesIO(honest), hostile.EXPLICIT)
    assert facts is not None
    assert facts.patient_id == hostile.CANARY_ID
    (bomb,) = [item for item in hostile.corpus("facts", 2**22) if item.name == "deflate-bomb"]
    assert storage.study_facts(io.BytesIO(bomb.content), hostile.EXPLICIT) is None


def test_facts_of_every_hostile_file_are_read_within_limits() -> None:
    storage = StorageArea(Path("/nowhere"))
    read, slowest = 0, 0.0
    for item in hostile.corpus("facts", 2**22):
        began = time.process_time()
        read += storage.study_facts(io.BytesIO(item.content), item.transfer_syntax) is not None
        slowest = max(slowest, time.process_time() - began)
    assert read > 40
    assert slowest < 1
