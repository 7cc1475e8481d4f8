"""The table of outcomes: all that a destination can answer, and what it means."""

from collections.abc import Callable
from functools import cache

import pytest
from understudy.core.model import Outcome
from understudy.core.outcomes import (
    TABLE,
    Answer,
    Loss,
    Stow,
    Verdict,
    hint_of,
    of_context,
    of_http,
    of_loss,
    of_rejection,
    of_status,
    of_stow,
)

ALL = range(0x10000)


@cache
def verdicts() -> list[Verdict]:
    """Return what each status means, by its number."""
    return [of_status(status) for status in ALL]


def statuses(outcome: Outcome) -> set[int]:
    return {status for status, verdict in enumerate(verdicts()) if verdict.outcome is outcome}


def test_status_delivered_is_success_alone() -> None:
    assert statuses(Outcome.DELIVERED) == {0x0000}


def test_status_delivered_altered_is_every_warning() -> None:
    assert statuses(Outcome.DELIVERED_ALTERED) == {0x0001, 0x0107, 0x0116, *range(0xB000, 0xC000)}


def test_status_conflict_is_a_duplicate_alone() -> None:
    # Something of this UID is there: the proof tells whether it is this.
    assert statuses(Outcome.CONFLICT) == {0x0111}


def test_status_never_leaves_it_unknown() -> None:
    assert statuses(Outcome.UNKNOWN) == set()


def test_status_retry_is_lack_of_resources_and_faults_of_processing() -> None:
    transient = {0x0110, 0x0210, 0x0211, 0x0212, 0x0213, *range(0xA700, 0xA800)}
    assert statuses(Outcome.RETRY) == transient


@pytest.mark.parametrize("status", [0x0122, 0x0124, 0xA900, 0xA9FF, 0xC000, 0xCFFF, 0xFE00, 0xFF00, 0x1234])
def test_status_refused_is_the_rest_with_a_hint(status: int) -> None:
    assert of_status(status).outcome is Outcome.REFUSED
    assert of_status(status).hint


def test_status_is_doubted_where_the_receiver_does_not_understand() -> None:
    assert {status for status, verdict in enumerate(verdicts()) if verdict.doubted} == {
        *range(0xC000, 0xD000)
    } - {0xC122}
    # A request of STOW-RS has one instance: it was alone already.
    assert not any(of_stow(Stow.FAILED, status).doubted for status in ALL)


def test_reason_names_the_status_in_hexadecimal() -> None:
    assert all(f"0x{status:04X}" in verdict.reason for status, verdict in enumerate(verdicts()))


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (1, Outcome.REFUSED),
        (2, Outcome.RETRY),
        (3, Outcome.REFUSED),
        (4, Outcome.REFUSED),
        (99, Outcome.RETRY),
    ],
)
def test_context_names_class_syntax_and_result(result: int, outcome: Outcome) -> None:
    verdict = of_context(result, "1.2.840.1", "1.2.840.2")
    assert verdict.outcome is outcome
    assert all(part in verdict.reason for part in ("1.2.840.1", "1.2.840.2", f"result {result}"))


def test_rejection_blames_no_instance_whatever_it_says() -> None:
    said = {of_rejection(1, source, reason).outcome for source in range(256) for reason in range(256)}
    assert said == {Outcome.RETRY}


@pytest.mark.parametrize(
    ("source", "reason", "words"),
    [
        (1, 1, "no reason"),
        (1, 2, "application context"),
        (1, 3, "calling AE title"),
        (1, 7, "called AE title"),
        (2, 1, "ACSE"),
        (2, 2, "protocol version"),
        (3, 1, "congestion"),
        (3, 2, "limit"),
        (1, 4, "reserved"),
        (9, 999, "reserved"),
    ],
)
def test_rejection_is_told_in_words_and_numbers(source: int, reason: int, words: str) -> None:
    verdict = of_rejection(2, source, reason)
    assert words in verdict.reason
    assert f"for now, source {source}, reason {reason}" in verdict.reason
    assert verdict.hint


def test_loss_is_unknown_unless_it_was_never_sent() -> None:
    unsent = {Loss.NOT_SENT, Loss.UNREACHABLE, Loss.UNTRUSTED}
    for loss in Loss:
        expected = Outcome.RETRY if loss in unsent else Outcome.UNKNOWN
        assert of_loss(loss).outcome is expected


