"""Answers the health check's C-STORE: tries all that a store needs, and keeps nothing (docker/healthy.py).

Rule 1: only title and UID together make a probe, and its answer is a failure to every other sender. So no
image is answered with success and dropped.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path

CHECK_TITLE = "UNDERSTUDY-CHECK"
PROBE_UID = "2.25.88006"
PROBED = 0xC0DE
"""The DIMSE status of a probe that found all well; a failure to every other sender (DICOM PS3.4 B.2.3)."""
_FILE = ".probe"
_CONTENT = b"probe"


def is_probe(calling_ae_title: str, sop_instance_uid: Callable[[], str]) -> bool:
    """Return whether a C-STORE is the health check's; the UID is read where the title is right alone."""
    return calling_ae_title.strip() == CHECK_TITLE and sop_instance_uid().strip("\0 ") == PROBE_UID


def try_disk(folder: Path) -> None:
    """Write a file, put it on the disk, read it from there, and remove it; raise OSError where that fails."""
    path = folder / _FILE
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, _CONTENT)
        os.fdatasync(descriptor)
        # From the disk, and not from what the system has cached.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        if os.pread(descriptor, len(_CONTENT), 0) != _CONTENT:
            raise OSError(errno.EIO, "what was written is not what is read")
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)
