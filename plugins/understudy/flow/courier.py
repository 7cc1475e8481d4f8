"""The courier: one lane per holder. It asks the holder first, sends absent instances, trusts only a proof.

Rule 1: lanes share nothing but the ledger; a lane that waits delays no other.
Rule 2: if a lane stops in the middle of a batch, each instance gets an outcome or is given back. If the
process ends, the next one releases the claims. Only the lane claims for its holder, so an instance that is in
flight when a step begins is one whose outcome could not be written to the ledger.
Rule 3: a holder that is away is tried with one instance, by one lane, at growing intervals without an end.
Rule 4: if the holder has no usable answer for the first study or instance, the lane tries another study. If
that works, the first is deferred and delays no other. Otherwise the holder is away: no instance is blamed or
loses its turn.
Rule 5: a route's destination that answers no question is sent one instance. If it takes that one, it gets all
that are owed. They stay unproven until it answers, and the lane says why. Otherwise it counts as away.
Rule 6: while the lane sends one batch, it looks for the next and proves earlier ones. Only the step decides
and records the outcome of an instance, and it waits for no question; the threads beside it only ask. After
one of them fails, or the holder was away, calls follow one another: a further association may be too many.
"""

import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, TypeVar

from understudy.core.model import (
    Delivery,
    HolderKind,
    Instance,
    InstanceNumber,
    Outcome,
    Proof,
    StudyInstanceUid,
    Timestamp,
)
from understudy.core.ports import (
    Answers,
    Clock,
    Holder,
    HolderUnavailableError,
    Settlement,
    UnansweredError,
)
from understudy.core.proving import Absence, judge_absence, pause_before_question
from understudy.core.retry import delay_before
from understudy.core.text import counted
from understudy.core.uids import shown
from understudy.core.views import LaneState, LaneView, iso
from understudy.engine.beside import Beside, in_turn
from understudy.flow.suspects import Suspects
from understudy.ledger import CommitmentBook, CustodyBook, ObligationBook, QueueBook

_log = logging.getLogger(__name__)

_COMPARES_EVERY = 4
"""After the first few failures in a row, only every fourth failure is compared with another study, so that a
holder that is away does not get twice the questions."""
_MOST_SUSPECTS = 100
_MOST_LOOKS = 2
"""Studies that are looked for at a time."""
_PATIENCE = 10.0
"""Seconds that a study waits for the answer to its look before the next study goes ahead of it."""
_FRESH = 60.0
"""Seconds for which an unused answer is trusted: others send to the holder as well."""
_ACKNOWLEDGED = (Outcome.DELIVERED, Outcome.DELIVERED_ALTERED)


@dataclass(frozen=True, slots=True)
class LanePolicy:
    """How a lane takes and retries its batches; all times in seconds."""

    batch_instances: int
    batch_bytes: int
    linger: float
    retry_base: float
    retry_cap: float
    longest_wait: float = 600.0
    """At least as long as any intended wait: a longer wait shows that the clock was set back."""
    proof_patience: float = 60.0
    """How long an instance acknowledged for the first time may stay unlisted before it is owed again."""
    proof_interval: float = 1.0
    record_every: int = 16
    """Outcomes written in one transaction."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """The last question to the holder, or the last instance that was sent to it."""

    study: StudyInstanceUid
    unsent: InstanceNumber | None = None
    """The instance that the holder did not take; None for a question, which concerns the whole study."""


@dataclass(frozen=True, slots=True)
class _Unanswered:
    """How many questions in a row a destination did not answer, and until when it is not asked."""

    times: int = 0
    not_before: float = -math.inf
    """By the monotonic clock."""
    until: Timestamp | None = None
    """The same moment, to be shown."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Proving:
    """Acknowledged instances whose proof is asked for, and the future answers."""

    waiting: Sequence[Instance]
    answers: Future[Answers]


