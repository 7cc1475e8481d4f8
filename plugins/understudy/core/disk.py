"""Disk: how full the volumes are, and how many days the room lasts at the pace of the last days."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from understudy.core.model import Timestamp
from understudy.core.views import Alarm, DiskView, Fullness, Urgency, VolumeView

DAY = 86_400.0
FORECAST_DAYS = 7
"""Days of intake that the forecast looks back on."""
_SOON = 14.0
"""Days left below which a volume is worth an alarm although no mark is reached: none is bought in one."""


@dataclass(frozen=True, slots=True)
class VolumeSpace:
    """One volume as it was measured: sizes in bytes, `used` a share of 0 to 1 (bytes or inodes)."""

    name: str
    total: int
    free: int
    used: float
    growth: float
    """Bytes that a day of intake at the pace of the last days takes of it; 0 where it is not known."""


def bytes_a_day(by_day: Mapping[int, int], now: Timestamp, began: Timestamp) -> float:
    """Return the mean of the last whole days; `by_day` has the bytes received by day since 1970.

    An appliance that is younger has fewer of them; on its first day nothing can be said, and the answer is 0.
    """
    today = int(now // DAY)
    first = max(today - FORECAST_DAYS, int(began // DAY) + 1)
    days = range(first, today)
    return sum(by_day.get(day, 0) for day in days) / len(days) if days else 0.0


def volume_view(space: VolumeSpace, *, warn_percent: float, refuse_percent: float) -> VolumeView:
    """Return the volume judged by the marks."""
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
    """Return what a person has to know of the disks; `since` says when each began."""
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
                f"the volume {lost.name} does not answer: how full it is, is not known since then",
                "look at its disk or network share on the host: `df` hangs there, too; all else goes on",
            )
        )
    for volume in view.volumes:
        full = f"the volume {volume.name} is {volume.used_percent:.0f} % full"
        if volume.state is not Fullness.FINE:
            found.append(
                Alarm(since(volume.name), full, "make room or enlarge it before it is at the last mark")
            )
        elif volume.days_left is not None and volume.days_left < _SOON:
            what = f"{full} and lasts {volume.days_left:.0f} more days at the pace of the last days"
            found.append(Alarm(since(volume.name), what, "enlarge it"))
    return found
