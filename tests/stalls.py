"""How long this machine itself keeps its programs waiting, measured beside what the product is measured for.

The tests share processors and disk with whatever else runs. What a small synced write has to wait for, an
image that is answered once it is on disk has to wait for as well, whatever the product does.
"""

import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Self

_PAUSE = 0.05
_SYNCS = 3
"""Of one store, one after the other: file, folder and index."""
_MOST = 2.0
"""Seconds that are excused at most: what holds intake holds it for longer."""


class Stalls:
    """Writes and syncs some bytes again and again while it is entered, and keeps the longest wait."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._over = threading.Event()
        self._longest = 0.0
        self._thread = threading.Thread(target=self._measure, daemon=True)

    def __enter__(self) -> Self:
        # What earlier tests wrote is not written back while something is measured.
        os.sync()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def allowance(self) -> float:
        """Seconds by which a store may have been answered later for the machine's sake."""
        return min(_SYNCS * self._longest, _MOST)

    def _measure(self) -> None:
        with tempfile.TemporaryFile(dir=self._folder, buffering=0) as file:
            while not self._over.is_set():
                began = time.monotonic()
                self._over.wait(_PAUSE)
                file.write(b"x")
                os.fsync(file.fileno())
                self._longest = max(self._longest, time.monotonic() - began - _PAUSE)
