"""Tells the story: one line a step with its time, in colour on a terminal and plain elsewhere."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(slots=True)
class Step:
    """One step while it is told; `said` is added to its line."""

    title: str
    show: Callable[[str], None]
    said: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Add what was seen to the step's line."""
        self.said.append(text)


@dataclass(frozen=True, slots=True)
class Told:
    """One step that is over."""

    title: str
    said: str
    began: float
    """Seconds since the story began."""
    seconds: float
    failed: bool


class Narrator:
    """Prints each step when it is over and remembers it for the report."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()
        self.told: list[Told] = []

    @property
    def elapsed(self) -> float:
        """Seconds since the story began."""
        return time.monotonic() - self._start

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Tell a step: what happens inside is its work, and an exception its failure."""
        began = self.elapsed
        with self._console.status(title) as status:

            def show(progress: str) -> None:
                status.update(f"{title}: {progress}")

            step = Step(title, show)
            try:
                yield step
            except BaseException:
                self._tell(step, began, failed=True)
                raise
        self._tell(step, began, failed=False)

    def _tell(self, step: Step, began: float, *, failed: bool) -> None:
        told = Told(step.title, "; ".join(step.said), began, self.elapsed - began, failed)
        self.told.append(told)
        line = Text()
        line.append("FAILED" if failed else "ok    ", style="bold red" if failed else "bold green")
        line.append(f" {told.began:6.1f} s ", style="dim")
        line.append(f"+{told.seconds:5.1f} s  ")
        line.append(told.title, style="bold")
        if told.said:
            line.append(f": {told.said}")
        self._console.print(line, soft_wrap=True)

    def line(self, text: str, style: str = "") -> None:
        """Print a line between the steps."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; all columns but the first are figures."""
        table = Table(title=title, title_justify="left", title_style="bold")
        for number, column in enumerate(columns):
            table.add_column(column, justify="left" if number == 0 else "right")
        for row in rows:
            table.add_row(*row)
        self._console.print(table)
