"""Writes the demo's report as one standalone page: no script, no other file."""

from collections.abc import Sequence
from html import escape

from tests.demo.narrator import Told

_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; padding: 2rem 1.25rem; max-width: 64rem; }
body { font: 1rem/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { margin-bottom: .25rem; }
.outcome { padding: 1rem 1.25rem; border-left: .4rem solid #0b6b46; font-size: 1.1rem; font-weight: 600; }
.outcome.failed { border-color: #b3261e; }
table { width: 100%; border-collapse: collapse; margin: 1rem 0 2rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .75rem .35rem 0; border-bottom: 1px solid #8886; text-align: left; }
td { vertical-align: top; }
@media (max-width: 40rem) { table { display: block; overflow-x: auto; } }
.figure { text-align: right; white-space: nowrap; }
.failed td { color: #b3261e; }
"""


def page(
    *,
    when: str,
    outcome: str,
    failed: bool,
    figures: Sequence[tuple[str, str]],
    columns: Sequence[str],
    holders: Sequence[Sequence[str]],
    told: Sequence[Told],
) -> str:
    """Return the page; everything that came from outside is escaped."""
    lines = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width"><title>Understudy: the demo</title>',
        f"<style>{_STYLE}</style></head><body><h1>A whole outage, played</h1><p>{escape(when)}</p>",
        f'<p class="outcome{" failed" if failed else ""}">{escape(outcome)}</p>',
        "<h2>Figures</h2><table>",
        *(
            f'<tr><th>{escape(name)}</th><td class="figure">{escape(value)}</td></tr>'
            for name, value in figures
        ),
        "</table><h2>Who has what</h2><table><tr>",
        *(f"<th{_figure(number)}>{escape(column)}</th>" for number, column in enumerate(columns)),
        "</tr>",
        *(_row(row) for row in holders),
        "</table><h2>Step by step</h2><table><tr>",
        '<th class="figure">at</th><th class="figure">took</th><th>step</th><th>seen</th></tr>',
        *(
            f'<tr{" class=failed" if step.failed else ""}><td class="figure">{step.began:.1f} s</td>'
            f'<td class="figure">{step.seconds:.1f} s</td>'
            f"<td>{escape(step.title)}</td><td>{escape(step.said)}</td></tr>"
            for step in told
        ),
        "</table></body></html>",
    ]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    marked = (f"<td{_figure(number)}>{escape(cell)}</td>" for number, cell in enumerate(cells))
    return f"<tr>{''.join(marked)}</tr>"


def _figure(number: int) -> str:
    return ' class="figure"' if number else ""
