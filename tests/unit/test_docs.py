"""The documents say what the code does: generated parts, commands, targets, dependencies, links, examples."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import json5
import pytest
from understudy.cli.parser import parser
from understudy.config import ConfigurationError, parse
from understudy.core import modes

from tests.tools.reference_pages import DOCS, PARTS, renewed

REPOSITORY = DOCS.parent
PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.glob("*.md")])

# In pieces, so that this file passes its own test.
REGISTRIES = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("files", "pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("registry-1", "docker", "io"),
        ("ghcr", "io"),
        ("quay", "io"),
        ("deb", "debian", "org"),
        ("proxy", "golang", "org"),
    )
)
PERSONAL_PATHS = re.compile(r"(?<![\w.*-])/(?:work|home/[a-z][\w-]*|Users/[A-Za-z]\w*)/")


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True, timeout=30
    ).stdout
    names = [name for name in listed.decode().split("\0") if name]
    return [path for name in names if (path := REPOSITORY / name).is_file()]


def named_wrongly(text: str) -> list[str]:
    """Return every registry host and personal path in the text."""
    return [host for host in REGISTRIES if host in text] + PERSONAL_PATHS.findall(text)


def code_blocks(page: Path, language: str = "") -> Iterator[str]:
    # A block can stand in a list, then it is indented.
    pattern = rf"^( *)```{language}\n(.*?)^\1```$"
    for match in re.finditer(pattern, page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        yield match[2]


def make_targets() -> set[str]:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.MULTILINE))


def named_targets(text: str) -> set[str]:
    """Return the targets of every `make TARGET` in code, inline or at the beginning of a line of a block."""
    return set(re.findall(r"(?:`|^ *)make ([a-z][a-z0-9-]*)", text, re.MULTILINE))


def understudy_commands(page: Path) -> Iterator[list[str]]:
    """Yield the arguments of every `understudy ...` that a reader is told to type."""
    text = page.read_text(encoding="utf-8")
    inline = re.findall(r"`understudy ([a-z][^`\n]*)`", text)
    blocks = "\n".join(code_blocks(page))
    typed = re.findall(
        r"^ *(?:docker compose .*exec (?:-T )?agent )?understudy ([a-z].*)$", blocks, re.MULTILINE
    )
    for command in (*inline, *typed):
        words = shlex.split(command)
        if command in inline and len(words) == 1:
            # A verb that is spoken of, not typed.
            words.append("--help")
        # What follows is for the shell.
        yield words[: words.index("<")] if "<" in words else words


def parses(arguments: list[str]) -> bool:
    try:
        parser().parse_args(arguments)
    except SystemExit as end:
        return end.code == 0
    return True


def rows(page: str) -> set[str]:
    """Return the first cells of all tables of the page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return {name.strip() for name in re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)}


