"""Mirror: compare with the primary, pull missing instances, know up to when the standby is complete.

Deletions at the primary are recorded and shown, never applied: a standby that repeats a mass deletion is no
backup.

Rule 1: the horizon moves only if the list of studies was whole, every study has a usable answer and no
instance is missing. If counts prove nothing, the images are compared, in rounds (core/rounds.py).
Rule 2: a comparison that failed is an alarm until one succeeds.
"""

import logging
import math
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, TypeVar

from understudy.core.inventory import (
    Image,
    StudyDiff,
    StudyList,
    compare_study,
    counts_differ,
    uncompared_study,
    unlisted_studies,
    whole_study,
)
from understudy.core.model import HolderName, SopInstanceUid, StudyInstanceUid, Timestamp
from understudy.core.obligations import UNSETTLED, ObligationState
from understudy.core.ports import (
    BusyError,
    CappedError,
    Clock,
    HolderUnavailableError,
    MoveResult,
    NoImagesError,
    Peer,
    UnansweredError,
)
from understudy.core.rounds import CHANGED_SECONDS, Rounds
from understudy.core.text import counted
from understudy.core.uids import can_be_asked_for, shown
from understudy.core.views import Alarm, GapSide, GapView, iso
from understudy.flow.note import Noter
from understudy.holders.destination import inventory_proof
from understudy.ledger import CustodyBook, FactBook, GapBook, InstanceBook, ObligationBook

_log = logging.getLogger(__name__)

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Gets the number of studies asked for so far and their total; an exception from it ends the comparison."""

_HORIZON = "horizon"
_SUCCESS = 0x0000

_PULL_SECONDS, _PULL_SHARE = 60.0, 10.0
"""How long gaps are pulled between two comparisons: at least these seconds, and at least this multiple of the
comparison's duration."""

_SILENCE, _LOOK = 10.0, 0.5
"""Seconds without a further image after which a C-MOVE that succeeded is over, and between two looks."""

_ASK_SECONDS = 60.0
"""Seconds of one look that are spent on studies whose count proves nothing."""

_RETRY_SECONDS, _BUSY_SECONDS = 60.0, 5.0
"""Seconds until a failed comparison is tried again; the second if the primary had no association free."""

_FAILURES_IN_A_ROW, _UNANSWERED_IN_A_ROW = 3, 50
"""Studies in a row after which the primary counts as unavailable: studies whose question failed, and studies
without a usable answer."""


def untold(_done: int, _total: int) -> None:
    """Ignore the progress."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The inventory diff at one moment; `diffs` has the studies that were compared or are missing here."""

    started: Timestamp
    studies: int
    """Studies that the primary lists."""
    diffs: tuple[StudyDiff, ...]
    unanswered: tuple[StudyInstanceUid, ...] = ()
    """Studies for which the primary gave no usable answer: nothing is concluded about them."""
    capped: tuple[StudyInstanceUid, ...] = ()
    """Studies of which the primary lists every instance that is here, and counts more than it lists."""
    unlisted: tuple[StudyInstanceUid, ...] = ()
    """Studies that the primary has and leaves out of its list: the list is cut, and may lack others, too."""
    cut: str = ""
    """Why the primary's list of studies is known to be cut; empty if it is not."""
    reasons: Mapping[StudyInstanceUid, str] = field(default_factory=dict)
    """Why there is no usable answer about a study."""
    interrupted: bool = False
    """Whether time ran out before every gap, and every study that was never compared, had its turn."""

    def missing_here(self) -> dict[StudyInstanceUid, int]:
        """Return the gaps: instances that the primary has and we do not, by study."""
        return {diff.study: diff.missing for diff in self.diffs if diff.missing}


