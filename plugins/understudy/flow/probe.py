"""Probe: look at the primary with C-ECHO and C-FIND, and keep the evidence."""

import logging
import threading

from understudy.core.health import Health, after_probe
from understudy.core.model import StudyInstanceUid
from understudy.core.ports import Clock, HolderUnavailableError, Peer
from understudy.core.views import Condition, Probe, iso

_log = logging.getLogger(__name__)

_NO_STUDY = StudyInstanceUid("1.2.826.0.1.3680043.8.498.0")
"""A study that nobody has: the probe asks whether queries are answered, not what there is."""


class Prober:
    """The primary's health; `step` makes one probe."""

    def __init__(self, peer: Peer, clock: Clock, *, failures_for_down: int) -> None:
        self._peer = peer
        self._clock = clock
        self._failures_for_down = failures_for_down
        self._lock = threading.Lock()
        self._health = Health(Condition.UNKNOWN, clock.now())

    @property
    def health(self) -> Health:
        """What the probes say so far."""
        with self._lock:
            return self._health

    def step(self) -> Health:
        """Probe once and return the health after it."""
        echo = find = "ok"
        try:
            self._peer.echo()
        except HolderUnavailableError as error:
            echo, find = error.reason, "not asked"
        else:
            try:
                self._peer.studies(_NO_STUDY)
            except HolderUnavailableError as error:
                find = error.reason
        at = self._clock.now()
        with self._lock:
            before = self._health
            self._health = after_probe(
                before, Probe(iso(at), echo, find), at=at, failures_for_down=self._failures_for_down
            )
            after = self._health
        if after.condition is not before.condition:
            _log.warning(
                "primary %s -> %s echo=%s find=%s", before.condition.value, after.condition.value, echo, find
            )
        return after
