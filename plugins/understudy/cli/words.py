"""Formats numbers, durations and sizes for people."""

from datetime import UTC, datetime


def duration(seconds: float) -> str:
    """Return seconds in at most two units: 4 s, 2 min 5 s, 3 h 10 min, 2 d 4 h."""
    whole = max(0, round(seconds))
    for large, small, size, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {large} {rest} {small}" if rest else f"{whole // size} {large}"
    return f"{whole} s"


def count(number: int) -> str:
    """Return a number with thin spaces between the thousands."""
    return f"{number:,}".replace(",", "\u202f")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural where needed."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count(number)} {noun if number == 1 else plural}"


def size(number: int) -> str:
    """Return bytes in the unit that fits."""
    value = float(number)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def moment(at: str | float) -> str:
    """Return a moment, given as ISO 8601 or in seconds since 1970, as local date and time."""
    when = datetime.fromisoformat(at) if isinstance(at, str) else datetime.fromtimestamp(at, UTC)
    return when.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def between(earlier: str, later: str) -> float:
    """Return the seconds from one ISO moment to another."""
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
