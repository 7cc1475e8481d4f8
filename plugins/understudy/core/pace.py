"""How fast: a token bucket whose rate may change from hour to hour."""

from dataclasses import dataclass

from understudy.core.model import Timestamp

_SHORTEST_WAIT = 0.001
"""Seconds that are not worth a wait: a clock that counts from 1970 hardly tells less."""


@dataclass(slots=True)
class TokenBucket:
    """Bytes that may be sent, filled at the rate of the moment; it never holds more than a second's worth.

    One instance may be larger than that: it is let through when nothing is overdrawn, and paid off after.
    """

    at: Timestamp
    level: float = 0.0

    def take(self, size: int, now: Timestamp, rate: int | None) -> float:
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
