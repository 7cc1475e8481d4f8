"""Deletion: what a person wants deleted here, how it stands elsewhere, and what speaks against it."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from understudy.core.model import HolderName, InstanceNumber, StudyInstanceUid
from understudy.core.obligations import ObligationState


@dataclass(frozen=True, slots=True)
class Deletion:
    """A study, or of it a series or some instances."""

    study_instance_uid: StudyInstanceUid
    series_instance_uid: str | None = None
    sop_instance_uids: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How instances stand with the holders, in numbers."""

    unsettled: Mapping[HolderName, int]
    """Owed to a holder, on the way, or not proven yet."""
    proven: Mapping[HolderName, int]
    doubted: Mapping[HolderName, int]
    """Proven at a holder that may have lost them since."""
    alone: int
    """Proven at no holder, or at doubted ones alone: the last copy that is known is here."""


_UNDER_WAY = (ObligationState.OWED, ObligationState.IN_FLIGHT, ObligationState.SENT)

NOT_CONFIGURED = "it is not configured any more"
"""Why a holder is doubted that nobody asks."""


def standing_of(
    numbers: Collection[InstanceNumber],
    found: Iterable[tuple[InstanceNumber, HolderName, ObligationState]],
    trusted: Collection[HolderName],
) -> Standing:
    """Return how instances stand, by all their obligations; a proof counts at the `trusted` holders alone."""
    unsettled: Counter[HolderName] = Counter()
    proven: Counter[HolderName] = Counter()
    doubted: Counter[HolderName] = Counter()
    safe: set[InstanceNumber] = set()
    for number, holder, state in found:
        if state in _UNDER_WAY:
            unsettled[holder] += 1
        elif state is not ObligationState.PROVEN:
            continue
        elif holder in trusted:
            proven[holder] += 1
            safe.add(number)
        else:
            doubted[holder] += 1
    return Standing(dict(unsettled), dict(proven), dict(doubted), len(set(numbers) - safe))


def objections(standing: Standing, doubts: Mapping[HolderName, str]) -> list[str]:
    """Return what speaks against a deletion, one sentence each; a person may decide otherwise by force.

    `doubts` say by holder why its proofs do not count now, and are empty where they do.
    """
    found = [
        f"{number} instances are owed to {holder} or not proven there yet"
        for holder, number in sorted(standing.unsettled.items())
    ]
    if standing.alone:
        found.append(f"{standing.alone} instances are proven at no other holder: they would be lost")
        found += [
            f"{number} instances were proven at {holder}, and that does not count: "
            f"{doubts.get(holder, NOT_CONFIGURED)}"
            for holder, number in sorted(standing.doubted.items())
        ]
    return found
