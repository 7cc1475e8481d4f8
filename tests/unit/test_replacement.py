"""A whole file in the place of a damaged one: a crash between any two steps, and modalities that send."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from understudy.adapters.healing import Replacement
from understudy.adapters.orthanc import Orthanc
from understudy.core.ports import OrthancUnavailableError

IDENTIFIER, DAMAGED = "11111111-22222222", "aaaa-damaged"
WHOLE, NEWER = b"whole", b"newer"


class SmallOrthanc:
    """Lists one instance at most; `calls` says how many more calls it answers."""

    def __init__(self) -> None:
        self.file: str | None = DAMAGED
        self.content = b"damaged"
        self.calls = 100

    def file_of(self, orthanc_id: str) -> str | None:
        self._answer(orthanc_id)
        return self.file

    def delete(self, orthanc_id: str) -> None:
        self._answer(orthanc_id)
        self.file, self.content = None, b""

    def store_again(self, content: BinaryIO, size: int) -> None:
        self._answer(IDENTIFIER)
        self.file, self.content = f"stored-{self.calls}", content.read(size)

    def _answer(self, orthanc_id: str) -> None:
        assert orthanc_id == IDENTIFIER
        if self.calls == 0:
            raise OrthancUnavailableError("it is away")
        self.calls -= 1


@pytest.fixture
def orthanc() -> SmallOrthanc:
    return SmallOrthanc()


@pytest.fixture
def replacement(orthanc: SmallOrthanc, tmp_path: Path) -> Iterator[Replacement]:
    yield Replacement(cast("Orthanc", orthanc), tmp_path / "heal", lambda _: None)
    assert list((tmp_path / "heal").iterdir()) == [], "nothing waits for another resume"


@pytest.mark.parametrize("calls", [0, 1, 2, 3])
def test_a_crash_after_any_step_ends_with_the_whole_file(
    orthanc: SmallOrthanc, replacement: Replacement, calls: int
) -> None:
    orthanc.calls = calls
    if calls < 3:
        with pytest.raises(OrthancUnavailableError):
            replacement.put(IDENTIFIER, DAMAGED, BytesIO(WHOLE))
    else:
        assert replacement.put(IDENTIFIER, DAMAGED, BytesIO(WHOLE))
    orthanc.calls = 100
    assert replacement.resume() == (calls < 3)
    assert orthanc.content == WHOLE


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_newer_content_that_came_after_the_crash_stays(
    orthanc: SmallOrthanc, replacement: Replacement, calls: int
) -> None:
    orthanc.calls = calls
    with pytest.raises(OrthancUnavailableError):
        replacement.put(IDENTIFIER, DAMAGED, BytesIO(WHOLE))
    orthanc.calls = 100
    orthanc.store_again(BytesIO(NEWER), len(NEWER))
    replacement.resume()
    assert orthanc.content == NEWER


def test_a_newer_content_that_came_before_is_not_replaced(
    orthanc: SmallOrthanc, replacement: Replacement
) -> None:
    orthanc.store_again(BytesIO(NEWER), len(NEWER))
    assert not replacement.put(IDENTIFIER, DAMAGED, BytesIO(WHOLE))
    assert orthanc.content == NEWER
