"""Questions: what is asked of the ledger about instances, obligations and proofs; nothing here writes."""

import math
from collections.abc import Sequence, Set
from typing import Any

from sqlalchemy import ColumnElement, Connection, Subquery, and_, func, or_, select

from understudy.adapters.ledger.counts import ages, days, senders, studies, tallies
from understudy.adapters.ledger.database import Database
from understudy.adapters.ledger.letters import meant
from understudy.adapters.ledger.schema import instances, obligations, proofs
from understudy.core.model import (
    HolderName,
    Instance,
    InstanceNumber,
    NewInstance,
    StudyInstanceUid,
    Timestamp,
)
from understudy.core.obligations import UNSETTLED, ObligationState, Selection
from understudy.core.refusals import hint_of
from understudy.core.views import ObligationView, iso

_INSTANCE_COLUMNS = [instances.c[name] for name in (*NewInstance.__dataclass_fields__, "number")]

_UNSETTLED = [state.value for state in UNSETTLED]

_MOST_LINGERS = 10
"""A study that goes on growing waits at most for so many times the linger."""

_HINTS = {
    ObligationState.OWED: "nothing to do: it is tried again by itself",
    ObligationState.IN_FLIGHT: "nothing to do: it is being sent",
    ObligationState.SENT: "nothing to do: its proof is awaited",
}


