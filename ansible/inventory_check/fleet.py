"""Checks that no two hosts have the same address or site name."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any


def of_all(known: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield each address and site name that more than one host has."""
    addresses, sites = defaultdict(set), defaultdict(set)
    for host, values in known.items():
        port = values.get("ansible_port", 22)
        addresses[f"{values.get('ansible_host', host)} (SSH port {port})"].add(host)
        if values.get("takeover_address"):
            addresses[str(values["takeover_address"]).partition("/")[0]].add(host)
            addresses[f"{str(values['takeover_address']).partition('/')[0]} (SSH port {port})"].add(host)
        section = values.get("appliance_config")
        sites[section.get("Site", "clinic") if isinstance(section, Mapping) else "clinic"].add(host)
    for address, hosts in addresses.items():
        if len(hosts) > 1:
            yield f"{', '.join(sorted(hosts))}: they have one address, {address}"
    for site, hosts in sites.items():
        if len(hosts) > 1:
            yield f"{', '.join(sorted(hosts))}: they have one site name, appliance_config.Site {site!r}"
