"""Mirror: ask the primary what it holds, pull what is missing, know up to when the standby is complete.

Deletions at the primary are recorded and shown, never applied: a standby that repeats a mass deletion is no
backup.
"""

import logging
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace

from understudy.adapters.ledger import Ledger
from understudy.core.inventory import StudyDiff, compare_study, studies_to_look_into, whole_study
from understudy.core.model import HolderName, SopInstanceUid, StudyInstanceUid, Timestamp
from understudy.core.obligations import UNSETTLED, ObligationState
from understudy.core.ports import (
    CappedError,
    Clock,
    HolderUnavailableError,
    MoveResult,
    Peer,
    UnansweredError,
)
from understudy.core.uids import can_be_asked_for, shown
from understudy.core.views import Alarm, iso
from understudy.flow.destination import inventory_proof
from understudy.flow.note import Noter

_log = logging.getLogger(__name__)

_HORIZON = "horizon"
_SUCCESS = 0x0000

_PULL_SECONDS, _PULL_SHARE = 60.0, 10.0
"""Seconds for which gaps are pulled between two comparisons, at least; and in times of what one takes."""

_FAILURES_IN_A_ROW, _UNANSWERED_IN_A_ROW = 3, 50
"""Studies in a row after which the primary as a whole counts as unavailable: it failed, or was there and had
no usable answer."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The inventory diff at one moment: only studies that differ, or that were suspects, are in `diffs`."""

    started: Timestamp
    studies: int
    """Studies that the primary lists."""
    diffs: tuple[StudyDiff, ...]
    unanswered: tuple[StudyInstanceUid, ...] = ()
    """Studies for which the primary gave no usable answer: nothing is concluded about them."""
    capped: tuple[StudyInstanceUid, ...] = ()
    """Studies of which the primary lists all that is here, and counts more than it lists."""
    unlisted: tuple[StudyInstanceUid, ...] = ()
    """Studies that the primary has and leaves out of its list, which is cut: it may leave out others, too."""
    interrupted: bool = False
    """Whether the time for pulling was up before every gap had its turn."""

    def missing_here(self) -> dict[StudyInstanceUid, int]:
        """Return the gaps: instances that the primary has and we do not, by study."""
        return {diff.study: diff.missing for diff in self.diffs if diff.missing}


class _Patience:
    """Lets one study fail without stopping the others, until so many in a row fail that it is the primary."""

    def __init__(self) -> None:
        self._failures = self._unanswered = 0

    @contextmanager
    def with_one(self, study: StudyInstanceUid, unanswered: list[StudyInstanceUid]) -> Iterator[None]:
        """Note a study for which there is no usable answer; raise once too many have none in a row."""
        try:
            yield
        except HolderUnavailableError as error:
            if isinstance(error, UnansweredError):
                self._unanswered += 1
            else:
                self._failures += 1
            if self._failures >= _FAILURES_IN_A_ROW or self._unanswered >= _UNANSWERED_IN_A_ROW:
                raise
            _log.warning("mirror unanswered study=%s because=%s", shown(study), error.reason)
            unanswered.append(study)
        else:
            self._failures = self._unanswered = 0


