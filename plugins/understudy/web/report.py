"""Renders the closing report of an operation to one standalone page: no script, no other file, fit for printing."""

import base64
import hashlib
from collections.abc import Iterator
from html import escape

from pydantic import TypeAdapter

from understudy.core.report import Report, ReportTable

_ADAPTER = TypeAdapter(Report)

STYLE = """
:root { color-scheme: light dark; --ink: #14202b; --soft: #516070; --line: #d5dde5; --page: #fff; --panel: #f4f7f9;
  --good: #0b6b46; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eef3; --soft: #a3b1bf; --line: #33424f; --page: #10181f;
  --panel: #18232c; --good: #5fd3a0; --bad: #ff8f85; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { margin: 0 0 .25rem; font-size: 1.75rem; line-height: 1.2; }
h2 { margin: 2.5rem 0 .5rem; font-size: 1.15rem; }
.origin { margin: 0; color: var(--soft); }
.outcome { margin: 1.5rem 0; padding: 1rem 1.25rem; border-left: .4rem solid var(--good); background: var(--panel);
  font-size: 1.1rem; font-weight: 600; }
.outcome.failed { border-color: var(--bad); }
.outcome b { color: var(--good); }
.outcome.failed b { color: var(--bad); }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { padding: 2rem 0 .5rem; text-align: left; font-weight: 600; font-size: 1.15rem; }
th, td { padding: .4rem .75rem .4rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
thead th { color: var(--soft); font-weight: 600; }
.summary th { width: 40%; font-weight: 400; color: var(--soft); }
.summary td { font-weight: 600; }
footer { margin-top: 3rem; color: var(--soft); font-size: .875rem; }
@media print { body { max-width: none; padding: 0; } tr { break-inside: avoid; } .scroll { overflow: visible; } }
"""

_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Allows the one style above and nothing else; a page of a report never runs anything."""


def report_json(report: Report) -> bytes:
    """Return the report as JSON, for the file that GET /reports/N answers."""
    return _ADAPTER.dump_json(report, indent=2)


def parse_report(content: bytes) -> Report:
    """Return the report that `report_json` wrote, or raise pydantic's ValidationError."""
    return _ADAPTER.validate_json(content)


def render_report(report: Report) -> str:
    """Return the report as one HTML page; everything that came from outside is escaped."""
    return "\n".join(_page(report)) + "\n"


def _page(report: Report) -> Iterator[str]:
    word = "Succeeded" if report.succeeded else "Failed"
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{escape(report.title)} · {escape(report.site)}</title><style>{STYLE}</style></head><body><main>"
    yield f"<h1>{escape(report.title)}</h1>"
    yield (
        f'<p class="origin">Site {escape(report.site)} · {escape(report.kind)} · '
        f'<time datetime="{escape(report.started)}">{_moment(report.started)}</time> to '
        f'<time datetime="{escape(report.finished)}">{_moment(report.finished)}</time></p>'
    )
    yield f'<p class="outcome{"" if report.succeeded else " failed"}"><b>{word}.</b> {escape(report.outcome)}</p>'
    if report.summary:
        yield '<h2>Summary</h2><table class="summary"><tbody>'
        for row in report.summary:
            yield f'<tr><th scope="row">{escape(row.name)}</th><td>{escape(row.value)}</td></tr>'
        yield "</tbody></table>"
    if report.hints:
        yield (
            "<h2>What to do next</h2><ul>"
            + "".join(f"<li>{escape(hint)}</li>" for hint in report.hints)
            + "</ul>"
        )
    for table in report.tables:
        yield from _table(table)
    if report.details:
        yield "<h2>Details</h2>" + "".join(f"<p>{escape(detail)}</p>" for detail in report.details)
    yield "</main><footer>Written by Understudy. Studies and instances are named by UID only.</footer></body></html>"


def _moment(text: str) -> str:
    return escape(text.replace("T", " ").replace("+00:00", " UTC"))


def _table(table: ReportTable) -> Iterator[str]:
    yield f'<div class="scroll"><table><caption>{escape(table.caption)}</caption><thead><tr>'
    yield "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    yield "</tr></thead><tbody>"
    for row in table.rows:
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
    if not table.rows:
        yield f'<tr><td colspan="{max(1, len(table.columns))}">none</td></tr>'
    yield "</tbody></table></div>"
