"""Custody: what happens to an obligation from its claim to its proof."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from sqlalchemy import Connection, and_, exists, select, update

from understudy.adapters.ledger.counts import tallies
from understudy.adapters.ledger.database import Database
from understudy.adapters.ledger.journal import append_event
from understudy.adapters.ledger.schema import instances, obligations, proofs
from understudy.adapters.ledger.transitions import (
    SYSTEM,
    IllegalTransitionError,
    able,
    advance,
    chunks,
    disprove,
    prove,
)
from understudy.core.model import Delivery, HolderName, InstanceNumber, Outcome, Proof, ProofKind, Timestamp
from understudy.core.obligations import ObligationEvent, ObligationState

__all__ = ["Custody", "IllegalTransitionError"]


class Custody:
    """The obligations of the ledger and their proofs."""

    _database: Database

    def claim(
        self, holder: HolderName, numbers: Sequence[InstanceNumber], *, now: Timestamp, lease: float
    ) -> list[InstanceNumber]:
        """Put obligations in flight for `lease` seconds and return which.

        Those not owed any more stay as they are: between a look at what is due and the claim, the mirror may
        find an instance and a person may waive one.
        """
        with self._database.writing() as connection:
            owed = able(connection, ObligationEvent.CLAIM, holder, numbers)
            advance(connection, ObligationEvent.CLAIM, holder, owed, now, lease_until=now + lease)
            return owed

    def give_back(self, holder: HolderName, numbers: Sequence[InstanceNumber], *, now: Timestamp) -> None:
        """Owe again, as before the claim, what was claimed and not sent."""
        with self._database.writing() as connection:
            advance(connection, ObligationEvent.RELEASE, holder, numbers, now)

    def record(
        self,
        holder: HolderName,
        deliveries: Iterable[Delivery],
        *,
        now: Timestamp,
        retry_at: Callable[[int], Timestamp],
    ) -> None:
        """Record what became of instances in flight; `retry_at` gives the next try by the failures so far."""
        with self._database.writing() as connection:
            for delivery in deliveries:
                _record_one(connection, holder, delivery, now, retry_at)

    def release(self, *, now: Timestamp, everything: bool = False) -> int:
        """Return lapsed claims, or after a restart all of them, to owed; return how many there were."""
        reason = "the appliance stopped in the middle of sending: outcome unknown"
        released = 0
        with self._database.writing() as connection:
            for holder in connection.scalars(select(tallies.c.holder).distinct()).all():
                lapsed = select(obligations.c.instance).where(
                    obligations.c.holder == holder, obligations.c.state == ObligationState.IN_FLIGHT.value
                )
                if not everything:
                    lapsed = lapsed.where(obligations.c.lease_until <= now)
                numbers = connection.scalars(lapsed).all()
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
        ask_again: Timestamp,
        acknowledged_before: Timestamp,
        retry_at: Callable[[int], Timestamp],
    ) -> int:
        """Take note that the holder does not show acknowledged instances.

        Those acknowledged before the given moment are owed again, and sent when `retry_at` says by the
        failures so far; the others are asked for again later. Returns how many are owed again.
        """
        with self._database.writing() as connection:
            mine = and_(obligations.c.holder == holder, obligations.c.instance.in_(numbers))
            acknowledged = connection.execute(
                select(obligations.c.instance, obligations.c.changed, obligations.c.attempts).where(
                    mine, obligations.c.state == ObligationState.SENT.value
                )
            ).all()
            lost: dict[int, list[InstanceNumber]] = {}
            for row in acknowledged:
                if row.changed < acknowledged_before:
                    lost.setdefault(row.attempts + 1, []).append(InstanceNumber(row.instance))
            connection.execute(
                update(obligations)
                .where(mine, obligations.c.state == ObligationState.SENT.value)
                .values(due=ask_again)
            )
            reason = "the holder acknowledged it and does not have it"
            for attempt, lost_then in sorted(lost.items()):
                disprove(connection, holder, lost_then, reason=reason, now=now, due=retry_at(attempt))
            return sum(map(len, lost.values()))

    def prove(self, holder: HolderName, found: Mapping[InstanceNumber, Proof], *, now: Timestamp) -> None:
        """Record proofs for acknowledged instances."""
        with self._database.writing() as connection:
            for number, proof in found.items():
                prove(connection, ObligationEvent.PROVE, holder, number, proof, now)

    def find(
        self, holder: HolderName, found: Mapping[InstanceNumber, Proof], *, now: Timestamp
    ) -> set[InstanceNumber]:
        """Record proofs for owed instances that the holder turned out to have, and return which they were.

        Those not owed any more stay as they are: the lane and the mirror look at the same time. An inventory
        names a SOP Instance UID and cannot tell one content from another, so it proves nothing of an instance
        that took the place of another content: that one has to be sent. Where the holder itself had sent the
        other content it is believed, since a PACS that coerces what a device sends to both of us would else
        be sent everything twice.
        """
        with self._database.writing() as connection:
            owed = able(connection, ObligationEvent.FIND, holder, list(found))
            replacing = _replacing(connection, holder, owed)
            believed = {
                number
                for number in owed
                if number not in replacing or found[number].kind is not ProofKind.INVENTORY
            }
            for number in sorted(believed):
                prove(connection, ObligationEvent.FIND, holder, number, found[number], now)
            return believed

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

        Those in neither state any more stay as they are. Returns how many are owed again.
        """
        if not numbers:
            return 0
        with self._database.writing() as connection:
            lost = able(connection, ObligationEvent.DISPROVE, holder, numbers)
            if lost:
                disprove(connection, holder, lost, reason=reason, now=now, due=due)
            return len(lost)


