"""The inventory diff: what the primary and the standby hold, compared study by study."""

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass

from understudy.core.model import Instance, InstanceNumber, SopInstanceUid, StudyInstanceUid
from understudy.core.obligations import ObligationState


def studies_to_look_into(
    theirs: Mapping[StudyInstanceUid, int | None],
    proven: Mapping[StudyInstanceUid, int],
    suspects: Collection[StudyInstanceUid],
) -> list[StudyInstanceUid]:
    """Return the studies that differ, in the primary's order, then those that it does not list.

    `theirs` is the primary's count of each study, None where it does not count; `proven` ours of instances
    that it is proven to have. Where these agree nothing was added or lost. `suspects` are looked into
    whatever the counts say.
    """
    wanted = set(suspects)
    differing = [study for study, count in theirs.items() if study in wanted or count != proven.get(study, 0)]
    return differing + sorted((proven.keys() | wanted) - theirs.keys())


@dataclass(frozen=True, slots=True)
class StudyDiff:
    """One study compared by SOP Instance UID."""

    study: StudyInstanceUid
    listed: int
    """Instances that the primary lists."""
    missing_here: Sequence[SopInstanceUid]
    """The primary has them, we do not: a gap, to be pulled."""
    found: Sequence[Instance]
    """Owed to the primary, and it lists them already."""
    lost: Sequence[Instance]
    """The primary was proven to have them and does not list them."""
    to_send: Sequence[Instance]
    """Owed, and not listed."""
    unasked: int = 0
    """Instances of a study of which nothing is here, as the primary counts them; not asked for one by one."""

    @property
    def missing(self) -> int:
        """How many instances the primary has and we do not."""
        return self.unasked + len(self.missing_here)


def whole_study(study: StudyInstanceUid, count: int) -> StudyDiff:
    """Return the difference of a study of which nothing is here."""
    return StudyDiff(study, count, (), (), (), (), unasked=count)


def compare_study(
    study: StudyInstanceUid,
    listed: Set[SopInstanceUid],
    ours: Sequence[Instance],
    states: Mapping[InstanceNumber, ObligationState],
) -> StudyDiff:
    """Return the difference; `states` are those of the obligations to the primary."""
    here = {instance.sop_instance_uid for instance in ours}

    def among(state: ObligationState, *, present: bool) -> list[Instance]:
        return [
            instance
            for instance in ours
            if states.get(instance.number) is state and (instance.sop_instance_uid in listed) is present
        ]

    return StudyDiff(
        study=study,
        listed=len(listed),
        missing_here=sorted(listed - here),
        found=among(ObligationState.OWED, present=True),
        lost=among(ObligationState.PROVEN, present=False),
        to_send=among(ObligationState.OWED, present=False),
    )
