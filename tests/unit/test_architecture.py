"""Holds the direction of imports, and that the core decides without looking at the world.

Every rule is shown to fail on a planted violation.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import pytest

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
PLUGIN = PurePosixPath("understudy_plugin.py")
CORE, ADAPTERS, FLOW, INSIDE = (
    PurePosixPath("understudy", name) for name in ("core", "adapters", "flow", "plugin")
)

PURE = frozenset(
    {"__future__", "abc", "bisect", "collections", "contextlib", "dataclasses", "datetime", "enum"}
    | {
        "functools",
        "hashlib",
        "heapq",
        "ipaddress",
        "itertools",
        "json",
        "math",
        "operator",
        "pydantic",
        "re",
        "string",
        "typing",
    }
)
"""What the core may import: values in, values out. Everything else is IO, threads, chance or the clock."""

PURE_PARTS = frozenset({"pathlib", "pathlib.PurePath", "pathlib.PurePosixPath"})
"""Paths as values; what else pathlib has touches the disk."""

IMPURE_NAMES = frozenset({"open", "print", "input", "exec", "eval", "__import__"})
IMPURE_ATTRIBUTES = frozenset({"now", "utcnow", "today"})
"""Of datetime and date: they read the clock."""


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted name of every module that the source imports, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"{alias.name}.*" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "." * node.level + (node.module or "")
            else:
                yield node.module or ""
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(module: str, package: str) -> bool:
    """Say whether the module is the package or stands below it."""
    return module == package or module.startswith(package + ".")


def problems(file: PurePosixPath, source: str) -> Iterator[str]:
    """Yield every breach of the architecture in one source file, whose path is relative to plugins/."""
    tree = ast.parse(source, str(file))
    for module in sorted(set(imports(tree))):
        top = module.split(".")[0]
        if module.startswith("."):
            yield f"{file}: relative import {module}: the direction cannot be read from it"
        if top == "orthanc" and file != PLUGIN:
            yield f"{file}: imports orthanc: only {PLUGIN} does"
        if file.is_relative_to(CORE):
            if top == "understudy" and not below(module, "understudy.core") and module != "understudy":
                yield f"{file}: imports {module}: core imports nothing of ours outside core"
            if top not in PURE | {"understudy"} and module not in PURE_PARTS:
                yield f"{file}: imports {module}: core has no IO, threads, chance or clock"
        if file.is_relative_to(ADAPTERS) and below(module, "understudy.flow"):
            yield f"{file}: imports {module}: adapters know nothing of the flow"
        if file.is_relative_to(FLOW) and (below(module, "understudy.web") or below(module, "understudy.cli")):
            yield f"{file}: imports {module}: the flow knows nothing of who calls it"
        if (file == PLUGIN or file.is_relative_to(INSIDE)) and not (
            top in sys.stdlib_module_names
            or top == "orthanc"
            or below(module, "understudy.plugin")
            or module == "understudy"
        ):
            yield f"{file}: imports {module}: inside Orthanc only the standard library is imported"
    if file.is_relative_to(CORE):
        yield from _impure_calls(file, tree)


def _impure_calls(file: PurePosixPath, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in IMPURE_NAMES:
            yield f"{file}: uses {node.id}: core has no IO"
        if (
            isinstance(node, ast.Attribute)
            and node.attr in IMPURE_ATTRIBUTES
            and isinstance(node.value, ast.Name)
            and node.value.id in ("datetime", "date")
        ):
            yield f"{file}: calls {node.value.id}.{node.attr}: core takes the time as an argument"


def sources() -> Mapping[PurePosixPath, str]:
    """Return every source file of plugins/ by its path there."""
    return {
        PurePosixPath(path.relative_to(PLUGINS).as_posix()): path.read_text(encoding="utf-8")
        for path in sorted(PLUGINS.rglob("*.py"))
    }


def test_sources_of_every_part_are_looked_at() -> None:
    looked_at = sources()
    assert PLUGIN in looked_at
    for part in (CORE, ADAPTERS, FLOW, INSIDE):
        assert any(file.is_relative_to(part) for file in looked_at), part


def test_sources_keep_the_architecture() -> None:
    found = [problem for file, source in sources().items() for problem in problems(file, source)]
    assert not found, "\n".join(found)


def test_plugin_imports_orthanc_once() -> None:
    """The rule above would hold of a plugin that no longer imports it, and then guard nothing."""
    importing = [
        file
        for file, source in sources().items()
        if any(below(module, "orthanc") for module in imports(ast.parse(source)))
    ]
    assert importing == [PLUGIN]


@pytest.mark.parametrize(
    ("file", "source", "named"),
    [
        ("understudy/flow/note.py", "import orthanc", "imports orthanc"),
        ("understudy/plugin/wake.py", "def wake():\n    import orthanc", "imports orthanc"),
        ("understudy/core/rules.py", "from orthanc import RestApiGet", "imports orthanc"),
        ("understudy/core/rules.py", "import os", "imports os"),
        ("understudy/core/rules.py", "from pathlib import Path", "imports pathlib.Path"),
        ("understudy/core/rules.py", "import pathlib", "imports pathlib"),
        ("understudy/core/rules.py", "import socket", "imports socket"),
        ("understudy/core/rules.py", "import threading", "imports threading"),
        ("understudy/core/rules.py", "import asyncio", "imports asyncio"),
        ("understudy/core/rules.py", "from concurrent.futures import Future", "imports concurrent"),
        ("understudy/core/rules.py", "import time", "imports time"),
        ("understudy/core/rules.py", "def now():\n    from time import monotonic", "imports time"),
        (
            "understudy/core/rules.py",
            "from datetime import datetime\nx = datetime.now()",
            "calls datetime.now",
        ),
        ("understudy/core/rules.py", "import random", "imports random"),
        ("understudy/core/rules.py", "import logging", "imports logging"),
        ("understudy/core/rules.py", "import httpx", "imports httpx"),
        ("understudy/core/rules.py", "x = open('/etc/passwd')", "uses open"),
        ("understudy/core/rules.py", "from understudy.adapters.ledger import Ledger", "outside core"),
        ("understudy/core/rules.py", "from understudy import config", "outside core"),
        ("understudy/core/rules.py", "from ..adapters import ledger", "relative import"),
        ("understudy/adapters/s3.py", "from understudy.flow.vault import Vault", "adapters know nothing"),
        ("understudy/flow/note.py", "from understudy.web.application import application", "who calls it"),
        ("understudy/plugin/roles.py", "import httpx", "standard library"),
        ("understudy_plugin.py", "from understudy.core.modes import Mode", "standard library"),
    ],
)
def test_problems_names_a_planted_violation(file: str, source: str, named: str) -> None:
    found = list(problems(PurePosixPath(file), source))
    assert any(named in problem for problem in found), found


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("understudy_plugin.py", "import orthanc\nfrom understudy.plugin import wake"),
        ("understudy/core/rules.py", "import dataclasses\nfrom understudy.core.model import Instance"),
        (
            "understudy/core/views.py",
            "from datetime import UTC, datetime\nx = datetime.fromtimestamp(0, UTC)",
        ),
        ("understudy/adapters/clock.py", "import time"),
        ("understudy/flow/note.py", "from understudy.adapters.ledger import Ledger\nimport threading"),
    ],
)
def test_problems_names_nothing_in_what_is_allowed(file: str, source: str) -> None:
    assert not list(problems(PurePosixPath(file), source))
