"""Deletion: the instances to delete here, their state at the holders, and the objections."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from understudy.core.model import HolderName, InstanceNumber, StudyInstanceUid
from understudy.core.obligations import ObligationState
from understudy.core.text import counted


@dataclass(frozen=True, slots=True)
class Deletion:
    """The object of a deletion: a study, one of its series, or some of its instances."""

    study_instance_uid: StudyInstanceUid
    series_instance_uid: str | None = None
    sop_instance_uids: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of instances at the holders, as numbers."""

    unsettled: Mapping[HolderName, int]
    """Owed to a holder, on the way, or not proven yet."""
    proven: Mapping[HolderName, int]
    doubted: Mapping[HolderName, int]
    """Proven at a holder that may have lost them, or that is not configured any more."""
    alone: int
    """Not proven at any trusted holder: the last known copy is here."""


_UNDER_WAY = (ObligationState.OWED, ObligationState.IN_FLIGHT, ObligationState.SENT)

NOT_CONFIGURED = "it is not configured any more"
"""The reason to doubt a holder that the agent no longer asks."""


def standing_of(
    numbers: Collection[InstanceNumber],
    found: Iterable[tuple[InstanceNumber, HolderName, ObligationState]],
    trusted: Collection[HolderName],
) -> Standing:
    """Return the state of instances from all their obligations. Only proofs at `trusted` holders count."""
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
    """Return the objections to a deletion, one sentence each. A forced deletion ignores them.

    `doubts` says by holder why its proofs do not count now, and is empty for a trusted holder.
    """
    found = [
        f"{counted(number, 'image is', 'images are')} owed to {holder} or not proven there yet"
        for holder, number in sorted(standing.unsettled.items())
    ]
    if standing.alone:
        alone = counted(standing.alone, "image is", "images are")
        found.append(f"{alone} proven at no other holder and would be lost")
        found += [
            f"{counted(number, 'image was', 'images were')} proven at {holder}, "
            f"but such a proof does not count now: {doubts.get(holder, NOT_CONFIGURED)}"
            for holder, number in sorted(standing.doubted.items())
        ]
    return found