class Questions:
    """Everything that reads instances, obligations and proofs."""

    _database: Database

    def bytes_by_day(self, since: Timestamp) -> dict[int, int]:
        """Return the bytes received by day since 1970, from the day of `since` on."""
        query = select(days.c.day, days.c.bytes).where(days.c.day >= int(since // 86_400))
        with self._database.reading() as connection:
            return {row.day: row.bytes for row in connection.execute(query)}

    def due(
        self,
        holder: HolderName,
        *,
        now: Timestamp,
        limit: int,
        max_bytes: int,
        linger: float = 0.0,
        longest: float = math.inf,
        besides: Set[StudyInstanceUid] = frozenset(),
    ) -> list[Instance]:
        """Return owed instances of one study, none of `besides`, whose time has come, the longest due first.

        At most `limit` instances and `max_bytes` bytes (one larger instance comes alone). A study whose
        newest owed instance is younger than `linger` seconds waits for more, unless it has `max_bytes`
        already or its oldest has waited ten times as long. What has more than `longest` seconds to wait,
        which nobody asked for, was written before the clock was set back. It comes where nothing else is due.
        """
        for ready in (obligations.c.due <= now, obligations.c.due > now + longest):
            batch = self._owed(holder, ready, now, limit, max_bytes, linger, besides)
            if batch:
                return batch
        return []

    def _owed(
        self,
        holder: HolderName,
        ready: ColumnElement[bool],
        now: Timestamp,
        limit: int,
        max_bytes: int,
        linger: float,
        besides: Set[StudyInstanceUid],
    ) -> list[Instance]:
        ready = and_(obligations.c.holder == holder, obligations.c.state == ObligationState.OWED.value, ready)
        query = (
            select(instances.c.study_instance_uid, instances.c.size, obligations.c.since)
            .join_from(obligations, instances, obligations.c.instance == instances.c.number)
            .where(ready, *_none_of(besides))
            .order_by(obligations.c.due, obligations.c.instance)
            .limit(4 * limit)
        )
        with self._database.reading() as connection:
            study = _ripe_study(connection.execute(query).all(), limit, max_bytes, now, linger)
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

    def sent(
        self,
        holder: HolderName,
        *,
        now: Timestamp,
        limit: int,
        longest: float = math.inf,
        besides: Set[StudyInstanceUid] = frozenset(),
    ) -> list[Instance]:
        """Return acknowledged instances of one study, none of `besides`, whose proof may be asked for now.

        `longest` is as for `due`; nor does any wait for longer than it was acknowledged for already.
        """
        waited = now - obligations.c.changed
        for ready in (
            obligations.c.due <= now,
            and_(obligations.c.due > now + longest, obligations.c.due > now + waited),
        ):
            found = self._sent(holder, ready, limit, besides)
            if found:
                return found
        return []

    def _sent(
        self, holder: HolderName, ready: ColumnElement[bool], limit: int, besides: Set[StudyInstanceUid]
    ) -> list[Instance]:
        waiting = and_(
            obligations.c.holder == holder, obligations.c.state == ObligationState.SENT.value, ready
        )
        with self._database.reading() as connection:
            first = connection.execute(
                select(instances.c.study_instance_uid)
                .join_from(obligations, instances, obligations.c.instance == instances.c.number)
                .where(waiting, *_none_of(besides))
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

    def in_flight(self, holder: HolderName) -> list[InstanceNumber]:
        """Return what is claimed for the holder and has no outcome yet."""
        query = select(obligations.c.instance).where(
            obligations.c.holder == holder, obligations.c.state == ObligationState.IN_FLIGHT.value
        )
        with self._database.reading() as connection:
            return [InstanceNumber(number) for number in connection.scalars(query)]

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
        """Return, for each study that has any, how many SOP Instance UIDs are in the state at the holder."""
        query = (
            select(
                instances.c.study_instance_uid,
                func.count(instances.c.sop_instance_uid.distinct()).label("found"),
            )
            .join_from(obligations, instances, obligations.c.instance == instances.c.number)
            .where(obligations.c.holder == holder, obligations.c.state == state.value)
            .where(instances.c.superseded_by.is_(None))
            # Not by the column itself: its index would be read whole to find a handful of obligations.
            .group_by(instances.c.study_instance_uid.concat(""))
        )
        with self._database.reading() as connection:
            return {StudyInstanceUid(row.study_instance_uid): row.found for row in connection.execute(query)}

    def studies_of_epoch(self, epoch: int) -> set[StudyInstanceUid]:
        """Return the studies with an instance that was noted in this epoch."""
        query = select(instances.c.study_instance_uid).where(instances.c.epoch == epoch).distinct()
        with self._database.reading() as connection:
            return {StudyInstanceUid(uid) for uid in connection.scalars(query)}

    def proofs_of_epoch(self, holder: HolderName, epoch: int) -> list[tuple[StudyInstanceUid, str, int]]:
        """Return study, kind of the latest proof and number of proven instances of this epoch."""
        latest = _latest_proofs(holder, epoch)
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

    def proofs_of_epoch_with(self, holder: HolderName, epoch: int, key: str) -> int:
        """Return how many instances of this epoch are proven with this key in the last evidence."""
        latest = _latest_proofs(holder, epoch)
        query = (
            select(func.count())
            .join_from(latest, proofs, latest.c.proof == proofs.c.proof)
            .join(
                obligations, and_(obligations.c.instance == proofs.c.instance, obligations.c.holder == holder)
            )
            .where(obligations.c.state == ObligationState.PROVEN.value)
            .where(func.json_extract(proofs.c.evidence, f"$.{key}").is_not(None))
        )
        with self._database.reading() as connection:
            return connection.scalar(query) or 0

    def waived_of_epoch(self, holder: HolderName, epoch: int) -> list[tuple[StudyInstanceUid, str, int]]:
        """Return study, reason and number of the instances of this epoch that were given up for a holder."""
        query = (
            select(instances.c.study_instance_uid, obligations.c.reason, func.count())
            .join_from(obligations, instances, obligations.c.instance == instances.c.number)
            .where(obligations.c.holder == holder, obligations.c.state == ObligationState.WAIVED.value)
            .where(instances.c.epoch == epoch, instances.c.superseded_by.is_(None))
            .group_by(instances.c.study_instance_uid, obligations.c.reason)
            .order_by(instances.c.study_instance_uid)
        )
        with self._database.reading() as connection:
            return [
                (StudyInstanceUid(study), reason, number)
                for study, reason, number in connection.execute(query)
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

    def unknown(self, orthanc_ids: Sequence[str]) -> list[str]:
        """Return those of Orthanc's identifiers, at most some hundreds, that the ledger does not know."""
        query = select(instances.c.orthanc_id).where(instances.c.orthanc_id.in_(orthanc_ids))
        with self._database.reading() as connection:
            known = set(connection.scalars(query))
        return [one for one in orthanc_ids if one not in known]

    def counts(self) -> tuple[int, int]:
        """Return the number of instances (present versions) and of studies."""
        query = select(func.sum(studies.c.number), func.count()).where(studies.c.number > 0)
        with self._database.reading() as connection:
            row = connection.execute(query).one()
            return row[0] or 0, row[1]

    def tally(self) -> dict[HolderName, dict[ObligationState, int]]:
        """Return the number of obligations of every holder in every state that occurs.

        Earlier versions of an instance count only while they are unsettled: proven is what is held now.
        """
        query = (
            select(tallies.c.holder, tallies.c.state, func.sum(tallies.c.number))
            .where(tallies.c.number > 0, or_(tallies.c.present, tallies.c.state.in_(_UNSETTLED)))
            .group_by(tallies.c.holder, tallies.c.state)
        )
        found: dict[HolderName, dict[ObligationState, int]] = {}
        with self._database.reading() as connection:
            for holder, state, number in connection.execute(query):
                found.setdefault(HolderName(holder), {})[ObligationState(state)] = number
        return found

    def oldest_unsettled(self, holder: HolderName) -> Timestamp | None:
        """Return since when the holder's longest unsettled obligation is owed, None where nothing is."""
        query = select(func.min(ages.c.since)).where(ages.c.holder == holder)
        with self._database.reading() as connection:
            value = connection.scalar(query)
            return None if value is None else Timestamp(value)

    def newest_unsettled(self) -> Timestamp | None:
        """Return since when the latest unsettled obligation of any holder is owed, None where nothing is."""
        with self._database.reading() as connection:
            value = connection.scalar(select(func.max(ages.c.since)))
            return None if value is None else Timestamp(value)

    def last_store(self, *, except_from: str) -> Timestamp | None:
        """Return when an instance last came over C-STORE from anybody but this AE title, None if never."""
        query = select(func.max(senders.c.last)).where(senders.c.calling_ae_title.not_in([except_from, ""]))
        with self._database.reading() as connection:
            value = connection.scalar(query)
            return None if value is None else Timestamp(value)

    def obligations(
        self, holder: str | None, state: ObligationState | None, limit: int, *, study: str | None = None
    ) -> list[ObligationView]:
        """Return obligations of one holder, state and study where given: what is not settled, then the rest;
        the longest unchanged first."""
        query = select(obligations, instances.c.sop_instance_uid, instances.c.study_instance_uid).join_from(
            obligations, instances, obligations.c.instance == instances.c.number
        )
        query = query.where(*meant(Selection(holder, None, study)))
        if state is not None:
            query = query.where(obligations.c.state == state.value)
        query = query.order_by(obligations.c.state.not_in(_UNSETTLED), obligations.c.changed).limit(limit)
        with self._database.reading() as connection:
            return [_view(row) for row in connection.execute(query)]


def unsettled_to(connection: Connection, holder: HolderName) -> int:
    """Return how many obligations to the holder are not settled, within a transaction."""
    # Counted anew and not looked up: on it rests that nothing is settled while something is owed.
    query = select(func.count()).where(obligations.c.holder == holder, obligations.c.state.in_(_UNSETTLED))
    return connection.scalar(query) or 0


def _none_of(besides: Set[StudyInstanceUid]) -> list[ColumnElement[bool]]:
    return [instances.c.study_instance_uid.not_in(sorted(besides))] if besides else []


def _ripe_study(
    rows: Sequence[Any], limit: int, max_bytes: int, now: float, linger: float
) -> StudyInstanceUid | None:
    """Return the first study, in order of due time, that is full or has waited for more for long enough."""
    total: dict[str, int] = {}
    count: dict[str, int] = {}
    newest: dict[str, float] = {}
    oldest: dict[str, float] = {}
    for study, size, since in rows:
        total[study] = total.get(study, 0) + size
        count[study] = count.get(study, 0) + 1
        newest[study] = max(newest.get(study, since), since)
        oldest[study] = min(oldest.get(study, since), since)
    for study in total:
        full = total[study] >= max_bytes or count[study] >= limit
        waited = newest[study] <= now - linger or oldest[study] <= now - _MOST_LINGERS * linger
        # Owed since a time to come: the clock was set back, and nobody knows how long it has waited.
        waited = waited or newest[study] > now + linger
        if full or waited:
            return StudyInstanceUid(study)
    return None


def _instance(row: Any) -> Instance:
    return Instance(*row)


def _view(row: Any) -> ObligationView:
    state = ObligationState(row.state)
    return ObligationView(
        holder=HolderName(row.holder),
        state=state,
        sop_instance_uid=row.sop_instance_uid,
        study_instance_uid=row.study_instance_uid,
        attempts=row.attempts,
        # Before it was owed there was nothing to do: that is its head start over others.
        due=iso(max(row.due, row.since)),
        changed=iso(row.changed),
        reason=row.reason,
        hint=hint_of(row.reason) if state is ObligationState.REFUSED else _HINTS.get(state, ""),
    )


def _latest_proofs(holder: HolderName, epoch: int) -> Subquery:
    """Select the latest proof of each instance of an epoch."""
    return (
        select(func.max(proofs.c.proof).label("proof"))
        .join_from(proofs, instances, proofs.c.instance == instances.c.number)
        .where(proofs.c.holder == holder, instances.c.epoch == epoch)
        .group_by(proofs.c.instance)
        .subquery()
    )
