"""The modes of the appliance: one table, from which every transition and the manual's diagram come."""

from enum import Enum


class Mode(Enum):
    """Who serves the clinic, as the appliance sees it."""

    STANDBY = "standby"
    ACTIVE = "active"
    RETURNING = "returning"
    MAINTENANCE = "maintenance"


class ModeEvent(Enum):
    """What an operator asks of the mode."""

    PROMOTE = "promote"
    FAILBACK = "failback"
    SETTLE = "settle"
    INTERRUPT = "interrupt"
    HOLD = "hold"
    RELEASE = "release"


TRANSITIONS: dict[tuple[Mode, ModeEvent], Mode] = {
    (Mode.STANDBY, ModeEvent.PROMOTE): Mode.ACTIVE,
    (Mode.ACTIVE, ModeEvent.FAILBACK): Mode.RETURNING,
    (Mode.RETURNING, ModeEvent.SETTLE): Mode.STANDBY,
    (Mode.RETURNING, ModeEvent.INTERRUPT): Mode.ACTIVE,
    (Mode.STANDBY, ModeEvent.HOLD): Mode.MAINTENANCE,
    (Mode.MAINTENANCE, ModeEvent.RELEASE): Mode.STANDBY,
}


class WrongModeError(Exception):
    """An event that the present mode does not know; nothing changed."""

    def __init__(self, mode: Mode, event: ModeEvent) -> None:
        allowed = sorted(origin.value for (origin, known), _ in TRANSITIONS.items() if known is event)
        super().__init__(f"{event.value} is not possible in mode {mode.value}")
        self.mode = mode
        self.event = event
        self.hint = f"{event.value} is possible in mode {' or '.join(allowed)}"


def after(mode: Mode, event: ModeEvent) -> Mode:
    """Return the mode that the event leads to, or raise WrongModeError."""
    try:
        return TRANSITIONS[mode, event]
    except KeyError:
        raise WrongModeError(mode, event) from None


def next_epoch(epoch: int, event: ModeEvent) -> int:
    """Return the epoch after the event: it grows with every promotion and with nothing else."""
    return epoch + 1 if event is ModeEvent.PROMOTE else epoch


def delivers_to_primary(mode: Mode) -> bool:
    """Say whether the lane to the primary works: not while it is presumed down, nor during planned work."""
    return mode in (Mode.STANDBY, Mode.RETURNING)
