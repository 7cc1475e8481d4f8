"""Old faults, each put back at one place: the simulation has to find them.

Those that name a commit were in the product until then. The others take a guard away that was there from the
beginning. What is replaced are functions of the product: whoever moves one of them changes this module, too.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from understudy.flow import failback
from understudy.flow.mirror import Comparison, Mirror
from understudy.flow.recheck import Recheck, Rechecked
from understudy.ledger import ModeBook, QueueBook, custody


@dataclass(frozen=True, slots=True)
class OldFault:
    """A function of the product as it was, in the place of the present one."""

    name: str
    ended_by: str
    place: Any
    function: str
    was: Callable[..., Any]
    clinics: int
    """In so many clinics at most it has to be found."""
    ages: bool = False
    """Whether these are clinics whose primary comes back with older contents."""

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """Run with the fault."""
        with patch.object(self.place, self.function, self.was):
            yield


def _closed(_mirror: Mirror, _gaps: Any, comparison: Comparison, _seconds: float) -> Comparison:
    return replace(comparison, diffs=())


_change_mode = ModeBook.change


def _change_in_any_epoch(book: ModeBook, event: Any, *, epoch: int, **given: Any) -> Any:
    return _change_mode(book, event, epoch=book.current().epoch, **given)


OLD_FAULTS: Sequence[OldFault] = (
    OldFault(
        "a listed UID proves a content although another one lies under it",
        "8e22c88",
        custody,
        "_ambiguous",
        lambda *_, **__: set(),
        20,
    ),
    OldFault(
        "what a write that failed left in flight is never taken up",
        "6e36095",
        QueueBook,
        "in_flight",
        lambda *_: [],
        40,
    ),
    OldFault("a failback is settled while something is owed", "", failback, "unsettled_to", lambda *_: 0, 20),
    OldFault("a gap counts as closed before its images came", "", Mirror, "_close", _closed, 20),
    OldFault(
        "a listed UID proves that the primary has no older content under it",
        "",
        Recheck,
        "doubt",
        lambda *_, **__: Rechecked(),
        20,
        ages=True,
    ),
    OldFault("an epoch of before is taken", "", ModeBook, "change", _change_in_any_epoch, 20),
)
