"""Intake: whether images are accepted here, and if not, why.

Orthanc's process and the edge make the decision. This module reports it to people and monitors.
"""

import logging
from collections.abc import Callable
from typing import Protocol

from understudy.core.model import Timestamp
from understudy.core.ports import Clock, OrthancUnavailableError
from understudy.core.views import Alarm, Urgency, iso

_log = logging.getLogger(__name__)

_FULL = "a disk is full"
_SYNC = "writes to the disk fail"


class StoreRefusals(Protocol):
    """Orthanc, as far as intake needs it; raises OrthancUnavailableError."""

    def refuses_stores(self) -> bool: ...


class IntakeWatch:
    """Knows why images are refused; `step` looks at Orthanc, `is_full` at the mark of a full disk."""

    def __init__(self, orthanc: StoreRefusals, is_full: Callable[[], bool], clock: Clock) -> None:
        self._orthanc = orthanc
        self._is_full = is_full
        self._clock = clock
        self._fault: tuple[Timestamp, str, str] | None = None
        """Since when Orthanc accepts no images, why, and what to do."""

    def step(self) -> bool:
        """Look once; the result stands until the next look."""
        found: tuple[str, str] | None = None
        try:
            if self._orthanc.refuses_stores():
                found = _SYNC, "check the disks of Orthanc's index and storage, then Orthanc's log"
        except OrthancUnavailableError as error:
            found = str(error), error.hint
        before = self._fault
        if found is None:
            self._fault = None
        else:
            since = before[0] if before is not None and before[1] == found[0] else self._clock.now()
            self._fault = (since, *found)
        if (before is None) is not (found is None):
            _log.info("intake %s", "works again" if found is None else f"refused because={found[0]}")
        return False

    @property
    def refused_because(self) -> str:
        """Why images are refused now; empty if they are accepted."""
        if self._is_full():
            return _FULL
        fault = self._fault
        return "" if fault is None else fault[1]

    def alarms(self) -> list[Alarm]:
        """Return the alarm on Orthanc's fault; a full disk has an alarm of its own (core/disk.py)."""
        if (fault := self._fault) is None:
            return []
        since, why, hint = fault
        what = f"new images are refused here: {why}; senders keep them"
        return [Alarm(iso(since), what, hint, Urgency.NOW)]
