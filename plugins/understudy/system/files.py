"""Files that are whole or absent: temporary name, fsync, rename, fsync of the folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def written_durably(path: Path, mode: int = 0o640) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` when the block ends.

    A crash leaves the old file or the new one. An error leaves the old file and removes the temporary one.
    A path may have only one writer at a time. The next writer removes the temporary file of a killed one.
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
    """Make the file names in a folder durable (fsync)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
