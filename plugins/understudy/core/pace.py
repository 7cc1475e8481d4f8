"""How fast: a token bucket whose rate may change from hour to hour, and the slowest that counts as alive."""

from dataclasses import dataclass

_SHORTEST_WAIT = 0.001
"""Seconds that are not worth a wait."""


@dataclass(slots=True)
class TokenBucket:
    """Bytes that may be sent, filled at the rate of the moment; it never holds more than a second's worth.

    One instance may be larger than that: it is let through when nothing is overdrawn, and paid off after.
    """

    at: float
    """By the monotonic clock, as all moments here."""
    level: float = 0.0

    def take(self, size: int, now: float, rate: int | None) -> float:
        """Take the bytes and return 0, or return the seconds after which to ask again.

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
"""Bytes a second below which what arrives counts as stopped: no line in use is that slow."""


ANSWER = 2 * FLOOR
"""Bytes that one of many answers counts as at least: one in two seconds is slow, and no sign of an end."""


class Arrival:
    """How long bytes are waited for that a peer sends: silence ends it, and a drip does, but no length.

    Every FLOOR bytes allow one second more, so many seconds ahead at most. What arrives faster takes as long
    as it takes.
    """

    def __init__(self, patience: float, now: float) -> None:
        """`patience` is in seconds; `now`, as all moments, by the monotonic clock."""
        self.patience = patience
        self._until = now + patience

    def took(self, size: int, now: float) -> None:
        """Take note of bytes that have arrived."""
        self._until = min(self._until + size / FLOOR, now + self.patience)

    def left(self, now: float) -> float:
        """Return the seconds that more may be waited; none are left where it is not above 0."""
        return self._until - now
