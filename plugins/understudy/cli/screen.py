"""Prints tables and lines with colours.

Rule 1: text is text. No markup is read in it, no control character of a value reaches the terminal, and a
line end in a value begins no line. Nothing in the command prints but this module and plain.py.
"""

import os
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from understudy.core.text import visible

_WIDTH = 160
"""Columns where the output is no terminal and nobody says how wide it may be."""


class Screen(Console):
    """The console for tables and lines with colours."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)
        if not self.is_terminal and "COLUMNS" not in os.environ:
            self.width = _WIDTH

    def print(self, *shown: object, **options: Any) -> None:
        """Print lines, each of which stays one line, and tables."""
        super().print(*(styled(one) if isinstance(one, str) else one for one in shown), **options)


class Rows(Table):
    """A table; a column whose name begins with > is aligned to the right."""

    def __init__(self, title: str, *columns: str) -> None:
        super().__init__(
            title=styled(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
        )
        for column in columns:
            name = column.removeprefix(">")
            if column.startswith(">"):
                self.add_column(name, justify="right", no_wrap=True)
            else:
                # A UID that is broken into five pieces cannot be compared by eye.
                self.add_column(name, overflow="fold", min_width=33 if name.endswith("UID") else None)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        """Add a row of lines; a cell of several lines or with colours is made by `lines` or `styled`."""
        super().add_row(*(styled(cell) if isinstance(cell, str) else cell for cell in cells), **options)


class Facts(Rows):
    """Names at the left, what is known at the right."""

    def __init__(self) -> None:
        super().__init__("")
        self.title, self.box, self.show_header = None, None, False
        self.padding = (0, 2)
        self.add_column(style="dim")
        self.add_column(overflow="fold")


def styled(*parts: str | Text | tuple[str, str]) -> Text:
    """Return one line of these parts; a pair is a text and its style."""
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
