"""UIDs of stored objects: Orthanc stores them even if they break the standard (DICOM PS3.5 9.1)."""

import hashlib
import re

_ASKABLE = re.compile(r"[0-9.]{1,64}")


def can_be_asked_for(uid: str) -> bool:
    """Say whether a query with this UID matches only this UID.

    Leading zeros are harmless. Wildcards, backslashes (a list of UIDs, PS3.4 C.2.2.2.2) and characters other
    than digits and dots are not.
    """
    return _ASKABLE.fullmatch(uid) is not None


def shown(uid: str) -> str:
    """Return the UID, or its digest if the UID has characters that could forge a line of a log."""
    if can_be_asked_for(uid):
        return uid
    return "sha256-" + hashlib.sha256(uid.encode("utf-8", "surrogatepass")).hexdigest()
