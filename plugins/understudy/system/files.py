"""Files that are whole or absent: temporary name, fsync, rename, fsync of the folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def written_durably(path: Path, mode: int = 0o640) -> Iterator[BinaryIO]:
    """Give a file that takes the path's place when the block ends: a crash leaves the old or the new.

    An error leaves the old one and no rest. Only one writer of a path at a time. What a killed one left is
    overwritten by the next.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            os.fchmod(file.fileno(), mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def write_durably(path: Path, content: bytes, mode: int = 0o640) -> None:
    """Replace the file's content as `written_durably` does."""
    with written_durably(path, mode) as file:
        file.write(content)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
