"""Status: the state of the whole appliance at one moment, for people and monitors."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from understudy.core.health import Health
from understudy.core.model import HolderKind, Timestamp
from understudy.core.modes import Mode
from understudy.core.obligations import ObligationState
from understudy.core.ports import Holder
from understudy.core.readiness import by_urgency
from understudy.core.text import counted
from understudy.core.views import (
    Alarm,
    GapsView,
    HolderView,
    LaneState,
    LaneView,
    PrimaryCondition,
    PrimaryView,
    Urgency,
    iso,
)
from understudy.ledger import DeadLetterBook, Finding, GapsTally, ObligationBook


@dataclass(frozen=True, slots=True)
class Copy:
    """How complete the copy is known to be; `age_seconds` is the age of the ledger."""

    horizon: Timestamp | None = None
    loss_seconds: float | None = 0.0
    max_lag: float = 900.0
    age_seconds: float = 0.0


_CLOCK_TOLERANCE = 5.0
_OLD = 900.0
"""Seconds after which a gap is an alarm."""


class HolderBooks(Protocol):
    """The books of the ledger that the view of a holder uses."""

    dead_letters: DeadLetterBook
    obligations: ObligationBook


def holder_view(
    ledger: HolderBooks,
    holder: Holder,
    lane: LaneView,
    waited: Callable[[Timestamp], float],
    *,
    owed_limit: float = 900.0,
    awaited_bytes: int = 0,
) -> HolderView:
    """Return one holder with its numbers; `waited` returns the seconds since a moment.

    `owed_limit` is how many seconds an instance may be owed, `awaited_bytes` the memory that the lane
    waits for.
    """
    if awaited_bytes:
        waits = f"waiting for {-(-awaited_bytes // 2**20)} MiB of memory that other lanes hold"
        lane = replace(lane, reason="; ".join(filter(None, (lane.reason, waits))))
    tally = ledger.obligations.tally().get(holder.name, {})
    oldest = ledger.obligations.oldest(holder.name)
    refused = ledger.dead_letters.since(holder.name)
    return HolderView(
        name=holder.name,
        kind=holder.kind,
        owed=tally.get(ObligationState.OWED, 0),
        in_flight=tally.get(ObligationState.IN_FLIGHT, 0),
        sent=tally.get(ObligationState.SENT, 0),
        proven=tally.get(ObligationState.PROVEN, 0),
        refused=tally.get(ObligationState.REFUSED, 0),
        waived=tally.get(ObligationState.WAIVED, 0),
        oldest_owed_seconds=0.0 if oldest is None else waited(oldest),
        lane=lane,
        proof=holder.proof,
        owed_since=None if oldest is None else iso(oldest),
        refused_since=None if refused is None else iso(refused),
        owed_limit_seconds=owed_limit,
        altered=ledger.obligations.altered(holder.name),
    )


def primary_view(ae_title: str, host: str, port: int, health: Health) -> PrimaryView:
    """Return the primary with the evidence of its probes."""
    seen = None if health.seen is None else iso(health.seen)
    return PrimaryView(ae_title, host, port, health.condition, iso(health.since), health.evidence, seen)


def gaps_view(gaps: GapsTally, waited: Callable[[Timestamp], float]) -> GapsView:
    """Return the known gaps with the age of the oldest; `waited` returns the seconds since a moment."""
    age = 0.0 if gaps.since is None else waited(gaps.since)
    return GapsView(gaps.studies, gaps.instances, age, None if gaps.since is None else iso(gaps.since))


def rpo_seconds(holders: Iterable[HolderView]) -> float:
    """Return the age of the oldest instance that is owed to a vault."""
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
    copy: Copy = Copy(),
) -> list[Alarm]:
    """Return the alarms, the most urgent first; `began` is when the ledger was begun.

    The `since` of an alarm is when its fault began, and is the same in every call.
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
    else:
        found += _of_primary(primary, mode)
        if mode is Mode.STANDBY:
            found += _of_copy(copy, began)
    for holder in holders:
        found += _of_holder(holder)
    if gaps.since is not None and gaps.oldest_seconds > _OLD:
        what = f"{counted(gaps.instances, 'image')} of the primary could not be fetched"
        found.append(Alarm(gaps.since, what, "`docker compose logs agent` says why"))
    if departures:
        total = sum(departure.instances for departure in departures)
        found.append(
            Alarm(
                iso(min(departure.since for departure in departures)),
                f"the primary no longer lists {counted(total, 'image')} of "
                f"{counted(len(departures), 'study', 'studies')} that it had",
                "this appliance keeps them, and a failback sends them to the primary again",
            )
        )
    return list(by_urgency(found))


