"""How fast a long act goes, and how long it still takes."""


def rate_of(done: int, seconds: float) -> float:
    """Return units a second, 0 where no time has passed."""
    return done / seconds if seconds > 0 else 0.0


def seconds_left(units: int, rate: float) -> float | None:
    """Return the seconds that so many units take at the rate, None where nobody can say."""
    return units / rate if rate > 0 else None