def direct_dependencies() -> set[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    listed = list(project["project"]["dependencies"])
    for group in project["dependency-groups"].values():
        listed += group
    return {re.split(r"[<>=\[~! ]", requirement)[0] for requirement in listed}


@pytest.mark.parametrize("page", sorted(PARTS))
def test_reference_page_made_again_is_unchanged(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert renewed(page, text) == text, "run `make docs`"


def test_reference_page_with_a_changed_part_is_renewed() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    broken = text.replace("standby --> active: promote", "standby --> returning: promote")
    assert broken != text
    assert renewed("architecture.md", broken) == text


def test_reference_page_without_its_mark_is_an_error() -> None:
    text = (DOCS / "rest.md").read_text(encoding="utf-8").replace("<!-- end routes -->", "")
    with pytest.raises(ValueError, match="end routes"):
        renewed("rest.md", text)


def test_mode_diagram_has_every_transition_and_no_other() -> None:
    (diagram,) = code_blocks(DOCS / "architecture.md", "mermaid")
    drawn = set(re.findall(r"^ *(\w+) --> (\w+): (\w+)$", diagram, re.MULTILINE))
    known = {
        (origin.value, target.value, event.value) for (origin, event), target in modes.TRANSITIONS.items()
    }
    assert drawn == known


def test_every_direct_dependency_has_its_row() -> None:
    assert sorted(direct_dependencies() - rows("dependencies.md")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_make_targets_exist(page: Path) -> None:
    assert sorted(named_targets(page.read_text(encoding="utf-8")) - make_targets()) == []


def test_readme_names_make_targets() -> None:
    assert {"demo", "test"} <= named_targets((REPOSITORY / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_commands_are_understood(page: Path) -> None:
    commands = [["--help"], *understudy_commands(page)]
    # Names in capitals stand for what the reader fills in.
    assert [command for command in commands if not parses(command)] == []


def test_readme_shows_the_outage_as_commands() -> None:
    verbs = {command[0] for command in understudy_commands(REPOSITORY / "README.md")}
    assert {"status", "promote", "failback", "settle", "restore", "first-start"} <= verbs


def test_command_that_does_not_exist_is_found() -> None:
    assert not parses(["surrender", "--now"])


def existing_tests() -> set[str]:
    """Return every test as FILE.py::NAME."""
    files = [path for path in tracked() if path.name.startswith("test_") and path.suffix == ".py"]
    return {
        f"{path.name}::{name}"
        for path in files
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }


def test_claims_of_security_name_tests_that_exist() -> None:
    named = set(re.findall(r"\btest_\w+\.py::test_\w+", (DOCS / "security.md").read_text(encoding="utf-8")))
    assert len(named) > 40
    assert sorted(named - existing_tests()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "docs/configuration.md"])
def test_configuration_examples_are_valid(page: str) -> None:
    examples = list(code_blocks(REPOSITORY / page, "json"))
    assert examples
    for example in examples:
        parse(json5.loads(example)["Understudy"])


def test_configuration_example_with_a_wrong_key_is_refused() -> None:
    example, *_ = code_blocks(DOCS / "configuration.md", "json")
    with pytest.raises(ConfigurationError, match="Raeds"):
        parse(json5.loads(example.replace('"Reads"', '"Raeds"'))["Understudy"])


def test_picture_is_well_formed_and_asks_no_other_host() -> None:
    picture = (DOCS / "data-flow.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    assert "prefers-color-scheme: dark" in picture
    assert not re.findall(r"(?:href|src)=\"http|@import|url\(http", picture)


def test_licence_is_whole() -> None:
    text = (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    assert "GNU AFFERO GENERAL PUBLIC LICENSE" in text
    assert all(f"\n  {number}. " in text for number in range(18))
    assert "END OF TERMS AND CONDITIONS" in text


def test_tracked_files_name_no_registry_and_no_personal_path() -> None:
    found: dict[str, list[str]] = {}
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if wrong := named_wrongly(text):
            found[str(path.relative_to(REPOSITORY))] = wrong
    assert found == {}


@pytest.mark.parametrize(
    "text", ["https://" + REGISTRIES[0] + "/simple", "cd /" + "work/x", "see /" + "home/anna/notes"]
)
def test_registry_or_personal_path_is_found(text: str) -> None:
    assert named_wrongly(text)


def test_decisions_say_how_much_of_orthancs_process_is_ours() -> None:
    said = re.search(
        r"a library of about ([\d,]+) lines", (DOCS / "decisions.md").read_text(encoding="utf-8")
    )
    assert said is not None
    sources = [
        path for path in (REPOSITORY / "docker" / "reception").iterdir() if path.suffix in (".cc", ".h")
    ]
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in sources)
    assert int(said[1].replace(",", "")) == pytest.approx(lines, rel=0.1)


def test_each_decision_stands_behind_a_blank_line() -> None:
    lines = (DOCS / "decisions.md").read_text(encoding="utf-8").splitlines()
    assert [line for before, line in pairwise(lines) if line.startswith("**") and before] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_table_says_the_same_twice(page: Path) -> None:
    of_table: list[str] = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            of_table = []
            continue
        first_cells = "|".join(line.split("|")[1:3])
        assert first_cells not in of_table, line
        of_table.append(first_cells)
