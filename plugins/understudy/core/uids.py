"""UIDs as objects have them: Orthanc keeps whatever an object says, UID (DICOM PS3.5 9.1) or not."""

import hashlib
import re

_ASKABLE = re.compile(r"[0-9.]{1,64}")


def can_be_asked_for(uid: str) -> bool:
    """Say whether the UID can stand in a query and mean itself alone.

    Leading zeros do no harm. A wildcard, a backslash (a list of UIDs, PS3.4 C.2.2.2.2) or another alphabet
    does.
    """
    return _ASKABLE.fullmatch(uid) is not None


def shown(uid: str) -> str:
    """Return the UID as a log may hold it: one that could forge a line as a digest."""
    if can_be_asked_for(uid):
        return uid
    return "sha256-" + hashlib.sha256(uid.encode("utf-8", "surrogatepass")).hexdigest()
