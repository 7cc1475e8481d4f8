"""The queue of a lane: instances due to be sent to a holder, and acknowledged ones without a proof."""

import math
from collections.abc import Iterable, Set
from typing import Any

from sqlalchemy import Column, ColumnElement, Float, Select, and_, bindparam, select

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
    """The queries by which a lane decides what to do next."""

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
        """Return due instances of one study that is not in `besides`: the study that is due longest.

        At most `limit` instances and `max_bytes` bytes; a larger instance comes alone. A study whose newest
        owed instance is younger than `linger` seconds waits for more, unless it already fills `limit` or
        `max_bytes`, or its oldest instance has waited ten times as long. No regular wait exceeds `longest`
        seconds. An instance with a longer wait got it before the clock was set back, and comes if nothing
        else is due.
        """
        asked = {
            "holder": holder,
            "now": now,
            "ahead": now + longest,
            "besides": sorted(besides),
            "limit": limit,
            "looked_at": 4 * limit,
        }
        for studies, batch in (_DUE, _DUE_AHEAD):
            with self._database.reading() as connection:
                study = ripe_study(connection.execute(studies, asked), limit, max_bytes, now, linger)
                if study is not None:
                    return _within(max_bytes, connection.execute(batch, {**asked, "study": study}))
        return []

    def sent(
        self,
        holder: HolderName,
        *,
        now: Timestamp,
        limit: int,
        longest: float = math.inf,
        besides: Set[StudyInstanceUid] = frozenset(),
    ) -> list[Instance]:
        """Return acknowledged instances of one study, not in `besides`, whose proof may be asked for now.

        `longest` is as for `due`, but a wait as long as the time since the acknowledgement is normal, too.
        """
        asked = {
            "holder": holder,
            "now": now,
            "ahead": now + longest,
            "besides": sorted(besides),
            "limit": limit,
            "looked_at": 1,
        }
        for studies, batch in (_SENT, _SENT_AHEAD):
            with self._database.reading() as connection:
                first = connection.execute(studies, asked).first()
                if first is not None:
                    rows = connection.execute(batch, {**asked, "study": first.study_instance_uid})
                    return [Instance(*row) for row in rows]
        return []

    def in_flight(self, holder: HolderName) -> list[InstanceNumber]:
        """Return the instances that are claimed for the holder and have no outcome yet."""
        with self._database.reading() as connection:
            return [InstanceNumber(number) for number in connection.scalars(_IN_FLIGHT, {"holder": holder})]


def _within(max_bytes: int, rows: Iterable[Any]) -> list[Instance]:
    """Return the first instances that together have at most `max_bytes` bytes, at least one."""
    batch: list[Instance] = []
    total = 0
    for row in rows:
        total += row.size
        if batch and total > max_bytes:
            break
        batch.append(Instance(*row))
    return batch


def _looks(
    state: ObligationState, ready: ColumnElement[bool], *order: Column[Any]
) -> tuple[Select[Any], Select[Any]]:
    """Return two queries on the ready instances in a state: for their studies, and for those of one study."""
    waiting = (
        select(instances.c.study_instance_uid, instances.c.size, obligations.c.since)
        .join_from(obligations, instances, obligations.c.instance == instances.c.number)
        .where(obligations.c.holder == bindparam("holder"), obligations.c.state == state.value, ready)
    )
    study = instances.c.study_instance_uid
    return (
        waiting.where(study.not_in(bindparam("besides", expanding=True)))
        .order_by(*order)
        .limit(bindparam("looked_at")),
        waiting.with_only_columns(*INSTANCE_COLUMNS)
        .where(study == bindparam("study"))
        .order_by(instances.c.number)
        .limit(bindparam("limit")),
    )


# Built once: SQLAlchemy takes longer to build a statement than SQLite to answer it.
_NOW = bindparam("now", type_=Float)
_READY, _AHEAD = obligations.c.due <= _NOW, obligations.c.due > bindparam("ahead")
_DUE, _DUE_AHEAD = (
    _looks(ObligationState.OWED, ready, obligations.c.due, obligations.c.instance)
    for ready in (_READY, _AHEAD)
)
_SENT, _SENT_AHEAD = (
    _looks(ObligationState.SENT, ready, obligations.c.due)
    for ready in (_READY, and_(_AHEAD, obligations.c.due > _NOW + (_NOW - obligations.c.changed)))
)
_IN_FLIGHT = select(obligations.c.instance).where(
    obligations.c.holder == bindparam("holder"), obligations.c.state == ObligationState.IN_FLIGHT.value
)
