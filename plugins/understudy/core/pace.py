"""Rates: a token bucket whose rate may change by the hour, and the lowest rate that counts as progress."""

from dataclasses import dataclass

_SHORTEST_WAIT = 0.001
"""Waits of up to this number of seconds are left out."""


@dataclass(slots=True)
class TokenBucket:
    """A bucket of bytes that may be sent, filled at the current rate. It holds at most one second's bytes.

    An instance may be larger than that. It is sent when the level is not negative, and makes it negative.
    """

    at: float
    """Time of the last change by the monotonic clock, as all times here."""
    level: float = 0.0

    def take(self, size: int, now: float, rate: int | None) -> float:
        """Take the bytes and return 0, or return the seconds to wait before asking again.

        `rate` is in bytes a second, None without a limit.
        """
        if rate is None:
            self.level, self.at = 0.0, now
            return 0.0
        self.level = min(self.level + rate * max(0.0, now - self.at), float(rate))
        self.at = now
        seconds = -self.level / rate
        if seconds > _SHORTEST_WAIT:
            return seconds
        self.level -= size
        return 0.0


FLOOR = 256
"""Bytes a second below which a transfer counts as stopped: no line in use is that slow."""


ANSWER = 2 * FLOOR
"""Fewest bytes that one of many answers counts as, so that one answer in two seconds is enough progress."""


class Arrival:
    """The time limit of a transfer from a peer: silence or a rate below FLOOR ends it, but no total length.

    Every FLOOR bytes extend the limit by one second, to at most `patience` seconds from now. So a faster
    transfer may take any time.
    """

    def __init__(self, patience: float, now: float) -> None:
        """`patience` is in seconds; `now`, as all times here, is by the monotonic clock."""
        self.patience = patience
        self._until = now + patience

    def took(self, size: int, now: float) -> None:
        """Note that `size` bytes have arrived."""
        self._until = min(self._until + size / FLOOR, now + self.patience)

    def left(self, now: float) -> float:
        """Return the seconds that remain; the time is over if the result is 0 or less."""
        return self._until - now
