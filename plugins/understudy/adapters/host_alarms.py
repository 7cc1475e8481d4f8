"""Reads what the host's own programs have to say: the alarms that they leave beside the agent's socket."""

import json
from pathlib import Path

from understudy.core.model import Timestamp
from understudy.core.views import Alarm, iso


def read_host_alarms(folder: Path) -> list[Alarm]:
    """Return the alarms in every file NAME.json, a list of {"since", "what", "hint"}; none without a folder.

    A file that cannot be read is an alarm itself.
    """
    found: list[Alarm] = []
    for path in sorted(folder.glob("*.json")):
        try:
            told = json.loads(path.read_bytes())
            found += [Alarm(str(item["since"]), str(item["what"]), str(item["hint"])) for item in told]
        except (OSError, ValueError, TypeError, KeyError) as error:
            since = Timestamp(path.stat().st_mtime) if path.exists() else Timestamp(0)
            what = f"what the host has to say cannot be read: {path.name}"
            found.append(Alarm(iso(since), what, f"{type(error).__name__}: remove the file on the host"))
    return found
