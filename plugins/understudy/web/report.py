"""Renders the closing report of an operation as one printable page without scripts and other files."""

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from importlib.resources import files

from pydantic import TypeAdapter

from understudy.core.report import Report, ReportTable
from understudy.core.text import visible

_ADAPTER = TypeAdapter(Report)

STYLE = (files("understudy.web") / "report.css").read_text(encoding="utf-8")

_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Allows only the style above, so that a report's page runs no script."""


def report_json(report: Report) -> bytes:
    """Return the report as JSON, as GET /reports/N answers it."""
    return _ADAPTER.dump_json(report, indent=2)


def parse_report(content: bytes) -> Report:
    """Return the report that `report_json` wrote, or raise pydantic's ValidationError."""
    return _ADAPTER.validate_json(content)


def render_report(report: Report) -> str:
    """Return the report as one HTML page; all values are escaped."""
    return "\n".join(_page(report)) + "\n"


def _page(report: Report) -> Iterator[str]:
    word = "Succeeded" if report.succeeded else "Failed"
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{_text(report.title)} · {_text(report.site)}</title>"
    yield f"<style>{STYLE}</style></head><body><main>"
    yield f"<h1>{_text(report.title)}</h1>"
    yield (
        f'<p class="origin">Site {_text(report.site)} · {_text(report.kind)} · '
        f'<time datetime="{_text(report.started)}">{_moment(report.started)}</time> to '
        f'<time datetime="{_text(report.finished)}">{_moment(report.finished)}</time></p>'
    )
    failed = "" if report.succeeded else " failed"
    yield f'<p class="outcome{failed}"><b>{word}.</b> {_text(report.outcome)}</p>'
    if report.summary:
        yield '<h2>Summary</h2><table class="summary"><tbody>'
        for row in report.summary:
            yield f'<tr><th scope="row">{_text(row.name)}</th><td>{_text(row.value)}</td></tr>'
        yield "</tbody></table>"
    if report.hints:
        yield (
            "<h2>What to do next</h2><ul>"
            + "".join(f"<li>{_text(hint)}</li>" for hint in report.hints)
            + "</ul>"
        )
    for table in report.tables:
        yield from _table(table)
    if report.details:
        yield "<h2>Details</h2>" + "".join(f"<p>{_text(detail)}</p>" for detail in report.details)
    yield "</main><footer>Written by Understudy. Studies and instances are named by UID only.</footer>"
    yield "</body></html>"


def _text(text: str) -> str:
    return escape(visible(text))


def _moment(text: str) -> str:
    return _text(text.replace("T", " ").replace("+00:00", " UTC"))


def _table(table: ReportTable) -> Iterator[str]:
    yield f'<div class="scroll"><table><caption>{_text(table.caption)}</caption><thead><tr>'
    yield "".join(f'<th scope="col">{_text(column)}</th>' for column in table.columns)
    yield "</tr></thead><tbody>"
    for row in table.rows:
        yield "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>"
    if not table.rows:
        yield f'<tr><td colspan="{max(1, len(table.columns))}">none</td></tr>'
    yield "</tbody></table></div>"
