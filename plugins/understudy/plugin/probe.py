"""Answers the health check's C-STORE (docker/healthy.py): tries all that a store needs, and keeps nothing.

Rule 1: a C-STORE is a probe only if both AE title and UID match, and the answer to a probe is a failure
status for every other sender. So no image is answered with success and dropped.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path

CHECK_TITLE = "UNDERSTUDY-CHECK"
PROBE_UID = "2.25.88006"
PROBED = 0xC0DE
"""The DIMSE status of a successful probe; other senders take it for a failure (DICOM PS3.4 B.2.3)."""
_FILE = ".probe"
_CONTENT = b"probe"


def is_probe(calling_ae_title: str, sop_instance_uid: Callable[[], str]) -> bool:
    """Return whether a C-STORE is the health check's; the UID is read only if the title matches."""
    return calling_ae_title.strip() == CHECK_TITLE and sop_instance_uid().strip("\0 ") == PROBE_UID


def try_disk(folder: Path) -> None:
    """Write a file to the disk, read it from there, and remove it; raise OSError if that fails."""
    path = folder / _FILE
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, _CONTENT)
        os.fdatasync(descriptor)
        # Read from the disk and not from the page cache.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        if os.pread(descriptor, len(_CONTENT), 0) != _CONTENT:
            raise OSError(errno.EIO, "the bytes that were read differ from the written ones")
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)
