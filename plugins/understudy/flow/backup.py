"""Backup: keep a checked copy of the ledger, and raise an alarm if the ledger or its event log is damaged.

Rule 1: a copy replaces the one before only after all of it was checked, and if the event log is whole: a
ledger that was exchanged must not replace the good copy.
"""

import logging
import math
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from understudy.core.model import Timestamp
from understudy.core.ports import Clock
from understudy.core.views import Alarm, iso
from understudy.ledger import DamagedLedgerError, Ledger, ModeRecord

_log = logging.getLogger(__name__)

KIND = "backup"

_DAY, _HOUR = 86_400.0, 3600.0
"""Seconds until the next copy, and until the next attempt after a failure."""

_DAMAGED_HINT = "docs/runbook.md (The ledger is damaged) says what to do; no image is affected"
_BROKEN_HINT = (
    "`understudy verify --wait` says more; if a copy of the ledger was put back on purpose, "
    "docs/runbook.md (The ledger is damaged) says how to end this alarm"
)
_NO_COPY_HINT = (
    "make room for two more copies of the ledger on the volume `state`; the backup is tried every hour"
)


class Backup:
    """Copies every day, after a change of mode, and at once if the start had no time for a whole check."""

    def __init__(self, ledger: Ledger, path: Path, clock: Clock) -> None:
        self._ledger = ledger
        self._path = path
        self._clock = clock
        self._unchecked = not ledger.database.checked
        self._not_before = -math.inf
        self._mode: ModeRecord | None = None
        """The mode in the last copy that this process made."""
        self._alarms: list[Alarm] = []

    def step(self) -> bool:
        """Make the copy, if it is due."""
        if not self._is_due():
            return False
        now = self._clock.now()
        self._not_before = self._clock.monotonic() + _HOUR
        found = self._broken() or self._copied(now)
        self._alarms = [Alarm(iso(now), what, hint) for what, hint in found]
        for what, hint in found:
            _log.error("backup found=%s hint=%s", what, hint)
        return False

    def alarms(self) -> Sequence[Alarm]:
        """Return the alarms of the last attempt to copy."""
        return self._alarms

    def _is_due(self) -> bool:
        if self._clock.monotonic() < self._not_before:
            return False
        kept = self._ledger.facts.read(KIND)
        if self._unchecked or kept is None or not self._path.exists():
            return True
        mode = self._ledger.modes.current()
        changed = mode.since > float(kept) if self._mode is None else mode != self._mode
        return changed or self._clock.is_due(Timestamp(float(kept)), _DAY)

    def _copied(self, now: Timestamp) -> list[tuple[str, str]]:
        try:
            mode = self._ledger.modes.current()
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            self._ledger.back_up(self._path)
        except DamagedLedgerError as error:
            return [(str(error), _DAMAGED_HINT)]
        except (OSError, sqlite3.Error) as error:
            return [(f"the ledger has no new backup: {error}", _NO_COPY_HINT)]
        self._unchecked, self._not_before, self._mode = False, -math.inf, mode
        self._ledger.facts.write(KIND, repr(float(now)))
        _log.info("backup done file=%s", self._path.name)
        return []

    def _broken(self) -> list[tuple[str, str]]:
        broken = self._ledger.events.broken()
        if broken is None:
            return []
        return [(f"the event log is broken at event {broken}: the ledger is not backed up", _BROKEN_HINT)]
