"""The courier: one lane per holder that finds out first, delivers what is owed, and believes only a proof.

Rule 1: lanes share nothing but the ledger; one that waits delays no other.
Rule 2: whatever stops a lane in the middle of a batch, every instance of it gets an outcome or is given back;
where the process ends, its successor releases the claims. A lane alone claims for its holder, so that what it
finds in flight when it begins a step is what the ledger could not be told of.
Rule 3: a holder that is away is tried with one instance, by one lane, at growing intervals without an end.
Rule 4: where what comes first has no usable answer, something of another study is tried. If that goes, the
first is put off and delays no other; if not, the holder is away, and nothing is blamed or loses its turn.
Rule 5: a route's destination that answers no question is given one instance. Where it takes that, it gets
what it is owed, which stays unproven until it answers, and the lane says why; where not, it counts as away.
"""

import logging
import threading
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from understudy.adapters.ledger import Ledger
from understudy.core.model import (
    Delivery,
    HolderKind,
    Instance,
    InstanceNumber,
    Outcome,
    StudyInstanceUid,
    Timestamp,
)
from understudy.core.ports import Clock, Holder, HolderUnavailableError, Settlement, UnansweredError
from understudy.core.proving import Absence, judge_absence, pause_before_question
from understudy.core.retry import delay_before
from understudy.core.uids import shown
from understudy.core.views import LaneState, LaneView, iso

_log = logging.getLogger(__name__)

_COMPARES_EVERY = 4
"""Of so many failures in a row one is compared with another study, after the first so many: a holder that is
away is not asked twice as often."""
_MOST_SUSPECTS = 100
_LONG_AGO = Timestamp(0.0)
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
    """No shorter than any wait that is meant: one that is longer tells of a clock that was set back."""
    proof_patience: float = 60.0
    """How long an instance acknowledged for the first time may stay unlisted before it is owed again."""
    proof_interval: float = 1.0
    record_every: int = 16
    """Outcomes written in one transaction."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the holder was last asked about or given."""

    study: StudyInstanceUid
    unsent: InstanceNumber | None = None
    """The instance that it did not take, None where it was a question, which concerns the study."""


@dataclass(frozen=True, slots=True)
class _Unanswered:
    """How often in a row a destination had no answer to what it was asked, and until when it is not asked."""

    times: int = 0
    until: Timestamp = _LONG_AGO
    reason: str = ""


_Act: TypeAlias = Callable[[Set[StudyInstanceUid]], bool]
"""Does a batch of none of these studies and returns whether there was anything to do."""


