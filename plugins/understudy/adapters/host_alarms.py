"""Reads the alarms that the host's own programs write beside the agent's socket."""

import json
from pathlib import Path

from understudy.core.model import Timestamp
from understudy.core.views import Alarm, iso

TAKEOVER, UPKEEP = "takeover", "host"
"""Sources of alarms: the program that follows the mode, and the program that measures the host."""


def read_host_alarms(folder: Path, source: str) -> list[Alarm]:
    """Return the alarms in the file SOURCE.json, a list of {"since", "what", "hint"}; none without a file.

    A file that cannot be read gives an alarm itself.
    """
    path = folder / f"{source}.json"
    try:
        told = json.loads(path.read_bytes())
        return [Alarm(str(item["since"]), str(item["what"]), str(item["hint"])) for item in told]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        what = f"an alarm of the host cannot be read: {path.name}"
        return [Alarm(iso(_changed(path)), what, f"{type(error).__name__}: remove the file on the host")]


def _changed(path: Path) -> Timestamp:
    try:
        return Timestamp(path.stat().st_mtime)
    except OSError:
        return Timestamp(0)
