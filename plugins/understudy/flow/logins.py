"""Logins: raise an alarm about an address that often sends wrong passwords to the edge."""

import logging
from collections.abc import Callable, Mapping, Sequence

from understudy.core.model import Timestamp
from understudy.core.ports import Clock
from understudy.core.views import Alarm, iso

_log = logging.getLogger(__name__)

OFTEN = 20
"""Wrong passwords of one address in an hour. A person who forgot a password types fewer."""


class Logins:
    """The alarms about guessed passwords."""

    def __init__(
        self,
        count: Callable[[int], Mapping[str, int]],
        clock: Clock,
        *,
        unavailable: type[Exception],
    ) -> None:
        """`count` takes a number, and returns the last hour's wrong passwords of addresses with so many."""
        self._count = count
        self._clock = clock
        self._unavailable = unavailable
        self._since: dict[str, Timestamp] = {}
        self._alarms: list[Alarm] = []

    def step(self) -> bool:
        """Ask the edge; while it does not answer, the alarms stay as they were."""
        try:
            counts = self._count(OFTEN)
        except self._unavailable as error:
            _log.debug("logins edge unavailable because=%s", error)
            return False
        now = self._clock.now()
        for address in counts.keys() - self._since.keys():
            _log.warning("wrong passwords address=%s in_an_hour=%d", address, counts[address])
        self._since = {address: self._since.get(address, now) for address in counts}
        self._alarms = [
            Alarm(
                iso(self._since[address]),
                f"{count} wrong passwords came from {address} in the last hour",
                "find out which device has that address: a program may use an old password, or a person may "
                "be guessing. The edge allows 20 attempts a minute for each user name",
            )
            for address, count in sorted(counts.items())
        ]
        return False

    def alarms(self) -> Sequence[Alarm]:
        """Return an alarm for each such address."""
        return self._alarms
