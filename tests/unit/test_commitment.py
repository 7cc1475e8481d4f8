"""What a report of storage commitment says of an instance."""

import pytest
from understudy.core.commitment import CommitmentReport, denial, is_committed

REPORT = CommitmentReport("2.25.1", frozenset({"1.1", "1.2"}), {"1.2": 0x0112, "1.3": 0x0110}, "ARCHIVE")


def test_committed_is_what_the_report_names_and_does_not_fail() -> None:
    assert [uid for uid in ("1.1", "1.2", "1.3", "1.4") if is_committed(REPORT, uid)] == ["1.1"]


def test_denied_is_what_fails_with_its_reason_in_words_and_number() -> None:
    assert denial(REPORT, "1.2") == "storage commitment failed: no such object instance (0x0112)"
    assert denial(REPORT, "1.3") == "storage commitment failed: processing failure (0x0110)"


@pytest.mark.parametrize("uid", ["1.1", "1.4"])
def test_denied_is_neither_what_is_committed_nor_what_is_left_out(uid: str) -> None:
    assert denial(REPORT, uid) is None


@pytest.mark.parametrize(
    ("reason", "denied"),
    [
        (0x0110, True),
        (0x0112, True),
        (0x0119, True),
        (0x0122, False),
        (0x0131, False),
        (0x0213, False),
        (0x1234, True),
        (0xC000, True),
    ],
)
def test_reason_that_is_the_archives_own_denies_and_commits_nothing(reason: int, denied: bool) -> None:
    report = CommitmentReport("2.25.1", frozenset(), {"1.2": reason}, "ARCHIVE")
    assert (denial(report, "1.2") is not None) is denied
    assert not is_committed(report, "1.2")
