"""Note: follow Orthanc's changes feed from a persisted cursor and record instances with their obligations.

Rule 1: if Orthanc has another index than the one that was followed, its feed is followed from the end at
once. A rescan (flow/rescan.py) compares everything in the index: new instances do not wait for that.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from understudy.core.model import Instance, NewInstance, Proof, ProofKind, Timestamp
from understudy.core.ports import Clock, Feed
from understudy.core.rules import Debt
from understudy.core.uids import shown
from understudy.flow.route import Router
from understudy.ledger import EventBook, FactBook, IntakeBook

_log = logging.getLogger(__name__)

_PAGE = 500
"""Most instances of one page of the feed, and of one transaction of the ledger."""

_INDEX = "index"
"""The fact that keeps the name of the index that is followed."""


class NoterBooks(Protocol):
    """The books of the ledger that the noter uses."""

    events: EventBook
    facts: FactBook
    intake: IntakeBook


class Noter:
    """Writes every stored instance into the ledger; repeating the last page after a crash changes nothing."""

    def __init__(
        self,
        feed: Feed,
        ledger: NoterBooks,
        router: Router,
        clock: Clock,
        *,
        primary_grace: float,
        stable_age: float = 0.0,
        index: Callable[[], tuple[float, str]] = lambda: (0.0, ""),
    ) -> None:
        self._feed = feed
        self._ledger = ledger
        self._router = router
        self._rules = router.rules
        self._clock = clock
        self._primary_grace = primary_grace
        self._stable_age = stable_age
        self._index = index
        """Returns when Orthanc was last started, and the name of its index, empty if that is not known."""
        self._known: tuple[float, str] | None = None
        self._one_at_a_time = threading.Lock()

    def catch_up(self) -> int:
        """Note everything stored up to now and return how many instances were new."""
        with self._one_at_a_time:
            self._recognise()
            noted = 0
            while True:
                number, done = self._page()
                noted += number
                if done:
                    return noted

    def step(self) -> tuple[int, bool]:
        """Note one page; return how many instances were new and whether it was the last."""
        with self._one_at_a_time:
            self._recognise()
            return self._page()

    def reconcile(self) -> int:
        """Note every instance that Orthanc holds and the ledger does not know; return how many were new.

        The feed can be restored from a backup and grow past the cursor again: its end does not show that.
        """
        noted, position = self.catch_up(), 0
        while True:
            hidden, position = self.reconcile_page(position)
            noted += hidden
            if not position:
                return noted

    def reconcile_page(self, position: int) -> tuple[int, int]:
        """Note the instances of a page of Orthanc's index that the ledger does not know; return how many, and
        the next position, 0 after the last page."""
        held = self._feed.identifiers(position, _PAGE)
        hidden = 0
        if unknown := self._ledger.intake.unknown(held):
            with self._one_at_a_time:
                hidden = self._write(self._feed.describe(unknown), self._ledger.intake.cursor("changes"))
            _log.warning("note reconcile because=not_in_the_feed instances=%d", hidden)
        return hidden, position + len(held) if held else 0

    def compare(self, known: Sequence[Instance]) -> list[Instance]:
        """Note instances that Orthanc has in another file or with other bytes; return those that it lacks."""
        with self._one_at_a_time:
            found = {one.orthanc_id: one for one in self._feed.describe([one.orthanc_id for one in known])}
            as_known = {(one.orthanc_id, one.attachment_uuid, one.md5) for one in known}
            others = [
                one
                for one in found.values()
                if (one.orthanc_id, one.attachment_uuid, one.md5) not in as_known
            ]
            if others:
                self._write(others, self._ledger.intake.cursor("changes"))
        return [one for one in known if one.orthanc_id not in found]

    @property
    def follows_the_index(self) -> bool:
        """Whether Orthanc's present index is the one whose feed is followed."""
        return self._known is not None and self._index() == self._known

    def _recognise(self) -> None:
        """After each start of Orthanc and of the agent, check that the index is the one that was followed."""
        index = self._index()
        if index == self._known:
            return
        name, known = index[1], self._ledger.facts.read(_INDEX)
        mark = self._ledger.intake.mark("changes")
        if name and known is not None and name != known:
            self._follow_another("its name is different", self._feed.end())
        elif mark and self._feed.contradicts(mark):
            self._follow_another("its change under the last number seen is different", self._feed.end())
        if name and name != known:
            self._ledger.facts.write(_INDEX, name)
        self._known = index

    def _follow_another(self, because: str, end: int) -> None:
        _log.error(
            "note rescan because=%s cursor=%d end=%d", because, self._ledger.intake.cursor("changes"), end
        )
        self._ledger.intake.begin_rescan(because, cursor=end, now=self._clock.now())

    def _page(self) -> tuple[int, bool]:
        since = self._ledger.intake.cursor("changes")
        page = self._feed.changes(since, _PAGE)
        if page.was_reset:
            if not self.follows_the_index:
                # Orthanc was started while it was asked: one rescan for one start.
                self._recognise()
                return 0, False
            self._follow_another("its changes end before the last one that was seen", page.last)
            return 0, page.done
        described = self._feed.describe(list(page.orthanc_ids)) if page.orthanc_ids else []
        if not described and page.last == since:
            return 0, page.done
        fresh = self._write(described, page.last, page.mark)
        if fresh:
            _log.info("note instances=%d cursor=%d", fresh, page.last)
        return fresh, page.done

    def _write(self, described: Sequence[NewInstance], cursor: int, mark: str = "") -> int:
        now = self._clock.now()
        return self._ledger.intake.note(
            [(instance, self._owed(instance, now), self._received(instance, now)) for instance in described],
            primary=self._rules.primary,
            primary_grace=self._primary_grace,
            vaults=self._rules.vaults,
            cursor=cursor,
            now=now,
            stable_age=self._stable_age,
            mark=mark,
        )

    def _owed(self, instance: NewInstance, now: Timestamp) -> list[Debt]:
        debts, unread = self._router.owed(instance)
        if unread and self._ledger.intake.unknown([instance.orthanc_id]):
            # A route with a condition on an attribute of the file does not match: the event log shows why.
            fields = {"sop_instance_uid": instance.sop_instance_uid, "because": unread}
            self._ledger.events.log("understudy", "unread", fields, now)
            _log.warning(
                "route unread sop_instance_uid=%s because=%s", shown(instance.sop_instance_uid), unread
            )
        return debts

    def _received(self, instance: NewInstance, now: Timestamp) -> Proof | None:
        """Return the proof that the primary has the instance, if the primary sent it."""
        if not self._rules.came_from_primary(instance):
            return None
        evidence = {"calling_ae_title": instance.calling_ae_title, "orthanc_id": instance.orthanc_id}
        return Proof(ProofKind.RECEIVED, now, evidence)


class Reconciling:
    """Compares all instances in Orthanc with the ledger, one page a step."""

    def __init__(self, noter: Noter) -> None:
        self._noter = noter
        self._position = 0

    def step(self) -> tuple[int, bool]:
        """Follow the feed, then compare a page; return how many were new and whether it was the last."""
        noted, done = self._noter.step() if self._position == 0 else (0, True)
        if not done:
            return noted, False
        hidden, self._position = self._noter.reconcile_page(self._position)
        return noted + hidden, self._position == 0