class _Answers:
    """Collects the studies compared at one look, and those without a usable answer.

    A study that fails does not stop the others; too many failures in a row show that the primary fails.
    """

    def __init__(
        self, clock: Clock, rounds: Rounds | None, *, most_unanswered: float = _UNANSWERED_IN_A_ROW
    ) -> None:
        self._clock = clock
        self._rounds = rounds
        self._most_unanswered = most_unanswered
        self._failures = self._unanswered = 0
        self.diffs: dict[StudyInstanceUid, StudyDiff] = {}
        self.unanswered: dict[StudyInstanceUid, str] = {}
        self.capped: dict[StudyInstanceUid, str] = {}

    def take(self, study: StudyInstanceUid, ask: Callable[[], StudyDiff]) -> None:
        """Keep the answer of `ask`; raise once too many studies in a row have none."""
        at, shown_at = self._clock.monotonic(), self._clock.now()
        try:
            diff = ask()
        except NoImagesError as error:
            # This is no failure: a primary that lists no images answers so for every study.
            self._none(study, at, error.reason)
        except HolderUnavailableError as error:
            if isinstance(error, UnansweredError):
                self._unanswered += 1
            else:
                self._failures += 1
            self._none(study, at, error.reason)
            if self._failures >= _FAILURES_IN_A_ROW or self._unanswered >= self._most_unanswered:
                raise
        else:
            self._failures = self._unanswered = 0
            self.diffs[study] = diff
            self.unanswered.pop(study, None)
            if self._rounds is not None:
                if study in self.capped:
                    self._rounds.unanswered(study, at, self.capped[study])
                else:
                    differs = bool(diff.missing or diff.lost or diff.to_send)
                    self._rounds.compared(study, at, shown_at, differs=differs)

    def _none(self, study: StudyInstanceUid, at: float, why: str) -> None:
        _log.warning("mirror unanswered study=%s because=%s", shown(study), why)
        self.unanswered[study] = why
        if self._rounds is not None:
            self._rounds.unanswered(study, at, why)


@dataclass(frozen=True, slots=True)
class _Failure:
    """A failed comparison: since when comparisons fail, when the last one was tried, and why it failed."""

    since: Timestamp
    at: float
    """By the monotonic clock."""
    error: HolderUnavailableError


@dataclass(frozen=True, slots=True)
class _Here:
    """The ledger's content, by study."""

    proven: Mapping[StudyInstanceUid, int]
    """SOP Instance UIDs that the primary is proven to have."""
    wanted: Set[StudyInstanceUid]
    """Studies that are compared by images, even if the counts are equal."""
    all: Set[StudyInstanceUid]
    """Studies with an instance here that has an obligation to the primary, in any state."""


class MirrorBooks(Protocol):
    """The books of the ledger that the mirror uses."""

    custody: CustodyBook
    facts: FactBook
    gaps: GapBook
    instances: InstanceBook
    obligations: ObligationBook


