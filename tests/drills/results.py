"""Keeps what the drills found: a table at the end of the run, and build/drills.json."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.drills.faults import Script

FILE = "drills.json"


@dataclass(frozen=True, slots=True)
class Result:
    """What one drill found."""

    drill: str
    rows: tuple[Mapping[str, str | int | float], ...]
    """The table: one mapping of column to value a row."""
    script: Script | None
    runs: tuple[Mapping[str, Any], ...]
    """Each fault's own figures; in the file alone."""
    date: str


class Results:
    """Collects the results of a session."""

    def __init__(self) -> None:
        self._results: list[Result] = []

    def add(
        self,
        drill: str,
        rows: Sequence[Mapping[str, str | int | float]],
        *,
        script: Script | None = None,
        runs: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Add what a drill found; before its assertions, so that a failure is in the table as well."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._results.append(Result(drill, tuple(rows), script, tuple(runs), now))

    def write(self, folder: Path) -> None:
        """Write the results of this session into the file; those of drills that did not run stay."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        kept |= {result.drill: asdict(result) for result in self._results}
        text = json.dumps(kept, indent=1, default=lambda value: value.value) + "\n"
        temporary = path.with_suffix(".new")
        temporary.write_text(text)
        temporary.rename(path)

    def lines(self) -> list[str]:
        """Return the tables as text."""
        lines: list[str] = []
        for result in self._results:
            seed = f" (DRILL_SEED={result.script.seed})" if result.script else ""
            lines += ["", f"{result.drill}{seed}", *_table(result.rows)]
        return lines


def _table(rows: Sequence[Mapping[str, str | int | float]]) -> list[str]:
    shown = [{column: _text(value) for column, value in row.items()} for row in rows]
    columns = list(dict.fromkeys(column for row in shown for column in row))
    widths = [max(len(column), *(len(row.get(column, "")) for row in shown)) for column in columns]
    header = "  ".join(column.ljust(width) for column, width in zip(columns, widths, strict=True))
    return [
        f"  {header}".rstrip(),
        *(
            "  "
            + "  ".join(
                row.get(column, "").ljust(width) for column, width in zip(columns, widths, strict=True)
            ).rstrip()
            for row in shown
        ),
    ]


def _text(value: str | float) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
