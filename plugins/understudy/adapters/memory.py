"""Reads memory sizes in the format of the compose files."""

import re

_SIZE = re.compile(r"(?P<number>\d+)\s*(?P<unit>[bkmg]?)b?", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def parse_size(text: str) -> int:
    """Return the bytes of a size in Docker's format, such as `2g`. Raises ValueError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no size of memory such as 2g")
    return int(found["number"]) * _UNITS[found["unit"].lower()]
