"""The rate of an operation, and the time that it still takes."""


def rate_of(done: int, seconds: float) -> float:
    """Return the units per second, 0 if no time has passed."""
    return done / seconds if seconds > 0 else 0.0


def seconds_left(units: int, rate: float) -> float | None:
    """Return the seconds that these units take at this rate, None if the rate is 0."""
    return units / rate if rate > 0 else None
