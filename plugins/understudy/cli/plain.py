"""Prints lines without colours, and what programs read.

Rule 1: text is text. No control character of a value reaches the terminal, and a line end in a value
begins no line. Nothing in the command prints but this module and screen.py.
"""

import sys

from understudy.core.text import visible, visible_json


def say(text: str = "") -> None:
    """Print one line."""
    print(visible(text))


def tell(text: str) -> None:
    """Print one line to the error stream."""
    print(visible(text), file=sys.stderr)


def say_json(text: str) -> None:
    """Print a JSON document for programs; it says the same, and no terminal acts on it."""
    print(visible_json(text))


def say_file(text: str) -> None:
    """Print the content of a file that we made ourselves."""
    sys.stdout.write(text)
