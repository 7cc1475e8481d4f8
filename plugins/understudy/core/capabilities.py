"""Capabilities: what a probe found that the primary can do, and what that means for this standby."""

from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass
from enum import Enum

from understudy.core.model import StudyInstanceUid
from understudy.core.views import Moment


class Ability(Enum):
    """Whether the primary can do something."""

    WORKS = "works"
    LIMITED = "limited"
    """It works in part, or with a limit that matters here."""
    MISSING = "missing"
    UNKNOWN = "unknown"
    """It was not asked for, or the answer shows nothing."""


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing that the primary can or cannot do."""

    name: str
    needed: bool
    """Whether this standby is of no use without it."""
    ability: Ability
    finding: str
    """The result in a few words, which two probes of the same primary have in common."""
    evidence: str
    """What was asked, and what came back."""
    meaning: str
    """What it means here, and what to do; empty if there is nothing to do."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A value of the configuration that fits this primary better than the present one."""

    key: str
    value: int | str
    because: str


@dataclass(frozen=True, slots=True)
class CapabilitiesView:
    """The result of `understudy probe`; `changes` are the differences from the probe before it."""

    at: Moment
    seconds: float
    """How long the probe took."""
    ae_title: str
    host: str
    port: int
    suits: bool
    """Whether everything that is needed was found, at least in part."""
    verdict: str
    capabilities: Sequence[Capability]
    suggestions: Sequence[Suggestion]
    changes: Sequence[str]


def verdict(capabilities: Collection[Capability]) -> tuple[bool, str]:
    """Return whether the primary suits this standby, and why, in a sentence."""
    needed = [one for one in capabilities if one.needed]
    missing = [one.name for one in needed if one.ability is Ability.MISSING]
    if missing:
        return False, f"This standby cannot stand in for this PACS: {', '.join(missing)} is missing."
    unknown = [one.name for one in needed if one.ability is Ability.UNKNOWN]
    if unknown:
        return False, f"It is not known whether this PACS suits: nothing shows {', '.join(unknown)}."
    limited = [one.name for one in capabilities if one.ability is Ability.LIMITED]
    if limited:
        return True, f"This PACS suits this standby, with limits: {', '.join(limited)}."
    return True, "This PACS suits this standby."


def changes(before: Collection[Capability], after: Collection[Capability]) -> list[str]:
    """Return in words which findings differ between two probes."""
    known = {one.name: one.finding for one in before}
    return [
        f"{one.name}: {one.finding} (before: {known[one.name]})"
        for one in after
        if one.name in known and known[one.name] != one.finding
    ]


def is_round(number: int) -> bool:
    """Say whether a number of answers looks like a limit that somebody chose."""
    return number >= _SMALLEST_LIMIT and number % (100 if number >= _SMALLEST_LIMIT * 10 else 50) == 0


_SMALLEST_LIMIT = 50


def left_out(whole: Set[StudyInstanceUid], parts: Set[StudyInstanceUid]) -> int:
    """Return how many studies the answer to a question lacks that the answers to its parts have."""
    return len(parts - whole)
