"""A large file passes each part of the agent, whose memory does not grow with it."""

from pathlib import Path

import pytest

from tests.large import WAYS, growth

MEGABYTES = 75


@pytest.mark.parametrize("way", list(WAYS))
def test_large_file_passes_in_pieces(way: str, tmp_path: Path) -> None:
    assert growth(way, MEGABYTES, tmp_path) < MEGABYTES / 5
