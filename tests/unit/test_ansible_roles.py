"""Each role says in one place what it takes: specification, defaults and README agree."""

import re

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
