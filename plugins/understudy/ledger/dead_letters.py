"""Dead letters: refused obligations, which wait for a person to replay or waive them.

Rule 1: both acts can be repeated. An obligation on which the act was done before is left alone, not counted.
Rule 2: each act that changes anything leaves an event with who, why and the epoch.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, func, select, update
from sqlalchemy.sql.elements import ColumnElement

from understudy.core.errors import NotFoundError, RefusedError, StaleEpochError
from understudy.core.model import HolderName, InstanceNumber, Timestamp
from understudy.core.obligations import DeadLetters, ObligationEvent, ObligationState, Selection, origins
from understudy.core.refusals import DELETED, FILE, deleted
from understudy.ledger.database import Book
from understudy.ledger.events import append_event
from understudy.ledger.modes import current_mode
from understudy.ledger.schema import instances, obligations
from understudy.ledger.transitions import advance

_REFUSED = obligations.c.state == ObligationState.REFUSED.value
_FIXED_BY_A_STORE = obligations.c.reason.startswith(FILE) | obligations.c.reason.startswith(DELETED)


class DeadLetterBook(Book):
    """Everything about refused obligations."""

    def listed(self, selection: Selection) -> list[DeadLetters]:
        """Return refused obligations by holder and reason, the longest refused first."""
        first = func.min(obligations.c.changed)
        query = (
            _joined(
                select(
                    obligations.c.holder,
                    obligations.c.reason,
                    func.count(),
                    func.count(instances.c.study_instance_uid.distinct()),
                    first,
                    func.max(obligations.c.changed),
                    func.min(instances.c.sop_instance_uid),
                )
            )
            .where(_REFUSED, *meant(selection))
            .group_by(obligations.c.holder, obligations.c.reason)
            .order_by(first)
        )
        with self._database.reading() as connection:
            return [
                DeadLetters(
                    HolderName(holder),
                    reason,
                    number,
                    studies,
                    Timestamp(since),
                    Timestamp(latest),
                    uid,
                )
                for holder, reason, number, studies, since, latest, uid in connection.execute(query)
            ]

    def since(self, holder: HolderName) -> Timestamp | None:
        """Return when the holder's oldest dead letter was refused, None if there is none."""
        query = select(func.min(obligations.c.changed)).where(obligations.c.holder == holder, _REFUSED)
        with self._database.reading() as connection:
            value = connection.scalar(query)
            return None if value is None else Timestamp(value)

    def replay(
        self,
        holder: str | None,
        sop_instance_uids: Sequence[str] | None,
        who: str,
        now: Timestamp,
        *,
        study: str | None = None,
        reason: str = "",
        epoch: int | None = None,
    ) -> int:
        """Owe refused instances again, those that match every given argument; return how many.

        Raises NotFoundError if no obligation matches, and StaleEpochError if the caller saw another epoch.
        """
        selection = Selection(holder, sop_instance_uids, study)
        told = f"replayed by {who}" + (f": {reason}" if reason else "")
        with self._database.writing() as connection:
            return _act(connection, ObligationEvent.REPLAY, selection, who, reason, told, epoch, now)

    def waive(
        self,
        holder: str,
        sop_instance_uids: Sequence[str] | None,
        reason: str,
        who: str,
        now: Timestamp,
        *,
        study: str | None = None,
        epoch: int | None = None,
    ) -> int:
        """Waive owed or refused instances, by name or by study, with a reason; return how many.

        Raises as `replay` does, and RefusedError without a reason or without instances and study.
        """
        if not reason.strip():
            raise RefusedError("a waiver needs a reason", "say why this holder need not have these instances")
        if sop_instance_uids is None and study is None:
            raise RefusedError("a waiver is for named instances or for one study", "name them")
        selection = Selection(holder, sop_instance_uids, study)
        with self._database.writing() as connection:
            return _act(connection, ObligationEvent.WAIVE, selection, who, reason, reason, epoch, now)

    def deleted_here(self, number: InstanceNumber) -> None:
        """Rewrite the reason of each refusal that blames the file: the instance is no longer in Orthanc."""
        with self._database.writing() as connection:
            mine = obligations.c.instance == number
            proven = obligations.c.state == ObligationState.PROVEN.value
            holders = connection.scalars(select(obligations.c.holder).where(mine, proven)).all()
            blaming = (mine, _REFUSED, obligations.c.reason.startswith(FILE))
            connection.execute(update(obligations).where(*blaming).values(reason=deleted(sorted(holders))))


def stored_again(connection: Connection, number: int, now: Timestamp) -> None:
    """Owe again each obligation that was refused because of the instance's file, which is now a new one."""
    refused = connection.scalars(
        select(obligations.c.holder).where(obligations.c.instance == number, _REFUSED, _FIXED_BY_A_STORE)
    ).all()
    for holder in refused:
        reason = "it was stored again"
        advance(connection, ObligationEvent.REPLAY, HolderName(holder), [number], now, due=now, reason=reason)


def _act(
    connection: Connection,
    event: ObligationEvent,
    selection: Selection,
    who: str,
    reason: str,
    told: str,
    epoch: int | None,
    now: Timestamp,
) -> int:
    present = current_mode(connection).epoch
    if epoch not in (None, present):
        raise StaleEpochError(
            f"the epoch is {present}, not {epoch}", "look at the status again: somebody acted meanwhile"
        )
    columns = (obligations.c.holder, obligations.c.instance, instances.c.sop_instance_uid)
    asked = _joined(select(*columns)).where(*meant(selection))
    states = [state.value for state in origins(event)]
    rows = connection.execute(asked.where(obligations.c.state.in_(states))).all()
    if not rows and connection.execute(asked.limit(1)).first() is None:
        raise NotFoundError(
            "no such obligation", "GET /understudy/obligations lists what is owed or refused, and to whom"
        )
    for holder in sorted({row.holder for row in rows}):
        numbers = [row.instance for row in rows if row.holder == holder]
        advance(connection, event, HolderName(holder), numbers, now, due=now, reason=told)
        fields: dict[str, object] = {
            "holder": holder,
            "instances": len(numbers),
            "epoch": present,
            "reason": reason,
        }
        if event is ObligationEvent.WAIVE:
            # A waiver cannot be undone, so its event names every instance.
            fields["uids"] = sorted({row.sop_instance_uid for row in rows})
        append_event(connection, now, who, event.value, fields)
    return len(rows)


def _joined(query: Select[Any]) -> Select[Any]:
    return query.join_from(obligations, instances, obligations.c.instance == instances.c.number)


def meant(selection: Selection) -> list[ColumnElement[bool]]:
    """Return a selection as clauses on obligations joined with their instances."""
    found: list[ColumnElement[bool]] = []
    if selection.holder is not None:
        found.append(obligations.c.holder == selection.holder)
    if selection.sop_instance_uids is not None:
        found.append(instances.c.sop_instance_uid.in_(selection.sop_instance_uids))
    if selection.study_instance_uid is not None:
        found.append(instances.c.study_instance_uid == selection.study_instance_uid)
    return found
