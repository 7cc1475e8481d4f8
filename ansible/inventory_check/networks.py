"""Checks networks: those that may connect, and that of the containers."""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from inventory_check.variables import Spec

NETWORKS = ("host_ssh_networks", "host_dicom_networks", "host_https_networks")
ENGINE_PREFIX = 22
"""Enough for three networks of /24: docker0, and the two of the compose project."""


def networks(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the entries of the allowed networks that are not networks."""
    for name in NETWORKS:
        listed = values.get(name, [])
        for network in listed if isinstance(listed, list) else ():
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                yield f"{name}: {error}"


def engine(values: Mapping[str, Any], spec: Spec) -> Iterator[str]:
    """Yield the problems of the containers' network. The host cannot reach other machines in that network."""
    try:
        network = ipaddress.IPv4Network(values.get("engine_network", spec["engine_network"]["default"]))
    except ValueError as error:
        yield f"engine_network: {error}"
        return
    if network.prefixlen > ENGINE_PREFIX:
        yield f"engine_network: {network} is too small, /{ENGINE_PREFIX} is the least"
    for name, address in _reached(values):
        try:
            other = ipaddress.ip_network(address, strict=False)
        except ValueError:
            # A name, or reported already.
            continue
        # A network of prefix length 0 allows all addresses and is no overlap.
        if other.prefixlen and network.overlaps(other):
            yield f"engine_network: {network} and {address} of {name} overlap: nothing there could be reached"


def _reached(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the variable and the value of each address and network with which a host communicates."""
    for name in NETWORKS:
        listed = values.get(name, [])
        yield from ((name, str(network)) for network in (listed if isinstance(listed, list) else ()))
    yield "ansible_host", str(values.get("ansible_host", ""))
    yield "takeover_address", str(values.get("takeover_address", ""))
    yield from (("appliance_config", address) for address in _peers(values.get("appliance_config")))


def _peers(section: Any) -> Iterator[str]:
    """Yield the host and the addresses of every party that a section names."""
    if isinstance(section, Mapping):
        addresses = section.get("Addresses")
        yield str(section.get("Host", ""))
        yield from map(str, addresses if isinstance(addresses, list) else ())
        for value in section.values():
            yield from _peers(value)
    elif isinstance(section, list):
        for part in section:
            yield from _peers(part)


def within(address: str, networks: Sequence[str]) -> bool:
    """Return whether an address is in one of the networks."""
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in networks)
