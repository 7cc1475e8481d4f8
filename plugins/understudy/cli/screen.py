"""Prints tables and lines with colours.

Rule 1: values are shown as text. Markup in them has no effect, control characters do not reach the terminal,
and a line end in a value begins no line. Only this module and plain.py print.
"""

import os
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from understudy.core.text import visible

_WIDTH = 160
"""Columns if the output is not a terminal and COLUMNS is not set."""


class Screen(Console):
    """The console for tables and lines with colours."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)
        if not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = _WIDTH

    def print(self, *shown: object, **options: Any) -> None:
        """Print tables and lines; each text stays one line."""
        super().print(*(styled(one) if isinstance(one, str) else one for one in shown), **options)


class Rows(Table):
    """A table. A column is aligned to the right if its name begins with `>`."""

    def __init__(self, title: str, *columns: str) -> None:
        super().__init__(
            title=styled(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
        )
        for column in columns:
            name = column.removeprefix(">")
            if column.startswith(">"):
                self.add_column(name, justify="right", no_wrap=True)
            else:
                # A UID that is folded into many lines cannot be compared by eye.
                self.add_column(name, overflow="fold", min_width=33 if name.endswith("UID") else None)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row. `lines` and `styled` make cells of several lines or with colours."""
        super().add_row(*(styled(cell) if isinstance(cell, str) else cell for cell in cells), **options)


class Facts(Rows):
    """A table without borders: names at the left, values at the right."""

    def __init__(self) -> None:
        super().__init__("")
        self.title, self.box, self.show_header = None, None, False
        self.padding = (0, 2)
        self.add_column(style="dim")
        self.add_column(overflow="fold")


def styled(*parts: str | Text | tuple[str, str]) -> Text:
    """Return one line made of these parts; a pair is a text and its style."""
    line = Text()
    for part in parts:
        if isinstance(part, Text):
            line.append_text(part)
        elif isinstance(part, tuple):
            line.append(visible(part[0]), part[1])
        else:
            line.append(visible(part))
    return line


def lines(*texts: str) -> Text:
    """Return several lines for one cell."""
    return Text("\n").join(styled(text) for text in texts)
