"""Prints lines without colours, and output for programs.

Rule 1: values are shown as text. Control characters in them do not reach the terminal, and a line end in a
value begins no line. Only this module and screen.py print.
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
    """Print a JSON document for programs, with control characters escaped; its meaning stays the same."""
    print(visible_json(text))


def say_file(text: str) -> None:
    """Print the content of a file of our own as it is."""
    sys.stdout.write(text)
