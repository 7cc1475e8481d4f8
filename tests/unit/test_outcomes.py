"""C-STORE statuses, all 65,536 of them (DICOM PS3.4 B.2.3, PS3.7 Annex C)."""

import pytest
from understudy.core.model import Outcome
from understudy.core.outcomes import of_c_store

ALL = range(0x10000)


def statuses(outcome: Outcome) -> set[int]:
    return {status for status in ALL if of_c_store(status)[0] is outcome}


def test_delivered_is_success_alone() -> None:
    assert statuses(Outcome.DELIVERED) == {0x0000}


def test_delivered_altered_is_every_warning() -> None:
    assert statuses(Outcome.DELIVERED_ALTERED) == {0x0001, *range(0xB000, 0xC000)}


def test_unknown_is_a_duplicate_alone() -> None:
    # Something of this UID is there: the proof tells whether it is this.
    assert statuses(Outcome.UNKNOWN) == {0x0111}


def test_retry_is_lack_of_resources_and_faults_of_processing() -> None:
    transient = {0x0110, 0x0210, 0x0211, 0x0212, 0x0213, *range(0xA700, 0xA800)}
    assert statuses(Outcome.RETRY) == transient


@pytest.mark.parametrize("status", [0x0122, 0x0124, 0xA900, 0xA9FF, 0xC000, 0xCFFF, 0xFE00, 0xFF00, 0x1234])
def test_refused_is_the_rest(status: int) -> None:
    assert of_c_store(status)[0] is Outcome.REFUSED


def test_reason_names_the_status_in_hexadecimal() -> None:
    assert all(f"0x{status:04X}" in of_c_store(status)[1] for status in ALL)
