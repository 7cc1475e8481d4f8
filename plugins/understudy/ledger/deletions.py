"""Deletions in the ledger: instances that are no longer in Orthanc, who decided that, and who else has them.

Rule 1: no row of an instance or an obligation is deleted. An instance is deleted if the damages say `gone` of
its present file. If it is stored again, it has another file, and is held again.
Rule 2: a forced deletion waives the obligations of an instance and writes one reason into these and into the
damage. If the instance turns out to be held after all, each obligation with that reason is owed again.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, and_, exists, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from understudy.core.deletion import Deletion, Standing, standing_of
from understudy.core.model import HolderName, Instance, InstanceNumber, Timestamp
from understudy.core.obligations import ObligationEvent, ObligationState, origins
from understudy.core.views import DamageState
from understudy.ledger.columns import as_text
from understudy.ledger.database import Book
from understudy.ledger.events import append_event
from understudy.ledger.schema import INSTANCE_COLUMNS, damages, instances, obligations
from understudy.ledger.transitions import SYSTEM, advance, chunks

DELETE = "delete"
"""The `found_by` of damages that a deletion recorded, and the kind of its event."""

UNKNOWN = "unknown"
"""The `who` of a deletion that nobody asked us for."""

_CHANGED = "understudy_gone"
"""Key in a connection's `info`: its transaction changed which instances are gone."""
_PRESENT = instances.c.superseded_by.is_(None)
_GONE = (
    damages.c.state == DamageState.GONE.value,
    damages.c.attachment_uuid == as_text(instances.c.attachment_uuid),
)
IS_HELD = and_(_PRESENT, ~exists().where(*_GONE))
"""Clause on instances: present versions whose file is not known to be gone."""
_NAMED = 100
"""An event names at most this many UIDs; its count includes all."""


def gone(*columns: Any) -> Select[Any]:
    """Select from present versions that are gone. The query begins at the damages, because they are few."""
    return (
        select(*columns)
        .join_from(damages, instances, damages.c.instance == instances.c.number)
        .where(_PRESENT, *_GONE)
    )


def gone_changes(connection: Connection) -> None:
    """Mark that this transaction changes which instances are gone."""
    connection.info[_CHANGED] = True


def gone_changed(connection: Connection) -> bool:
    """Return whether the transaction changed which instances are gone."""
    return bool(connection.info.get(_CHANGED))


class DeletionBook(Book):
    """Everything about deleted instances."""

    def chosen(self, what: Deletion) -> list[Instance]:
        """Return the held instances that the deletion names."""
        query = select(*INSTANCE_COLUMNS).where(
            IS_HELD, instances.c.study_instance_uid == what.study_instance_uid
        )
        if what.series_instance_uid is not None:
            query = query.where(instances.c.series_instance_uid == what.series_instance_uid)
        if what.sop_instance_uids is not None:
            query = query.where(instances.c.sop_instance_uid.in_(what.sop_instance_uids))
        with self._database.reading() as connection:
            return [Instance(*row) for row in connection.execute(query.order_by(instances.c.number))]

    def standing(self, numbers: Sequence[InstanceNumber], trusted: Collection[HolderName]) -> Standing:
        """Return how many of these each holder has or is owed; a proof counts only at a `trusted` holder."""
        found: list[tuple[InstanceNumber, HolderName, ObligationState]] = []
        query = select(obligations.c.instance, obligations.c.holder, obligations.c.state)
        with self._database.reading() as connection:
            for chunk in chunks(numbers):
                rows = connection.execute(query.where(obligations.c.instance.in_(chunk)))
                found += [
                    (InstanceNumber(number), HolderName(holder), ObligationState(state))
                    for number, holder, state in rows
                ]
        return standing_of(numbers, found, trusted)

    def record(
        self,
        found: Sequence[Instance],
        who: str,
        reason: str,
        fields: Mapping[str, object],
        now: Timestamp,
        *,
        waive: bool,
    ) -> None:
        """Record in one transaction, with an event, that these instances are no longer held.

        `waive` also waives their owed and refused obligations, because the files can no longer be read.
        `held_again` undoes that.
        """
        with self._database.writing() as connection:
            _mark_gone(connection, found, f"deleted by {who}: {reason}", now)
            if waive:
                _give_up(connection, [one.number for one in found], f"deleted by {who}: {reason}", now)
            told = {**_named(found), "reason": reason, **fields}
            append_event(connection, now, who, DELETE, told)

    def take_back(self, found: Sequence[Instance], reason: str, now: Timestamp) -> None:
        """Record that these instances are held after all: Orthanc still has them."""
        with self._database.writing() as connection:
            owed = held_again(connection, [one.attachment_uuid for one in found], reason, now)
            fields = {**_named(found), "reason": reason, "owed_again": owed}
            append_event(connection, now, SYSTEM, "keep", fields)

    def held_before(self, before: InstanceNumber | None, limit: int) -> list[Instance]:
        """Return held instances numbered below `before` (all if None), the latest first."""
        query = select(*INSTANCE_COLUMNS).where(IS_HELD)
        if before is not None:
            query = query.where(instances.c.number < before)
        return self._page(query, limit)

    def gone_before(self, before: InstanceNumber | None, limit: int) -> list[Instance]:
        """Return gone instances numbered below `before` (all if None), the latest first."""
        query = gone(*INSTANCE_COLUMNS)
        if before is not None:
            query = query.where(instances.c.number < before)
        return self._page(query, limit)

    def _page(self, query: Select[Any], limit: int) -> list[Instance]:
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(instances.c.number.desc()).limit(limit))
            return [Instance(*row) for row in rows]


