"""The association gate's allow-list: who may open an association, and what the edge says of who tried."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

EVERYWHERE = ("0.0.0.0/0", "::/0")
"""The networks of a device whose address nobody named."""


class Verdict(Enum):
    """What the allow-list says of an association; the words are those of edge/gate.lua."""

    KNOWN = "known"
    CALLING = "calling"
    """No entry has this calling AE title at this address."""
    CALLED = "called"
    """An entry has, and it names another called AE title."""


class GateOutcome(Enum):
    """What became of an association; the words are those of edge/haproxy.cfg."""

    ACCEPTED = "accepted"
    REFUSED_CALLING = "refused_calling"
    REFUSED_CALLED = "refused_called"
    REFUSED_LIMIT = "refused_limit"
    REFUSED_FULL = "refused_full"
    NO_ASSOCIATION = "no_association"
    """A connection that asked for none in time, or spoke something else."""
    TLS_FAILED = "tls_failed"


@dataclass(frozen=True)
class Allowed:
    """One entry: this calling AE title at this address or network may call this one, any if it is None."""

    calling_ae_title: str
    network: str
    called_ae_title: str | None = None

    @cached_property
    def parsed(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        """The network as a value."""
        return ipaddress.ip_network(self.network)


@dataclass(frozen=True, slots=True)
class Seen:
    """One association or attempt as the edge reported it; AE titles are empty where none was said."""

    calling_ae_title: str
    called_ae_title: str
    address: str
    tls: bool
    outcome: GateOutcome
    reason: str = ""


def network_of(text: str) -> str:
    """Return an address or a network in its one canonical form, or raise ValueError."""
    return str(ipaddress.ip_network(text.strip(), strict=False))


def verdict(allowed: Iterable[Allowed], *, address: str, calling: str, called: str) -> Verdict:
    """Return what the allow-list says; edge/gate.lua decides the same at the gate."""
    try:
        source = ipaddress.ip_address(address)
    except ValueError:
        return Verdict.CALLING
    found = Verdict.CALLING
    for entry in allowed:
        if entry.calling_ae_title == calling and source in entry.parsed:
            if entry.called_ae_title in (None, called):
                return Verdict.KNOWN
            found = Verdict.CALLED
    return found
