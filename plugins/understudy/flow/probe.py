"""Probe: test the primary with C-ECHO and C-FIND, and keep the evidence."""

import logging
import threading
from collections.abc import Callable

from understudy.core.health import Health, after_probe
from understudy.core.model import StudyInstanceUid
from understudy.core.ports import (
    BusyError,
    Clock,
    HolderUnavailableError,
    Peer,
    RejectedError,
    UnansweredError,
)
from understudy.core.views import PrimaryCondition, Probe, Sign, iso

_log = logging.getLogger(__name__)

_NO_STUDY = StudyInstanceUid("1.2.826.0.1.3680043.8.498.0")
"""A study that no PACS has: the probe tests whether queries are answered, not which studies exist."""

OwnWork = Callable[[], tuple[int, int]]
"""Returns how many of our requests the primary has answered so far, and how many images it has sent."""


class Prober:
    """The primary's health; `step` makes one probe.

    Some primaries accept one association at a time. While another association of ours is open, the probe gets
    no answer; the answers on that association, and arriving images, then show that the primary is up.
    """

    def __init__(
        self,
        peer: Peer,
        clock: Clock,
        *,
        failures_for_down: int,
        own_work: OwnWork = lambda: (0, 0),
    ) -> None:
        self._peer = peer
        self._clock = clock
        self._failures_for_down = failures_for_down
        self._own_work = own_work
        self._lock = threading.Lock()
        self._health = Health(PrimaryCondition.UNKNOWN, clock.now())
        self._seen = own_work()

    @property
    def health(self) -> Health:
        """The primary's health after the probes so far."""
        with self._lock:
            return self._health

    def step(self) -> Health:
        """Probe once and return the health after it."""
        echo, find, sign = self._look()
        work = self._own_work()
        with self._lock:
            before, seen = self._health, self._seen
            if sign in (Sign.SILENT, Sign.BUSY) and work != seen:
                sign = Sign.WORKS
            self._seen = work
            at = self._clock.now()
            self._health = after_probe(
                before, Probe(iso(at), echo, find, sign), at=at, failures_for_down=self._failures_for_down
            )
            after = self._health
        if after.condition is not before.condition:
            _log.warning(
                "primary %s -> %s echo=%s find=%s", before.condition.value, after.condition.value, echo, find
            )
        return after

    def _look(self) -> tuple[str, str, Sign]:
        """Return the results of C-ECHO and C-FIND in words, and the sign that they give."""
        try:
            self._peer.echo()
        except HolderUnavailableError as error:
            return error.reason, "not asked", _sign(error, Sign.SILENT)
        try:
            self._peer.studies(_NO_STUDY)
        except HolderUnavailableError as error:
            # It has just answered C-ECHO, so a failed query is not silence.
            return "ok", error.reason, _sign(error, Sign.REFUSES)
        return "ok", "ok", Sign.ANSWERS


def _sign(error: HolderUnavailableError, otherwise: Sign) -> Sign:
    if isinstance(error, BusyError):
        return Sign.BUSY
    return Sign.REFUSES if isinstance(error, UnansweredError | RejectedError) else otherwise
