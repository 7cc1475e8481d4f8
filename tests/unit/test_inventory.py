"""The inventory diff."""

import pytest
from understudy.core.inventory import compare_study, studies_to_look_into
from understudy.core.model import Instance, InstanceNumber, NewInstance, SopInstanceUid, StudyInstanceUid
from understudy.core.obligations import ObligationState

from tests.unit.fakes import STUDY, new_instance

OTHER = StudyInstanceUid("1.2.4")


def instance(number: int) -> Instance:
    new = new_instance(number)
    values = {name: getattr(new, name) for name in NewInstance.__dataclass_fields__}
    return Instance(**values, number=InstanceNumber(number))


@pytest.mark.parametrize(
    ("theirs", "proven", "expected"),
    [
        ({STUDY: 3}, {STUDY: 3}, []),
        ({STUDY: 3}, {STUDY: 2}, [STUDY]),
        ({STUDY: 2}, {STUDY: 3}, [STUDY]),
        ({STUDY: 2}, {}, [STUDY]),
        ({}, {STUDY: 2}, [STUDY]),
        ({STUDY: None}, {STUDY: 2}, [STUDY]),
        ({STUDY: 0}, {}, []),
        # In the order of the primary's list, then those that are not in it.
        ({OTHER: 1, STUDY: 1}, {}, [OTHER, STUDY]),
        ({OTHER: 1}, {STUDY: 1}, [OTHER, STUDY]),
    ],
)
def test_studies_are_looked_into_where_counts_differ(
    theirs: dict[StudyInstanceUid, int | None],
    proven: dict[StudyInstanceUid, int],
    expected: list[StudyInstanceUid],
) -> None:
    assert studies_to_look_into(theirs, proven, ()) == expected


def test_suspects_are_looked_into_whatever_the_counts_say() -> None:
    assert studies_to_look_into({STUDY: 3}, {STUDY: 3}, {STUDY, OTHER}) == [STUDY, OTHER]


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
    listed = {one.sop_instance_uid for one in ours[:6]} | {SopInstanceUid("1.2.9")}
    diff = compare_study(STUDY, listed, ours, by_number)
    assert diff.listed == 7
    assert diff.missing_here == ["1.2.9"]
    assert [one.number for one in diff.found] == [1]
    assert [one.number for one in diff.to_send] == [7]
    assert [one.number for one in diff.lost] == [8]


def test_study_diff_leaves_instances_without_obligation_alone() -> None:
    diff = compare_study(STUDY, frozenset(), [instance(1)], {})
    assert (diff.found, diff.lost, diff.to_send) == ([], [], [])
