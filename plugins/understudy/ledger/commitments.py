"""Storage commitment in the ledger: the open transactions of a holder, and the effects of its reports.

Rule 1: a transaction is in the file before the holder is asked.
Rule 2: one transaction of the ledger records all that a report proves and denies, and ends its request.
"""

from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import Connection, bindparam, delete, insert, select

from understudy.core.model import HolderName, InstanceNumber, SopInstanceUid, Timestamp
from understudy.core.obligations import ObligationEvent, ObligationState
from understudy.core.ports import OpenCommitment, Settlement
from understudy.core.proving import Absence, judge_denial
from understudy.ledger.database import Book
from understudy.ledger.schema import (
    commitment_members,
    commitments,
    instances,
    obligations,
)
from understudy.ledger.transitions import able, chunks, disprove, give_up, lose, prove, write_proof

_OPEN = (
    select(commitments.c.transaction_uid, commitments.c.requested)
    .where(commitments.c.holder == bindparam("holder"))
    .order_by(commitments.c.requested)
)
_MEMBERS = (
    select(commitment_members.c.instance, instances.c.sop_instance_uid)
    .join_from(commitment_members, instances, commitment_members.c.instance == instances.c.number)
    .where(commitment_members.c.transaction_uid == bindparam("transaction"))
)


class CommitmentBook(Book):
    """The transactions of storage commitment, and the effects of a report."""

    def begin(
        self, holder: HolderName, transaction_uid: str, numbers: Sequence[InstanceNumber], now: Timestamp
    ) -> None:
        """Record durably that the holder is about to be asked."""
        with self._database.writing() as connection:
            values = {"transaction_uid": transaction_uid, "holder": holder, "requested": now}
            connection.execute(insert(commitments).values(values))
            members = [{"instance": number, "transaction_uid": transaction_uid} for number in numbers]
            connection.execute(insert(commitment_members), members)

    def open(self, holder: HolderName) -> list[OpenCommitment]:
        """Return the holder's transactions without a report, the oldest first."""
        with self._database.reading() as connection:
            return [
                OpenCommitment(row.transaction_uid, row.requested, _members(connection, row.transaction_uid))
                for row in connection.execute(_OPEN, {"holder": holder}).all()
            ]

    def end(self, transaction_uid: str) -> None:
        """Forget a transaction that will have no report."""
        with self._database.writing() as connection:
            _end(connection, transaction_uid)

    def settle(
        self,
        holder: HolderName,
        settlement: Settlement,
        *,
        now: Timestamp,
        retry_at: Callable[[int], Timestamp],
    ) -> int:
        """Apply a report once; return how many instances of its transaction it names.

        An instance that the report commits to is proven; one that was proven in another way meanwhile gets
        this proof, too. An instance that it denies is owed again, or becomes a dead letter if it was denied
        too often. An instance that was owed or sent again meanwhile is left alone.
        """
        with self._database.writing() as connection:
            members = _members(connection, settlement.transaction_uid)
            committed = {number: proof for number, proof in settlement.committed.items() if number in members}
            fresh = able(connection, ObligationEvent.PROVE, holder, list(committed))
            prove(
                connection,
                ObligationEvent.PROVE,
                holder,
                {number: committed[number] for number in fresh},
                now,
            )
            for number in _in_state(connection, holder, list(committed), ObligationState.PROVEN):
                if number not in fresh:
                    write_proof(connection, number, holder, committed[number])
            denied = {number: why for number, why in settlement.denied.items() if number in members}
            _deny(connection, holder, denied, now, retry_at)
            _end(connection, settlement.transaction_uid)
            return len(committed) + len(denied)


def _deny(
    connection: Connection,
    holder: HolderName,
    denied: Mapping[InstanceNumber, str],
    now: Timestamp,
    retry_at: Callable[[int], Timestamp],
) -> None:
    for number in _in_state(connection, holder, list(denied), ObligationState.PROVEN):
        disprove(connection, holder, [number], reason=denied[number], now=now, due=now)
    for number in _in_state(connection, holder, list(denied), ObligationState.SENT):
        mine = (obligations.c.holder == holder, obligations.c.instance == number)
        row = connection.execute(select(obligations).where(*mine)).one()
        if judge_denial(row.losses) is Absence.LOST:
            lose(connection, holder, [row], reason=denied[number], now=now, retry_at=retry_at)
        else:
            give_up(connection, holder, [row], why=denied[number], now=now)


def _in_state(
    connection: Connection, holder: HolderName, numbers: Sequence[InstanceNumber], state: ObligationState
) -> list[InstanceNumber]:
    found: list[InstanceNumber] = []
    for chunk in chunks(numbers):
        query = select(obligations.c.instance).where(
            obligations.c.holder == holder,
            obligations.c.instance.in_(chunk),
            obligations.c.state == state.value,
        )
        found += [InstanceNumber(number) for number in connection.scalars(query)]
    return found


def _members(connection: Connection, transaction_uid: str) -> dict[InstanceNumber, SopInstanceUid]:
    return {
        InstanceNumber(row.instance): SopInstanceUid(row.sop_instance_uid)
        for row in connection.execute(_MEMBERS, {"transaction": transaction_uid})
    }


def _end(connection: Connection, transaction_uid: str) -> None:
    for table in (commitment_members, commitments):
        connection.execute(delete(table).where(table.c.transaction_uid == transaction_uid))
