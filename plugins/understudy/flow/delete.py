"""Delete: a person's deletion, as one act with its event; and the record of other deletions.

Rule 1: the ledger records a deletion before Orthanc does it. After a crash between the two, the instances are
here, and the ledger learns so: nothing is lost, and the person asks again.
Rule 2: an instance is safe elsewhere if a holder is proven to have it, and nothing was heard since that puts
the proof in doubt. An instance that is not safe elsewhere is deleted by force alone.
Rule 3: a deletion names each instance, so that an image that arrives meanwhile stays.
Rule 4: Orthanc reports no deletion that the agent did not ask for. If Orthanc holds another number of
instances than the ledger, the agent compares the two until it has found which instances differ.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Protocol

from understudy.core.deletion import Deletion, objections
from understudy.core.errors import NotFoundError, PreconditionError, RefusedError
from understudy.core.model import HolderName, Instance, InstanceNumber, StudyInstanceUid
from understudy.core.ports import Clock, OrthancUnavailableError
from understudy.core.views import DeletionView
from understudy.ledger import RESCAN, DeletionBook, InstanceBook, OperationBook

_log = logging.getLogger(__name__)

_PAGE = 500
UNKNOWN = "unknown"
"""The actor in the events of deletions that nobody asked us for."""

Doubts = Mapping[HolderName, Callable[[StudyInstanceUid], str]]
"""For every configured holder a function that returns why the holder may have lost images of a study that it
was proven to have; empty if there is no such reason."""


class Archive(Protocol):
    """Orthanc as a deletion sees it; all calls raise OrthancUnavailableError."""

    def held(self) -> int:
        """Return how many instances it holds."""
        ...

    def listed(self, orthanc_ids: Sequence[str]) -> Set[str]:
        """Return those of these instances that it holds."""
        ...

    def delete_all(self, orthanc_ids: Sequence[str]) -> None:
        """Delete these instances and no others."""
        ...


class Followed(Protocol):
    """The note, as far as a deletion needs it."""

    @property
    def follows_the_index(self) -> bool: ...

    def catch_up(self) -> int: ...


class DeleterBooks(Protocol):
    """The books of the ledger that the deleter uses."""

    deletions: DeletionBook
    instances: InstanceBook
    operations: OperationBook


class Deleter:
    """`delete` deletes instances, and `step` finds those that were deleted otherwise."""

    def __init__(
        self, ledger: DeleterBooks, archive: Archive, note: Followed, clock: Clock, doubts: Doubts
    ) -> None:
        self._ledger = ledger
        self._archive = archive
        self._note = note
        self._clock = clock
        self._doubts = doubts
        self._acting = threading.Lock()
        self._seen: tuple[int, int] | None = None
        """Instances that Orthanc and the ledger held at the last look: changing numbers are not compared."""
        self._compared: tuple[int, int] | None = None
        """The same numbers at the last comparison."""

    def delete(self, who: str, what: Deletion, *, reason: str, force: bool) -> DeletionView:
        """Delete at Orthanc, with an event, or raise PreconditionError with the objections."""
        if not reason.strip():
            raise RefusedError("a deletion needs a reason", "say why, for the event log")
        with self._acting:
            return self._delete(who, what, reason, force=force)

    def _delete(self, who: str, what: Deletion, reason: str, *, force: bool) -> DeletionView:
        # Instances that have just arrived are owed to holders, too.
        self._note.catch_up()
        found = self._ledger.deletions.chosen(what)
        if not found:
            raise NotFoundError("no such instance is here", "compare the UIDs with the viewer")
        doubts = {holder: doubt(what.study_instance_uid) for holder, doubt in self._doubts.items()}
        standing = self._ledger.deletions.standing(
            [instance.number for instance in found], [holder for holder, why in doubts.items() if not why]
        )
        against = objections(standing, doubts)
        if against and not force:
            raise PreconditionError(
                "the deletion is refused", "wait until it is proven at other holders, or force it", against
            )
        fields = {
            "study": what.study_instance_uid,
            "forced": force,
            "unsettled": dict(standing.unsettled),
            "proven": dict(standing.proven),
            "doubted": dict(standing.doubted),
            "alone": standing.alone,
        }
        now = self._clock.now()
        self._ledger.deletions.record(found, who, reason, fields, now, waive=force)
        try:
            self._archive.delete_all([instance.orthanc_id for instance in found])
        except OrthancUnavailableError as error:
            self._find_again(found, str(error))
            raise
        _log.warning("delete who=%s instances=%d forced=%s", who, len(found), force)
        return DeletionView(
            what.study_instance_uid, len(found), dict(standing.proven), dict(standing.unsettled)
        )

    def step(self) -> bool:
        """Compare how many instances Orthanc holds with the ledger, and find those that differ."""
        if not self._note.follows_the_index or self._ledger.operations.latest(RESCAN, running=True):
            # A replaced index lacks many instances: the rescan reports them.
            return False
        # In the middle of a deletion of ours the numbers differ.
        if self._acting.acquire(blocking=False):
            try:
                self._compare()
            finally:
                self._acting.release()
        return False

    def _compare(self) -> None:
        before, (held, known) = self._seen, self._counts()
        self._seen = (held, known)
        if held == known or self._seen != before or self._seen == self._compared:
            return
        if held < known:
            self._find_deleted(known - held)
        else:
            self._find_kept()
        self._seen = self._compared = self._counts()

    def _counts(self) -> tuple[int, int]:
        return self._archive.held(), self._ledger.instances.counts()[0]

    def _find_deleted(self, number: int) -> None:
        gone = self._differing(self._ledger.deletions.held_before, number, listed=False)
        if not gone or not self._note.follows_the_index:
            return
        now = self._clock.now()
        reason = "it was deleted directly in Orthanc"
        self._ledger.deletions.record(gone, UNKNOWN, reason, {"forced": False}, now, waive=False)
        _log.warning("delete who=%s instances=%d", UNKNOWN, len(gone))

    def _find_kept(self) -> None:
        kept = self._differing(self._ledger.deletions.gone_before, None, listed=True)
        if kept:
            self._ledger.deletions.take_back(kept, "Orthanc has it", self._clock.now())
            _log.warning("delete kept instances=%d", len(kept))

    def _differing(
        self,
        page_before: Callable[[InstanceNumber | None, int], list[Instance]],
        most: int | None,
        *,
        listed: bool,
    ) -> list[Instance]:
        """Return up to `most` instances of the pages that Orthanc lists, or does not list."""
        found: list[Instance] = []
        before: InstanceNumber | None = None
        while most is None or len(found) < most:
            page = page_before(before, _PAGE)
            if not page:
                break
            there = self._archive.listed([instance.orthanc_id for instance in page])
            found += [instance for instance in page if (instance.orthanc_id in there) is listed]
            before = page[-1].number
        return found

    def _find_again(self, found: Sequence[Instance], why: str) -> None:
        """Take back the instances that Orthanc did not delete; if it does not answer, `step` does it."""
        try:
            there = self._archive.listed([instance.orthanc_id for instance in found])
        except OrthancUnavailableError:
            return
        kept = [instance for instance in found if instance.orthanc_id in there]
        if kept:
            self._ledger.deletions.take_back(kept, f"the deletion failed: {why}", self._clock.now())
