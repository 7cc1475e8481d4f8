"""The modes of the appliance: one table of all transitions. The manual's diagram is drawn from it."""

from enum import Enum


class Mode(Enum):
    """The mode says which system serves the clinic: the primary or this appliance."""

    STANDBY = "standby"
    ACTIVE = "active"
    RETURNING = "returning"
    MAINTENANCE = "maintenance"


class ModeEvent(Enum):
    """A change of the mode that an operator asks for."""

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
    """The event is not possible in the current mode, and nothing changed."""

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
    """Return the epoch after the event. Only a promotion increases it."""
    return epoch + 1 if event is ModeEvent.PROMOTE else epoch


def delivers_to_primary(mode: Mode) -> bool:
    """Say whether the lane to the primary works: not in an outage (active) or planned work (maintenance)."""
    return mode in (Mode.STANDBY, Mode.RETURNING)
