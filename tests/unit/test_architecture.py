"""Holds the direction of imports, and that the core decides without looking at the world.

Every rule is shown to fail on a planted violation.
"""

import ast
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import pytest

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
PLUGIN = PurePosixPath("understudy_plugin.py")
CORE, SYSTEM, LEDGER, ENGINE, HOLDERS, ADAPTERS, FLOW, INSIDE = (
    PurePosixPath("understudy", name)
    for name in ("core", "system", "ledger", "engine", "holders", "adapters", "flow", "plugin")
)
BELOW = {
    CORE: frozenset({"core"}),
    SYSTEM: frozenset({"system"}),
    LEDGER: frozenset({"core", "system", "ledger"}),
    ENGINE: frozenset({"core", "system", "ledger", "engine"}),
    HOLDERS: frozenset({"core", "system", "ledger", "engine", "holders"}),
    ADAPTERS: frozenset({"core", "system", "config", "plugin", "adapters"}),
}
"""What of ours the lower floors import: what stands below them, and themselves."""

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


WEB = PurePosixPath("understudy/web")
PAGES = frozenset(WEB / name for name in ("pages.py", "report.py"))
"""They give out files: the page of a person may wait for its disk, in a thread of its own."""
WAITS_FOR_NO_DISK = frozenset(
    {ENGINE / "board.py", FLOW / "appliance.py", FLOW / "disk.py", FLOW / "status.py"}
)
FILE_MODULES = frozenset({"os", "shutil", "tempfile", "glob", "io"})
IO_MODULES = frozenset(
    {"socket", "ssl", "subprocess", "select", "selectors", "ftplib", "smtplib", "sqlite3"}
    | {"http.client", "urllib.request", "httpx", "sqlalchemy"}
)
"""Networks, processes and databases: who answers a request asks the facade, and nobody else."""
FILE_CALLS = frozenset(
    {"open", "read_bytes", "read_text", "write_bytes", "write_text", "is_file", "is_dir", "iterdir"}
    | {"glob", "rglob", "unlink", "touch", "mkdir", "lstat", "statvfs"}
)


MOST_PUBLIC_METHODS = 25
ASKS_THE_WHOLE_LEDGER = frozenset(FLOW / name for name in ("appliance.py", "backup.py"))
"""The facade, and who copies the file; every other part of the flow takes the books that it uses."""


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
        if top == "understudy" and module != "understudy":
            yield from _above(file, module)
        if file.is_relative_to(CORE) and top not in PURE | {"understudy"} and module not in PURE_PARTS:
            yield f"{file}: imports {module}: core has no IO, threads, chance or clock"
        if file.is_relative_to(WEB):
            if any(below(module.removesuffix(".*"), name) for name in IO_MODULES):
                yield f"{file}: imports {module}: web does no IO of its own"
            if any(
                below(module, f"understudy.{floor}") for floor in ("adapters", "ledger", "flow", "wiring")
            ):
                yield f"{file}: imports {module}: web knows the facade alone"
        if (
            module == "understudy.ledger.Ledger"
            and file.is_relative_to(FLOW)
            and file not in ASKS_THE_WHOLE_LEDGER
        ):
            yield f"{file}: imports {module}: a part of the flow takes the books that it uses"
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
    yield from _large_classes(file, tree)
    if (file.is_relative_to(WEB) and file not in PAGES) or file in WAITS_FOR_NO_DISK:
        yield from _file_calls(file, tree)


def _above(file: PurePosixPath, module: str) -> Iterator[str]:
    """Yield where a lower floor imports a module of ours that does not stand below it."""
    for floor, lower in BELOW.items():
        if file.is_relative_to(floor) and not any(below(module, f"understudy.{name}") for name in lower):
            yield f"{file}: imports {module}: of ours {floor.name} imports {sorted(lower)} alone"


