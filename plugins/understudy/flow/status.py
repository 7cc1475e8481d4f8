"""Status: everything that a person or a monitor asks about the appliance, at one moment."""

from collections.abc import Iterable, Sequence

from understudy.adapters.ledger import Finding, GapsTally, Ledger
from understudy.core.health import Health
from understudy.core.model import HolderKind, Timestamp
from understudy.core.modes import Mode
from understudy.core.obligations import ObligationState
from understudy.core.ports import Holder
from understudy.core.views import (
    Alarm,
    Condition,
    GapsView,
    HolderView,
    LaneState,
    LaneView,
    PrimaryView,
    iso,
)

_CLOCK_TOLERANCE = 5.0
_OLD = 900.0
"""Seconds after which a gap is an alarm."""


def holder_view(
    ledger: Ledger, holder: Holder, lane: LaneView, now: Timestamp, *, owed_limit: float = 900.0
) -> HolderView:
    """Return one holder with its numbers; `owed_limit` are seconds that it may be owed anything."""
    tally = ledger.tally().get(holder.name, {})
    oldest = ledger.oldest_unsettled(holder.name)
    refused = ledger.refused_since(holder.name)
    return HolderView(
        name=holder.name,
        kind=holder.kind,
        owed=tally.get(ObligationState.OWED, 0),
        in_flight=tally.get(ObligationState.IN_FLIGHT, 0),
        sent=tally.get(ObligationState.SENT, 0),
        proven=tally.get(ObligationState.PROVEN, 0),
        refused=tally.get(ObligationState.REFUSED, 0),
        waived=tally.get(ObligationState.WAIVED, 0),
        oldest_owed_seconds=0.0 if oldest is None else max(0.0, now - oldest),
        lane=lane,
        proof=holder.proof,
        owed_since=None if oldest is None else iso(oldest),
        refused_since=None if refused is None else iso(refused),
        owed_limit_seconds=owed_limit,
    )


def primary_view(ae_title: str, host: str, port: int, health: Health) -> PrimaryView:
    """Return the primary with the evidence of its probes."""
    return PrimaryView(ae_title, host, port, health.condition, iso(health.since), health.evidence)


def gaps_view(gaps: GapsTally, now: Timestamp) -> GapsView:
    """Return the known gaps with the age of the oldest."""
    age = 0.0 if gaps.since is None else max(0.0, now - gaps.since)
    return GapsView(gaps.studies, gaps.instances, age, None if gaps.since is None else iso(gaps.since))


def rpo_seconds(holders: Iterable[HolderView]) -> float:
    """Return the age of the oldest instance that some vault is not proven to have."""
    return max(
        (holder.oldest_owed_seconds for holder in holders if holder.kind is HolderKind.VAULT), default=0.0
    )


def alarms(
    *,
    mode: Mode,
    primary: PrimaryView | None,
    holders: Sequence[HolderView],
    gaps: GapsView,
    departures: Sequence[Finding],
    faults: Sequence[Alarm],
    began: Timestamp,
) -> list[Alarm]:
    """Return what a person has to know now, the most urgent first; `began` is when the ledger was begun.

    `since` tells when what is wrong began, and is the same at every look.
    """
    found: list[Alarm] = list(faults)
    if primary is None:
        found.append(
            Alarm(
                iso(began),
                "no primary is configured",
                "name it in orthanc-config/understudy.json and restart",
            )
        )
    elif primary.condition is Condition.DOWN and mode is Mode.STANDBY:
        found.append(
            Alarm(
                primary.since,
                "the primary is down",
                "promote: `understudy promote --reason ...`, then repoint",
            )
        )
    elif primary.condition is Condition.UP and mode is Mode.ACTIVE:
        found.append(
            Alarm(
                primary.since,
                "the primary answers again while this standby is active: two systems may be receiving",
                "keep the modalities here until the failback; what the primary receives is pulled",
            )
        )
    for holder in holders:
        found += _of_holder(holder)
    if gaps.since is not None and gaps.oldest_seconds > _OLD:
        what = f"{gaps.instances} instances at the primary could not be pulled"
        found.append(Alarm(gaps.since, what, "see the agent's log"))
    if departures:
        total = sum(departure.instances for departure in departures)
        found.append(
            Alarm(
                iso(min(departure.since for departure in departures)),
                f"the primary no longer lists {total} instances of {len(departures)} studies that it had",
                "nothing was deleted here; a failback would give them back",
            )
        )
    return found


def clock_alarms(newest: Timestamp | None, now: Timestamp) -> list[Alarm]:
    """Return the alarm on a clock that was set back; `newest` is since when the latest instance is owed."""
    if newest is None or newest <= now + _CLOCK_TOLERANCE:
        return []
    what = "the clock was set back: an instance is owed since a time to come, and ages are not to be trusted"
    return [Alarm(iso(newest), what, "`chronyc tracking` says whether the machine's time is right now")]


def _of_holder(holder: HolderView) -> list[Alarm]:
    """Return what is wrong with one holder: the age of what it is owed tells of a queue that stands still."""
    found: list[Alarm] = []
    lane = holder.lane
    if holder.refused_since is not None:
        hint = f"`understudy dead-letters --holder {holder.name}` says why; replay or waive them"
        what = f"{holder.name} refused {holder.refused} instances"
        found.append(Alarm(holder.refused_since, what, hint))
    if lane.state is LaneState.WAITING:
        found.append(Alarm(lane.since, f"{holder.name} does not answer", lane.reason))
    waiting = holder.owed + holder.in_flight + holder.sent
    too_old = holder.oldest_owed_seconds > holder.owed_limit_seconds and lane.state is not LaneState.PAUSED
    if waiting and too_old and holder.owed_since is not None:
        what = f"{holder.name} is owed an instance for more than {holder.owed_limit_seconds:.0f} s"
        hint = lane.reason or f"`understudy obligations --holder {holder.name}` lists the oldest first"
        found.append(Alarm(holder.owed_since, what, hint))
    return found
