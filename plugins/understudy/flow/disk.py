"""Disk: measure the volumes, say how long they last, and keep ballast for the ledger.

Whether intake is refused is decided where images are stored, in Orthanc's process (plugin/volumes.py), and
the edge sees it by the same file as we do: neither needs the agent for it. Here people are told, in time.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from understudy.core.disk import DAY, FORECAST_DAYS, VolumeSpace, alarms, bytes_a_day, volume_view
from understudy.core.model import Timestamp
from understudy.core.ports import Clock
from understudy.core.views import Alarm, DiskView, iso
from understudy.plugin.volumes import Space, Volume, measure

_log = logging.getLogger(__name__)

_FORECAST_INTERVAL = 3600.0
"""Seconds between two sums over the instances: a day's intake does not change faster."""


class Received(Protocol):
    """What the forecast asks of the ledger."""

    def began(self) -> Timestamp: ...

    def bytes_by_day(self, since: Timestamp) -> Mapping[int, int]: ...


@dataclass(frozen=True, slots=True)
class WatchedVolume:
    """One volume; `takes_intake` where every image that arrives is written to it once."""

    name: str
    folder: Path
    takes_intake: bool


class DiskWatch:
    """Measures the volumes and keeps the ballast of the state volume; `flag` is there while it refuses."""

    def __init__(
        self,
        volumes: tuple[WatchedVolume, ...],
        own: Volume,
        flag: Path,
        ledger: Received,
        clock: Clock,
        *,
        warn_percent: float,
        refuse_percent: float,
        measure: Callable[[Path], Space] = measure,
    ) -> None:
        self._volumes = volumes
        self._own = own
        self._flag = flag
        self._ledger = ledger
        self._clock = clock
        self._marks = {"warn_percent": warn_percent, "refuse_percent": refuse_percent}
        self._measure = measure
        self._told = False
        self._since: dict[str, Timestamp] = {}
        """When what is wrong began, as `alarms` names it."""
        self._a_day = 0.0
        self._next_forecast = 0.0

    def step(self) -> bool:
        """Look once."""
        self._own.look()
        full = self._flag.exists()
        if full is not self._told:
            _log.info("intake %s", "refused because=volume_full" if full else "accepted again")
            self._told = full
        now = self._clock.now()
        if now >= self._next_forecast:
            began = self._ledger.began()
            self._a_day = bytes_a_day(
                self._ledger.bytes_by_day(Timestamp(now - (FORECAST_DAYS + 1) * DAY)), now, began
            )
            self._next_forecast = now + _FORECAST_INTERVAL
        return False

    def view(self) -> DiskView:
        """Return the volumes as they are now; one that is not there is left out."""
        measured = []
        for volume in self._volumes:
            try:
                measured.append((volume, self._measure(volume.folder), volume.folder.stat().st_dev))
            except OSError as error:
                _log.warning("volume not measured name=%s because=%s", volume.name, error.strerror)
        growth: dict[int, float] = {}
        for volume, _, device in measured:
            growth[device] = growth.get(device, 0.0) + (self._a_day if volume.takes_intake else 0.0)
        return DiskView(
            volumes=[
                volume_view(
                    VolumeSpace(volume.name, space.total, space.free, space.used, growth[device]),
                    **self._marks,
                )
                for volume, space, device in measured
            ],
            refusing=self._flag.exists(),
        )

    def alarms(self, view: DiskView) -> list[Alarm]:
        """Return what a person has to know of it."""
        now = self._clock.now()
        present: dict[str, Timestamp] = {}

        def since(name: str) -> str:
            return iso(present.setdefault(name, self._since.get(name, now)))

        found = alarms(view, since)
        self._since = present
        return found
