"""Text is text: no value ends a command, reaches the terminal as anything but signs, or begins a line."""

import argparse
import ast
import contextlib
import dataclasses
import json
import re
import socketserver
import threading
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from functools import cache
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import understudy.cli
from fastapi.routing import APIRoute, iter_route_contexts
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from understudy.adapters.boot import OURS
from understudy.cli import local, restore, run
from understudy.cli.errors import CommandError
from understudy.cli.parser import parser
from understudy.cli.progress import Bar
from understudy.cli.restore import _list
from understudy.core.model import Timestamp
from understudy.core.packing import StudyFacts
from understudy.core.text import visible, visible_json
from understudy.flow.contents import Failure
from understudy.flow.restore import Catalog, CatalogStudy
from understudy.plugin.recovery import NOTE_SUFFIX, QUARANTINE
from understudy.web.application import application

from tests.unit.web_fakes import FakeFacade, by_headers

HOSTILE = {
    "closing markup": "[/red]",
    "markup": "[bold red]x[/bold red] [link=https://example.org]y[/link] :smile:",
    "escape sequence": "\x1b[2J\x1b]0;title\x07\x1b[31m",
    "eight-bit escape": "\x9b31m\x9d0;title\x9c",
    "line ends": "a\nFORGED b\r\nFORGED c\rFORGED\x0bFORGED\x0cFORGED\x85FORGED\u2028FORGED\u2029FORGED",
    "bidirectional": "\u202etxet\u202c \u2066a\u2069 \u200f\u061c",
    "other controls": "\x00\x08\x7f\t\ufeff\u00ad\U000e0041",
}

MOMENTS = frozenset(
    {"now", "mode_since", "since", "horizon", "at", "until", "last", "owed_since", "refused_since"}
    | {"scrub_began", "scrub_ended"}
)
NOW = "2026-03-02T03:14:15.000+00:00"

ROUTES = [
    route.original_route
    for route in iter_route_contexts(application(FakeFacade(reports=Path()), "0.1.0", by_headers).routes)
]


def answer_of(method: str, path: str) -> Any:
    """Return the type that the REST API answers to a call."""
    for route in ROUTES:
        if isinstance(route, APIRoute) and route.path_regex.match(path) and method in (route.methods or ()):
            return route.response_model
    raise LookupError(f"there is no route {method} {path}")


def commands(command: argparse.ArgumentParser, before: str = "") -> Iterator[tuple[str, Sequence[str]]]:
    """Yield each command that asks the agent, with an argument for all that it requires."""
    below = [action for action in command._actions if isinstance(action, argparse._SubParsersAction)]
    for action in below:
        for name, chosen in action.choices.items():
            yield from commands(chosen, f"{before} {name}".strip())
    run = command.get_default("run")
    # What these print of others has tests of its own below, or is nobody's text.
    if not below and run is not restore.restore and run.__module__ != local.__name__:
        needed = [action for action in command._actions if action.required and action.nargs != "*"]
        yield before, [word for action in needed for word in (*action.option_strings[:1], "7")]


WORDS = dict(commands(parser()))