@dataclass(frozen=True, slots=True)
class _Look:
    """Owed instances of a study that are looked for at the holder."""

    numbers: Set[InstanceNumber]
    began: float
    answer: Future[tuple[Mapping[InstanceNumber, Proof], float]]
    """The instances that the holder has, and when it answered. Both moments are of the monotonic clock."""

    def is_old(self, moment: float) -> bool:
        """Whether the answer came too long ago."""
        if not self.answer.done():
            return False
        at = self.began if self.answer.exception() else self.answer.result()[1]
        return moment - at >= _FRESH


T = TypeVar("T")

_Act: TypeAlias = Callable[[Set[StudyInstanceUid]], bool]
"""Does one batch, of no study in the set, and returns whether there was anything to do."""


class LaneBooks(Protocol):
    """The books of the ledger that a lane uses."""

    commitments: CommitmentBook
    custody: CustodyBook
    obligations: ObligationBook
    queue: QueueBook


class Lane:
    """Delivers to one holder; `step` does one batch, the agent's thread calls it for ever."""

    def __init__(
        self,
        holder: Holder,
        ledger: LaneBooks,
        clock: Clock,
        policy: LanePolicy,
        *,
        is_open: Callable[[], bool],
        fraction: Callable[[], float],
        in_window: Callable[[], bool] = lambda: True,
        suspects: Suspects | None = None,
        beside: Beside | None = None,
    ) -> None:
        self.holder = holder
        self._ledger = ledger
        self._clock = clock
        self._policy = policy
        self._is_open = is_open
        self._in_window = in_window
        self._suspects_of_kills = suspects
        self._beside = beside or Beside(clock, in_turn=True)
        self._proving: _Proving | None = None
        self._looks: dict[StudyInstanceUid, _Look] = {}
        """By study, the looks that are running or whose answer was not used yet."""
        self._fraction = fraction
        self._failures = 0
        self._most = policy.batch_instances
        """Instances of the next batch. An unforeseen error halves it, so that its cause ends up alone. It is
        1 for a holder that was away, and every batch that succeeds doubles it."""
        self._asked: _Asked | None = None
        self._suspects: set[StudyInstanceUid] = set()
        """Studies that got no answer since the holder's last answer."""
        self._lock = threading.Lock()
        self._view = LaneView(LaneState.IDLE, "", iso(clock.now()), None, 0.0)
        self._not_before = -math.inf
        """By the monotonic clock."""
        self._unanswered = _Unanswered()
        self._takes = False
        """Whether the destination, which answered no question, took an instance of the last batch."""

    @property
    def view(self) -> LaneView:
        """The present activity of the lane."""
        with self._lock:
            return self._view

    def step(self) -> bool:
        """Ask for proofs and deliver one batch; return whether there was anything to do.

        Questions without an answer yet go on beside the step; a later step takes their answers.
        """
        left = self._ledger.queue.in_flight(self.holder.name)
        if left:
            reason = "the result of its delivery was not written down: outcome unknown"
            self._record([Delivery(number, Outcome.UNKNOWN, reason) for number in left])
        if not self._is_open():
            self._pause("no image is sent in this mode")
            return False
        if not self._in_window():
            self._pause("this is outside its send window")
            return False
        if self._clock.monotonic() < self._not_before:
            return False
        try:
            worked = self._ask_for_proofs()
            worked = self._fairly(self._deliver, self._deliver) or worked
        except HolderUnavailableError as error:
            self._failures += 1
            self._beside.end_turns()
            # A holder that was away is asked again before anything is sent.
            self._looks.clear()
            wait = self._delay(self._failures)
            self._not_before = self._clock.monotonic() + wait
            self._show(LaneState.WAITING, f"{error.reason}; {error.hint}", until=self._in(wait))
            _log.warning("lane wait holder=%s seconds=%.1f because=%s", self.holder.name, wait, error.reason)
            return False
        self._failures = 0
        self._suspects.clear()
        if not worked and self._unanswered.times:
            self._show(LaneState.WAITING, self._unanswered.reason, until=self._unanswered.until)
        elif not worked and (self._proving is None or not self._proving.waiting):
            self._show(LaneState.IDLE, "")
        return worked

    def _pause(self, reason: str) -> None:
        """Do nothing for now. An answer from before the pause proves nothing after it. A report of storage
        commitment still counts, because it comes only once."""
        self._looks.clear()
        if self._proving is not None:
            self._proving = replace(self._proving, waiting=())
        self._show(LaneState.PAUSED, reason)

    def _ask_for_proofs(self) -> bool:
        """Ask for proofs; a route's destination that answers no question is asked at growing intervals."""
        if self._clock.monotonic() < self._unanswered.not_before:
            return False
        try:
            worked = self._fairly(self._prove, self._prove, self._deliver)
        except UnansweredError as error:
            if self.holder.kind is not HolderKind.ROUTE:
                raise
            times = self._unanswered.times + 1
            wait = self._delay(times)
            reason = f"images that it acknowledges cannot be proven: {error.reason}; {error.hint}"
            self._unanswered = _Unanswered(times, self._clock.monotonic() + wait, self._in(wait), reason)
            _log.warning(
                "lane unproven holder=%s seconds=%.1f because=%s", self.holder.name, wait, error.reason
            )
            return False
        self._unanswered = _Unanswered()
        return worked

    def _fairly(self, act: _Act, *others: _Act) -> bool:
        """Act on the first study, or defer it if the holder has no usable answer for it alone.

        `others` are the acts that show, with another study, that the holder is there. Raises
        HolderUnavailableError if it is not, or if there is no other study to compare with.
        """
        try:
            return act(frozenset())
        except HolderUnavailableError as error:
            if not isinstance(error, UnansweredError) and self._beside.take_turns():
                # The holder may accept no further association: from now on, calls follow one another.
                # All looks and a failed question for proofs are dropped.
                _log.info("lane in turn holder=%s because=%s", self.holder.name, error.reason)
                self._looks.clear()
                if self._proving is not None and self._proving.answers.exception() is not None:
                    self._proving = None
                return True
            if not isinstance(error, UnansweredError):
                self._most = 1
            first = self._asked
            often = self._failures > _COMPARES_EVERY and self._failures % _COMPARES_EVERY
            if first is None or often or not self._answers_others(first, others):
                raise
            self._put_off(first, error)
            return True

    def _answers_others(self, first: _Asked, others: Sequence[_Act]) -> bool:
        if len(self._suspects) >= _MOST_SUSPECTS:
            self._suspects.clear()
        self._suspects.add(first.study)
        for act in others:
            try:
                act(self._suspects)
            except HolderUnavailableError:
                if self._asked is not None:
                    self._suspects.add(self._asked.study)
                return False
            if self._asked is not None:
                return True
        self._suspects.clear()
        return False

    def _put_off(self, what: _Asked, error: HolderUnavailableError) -> None:
        """Defer a study or an instance that has no usable answer while the holder answers for others."""
        name = self.holder.name
        numbers = (
            [what.unsent]
            if what.unsent is not None
            else list(self._ledger.obligations.of_study(name, what.study))
        )
        reason = f"{error.reason}; {error.hint}"
        self._ledger.custody.put_off(name, numbers, reason=reason, retry_at=self._retry_at)
        _log.warning("lane put off holder=%s study=%s because=%s", name, shown(what.study), error.reason)

    def _ask(self, call: Callable[[], T], besides: Set[StudyInstanceUid]) -> Future[T]:
        """Ask beside the step; in the step itself for a comparison or after the holder was away."""
        return in_turn(call) if besides or self._failures else self._beside(call)

    def _prove(self, besides: Set[StudyInstanceUid]) -> bool:
        """Take the answers to the last question and ask the next, of no study in `besides`."""
        worked = False
        if self._proving is not None:
            if not self._proving.answers.done():
                return False
            worked = self._take_answers(self._proving)
        asked = self._proving = self._question(besides)
        if asked.answers.done():
            worked = self._take_answers(asked) or worked
        return worked

    def _take_answers(self, asked: _Proving) -> bool:
        self._proving = None
        self._asked = _Asked(asked.waiting[0].study_instance_uid) if asked.waiting else None
        return self._take(asked.waiting, asked.answers.result())

    def _question(self, besides: Set[StudyInstanceUid]) -> _Proving:
        waiting = self._ledger.queue.sent(
            self.holder.name,
            now=self._clock.now(),
            limit=self._policy.batch_instances,
            longest=self._policy.longest_wait,
            besides=besides,
        )
        if waiting and not self._unanswered.times:
            self._show(LaneState.WORKING, f"asking for {len(waiting)} proofs")
        answers = self._ask(lambda: self.holder.prove(waiting), besides)

        def wake(done: Future[Answers]) -> None:
            # If nothing was asked and no report came in, the next step is not urgent.
            if waiting or done.exception() or done.result().settlements:
                self._beside.wake()

        answers.add_done_callback(wake)
        return _Proving(waiting, answers)

    def _take(self, waiting: Sequence[Instance], answers: Answers) -> bool:
        """Record which instances are proven, denied and missing; return whether any is proven or reported on.

        An instance that was claimed after the question is no longer in `waiting`: the answer is older.
        """
        now = self._clock.now()
        asked = {instance.number for instance in waiting}
        found = {number: proof for number, proof in answers.found.items() if number in asked}
        denied = {number: why for number, why in answers.denied.items() if number in asked}
        settled = sum(self._settle(settlement, now) for settlement in answers.settlements)
        if found:
            settled += self._ledger.custody.prove(self.holder.name, found, now=now)
        if denied:
            self._ledger.custody.give_up(self.holder.name, denied, now=now)
        asked -= found.keys() | denied.keys()
        self._miss(sorted(asked & answers.pending), now, lambda _waited, _losses: Absence.LATE)
        self._miss(sorted(asked - answers.pending), now, self._judge_absence)
        return bool(settled)

    def _judge_absence(self, waited: float, losses: int) -> Absence:
        return judge_absence(waited, losses, patience=self._policy.proof_patience)

    def _settle(self, settlement: Settlement, now: Timestamp) -> int:
        settled = self._ledger.commitments.settle(
            self.holder.name, settlement, now=now, retry_at=self._retry_at
        )
        _log.info(
            "commit holder=%s transaction=%s committed=%d denied=%d",
            self.holder.name,
            settlement.transaction_uid,
            len(settlement.committed),
            len(settlement.denied),
        )
        return settled

    def _miss(
        self,
        absent: Sequence[InstanceNumber],
        now: Timestamp,
        judge: Callable[[float, int], Absence],
    ) -> None:
        if not absent:
            return
        interval = self._policy.proof_interval

        def waited(shown: float) -> float:
            """Return the seconds really waited, without steps of the machine's clock."""
            return self._clock.waited(Timestamp(now - shown))

        taken_for = self._ledger.custody.absent(
            self.holder.name,
            absent,
            now=now,
            judge=lambda shown, losses: judge(waited(shown), losses),
            ask_again=lambda shown: self._in(pause_before_question(waited(shown), interval=interval)),
            retry_at=self._retry_at,
        )
        lost, unprovable = taken_for.get(Absence.LOST, 0), taken_for.get(Absence.UNPROVABLE, 0)
        if lost or unprovable:
            _log.warning("prove holder=%s lost=%d unprovable=%d", self.holder.name, lost, unprovable)

    def _deliver(self, besides: Set[StudyInstanceUid]) -> bool:
        batch, look = self._looked_for(besides)
        self._asked = _Asked(batch[0].study_instance_uid) if batch else None
        if look is None:
            return False
        if self._suspects_of_kills is not None:
            first, is_suspect = self._suspects_of_kills.cut(self.holder.name, batch)
            if is_suspect:
                with self._suspects_of_kills.alone(self.holder.name, first[0].number) as may:
                    if may:
                        return self._deliver_batch(first, look)
                batch = self._suspects_of_kills.besides(self.holder.name, batch)
        return self._deliver_batch(batch, look) if batch else False

    def _due(self, besides: Set[StudyInstanceUid] = frozenset()) -> Sequence[Instance]:
        return self._ledger.queue.due(
            self.holder.name,
            now=self._clock.now(),
            limit=self._most,
            max_bytes=self._policy.batch_bytes,
            linger=self._policy.linger,
            longest=self._policy.longest_wait,
            besides=besides,
        )

    def _looked_for(self, besides: Set[StudyInstanceUid]) -> tuple[Sequence[Instance], _Look | None]:
        """Return the next batch, of it only instances that were looked for; none while the answer is awaited.

        If the answer is slow, the next study goes first.
        """
        passed = set(besides)
        for _ in range(_MOST_LOOKS):
            batch, moment = self._due(passed), self._clock.monotonic()
            if not batch:
                break
            study = batch[0].study_instance_uid
            look = None if besides else self._looks.pop(study, None)
            if look is None or look.is_old(moment) or not look.numbers & {one.number for one in batch}:
                if self._looks_out >= _MOST_LOOKS:
                    break
                self._show(LaneState.WORKING, f"looking for {counted(len(batch), 'image')} there")
                look = self._look_for(batch, besides)
            if look.answer.done():
                return [one for one in batch if one.number in look.numbers], look
            self._looks[study] = look
            if moment - look.began < _PATIENCE:
                break
            passed.add(study)
        return [], None

    @property
    def _looks_out(self) -> int:
        """How many looks have no answer yet."""
        return sum(not look.answer.done() for look in self._looks.values())

    def _look_for(self, batch: Sequence[Instance], besides: Set[StudyInstanceUid] = frozenset()) -> _Look:
        answer = self._ask(lambda: (self.holder.find(batch), self._clock.monotonic()), besides)
        answer.add_done_callback(lambda _: self._beside.wake())
        return _Look(frozenset(one.number for one in batch), self._clock.monotonic(), answer)

    def _look_ahead(self) -> None:
        """Look for the batch after the claimed one, so that it can be sent next."""
        if self._beside.in_turn or self._failures:
            return
        moment = self._clock.monotonic()
        self._looks = {study: look for study, look in self._looks.items() if not look.is_old(moment)}
        batch = self._due()
        if batch and batch[0].study_instance_uid not in self._looks and self._looks_out < _MOST_LOOKS:
            self._looks[batch[0].study_instance_uid] = self._look_for(batch)

    def _deliver_batch(self, batch: Sequence[Instance], look: _Look) -> bool:
        began = self._clock.monotonic()
        try:
            found, _ = look.answer.result()
        except UnansweredError as error:
            if self.holder.kind is not HolderKind.ROUTE:
                raise
            self._deliver_unasked(batch, error)
            return True
        except HolderUnavailableError:
            raise
        except Exception as error:
            self._blame({instance.number for instance in self._claim(batch)}, error)
            raise
        proven = self._ledger.custody.find(self.holder.name, found, now=self._clock.now())
        rest = [instance for instance in batch if instance.number not in proven]
        if rest:
            self._show(LaneState.WORKING, f"sending {counted(len(rest), 'image')}")
            self._send(rest, looks_ahead=True)
        self._most = min(2 * self._most, self._policy.batch_instances)
        elapsed = self._clock.monotonic() - began
        self._show(LaneState.WORKING, "", rate=len(batch) / elapsed if elapsed > 0 else 0.0)
        return True

    def _deliver_unasked(self, batch: Sequence[Instance], error: UnansweredError) -> None:
        """Send owed instances to a destination that answers no question, at first one instance.

        It may get an instance twice, which is harmless: DICOM identifies an instance by its UID. Raises the
        error if it takes nothing: then its refusal of an instance may concern us and not the instance.
        """
        trial = not self._takes
        self._show(LaneState.WORKING, f"sending {counted(1 if trial else len(batch), 'image')}")
        self._takes = self._send(batch[:1] if trial else batch, trial=trial)
        if not self._takes:
            raise error
        self._most = min(2 * self._most, self._policy.batch_instances)
        # It took an instance without an answer: that does not show how it would answer for another study.
        self._asked = None

    def _send(self, batch: Sequence[Instance], *, trial: bool = False, looks_ahead: bool = False) -> bool:
        """Hand the instances over and return whether one was acknowledged.

        In a trial, an instance that is not taken is owed as before.
        """
        acknowledged = False
        claimed = self._claim(batch)
        unsent = {instance.number for instance in claimed}
        pending: list[Delivery] = []
        try:
            if looks_ahead:
                self._look_ahead()
            for delivery in self.holder.deliver(claimed):
                if trial and delivery.outcome in (Outcome.REFUSED, Outcome.RETRY):
                    continue
                acknowledged = acknowledged or delivery.outcome in _ACKNOWLEDGED
                pending.append(delivery)
                unsent.discard(delivery.number)
                if len(pending) >= self._policy.record_every:
                    self._record(pending)
                    pending = []
        except HolderUnavailableError:
            first = next((one for one in claimed if one.number in unsent), None)
            self._asked = None if first is None else _Asked(first.study_instance_uid, first.number)
            self._give_back(unsent)
            raise
        except Exception as error:
            self._blame(unsent, error)
            raise
        else:
            self._give_back(unsent)
        finally:
            if pending:
                self._record(pending)
        return acknowledged

    def _claim(self, batch: Sequence[Instance]) -> list[Instance]:
        numbers = [instance.number for instance in batch]
        claimed = self._ledger.custody.claim(
            self.holder.name,
            numbers,
            now=self._clock.now(),
            keeps_versions=self.holder.kind is HolderKind.VAULT,
        )
        if self._proving is not None:
            waiting = [one for one in self._proving.waiting if one.number not in claimed]
            self._proving = replace(self._proving, waiting=waiting)
        return [instance for instance in batch if instance.number in claimed]

    def _give_back(self, numbers: Set[InstanceNumber]) -> None:
        """Owe these as before the claim: they were not sent, and the reason is not in them."""
        if numbers:
            self._ledger.custody.give_back(self.holder.name, sorted(numbers), now=self._clock.now())

    def _blame(self, numbers: Set[InstanceNumber], error: Exception) -> None:
        """Owe these again after an unforeseen error; the loop that runs the lane reports the error."""
        self._most = max(1, min(self._most, len(numbers)) // 2)
        reason = f"the lane stopped on {type(error).__name__}: outcome unknown"
        self._record([Delivery(number, Outcome.UNKNOWN, reason) for number in sorted(numbers)])

    def _record(self, deliveries: Sequence[Delivery]) -> None:
        now = self._clock.now()
        self._ledger.custody.record(self.holder.name, deliveries, now=now, retry_at=self._retry_at)
        counts: dict[str, int] = {}
        for delivery in deliveries:
            counts[delivery.outcome.value] = counts.get(delivery.outcome.value, 0) + 1
        _log.info(
            "deliver holder=%s %s", self.holder.name, " ".join(f"{k}={v}" for k, v in sorted(counts.items()))
        )

    def _retry_at(self, attempt: int) -> Timestamp:
        return self._in(self._delay(attempt))

    def _in(self, seconds: float) -> Timestamp:
        return Timestamp(self._clock.now() + seconds)

    def _delay(self, attempt: int) -> float:
        return delay_before(
            attempt, base=self._policy.retry_base, cap=self._policy.retry_cap, fraction=self._fraction()
        )

    def _show(
        self, state: LaneState, reason: str, *, until: Timestamp | None = None, rate: float | None = None
    ) -> None:
        if self._failures and state is LaneState.WORKING:
            # Another try of a holder that is away does not end the alarm; only its result is shown.
            return
        with self._lock:
            before = self._view
            since = before.since if before.state is state else iso(self._clock.now())
            shown = before.rate if rate is None else rate
            self._view = LaneView(state, reason, since, None if until is None else iso(until), shown)
