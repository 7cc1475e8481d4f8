"""Disk: measure the volumes, say how long they last, and keep ballast for the ledger.

Orthanc's process decides whether intake is refused (plugin/volumes.py). The edge and the agent learn of it by
the same file; intake does not depend on the agent. This module warns people in time.

Rule 1: each volume is measured by a worker of its own. A mount that hangs blocks only that worker; the status
shows the volume as not known since then.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from understudy.core.disk import DAY, FORECAST_DAYS, VolumeSpace, alarms, bytes_a_day, volume_view
from understudy.core.model import Timestamp
from understudy.core.ports import Clock
from understudy.core.views import Alarm, DiskView, UnknownVolume, iso
from understudy.engine.board import Watch
from understudy.plugin.volumes import Space, Volume, measure, read_from_disk

STORAGE = "storage"
"""Name of the volume of Orthanc's stored files."""
_log = logging.getLogger(__name__)

_FORECAST_INTERVAL = 3600.0
"""Seconds between two sums over the instances: a day's intake does not change faster."""


@dataclass(frozen=True, slots=True)
class WatchedVolume:
    """One volume; `takes_intake` says that every image that arrives is written to it once."""

    name: str
    folder: Path
    takes_intake: bool
    file: Path | None = None
    """A small file on it that each look reads: a volume may tell its free space and still give no file."""


@dataclass(frozen=True, slots=True)
class _Measured:
    """The space of one volume, and the device number of its file system."""

    space: Space
    device: int


class DiskWatch:
    """Measures the volumes and keeps the ballast of the state volume; `flag` exists while intake is refused.

    `received` returns the bytes by day (counted from 1970), from the day of a moment on; none came before
    `began`.
    """

    def __init__(
        self,
        volumes: tuple[WatchedVolume, ...],
        own: Volume,
        flag: Path,
        clock: Clock,
        *,
        received: Callable[[Timestamp], Mapping[int, int]],
        began: Timestamp,
        warn_percent: float,
        refuse_percent: float,
        measure: Callable[[Path], Space] = measure,
        read: Callable[[Path], None] = read_from_disk,
    ) -> None:
        def look(volume: WatchedVolume) -> _Measured:
            if volume.file is not None:
                read(volume.file)
            return _Measured(measure(volume.folder), volume.folder.stat().st_dev)

        self._measured = [(volume, Watch(partial(look, volume), clock)) for volume in volumes]
        self._flag = Watch(flag.exists, clock)
        self._own = own
        self._received = received
        self._began = began
        self._clock = clock
        self._marks = {"warn_percent": warn_percent, "refuse_percent": refuse_percent}
        self._told = False
        self._since: dict[str, Timestamp] = {}
        """When each fault began, by the name that `alarms` gives it."""
        self._a_day = 0.0
        self._foreseen = -math.inf
        """When the forecast was made, by the monotonic clock."""

    def steps(self) -> Iterator[tuple[str, Callable[[], bool]]]:
        """Yield every look with its name; each needs a worker of its own, since each can hang."""
        for volume, watch in self._measured:
            yield f"volume-{volume.name}", partial(_measured, watch, volume.name)
        yield "intake", self._look_at_intake
        yield "ballast", self._keep_ballast
        yield "forecast", self._foresee

    def _look_at_intake(self) -> bool:
        self._flag.step()
        full = bool(self._flag.value)
        if full is not self._told:
            _log.info("intake %s", "refused because=volume_full" if full else "accepted again")
            self._told = full
        return False

    def _keep_ballast(self) -> bool:
        self._own.look()
        return False

    def _foresee(self) -> bool:
        moment = self._clock.monotonic()
        if moment - self._foreseen >= _FORECAST_INTERVAL:
            now = self._clock.now()
            received = self._received(Timestamp(now - (FORECAST_DAYS + 1) * DAY))
            self._a_day = bytes_a_day(received, now, self._began)
            self._foreseen = moment
        return False

    @property
    def is_refusing(self) -> bool:
        """Whether images are refused because a volume is full."""
        return bool(self._flag.value)

    def unknown_since(self, name: str) -> Timestamp | None:
        """Return since when a volume does not answer; None while it does. Waits for no disk."""
        return next(watch.unknown_since for volume, watch in self._measured if volume.name == name)

    def view(self) -> DiskView:
        """Return the volumes as they were last seen; those that do not answer are in `unknown`."""
        seen = [(volume, watch.value, watch.unknown_since) for volume, watch in self._measured]
        growth: dict[int, float] = {}
        for volume, measured, _ in seen:
            if measured is not None and volume.takes_intake:
                growth[measured.device] = growth.get(measured.device, 0.0) + self._a_day
        unknown = [(volume.name, since) for volume, _, since in seen]
        unknown.append(("sockets", self._flag.unknown_since))
        return DiskView(
            volumes=[
                volume_view(
                    VolumeSpace(
                        volume.name,
                        measured.space.total,
                        measured.space.free,
                        measured.space.used,
                        growth.get(measured.device, 0.0),
                    ),
                    **self._marks,
                )
                for volume, measured, _ in seen
                if measured is not None
            ],
            refusing=bool(self._flag.value),
            unknown=[UnknownVolume(name, iso(since)) for name, since in unknown if since is not None],
        )

    def alarms(self, view: DiskView) -> list[Alarm]:
        """Return the alarms on the volumes."""
        now = self._clock.now()
        present: dict[str, Timestamp] = {}

        def since(name: str) -> str:
            return iso(present.setdefault(name, self._since.get(name, now)))

        found = alarms(view, since)
        self._since = present
        return found


def _measured(watch: Watch[_Measured], name: str) -> bool:
    """Look once; after an error the value is as without a look, and the worker's pauses do not grow."""
    try:
        return watch.step()
    except OSError as error:
        if watch.value is None:
            _log.warning("volume not measured name=%s because=%s", name, error.strerror)
        return False