def held_again(
    connection: Connection, files: Sequence[str], reason: str, now: Timestamp, *, found_by: Sequence[str] = ()
) -> int:
    """Record within a transaction that the instances of these files are not gone.

    With `found_by`, only the damages that one of these found. Owes again each obligation that the deletion
    waived, and returns how many.
    """
    gone_changes(connection)
    owed = 0
    for chunk in chunks(files):
        mine = [damages.c.attachment_uuid.in_(chunk), damages.c.state == DamageState.GONE.value]
        if found_by:
            mine.append(damages.c.found_by.in_(found_by))
        given_up = (
            select(obligations.c.holder, obligations.c.instance)
            .join(
                damages,
                and_(damages.c.instance == obligations.c.instance, damages.c.reason == obligations.c.reason),
            )
            .where(*mine, obligations.c.state == ObligationState.WAIVED.value)
        )
        by_holder = _by_holder(connection, given_up)
        for holder, numbers in by_holder.items():
            why = f"given up for a deletion, and kept: {reason}"
            advance(connection, ObligationEvent.RETURN, holder, numbers, now, due=now, reason=why)
            owed += len(numbers)
        healed = {"state": DamageState.HEALED.value, "reason": reason}
        connection.execute(update(damages).where(*mine).values(healed))
    return owed


def _mark_gone(connection: Connection, found: Sequence[Instance], reason: str, now: Timestamp) -> None:
    gone_changes(connection)
    values = {"state": DamageState.GONE.value, "found_by": DELETE, "since": now, "reason": reason}
    rows = [
        {"attachment_uuid": one.attachment_uuid, "instance": one.number, "due": now, "attempts": 0, **values}
        for one in found
    ]
    statement = upsert(damages)
    taken = {name: statement.excluded[name] for name in values}
    connection.execute(statement.on_conflict_do_update(["attachment_uuid"], set_=taken), rows)


def _give_up(connection: Connection, numbers: Sequence[InstanceNumber], reason: str, now: Timestamp) -> None:
    states = [state.value for state in origins(ObligationEvent.WAIVE)]
    for chunk in chunks(numbers):
        query = select(obligations.c.holder, obligations.c.instance).where(
            obligations.c.instance.in_(chunk), obligations.c.state.in_(states)
        )
        for holder, mine in _by_holder(connection, query).items():
            advance(connection, ObligationEvent.WAIVE, holder, mine, now, due=now, reason=reason)


def _by_holder(connection: Connection, query: Select[Any]) -> dict[HolderName, list[int]]:
    """Return the instance numbers of the selected obligations by holder."""
    found: dict[HolderName, list[int]] = {}
    for holder, number in connection.execute(query):
        found.setdefault(HolderName(holder), []).append(number)
    return dict(sorted(found.items()))


def _named(found: Sequence[Instance]) -> dict[str, object]:
    of_study = Counter(one.study_instance_uid for one in found)
    return {
        "instances": len(found),
        "studies": dict(of_study.most_common(_NAMED)),
        "sop_instance_uids": [one.sop_instance_uid for one in found[:_NAMED]],
    }
