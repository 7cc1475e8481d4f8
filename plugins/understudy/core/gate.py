"""The association gate's allow-list: who may open an association, and what the edge says of who tried."""

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

EVERYWHERE = ("0.0.0.0/0", "::/0")
"""The networks of all addresses."""

NOWHERE = "-"
"""In place of a network: the device's address is not known, and nobody may use its AE title."""

UNKNOWN = "~"
"""In place of a network: the same, of a device that may only store. Meanwhile it counts as a stranger."""

_FINGERPRINT = re.compile(r"(?:[0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}")


class Admission(Enum):
    """What the allow-list says of an association; the words are those of edge/admission.lua."""

    KNOWN = "known"
    CALLING = "calling"
    """No entry has this calling AE title."""
    CALLED = "called"
    """An entry has, and it names another called AE title."""
    ADDRESS = "address"
    """The calling AE title belongs to a device at another address."""
    CERTIFICATE = "certificate"
    """An entry has, and it asks for a certificate that the caller did not show."""


class GateOutcome(Enum):
    """What became of an association; the words are those of edge/gate.lua and edge/haproxy.cfg."""

    ACCEPTED = "accepted"
    REFUSED_CALLING = "refused_calling"
    REFUSED_ADDRESS = "refused_address"
    REFUSED_CERTIFICATE = "refused_certificate"
    REFUSED_CALLED = "refused_called"
    REFUSED_REQUEST = "refused_request"
    """The association request is not as DICOM has it; the reason says where."""
    REFUSED_UPLOAD = "refused_upload"
    """An upload by HTTP whose length says that it is too large."""
    REFUSED_LIMIT = "refused_limit"
    REFUSED_FULL = "refused_full"
    NO_ASSOCIATION = "no_association"
    """A connection that asked for none in time, or spoke something else."""
    TLS_FAILED = "tls_failed"


HINTS = {
    GateOutcome.REFUSED_CALLING: "`understudy approve AE_TITLE ADDRESS` lets it in at once",
    GateOutcome.REFUSED_ADDRESS: "this AE title is listed at another address. If the device has moved, "
    "`understudy approve AE_TITLE ADDRESS` lets it in at once; then change its address in the configuration. "
    "If no device of yours has this address, find out who uses its name",
    GateOutcome.REFUSED_CERTIFICATE: "set the device to show the certificate that its entry in the "
    "configuration names; `understudy certificate list` shows which are revoked",
    GateOutcome.REFUSED_CALLED: "set the device to call the AE title that its entry in the "
    "configuration names",
    GateOutcome.REFUSED_REQUEST: "tell the device's vendor; if no device of yours has this address, nothing",
    GateOutcome.REFUSED_UPLOAD: "raise UNDERSTUDY_ORTHANC_MEMORY, which the limit follows from, then send it "
    "again",
    GateOutcome.REFUSED_LIMIT: "the device holds too many associations at a time; if it has to, raise "
    "`Edge.AssociationsOfDevice`, or list the device",
    GateOutcome.REFUSED_FULL: "the device tries again by itself; if this comes often, raise "
    "`Edge.Associations`",
    GateOutcome.NO_ASSOCIATION: "if a device of yours has this address, check the port that it is "
    "set to call",
    GateOutcome.TLS_FAILED: "compare TLS and certificates of the device with the configuration",
}
"""What a person can do about each refusal.

Without the peer's AE title and address: it chooses them, and people copy commands.
"""

IMPOSTORS = (GateOutcome.REFUSED_ADDRESS, GateOutcome.REFUSED_CERTIFICATE)
"""A listed device that was not believed: it has changed and cannot send, or somebody uses its name."""


@dataclass(frozen=True)
class Allowed:
    """One entry: this calling AE title at this address or network may call this one, any if it is None.

    With `certificate`, in the form of `certificate_of`, only over TLS and with that certificate.
    """

    calling_ae_title: str
    network: str
    called_ae_title: str | None = None
    certificate: str | None = None

    @cached_property
    def parsed(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
        """The network as a value; None where the device's address is not known."""
        return None if self.network in (NOWHERE, UNKNOWN) else ipaddress.ip_network(self.network)


@dataclass(frozen=True, slots=True)
class Seen:
    """Associations or attempts as the edge counted them; AE titles are empty where none was said."""

    calling_ae_title: str
    called_ae_title: str
    address: str
    tls: bool
    outcome: GateOutcome
    reason: str = ""
    number: int = 1


def network_of(text: str) -> str:
    """Return an address or a network in its one canonical form, or raise ValueError."""
    network = ipaddress.ip_network(text.strip(), strict=False)
    # HAProxy does not read an address with a scope such as fe80::1%eth0, and would not start with it.
    if "%" in str(network):
        raise ValueError(f"{text!r} has a scope: name the address without what follows the %")
    return str(network)


def is_network(text: str) -> bool:
    """Say whether a text is a network in canonical form, as the edge's tables take it."""
    try:
        return network_of(text) == text
    except ValueError:
        return False


def certificate_of(text: str) -> str:
    """Return what names a client certificate as the gate compares it, or raise ValueError.

    A SHA-256 fingerprint becomes `F` and its hexadecimal digits, a common name `C` and its bytes in
    hexadecimal.
    """
    if _FINGERPRINT.fullmatch(text):
        return "F" + text.replace(":", "").upper()
    if not text.strip() or not text.isprintable() or len(text) > 64:
        raise ValueError("a certificate is named by its subject's common name or its SHA-256 fingerprint")
    return "C" + text.encode().hex().upper()


def same_title(one: str, other: str) -> bool:
    """Say whether two AE titles are one to Orthanc where it is told not to regard case."""
    return one.lower() == other.lower()


def verdict(
    allowed: Iterable[Allowed],
    *,
    address: str,
    calling: str,
    called: str,
    shows: Callable[[str], bool] = lambda _: True,
) -> Admission:
    """Return what the allow-list says; edge/admission.lua decides the same at the gate.

    `shows` says whether the caller has shown a certificate, in the form of `certificate_of`.
    """
    try:
        source = ipaddress.ip_address(address)
    except ValueError:
        return Admission.CALLING
    found: Admission | None = None
    claimed = False
    for entry in allowed:
        if not same_title(entry.calling_ae_title, calling):
            continue
        claimed |= entry.network != UNKNOWN
        if entry.parsed is None or source not in entry.parsed:
            continue
        if entry.calling_ae_title != calling:
            found = found or Admission.CALLING
        elif entry.certificate is not None and not shows(entry.certificate):
            found = Admission.CERTIFICATE
        elif entry.called_ae_title not in (None, called):
            found = Admission.CERTIFICATE if found is Admission.CERTIFICATE else Admission.CALLED
        else:
            return Admission.KNOWN
    return found or (Admission.ADDRESS if claimed else Admission.CALLING)
