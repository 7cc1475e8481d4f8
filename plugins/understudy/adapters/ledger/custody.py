"""Custody: which instances there are, who they are owed to, and what proves that a holder has them.

Rule 1: the state of an obligation changes in `_advance` alone, guarded by the table in core/obligations.py.
Rule 2: no row is proven without a proof row written in the same transaction.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_, func, insert, or_, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from understudy.adapters.ledger.database import Database
from understudy.adapters.ledger.journal import append_event, current_mode, write_cursor
from understudy.adapters.ledger.schema import instances, obligations, proofs
from understudy.core.errors import NotFoundError, RefusedError
from understudy.core.model import (
    Delivery,
    HolderName,
    Instance,
    InstanceNumber,
    NewInstance,
    Outcome,
    Proof,
    SopInstanceUid,
    StudyInstanceUid,
    Timestamp,
)
from understudy.core.obligations import UNSETTLED, ObligationEvent, ObligationState, origins, target
from understudy.core.views import ModalityView, ObligationView, iso

_INSTANCE_COLUMNS = [instances.c[name] for name in (*NewInstance.__dataclass_fields__, "number")]
_UNSETTLED = [state.value for state in UNSETTLED]
_SYSTEM = "understudy"


class IllegalTransitionError(Exception):
    """An obligation was not in a state in which the event may happen: a fault in our code, never passed over."""

    def __init__(self, event: ObligationEvent, holder: str, asked: int, changed: int) -> None:
        super().__init__(
            f"{event.value} at {holder}: {changed} of {asked} obligations were in a state that allows it"
        )


class Custody:
    """The instances, obligations and proofs of the ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Note

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
        """Record new instances with what they owe and the feed's cursor in one transaction; return how many were new.

        Each element names the holders that are owed the instance, and the proof that the primary has it where it came
        from there. Repeating a call changes nothing.
        """
        with self._database.writing() as connection:
            epoch = current_mode(connection).epoch
            fresh = 0
            for instance, owed, received in noted:
                fresh += _note_one(
                    connection, instance, owed, received, primary, primary_grace, vaults, epoch, now
                )
            write_cursor(connection, "changes", cursor)
            return fresh

    # Deliver

    def due(
        self, holder: HolderName, *, now: Timestamp, limit: int, max_bytes: int, linger: float = 0.0
    ) -> list[Instance]:
        """Return owed instances of one study whose time has come, the longest due first.

        At most `limit` instances and `max_bytes` bytes (one larger instance comes alone). A study whose newest owed
        instance is younger than `linger` seconds waits for more, unless it has `max_bytes` already.
        """
        ready = and_(
            obligations.c.holder == holder,
            obligations.c.state == ObligationState.OWED.value,
            obligations.c.due <= now,
        )
        query = (
            select(instances.c.study_instance_uid, instances.c.size, obligations.c.since)
            .join_from(obligations, instances, obligations.c.instance == instances.c.number)
            .where(ready)
            .order_by(obligations.c.due, obligations.c.instance)
            .limit(4 * limit)
        )
        with self._database.reading() as connection:
            study = _ripe_study(connection.execute(query).all(), limit, max_bytes, now - linger)
            if study is None:
                return []
            rows = connection.execute(
                select(*_INSTANCE_COLUMNS)
                .join_from(obligations, instances, obligations.c.instance == instances.c.number)
                .where(ready, instances.c.study_instance_uid == study)
                .order_by(instances.c.number)
                .limit(limit)
            )
            batch: list[Instance] = []
            total = 0
            for row in rows:
                total += row.size
                if batch and total > max_bytes:
                    break
                batch.append(_instance(row))
            return batch

    def claim(
        self, holder: HolderName, numbers: Sequence[InstanceNumber], *, now: Timestamp, lease: float
    ) -> None:
        """Put owed obligations in flight for `lease` seconds."""
        with self._database.writing() as connection:
            _advance(connection, ObligationEvent.CLAIM, holder, numbers, now, lease_until=now + lease)

    def record(
        self,
        holder: HolderName,
        deliveries: Iterable[Delivery],
        *,
        now: Timestamp,
        retry_at: Callable[[int], Timestamp],
    ) -> None:
        """Record what became of instances in flight; `retry_at` gives the next attempt's time from the failures so far."""
        with self._database.writing() as connection:
            for delivery in deliveries:
                _record_one(connection, holder, delivery, now, retry_at)

    def release(self, *, now: Timestamp, everything: bool = False) -> int:
        """Return lapsed claims, or after a restart all of them, to owed; return how many there were."""
        lapsed = obligations.c.state == ObligationState.IN_FLIGHT.value
        if not everything:
            lapsed = and_(lapsed, obligations.c.lease_until <= now)
        with self._database.writing() as connection:
            rows = connection.execute(
                select(obligations.c.instance, obligations.c.holder).where(lapsed)
            ).all()
            for row in rows:
                _advance(
                    connection,
                    ObligationEvent.FAIL,
                    row.holder,
                    [row.instance],
                    now,
                    due=now,
                    reason="the appliance stopped in the middle of sending: outcome unknown",
                )
            return len(rows)

    # Prove

    def sent(self, holder: HolderName, *, now: Timestamp, limit: int) -> list[Instance]:
        """Return instances of one study that the holder acknowledged and whose proof may be asked for now."""
        waiting = and_(
            obligations.c.holder == holder,
            obligations.c.state == ObligationState.SENT.value,
            obligations.c.due <= now,
        )
        with self._database.reading() as connection:
            first = connection.execute(
                select(instances.c.study_instance_uid)
                .join_from(obligations, instances, obligations.c.instance == instances.c.number)
                .where(waiting)
                .order_by(obligations.c.due)
                .limit(1)
            ).first()
            if first is None:
                return []
            rows = connection.execute(
                select(*_INSTANCE_COLUMNS)
                .join_from(obligations, instances, obligations.c.instance == instances.c.number)
                .where(waiting, instances.c.study_instance_uid == first.study_instance_uid)
                .order_by(instances.c.number)
                .limit(limit)
            )
            return [_instance(row) for row in rows]

    def absent(
        self,
        holder: HolderName,
        numbers: Sequence[InstanceNumber],
        *,
        now: Timestamp,
        ask_again: Timestamp,
        acknowledged_before: Timestamp,
    ) -> int:
        """Take note that the holder does not show acknowledged instances: those acknowledged before the given moment
        are owed again, the others are asked for again later. Return how many are owed again."""
        with self._database.writing() as connection:
            mine = and_(obligations.c.holder == holder, obligations.c.instance.in_(numbers))
            acknowledged = connection.execute(
                select(obligations.c.instance, obligations.c.changed).where(
                    mine, obligations.c.state == ObligationState.SENT.value
                )
            ).all()
            lost = [InstanceNumber(row.instance) for row in acknowledged if row.changed < acknowledged_before]
            connection.execute(
                update(obligations)
                .where(mine, obligations.c.state == ObligationState.SENT.value)
                .values(due=ask_again)
            )
            if lost:
                reason = "the holder acknowledged it and does not have it"
                _disprove(connection, holder, lost, reason=reason, now=now, due=ask_again)
            return len(lost)

    def prove(self, holder: HolderName, found: Mapping[InstanceNumber, Proof], *, now: Timestamp) -> None:
        """Record proofs for acknowledged instances."""
        with self._database.writing() as connection:
            for number, proof in found.items():
                _prove(connection, ObligationEvent.PROVE, holder, number, proof, now)

    def find(self, holder: HolderName, found: Mapping[InstanceNumber, Proof], *, now: Timestamp) -> None:
        """Record proofs for owed instances that the holder turned out to have."""
        with self._database.writing() as connection:
            for number, proof in found.items():
                _prove(connection, ObligationEvent.FIND, holder, number, proof, now)

    def disprove(
        self,
        holder: HolderName,
        numbers: Sequence[InstanceNumber],
        *,
        reason: str,
        now: Timestamp,
        due: Timestamp,
    ) -> None:
        """Return acknowledged or proven instances that the holder does not have to owed, with an event."""
        if not numbers:
            return
        with self._database.writing() as connection:
            _disprove(connection, holder, numbers, reason=reason, now=now, due=due)

    # Ask

    def instances_of(self, study: StudyInstanceUid) -> list[Instance]:
        """Return the present version of every instance of a study."""
        query = select(*_INSTANCE_COLUMNS).where(
            instances.c.study_instance_uid == study, instances.c.superseded_by.is_(None)
        )
        with self._database.reading() as connection:
            return [_instance(row) for row in connection.execute(query)]

    def states_of(self, holder: HolderName, study: StudyInstanceUid) -> dict[InstanceNumber, ObligationState]:
        """Return the state of every obligation of a study to a holder."""
        query = (
            select(obligations.c.instance, obligations.c.state)
            .join_from(obligations, instances, obligations.c.instance == instances.c.number)
            .where(obligations.c.holder == holder, instances.c.study_instance_uid == study)
        )
        with self._database.reading() as connection:
            return {
                InstanceNumber(row.instance): ObligationState(row.state) for row in connection.execute(query)
            }

    def studies_with(self, holder: HolderName, state: ObligationState) -> dict[StudyInstanceUid, int]:
        """Return the number of distinct SOP Instance UIDs in the state at the holder, for each study that has any."""
        query = (
            select(
                instances.c.study_instance_uid,
                func.count(instances.c.sop_instance_uid.distinct()).label("found"),
            )
            .join_from(obligations, instances, obligations.c.instance == instances.c.number)
            .where(obligations.c.holder == holder, obligations.c.state == state.value)
            .where(instances.c.superseded_by.is_(None))
            .group_by(instances.c.study_instance_uid)
        )
        with self._database.reading() as connection:
            return {StudyInstanceUid(row.study_instance_uid): row.found for row in connection.execute(query)}

    def studies_of_epoch(self, epoch: int) -> set[StudyInstanceUid]:
        """Return the studies with an instance that was noted in this epoch."""
        query = select(instances.c.study_instance_uid.distinct()).where(instances.c.epoch == epoch)
        with self._database.reading() as connection:
            return {StudyInstanceUid(uid) for uid in connection.scalars(query)}

    def proofs_of_epoch(self, holder: HolderName, epoch: int) -> list[tuple[StudyInstanceUid, str, int]]:
        """Return, for instances noted in this epoch, study, kind of the latest proof and number of proven instances."""
        latest = (
            select(func.max(proofs.c.proof).label("proof"))
            .join_from(proofs, instances, proofs.c.instance == instances.c.number)
            .where(proofs.c.holder == holder, instances.c.epoch == epoch)
            .group_by(proofs.c.instance)
            .subquery()
        )
        query = (
            select(instances.c.study_instance_uid, proofs.c.kind, func.count())
            .join_from(latest, proofs, latest.c.proof == proofs.c.proof)
            .join(instances, proofs.c.instance == instances.c.number)
            .join(
                obligations, and_(obligations.c.instance == proofs.c.instance, obligations.c.holder == holder)
            )
            .where(obligations.c.state == ObligationState.PROVEN.value)
            .group_by(instances.c.study_instance_uid, proofs.c.kind)
            .order_by(instances.c.study_instance_uid)
        )
        with self._database.reading() as connection:
            return [
                (StudyInstanceUid(study), kind, number) for study, kind, number in connection.execute(query)
            ]

    def proven(self, holder: HolderName, *, after: InstanceNumber, limit: int) -> list[Instance]:
        """Return proven instances numbered above `after`, present versions only, in order."""
        query = (
            select(*_INSTANCE_COLUMNS)
            .join_from(obligations, instances, obligations.c.instance == instances.c.number)
            .where(
                obligations.c.holder == holder,
                obligations.c.state == ObligationState.PROVEN.value,
                instances.c.number > after,
                instances.c.superseded_by.is_(None),
            )
            .order_by(instances.c.number)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [_instance(row) for row in connection.execute(query)]

    def counts(self) -> tuple[int, int]:
        """Return the number of instances (present versions) and of studies."""
        query = select(func.count(), func.count(instances.c.study_instance_uid.distinct())).where(
            instances.c.superseded_by.is_(None)
        )
        with self._database.reading() as connection:
            row = connection.execute(query).one()
            return row[0], row[1]

    def tally(self) -> dict[HolderName, dict[ObligationState, int]]:
        """Return the number of obligations of every holder in every state that occurs."""
        query = select(obligations.c.holder, obligations.c.state, func.count()).group_by(
            obligations.c.holder, obligations.c.state
        )
        tallies: dict[HolderName, dict[ObligationState, int]] = {}
        with self._database.reading() as connection:
            for holder, state, number in connection.execute(query):
                tallies.setdefault(HolderName(holder), {})[ObligationState(state)] = number
        return tallies

    def oldest_unsettled(self, holder: HolderName) -> Timestamp | None:
        """Return since when the holder's longest unsettled obligation is owed, None where nothing is."""
        query = select(func.min(obligations.c.since)).where(
            obligations.c.holder == holder, obligations.c.state.in_(_UNSETTLED)
        )
        with self._database.reading() as connection:
            value = connection.scalar(query)
            return None if value is None else Timestamp(value)

    def last_store(self, *, except_from: str) -> Timestamp | None:
        """Return when an instance last came over C-STORE from anybody but this AE title, None if never."""
        query = select(func.max(instances.c.received_at)).where(
            instances.c.calling_ae_title.not_in([except_from, ""])
        )
        with self._database.reading() as connection:
            value = connection.scalar(query)
            return None if value is None else Timestamp(value)

    def modalities(self) -> list[ModalityView]:
        """Return every sender that instances came from, the most recent first."""
        sender = (instances.c.calling_ae_title, instances.c.called_ae_title, instances.c.remote_address)
        first, last = func.min(instances.c.received_at), func.max(instances.c.received_at)
        query = select(*sender, func.count(), first, last).group_by(*sender).order_by(last.desc())
        with self._database.reading() as connection:
            return [
                ModalityView(calling, called, address, number, iso(Timestamp(begun)), iso(Timestamp(ended)))
                for calling, called, address, number, begun, ended in connection.execute(query)
            ]

    def obligations(
        self, holder: str | None, state: ObligationState | None, limit: int
    ) -> list[ObligationView]:
        """Return obligations, the longest unchanged first, of one holder and in one state where these are given."""
        query = select(obligations, instances.c.sop_instance_uid, instances.c.study_instance_uid).join_from(
            obligations, instances, obligations.c.instance == instances.c.number
        )
        if holder is not None:
            query = query.where(obligations.c.holder == holder)
        if state is not None:
            query = query.where(obligations.c.state == state.value)
        with self._database.reading() as connection:
            return [
                _view(row) for row in connection.execute(query.order_by(obligations.c.changed).limit(limit))
            ]

    # Act on dead letters

    def replay(self, holder: str, sop_instance_uids: Sequence[str] | None, who: str, now: Timestamp) -> int:
        """Owe refused instances again, all of the holder's or the named ones; return how many."""
        with self._database.writing() as connection:
            numbers = _named(connection, holder, sop_instance_uids, origins(ObligationEvent.REPLAY))
            _advance(
                connection,
                ObligationEvent.REPLAY,
                HolderName(holder),
                numbers,
                now,
                due=now,
                reason=f"replayed by {who}",
            )
            append_event(connection, now, who, "replay", {"holder": holder, "instances": len(numbers)})
            return len(numbers)

    def waive(
        self, holder: str, sop_instance_uids: Sequence[str], reason: str, who: str, now: Timestamp
    ) -> int:
        """Give up owed or refused instances, named one by one, with a reason; return how many."""
        if not reason.strip():
            raise RefusedError("a waiver needs a reason", "say why this holder need not have these instances")
        with self._database.writing() as connection:
            numbers = _named(connection, holder, sop_instance_uids, origins(ObligationEvent.WAIVE))
            _advance(connection, ObligationEvent.WAIVE, HolderName(holder), numbers, now, reason=reason)
            fields = {
                "holder": holder,
                "instances": len(numbers),
                "reason": reason,
                "uids": list(sop_instance_uids),
            }
            append_event(connection, now, who, "waive", fields)
            return len(numbers)


def _note_one(
    connection: Connection,
    instance: NewInstance,
    owed: Sequence[HolderName],
    received: Proof | None,
    primary: HolderName | None,
    primary_grace: float,
    vaults: Collection[HolderName],
    epoch: int,
    now: Timestamp,
) -> int:
    versions = connection.execute(
        select(
            instances.c.number, instances.c.md5, instances.c.attachment_uuid, instances.c.superseded_by
        ).where(instances.c.orthanc_id == instance.orthanc_id)
    ).all()
    same = next((row for row in versions if row.md5 == instance.md5), None)
    if same is not None and same.attachment_uuid == instance.attachment_uuid and same.superseded_by is None:
        return 0
    if same is not None:
        # The same bytes in a new file, after a deletion or a change that was taken back.
        number = same.number
        values = {"attachment_uuid": instance.attachment_uuid, "superseded_by": None}
        connection.execute(update(instances).where(instances.c.number == number).values(**values))
    else:
        values = {name: getattr(instance, name) for name in NewInstance.__dataclass_fields__}
        number = connection.scalar(
            insert(instances).values(**values, epoch=epoch).returning(instances.c.number)
        )
    _supersede(connection, [row for row in versions if row.number != number], number, vaults, now)
    for holder in owed:
        due = now + primary_grace if holder == primary else now
        _owe(connection, number, holder, ObligationState.OWED, due, now)
    if (
        received is not None
        and primary is not None
        and _owe(connection, number, primary, ObligationState.PROVEN, now, now)
    ):
        _write_proof(connection, number, primary, received)
    return 0 if same is not None else 1


def _supersede(
    connection: Connection,
    earlier: Sequence[Any],
    number: int,
    vaults: Collection[HolderName],
    now: Timestamp,
) -> None:
    """Mark earlier versions of an instance whose content changed; the vaults want them still, nobody else does."""
    for row in earlier:
        if row.superseded_by is not None:
            continue
        connection.execute(
            update(instances).where(instances.c.number == row.number).values(superseded_by=number)
        )
        given_up = connection.scalars(
            select(obligations.c.holder).where(
                obligations.c.instance == row.number,
                obligations.c.holder.not_in(list(vaults)),
                obligations.c.state.in_([state.value for state in origins(ObligationEvent.WAIVE)]),
            )
        ).all()
        for holder in given_up:
            reason = f"its content was replaced: instance {number} is owed in its place"
            _advance(connection, ObligationEvent.WAIVE, HolderName(holder), [row.number], now, reason=reason)
        fields = {"earlier": row.number, "earlier_md5": row.md5, "later": number}
        append_event(connection, now, _SYSTEM, "conflict", fields)


def _owe(
    connection: Connection,
    number: int,
    holder: HolderName,
    state: ObligationState,
    due: float,
    now: Timestamp,
) -> bool:
    statement = upsert(obligations).values(
        instance=number,
        holder=holder,
        state=state.value,
        attempts=0,
        since=now,
        due=due,
        changed=now,
        reason="",
    )
    return connection.execute(statement.on_conflict_do_nothing()).rowcount == 1


def _record_one(
    connection: Connection,
    holder: HolderName,
    delivery: Delivery,
    now: Timestamp,
    retry_at: Callable[[int], Timestamp],
) -> None:
    numbers = [delivery.number]
    match delivery.outcome:
        case Outcome.DELIVERED | Outcome.DELIVERED_ALTERED:
            reason = "" if delivery.outcome is Outcome.DELIVERED else f"altered: {delivery.reason}"
            _advance(connection, ObligationEvent.ACKNOWLEDGE, holder, numbers, now, due=now, reason=reason)
            if delivery.proof is not None:
                _prove(connection, ObligationEvent.PROVE, holder, delivery.number, delivery.proof, now)
        case Outcome.RETRY | Outcome.UNKNOWN:
            attempts = connection.scalar(
                select(obligations.c.attempts).where(
                    obligations.c.instance == delivery.number, obligations.c.holder == holder
                )
            )
            due = retry_at((attempts or 0) + 1)
            _advance(
                connection,
                ObligationEvent.FAIL,
                holder,
                numbers,
                now,
                due=due,
                reason=delivery.reason,
                failed=True,
            )
        case Outcome.REFUSED:
            _advance(connection, ObligationEvent.REFUSE, holder, numbers, now, reason=delivery.reason)
            append_event(
                connection,
                now,
                _SYSTEM,
                "refuse",
                {"holder": holder, "instance": delivery.number, "reason": delivery.reason},
            )


def _prove(
    connection: Connection,
    event: ObligationEvent,
    holder: HolderName,
    number: InstanceNumber,
    proof: Proof,
    now: Timestamp,
) -> None:
    _write_proof(connection, number, holder, proof)
    _advance(connection, event, holder, [number], now)


def _disprove(
    connection: Connection,
    holder: HolderName,
    numbers: Sequence[InstanceNumber],
    *,
    reason: str,
    now: Timestamp,
    due: Timestamp,
) -> None:
    _advance(connection, ObligationEvent.DISPROVE, holder, numbers, now, due=due, reason=reason, failed=True)
    append_event(
        connection, now, _SYSTEM, "disprove", {"holder": holder, "instances": len(numbers), "reason": reason}
    )


def _write_proof(connection: Connection, number: int, holder: HolderName, proof: Proof) -> None:
    connection.execute(
        insert(proofs).values(
            instance=number,
            holder=holder,
            kind=proof.kind.value,
            at=proof.at,
            evidence=json.dumps(dict(proof.evidence), sort_keys=True, separators=(",", ":")),
        )
    )


def _advance(
    connection: Connection,
    event: ObligationEvent,
    holder: HolderName,
    numbers: Sequence[int],
    now: Timestamp,
    *,
    due: float | None = None,
    lease_until: float | None = None,
    reason: str | None = None,
    failed: bool = False,
) -> None:
    values: dict[str, object] = {"state": target(event).value, "changed": now, "lease_until": lease_until}
    if due is not None:
        values["due"] = due
    if reason is not None:
        values["reason"] = reason
    if failed or event is ObligationEvent.FAIL:
        values["attempts"] = obligations.c.attempts + 1
    if event is ObligationEvent.DISPROVE:
        values["since"] = now
    changed = 0
    for start in range(0, len(numbers), 500):
        statement = update(obligations).where(
            obligations.c.holder == holder,
            obligations.c.instance.in_(numbers[start : start + 500]),
            obligations.c.state.in_([state.value for state in origins(event)]),
        )
        changed += connection.execute(statement.values(**values)).rowcount
    if changed != len(set(numbers)):
        raise IllegalTransitionError(event, holder, len(set(numbers)), changed)


def _named(
    connection: Connection,
    holder: str,
    sop_instance_uids: Sequence[str] | None,
    states: Iterable[ObligationState],
) -> list[InstanceNumber]:
    query = (
        select(obligations.c.instance)
        .join_from(obligations, instances, obligations.c.instance == instances.c.number)
        .where(obligations.c.holder == holder, obligations.c.state.in_([state.value for state in states]))
    )
    if sop_instance_uids is not None:
        query = query.where(
            instances.c.sop_instance_uid.in_([SopInstanceUid(uid) for uid in sop_instance_uids])
        )
    numbers = [InstanceNumber(number) for number in connection.scalars(query)]
    if not numbers:
        raise NotFoundError(
            f"no such obligation to {holder}",
            "GET /understudy/obligations lists what is owed or refused, and to whom",
        )
    return numbers


def _ripe_study(rows: Sequence[Any], limit: int, max_bytes: int, young: float) -> StudyInstanceUid | None:
    """Return the first study, in order of due time, that is full or has had no new instance since `young`."""
    total: dict[str, int] = {}
    count: dict[str, int] = {}
    newest: dict[str, float] = {}
    for study, size, since in rows:
        total[study] = total.get(study, 0) + size
        count[study] = count.get(study, 0) + 1
        newest[study] = max(newest.get(study, since), since)
    for study in total:
        if total[study] >= max_bytes or count[study] >= limit or newest[study] <= young:
            return StudyInstanceUid(study)
    return None


def _instance(row: Any) -> Instance:
    return Instance(*row)


_HINTS = {
    ObligationState.REFUSED: "mend the cause, then replay; or waive it with a reason",
    ObligationState.OWED: "nothing to do: it is tried again by itself",
    ObligationState.IN_FLIGHT: "nothing to do: it is being sent",
    ObligationState.SENT: "nothing to do: its proof is awaited",
}


def _view(row: Any) -> ObligationView:
    state = ObligationState(row.state)
    return ObligationView(
        holder=HolderName(row.holder),
        state=state,
        sop_instance_uid=row.sop_instance_uid,
        study_instance_uid=row.study_instance_uid,
        attempts=row.attempts,
        due=iso(row.due),
        changed=iso(row.changed),
        reason=row.reason,
        hint=_HINTS.get(state, ""),
    )


def unsettled_to(connection: Connection, holder: HolderName) -> int:
    """Return how many obligations to the holder are owed, in flight, sent or refused, within a transaction."""
    query = select(func.count()).where(
        obligations.c.holder == holder, or_(obligations.c.state.in_(_UNSETTLED))
    )
    return connection.scalar(query) or 0