def _large_classes(file: PurePosixPath, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            methods = {
                part.name for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            public = sum(not name.startswith("_") for name in methods)
            if public > MOST_PUBLIC_METHODS:
                yield f"{file}: {node.name} has {public} public methods: {MOST_PUBLIC_METHODS} are the most"
            if file.is_relative_to(LEDGER) and len(node.bases) > 1:
                yield f"{file}: {node.name} has {len(node.bases)} bases: books are joined by composition"


def _file_calls(file: PurePosixPath, tree: ast.AST) -> Iterator[str]:
    """Yield what looks at files itself where callers must not wait for a disk: workers look, boards tell."""
    for module in imports(tree):
        if module.split(".")[0] in FILE_MODULES:
            yield f"{file}: imports {module}: who answers status, health or promote waits for no disk"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if name in FILE_CALLS:
            yield f"{file}: calls {name}: who answers status, health or promote waits for no disk"


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
    for part in (CORE, SYSTEM, LEDGER, ENGINE, HOLDERS, ADAPTERS, FLOW, INSIDE):
        assert any(file.is_relative_to(part) for file in looked_at), part


def test_sources_keep_the_architecture() -> None:
    found = [problem for file, source in sources().items() for problem in problems(file, source)]
    assert not found, "\n".join(found)


def shared_names(files: Mapping[PurePosixPath, str]) -> Mapping[str, Sequence[PurePosixPath]]:
    """Return the files of every public class name that more than one class has."""
    found: dict[str, list[PurePosixPath]] = {}
    for file, source in files.items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(file)
    return {name: places for name, places in found.items() if len(places) > 1}


def test_no_two_public_classes_have_one_name() -> None:
    assert not shared_names(sources())


def test_shared_names_tells_a_planted_one() -> None:
    first, second = PurePosixPath("understudy/core/a.py"), PurePosixPath("understudy/flow/b.py")
    planted = {first: "class Report: ...\nclass _Row: ...", second: "class Report: ...\nclass _Row: ..."}
    assert shared_names(planted) == {"Report": [first, second]}


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
        ("understudy/core/rules.py", "from understudy.ledger import Ledger", "of ours core imports"),
        ("understudy/core/rules.py", "from understudy import config", "of ours core imports"),
        ("understudy/core/rules.py", "from ..adapters import s3", "relative import"),
        (
            "understudy/ledger/custody.py",
            "from understudy.adapters.s3 import S3Store",
            "of ours ledger",
        ),
        (
            "understudy/ledger/custody.py",
            "from understudy.engine.workers import Workers",
            "of ours ledger",
        ),
        (
            "understudy/system/files.py",
            "from understudy.core.model import Timestamp",
            "of ours system",
        ),
        ("understudy/adapters/s3.py", "from understudy.holders.vault import Vault", "of ours adapters"),
        ("understudy/engine/operations.py", "from understudy.flow.settle import x", "of ours engine"),
        ("understudy/holders/vault.py", "from understudy.flow.courier import Courier", "of ours holders"),
        ("understudy/holders/vault.py", "from understudy.adapters.s3 import S3Store", "of ours holders"),
        ("understudy/flow/note.py", "from understudy.web.application import application", "who calls it"),
        ("understudy/flow/verify.py", "from understudy.ledger import EventBook, Ledger", "takes the books"),
        (
            "understudy/ledger/custody.py",
            "class CustodyBook:\n" + "".join(f"    def f{number}(self): ...\n" for number in range(26)),
            "CustodyBook has 26 public methods",
        ),
        ("understudy/ledger/__init__.py", "class Ledger(CustodyBook, GapBook): ...", "by composition"),
        ("understudy/web/reading.py", "import os", "waits for no disk"),
        ("understudy/web/reading.py", "import socket", "no IO of its own"),
        ("understudy/web/pages.py", "import http.client", "no IO of its own"),
        ("understudy/web/pages.py", "from urllib.request import urlopen", "no IO of its own"),
        ("understudy/web/reading.py", "from understudy.ledger import Ledger", "the facade alone"),
        ("understudy/web/acting.py", "from understudy.flow.appliance import Appliance", "the facade alone"),
        ("understudy/web/metrics.py", "def f(p):\n    return p.read_text()", "calls read_text"),
        ("understudy/flow/status.py", "def f(p):\n    return p.is_file()", "calls is_file"),
        ("understudy/flow/appliance.py", "def f():\n    return open('x')", "calls open"),
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
        (
            "understudy/ledger/anchor.py",
            "import sqlalchemy\nfrom understudy.core.model import Proof\n"
            "from understudy.system.files import write_durably",
        ),
        ("understudy/flow/note.py", "from understudy.ledger import IntakeBook\nimport threading"),
        ("understudy/flow/appliance.py", "from understudy.ledger import Ledger"),
        (
            "understudy/core/rules.py",
            "class Rules:\n"
            + "".join(
                f"    def f{number}(self): ...\n    def _f{number}(self): ...\n" for number in range(25)
            ),
        ),
    ],
)
def test_problems_names_nothing_in_what_is_allowed(file: str, source: str) -> None:
    assert not list(problems(PurePosixPath(file), source))
