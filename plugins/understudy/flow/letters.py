"""Letters: obligations and dead letters, for a person to list, replay and waive."""

from collections.abc import Callable, Sequence
from typing import Protocol

from understudy.core.obligations import ObligationState, Selection
from understudy.core.ports import Clock
from understudy.core.refusals import advice, hint_of
from understudy.core.views import DeadLetterView, ObligationView
from understudy.ledger import DeadLetterBook, ObligationBook


class LetterBooks(Protocol):
    """The books of the ledger that letters use."""

    dead_letters: DeadLetterBook
    obligations: ObligationBook


class Letters:
    """Obligations one by one, and dead letters by holder and reason."""

    def __init__(self, ledger: LetterBooks, clock: Clock, wake_all: Callable[[], None]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._wake_all = wake_all

    def obligations(
        self, selection: Selection, state: ObligationState | None, limit: int
    ) -> Sequence[ObligationView]:
        """Return obligations."""
        study = selection.study_instance_uid
        return [
            ObligationView(
                one.holder,
                one.state,
                one.sop_instance_uid,
                one.study_instance_uid,
                one.attempts,
                one.due,
                one.changed,
                one.reason,
                advice(one.state, one.reason),
            )
            for one in self._ledger.obligations.listed(selection.holder, state, limit, study=study)
        ]

    def dead_letters(self, selection: Selection) -> Sequence[DeadLetterView]:
        """Return refused obligations by holder and reason."""
        return [
            DeadLetterView(
                one.holder,
                one.reason,
                hint_of(one.reason),
                one.instances,
                one.studies,
                one.since,
                one.latest,
                one.sop_instance_uid,
            )
            for one in self._ledger.dead_letters.listed(selection)
        ]

    def replay(self, who: str, selection: Selection, *, reason: str, epoch: int | None) -> int:
        """Owe refused instances again."""
        number = self._ledger.dead_letters.replay(
            selection.holder,
            selection.sop_instance_uids,
            who,
            self._clock.now(),
            study=selection.study_instance_uid,
            reason=reason,
            epoch=epoch,
        )
        self._wake_all()
        return number

    def waive(self, who: str, holder: str, selection: Selection, *, reason: str, epoch: int | None) -> int:
        """Waive the selected instances for one holder, with a reason."""
        return self._ledger.dead_letters.waive(
            holder,
            selection.sop_instance_uids,
            reason,
            who,
            self._clock.now(),
            study=selection.study_instance_uid,
            epoch=epoch,
        )