def _of_primary(primary: PrimaryView, mode: Mode) -> list[Alarm]:
    """Return the alarms on the primary's condition, each with its evidence."""
    probe = primary.evidence[0] if primary.evidence else None
    asked = "" if probe is None else f": C-ECHO {probe.echo}, C-FIND {probe.find}"
    if mode is Mode.STANDBY and primary.condition is PrimaryCondition.DOWN:
        what = f"the primary is down{asked}"
        hint = "on this host type: understudy promote --reason WHY; then point the modalities here"
        return [Alarm(primary.since, what, hint, Urgency.NOW)]
    if mode is Mode.STANDBY and primary.condition is PrimaryCondition.REFUSES:
        what = f"the primary works, but it refuses this standby{asked}"
        hint = (
            "allow this standby's AE title and address at the PACS to query and retrieve (Study Root). Until "
            "then, only images that the PACS forwards are copied. If modalities can store at the PACS, this "
            "is no outage"
        )
        return [Alarm(primary.since, what, hint)]
    if mode is Mode.STANDBY and primary.condition is PrimaryCondition.BUSY:
        what = f"the primary works, but it has no free association for this standby{asked}"
        hint = (
            "allow this standby more associations at the PACS. Images that the PACS does not forward are "
            "copied later. If modalities can store at the PACS, this is no outage"
        )
        return [Alarm(primary.since, what, hint)]
    if mode is Mode.ACTIVE and primary.condition is PrimaryCondition.UP:
        what = "the primary answers again while this standby is active: both may be receiving images"
        hint = "keep the modalities here until the failback; images that reach the primary are fetched"
        return [Alarm(primary.since, what, hint)]
    return []


def _of_copy(copy: Copy, began: Timestamp) -> list[Alarm]:
    """Return the alarm on a copy that was never known to be complete, or was so too long ago."""
    if copy.loss_seconds is None:
        if copy.age_seconds <= copy.max_lag:
            return []
        what = "this standby may lack images: no comparison with the primary has been completed yet"
        hint = "another alarm may say why; after a promotion now, any number of images may be missing"
        return [Alarm(iso(began), what, hint)]
    if copy.loss_seconds <= copy.max_lag or copy.horizon is None:
        return []
    what = "this standby has not been known to be complete for longer than Policy.MaxLag"
    hint = "newer images of the primary may be missing here; another alarm may say why"
    return [Alarm(iso(copy.horizon), what, hint)]


def clock_alarms(newest: Timestamp | None, now: Timestamp) -> list[Alarm]:
    """Return the alarm on a clock that was set back; `newest` is since when the newest obligation is owed."""
    if newest is None or newest <= now + _CLOCK_TOLERANCE:
        return []
    what = "the clock was set back: an image is owed since a time in the future, so ages cannot be trusted"
    return [Alarm(iso(newest), what, "`chronyc tracking` shows whether the clock is right again")]


def _of_holder(holder: HolderView) -> list[Alarm]:
    """Return the alarms on one holder; an instance that is owed for long shows a queue that does not move."""
    found: list[Alarm] = []
    lane = holder.lane
    if holder.refused_since is not None:
        hint = f"`understudy dead-letters --holder {holder.name}` says why; replay or waive these images"
        what = f"{holder.name} refused {counted(holder.refused, 'image')}"
        found.append(Alarm(holder.refused_since, what, hint))
    if lane.state is LaneState.WAITING:
        what = f"no image can be delivered to {holder.name} at the moment"
        found.append(Alarm(lane.since, what, lane.reason))
    waiting = holder.owed + holder.in_flight + holder.sent
    too_old = holder.oldest_owed_seconds > holder.owed_limit_seconds and lane.state is not LaneState.PAUSED
    if waiting and too_old and holder.owed_since is not None:
        what = f"an image has been owed to {holder.name} for more than {holder.owed_limit_seconds:.0f} s"
        hint = lane.reason or f"`understudy obligations --holder {holder.name}` lists the oldest first"
        found.append(Alarm(holder.owed_since, what, hint))
    return found
