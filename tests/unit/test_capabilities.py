"""The verdict on a primary, what changed between two probes, and which numbers look like a limit."""

from dataclasses import replace

import pytest
from understudy.core.capabilities import Ability, Capability, changes, is_round, left_out, verdict
from understudy.core.model import StudyInstanceUid

MOVE = Capability("C-MOVE", True, Ability.WORKS, "its images come here", "3 came", "")
GET = Capability("C-GET", False, Ability.WORKS, "it gives images", "512 bytes came", "")


@pytest.mark.parametrize(
    ("move", "get", "suits", "words"),
    [
        (Ability.WORKS, Ability.WORKS, True, "This PACS suits this standby."),
        (Ability.WORKS, Ability.MISSING, True, "This PACS suits this standby."),
        (Ability.WORKS, Ability.LIMITED, True, "with limits: C-GET"),
        (Ability.LIMITED, Ability.WORKS, True, "with limits: C-MOVE"),
        (Ability.MISSING, Ability.WORKS, False, "C-MOVE is missing"),
        (Ability.UNKNOWN, Ability.WORKS, False, "nothing shows C-MOVE"),
    ],
)
def test_primary_suits_if_nothing_that_is_needed_is_missing_or_unknown(
    move: Ability, get: Ability, words: str, *, suits: bool
) -> None:
    found, sentence = verdict([replace(MOVE, ability=move), replace(GET, ability=get)])
    assert found is suits
    assert words in sentence


def test_other_evidence_is_no_change_and_another_finding_is_one() -> None:
    before = [MOVE, GET]
    assert changes(before, [replace(MOVE, evidence="5 came"), GET]) == []
    assert changes(before, [replace(MOVE, finding="no image came")]) == [
        "C-MOVE: no image came (before: its images come here)"
    ]
    assert changes([], before) == []


_LIMITS = (50, 100, 150, 500, 1000)
_OTHERS = (0, 20, 51, 550, 1010)


def test_number_that_somebody_may_have_chosen_as_a_limit() -> None:
    assert [number for number in (*_LIMITS, *_OTHERS) if is_round(number)] == list(_LIMITS)


def test_answer_that_lacks_what_its_parts_have_is_cut() -> None:
    one, other = StudyInstanceUid("1.2"), StudyInstanceUid("1.3")
    assert left_out({one}, {one, other}) == 1
    assert left_out({one, other}, {one}) == 0
