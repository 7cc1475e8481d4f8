"""Reads a host's variables without Ansible's types, and the arguments of each role."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from jinja2 import TemplateError

Spec = Mapping[str, Mapping[str, Any]]


def argument_specs(roles: Path) -> dict[str, Spec]:
    """Return the options of each role by its name."""
    return {
        path.parents[1].name: yaml.safe_load(path.read_text(encoding="utf-8"))["argument_specs"]["main"][
            "options"
        ]
        for path in sorted(roles.glob("*/meta/argument_specs.yml"))
    }


def readable(variables: Mapping[str, Any], specs: Mapping[str, Spec]) -> tuple[dict[str, Any], list[str]]:
    """Return the variables of a host that our roles use, and a problem for each part that has no value."""
    ours = ("ansible_host", "ansible_port", *(f"{role}_" for role in specs))
    unreadable: list[str] = []
    names = [name for name in variables if str(name).startswith(ours)]
    return {str(name): plain(variables, name, str(name), unreadable) for name in names}, unreadable


def plain(container: Any, key: Any, path: str, unreadable: list[str]) -> Any:
    """Return a container's value without Ansible's types, with templates resolved; None if one cannot be."""
    try:
        value = container[key]
        if isinstance(value, Mapping):
            return {str(name): plain(value, name, f"{path}.{name}", unreadable) for name in value}
        if isinstance(value, (list, tuple)):
            return [plain(value, index, f"{path}[{index}]", unreadable) for index in range(len(value))]
        return value if value is None or isinstance(value, (bool, int, float)) else str(value)
    except (AnsibleError, TemplateError) as error:
        # The message has names of variables, never a value.
        because = str(error.message).splitlines()[0]
        unreadable.append(f"{path}: it cannot be evaluated; is a secret missing? {because}")
        return None
