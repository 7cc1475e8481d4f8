"""The inventory diff: compares the instances of the primary and the standby study by study."""

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
"""An image in the list of a PACS, which may have one SOP Instance UID in two series."""


@dataclass(frozen=True, slots=True)
class ListedStudy:
    """A study in a PACS's list: its count of instances, None if not known, and its date.

    The count is optional (DICOM PS3.4 table C.6-1). A count of 0, which some PACS always give, counts as not
    known. The date is YYYYMMDD, empty if there is none.
    """

    count: int | None = None
    date: str = ""


@dataclass(frozen=True, slots=True)
class StudyList:
    """The studies that a PACS lists, the newest first; `cut` says why some may be missing, or is empty."""

    studies: Mapping[StudyInstanceUid, ListedStudy]
    cut: str = ""


@dataclass(frozen=True, slots=True)
class StudyDiff:
    """One study compared by SOP Instance UID."""

    study: StudyInstanceUid
    listed: int
    """Images that the primary lists."""
    missing_here: Sequence[Image]
    """Images that the primary has and we lack: gaps, to be pulled."""
    found: Sequence[Instance]
    """Instances that are owed to the primary and that it already lists."""
    lost: Sequence[Instance]
    """Instances that were proven at the primary and that it does not list."""
    to_send: Sequence[Instance]
    """Instances that are owed to the primary and that it does not list."""
    unasked: int = 0
    """Number of missing instances with unknown UIDs. Only a C-MOVE of the whole study fetches them."""
    twins: Sequence[SopInstanceUid] = ()
    """SOP Instance UIDs that the primary lists in more than one series."""

    @property
    def missing(self) -> int:
        """The number of instances that the primary has and we lack."""
        return self.unasked + len(self.missing_here)


def whole_study(study: StudyInstanceUid, count: int | None) -> StudyDiff:
    """Return the difference for a study that is absent here; without a count it counts as one instance."""
    number = count or 1
    return StudyDiff(study, number, (), (), (), (), unasked=number)


def uncompared_study(study: StudyInstanceUid, count: int | None, here: int) -> StudyDiff:
    """Return the difference, in numbers only, for a study whose images the primary does not list."""
    return StudyDiff(study, 0, (), (), (), (), unasked=max((count or 0) - here, 0 if here else 1))


def compare_study(
    study: StudyInstanceUid,
    listed: Set[Image],
    ours: Sequence[Instance],
    states: Mapping[InstanceNumber, ObligationState],
) -> StudyDiff:
    """Return the difference; `states` are the states of the obligations to the primary.

    Images are matched by SOP Instance UID, in any series. If the primary lists a UID in two series, both
    images count, and each is matched by its series too.
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
    """Say whether the primary's count shows that images were added or lost; an unknown count does not."""
    return listed.count is not None and listed.count != proven


def unlisted_studies(
    listed: Collection[StudyInstanceUid],
    proven: Collection[StudyInstanceUid],
    wanted: Collection[StudyInstanceUid],
) -> list[StudyInstanceUid]:
    """Return our studies that the primary's list leaves out, in a stable order."""
    return sorted({*proven, *wanted} - set(listed))
