"""Custody: the changes of an obligation from its claim to its proof."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    exists,
    false,
    func,
    select,
    update,
)

from understudy.core.deliveries import Step, step_after
from understudy.core.model import Delivery, HolderName, InstanceNumber, Outcome, Proof, ProofKind, Timestamp
from understudy.core.modes import Mode
from understudy.core.obligations import ObligationEvent, ObligationState
from understudy.core.proving import Absence
from understudy.core.refusals import replaced
from understudy.ledger.counts import tallies
from understudy.ledger.database import Book
from understudy.ledger.events import append_event
from understudy.ledger.facts import count_up
from understudy.ledger.modes import current_mode
from understudy.ledger.obligations import altered_fact
from understudy.ledger.schema import instances, obligations, proofs
from understudy.ledger.transitions import (
    SYSTEM,
    able,
    advance,
    chunks,
    differ,
    disprove,
    give_up,
    lose,
    prove,
)


class CustodyBook(Book):
    """The obligations of the ledger and their proofs."""

    def claim(
        self,
        holder: HolderName,
        numbers: Sequence[InstanceNumber],
        *,
        now: Timestamp,
        keeps_versions: bool = False,
    ) -> list[InstanceNumber]:
        """Put owed obligations in flight and return which.

        Obligations that are no longer owed stay as they are: after the lane read what is due, the mirror may
        have found an instance or a person may have waived one. A holder that keeps only the last content of
        an instance gets no replaced version, because that would overwrite the present one.
        """
        with self._database.writing() as connection:
            owed = able(connection, ObligationEvent.CLAIM, holder, numbers)
            if not keeps_versions:
                owed = _without_replaced(connection, holder, owed, now)
            advance(connection, ObligationEvent.CLAIM, holder, owed, now)
            return owed

    def give_back(self, holder: HolderName, numbers: Sequence[InstanceNumber], *, now: Timestamp) -> None:
        """Return claims that were not sent to owed, as they were before the claim."""
        with self._database.writing() as connection:
            advance(connection, ObligationEvent.RELEASE, holder, numbers, now)

    def put_off(
        self,
        holder: HolderName,
        numbers: Sequence[InstanceNumber],
        *,
        reason: str,
        retry_at: Callable[[int], Timestamp],
    ) -> None:
        """Delay owed and acknowledged instances, all until the same moment.

        All of them get one failure more than the highest count among them, and that gives the moment by
        `retry_at`. An acknowledged instance keeps its reason, which may tell of an alteration.
        """
        with self._database.writing() as connection:
            failures = max(_attempts(connection, holder, numbers).values(), default=0) + 1
            values = {"due": retry_at(failures), "attempts": failures}
            for chunk in chunks(numbers):
                mine = and_(obligations.c.holder == holder, obligations.c.instance.in_(chunk))
                owed = obligations.c.state == ObligationState.OWED.value
                sent = obligations.c.state == ObligationState.SENT.value
                connection.execute(update(obligations).where(mine, owed).values(reason=reason, **values))
                connection.execute(update(obligations).where(mine, sent).values(**values))

    def record(
        self,
        holder: HolderName,
        deliveries: Iterable[Delivery],
        *,
        now: Timestamp,
        retry_at: Callable[[int], Timestamp],
    ) -> None:
        """Record the outcome of instances in flight. `retry_at` takes the failures so far."""
        told = list(deliveries)
        with self._database.writing() as connection:
            for step, numbers in _steps(connection, holder, told, now, retry_at).items():
                advance(connection, step.event, holder, numbers, now, due=step.due, reason=step.reason)
                if step.event is ObligationEvent.REFUSE:
                    for number in numbers:
                        fields = {"holder": holder, "instance": number, "reason": step.reason}
                        append_event(connection, now, SYSTEM, "refuse", fields)
            altered = sum(one.outcome is Outcome.DELIVERED_ALTERED for one in told)
            if altered:
                count_up(connection, altered_fact(holder), altered)
            proven = {one.number: one.proof for one in told if one.proof is not None}
            prove(connection, ObligationEvent.PROVE, holder, proven, now)

    def release(self, *, now: Timestamp) -> int:
        """Return all claims to owed, because the process that made them has ended; return how many."""
        reason = "the appliance stopped in the middle of sending: outcome unknown"
        released = 0
        with self._database.writing() as connection:
            for holder in connection.scalars(select(tallies.c.holder).distinct()).all():
                claimed = select(obligations.c.instance).where(
                    obligations.c.holder == holder, obligations.c.state == ObligationState.IN_FLIGHT.value
                )
                numbers = connection.scalars(claimed).all()
                advance(
                    connection, ObligationEvent.FAIL, HolderName(holder), numbers, now, due=now, reason=reason
                )
                released += len(numbers)
        return released

    def absent(
        self,
        holder: HolderName,
        numbers: Sequence[InstanceNumber],
        *,
        now: Timestamp,
        judge: Callable[[float, int], Absence],
        ask_again: Callable[[float], Timestamp],
        retry_at: Callable[[int], Timestamp],
    ) -> Mapping[Absence, int]:
        """Record that the holder does not list acknowledged instances; return how many were judged how.

        `judge` takes the seconds since the acknowledgement, and how many earlier acknowledgements of the
        instance were lost. `ask_again` takes the seconds since the latest acknowledgement of all, `retry_at`
        the failures so far.
        """
        with self._database.writing() as connection:
            mine = and_(obligations.c.holder == holder, obligations.c.instance.in_(numbers))
            sent = and_(mine, obligations.c.state == ObligationState.SENT.value)
            acknowledged = connection.execute(select(obligations).where(sent)).all()
            if not acknowledged:
                return {}
            judged: dict[Absence, list[Any]] = {one: [] for one in Absence}
            for row in acknowledged:
                judged[judge(now - row.changed, row.losses)].append(row)
            youngest = min(now - row.changed for row in acknowledged)
            # An acknowledgement in the future: the clock was set back, so the patience begins again.
            values = {"due": ask_again(youngest), "changed": func.min(obligations.c.changed, now)}
            connection.execute(update(obligations).where(sent).values(values))
            reason = "the holder acknowledged it and does not have it"
            lose(connection, holder, judged[Absence.LOST], reason=reason, now=now, retry_at=retry_at)
            why = "never listed there"
            give_up(connection, holder, judged[Absence.UNPROVABLE], why=why, now=now)
            return {absence: len(rows) for absence, rows in judged.items()}

    def give_up(self, holder: HolderName, denied: Mapping[InstanceNumber, str], *, now: Timestamp) -> None:
        """Make dead letters of acknowledged instances that no further copy could prove.

        `denied` has the reasons. An instance that was replaced meanwhile is waived, because the holder has
        the later version.
        """
        with self._database.writing() as connection:
            hopeless = able(connection, ObligationEvent.GIVE_UP, holder, list(denied))
            for number in hopeless:
                mine = (obligations.c.holder == holder, obligations.c.instance == number)
                rows = connection.execute(select(obligations).where(*mine)).all()
                give_up(connection, holder, rows, why=denied[number], now=now)
            _without_replaced(connection, holder, hopeless, now)

    def prove(self, holder: HolderName, found: Mapping[InstanceNumber, Proof], *, now: Timestamp) -> int:
        """Record proofs for acknowledged instances and return for how many.

        Instances that are no longer acknowledged stay as they are: they changed before the answer came.
        """
        with self._database.writing() as connection:
            waiting = able(connection, ObligationEvent.PROVE, holder, list(found))
            prove(connection, ObligationEvent.PROVE, holder, {one: found[one] for one in waiting}, now)
            return len(waiting)

    def find(
        self, holder: HolderName, found: Mapping[InstanceNumber, Proof], *, now: Timestamp
    ) -> set[InstanceNumber]:
        """Record proofs for owed instances that the holder already has, and return which.

        Instances that are no longer owed stay as they are: the lane and the mirror ask at the same time. An
        inventory names a SOP Instance UID and cannot tell two contents apart. So it proves nothing if there
        is another content under that UID, and the instance has to be sent.
        """
        with self._database.writing() as connection:
            owed = able(connection, ObligationEvent.FIND, holder, list(found))
            replacing = _ambiguous(connection, holder, owed)
            believed = {
                number: found[number]
                for number in owed
                if number not in replacing or found[number].kind is not ProofKind.INVENTORY
            }
            prove(connection, ObligationEvent.FIND, holder, believed, now)
            return set(believed)

    def ambiguous(self, holder: HolderName, numbers: Sequence[InstanceNumber]) -> set[InstanceNumber]:
        """Return the instances whose UID has another content too, which the holder may have instead."""
        with self._database.reading() as connection:
            return _ambiguous(connection, holder, numbers)

    def disprove(
        self,
        holder: HolderName,
        numbers: Sequence[InstanceNumber],
        *,
        reason: str,
        now: Timestamp,
        due: Timestamp,
    ) -> int:
        """Owe again acknowledged or proven instances that the holder does not have, with an event.

        Instances in any other state stay as they are. Returns how many are owed again.
        """
        if not numbers:
            return 0
        with self._database.writing() as connection:
            lost = able(connection, ObligationEvent.DISPROVE, holder, numbers)
            if lost:
                disprove(connection, holder, lost, reason=reason, now=now, due=due)
            return len(lost)

    def differ(
        self, holder: HolderName, numbers: Sequence[InstanceNumber], *, why: str, now: Timestamp
    ) -> int:
        """Make dead letters of proven instances of which the holder gives back another content now.

        Instances in any other state stay as they are, and one that was replaced meanwhile is waived. Returns
        how many were proven.
        """
        if not numbers:
            return 0
        with self._database.writing() as connection:
            believed = able(connection, ObligationEvent.DIFFER, holder, numbers)
            differ(connection, holder, believed, why=why, now=now)
            _without_replaced(connection, holder, believed, now)
            return len(believed)


def _steps(
    connection: Connection,
    holder: HolderName,
    deliveries: Sequence[Delivery],
    now: Timestamp,
    retry_at: Callable[[int], Timestamp],
) -> Mapping[Step, list[InstanceNumber]]:
    """Return the steps that follow from the outcomes, each with its instances."""
    # If its UID has another content, the holder has that one: no proof can settle the obligation.
    conflicts = [one.number for one in deliveries if one.outcome is Outcome.CONFLICT]
    # A replaced version needs no operator: the lane gives it up after reading it back.
    refused = _ambiguous(connection, holder, conflicts, beside_later=False)
    failures = _attempts(connection, holder, [one.number for one in deliveries])
    # Cached, because each call may return another moment: equal numbers of failures make one step.
    again = cache(retry_at)
    steps: dict[Step, list[InstanceNumber]] = {}
    for one in deliveries:
        step = step_after(
            one,
            held_otherwise=one.number in refused,
            failures=failures.get(one.number, 0),
            now=now,
            retry_at=again,
        )
        steps.setdefault(step, []).append(one.number)
    return steps


def _attempts(
    connection: Connection, holder: HolderName, numbers: Sequence[InstanceNumber]
) -> Mapping[InstanceNumber, int]:
    """Return the failures so far of each instance that has any."""
    found: dict[InstanceNumber, int] = {}
    for chunk in chunks(numbers):
        rows = connection.execute(_ATTEMPTS, {"holder": holder, "numbers": chunk})
        found |= {InstanceNumber(row.instance): row.attempts for row in rows}
    return found


def _without_replaced(
    connection: Connection, holder: HolderName, numbers: Sequence[InstanceNumber], now: Timestamp
) -> list[InstanceNumber]:
    """Give up owed or refused instances whose content was replaced, and return the others."""
    later: dict[InstanceNumber, int] = {}
    for chunk in chunks(numbers):
        rows = connection.execute(_REPLACED, {"numbers": chunk})
        later |= {InstanceNumber(row.number): row.superseded_by for row in rows}
    for number, successor in later.items():
        advance(connection, ObligationEvent.WAIVE, holder, [number], now, reason=replaced(successor))
    return [number for number in numbers if number not in later]


def _ambiguous(
    connection: Connection,
    holder: HolderName,
    numbers: Sequence[InstanceNumber],
    *,
    beside_later: bool = True,
) -> set[InstanceNumber]:
    """Return the instances that have another content under their SOP Instance UID.

    The other content is an earlier one that they replaced, a later one that replaced them (with
    `beside_later`), or one that Orthanc keeps apart because it names another patient. Outside an outage, a
    content that the holder itself had sent does not count: the holder may coerce what a device sends to both,
    or a person may have corrected it there, and content that came here late must not overwrite that. An
    instance that is owed when an outage is declared may have arrived in the outage's first minutes, before
    anybody noticed, so during an outage every other content counts.
    """
    no_outage = current_mode(connection).mode not in (Mode.ACTIVE, Mode.RETURNING)
    queries = _OF_OTHERS if no_outage else _OF_ANY
    found: set[InstanceNumber] = set()
    for chunk in chunks(numbers):
        for query in queries if beside_later else queries[:2]:
            asked = {"holder": holder, "numbers": chunk} if no_outage else {"numbers": chunk}
            found |= {InstanceNumber(number) for number in connection.scalars(query, asked)}
    return found


def _with_another(its_own: ColumnElement[bool]) -> Sequence[Select[Any]]:
    """Return queries for instances that have another content under their UID, unless `its_own` is true of it.

    In turn, the other content is an earlier one, one that Orthanc keeps apart, or a later one.
    """
    replaced = and_(
        # All versions of an instance have one identifier, which has an index.
        _OTHER.c.orthanc_id == instances.c.orthanc_id,
        _OTHER.c.superseded_by == instances.c.number,
    )
    beside = and_(
        _OTHER.c.sop_instance_uid == instances.c.sop_instance_uid,
        _OTHER.c.study_instance_uid == instances.c.study_instance_uid,
        _OTHER.c.orthanc_id != instances.c.orthanc_id,
    )
    replacing = _OTHER.c.number == instances.c.superseded_by
    return [
        select(instances.c.number)
        .join_from(instances, _OTHER, condition)
        .where(instances.c.number.in_(bindparam("numbers", expanding=True)), ~its_own)
        for condition in (replaced, beside, replacing)
    ]


# Built once: SQLAlchemy takes longer to build a statement than SQLite to answer it.
_OTHER = instances.alias("other")
_RECEIVED = exists().where(
    proofs.c.instance == _OTHER.c.number,
    proofs.c.holder == bindparam("holder"),
    proofs.c.kind == ProofKind.RECEIVED.value,
)
_OF_OTHERS, _OF_ANY = _with_another(_RECEIVED), _with_another(false())
_ATTEMPTS = select(obligations.c.instance, obligations.c.attempts).where(
    obligations.c.holder == bindparam("holder"),
    obligations.c.instance.in_(bindparam("numbers", expanding=True)),
    obligations.c.attempts > 0,
)
_REPLACED = select(instances.c.number, instances.c.superseded_by).where(
    instances.c.number.in_(bindparam("numbers", expanding=True)), instances.c.superseded_by.is_not(None)
)
