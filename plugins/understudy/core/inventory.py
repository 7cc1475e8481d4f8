"""The inventory diff: what the primary and the standby hold, compared study by study."""

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass

from understudy.core.model import (
    Instance,
    InstanceNumber,
    SeriesInstanceUid,
    SopInstanceUid,
    StudyInstanceUid,
)
from understudy.core.obligations import ObligationState

Image = tuple[SeriesInstanceUid, SopInstanceUid]
"""How a PACS lists an image: one SOP Instance UID may stand in two series."""


@dataclass(frozen=True, slots=True)
class ListedStudy:
    """A study in a PACS's list: its count of instances, None where it is not known, and its date.

    The count is optional (DICOM PS3.4 table C.6-1), and some PACS always answer 0: that is no number either.
    The date is YYYYMMDD, empty where there is none.
    """

    count: int | None = None
    date: str = ""


@dataclass(frozen=True, slots=True)
class StudyList:
    """The studies that a PACS lists, the newest first; `cut` says why others may be missing, or is empty."""

    studies: Mapping[StudyInstanceUid, ListedStudy]
    cut: str = ""


@dataclass(frozen=True, slots=True)
class StudyDiff:
    """One study compared by SOP Instance UID."""

    study: StudyInstanceUid
    listed: int
    """Images that the primary lists."""
    missing_here: Sequence[Image]
    """The primary has them, we do not: a gap, to be pulled."""
    found: Sequence[Instance]
    """Owed to the primary, and it lists them already."""
    lost: Sequence[Instance]
    """The primary was proven to have them and does not list them."""
    to_send: Sequence[Instance]
    """Owed, and not listed."""
    unasked: int = 0
    """Missing instances that are known by number alone; only a move of the whole study brings them."""
    twins: Sequence[SopInstanceUid] = ()
    """SOP Instance UIDs that the primary lists in more than one series."""

    @property
    def missing(self) -> int:
        """How many instances the primary has and we do not."""
        return self.unasked + len(self.missing_here)


def whole_study(study: StudyInstanceUid, count: int | None) -> StudyDiff:
    """Return the difference of a study of which nothing is here; one without a count has one at least."""
    number = count or 1
    return StudyDiff(study, number, (), (), (), (), unasked=number)


def uncompared_study(study: StudyInstanceUid, count: int | None, here: int) -> StudyDiff:
    """Return what is known of a study whose images the primary does not list: numbers alone."""
    return StudyDiff(study, 0, (), (), (), (), unasked=max((count or 0) - here, 0 if here else 1))


def compare_study(
    study: StudyInstanceUid,
    listed: Set[Image],
    ours: Sequence[Instance],
    states: Mapping[InstanceNumber, ObligationState],
) -> StudyDiff:
    """Return the difference; `states` are those of the obligations to the primary.

    An image is told by its SOP Instance UID, in whatever series either side has it. Where the primary lists
    the UID in two series, both count, each by its series.
    """
    series: dict[SopInstanceUid, int] = {}
    for _, uid in listed:
        series[uid] = series.get(uid, 0) + 1
    here = {(one.series_instance_uid, one.sop_instance_uid) for one in ours}
    uids = {uid for _, uid in here}

    def is_listed(one: Instance) -> bool:
        number = series.get(one.sop_instance_uid, 0)
        return number == 1 or (one.series_instance_uid, one.sop_instance_uid) in listed

    def among(state: ObligationState, *, present: bool) -> list[Instance]:
        return [one for one in ours if states.get(one.number) is state and is_listed(one) is present]

    return StudyDiff(
        study=study,
        listed=len(listed),
        missing_here=sorted(
            image for image in listed if (image not in here if series[image[1]] > 1 else image[1] not in uids)
        ),
        found=among(ObligationState.OWED, present=True),
        lost=among(ObligationState.PROVEN, present=False),
        to_send=among(ObligationState.OWED, present=False),
        twins=sorted(uid for uid, number in series.items() if number > 1),
    )


def counts_differ(listed: ListedStudy, proven: int) -> bool:
    """Say whether the primary's count tells that images were added or lost; an unknown count does not."""
    return listed.count is not None and listed.count != proven


def unlisted_studies(
    listed: Collection[StudyInstanceUid],
    proven: Collection[StudyInstanceUid],
    wanted: Collection[StudyInstanceUid],
) -> list[StudyInstanceUid]:
    """Return the studies of ours that the primary's list leaves out, in a steady order."""
    return sorted({*proven, *wanted} - set(listed))