class Mirror:
    """Keeps the standby's copy complete; one comparison at a time."""

    def __init__(
        self,
        peer: Peer,
        ledger: MirrorBooks,
        noter: Noter,
        clock: Clock,
        *,
        holder: HolderName,
        destination: str,
        wait: Callable[[float], bool] = lambda _seconds: False,
    ) -> None:
        self._peer = peer
        self._ledger = ledger
        self._noter = noter
        self._clock = clock
        self._holder = holder
        self._destination = destination
        self._wait = wait
        """Waits for the given seconds and returns False if there is no time for it."""
        self._one_at_a_time = threading.Lock()
        self._rounds = Rounds()
        self._looked: float | None = None
        """When the last successful look began, by the monotonic clock."""
        self._failure: _Failure | None = None
        self._interrupted = False
        """Whether the last look left gaps or studies to the next one because its time was up."""
        self._had_turn: set[StudyInstanceUid] = set()
        """Gaps that had their turn in the present round: a gap that takes all the time delays no other."""
        self._moved_blindly: dict[StudyInstanceUid, int] = {}
        """Studies whose images the primary does not list, and how many were missing at their last C-MOVE."""
        self._cut: tuple[Timestamp, str] | None = None
        """Since when the primary's list of studies is cut, and the evidence."""
        self._unusable: tuple[Timestamp, Mapping[StudyInstanceUid, str]] | None = None
        """Since when the primary gives no usable answer about some studies, and why for each."""
        self._twins: tuple[Timestamp, Mapping[StudyInstanceUid, SopInstanceUid]] | None = None
        """Since when some studies have one SOP Instance UID in two series, and one such UID for each."""
        self._listed = 0
        """Number of studies that the primary listed last."""
        self._unsent: dict[StudyInstanceUid, str] = {}
        """Gaps that the primary did not send at the last C-MOVE, with its answer."""
        self._unsent_since = Timestamp(0.0)

    @property
    def horizon(self) -> Timestamp | None:
        """The moment up to which the standby is known to be complete; None before the first complete diff.

        It is told as the clock is set now. A moment that lies ahead and was written before this process
        started gives None, too: the clock was set back, and the moment tells nothing.
        """
        value = self._ledger.facts.read(_HORIZON)
        return None if value is None else self._clock.earliest(Timestamp(float(value)))

    def is_due(self, *, interval: float, patience: float) -> bool:
        """Say whether to look now: at the start, after `interval` seconds, or with gaps after `patience`.

        After a failure the next look is due within a minute.
        """
        moment = self._clock.monotonic()
        if self._failure is not None:
            pause = _BUSY_SECONDS if isinstance(self._failure.error, BusyError) else _RETRY_SECONDS
            return moment - self._failure.at >= min(pause, interval)
        if self._looked is None or self._interrupted:
            return True
        elapsed = moment - self._looked
        return elapsed >= interval or (elapsed >= patience and self._ledger.gaps.tally().studies > 0)

    def forget_look(self) -> None:
        """Look again as soon as the primary answers: it was away, and its content may have changed."""
        self._looked = self._failure = None

    def alarms(self) -> list[Alarm]:
        """Return the alarms on answers of the primary that cannot be relied on."""
        return [
            *self._failure_alarm(),
            *self._cut_alarm(),
            *self._unusable_alarm(),
            *self._twins_alarm(),
            *self._unsent_alarm(),
        ]

    def gaps(self, limit: int) -> Sequence[GapView]:
        """Return the studies of which this standby or the primary lacks images, the oldest first."""
        unusable = {} if self._unusable is None else self._unusable[1]
        reasons = {**unusable, **self._unsent}
        found = [
            GapView(gap.study, GapSide.HERE, gap.instances, gap.since, reasons.get(gap.study, ""))
            for gap in self._ledger.gaps.read()
        ]
        found += [
            GapView(gone.study, GapSide.PRIMARY, gone.instances, gone.since, "")
            for gone in self._ledger.gaps.read_departures()
        ]
        return sorted(found, key=lambda gap: (gap.since, gap.study_instance_uid))[:limit]

    def doubt(self, study: StudyInstanceUid) -> str:
        """Return why the primary may have lost images of a study that it was proven to have; empty if the
        last comparison found them there."""
        if (failure := self._failure) is not None:
            return f"the primary cannot be compared: {failure.error.reason}"
        if self._looked is None:
            return "the primary has not been compared since it answers again, or since the agent started"
        if (cut := self._cut) is not None:
            return f"the primary's list of studies is cut: {cut[1]}"
        if (unusable := self._unusable) is not None and study in unusable[1]:
            return f"the primary gives no usable answer about the study: {unusable[1][study]}"
        lost = sum(found.instances for found in self._ledger.gaps.read_departures() if found.study == study)
        return f"the primary no longer lists {counted(lost, 'image')} of the study" if lost else ""

    def _failure_alarm(self) -> Iterator[Alarm]:
        failure = self._failure
        if failure is None:
            return
        busy = isinstance(failure.error, BusyError)
        if busy and self._clock.waited(failure.since) < _RETRY_SECONDS:
            # Our own probe may hold the primary's only association.
            return
        what = f"the primary cannot be compared with this standby: {failure.error.reason}"
        yield Alarm(iso(failure.since), what, f"newer images may be missing here; {failure.error.hint}")

    def _cut_alarm(self) -> Iterator[Alarm]:
        if self._cut is not None:
            since, how = self._cut
            hint = "raise the limit of query results at the PACS: other studies may be missing here"
            yield Alarm(iso(since), f"the primary's list of studies is cut: {how}", hint)

    def _unusable_alarm(self) -> Iterator[Alarm]:
        if self._unusable is not None:
            since, studies = self._unusable
            study, why = next(iter(studies.items()))
            what = (
                f"this standby cannot compare {len(studies)} of the "
                f"{counted(self._listed, 'study', 'studies')} that the primary lists: {why}"
            )
            hint = f"images of these studies may be missing here; look for study {shown(study)} at the PACS"
            yield Alarm(iso(since), what, hint)

    def _twins_alarm(self) -> Iterator[Alarm]:
        if self._twins is not None:
            since, twins = self._twins
            study, uid = next(iter(twins.items()))
            number = counted(len(twins), "study", "studies")
            what = f"the primary has one SOP Instance UID in two series, in {number}"
            hint = (
                f"both images are kept here; look for {shown(uid)} in study {shown(study)}: "
                "other systems may show only one of the two"
            )
            yield Alarm(iso(since), what, hint)

    def _unsent_alarm(self) -> Iterator[Alarm]:
        if unsent := dict(self._unsent):
            study, why = next(iter(unsent.items()))
            number = counted(len(unsent), "study", "studies")
            what = f"the primary does not send the missing images of {number}: {why}"
            hint = (
                f"check that it knows the AE title {self._destination} with this host's address and port, "
                f"and can reach them; its log says why it does not send study {shown(study)}"
            )
            yield Alarm(iso(self._unsent_since), what, hint)

    def note(self) -> None:
        """Note every instance that has come here by now."""
        self._noter.catch_up()

    def compare(
        self, suspects: Collection[StudyInstanceUid] = (), *, progress: Progress = untold
    ) -> Comparison:
        """Compare both inventories by counts; by images if the counts differ, and for `suspects`.

        Studies that are missing from the list are asked for one by one: a list can be cut without saying so.
        For a study with no instance here the list's count suffices, so that a large archive is not asked for
        every image before the first is pulled. Changes nothing.
        """
        return self._compare(suspects, believe_departures=False, rounds=None, progress=progress)

    def _compare(
        self,
        suspects: Collection[StudyInstanceUid],
        *,
        believe_departures: bool,
        rounds: Rounds | None,
        progress: Progress,
    ) -> Comparison:
        """Compare; with `rounds`, also spend a limited time on the studies whose count proves nothing.

        With `believe_departures`, a study that is known to be gone from the primary is not asked for again.
        Otherwise every study that the primary ever deleted would cost a question.
        """
        self._noter.catch_up()
        started, moment = self._clock.now(), self._clock.monotonic()
        theirs = self._peer.studies()
        here = self._here(suspects)
        if rounds is not None:
            numbers = {study: here.proven.get(study, 0) for study in here.all}
            rounds.begin(theirs.studies, numbers, self._changed_lately(), today=started, moment=moment)
        departed = self._departed(here.proven) - theirs.studies.keys() if believe_departures else frozenset()
        answers = _Answers(self._clock, rounds)
        wanted = here.wanted | self._known_to_differ(theirs)
        listed = [
            study
            for study, told in theirs.studies.items()
            if study in wanted
            or (counts_differ(told, here.proven.get(study, 0)) and not (rounds and rounds.is_clean(study)))
        ]
        unlisted_here = list(unlisted_studies(theirs.studies, here.proven, wanted))
        # An upper limit: some are not asked for below.
        to_ask = {study: None for study in (*listed, *unlisted_here) if study in here.all}
        total = len(to_ask)

        def ask(study: StudyInstanceUid) -> None:
            to_ask.pop(study, None)
            progress(total - len(to_ask), total)
            answers.take(study, partial(self._ask, study, answers))

        for study, told in theirs.studies.items():
            if not can_be_asked_for(study):
                answers.unanswered[study] = "its Study Instance UID is not in standard form"
            elif study not in here.all:
                answers.diffs[study] = whole_study(study, told.count)
            elif study in to_ask:
                ask(study)
        for study in unlisted_here:
            # A study with a UID in non-standard form cannot have been sent either: it is refused.
            if study in departed:
                answers.diffs[study] = self._compare_study(study, frozenset())
            elif can_be_asked_for(study):
                ask(study)
        interrupted = False if rounds is None else self._go_round(rounds, answers)
        unlisted = [
            study for study, diff in answers.diffs.items() if diff.listed and study not in theirs.studies
        ]
        if unlisted:
            # The list is asked for again: a study may have arrived at the primary since.
            listed_since = self._peer.studies().studies
            unlisted = [study for study in unlisted if study not in listed_since]
        return Comparison(
            started,
            len(theirs.studies),
            tuple(answers.diffs.values()),
            tuple(answers.unanswered),
            tuple(answers.capped),
            tuple(unlisted),
            theirs.cut,
            {**answers.capped, **answers.unanswered},
            interrupted,
        )

    def _here(self, suspects: Collection[StudyInstanceUid]) -> "_Here":
        proven = self._ledger.obligations.studies_with(self._holder, ObligationState.PROVEN)
        unsettled: set[StudyInstanceUid] = set()
        for state in UNSETTLED:
            unsettled |= self._ledger.obligations.studies_with(self._holder, state).keys()
        waived = self._ledger.obligations.studies_with(self._holder, ObligationState.WAIVED)
        wanted = {*unsettled, *suspects}
        return _Here(proven, wanted, {*proven, *wanted, *waived})

    def _known_to_differ(self, theirs: StudyList) -> set[StudyInstanceUid]:
        """Return the listed studies that differed at the last look: equal counts may hide a difference."""
        known = {gap.study for gap in self._ledger.gaps.read()}
        known |= {departure.study for departure in self._ledger.gaps.read_departures()}
        return known & theirs.studies.keys()

    def _changed_lately(self) -> Set[StudyInstanceUid]:
        """Return the studies that changed here shortly before the first look of this process."""
        if self._rounds.begun:
            return frozenset()
        since = Timestamp(self._clock.now() - CHANGED_SECONDS)
        return self._ledger.instances.studies_since(since)

    def _go_round(self, rounds: Rounds, answers: "_Answers") -> bool:
        """Compare the studies of the rounds by images, for a limited time; say if one never had a turn."""
        had_turn = answers.diffs.keys() | answers.unanswered.keys()
        required = [study for study in rounds.required() if study not in had_turn]
        began = self._clock.monotonic()
        turns = [*required, *(study for study in rounds.slow() if study not in had_turn)]
        for number, study in enumerate(turns):
            if self._clock.monotonic() - began >= _ASK_SECONDS:
                return rounds.never_tried(required[number:])
            try:
                answers.take(study, partial(self._ask, study, answers))
            except UnansweredError:
                # The primary may never answer about images: missing instances are pulled all the same.
                return rounds.never_tried(required[number:])
        return False

    def step(
        self,
        suspects: Collection[StudyInstanceUid] = (),
        *,
        patience: float = 0.0,
        believe_departures: bool = False,
        leave: Collection[StudyInstanceUid] = (),
        in_rounds: bool = True,
        progress: Progress = untold,
    ) -> Comparison:
        """Compare, record which owed instances the primary has, pull the gaps and move the horizon.

        A gap that is known for less than `patience` seconds is left to the primary's own forwarding. Gaps of
        the studies in `leave` are not pulled now. Pulling stops after a minute, or after ten times the
        comparison's duration if that is longer; the next step pulls the rest. With `in_rounds`, studies whose
        count proves nothing have their turns. Returns the comparison as it is after the pull.
        """
        with self._one_at_a_time:
            began = self._clock.monotonic()
            try:
                comparison = self._compare(
                    suspects,
                    believe_departures=believe_departures,
                    rounds=self._rounds if in_rounds else None,
                    progress=progress,
                )
                comparison = self._record(comparison, began, patience, leave)
            except HolderUnavailableError as error:
                now = self._clock.now()
                since = now if self._failure is None else self._failure.since
                self._failure = _Failure(since, self._clock.monotonic(), error)
                _log.warning("mirror failed because=%s", error.reason)
                raise
            self._failure = None
            self._looked = began
            return comparison

    def _record(
        self,
        comparison: Comparison,
        began: float,
        patience: float,
        leave: Collection[StudyInstanceUid],
    ) -> Comparison:
        """Record the comparison, pull the gaps and move the horizon."""
        self._note_cut(comparison)
        self._settle_found(comparison)
        self._ledger.gaps.write(comparison.missing_here(), self._clock.now())
        gaps = {
            gap.study: gap.instances
            for gap in self._ledger.gaps.read()
            if self._clock.is_due(gap.since, patience) and gap.study not in leave
        }
        if gaps:
            _log.info("mirror gaps studies=%d instances=%d", len(gaps), sum(gaps.values()))
            took = self._clock.monotonic() - began
            comparison = self._close(gaps, comparison, max(_PULL_SECONDS, _PULL_SHARE * took))
            self._ledger.gaps.write(comparison.missing_here(), self._clock.now())
        self._interrupted = comparison.interrupted
        missing = comparison.missing_here()
        self._unsent = {study: status for study, status in self._unsent.items() if study in missing}
        self._listed = comparison.studies
        unusable = {**self._rounds.silent(), **comparison.reasons}
        self._unusable = self._lasting(self._unusable, comparison.started, unusable)
        self._twins = self._lasting(self._twins, comparison.started, self._twins_now(comparison))
        if not (missing or unusable or comparison.unlisted or comparison.cut):
            horizon = self._rounds.complete_up_to(comparison.started, self._clock.earliest)
            if horizon is not None and horizon > (self.horizon or 0.0):
                self._ledger.facts.write(_HORIZON, repr(float(horizon)))
        # For a study without a usable answer, the last answer stands.
        lost = {
            known.study: known.instances
            for known in self._ledger.gaps.read_departures()
            if known.study in comparison.unanswered
        }
        lost |= {diff.study: len(diff.lost) for diff in comparison.diffs if diff.lost}
        self._ledger.gaps.write_departures(lost, self._clock.now())
        return comparison

    @staticmethod
    def _lasting(
        before: tuple[Timestamp, Mapping[StudyInstanceUid, T]] | None,
        now: Timestamp,
        found: Mapping[StudyInstanceUid, T],
    ) -> tuple[Timestamp, Mapping[StudyInstanceUid, T]] | None:
        """Return the findings with the moment since when there are any; None if there are none."""
        return (now if before is None else before[0], found) if found else None

    def _twins_now(self, comparison: Comparison) -> Mapping[StudyInstanceUid, SopInstanceUid]:
        known = {} if self._twins is None else dict(self._twins[1])
        for diff in comparison.diffs:
            known.pop(diff.study, None)
            if diff.twins:
                known[diff.study] = diff.twins[0]
        return known

    def _close(
        self, gaps: Collection[StudyInstanceUid], comparison: Comparison, seconds: float
    ) -> Comparison:
        """Pull the gaps and return the comparison after that; a gap that cannot be pulled stops no other."""
        # Studies without a usable answer after their pull do not stop the others.
        answers = _Answers(self._clock, self._rounds, most_unanswered=math.inf)
        answers.unanswered = {study: comparison.reasons[study] for study in comparison.unanswered}
        answers.capped = {study: comparison.reasons[study] for study in comparison.capped}
        interrupted = False
        began = self._clock.monotonic()
        for diff in comparison.diffs:
            answers.diffs[diff.study] = diff
            if diff.study not in gaps or diff.study in self._had_turn:
                continue
            if self._clock.monotonic() - began >= seconds:
                interrupted = True
                continue
            self._had_turn.add(diff.study)
            answers.take(diff.study, partial(self._pulled, diff, answers))
            if not answers.diffs[diff.study].missing:
                # The study may grow, and then has a gap again.
                self._had_turn.discard(diff.study)
        if not interrupted:
            self._had_turn.clear()
        return replace(
            comparison,
            diffs=tuple(answers.diffs.values()),
            unanswered=tuple(answers.unanswered),
            capped=tuple(answers.capped),
            reasons={**answers.capped, **answers.unanswered},
            interrupted=comparison.interrupted or interrupted,
        )

    def _pulled(self, diff: StudyDiff, answers: "_Answers") -> StudyDiff:
        """Pull the missing instances of a study and return the difference after that."""
        try:
            self._pull(diff, answers)
            self._noter.catch_up()
            return self._ask(diff.study, answers)
        except UnansweredError:
            if diff.unasked == diff.listed:
                # The whole study was missing, so every instance that is here now has come since.
                self._noter.catch_up()
                here = len(self._ledger.instances.of_study(diff.study))
                answers.diffs[diff.study] = uncompared_study(diff.study, diff.listed, here)
            raise

    def _departed(self, proven: Mapping[StudyInstanceUid, int]) -> Set[StudyInstanceUid]:
        """Return the studies of which the last look found no instance at the primary."""
        departures = self._ledger.gaps.read_departures()
        return {found.study for found in departures if found.instances == proven.get(found.study)}

    def _note_cut(self, comparison: Comparison) -> None:
        how = comparison.cut
        if number := len(comparison.unlisted):
            how = how or f"it leaves out {counted(number, 'study', 'studies')} that it has"
        since = comparison.started if self._cut is None else self._cut[0]
        self._cut = (since, how) if how else None
        if how:
            _log.warning("mirror list_is_cut studies=%d unlisted=%d how=%s", comparison.studies, number, how)

    def _ask(self, study: StudyInstanceUid, answers: "_Answers") -> StudyDiff:
        """Compare a study by the images that the primary lists; a list that was cut has to include ours."""
        answers.capped.pop(study, None)
        try:
            return self._compare_study(study, self._peer.images(study))
        except CappedError as error:
            diff = self._compare_study(study, error.listed)
            if diff.lost or diff.to_send:
                # It is not known whether the primary has these.
                raise
            answers.capped[study] = error.reason
            return diff
        except NoImagesError as error:
            # The number of instances here, whoever sent them, tells more than the primary's list.
            here = len(self._ledger.instances.of_study(study))
            answers.diffs[study] = uncompared_study(study, error.counted, here)
            raise

    def _compare_study(self, study: StudyInstanceUid, listed: Set[Image]) -> StudyDiff:
        return compare_study(
            study,
            listed,
            self._ledger.instances.of_study(study),
            self._ledger.obligations.of_study(self._holder, study),
        )

    def _settle_found(self, comparison: Comparison) -> None:
        for diff in comparison.diffs:
            if diff.found:
                proof = inventory_proof(self._peer.ae_title, diff.study, diff.listed, self._clock)
                found = {instance.number: proof for instance in diff.found}
                self._ledger.custody.find(self._holder, found, now=self._clock.now())

    def _pull(self, diff: StudyDiff, answers: "_Answers") -> None:
        """Pull a study as a whole if all of it is missing, otherwise only its missing instances.

        Moving a whole study again would overwrite the instances here with the primary's version of them, for
        example in another transfer syntax. This is done only if the primary counts more instances than are
        here and lists no image, and once for each count.
        """
        if diff.unasked and self._ledger.instances.of_study(diff.study):
            # An instance has come since the list was asked for.
            try:
                diff = self._ask(diff.study, answers)
            except NoImagesError:
                if self._moved_blindly.get(diff.study) == diff.unasked:
                    raise
                self._moved_blindly[diff.study] = diff.unasked
        if diff.missing and diff.missing >= diff.listed:
            if not self._arrive(diff, lambda: self._peer.move(diff.study, self._destination)):
                return
            diff = self._ask(diff.study, answers)
        if images := diff.missing_here:
            self._arrive(diff, lambda: self._peer.move_instances(diff.study, images, self._destination))

    def _arrive(self, diff: StudyDiff, move: Callable[[], MoveResult]) -> bool:
        """Move images, and wait for those that come after the answer, as long as they keep coming.

        Returns False if the primary says success and no image comes: it sends them to another address.
        """
        before = here = self._arrived(diff.study)
        wanted = here + diff.missing
        result = move()
        succeeded = result.status == _SUCCESS and not result.failed
        quiet = self._clock.monotonic()
        while (now_here := self._arrived(diff.study)) < wanted and succeeded:
            if now_here > here:
                here, quiet = now_here, self._clock.monotonic()
            elif self._clock.monotonic() - quiet >= _SILENCE or not self._wait(_LOOK):
                break
        if now_here >= wanted:
            self._unsent.pop(diff.study, None)
            return True
        if not self._unsent:
            self._unsent_since = self._clock.now()
        status = "success" if succeeded else f"status 0x{result.status:04X}"
        missing = counted(wanted - now_here, "image has", "images have")
        self._unsent[diff.study] = f"it answered C-MOVE with {status}, and {missing} not come"
        _log.warning(
            "mirror pull study=%s missing=%d status=0x%04X failed=%d",
            shown(diff.study),
            wanted - now_here,
            result.status,
            result.failed,
        )
        return now_here > before or not succeeded

    def _arrived(self, study: StudyInstanceUid) -> int:
        """Return how many images of a study have come by now."""
        self._noter.catch_up()
        return len(self._ledger.instances.of_study(study))
