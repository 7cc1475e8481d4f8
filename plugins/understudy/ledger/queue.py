"""The queue of a lane: what a holder is due to get, and what it acknowledged without a proof."""

import math
from collections.abc import Set

from sqlalchemy import ColumnElement, and_, select

from understudy.core.batch import ripe_study
from understudy.core.model import (
    HolderName,
    Instance,
    InstanceNumber,
    StudyInstanceUid,
    Timestamp,
)
from understudy.core.obligations import ObligationState
from understudy.ledger.database import Book
from understudy.ledger.schema import INSTANCE_COLUMNS, instances, obligations


class QueueBook(Book):
    """Everything that a lane asks to know what to do next."""

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
            study = ripe_study(connection.execute(query), limit, max_bytes, now, linger)
            if study is None:
                return []
            rows = connection.execute(
                select(*INSTANCE_COLUMNS)
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
                batch.append(Instance(*row))
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
                select(*INSTANCE_COLUMNS)
                .join_from(obligations, instances, obligations.c.instance == instances.c.number)
                .where(waiting, instances.c.study_instance_uid == first.study_instance_uid)
                .order_by(instances.c.number)
                .limit(limit)
            )
            return [Instance(*row) for row in rows]

    def in_flight(self, holder: HolderName) -> list[InstanceNumber]:
        """Return what is claimed for the holder and has no outcome yet."""
        query = select(obligations.c.instance).where(
            obligations.c.holder == holder, obligations.c.state == ObligationState.IN_FLIGHT.value
        )
        with self._database.reading() as connection:
            return [InstanceNumber(number) for number in connection.scalars(query)]


def _none_of(besides: Set[StudyInstanceUid]) -> list[ColumnElement[bool]]:
    return [instances.c.study_instance_uid.not_in(sorted(besides))] if besides else []
