"""The health of the primary from its probes, with hysteresis: one lost probe moves nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from understudy.core.model import Timestamp
from understudy.core.views import Condition, Probe

KEPT = 20
"""Probes kept as evidence."""

GOOD_PROBES_FOR_UP = 2
"""Good probes in a row after which a primary that was down counts as up again."""


@dataclass(frozen=True, slots=True)
class Health:
    """What the probes say so far; `evidence` holds the newest first."""

    condition: Condition
    since: Timestamp
    streak: int = 0
    """Good probes in a row, or bad ones as a negative number."""
    evidence: Sequence[Probe] = ()


def after_probe(health: Health, probe: Probe, *, at: Timestamp, failures_for_down: int) -> Health:
    """Return the health after one more probe."""
    good = probe.echo == "ok" and probe.find == "ok"
    streak = max(health.streak, 0) + 1 if good else min(health.streak, 0) - 1
    condition = health.condition
    if good and (condition is Condition.UNKNOWN or streak >= GOOD_PROBES_FOR_UP):
        condition = Condition.UP
    elif not good and -streak >= failures_for_down:
        condition = Condition.DOWN
    since = health.since if condition is health.condition else at
    evidence = (probe, *health.evidence)[:KEPT]
    return replace(health, condition=condition, since=since, streak=streak, evidence=evidence)
