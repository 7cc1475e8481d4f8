"""Storage commitment on the wire: reports before the answer, and a peer that never answers."""

from collections.abc import Iterator
from itertools import repeat
from typing import cast

import pytest
from understudy.adapters import commitment, dimse
from understudy.adapters.association import Accepted, Association, AssociationLostError
from understudy.core.outcomes import Loss

REPORT = dimse.Message({0x00000100: b"\x00\x01"}, dimse.SUCCESS, b"a report")
ANSWER = dimse.Message({0x00000100: b"\x30\x81", 0x00000120: b"\x01\x00"}, dimse.SUCCESS)


class Line:
    """An association on which nothing comes but what the test lets come."""

    def garbled(self, what: str) -> AssociationLostError:
        return AssociationLostError(Loss.GARBLED, what)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[dimse.Message]:
    """The reports that were answered."""
    taken: list[dimse.Message] = []
    monkeypatch.setattr(dimse, "send", lambda *_: None)
    monkeypatch.setattr(dimse, "respond", lambda _line, _context, report, *_: taken.append(report))
    return taken


def asked(
    monkeypatch: pytest.MonkeyPatch, messages: Iterator[dimse.Message]
) -> tuple[dimse.Message, bytes | None]:
    monkeypatch.setattr(dimse, "receive", lambda *_: next(messages))
    line, context = cast("Association", Line()), cast("Accepted", None)
    return commitment.ask(line, context, b"", patience=1, linger=0)


@pytest.mark.parametrize("reports", [1, 3, 100])
def test_reports_before_the_answer_are_taken(
    monkeypatch: pytest.MonkeyPatch, answered: list[dimse.Message], reports: int
) -> None:
    assert asked(monkeypatch, iter([REPORT] * reports + [ANSWER])) == (ANSWER, b"a report")
    assert answered == [REPORT] * reports


def test_peer_that_only_reports_is_given_up(
    monkeypatch: pytest.MonkeyPatch, answered: list[dimse.Message]
) -> None:
    with pytest.raises(AssociationLostError, match="reports alone"):
        asked(monkeypatch, repeat(REPORT))
    assert len(answered) == 101
