"""Commitment: asks a DICOM party for storage commitment, and trusts only its reports (DICOM PS3.4 annex J).

"The weaker way" is a question by C-FIND or QIDO-RS.

Rule 1: a transaction is in the ledger before the request leaves, so that its report has an effect whenever it
comes: over the same association, over another one, after a restart.
Rule 2: silence is no proof. Instances that are not reported on in time are asked for in the weaker way.
Rule 3: no caller waits for the answer to a request, nor for a report. Instances over the limit of open
requests are asked for in the weaker way, so that they do not pile up if a party is slow or silent.
Rule 4: unless the site decides, commitment is relied on after the first report, and only while reports come.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from understudy.core.commitment import MOST_REFERENCES, CommitmentReport, denial, is_committed, words_of
from understudy.core.model import HolderName, Instance, InstanceNumber, Proof, ProofKind
from understudy.core.ports import (
    Answers,
    Clock,
    CommitmentRefusedError,
    CommitmentReports,
    Committer,
    HolderUnavailableError,
    OpenCommitment,
    OrthancUnavailableError,
    Settlement,
)
from understudy.core.proving import pause_before_look
from understudy.core.views import ProofView
from understudy.engine.beside import Beside
from understudy.ledger import CommitmentBook

_log = logging.getLogger(__name__)

_EXPIRES = 86_400.0
"""Seconds after which a transaction without a report is forgotten."""

_MOST_REQUESTS = 2
"""Requests under way at a time; each may keep its association open for its report."""
_MOST_LINGERS = 3
"""Associations that stay open for a report without getting one; later ones are released at once."""
_MOST_AWAITED = 10
"""Transactions, the newest ones, whose reports are awaited for `patience` seconds: 2,000 instances."""
_MOST_OPEN = 100
"""With this number of transactions without a report, no further one is begun."""

_REFUSED = 10.0
"""Seconds without a new request after a refusal; the refused instances are proven in the weaker way."""

Weaker = Callable[[Sequence[Instance]], Mapping[InstanceNumber, Proof]]
"""Asks for the proof that counts if there is no commitment."""


@dataclass(frozen=True, slots=True)
class CommitmentPolicy:
    """When commitment is asked for, and how long a report is awaited; all times in seconds."""

    always: bool
    """Whether the site wants every instance asked for by commitment, even after failed requests."""
    patience: float
    """Time until an instance without a report is asked for in the weaker way."""
    linger: float = 2.0
    """Time that an association stays open for its report; not used once one came over another association."""
    try_again: float = 3600.0
    """Time until a party that refused or was silent is tried again."""
    interval: float = 1.0
    """Shortest time between two looks for a report."""


class Commitment:
    """Storage commitment by one party."""

    def __init__(
        self,
        peer: Committer,
        reports: CommitmentReports,
        book: CommitmentBook,
        clock: Clock,
        policy: CommitmentPolicy,
        *,
        new_uid: Callable[[], str],
        beside: Beside | None = None,
    ) -> None:
        self._holder = HolderName(peer.name)
        self._peer = peer
        self._reports = reports
        self._book = book
        self._clock = clock
        self._policy = policy
        self._new_uid = new_uid
        self._beside = beside or Beside(clock, in_turn=True)
        self._requests: dict[str, Future[CommitmentReport | None]] = {}
        """Requests under way, by transaction."""
        self._works = False
        self._reason = "storage commitment has not been tried yet"
        self._tried = -math.inf
        self._refused = -math.inf
        """When the party last refused a request. This and the other moments are of the monotonic clock."""
        self._reported_here: dict[str, CommitmentReport] = {}
        """Reports that came over the association of their request."""
        self._elsewhere = False
        """Whether reports come over other associations."""
        self._in_vain = 0
        """Number of requests over whose association no report came."""
        self._looked: dict[str, float] = {}
        self._overdue: set[str] = set()
        """Transactions without a report within the patience."""

    @property
    def view(self) -> ProofView:
        """The kind of proof that acknowledged instances get now, and why."""
        if self._works:
            return ProofView(ProofKind.COMMITMENT, "it reports on storage commitment")
        if self._policy.always:
            return ProofView(ProofKind.COMMITMENT, f"as configured; {self._reason}")
        return ProofView(ProofKind.INVENTORY, self._reason)

    def prove(self, instances: Sequence[Instance], weaker: Weaker) -> Answers:
        """Ask for commitment if it is relied on or due to be tried; see which reports came."""
        self._hear()
        known = self._book.open(self._holder)
        settlements = self._collect(known)
        waiting = _without(instances, settlements)
        if waiting and (self._relied_on or self._is_due):
            asked = {number for one in known for number in one.members}
            fresh = [instance for instance in waiting if instance.number not in asked]
            self._ask(fresh, most=_MOST_OPEN - len(known))
            seen = {one.transaction_uid for one in known}
            present = self._book.open(self._holder)
            settlements += self._collect([one for one in present if one.transaction_uid not in seen])
            waiting = _without(waiting, settlements)
        pending = self._pending(settlements) if waiting and self._relied_on else frozenset()
        rest = [instance for instance in waiting if instance.number not in pending]
        try:
            return Answers(weaker(rest), pending, settlements)
        except HolderUnavailableError:
            if not settlements:
                raise
            # A report comes once, and counts at once; the others are asked for at the next call.
            return Answers({}, pending | {instance.number for instance in rest}, settlements)

    @property
    def _relied_on(self) -> bool:
        return self._policy.always or self._works

    @property
    def _lingers(self) -> bool:
        """Whether an association stays open for its report; it is then not free for sending."""
        return not self._elsewhere and self._in_vain < _MOST_LINGERS

    @property
    def _is_due(self) -> bool:
        """Whether the party is due to be tried."""
        return self._clock.monotonic() - self._tried >= self._policy.try_again

    def _pending(self, settled: Sequence[Settlement]) -> frozenset[InstanceNumber]:
        """Return the instances for which a report is still awaited."""
        ended = {settlement.transaction_uid for settlement in settled}
        return frozenset(
            number
            for one in self._book.open(self._holder)[-_MOST_AWAITED:]
            if one.transaction_uid not in ended and not self._is_overdue(one)
            for number in one.members
        )

    def _ask(self, instances: Sequence[Instance], *, most: int) -> None:
        """Ask in at most `most` transactions of bounded size, until one is refused."""
        moment = self._clock.monotonic()
        if moment - self._refused < _REFUSED:
            return
        self._tried = moment
        for start in range(0, len(instances), MOST_REFERENCES)[: max(0, most)]:
            if len(self._requests) >= _MOST_REQUESTS:
                return
            part = instances[start : start + MOST_REFERENCES]
            uid = self._new_uid()
            self._book.begin(self._holder, uid, [one.number for one in part], self._clock.now())
            references = [(instance.sop_class_uid, instance.sop_instance_uid) for instance in part]
            linger = self._policy.linger if self._lingers else 0.0
            request = self._beside(partial(self._peer.commit, uid, references, linger))
            self._requests[uid] = request
            request.add_done_callback(lambda _done: self._beside.wake())
            if not self._hear():
                return

    def _hear(self) -> bool:
        """Take the results of the ended requests, and return whether the party accepted all of them.

        `view` gives the reason of a refusal.
        """
        all_taken = True
        for transaction_uid, request in list(self._requests.items()):
            if not request.done():
                continue
            del self._requests[transaction_uid]
            try:
                report = request.result()
            except CommitmentRefusedError as error:
                all_taken = False
                self._refused = self._clock.monotonic()
                self._book.end(transaction_uid)
                self._fail(f"no storage commitment: {error}")
            except HolderUnavailableError as error:
                all_taken = False
                # The party may have accepted the request: a report of this transaction counts if it comes. A
                # party that has reported before is most likely away for a moment.
                if not self._works:
                    self._fail(f"no answer to a request for storage commitment: {error.reason}")
            else:
                if report is not None:
                    # The report may be of an earlier transaction.
                    self._reported_here[report.transaction_uid] = report
                    continue
                self._in_vain += 1
                if not self._works:
                    self._reason = "storage commitment is being tried"
        return all_taken

    def _collect(self, transactions: Sequence[OpenCommitment]) -> list[Settlement]:
        """Return the settlements of the reports that have arrived; end transactions that waited too long."""
        settlements: list[Settlement] = []
        for one in transactions:
            report = self._report_on(one)
            if report is not None:
                settlements.append(self._settlement(one, report))
            elif self._clock.has_waited(one.requested, _EXPIRES) or not one.members:
                self._forget(one.transaction_uid)
                self._book.end(one.transaction_uid)
            elif self._is_overdue(one) and one.transaction_uid not in self._overdue:
                self._overdue.add(one.transaction_uid)
                self._fail(f"no report within {self._policy.patience:g} s")
        return settlements

    def _is_overdue(self, transaction: OpenCommitment) -> bool:
        return self._clock.has_waited(transaction.requested, self._policy.patience)

    def _report_on(self, transaction: OpenCommitment) -> CommitmentReport | None:
        uid = transaction.transaction_uid
        if uid in self._reported_here:
            return self._reported_here[uid]
        waited, moment = self._clock.waited(transaction.requested), self._clock.monotonic()
        pause = pause_before_look(waited, interval=self._policy.interval)
        if min(waited, moment - self._looked.get(uid, -math.inf)) < pause:
            return None
        self._looked[uid] = moment
        try:
            report = self._reports.commitment_report(uid)
        except OrthancUnavailableError as error:
            _log.warning("commit holder=%s report unknown because=%s", self._holder, error)
            return None
        self._elsewhere = self._elsewhere or report is not None
        return report

    def _settlement(self, transaction: OpenCommitment, report: CommitmentReport) -> Settlement:
        """Return the settlement of the report, and note whether commitment works."""
        self._forget(transaction.transaction_uid)
        proof = Proof(
            ProofKind.COMMITMENT,
            self._clock.now(),
            {
                "peer": self._peer.ae_title,
                "transaction": transaction.transaction_uid,
                "reported_by": report.reported_by,
            },
        )
        members = transaction.members.items()
        committed = {number: proof for number, uid in members if is_committed(report, uid)}
        denied = {number: why for number, uid in members if (why := denial(report, uid)) is not None}
        if committed:
            self._works = True
        elif not self._relied_on:
            # The party commits to nothing at all: the cause is its settings, not the instances.
            reasons = sorted({words_of(reason) for reason in report.failed.values()})
            self._fail(f"it commits to nothing: {', '.join(reasons) or 'its report is empty'}")
            denied = {}
        return Settlement(transaction.transaction_uid, committed, denied)

    def _forget(self, transaction_uid: str) -> None:
        self._reported_here.pop(transaction_uid, None)
        self._looked.pop(transaction_uid, None)
        self._overdue.discard(transaction_uid)

    def _fail(self, reason: str) -> None:
        self._works = False
        self._reason = reason
        _log.info("commit holder=%s works=no because=%s", self._holder, reason)


def _without(instances: Sequence[Instance], settlements: Sequence[Settlement]) -> list[Instance]:
    """Return the instances that no report names."""
    settled = {number for one in settlements for number in (*one.committed, *one.denied)}
    return [instance for instance in instances if instance.number not in settled]
