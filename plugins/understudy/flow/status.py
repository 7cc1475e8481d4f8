"""Status: everything that a person or a monitor asks about the appliance, at one moment."""

from collections.abc import Iterable, Sequence

from understudy.adapters.ledger import Finding, Ledger
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

_OLD = 900.0
"""Seconds after which something unsettled is an alarm: age tells of a queue that stands still."""


def holder_view(ledger: Ledger, holder: Holder, lane: LaneView, now: Timestamp) -> HolderView:
    """Return one holder with its numbers."""
    tally = ledger.tally().get(holder.name, {})
    oldest = ledger.oldest_unsettled(holder.name)
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
    )


def primary_view(ae_title: str, host: str, port: int, health: Health) -> PrimaryView:
    """Return the primary with the evidence of its probes."""
    return PrimaryView(ae_title, host, port, health.condition, iso(health.since), health.evidence)


def gaps_view(gaps: Sequence[Finding], now: Timestamp) -> GapsView:
    """Return the known gaps in numbers."""
    oldest = min((gap.since for gap in gaps), default=now)
    return GapsView(len(gaps), sum(gap.instances for gap in gaps), max(0.0, now - oldest))


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
    now: Timestamp,
) -> list[Alarm]:
    """Return what a person has to know now, the most urgent first."""
    found: list[Alarm] = list(faults)
    at = iso(now)
    if primary is None:
        found.append(
            Alarm(at, "no primary is configured", "name it in orthanc-config/understudy.json and restart")
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
        if holder.refused:
            found.append(
                Alarm(
                    at,
                    f"{holder.name} refused {holder.refused} instances",
                    f"`understudy obligations --holder {holder.name} --state refused` says why; "
                    "replay or waive them",
                )
            )
        if holder.lane.state is LaneState.WAITING:
            found.append(Alarm(holder.lane.since, f"{holder.name} does not answer", holder.lane.reason))
        elif holder.oldest_owed_seconds > _OLD and holder.lane.state is not LaneState.PAUSED:
            found.append(
                Alarm(
                    at,
                    f"{holder.name} is owed an instance for {holder.oldest_owed_seconds:.0f} s",
                    "see its lane",
                )
            )
    if gaps.oldest_seconds > _OLD:
        found.append(
            Alarm(at, f"{gaps.instances} instances at the primary could not be pulled", "see the agent's log")
        )
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
