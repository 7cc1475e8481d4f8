"""Promote: the standby takes over, guarded by evidence; hold and release frame planned work."""

from understudy.adapters.ledger import Ledger, ModeRecord
from understudy.core.errors import RefusedError
from understudy.core.health import Health
from understudy.core.model import Timestamp
from understudy.core.modes import ModeEvent
from understudy.core.views import Condition


def lag(horizon: Timestamp | None, health: Health | None, began: Timestamp, now: Timestamp) -> float:
    """Return the seconds of the primary's work that the standby may lack.

    It is the time from the horizon (or, before the first inventory diff, from `began`) to now, or to the
    moment since when the primary is down: what is down receives nothing. A moment that lies ahead is of a
    clock that was set back and counts as none: the lag is that to now, or to the beginning of time.
    """
    down_since = health.since if health is not None and health.condition is Condition.DOWN else now
    known = (moment for moment in (horizon, began) if moment is not None and moment <= now)
    return max(0.0, min(down_since, now) - next(known, 0.0))


def promote(
    ledger: Ledger,
    who: str,
    *,
    reason: str,
    force: bool,
    accept_loss: bool,
    epoch: int,
    health: Health | None,
    lag_seconds: float,
    max_lag: float,
    now: Timestamp,
) -> ModeRecord:
    """Change standby to active in one durable transaction.

    Raises PreconditionError with every unmet precondition: the primary is down by evidence, or `force` with a
    reason; nothing is known to be missing and the lag is within `max_lag`, or `accept_loss`.
    """
    _need_reason(reason)
    unmet: list[str] = []
    down = health is not None and health.condition is Condition.DOWN
    if not down and not force:
        seen = "there is no primary" if health is None else f"the primary is {health.condition.value}"
        unmet.append(f"{seen}: promote with force (--force) and a reason if you know better")
    gaps = ledger.tally_gaps()
    if not accept_loss and gaps.instances:
        unmet.append(
            f"{gaps.instances} instances of {gaps.studies} studies are known to be missing here: "
            "accept_loss is needed"
        )
    if not accept_loss and health is not None and lag_seconds > max_lag:
        unmet.append(
            f"the standby lags {lag_seconds:.0f} s, over the limit of {max_lag:.0f} s: accept_loss is needed"
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
        "lag_seconds": round(lag_seconds, 1),
        "missing": gaps.instances,
        "evidence": evidence,
    }
    return ledger.change_mode(
        ModeEvent.PROMOTE, epoch=epoch, who=who, fields=fields, now=now, guard=lambda _connection: unmet
    )


def hold(ledger: Ledger, who: str, *, reason: str, epoch: int, now: Timestamp) -> ModeRecord:
    """Keep the appliance still during planned work on the primary."""
    _need_reason(reason)
    return ledger.change_mode(ModeEvent.HOLD, epoch=epoch, who=who, fields={"reason": reason}, now=now)


def release(ledger: Ledger, who: str, *, reason: str, epoch: int, now: Timestamp) -> ModeRecord:
    """End the planned work."""
    _need_reason(reason)
    return ledger.change_mode(ModeEvent.RELEASE, epoch=epoch, who=who, fields={"reason": reason}, now=now)


def _need_reason(reason: str) -> None:
    if not reason.strip():
        raise RefusedError("a reason is needed", "say in a few words why; it is written to the event log")
