"""Disk: how full the volumes are, and for how many days they suffice at the recent rate of intake."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from understudy.core.model import Timestamp
from understudy.core.views import Alarm, DiskView, Fullness, Urgency, VolumeView

DAY = 86_400.0
FORECAST_DAYS = 7
"""Number of past days of intake that the forecast uses."""
_SOON = 14.0
"""Below this number of days left, an alarm is raised before a mark is reached: buying a disk takes days."""


@dataclass(frozen=True, slots=True)
class VolumeSpace:
    """One measured volume: sizes in bytes, `used` as a fraction from 0 to 1 (bytes or inodes)."""

    name: str
    total: int
    free: int
    used: float
    growth: float
    """Bytes that one day of intake needs at the recent rate, 0 if not known."""


def bytes_a_day(by_day: Mapping[int, int], now: Timestamp, began: Timestamp) -> float:
    """Return the mean bytes a day over the last whole days; `by_day` is keyed by the day since 1970.

    A younger appliance has fewer days. On its first day nothing is known, and the result is 0.
    """
    today = int(now // DAY)
    first = max(today - FORECAST_DAYS, int(began // DAY) + 1)
    days = range(first, today)
    return sum(by_day.get(day, 0) for day in days) / len(days) if days else 0.0


def volume_view(space: VolumeSpace, *, warn_percent: float, refuse_percent: float) -> VolumeView:
    """Return the volume with its state by the two marks, and the days left."""
    percent = space.used * 100
    state = Fullness.FINE
    if percent >= warn_percent:
        state = Fullness.WARN
    if percent >= refuse_percent:
        state = Fullness.REFUSE
    room = max(0.0, space.free - space.total * (1 - refuse_percent / 100))
    days = room / space.growth if space.growth > 0 else None
    return VolumeView(space.name, space.total, space.free, percent, state, days)


def alarms(view: DiskView, since: Callable[[str], str]) -> list[Alarm]:
    """Return the alarms of the disks; `since` returns when the condition of that name began."""
    found = []
    if view.refusing:
        found.append(
            Alarm(
                since("intake"),
                "a disk is full: new images are refused for now, and senders keep them",
                "make room or enlarge the volume named in the status; intake resumes by itself",
                Urgency.NOW,
            )
        )
    for lost in view.unknown:
        found.append(
            Alarm(
                lost.since,
                f"the volume {lost.name} does not answer, so nobody knows how full it is",
                "look at its disk or network share on the host, where `df` hangs, too; other work continues",
            )
        )
    for volume in view.volumes:
        full = f"the volume {volume.name} is {volume.used_percent:.0f} % full"
        if volume.state is not Fullness.FINE:
            found.append(
                Alarm(since(volume.name), full, "make room or enlarge it: a full disk refuses images")
            )
        elif volume.days_left is not None and volume.days_left < _SOON:
            what = f"{full} and lasts {volume.days_left:.0f} more days at the present rate"
            found.append(Alarm(since(volume.name), what, "enlarge it"))
    return found