def test_loss_tells_its_detail() -> None:
    assert of_loss(Loss.CLOSED, "in mid data set").reason == "the connection ended (in mid data set)"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Outcome.UNKNOWN),
        (202, Outcome.UNKNOWN),
        (204, Outcome.RETRY),
        (302, Outcome.RETRY),
        (400, Outcome.REFUSED),
        (401, Outcome.RETRY),
        (404, Outcome.RETRY),
        (408, Outcome.RETRY),
        (409, Outcome.REFUSED),
        (413, Outcome.REFUSED),
        (415, Outcome.REFUSED),
        (429, Outcome.RETRY),
        (500, Outcome.RETRY),
        (503, Outcome.RETRY),
    ],
)
def test_http_status_without_a_body_never_delivers(status: int, outcome: Outcome) -> None:
    verdict = of_http(status)
    assert verdict.outcome is outcome
    assert str(status) in verdict.reason
    assert verdict.hint


@pytest.mark.parametrize(
    ("answer", "reason", "outcome"),
    [
        (Stow.REFERENCED, None, Outcome.DELIVERED),
        (Stow.WARNED, None, Outcome.DELIVERED_ALTERED),
        (Stow.WARNED, 0xB000, Outcome.DELIVERED_ALTERED),
        (Stow.WARNED, 0xA700, Outcome.DELIVERED_ALTERED),
        (Stow.FAILED, None, Outcome.UNKNOWN),
        (Stow.FAILED, 0xA700, Outcome.RETRY),
        (Stow.FAILED, 0xA900, Outcome.REFUSED),
        (Stow.FAILED, 0xC000, Outcome.REFUSED),
        (Stow.FAILED, 0xC122, Outcome.REFUSED),
        (Stow.FAILED, 0x0111, Outcome.CONFLICT),
        (Stow.FAILED, 0x0000, Outcome.UNKNOWN),
        (Stow.FAILED, 0xB000, Outcome.UNKNOWN),
        (Stow.NOT_MENTIONED, None, Outcome.UNKNOWN),
    ],
)
def test_stow_body_speaks_of_each_instance(answer: Stow, reason: int | None, outcome: Outcome) -> None:
    verdict = of_stow(answer, reason)
    assert verdict.outcome is outcome
    assert reason is None or f"0x{reason:04X}" in verdict.reason


def test_stow_failure_never_counts_as_stored() -> None:
    stored = {Outcome.DELIVERED, Outcome.DELIVERED_ALTERED}
    assert {of_stow(Stow.FAILED, reason).outcome for reason in ALL}.isdisjoint(stored)


FULL: list[tuple[Answer, Callable[[int], Verdict], int]] = [
    (Answer.STATUS, of_status, 0x10000),
    (Answer.CONTEXT, lambda code: of_context(code, "", ""), 256),
    (Answer.HTTP, of_http, 1000),
    (Answer.REJECTION, lambda code: of_rejection(1, code >> 8, code & 0xFF), 0x10000),
]


@pytest.mark.parametrize(("answer", "of", "codes"), FULL)
def test_every_row_can_be_reached_and_every_code_has_one(
    answer: Answer, of: Callable[[int], Verdict], codes: int
) -> None:
    words = {of(code).reason.partition(" (")[0] for code in range(codes)}
    assert words == {row.words for row in TABLE if row.answer is answer}


def test_every_row_names_its_section() -> None:
    assert all(row.section.startswith("PS3.") for row in TABLE)


def test_what_waits_for_a_person_always_says_what_can_be_done() -> None:
    waiting = (Outcome.REFUSED, Outcome.CONFLICT)
    assert all(row.hint for row in TABLE if row.outcome in waiting)


def test_hint_is_found_again_by_the_reason() -> None:
    for verdict in (of_status(0xC000), of_status(0x0122), of_context(4, "1.2", "1.3"), of_http(413)):
        assert verdict.hint
        assert hint_of(verdict.reason) == verdict.hint
    assert hint_of("its stored file is gone") == ""


def test_equal_words_have_equal_hints() -> None:
    hints: dict[str, set[str]] = {}
    for row in TABLE:
        hints.setdefault(row.words, set()).add(row.hint)
    assert [words for words, known in hints.items() if len(known) > 1] == []
