"""Reads and sends files in pieces, so that the memory used does not depend on their size."""

from collections.abc import Iterator
from itertools import islice

from understudy.core.ports import Reads, Writes

PIECE = 2**18
"""Bytes of a file that are read and sent at a time."""


def pieces(file: Reads) -> Iterator[bytes]:
    """Yield the rest of a file in pieces."""
    while piece := file.read(PIECE):
        yield piece


def beginning(file: Reads, most: int) -> bytes:
    """Return the rest of a file, up to about `most` bytes."""
    return b"".join(islice(pieces(file), most // PIECE))


def copy(source: Reads, target: Writes) -> None:
    """Write the rest of the source in pieces."""
    for piece in pieces(source):
        target.write(piece)
