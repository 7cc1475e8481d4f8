"""What a C-STORE status means for custody: one table (DICOM PS3.4 B.2.3, PS3.7 Annex C)."""

from understudy.core.model import Outcome

_EXACT: dict[int, tuple[Outcome, str]] = {
    0x0000: (Outcome.DELIVERED, "stored"),
    # PS3.4 table B.2-1: stored, but the peer changed it.
    0xB000: (Outcome.DELIVERED_ALTERED, "coercion of data elements"),
    0xB006: (Outcome.DELIVERED_ALTERED, "elements discarded"),
    0xB007: (Outcome.DELIVERED_ALTERED, "data set does not match SOP class"),
    # PS3.7 C: something of this UID is there; whether it is this is found out by the proof.
    0x0111: (Outcome.UNKNOWN, "duplicate SOP instance"),
    0x0110: (Outcome.RETRY, "processing failure"),
    0x0213: (Outcome.RETRY, "resource limitation"),
    0x0122: (Outcome.REFUSED, "SOP class not supported"),
    0x0112: (Outcome.REFUSED, "SOP class not supported"),
    0x0117: (Outcome.REFUSED, "invalid SOP instance"),
    0x0119: (Outcome.REFUSED, "class and instance conflict"),
    0x0124: (Outcome.REFUSED, "not authorised"),
    0x0210: (Outcome.RETRY, "duplicate invocation"),
    0x0211: (Outcome.RETRY, "unrecognised operation"),
    0x0212: (Outcome.RETRY, "mistyped argument"),
}

_FAMILIES: dict[int, tuple[Outcome, str]] = {
    0xA7: (Outcome.RETRY, "refused: out of resources"),
    0xA9: (Outcome.REFUSED, "data set does not match SOP class"),
}


def of_c_store(status: int) -> tuple[Outcome, str]:
    """Return the outcome and its reason in words with the status in hexadecimal."""
    outcome, words = _meaning(status)
    return outcome, f"{words} (DIMSE status 0x{status:04X})"


def _meaning(status: int) -> tuple[Outcome, str]:
    if status in _EXACT:
        return _EXACT[status]
    if status >> 8 in _FAMILIES:
        return _FAMILIES[status >> 8]
    if status >> 12 == 0xC:
        return Outcome.REFUSED, "cannot understand"
    # PS3.7 C.4: other warnings tell that the instance was stored.
    if status >> 12 == 0xB or status == 0x0001:
        return Outcome.DELIVERED_ALTERED, "warning"
    return Outcome.REFUSED, "unknown status"
