"""Writes each Ansible role's README from its specification (usage: python -m tests.tools.role_readmes)."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parents[2] / "ansible" / "roles"


def roles() -> list[str]:
    """Return the names of all roles."""
    return sorted(path.name for path in ROLES.iterdir() if path.is_dir())


def readme(role: str) -> str:
    """Return the README of one role."""
    specification = yaml.safe_load((ROLES / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    main = specification["argument_specs"]["main"]
    described = " ".join(main["description"])
    return "\n".join(
        [
            f"# Role {role}: {main['short_description']}",
            "",
            "<!-- Made by `make docs` from meta/argument_specs.yml. -->",
            "",
            described,
            "",
            "| variable | type | default | meaning |",
            "| --- | --- | --- | --- |",
            *_rows(main["options"]),
            "",
        ]
    )


def _rows(options: Mapping[str, Any], parent: str = "") -> Iterator[str]:
    for name, option in options.items():
        path = f"{parent}{name}"
        cells = [f"`{path}`", _kind(option), _default(option, nested=bool(parent)), _meaning(option)]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        yield from _rows(option.get("options", {}), f"{path}[].")


def _kind(option: Mapping[str, Any]) -> str:
    return f"list of {option['elements']}" if option["type"] == "list" else str(option["type"])


def _default(option: Mapping[str, Any], *, nested: bool) -> str:
    if option.get("required"):
        return "required"
    return "see there" if nested and "default" not in option else f"`{json.dumps(option['default'])}`"


def _meaning(option: Mapping[str, Any]) -> str:
    choices = [f"`{choice}`" for choice in option.get("choices", ())]
    return " ".join([option["description"].strip(), *([f"One of {', '.join(choices)}."] if choices else [])])


def main() -> int:
    """Renew every README and say which changed."""
    for role in roles():
        path = ROLES / role / "README.md"
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        after = readme(role)
        if after != before:
            path.write_text(after, encoding="utf-8")
        print(f"docs: ansible/roles/{role}/README.md {'is renewed' if after != before else 'is up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
