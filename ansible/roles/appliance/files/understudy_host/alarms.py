"""Writes the host's alarms for the agent, which shows them in status, console and metrics."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from understudy_host.places import Places, replace_durably


@dataclass(frozen=True, slots=True)
class Alarm:
    """A problem that a person has to know, and what to do about it."""

    what: str
    hint: str


def tell(places: Places, source: str, alarms: Iterable[Alarm]) -> None:
    """Replace the alarms of one source; an alarm that was there before keeps its beginning."""
    path = places.host_alarms / f"{source}.json"
    before = _read(path.read_bytes()) if path.exists() else []
    since = {alarm["what"]: alarm["since"] for alarm in before}
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    told = [{"since": since.get(alarm.what, now), "what": alarm.what, "hint": alarm.hint} for alarm in alarms]
    # Without the folder there is no agent that reads them.
    if told != before and path.parent.is_dir():
        replace_durably(path, json.dumps(told), mode=0o644)


def _read(content: bytes) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads(content)
    except ValueError:
        # Not our file, or an incomplete one: it is replaced.
        return []
    return found
