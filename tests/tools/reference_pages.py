"""Writes the generated parts of the reference pages (usage: python -m tests.tools.reference_pages).

Rule 1: what the code says is generated, what a person says is written by hand around it. A generated part
stands between the two comments `begin NAME` and `end NAME`; nothing outside of them is touched.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from understudy import __version__
from understudy.config import schema_json
from understudy.core import modes, obligations, outcomes
from understudy.web.access import Access
from understudy.web.application import application

from tests.unit.web_fakes import FakeFacade, by_headers, routes_of

DOCS = Path(__file__).resolve().parents[2] / "docs"


def configuration_keys() -> str:
    """Return one table for each section of the schema, the outermost first."""
    schema = json.loads(schema_json())
    parts = [_section("Understudy", schema)]
    parts += [_section(name, schema["$defs"][name]) for name in sorted(schema["$defs"])]
    return "\n\n".join(parts)


def mode_diagram() -> str:
    """Return the table of modes as a Mermaid diagram."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {modes.Mode.STANDBY.value}"]
    lines += [
        f"    {origin.value} --> {target.value}: {event.value}"
        for (origin, event), target in modes.TRANSITIONS.items()
    ]
    return "\n".join([*lines, "```"])


def obligation_table() -> str:
    """Return the table of obligations."""
    rows = [
        [f"`{origin.value}`", event.value, f"`{target.value}`"]
        for (origin, event), target in obligations.TRANSITIONS.items()
    ]
    return _table(("from", "event", "to"), rows)


def outcome_table() -> str:
    """Return the table of outcomes."""
    rows = [
        [row.answer.value, _code(row), _outcome(row), row.words, row.hint, row.section]
        for row in outcomes.TABLE
    ]
    return _table(("answer", "code", "outcome", "meaning", "what a person can do", "standard"), rows)


def routes() -> str:
    """Return the REST calls with the role that each needs."""
    app = application(FakeFacade(reports=Path()), __version__, by_headers)
    accesses = routes_of(app)
    rows = [
        [f"`{method.upper()} {path}`", _role(accesses[method.upper(), path]), call["summary"]]
        for path, calls in app.openapi()["paths"].items()
        for method, call in calls.items()
    ]
    return _table(("call", "role", "what"), rows)


PARTS: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "configuration.md": {"keys": configuration_keys},
    "architecture.md": {"modes": mode_diagram, "obligations": obligation_table},
    "outcomes.md": {"outcomes": outcome_table},
    "rest.md": {"routes": routes},
}


def renewed(page: str, text: str) -> str:
    """Return the page with every generated part made again; raise ValueError where a mark is missing."""
    for name, make in PARTS[page].items():
        marks = re.findall(rf"^<!-- (?:begin {name}\b.*|end {name}) -->$", text, re.MULTILINE)
        if len(marks) != 2:
            raise ValueError(f"docs/{page} has to have one line `begin {name}` and one line `end {name}`")
        before, begin, rest = text.partition(marks[0] + "\n")
        _, end, after = rest.partition(marks[1])
        text = before + begin + make() + "\n" + end + after
    return text


def _outcome(row: outcomes.Row) -> str:
    return f"`{row.outcome.value}`" + (", the second time" if row.doubted else "")


def _code(row: outcomes.Row) -> str:
    """Return the codes of a row as its standard writes them."""
    if isinstance(row.low, (outcomes.Loss, outcomes.Stow)):
        return row.low.name.lower().replace("_", " ")
    wide = row.answer in (outcomes.Answer.STATUS, outcomes.Answer.REJECTION)
    low, high = (f"0x{code:04X}" if wide else str(code) for code in (row.low, row.high))
    return low if low == high else f"{low} to {high}"


def _role(access: Access | None) -> str:
    if access is None:
        raise ValueError("a route does not say by `open_to` who may call it")
    return "nobody" if access.role is None else access.role.word


def _section(name: str, section: Mapping[str, Any]) -> str:
    required = section.get("required", ())
    rows = [
        [
            f"`{key}`",
            _kind(value),
            "required" if key in required else _default(value.get("default")),
            _description(value),
        ]
        for key, value in section["properties"].items()
    ]
    table = _table(("key", "type", "default", "meaning"), rows)
    return f"### {name}\n\n{section['description']}\n\n{table}"


def _kind(value: Mapping[str, Any]) -> str:
    """Return the type of a key in words, with a link where it is a section of its own."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for choice in ("anyOf", "oneOf"):
        if choice in value:
            return " or ".join(_kind(item) for item in value[choice])
    if value.get("type") == "array":
        return f"list of {_kind(value['items'])}"
    limits = [
        f"{words} {value[limit]}"
        for limit, words in (
            ("minimum", "from"),
            ("exclusiveMinimum", "over"),
            ("maximum", "to"),
        )
        if limit in value
    ]
    return " ".join([str(value["type"]), *limits])


def _default(value: object) -> str:
    return "see there" if isinstance(value, dict) else f"`{json.dumps(value)}`"


def _description(value: Mapping[str, Any]) -> str:
    text = str(value.get("description", ""))
    if not text and "$ref" in value:
        text = "See there."
    examples = [f"`{json.dumps(example)}`" for example in value.get("examples", ())]
    return " ".join([text, *(f"Example: {example}." for example in examples)]).strip()


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main() -> int:
    """Renew every page and say which changed."""
    for page in PARTS:
        path = DOCS / page
        before = path.read_text(encoding="utf-8")
        after = renewed(page, before)
        if after != before:
            path.write_text(after, encoding="utf-8")
        print(f"docs: docs/{page} {'is renewed' if after != before else 'is up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
