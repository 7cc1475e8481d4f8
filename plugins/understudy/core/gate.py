"""The association gate: its allow-list, and the outcomes that the edge reports for each attempt."""

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

EVERYWHERE = ("0.0.0.0/0", "::/0")
"""The networks of all addresses."""

NOWHERE = "-"
"""Stands for a network if the device's address is not known. Nobody may use its AE title then."""

UNKNOWN = "~"
"""Stands for an unknown network of a device that may only store. The device counts as a stranger then."""

_FINGERPRINT = re.compile(r"(?:[0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}")


class Admission(Enum):
    """The allow-list's verdict on an association; edge/admission.lua uses the same words."""

    KNOWN = "known"
    CALLING = "calling"
    """No entry has this calling AE title."""
    CALLED = "called"
    """An entry has this calling AE title, but names another called AE title."""
    ADDRESS = "address"
    """The calling AE title is that of a device at another address."""
    CERTIFICATE = "certificate"
    """An entry has this calling AE title, but asks for a certificate that the caller did not show."""


class GateOutcome(Enum):
    """The outcome of an association attempt; edge/gate.lua and edge/haproxy.cfg use the same words."""

    ACCEPTED = "accepted"
    REFUSED_CALLING = "refused_calling"
    REFUSED_ADDRESS = "refused_address"
    REFUSED_CERTIFICATE = "refused_certificate"
    REFUSED_CALLED = "refused_called"
    REFUSED_REQUEST = "refused_request"
    """The association request breaks the DICOM standard; the reason says where."""
    REFUSED_UPLOAD = "refused_upload"
    """An HTTP upload whose announced length is above the limit."""
    REFUSED_LIMIT = "refused_limit"
    REFUSED_FULL = "refused_full"
    NO_ASSOCIATION = "no_association"
    """A connection that requested no association in time, or used another protocol."""
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
    GateOutcome.REFUSED_REQUEST: "tell the device's vendor, unless no device of yours has this address",
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

The hints leave out the peer's AE title and address: an attacker can choose them, and people copy commands.
"""

IMPOSTORS = (GateOutcome.REFUSED_ADDRESS, GateOutcome.REFUSED_CERTIFICATE)
"""Refusals of a listed AE title: the device has changed and cannot send, or another device uses its name."""


@dataclass(frozen=True)
class Allowed:
    """An entry of the allow-list: a calling AE title at an address or network.

    The device may call `called_ae_title`, or any AE title if that is None. If `certificate` is set (in the
    form of `certificate_of`), the device is admitted only over TLS and with that certificate.
    """

    calling_ae_title: str
    network: str
    called_ae_title: str | None = None
    certificate: str | None = None

    @cached_property
    def parsed(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
        """The network as a value, None if the device's address is not known."""
        return None if self.network in (NOWHERE, UNKNOWN) else ipaddress.ip_network(self.network)


@dataclass(frozen=True, slots=True)
class Seen:
    """Associations or attempts that the edge counted; an AE title is empty if the caller gave none."""

    calling_ae_title: str
    called_ae_title: str
    address: str
    tls: bool
    outcome: GateOutcome
    reason: str = ""
    number: int = 1


def network_of(text: str) -> str:
    """Return an address or a network in canonical form, or raise ValueError."""
    network = ipaddress.ip_network(text.strip(), strict=False)
    # HAProxy does not start with an address that has a scope, such as fe80::1%eth0.
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
    """Return the name of a client certificate in the form that the gate compares, or raise ValueError.

    A SHA-256 fingerprint becomes `F` and its hexadecimal digits. A common name becomes `C` and its bytes in
    hexadecimal.
    """
    if _FINGERPRINT.fullmatch(text):
        return "F" + text.replace(":", "").upper()
    if not text.strip() or not text.isprintable() or len(text) > 64:
        raise ValueError("a certificate is named by its subject's common name or its SHA-256 fingerprint")
    return "C" + text.encode().hex().upper()


def same_title(one: str, other: str) -> bool:
    """Say whether two AE titles are equal without regard to case, as Orthanc can be set to compare them."""
    return one.lower() == other.lower()


def verdict(
    allowed: Iterable[Allowed],
    *,
    address: str,
    calling: str,
    called: str,
    shows: Callable[[str], bool] = lambda _: True,
) -> Admission:
    """Return the allow-list's verdict on a caller; edge/admission.lua decides the same at the gate.

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
