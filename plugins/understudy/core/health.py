"""The health of the primary from its probes, with hysteresis: one failed probe changes nothing.

Rule 1: only silence is evidence of an outage. A primary is alive if it refuses or is busy, or if it answers
other requests of ours while a probe fails.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from understudy.core.model import Timestamp
from understudy.core.views import PrimaryCondition, Probe, Sign

KEPT = 20
"""Number of probes that are kept as evidence."""

GOOD_PROBES_FOR_UP = 2
"""Number of good probes in a row after which a primary that was down counts as up again."""

_CONDITIONS = {
    Sign.REFUSES: PrimaryCondition.REFUSES,
    Sign.BUSY: PrimaryCondition.BUSY,
    Sign.SILENT: PrimaryCondition.DOWN,
}


@dataclass(frozen=True, slots=True)
class Health:
    """The result of the probes so far; `evidence` has the newest probe first.

    `seen` is the time of the primary's last sign of life, None if there was none.
    """

    condition: PrimaryCondition
    since: Timestamp
    evidence: Sequence[Probe] = ()
    seen: Timestamp | None = None


def after_probe(health: Health, probe: Probe, *, at: Timestamp, failures_for_down: int) -> Health:
    """Return the health after one more probe."""
    evidence = (probe, *health.evidence)[: max(KEPT, failures_for_down)]
    condition = _condition(health.condition, [one.sign for one in evidence], failures_for_down)
    return replace(
        health,
        condition=condition,
        since=health.since if condition is health.condition else at,
        evidence=evidence,
        seen=health.seen if probe.sign is Sign.SILENT else at,
    )


def _condition(before: PrimaryCondition, signs: Sequence[Sign], failures: int) -> PrimaryCondition:
    """Return the condition after these signs, the newest first."""
    newest, last = signs[0], signs[:failures]
    steady = len(signs) >= GOOD_PROBES_FOR_UP and len({one.serves or one for one in signs[:2]}) == 1
    if newest.serves:
        return PrimaryCondition.UP if before is PrimaryCondition.UNKNOWN or steady else before
    if before is PrimaryCondition.DOWN or before in _CONDITIONS.values():
        lives = newest is not Sign.SILENT
        if lives and steady:
            return _CONDITIONS[newest]
    if len(last) < failures or any(one.serves for one in last):
        return before
    if all(one is Sign.SILENT for one in last):
        return PrimaryCondition.DOWN
    if before in (PrimaryCondition.UP, PrimaryCondition.UNKNOWN):
        return _CONDITIONS[next(one for one in last if one is not Sign.SILENT)]
    return before
