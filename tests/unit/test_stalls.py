"""What a machine that stalls excuses has a limit, and one that does not excuses next to nothing."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stack import wait_until
from tests.stalls import Stalls


def synced(monkeypatch: pytest.MonkeyPatch, folder: Path, sync: Callable[[int], None]) -> float:
    """Return the allowance after some syncs."""
    seen: list[int] = []

    def fsync(descriptor: int) -> None:
        sync(descriptor)
        seen.append(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with Stalls(folder) as stalls:
        wait_until(lambda: len(seen), lambda number: number >= 3, deadline=60, what="syncs", pause=0.01)
    return stalls.allowance


def test_slow_sync_is_excused_for_each_of_a_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert 0.3 <= synced(monkeypatch, tmp_path, lambda _: time.sleep(0.1)) <= 2


def test_no_more_than_two_seconds_are_excused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert synced(monkeypatch, tmp_path, lambda _: time.sleep(0.8)) == 2
