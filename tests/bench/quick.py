"""Says within four minutes whether intake, delivery, vault or ledger fell: python -m tests.bench.quick.

Rule 1: the table of docs/performance.md says what each ratio is. Below half of that is a fall.
Rule 2: a figure that is that low is measured again before the run fails: the machine may have been busy.
"""

import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console

from tests.bench.deliver import deliver
from tests.bench.intake import IntakeSize, intake
from tests.bench.ledger import ledger
from tests.bench.measured import Figure, show
from tests.bench.parts import FOLDER, remove_leftovers
from tests.bench.vault import directory
from tests.stack import REPOSITORY

PAGE = REPOSITORY / "docs" / "performance.md"
_TABLE = re.compile(r"<!-- begin quick[^\n]*-->\n(.*?)<!-- end quick -->", re.DOTALL)
_ROW = re.compile(r"^\| `(?P<name>\w+)` \|.*\| (?P<ratio>[\d.]+) \| `[0-9a-f]{7,}` \|$", re.MULTILINE)

Bench = Callable[[], list[Figure]]

BENCHES: Sequence[Bench] = (
    lambda: intake("intake_1", IntakeSize(1, 40, 2.0), 1),
    lambda: deliver(100, 1, ["never"]),
    lambda: directory(80, 1),
    lambda: [figure for figure in ledger(50_000) if not figure.name.startswith("ledger_claim")],
)
"""The smallest of each whose ratio is steady; delivery is to a receiver whose report never comes.

How long the slowest claims take depends on what else uses the disk.
"""


def said(page: str) -> dict[str, float]:
    """Return by figure the ratio that the page says, or raise ValueError where it says none."""
    table = _TABLE.search(page)
    found = {row["name"]: float(row["ratio"]) for row in _ROW.finditer(table[1] if table else "")}
    if not found:
        raise ValueError("the page has no table of quick figures")
    return found


def fallen(figures: Sequence[Figure], ratios: Mapping[str, float]) -> list[str]:
    """Return the names of the figures that are below half of their ratio; ValueError where one has none."""
    if unknown := {figure.name for figure in figures} - ratios.keys():
        raise ValueError(f"the page has no ratio of {sorted(unknown)}")
    return [figure.name for figure in figures if figure.ratio < ratios[figure.name] / 2]


def check(
    benches: Sequence[Bench], ratios: Mapping[str, float], tell: Callable[[Sequence[Figure]], None]
) -> dict[str, tuple[float, float]]:
    """Measure all, those that are low twice; return both ratios of what is low both times, by name.

    Raises ValueError where the page has other figures than those that were measured.
    """
    low: dict[str, tuple[float, float]] = {}
    names: set[str] = set()
    for bench in benches:
        figures = bench()
        tell(figures)
        names |= {figure.name for figure in figures}
        first = {figure.name: figure.ratio for figure in figures}
        if again := fallen(figures, ratios):
            figures = bench()
            tell(figures)
            second = {figure.name: figure.ratio for figure in figures}
            low |= {name: (first[name], second[name]) for name in fallen(figures, ratios) if name in again}
    if unmeasured := ratios.keys() - names:
        raise ValueError(f"the page has {sorted(unmeasured)}, which nobody measured")
    return low


def main() -> int:
    """Return 0 where nothing fell."""
    console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 200)
    ratios = said(PAGE.read_text(encoding="utf-8"))
    # Ends as an exception does, so that containers and files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    remove_leftovers()
    FOLDER.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        low = check(BENCHES, ratios, lambda figures: show(console, figures))
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)
    for name, (first, second) in low.items():
        told = f"FELL {name}: {first:.2f} and {second:.2f}, {PAGE.name} says {ratios[name]:g}"
        console.print(told, markup=False)
    console.print(f"bench-quick: {len(ratios)} figures in {time.monotonic() - began:.0f} s, {len(low)} fell")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main())
