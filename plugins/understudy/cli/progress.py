"""A progress bar with rate and remaining time; without a terminal it prints a line now and then."""

import time
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from understudy.cli.screen import Screen
from understudy.cli.words import count, duration
from understudy.core.text import visible

_LINE_EVERY = 10.0
"""Seconds between two lines if there is no terminal."""


class Bar:
    """The progress bar of one operation."""

    def __init__(self, title: str, unit: str) -> None:
        self._title = title = visible(title)
        self._unit = unit
        self._console = Screen(stderr=True)
        self._progress = Progress(
            TextColumn(
                "{task.description}",
                style="bold",
                markup=False,
                table_column=Column(no_wrap=True, min_width=len(title)),
            ),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[text]}", markup=False),
            console=self._console,
        )
        self._task = self._progress.add_task(title, total=None, text="")
        self._said = float("-inf")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, done: int, total: int, rate: float, eta_seconds: float | None, message: str) -> None:
        """Show the progress; `rate` is in units per second."""
        parts = [f"{count(done)} of {count(total)} {self._unit}" if total else f"{count(done)} {self._unit}"]
        if rate > 0:
            parts.append(f"{rate:.1f}/s")
        if eta_seconds is not None:
            parts.append(f"about {duration(eta_seconds)} left")
        if message:
            parts.append(message)
        text = visible(", ".join(parts))
        self._progress.update(self._task, completed=done, total=total or None, text=text)
        if not self._console.is_terminal and time.monotonic() - self._said >= _LINE_EVERY:
            self._said = time.monotonic()
            self._console.print(f"{self._title}: {text}")
