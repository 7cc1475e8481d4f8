"""Immutability: whether a store keeps the requested lock, read back from the store itself.

Rule 1: a store that takes an object and forgets its retention is proven to have it, and is not immutable.
Rule 2: each look compares the store's date with the requested date, which the ledger keeps with the pack.
Only a lock that the store keeps as requested ends the alarm.
"""

import logging
import math
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from understudy.core.model import HolderName, Timestamp
from understudy.core.packing import PackIntent
from understudy.core.ports import Clock, HolderUnavailableError, StoredObject, UntoldError
from understudy.core.views import Alarm, iso

_log = logging.getLogger(__name__)

_DAY = 86_400.0


class Lock(Enum):
    """The result of reading the lock back, as the proofs name it."""

    UNSEEN = "not read back yet"
    HELD = "read back"
    ABSENT = "NOT there: the store ignores the retention"
    UNTOLD = "not told by the store"


class LockingStore(Protocol):
    """The store, as far as locks need it; both calls raise HolderUnavailableError."""

    def stat(self, key: str) -> StoredObject | None:
        """Return the object that the store shows under the key; None if there is none."""
        ...

    def locked_until(self, key: str, version: str) -> Timestamp | None:
        """Return until when the store locks the version; None if it does not; or raise UntoldError."""
        ...


class LockWatch:
    """Reads one object's lock back after the first put, and once a day."""

    def __init__(
        self,
        vault: HolderName,
        store: LockingStore,
        newest: Callable[[], PackIntent | None],
        clock: Clock,
    ) -> None:
        """`newest` returns the vault's newest pack; None if there is none."""
        self._vault = vault
        self._store = store
        self._newest = newest
        self._clock = clock
        self._looked = -math.inf
        """By the monotonic clock."""
        self._since = ""
        self.lock = Lock.UNSEEN

    def step(self) -> bool:
        """Look at the newest pack once a day; return whether it was looked at."""
        if not self._is_due():
            return False
        newest = self._newest()
        if newest is None or (newest.locked_until or math.inf) <= self._clock.now():
            # The store need not report a lock that has ended by now.
            return False
        try:
            shown = self._store.stat(newest.key)
        except HolderUnavailableError:
            # The lane reports that the store is unavailable.
            return False
        if shown is None:
            return False
        self.look(shown.key, shown.version, newest.locked_until)
        return True

    def look(self, key: str, version: str, wanted: Timestamp | None) -> None:
        """Read an object's lock back if that is due; `wanted` is the requested end of the lock."""
        if not self._is_due():
            return
        try:
            until = self._store.locked_until(key, version)
            ends_too_early = (
                until is None or until <= self._clock.now() or (wanted is not None and until < wanted - _DAY)
            )
            lock = Lock.ABSENT if ends_too_early else Lock.HELD
        except UntoldError:
            lock = Lock.UNTOLD
        except HolderUnavailableError:
            # The next pack brings another look; the store shows this pack itself.
            return
        self._looked = self._clock.monotonic()
        if lock is not self.lock:
            self._since = iso(self._clock.now())
            _log.log(
                logging.INFO if lock is Lock.HELD else logging.ERROR,
                "lock vault=%s key=%s lock=%s", self._vault, key, lock.value,
            )  # fmt: skip
        self.lock = lock

    def alarms(self) -> Sequence[Alarm]:
        """Return an alarm if the vault is not immutable, or not known to be."""
        if self.lock is Lock.ABSENT:
            return (
                Alarm(
                    self._since,
                    f"vault {self._vault} is not immutable: the store ignores the retention of its objects",
                    "its packs can be deleted or changed: make a bucket with Object Lock at a service that "
                    "enforces compliance mode, and name it in the configuration",
                ),
            )
        if self.lock is Lock.UNTOLD:
            return (
                Alarm(
                    self._since,
                    f"the store does not say whether vault {self._vault} is immutable",
                    "allow the appliance's user s3:GetObjectRetention (docs/vault-format.md)",
                ),
            )
        return ()

    def _is_due(self) -> bool:
        return self._clock.monotonic() - self._looked >= _DAY