def filled(kind: Any, text: str, name: str = "") -> Any:
    """Return JSON of this type with the text in every string that is no moment."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return filled(arguments[0], text, name)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {text: 1}
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return [filled(arguments[0], text, name)]
    if kind is Timestamp:
        return NOW
    kind = getattr(kind, "__supertype__", kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        # A running operation would be waited for.
        return list(kind)[1 if name == "state" and len(kind) > 1 else 0].value
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return {field.name: filled(hints[field.name], text, field.name) for field in dataclasses.fields(kind)}
    if hasattr(kind, "model_fields"):
        hints = typing.get_type_hints(kind)
        return {field: filled(hints[field], text, field) for field in kind.model_fields}
    if kind is str:
        return NOW if name in MOMENTS else text
    return {bool: True, int: 1, float: 1.0}[kind]


@cache
def _validator(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    text = ""
    refuses = False


class _Answering(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/understudy")
        kind = answer_of(self.command, path)
        text = self.server.text
        answer = filled(kind, text)
        if path in ("/failback", "/failback/settle"):
            # The commands wait for its end.
            answer["state"] = "done"
        if self.server.refuses:
            answer = {"error": text, "message": text, "hint": text, "details": [text, text]}
        else:
            _validator(kind).validate_python(answer, strict=False)
        # As the agent writes it: with no escape that JSON does not ask for.
        content = json.dumps(answer, ensure_ascii=False).encode()
        self.send_response(409 if self.server.refuses else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Server]:
    path = tmp_path_factory.mktemp("agent") / "agent.sock"
    with _Server(str(path), _Answering) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(params=list(HOSTILE.values()), ids=list(HOSTILE))
def agent(server: _Server, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> _Server:
    monkeypatch.setenv("UNDERSTUDY_SOCKET", str(server.server_address))
    monkeypatch.setenv("COLUMNS", "20000")
    monkeypatch.setenv("TZ", "UTC")
    server.text, server.refuses = request.param, False
    return server


def text_is_text(shown: str, *, coloured: bool = False) -> None:
    """Assert that a terminal shows this, and does nothing."""
    assert shown
    if coloured:
        # Colours, and what a progress bar writes to be drawn in its place again.
        shown = re.sub(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\r?\x1b\[[12][KA]", "", shown)
    lines = shown.split("\n")
    assert [line for line in lines if line != visible(line)] == []
    assert [line for line in lines if line.lstrip().startswith("FORGED")] == []


@pytest.mark.parametrize("words", [*WORDS, "failback --dry-run"])
@pytest.mark.parametrize("coloured", [False, True], ids=["plain", "coloured"])
def test_command_shows_hostile_values_as_text(
    agent: _Server,
    words: str,
    coloured: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if coloured:
        monkeypatch.setenv("FORCE_COLOR", "1")
    assert run([*words.split(), *WORDS.get(words, ())]) == 0
    told = capsys.readouterr()
    text_is_text(told.out + told.err, coloured=coloured)


def test_refusal_shows_hostile_values_as_text(agent: _Server, capsys: pytest.CaptureFixture[str]) -> None:
    agent.refuses = True
    assert run(["status"]) == 1
    told = capsys.readouterr()
    text_is_text(told.err)
    assert len(told.err.splitlines()) == 4


@pytest.mark.parametrize(
    "words",
    ["status", "operations", "obligations", "dead-letters", "damages", "gaps", "conflicts", "modalities"],
)
def test_json_says_what_the_agent_said_and_moves_no_terminal(
    agent: _Server, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([words, "--json"]) == 0
    shown = capsys.readouterr().out
    assert json.loads(shown) == filled(answer_of("GET", f"/{words}"), agent.text)
    text_is_text(shown)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_list_of_a_vault_shows_hostile_patients_as_text(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20000")
    facts = StudyFacts(**dict.fromkeys((field.name for field in dataclasses.fields(StudyFacts)), text))
    study = CatalogStudy(text, facts, 1, 1, 1, 0.0, 0.0)
    assert _list(Catalog((study,), (), (text,), 1)) == 0
    told = capsys.readouterr()
    text_is_text(told.out + told.err)
    with pytest.raises(CommandError):
        _list(Catalog((study,), (Failure(text, text),), (), 0))
    text_is_text(capsys.readouterr().out)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_quarantine_shows_hostile_notes_as_text(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / OURS / QUARANTINE
    folder.mkdir(parents=True)
    name = text.replace("/", "").replace("\x00", "") or "x"
    with contextlib.suppress(OSError):
        (folder / name).write_bytes(b"x")
        (folder / (name + NOTE_SUFFIX)).write_text(json.dumps({"reason": text}))
    monkeypatch.setenv("UNDERSTUDY_STORAGE", str(tmp_path))
    assert run(["quarantine"]) == 0
    text_is_text(capsys.readouterr().out)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("coloured", [False, True], ids=["plain", "coloured"])
def test_progress_shows_a_hostile_message_as_text(
    text: str, coloured: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20000")
    if coloured:
        monkeypatch.setenv("FORCE_COLOR", "1")
    with Bar(text, text) as bar:
        bar.show(1, 2, 1.0, 1.0, text)
    told = capsys.readouterr().err
    # The bar itself moves the cursor.
    text_is_text(re.sub(r"\x1b\[(\?25[lh]|[0-9]*[A-K])|\r", "", told), coloured=coloured)


def test_commands_that_ask_the_agent_are_tried_and_no_other() -> None:
    assert {"status", "routes explain", "promote", "heal", "conflicts"} <= set(WORDS)
    assert not {"init", "restore", "user add", "certificate list"} & set(WORDS)
    assert WORDS["delete"] == ["7", "--reason", "7"]


def test_nothing_else_in_the_command_prints() -> None:
    """A print, a table or a text of rich's own would read markup or let control characters through."""
    folder = Path(understudy.cli.__file__).parent
    printing = []
    for path in sorted(folder.glob("*.py")):
        if path.name in ("plain.py", "screen.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            name = node.func if isinstance(node, ast.Call) else None
            if isinstance(name, ast.Name) and name.id in ("print", "Console", "Table", "Text"):
                printing.append(f"{path.name}:{name.lineno} {name.id}")
            if isinstance(name, ast.Attribute) and ast.unparse(name) in (
                "Text.assemble",
                "Text.from_markup",
                "sys.stdout.write",
                "sys.stderr.write",
            ):
                printing.append(f"{path.name}:{name.lineno} {ast.unparse(name)}")
    assert printing == []


ANY = st.text(st.characters(codec=None))


@given(ANY)
def test_visible_text_is_one_printable_line(text: str) -> None:
    shown = visible(text)
    assert len(shown.splitlines()) <= 1
    assert visible(shown) == shown
    shown.encode()


@given(st.recursive(ANY | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(ANY, inner)))
def test_visible_json_says_the_same(document: object) -> None:
    shown = visible_json(json.dumps(document, ensure_ascii=False))
    assert json.loads(shown) == document
    assert visible(shown) == shown


@pytest.mark.parametrize("name", ["Łukasz^Ωμέγα", "山田^太郎", "山田　太郎", "ﺡﺴﻦ", "می‌خواهم", "Müller^Jörg"])
def test_names_of_people_are_shown_as_they_are(name: str) -> None:
    assert visible(name) == name