def _record_one(
    connection: Connection,
    holder: HolderName,
    delivery: Delivery,
    now: Timestamp,
    retry_at: Callable[[int], Timestamp],
) -> None:
    numbers = [delivery.number]
    outcome = delivery.outcome
    if outcome is Outcome.CONFLICT:
        # Where it took the place of another content, that is what the holder has: no proof will settle it.
        outcome = Outcome.REFUSED if _replacing(connection, holder, numbers) else Outcome.UNKNOWN
    match outcome:
        case Outcome.DELIVERED | Outcome.DELIVERED_ALTERED:
            reason = "" if outcome is Outcome.DELIVERED else f"altered: {delivery.reason}"
            advance(connection, ObligationEvent.ACKNOWLEDGE, holder, numbers, now, due=now, reason=reason)
            if delivery.proof is not None:
                prove(connection, ObligationEvent.PROVE, holder, delivery.number, delivery.proof, now)
        case Outcome.RETRY | Outcome.UNKNOWN:
            attempts = connection.scalar(
                select(obligations.c.attempts).where(
                    obligations.c.instance == delivery.number, obligations.c.holder == holder
                )
            )
            due = retry_at((attempts or 0) + 1)
            advance(
                connection,
                ObligationEvent.FAIL,
                holder,
                numbers,
                now,
                due=due,
                reason=delivery.reason,
            )
        case Outcome.REFUSED:
            advance(connection, ObligationEvent.REFUSE, holder, numbers, now, reason=delivery.reason)
            append_event(
                connection,
                now,
                SYSTEM,
                "refuse",
                {"holder": holder, "instance": delivery.number, "reason": delivery.reason},
            )


def _replacing(connection: Connection, holder: HolderName, numbers: Sequence[InstanceNumber]) -> set[int]:
    """Return those that took the place of another content, except of one that the holder itself had sent."""
    earlier = instances.alias("earlier")
    received = exists().where(
        proofs.c.instance == earlier.c.number,
        proofs.c.holder == holder,
        proofs.c.kind == ProofKind.RECEIVED.value,
    )
    found: set[int] = set()
    for chunk in chunks(numbers):
        # All versions of an instance have one identifier, which has an index.
        query = (
            select(instances.c.number)
            .join_from(instances, earlier, earlier.c.orthanc_id == instances.c.orthanc_id)
            .where(instances.c.number.in_(chunk), earlier.c.superseded_by == instances.c.number, ~received)
        )
        found |= set(connection.scalars(query))
    return found
