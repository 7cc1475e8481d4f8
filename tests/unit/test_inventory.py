"""The inventory diff."""

import pytest
from understudy.core.inventory import (
    ListedStudy,
    compare_study,
    counts_differ,
    uncompared_study,
    unlisted_studies,
    whole_study,
)
from understudy.core.model import (
    Instance,
    InstanceNumber,
    NewInstance,
    SeriesInstanceUid,
    SopInstanceUid,
    StudyInstanceUid,
)
from understudy.core.obligations import ObligationState

from tests.unit.fakes import STUDY, new_instance

OTHER = StudyInstanceUid("1.2.4")
ELSEWHERE = SeriesInstanceUid("1.2.77")


def instance(number: int) -> Instance:
    new = new_instance(number)
    values = {name: getattr(new, name) for name in NewInstance.__dataclass_fields__}
    return Instance(**values, number=InstanceNumber(number))


def image(one: Instance) -> tuple[SeriesInstanceUid, SopInstanceUid]:
    return one.series_instance_uid, one.sop_instance_uid


@pytest.mark.parametrize(
    ("count", "proven", "expected"),
    [(3, 3, False), (3, 2, True), (2, 3, True), (None, 0, False), (None, 2, False)],
)
def test_counts_differ_only_where_the_primary_tells_one(
    count: int | None, proven: int, expected: bool
) -> None:
    assert counts_differ(ListedStudy(count), proven) is expected


@pytest.mark.parametrize(("count", "missing"), [(7, 7), (1, 1), (None, 1)])
def test_study_of_which_nothing_is_here_misses_one_at_least(count: int | None, missing: int) -> None:
    assert whole_study(STUDY, count).missing == missing


@pytest.mark.parametrize(("count", "here", "missing"), [(7, 3, 4), (3, 7, 0), (None, 0, 1), (None, 5, 0)])
def test_study_whose_images_are_not_listed_is_known_by_number_alone(
    count: int | None, here: int, missing: int
) -> None:
    diff = uncompared_study(STUDY, count, here)
    assert (diff.missing, diff.missing_here) == (missing, ())


def test_studies_that_the_list_leaves_out_are_named_in_a_steady_order() -> None:
    third = StudyInstanceUid("1.2.5")
    assert unlisted_studies([OTHER], [STUDY, OTHER], [third]) == sorted([STUDY, third])


def test_study_diff_sorts_every_instance_by_state_and_presence() -> None:
    ours = [instance(number) for number in range(1, 13)]
    states = [
        ObligationState.OWED,
        ObligationState.PROVEN,
        ObligationState.IN_FLIGHT,
        ObligationState.SENT,
        ObligationState.REFUSED,
        ObligationState.WAIVED,
    ] * 2
    by_number = dict(zip((one.number for one in ours), states, strict=True))
    missing = (ours[0].series_instance_uid, SopInstanceUid("1.2.9"))
    diff = compare_study(STUDY, {image(one) for one in ours[:6]} | {missing}, ours, by_number)
    assert diff.listed == 7
    assert diff.missing_here == [missing]
    assert [one.number for one in diff.found] == [1]
    assert [one.number for one in diff.to_send] == [7]
    assert [one.number for one in diff.lost] == [8]
    assert diff.twins == []


def test_one_uid_in_two_series_counts_in_each_and_is_named() -> None:
    one = instance(1)
    twin = (ELSEWHERE, one.sop_instance_uid)
    diff = compare_study(STUDY, {image(one), twin}, [one], {one.number: ObligationState.PROVEN})
    assert (diff.listed, diff.missing_here, diff.lost) == (2, [twin], [])
    assert diff.twins == [one.sop_instance_uid]


def test_image_in_another_series_of_the_primary_is_the_same_image() -> None:
    one = instance(1)
    listed = {(ELSEWHERE, one.sop_instance_uid)}
    diff = compare_study(STUDY, listed, [one], {one.number: ObligationState.OWED})
    assert (diff.missing_here, diff.found, diff.to_send) == ([], [one], [])


def test_study_diff_leaves_instances_without_obligation_alone() -> None:
    diff = compare_study(STUDY, frozenset(), [instance(1)], {})
    assert (diff.found, diff.lost, diff.to_send) == ([], [], [])
