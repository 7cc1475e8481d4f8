"""Unnamed temporary files for content that is too large for memory, such as a sealed pack.

Rule 1: nothing is left after a crash. The kernel removes an unnamed file when the last process closes it.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

IN_MEMORY = 2**24
"""Default size in bytes up to which a file stays in memory."""


class Spool:
    """Gives files that stay in memory up to a size, and go to a volume when they grow larger."""

    def __init__(self, folder: Path, in_memory: int) -> None:
        """`in_memory` is the size in bytes up to which a file stays in memory."""
        self.folder = folder
        self.in_memory = in_memory

    @contextmanager
    def file(self) -> Iterator[BinaryIO]:
        """Give an empty file; its content is gone at the end of the block."""
        with tempfile.SpooledTemporaryFile(self.in_memory, "w+b", dir=str(self.folder)) as file:
            yield cast(BinaryIO, file)

    def lacks_room(self, size: int) -> bool:
        """Return whether `size` bytes would take more than half of the free space on the volume."""
        if size <= self.in_memory:
            return False
        found = os.statvfs(self.folder)
        # The ledger grows on the same volume.
        return size > found.f_bavail * found.f_frsize // 2