class Lane:
    """Delivers to one holder; `step` does one batch, the agent's thread calls it for ever."""

    def __init__(
        self,
        holder: Holder,
        ledger: Ledger,
        clock: Clock,
        policy: LanePolicy,
        *,
        is_open: Callable[[], bool],
        fraction: Callable[[], float],
        in_window: Callable[[], bool] = lambda: True,
    ) -> None:
        self.holder = holder
        self._ledger = ledger
        self._clock = clock
        self._policy = policy
        self._is_open = is_open
        self._in_window = in_window
        self._fraction = fraction
        self._failures = 0
        self._most = policy.batch_instances
        """Instances of the next batch: halved after an unforeseen error, so that its cause ends up alone; one
        to try a holder that was away, and doubled with every batch that went well."""
        self._asked: _Asked | None = None
        self._suspects: set[StudyInstanceUid] = set()
        """Studies that had no answer since the holder last gave one."""
        self._lock = threading.Lock()
        self._view = LaneView(LaneState.IDLE, "", iso(clock.now()), None, 0.0)
        self._not_before = _LONG_AGO
        self._unanswered = _Unanswered()
        self._takes = False
        """Whether the destination, which answered no question, took something of what it was given last."""

    @property
    def view(self) -> LaneView:
        """What the lane does now."""
        with self._lock:
            return self._view

    def step(self) -> bool:
        """Ask for proofs and deliver one batch; return whether there was anything to do."""
        left = self._ledger.in_flight(self.holder.name)
        if left:
            reason = "what became of it could not be written down: outcome unknown"
            self._record([Delivery(number, Outcome.UNKNOWN, reason) for number in left])
        if not self._is_open():
            self._show(LaneState.PAUSED, "the mode keeps it still")
            return False
        if not self._in_window():
            self._show(LaneState.PAUSED, "it is outside its send window")
            return False
        # Further ahead than any wait: the clock was set back.
        if 0 < self._not_before - self._clock.now() <= self._policy.retry_cap:
            return False
        try:
            worked = self._ask_for_proofs()
            worked = self._fairly(self._deliver, self._deliver) or worked
        except HolderUnavailableError as error:
            self._failures += 1
            wait = self._delay(self._failures)
            self._not_before = Timestamp(self._clock.now() + wait)
            self._show(LaneState.WAITING, f"{error.reason}; {error.hint}", until=self._not_before)
            _log.warning("lane wait holder=%s seconds=%.1f because=%s", self.holder.name, wait, error.reason)
            return False
        self._failures = 0
        self._suspects.clear()
        if not worked and self._unanswered.times:
            self._show(LaneState.WAITING, self._unanswered.reason, until=self._unanswered.until)
        elif not worked:
            self._show(LaneState.IDLE, "")
        return worked

    def _ask_for_proofs(self) -> bool:
        """Ask for proofs, of a route's destination that answers no question at growing intervals."""
        if 0 < self._unanswered.until - self._clock.now() <= self._policy.retry_cap:
            return False
        try:
            worked = self._fairly(self._prove, self._prove, self._deliver)
        except UnansweredError as error:
            if self.holder.kind is not HolderKind.ROUTE:
                raise
            times = self._unanswered.times + 1
            wait = self._delay(times)
            reason = f"what it acknowledges cannot be proven: {error.reason}; {error.hint}"
            self._unanswered = _Unanswered(times, Timestamp(self._clock.now() + wait), reason)
            _log.warning(
                "lane unproven holder=%s seconds=%.1f because=%s", self.holder.name, wait, error.reason
            )
            return False
        self._unanswered = _Unanswered()
        return worked

    def _fairly(self, act: _Act, *others: _Act) -> bool:
        """Act on what comes first, or put that off where the holder has no usable answer for it alone.

        `others` are what shows on another study that the holder is there. Raises HolderUnavailableError where
        it is not, or where there is nothing to compare with.
        """
        try:
            return act(frozenset())
        except HolderUnavailableError as error:
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
        """Try later what has no usable answer while the holder has one for others."""
        name = self.holder.name
        numbers = [what.unsent] if what.unsent is not None else list(self._ledger.states_of(name, what.study))
        reason = f"{error.reason}; {error.hint}"
        self._ledger.put_off(name, numbers, reason=reason, retry_at=self._retry_at)
        _log.warning("lane put off holder=%s study=%s because=%s", name, shown(what.study), error.reason)

    def _prove(self, besides: Set[StudyInstanceUid]) -> bool:
        now = self._clock.now()
        waiting = self._ledger.sent(
            self.holder.name,
            now=now,
            limit=self._policy.batch_instances,
            longest=self._policy.longest_wait,
            besides=besides,
        )
        self._asked = _Asked(waiting[0].study_instance_uid) if waiting else None
        if waiting and not self._unanswered.times:
            self._show(LaneState.WORKING, f"asking for {len(waiting)} proofs")
        answers = self.holder.prove(waiting)
        now = self._clock.now()
        settled = sum(self._settle(settlement, now) for settlement in answers.settlements)
        if answers.found:
            self._ledger.prove(self.holder.name, answers.found, now=now)
        if answers.denied:
            self._ledger.despair(self.holder.name, answers.denied, now=now)
        asked = {instance.number for instance in waiting} - answers.found.keys() - answers.denied.keys()
        self._miss(sorted(asked & answers.pending), now, lambda _waited, _losses: Absence.LATE)
        judge = partial(judge_absence, patience=self._policy.proof_patience)
        self._miss(sorted(asked - answers.pending), now, judge)
        return bool(answers.found or settled)

    def _settle(self, settlement: Settlement, now: Timestamp) -> int:
        settled = self._ledger.settle_commitment(
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
        policy = self._policy
        taken_for = self._ledger.absent(
            self.holder.name,
            absent,
            now=now,
            judge=judge,
            ask_again=lambda waited: Timestamp(
                now + pause_before_question(waited, interval=policy.proof_interval)
            ),
            retry_at=self._retry_at,
        )
        lost, unprovable = taken_for.get(Absence.LOST, 0), taken_for.get(Absence.UNPROVABLE, 0)
        if lost or unprovable:
            _log.warning("prove holder=%s lost=%d unprovable=%d", self.holder.name, lost, unprovable)

    def _deliver(self, besides: Set[StudyInstanceUid]) -> bool:
        policy = self._policy
        batch = self._ledger.due(
            self.holder.name,
            now=self._clock.now(),
            limit=self._most,
            max_bytes=policy.batch_bytes,
            linger=policy.linger,
            longest=policy.longest_wait,
            besides=besides,
        )
        self._asked = _Asked(batch[0].study_instance_uid) if batch else None
        if not batch:
            return False
        began = self._clock.now()
        try:
            rest = self._find(batch)
        except UnansweredError as error:
            if self.holder.kind is not HolderKind.ROUTE:
                raise
            self._deliver_unasked(batch, error)
            return True
        if rest:
            self._show(LaneState.WORKING, f"sending {len(rest)} instances")
            self._send(rest)
        self._most = min(2 * self._most, policy.batch_instances)
        elapsed = self._clock.now() - began
        self._show(LaneState.WORKING, "", rate=len(batch) / elapsed if elapsed > 0 else 0.0)
        return True

    def _deliver_unasked(self, batch: Sequence[Instance], error: UnansweredError) -> None:
        """Give a destination that answers no question what it is owed, at first one instance.

        What it has already it gets twice: DICOM knows an instance by its UID. Raises the error where it takes
        nothing: then what it says of an instance may be meant for us.
        """
        trial = not self._takes
        self._show(LaneState.WORKING, f"sending {1 if trial else len(batch)} instances")
        self._takes = self._send(batch[:1] if trial else batch, trial=trial)
        if not self._takes:
            raise error
        self._most = min(2 * self._most, self._policy.batch_instances)
        # It took something, and answered nothing: that shows nothing of what it would say of another study.
        self._asked = None

    def _find(self, batch: Sequence[Instance]) -> list[Instance]:
        """Find out what the holder has already and return the rest."""
        self._show(LaneState.WORKING, f"looking for {len(batch)} instances there")
        try:
            found = self.holder.find(batch)
        except HolderUnavailableError:
            raise
        except Exception as error:
            self._blame({instance.number for instance in self._claim(batch)}, error)
            raise
        proven = self._ledger.find(self.holder.name, found, now=self._clock.now())
        return [instance for instance in batch if instance.number not in proven]

    def _send(self, batch: Sequence[Instance], *, trial: bool = False) -> bool:
        """Hand the instances over and return whether one was acknowledged.

        In a trial what is not taken is owed as before.
        """
        acknowledged = False
        claimed = self._claim(batch)
        unsent = {instance.number for instance in claimed}
        pending: list[Delivery] = []
        try:
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
        claimed = self._ledger.claim(
            self.holder.name,
            numbers,
            now=self._clock.now(),
            keeps_versions=self.holder.kind is HolderKind.VAULT,
        )
        return [instance for instance in batch if instance.number in claimed]

    def _give_back(self, numbers: Set[InstanceNumber]) -> None:
        """Owe these as before the claim: they were not sent, and not for a fault of theirs."""
        if numbers:
            self._ledger.give_back(self.holder.name, sorted(numbers), now=self._clock.now())

    def _blame(self, numbers: Set[InstanceNumber], error: Exception) -> None:
        """Owe these again after an error that nobody foresaw; who runs the lane tells of the error."""
        self._most = max(1, min(self._most, len(numbers)) // 2)
        reason = f"the lane stopped on {type(error).__name__}: outcome unknown"
        self._record([Delivery(number, Outcome.UNKNOWN, reason) for number in sorted(numbers)])

    def _record(self, deliveries: Sequence[Delivery]) -> None:
        now = self._clock.now()
        self._ledger.record(self.holder.name, deliveries, now=now, retry_at=self._retry_at)
        counts: dict[str, int] = {}
        for delivery in deliveries:
            counts[delivery.outcome.value] = counts.get(delivery.outcome.value, 0) + 1
        _log.info(
            "deliver holder=%s %s", self.holder.name, " ".join(f"{k}={v}" for k, v in sorted(counts.items()))
        )

    def _retry_at(self, attempt: int) -> Timestamp:
        return Timestamp(self._clock.now() + self._delay(attempt))

    def _delay(self, attempt: int) -> float:
        return delay_before(
            attempt, base=self._policy.retry_base, cap=self._policy.retry_cap, fraction=self._fraction()
        )

    def _show(
        self, state: LaneState, reason: str, *, until: Timestamp | None = None, rate: float | None = None
    ) -> None:
        if self._failures and state is LaneState.WORKING:
            # One more try of a holder that is away ends no alarm: how it ends is shown.
            return
        with self._lock:
            before = self._view
            since = before.since if before.state is state else iso(self._clock.now())
            shown = before.rate if rate is None else rate
            self._view = LaneView(state, reason, since, None if until is None else iso(until), shown)
