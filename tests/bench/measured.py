"""Figures with their peers: how they are compared, printed and kept in build/bench.json."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured, ours and the peer's."""

    name: str
    ours: float
    peer: float
    unit: str
    against: str
    """What the peer is."""
    less_is_better: bool = False
    detail: str = ""
    """The single rounds, ours / peer, for whoever doubts the median; or under what conditions."""
    goal: float | None = None
    """The ratio that is asked for."""
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def ratio(self) -> float:
        """How many times better ours is, whichever way better lies."""
        better, worse = (self.peer, self.ours) if self.less_is_better else (self.ours, self.peer)
        return better / worse


def medians(
    name: str,
    ours: Sequence[float],
    peer: Sequence[float],
    unit: str,
    against: str,
    *,
    goal: float | None = None,
    less_is_better: bool = False,
) -> Figure:
    """Return the figure of the medians of some rounds."""
    rounds = " / ".join(" ".join(f"{value:.3g}" for value in values) for values in (ours, peer))
    middle, peers_middle = statistics.median(ours), statistics.median(peer)
    return Figure(name, middle, peers_middle, unit, against, less_is_better, rounds, goal)


def label(number: int) -> str:
    """Return a number of instances as names of figures have it."""
    return f"{number // 1000}k" if number < 1_000_000 else f"{number // 1_000_000}m"


def keep(path: Path, figures: Sequence[Figure]) -> None:
    """Write the figures to the list at `path`; figures of other names that are there stay."""
    kept: dict[str, dict[str, object]] = {}
    if path.exists():
        kept = {entry["name"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))}
    for figure in figures:
        entry = asdict(figure) | {"ratio": round(figure.ratio, 3)}
        entry |= {"ours": float(f"{figure.ours:.4g}"), "peer": float(f"{figure.peer:.4g}")}
        kept[figure.name] = entry
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(kept.values()), indent=2) + "\n", encoding="utf-8")


def show(console: Console, figures: Sequence[Figure]) -> None:
    """Print the figures as a table."""
    table = Table(title="Ours beside the peer", title_justify="left", title_style="bold")
    for column in ("figure", "ours", "peer", "unit", "ratio", "goal", "peer is", "rounds, ours / peer"):
        table.add_column(column, justify="right" if column in ("ours", "peer", "ratio", "goal") else "left")
    for figure in figures:
        table.add_row(
            figure.name,
            f"{figure.ours:.4g}",
            f"{figure.peer:.4g}",
            figure.unit,
            f"{figure.ratio:.2f}",
            "" if figure.goal is None else f"{figure.goal:g}",
            figure.against,
            figure.detail,
        )
    console.print(table)
