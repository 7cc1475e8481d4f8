"""Readiness: the only place that decides whether a monitor sees "healthy", and the banner's colour."""

from collections.abc import Iterable, Sequence

from understudy.core.modes import Mode
from understudy.core.views import Alarm, Tone, Urgency

_ORDER = (Urgency.NOW, Urgency.SOON, Urgency.LATER)


def unready(
    *,
    mode: Mode,
    loss_seconds: float | None,
    intake_refused: str,
    unknown_since: str | None = None,
    storage_unknown_since: str | None = None,
    role: Mode | None = None,
    max_lag: float | None = None,
) -> list[str]:
    """Return why the appliance is not healthy by the caller's criteria, empty if it is healthy.

    `role` is the mode that the caller wants. `max_lag` is the largest accepted `loss_seconds`, which is None
    if not known. `unknown_since` is the time since when the ledger does not answer. `storage_unknown_since`
    is the time since when no stored file can be read.
    """
    reasons = []
    if unknown_since is not None:
        reasons.append(f"the ledger has not answered since {unknown_since}: its disk hangs")
    if storage_unknown_since is not None:
        reasons.append(
            f"the volume storage has not answered since {storage_unknown_since}: "
            "no image can be stored or shown here"
        )
    if intake_refused:
        reasons.append(f"new images are refused here: {intake_refused}")
    if role is not None and mode is not role:
        reasons.append(f"the mode is {mode.value}, not {role.value}")
    if max_lag is not None and loss_seconds is None:
        reasons.append(
            "no comparison with the primary has been completed, so nobody knows which images are missing here"
        )
    elif max_lag is not None and loss_seconds is not None and loss_seconds > max_lag:
        reasons.append(f"the mirror lags {loss_seconds:.0f} s, more than {max_lag:.0f} s")
    return reasons


def tone(alarms: Iterable[Alarm]) -> Tone:
    """Return the colour that the most urgent alarm gives to the banner."""
    urgencies = {alarm.urgency for alarm in alarms}
    if Urgency.NOW in urgencies:
        return Tone.BAD
    return Tone.WARN if Urgency.SOON in urgencies else Tone.GOOD


def by_urgency(alarms: Iterable[Alarm]) -> Sequence[Alarm]:
    """Return the alarms sorted by urgency, the most urgent first, otherwise in their given order."""
    return sorted(alarms, key=lambda alarm: _ORDER.index(alarm.urgency))
