"""Decides whether a REST call asks for a list that is too long for Orthanc's memory.

Orthanc builds the whole list before it sends the first byte. It takes 2 kB for each identifier, 9 kB for each
expanded resource, and up to 47 kB for each result of QIDO-RS (measured with 50,000 studies). Without a limit,
in an archive of some years, one reader's call would take the memory that all other calls need.
"""

import re
from collections.abc import Callable, Mapping

from understudy.plugin.roles import canonical_path

MOST_IDENTIFIERS = 5000
MOST_RESULTS = 500
"""For entries that take ten times the memory of an identifier: expanded resources and QIDO-RS results."""

_CORE = re.compile(r"/(patients|studies|series|instances)")
_WEB = re.compile(r"/dicom-web/(studies|series|instances)")
_CHANGES = re.compile(r"/(changes|exports)")
_EXPANDS = frozenset({"expand", "full", "short", "simplify", "requested-tags", "requestedtags"})


def refusal(path: str, arguments: Mapping[str, str], held: Callable[[str], int]) -> str | None:
    """Return why a GET of a list is refused, None if it is allowed or asks for no list.

    `held` returns how many patients, studies, series or instances the archive has. It is called only if the
    call gives no limit.
    """
    path = canonical_path(path) or ""
    if (web := _WEB.fullmatch(path)) is not None:
        return _beyond(arguments, "offset", MOST_RESULTS, lambda: held(web[1]))
    if _CHANGES.fullmatch(path):
        # Without a limit Orthanc answers 100 entries.
        return _beyond(arguments, "since", MOST_IDENTIFIERS, lambda: 0)
    if (core := _CORE.fullmatch(path)) is not None:
        expands = any(name.lower() in _EXPANDS for name in arguments)
        most = MOST_RESULTS if expands else MOST_IDENTIFIERS
        return _beyond(arguments, "since", most, lambda: held(core[1]))
    return None


def _beyond(arguments: Mapping[str, str], start: str, most: int, held: Callable[[], int]) -> str | None:
    limits = [value for name, value in arguments.items() if name.lower() == "limit"]
    if not limits:
        number = held()
        if number <= most:
            return None
        return f"the list has up to {number} entries: ask with limit={most} and {start}=0, {most}, ..."
    # Of two limits, Orthanc may use another one than we do.
    if len(limits) > 1 or not re.fullmatch("[0-9]{1,9}", limits[0]) or not 0 < int(limits[0]) <= most:
        return f"a list has at most {most} entries: ask with limit={most} and {start}=0, {most}, ..."
    return None
