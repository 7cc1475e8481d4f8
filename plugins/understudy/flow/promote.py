"""Promote: the standby takes over, guarded by evidence; hold and release begin and end planned work."""

from collections.abc import Callable, Sequence
from typing import Protocol

from understudy.core.errors import RefusedError
from understudy.core.health import Health
from understudy.core.model import Timestamp
from understudy.core.modes import Mode, ModeEvent
from understudy.core.text import counted
from understudy.core.views import Alarm, PrimaryCondition, iso
from understudy.ledger import EventBook, GapBook, ModeBook, ModeRecord

_LONG = 86_400.0
"""Seconds of planned work after which it counts as forgotten."""

_ACCEPT = "accept the loss (accept_loss, --accept-loss) if nobody can wait"

_SEEN = {
    PrimaryCondition.UP: "the primary is up",
    PrimaryCondition.DOWN: "the primary is down",
    PrimaryCondition.REFUSES: "the primary answers, but it refuses this standby, so it may work for others",
    PrimaryCondition.BUSY: "the primary answers that it is busy, so it works for others",
    PrimaryCondition.UNKNOWN: "it is not known whether the primary is up",
}


def lag(horizon: Timestamp | None, now: Timestamp) -> float | None:
    """Return the seconds since the horizon; None if there is no horizon.

    A horizon that lies ahead gives None, too: the clock was set back.
    """
    return None if horizon is None or horizon > now else now - horizon


def loss(horizon: Timestamp | None, health: Health | None, now: Timestamp) -> float | None:
    """Return the seconds of the primary's work that the standby may lack; None if that is not known.

    They count from the horizon to now, or to the moment since when the primary is down, because it receives
    nothing while it is down.
    """
    if lag(horizon, now) is None or horizon is None:
        return None
    down = health is not None and health.condition is PrimaryCondition.DOWN
    until = min(health.since, now) if down and health is not None else now
    return max(0.0, until - horizon)


class PromoteBooks(Protocol):
    """The books of the ledger that a promotion uses."""

    gaps: GapBook
    modes: ModeBook


def promote(
    ledger: PromoteBooks,
    who: str,
    *,
    reason: str,
    force: bool,
    accept_loss: bool,
    epoch: int,
    health: Health | None,
    loss_seconds: float | None,
    max_lag: float,
    doubts: Sequence[str] = (),
    now: Timestamp,
) -> ModeRecord:
    """Change standby to active in one durable transaction.

    `loss_seconds` is the result of `loss`, `doubts` are the reasons why a comparison could not conclude.

    Raises PreconditionError with every unmet precondition: the primary is down by evidence, or `force` with a
    reason; no instance is known to be missing and the loss is known and within `max_lag`, or `accept_loss`.
    """
    _need_reason(reason)
    unmet: list[str] = []
    down = health is not None and health.condition is PrimaryCondition.DOWN
    if not down and not force:
        seen = "there is no primary" if health is None else _SEEN[health.condition]
        unmet.append(f"{seen}: promote with force (--force) and a reason if you know better")
    gaps = ledger.gaps.tally()
    if not accept_loss and gaps.instances:
        unmet.append(
            f"{counted(gaps.instances, 'image')} of {counted(gaps.studies, 'study', 'studies')} known to be "
            f"missing here: {_ACCEPT}"
        )
    if not accept_loss and health is not None:
        if loss_seconds is None:
            because = "; ".join(doubts) or "no comparison with the primary has been completed"
            unmet.append(
                f"nobody knows how many images of the primary are missing here ({because}): {_ACCEPT}"
            )
        elif loss_seconds > max_lag:
            unmet.append(
                f"this standby may lack all images that the primary received in {loss_seconds:.0f} s, more "
                f"than the limit of {max_lag:.0f} s: {_ACCEPT}"
            )
    evidence = (
        []
        if health is None
        else [f"{probe.at} echo={probe.echo} find={probe.find}" for probe in health.evidence[:5]]
    )
    fields = {
        "reason": reason,
        "force": force,
        "accept_loss": accept_loss,
        "loss_seconds": None if loss_seconds is None else round(loss_seconds, 1),
        "missing": gaps.instances,
        "evidence": evidence,
    }
    return ledger.modes.change(
        ModeEvent.PROMOTE, epoch=epoch, who=who, fields=fields, now=now, guard=lambda _connection: unmet
    )


def hold(modes: ModeBook, who: str, *, reason: str, epoch: int, now: Timestamp) -> ModeRecord:
    """Change standby to maintenance, for planned work on the primary."""
    _need_reason(reason)
    return modes.change(ModeEvent.HOLD, epoch=epoch, who=who, fields={"reason": reason}, now=now)


def release(modes: ModeBook, who: str, *, reason: str, epoch: int, now: Timestamp) -> ModeRecord:
    """Change maintenance to standby: the planned work has ended."""
    _need_reason(reason)
    return modes.change(ModeEvent.RELEASE, epoch=epoch, who=who, fields={"reason": reason}, now=now)


def hold_alarms(
    mode: ModeRecord, events: EventBook, has_waited: Callable[[Timestamp, float], bool]
) -> list[Alarm]:
    """Return the alarm on planned work that nobody has ended for a day; `has_waited` is the clock's."""
    if mode.mode is not Mode.MAINTENANCE or not has_waited(mode.since, _LONG):
        return []
    who = events.latest_by(ModeEvent.HOLD.value)
    what = f"planned work at the primary was begun by {who} more than a day ago and nobody has ended it"
    hint = "until `understudy release --reason WHY` no image is fetched from the primary or sent to it"
    return [Alarm(iso(mode.since), what, hint)]


def _need_reason(reason: str) -> None:
    if not reason.strip():
        raise RefusedError("a reason is needed", "say in a few words why; it is written to the event log")
