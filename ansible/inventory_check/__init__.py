"""The check of the whole inventory, on the control machine.

Rule 1: every problem of every host is found in one run, before anything changes.
Rule 2: the appliance's own checker checks the appliance's section, so that each rule, for example that of an
AE title, exists once.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from inventory_check.fleet import of_all
from inventory_check.host import of_host
from inventory_check.variables import argument_specs, readable

__all__ = ["problems"]


def problems(hosts: Sequence[str], hostvars: Mapping[str, Any], playbook_dir: str) -> list[str]:
    """Return every problem of the inventory; each text begins with the hosts concerned."""
    specs = argument_specs(Path(playbook_dir) / "roles")
    found: list[str] = []
    known = {}
    for host in hosts:
        values, unreadable = readable(hostvars[host], specs)
        known[str(host)] = values
        found += [f"{host}: {problem}" for problem in (*unreadable, *of_host(values, specs))]
    return found + list(of_all(known))
