"""Intake: new instances and new versions of known ones, with what they owe."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, exists, insert, literal, select, update

from understudy.adapters.ledger.conflicts import record_conflict
from understudy.adapters.ledger.database import Database
from understudy.adapters.ledger.journal import append_event, current_mode, write_cursor
from understudy.adapters.ledger.letters import stored_again
from understudy.adapters.ledger.schema import instances, obligations
from understudy.adapters.ledger.transitions import SYSTEM, able, advance, owe, write_proof
from understudy.core.conflicts import ConflictKind
from understudy.core.model import HolderName, InstanceNumber, NewInstance, Proof, Timestamp
from understudy.core.obligations import ObligationEvent, ObligationState, origins


@dataclass(frozen=True, slots=True)
class _Site:
    """What one call of `note` has in common."""

    primary: HolderName | None
    primary_grace: float
    vaults: Collection[HolderName]
    epoch: int
    now: Timestamp


class Intake:
    """The ledger's entrance."""

    _database: Database

    def note(
        self,
        noted: Sequence[tuple[NewInstance, Sequence[HolderName], Proof | None]],
        *,
        primary: HolderName | None,
        primary_grace: float,
        vaults: Collection[HolderName],
        cursor: int,
        now: Timestamp,
    ) -> int:
        """Record new instances with what they owe and the feed's cursor in one transaction.

        Each element names the holders that are owed the instance, and the proof that the primary has it where
        it came from there. Returns how many were new. Repeating a call changes nothing.
        """
        with self._database.writing() as connection:
            site = _Site(primary, primary_grace, vaults, current_mode(connection).epoch, now)
            fresh = sum(
                _note_one(connection, instance, owed, received, site) for instance, owed, received in noted
            )
            write_cursor(connection, "changes", cursor)
            return fresh

    def owe_all(self, holder: HolderName, *, now: Timestamp) -> int:
        """Owe every instance to a holder that was named after it came; return how many were not yet owed."""
        missing = (
            select(
                instances.c.number,
                literal(holder),
                literal(ObligationState.OWED.value),
                *map(literal, (0, now, now, now)),
            )
            .where(instances.c.superseded_by.is_(None))
            .where(
                ~exists().where(obligations.c.instance == instances.c.number, obligations.c.holder == holder)
            )
        )
        columns = ["instance", "holder", "state", "attempts", "since", "due", "changed"]
        with self._database.writing() as connection:
            number = connection.execute(
                insert(obligations).from_select([*columns, "reason"], missing.add_columns(literal("")))
            ).rowcount
            if number:
                append_event(connection, now, SYSTEM, "owe", {"holder": holder, "instances": number})
            return number


def _note_one(
    connection: Connection,
    instance: NewInstance,
    owed: Sequence[HolderName],
    received: Proof | None,
    site: _Site,
) -> int:
    versions = connection.execute(
        select(
            instances.c.number, instances.c.md5, instances.c.attachment_uuid, instances.c.superseded_by
        ).where(instances.c.orthanc_id == instance.orthanc_id)
    ).all()
    same = next((row for row in versions if row.md5 == instance.md5), None)
    if same is not None and same.attachment_uuid == instance.attachment_uuid and same.superseded_by is None:
        return 0
    if same is None:
        values = {name: getattr(instance, name) for name in NewInstance.__dataclass_fields__}
        number = connection.scalar(
            insert(instances).values(**values, epoch=site.epoch).returning(instances.c.number)
        )
        _compare_identities(connection, instance, number, site.now)
    else:
        # The same bytes in a new file, after a deletion or a change that was taken back.
        number = same.number
        changes = {"attachment_uuid": instance.attachment_uuid, "superseded_by": None}
        connection.execute(update(instances).where(instances.c.number == number).values(**changes))
        stored_again(connection, number, site.now)
    _supersede(connection, [row for row in versions if row.number != number], number, site)
    for holder in owed:
        due = Timestamp(site.now + site.primary_grace) if holder == site.primary else site.now
        owe(connection, number, holder, ObligationState.OWED, due, site.now)
        if same is not None and same.superseded_by is not None:
            _owe_again(connection, number, holder, due, site.now)
    if (
        received is not None
        and site.primary is not None
        and owe(connection, number, site.primary, ObligationState.PROVEN, site.now, site.now)
    ):
        write_proof(connection, number, site.primary, received)
    return 1 if same is None else 0


def _supersede(connection: Connection, earlier: Sequence[Any], number: int, site: _Site) -> None:
    """Mark earlier versions of an instance whose content changed; only the vaults want them still."""
    for row in earlier:
        if row.superseded_by is not None:
            continue
        connection.execute(
            update(instances).where(instances.c.number == row.number).values(superseded_by=number)
        )
        given_up = connection.scalars(
            select(obligations.c.holder).where(
                obligations.c.instance == row.number,
                obligations.c.holder.not_in(list(site.vaults)),
                obligations.c.state.in_([state.value for state in origins(ObligationEvent.WAIVE)]),
            )
        ).all()
        for holder in given_up:
            reason = f"its content was replaced: instance {number} is owed in its place"
            advance(
                connection, ObligationEvent.WAIVE, HolderName(holder), [row.number], site.now, reason=reason
            )
        record_conflict(connection, row.number, number, ConflictKind.UNJUDGED, site.now)


def _compare_identities(connection: Connection, instance: NewInstance, number: int, now: Timestamp) -> None:
    """Record where the SOP Instance UID, which is to be unique, is that of another instance as well."""
    others = select(instances.c.number).where(
        instances.c.sop_instance_uid == instance.sop_instance_uid,
        instances.c.orthanc_id != instance.orthanc_id,
        instances.c.superseded_by.is_(None),
    )
    for other in connection.scalars(others).all():
        record_conflict(connection, other, number, ConflictKind.IDENTITY, now)


def _owe_again(
    connection: Connection, number: int, holder: HolderName, due: Timestamp, now: Timestamp
) -> None:
    """Owe a version that came back to whom it was given up for when another took its place."""
    given_up = able(connection, ObligationEvent.RETURN, holder, [InstanceNumber(number)])
    reason = "its content came back"
    advance(connection, ObligationEvent.RETURN, holder, given_up, now, due=due, reason=reason)
