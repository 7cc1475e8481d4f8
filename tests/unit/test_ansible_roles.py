"""Each role says in one place what it takes: specification, defaults and README agree."""

import re
from typing import Any

import pytest
import yaml

from tests.tools.role_readmes import ROLES, readme, roles


def test_roles_are_looked_at() -> None:
    assert {"host", "engine", "appliance", "takeover", "monitoring", "update"} <= set(roles())


@pytest.mark.parametrize("role", roles())
def test_readme_made_again_is_unchanged(role: str) -> None:
    assert (ROLES / role / "README.md").read_text(encoding="utf-8") == readme(role), "run `make docs`"


@pytest.mark.parametrize("role", roles())
def test_defaults_are_those_of_the_specification(role: str) -> None:
    specified = yaml.safe_load((ROLES / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    options = specified["argument_specs"]["main"]["options"]
    defaults = yaml.safe_load((ROLES / role / "defaults" / "main.yml").read_text(encoding="utf-8"))
    assert defaults == {name: option["default"] for name, option in options.items()}


@pytest.mark.parametrize("role", roles())
def test_variables_in_tasks_and_templates_are_the_roles_own_or_another_roles(role: str) -> None:
    """A name that nobody sets would stay undefined until the one host that needs it."""
    known = set()
    for path in ROLES.glob("*/*/*.yml"):
        text = path.read_text(encoding="utf-8")
        known |= set(re.findall(r"^(?:      )?([a-z]+_\w+):", text, re.MULTILINE))
        known |= set(re.findall(r"(?:register|loop_var): (\w+)", text))
        known |= set(re.findall(r"^ +([a-z]+_\w+):", text, re.MULTILINE))
    names = "|".join(roles())
    used = set()
    for path in (ROLES / role).glob("*/*"):
        if path.is_file() and path.parent.name in ("tasks", "templates", "vars", "handlers"):
            for expression in re.findall(r"\{[{%].*?[%}]\}|when:.*", path.read_text(encoding="utf-8")):
                used |= set(re.findall(rf"(?<![\w.'/-])(?:{names})_\w+", expression))
    assert used - known == set()


def installed(role: str) -> set[str]:
    """Return every Debian package that a role may install."""
    found: set[str] = set()
    variables: dict[str, Any] = {}
    for path in (ROLES / role).glob("*/main.yml"):
        if path.parent.name in ("defaults", "vars"):
            variables |= yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in (ROLES / role / "tasks").glob("*.yml"):
        for task in yaml.safe_load(path.read_text(encoding="utf-8")):
            named = task.get("ansible.builtin.apt", {}).get("name", [])
            if isinstance(named, str):
                variable = re.fullmatch(r"\{\{ (\w+) \}\}", named)
                named = variables[variable[1]] if variable else [named]
            # An expression: the names in it are quoted.
            found |= set(re.findall(r"'([^']+)'", named) if isinstance(named, str) else named)
    return found


def test_bundle_has_every_package_that_a_role_installs() -> None:
    (play,) = yaml.safe_load((ROLES.parent / "bundle.yml").read_text(encoding="utf-8"))
    needed = set().union(*map(installed, roles()))
    assert {"chrony", "docker.io", "prometheus", "keepalived", "openssl"} <= needed
    # The play adds what these two roles name.
    assert needed <= {*play["vars"]["bundle_more"], *installed("host"), *installed("engine")}


@pytest.mark.parametrize("playbook", ["site", "update", "decommission"])
def test_play_changes_one_clinic_at_a_time_and_stops_at_the_first_failure(playbook: str) -> None:
    plays = yaml.safe_load((ROLES.parent / f"{playbook}.yml").read_text(encoding="utf-8"))
    changing = [play for play in plays if play.get("hosts") == "standbys" and play.get("become")]
    assert changing
    for play in changing:
        assert play["serial"] == 1
        assert play.get("any_errors_fatal") is True or play.get("max_fail_percentage") == 0