class Mirror:
    """Keeps the standby's copy complete; one comparison at a time."""

    def __init__(
        self, peer: Peer, ledger: Ledger, noter: Noter, clock: Clock, *, holder: HolderName, destination: str
    ) -> None:
        self._peer = peer
        self._ledger = ledger
        self._noter = noter
        self._clock = clock
        self._holder = holder
        self._destination = destination
        self._one_at_a_time = threading.Lock()
        self._looked: Timestamp | None = None
        self._interrupted = False
        """Whether the last look left gaps to the next for its time alone."""
        self._had_turn: set[StudyInstanceUid] = set()
        """Gaps that were tried since all were: one that takes all the time holds up no other."""
        self._cut: tuple[Timestamp, int] | None = None
        """Since when the primary's list of studies is cut, and how many of ours the last one left out."""
        self._vague: tuple[Timestamp, Sequence[StudyInstanceUid]] | None = None
        """Since when there are studies of which the primary does not say what it has, and which."""
        self._unsent: dict[StudyInstanceUid, int] = {}
        """Gaps that the primary did not send when it was asked to last, with its status."""
        self._unsent_since = Timestamp(0.0)

    @property
    def horizon(self) -> Timestamp | None:
        """The moment up to which the standby is known to be complete, None before the first complete diff.

        None, too, where it lies ahead: the clock was set back, and it tells nothing.
        """
        value = self._ledger.fact(_HORIZON)
        moment = None if value is None else Timestamp(float(value))
        return None if moment is None or moment > self._clock.now() else moment

    def is_due(self, *, interval: float, patience: float) -> bool:
        """Say whether to look now: first, after `interval` seconds, or when a gap was given its patience.

        Where the clock was set back nobody knows how long ago the last look was: it is due.
        """
        if self._looked is None or self._interrupted:
            return True
        elapsed = self._clock.now() - self._looked
        if not 0 <= elapsed < interval:
            return True
        return elapsed >= patience and self._ledger.tally_gaps().studies > 0

    def forget_look(self) -> None:
        """Look again as soon as the primary answers: it was away, and may have changed."""
        self._looked = None

    def alarms(self) -> list[Alarm]:
        """Return what is known of answers of the primary that cannot be relied on."""
        found: list[Alarm] = []
        if self._cut is not None:
            since, number = self._cut
            what = f"the primary's list of studies leaves out {number} that it has"
            hint = "raise the limit of query results at this PACS: others may be missing here"
            found.append(Alarm(iso(since), what, hint))
        if self._vague is not None:
            since, studies = self._vague
            what = f"the primary has no usable answer about the images of {len(studies)} studies"
            hint = (
                f"the standby may lack some of them; look there for study {shown(studies[0])}, and at its log"
            )
            found.append(Alarm(iso(since), what, hint))
        if unsent := dict(self._unsent):
            study, status = next(iter(unsent.items()))
            what = (
                f"the primary does not send what is missing here of {len(unsent)} studies: "
                f"C-MOVE ended with status 0x{status:04X}"
            )
            hint = (
                f"see that it knows the AE title {self._destination} at this host's address and port, and "
                f"reaches them; for study {shown(study)} its log says why"
            )
            found.append(Alarm(iso(self._unsent_since), what, hint))
        return found

    def compare(
        self, suspects: Collection[StudyInstanceUid] = (), *, believe_departures: bool = False
    ) -> Comparison:
        """Compare both inventories; `suspects` are compared by instance whatever the counts say.

        What the list of studies leaves out is asked for: a list can be cut and say nothing of it. Of a study
        of which nothing is here the list's count suffices, so that a large archive is not asked for every
        image before the first is pulled. With `believe_departures` a whole study that is known to have
        departed is not asked for again, which would be a question for every study that the primary ever
        deleted. Changes nothing.
        """
        self._noter.catch_up()
        started = self._clock.now()
        theirs = self._peer.studies()
        proven = self._ledger.studies_with(self._holder, ObligationState.PROVEN)
        unsettled: set[StudyInstanceUid] = set()
        for state in UNSETTLED:
            unsettled |= self._ledger.studies_with(self._holder, state).keys()
        departed = self._departed(proven) - theirs.keys() if believe_departures else frozenset()
        waived = self._ledger.studies_with(self._holder, ObligationState.WAIVED)
        here = {*proven, *unsettled, *waived, *suspects}
        diffs: list[StudyDiff] = []
        unanswered: list[StudyInstanceUid] = []
        capped: list[StudyInstanceUid] = []
        patience = _Patience()
        for study in studies_to_look_into(theirs, proven, {*unsettled, *suspects}):
            count = theirs.get(study)
            if not can_be_asked_for(study):
                # Of ours none could be sent either: they are refused.
                unanswered += [study] if study in theirs else []
            elif count and study not in here:
                diffs.append(whole_study(study, count))
            elif study in departed:
                diffs.append(self._compare_study(study, frozenset()))
            else:
                with patience.with_one(study, unanswered):
                    diffs.append(self._ask(study, capped))
        unlisted = [diff.study for diff in diffs if diff.listed and diff.study not in theirs]
        if unlisted:
            # Once more: a study may have come since the list was asked for.
            listed_since = self._peer.studies()
            unlisted = [study for study in unlisted if study not in listed_since]
        return Comparison(
            started, len(theirs), tuple(diffs), tuple(unanswered), tuple(capped), tuple(unlisted)
        )

    def step(
        self,
        suspects: Collection[StudyInstanceUid] = (),
        *,
        patience: float = 0.0,
        believe_departures: bool = False,
        leave: Collection[StudyInstanceUid] = (),
    ) -> Comparison:
        """Compare, record what the primary turned out to have, pull the gaps and move the horizon.

        A gap that is known for less than `patience` seconds is left to the primary's own forwarding, those of
        the studies in `leave` to another time. What cannot be pulled within a minute, or ten times as long as
        the comparison took, is left to the next step. Returns the comparison as it is after the pull.
        """
        with self._one_at_a_time:
            self._looked = began = self._clock.now()
            self._interrupted = False
            comparison = self.compare(suspects, believe_departures=believe_departures)
            self._note_cut(comparison)
            self._settle_found(comparison)
            self._ledger.write_gaps(comparison.missing_here(), self._clock.now())
            now = self._clock.now()
            gaps = {
                gap.study: gap.instances
                for gap in self._ledger.read_gaps()
                if not 0 <= now - gap.since < patience and gap.study not in leave
            }
            if gaps:
                _log.info("mirror gaps studies=%d instances=%d", len(gaps), sum(gaps.values()))
                comparison = self._close(gaps, comparison, max(_PULL_SECONDS, _PULL_SHARE * (now - began)))
                self._ledger.write_gaps(comparison.missing_here(), self._clock.now())
            self._interrupted = comparison.interrupted
            missing = comparison.missing_here()
            self._unsent = {study: status for study, status in self._unsent.items() if study in missing}
            vague = (*comparison.unanswered, *comparison.capped)
            since = comparison.started if self._vague is None else self._vague[0]
            self._vague = (since, vague) if vague else None
            if not (missing or vague or comparison.unlisted):
                self._ledger.write_fact(_HORIZON, repr(float(comparison.started)))
            lost = {diff.study: len(diff.lost) for diff in comparison.diffs if diff.lost}
            self._ledger.write_departures(lost, self._clock.now())
            return comparison

    def _close(
        self, gaps: Collection[StudyInstanceUid], comparison: Comparison, seconds: float
    ) -> Comparison:
        """Pull the gaps and return the comparison as it is then; one that cannot be pulled stops no other."""
        unanswered, capped = list(comparison.unanswered), list(comparison.capped)
        diffs: list[StudyDiff] = []
        interrupted = False
        patience = _Patience()
        began = self._clock.now()
        for diff in comparison.diffs:
            after = diff
            if diff.study not in gaps or diff.study in self._had_turn:
                pass
            elif not 0 <= self._clock.now() - began < seconds:
                interrupted = True
            else:
                self._had_turn.add(diff.study)
                with patience.with_one(diff.study, unanswered):
                    self._pull(diff)
                    self._noter.catch_up()
                    after = self._ask(diff.study, capped)
                if not after.missing:
                    # It may grow.
                    self._had_turn.discard(diff.study)
            diffs.append(after)
        if not interrupted:
            self._had_turn.clear()
        return replace(
            comparison,
            diffs=tuple(diffs),
            unanswered=tuple(unanswered),
            capped=tuple(dict.fromkeys(capped)),
            interrupted=interrupted,
        )

    def _departed(self, proven: Mapping[StudyInstanceUid, int]) -> Set[StudyInstanceUid]:
        """Return the studies of which the last look found nothing at the primary."""
        departures = self._ledger.read_departures()
        return {found.study for found in departures if found.instances == proven.get(found.study)}

    def _note_cut(self, comparison: Comparison) -> None:
        number = len(comparison.unlisted)
        since = comparison.started if self._cut is None else self._cut[0]
        self._cut = (since, number) if number else None
        if number:
            _log.warning(
                "mirror list_is_cut studies=%d unlisted=%d first=%s",
                comparison.studies,
                number,
                shown(comparison.unlisted[0]),
            )

    def _ask(self, study: StudyInstanceUid, capped: list[StudyInstanceUid]) -> StudyDiff:
        """Compare a study by what the primary lists of it, which has to be all that we ask for."""
        try:
            return self._compare_study(study, self._peer.instances(study))
        except CappedError as error:
            diff = self._compare_study(study, error.listed)
            if diff.lost or diff.to_send:
                # Whether it has these is not known.
                raise
            capped.append(study)
            return diff

    def _compare_study(self, study: StudyInstanceUid, listed: Set[SopInstanceUid]) -> StudyDiff:
        return compare_study(
            study, listed, self._ledger.instances_of(study), self._ledger.states_of(self._holder, study)
        )

    def _settle_found(self, comparison: Comparison) -> None:
        for diff in comparison.diffs:
            if diff.found:
                proof = inventory_proof(self._peer.ae_title, diff.study, diff.listed, self._clock)
                found = {instance.number: proof for instance in diff.found}
                self._ledger.find(self._holder, found, now=self._clock.now())

    def _pull(self, diff: StudyDiff) -> None:
        """Pull a study at once where all of it is missing, else what is missing of it, instance by instance.

        Moving a whole study again would overwrite what is here with what the primary makes of it on the way:
        another transfer syntax, for one.
        """
        if diff.unasked and self._ledger.instances_of(diff.study):
            # Something has come since the list was asked for.
            diff = self._ask(diff.study, [])
        if diff.missing == diff.listed:
            self._tell(diff, self._peer.move(diff.study, self._destination))
            self._noter.catch_up()
            diff = self._ask(diff.study, [])
        if diff.missing_here:
            self._tell(diff, self._peer.move_instances(diff.study, diff.missing_here, self._destination))

    def _tell(self, diff: StudyDiff, result: MoveResult) -> None:
        self._unsent.pop(diff.study, None)
        if result.status != _SUCCESS or result.failed:
            if not self._unsent:
                self._unsent_since = self._clock.now()
            self._unsent[diff.study] = result.status
            _log.warning(
                "mirror pull study=%s missing=%d status=0x%04X failed=%d",
                shown(diff.study),
                diff.missing,
                result.status,
                result.failed,
            )
