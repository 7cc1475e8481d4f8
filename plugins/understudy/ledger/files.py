"""The stored files in the ledger: those that were found missing or changed, and their healing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, or_, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from understudy.core.model import HolderName, Instance, InstanceNumber, Timestamp
from understudy.core.obligations import ObligationEvent, ObligationState
from understudy.core.refusals import FILE
from understudy.core.views import DamageState, DamageView
from understudy.ledger.database import Book
from understudy.ledger.deletions import DELETE, gone_changes, held_again
from understudy.ledger.events import append_event
from understudy.ledger.operations import RESCAN
from understudy.ledger.schema import INSTANCE_COLUMNS, damages, instances, obligations
from understudy.ledger.transitions import SYSTEM, able, advance

_PRESENT = instances.c.superseded_by.is_(None)


@dataclass(frozen=True, slots=True)
class OpenDamage:
    """A stored file that has to be healed."""

    file: str
    instance: InstanceNumber
    attempts: int
    missed: bool
    """Whether a rescan did not find the instance in Orthanc, and a person asked to heal it."""


class FileBook(Book):
    """Everything about the files behind the instances."""

    def damaged(self, instance: Instance, *, found_by: str, reason: str, now: Timestamp) -> bool:
        """Record a file that was found missing or changed; return False if that is already known and open."""
        with self._database.writing() as connection:
            known = connection.scalar(
                select(damages.c.state).where(damages.c.attachment_uuid == instance.attachment_uuid)
            )
            if known == DamageState.OPEN.value:
                return False
            values = {
                "instance": instance.number,
                "state": DamageState.OPEN.value,
                "found_by": found_by,
                "since": now,
                "due": now,
                "attempts": 0,
                "reason": reason,
            }
            statement = upsert(damages).values(attachment_uuid=instance.attachment_uuid, **values)
            connection.execute(
                statement.on_conflict_do_update(index_elements=["attachment_uuid"], set_=values)
            )
            fields = {
                "file": instance.attachment_uuid,
                "sop_instance_uid": instance.sop_instance_uid,
                "found_by": found_by,
                "reason": reason,
            }
            append_event(connection, now, SYSTEM, "damage", fields)
            return True

    def to_heal(self, *, now: Timestamp, cap: float, limit: int) -> list[OpenDamage]:
        """Return open damages that are due, the longest due first.

        A damage with more than `cap` seconds to wait is due, too: the clock was set back.
        """
        is_due = or_(damages.c.due <= now, damages.c.due > now + cap)
        return self._open(_OPEN.where(is_due).order_by(damages.c.due).limit(limit))

    def open_after(self, file: str, limit: int) -> list[OpenDamage]:
        """Return a page of all open damages in the order of their files, those after `file`."""
        later = damages.c.attachment_uuid > file
        return self._open(_OPEN.where(later).order_by(damages.c.attachment_uuid).limit(limit))

    def _open(self, query: Select[Any]) -> list[OpenDamage]:
        with self._database.reading() as connection:
            return [
                OpenDamage(row.attachment_uuid, InstanceNumber(row.instance), row.attempts, row.missed)
                for row in connection.execute(query)
            ]

    def not_healed(self, file: str, *, reason: str, due: Timestamp) -> None:
        """Record a failed attempt to heal a file, and when to try again."""
        with self._database.writing() as connection:
            connection.execute(
                update(damages)
                .where(damages.c.attachment_uuid == file, damages.c.state == DamageState.OPEN.value)
                .values(reason=reason, due=due, attempts=damages.c.attempts + 1)
            )

    def end_damage(self, file: str, state: DamageState, *, reason: str, now: Timestamp) -> None:
        """Close an open damage with an event."""
        open_one = (damages.c.attachment_uuid == file, damages.c.state == DamageState.OPEN.value)
        with self._database.writing() as connection:
            number = connection.scalar(select(damages.c.instance).where(*open_one))
            if number is None:
                return
            connection.execute(update(damages).where(*open_one).values(state=state.value, reason=reason))
            gone_changes(connection)
            append_event(connection, now, SYSTEM, "heal", {"file": file, "state": state.value, "how": reason})

    def compared(self, there: Sequence[str], gone: Sequence[Instance], now: Timestamp) -> None:
        """Record the outcome of a rescan: files that are there, and instances that Orthanc does not list."""
        outcome = {
            "state": DamageState.GONE.value,
            "found_by": RESCAN,
            "since": now,
            "reason": "Orthanc's index was replaced or restored, and does not list it",
        }
        rows = [
            {
                "attachment_uuid": one.attachment_uuid,
                "instance": one.number,
                "due": now,
                "attempts": 0,
                **outcome,
            }
            for one in gone
        ]
        statement = upsert(damages)
        # An instance that was deleted before is not missing.
        explained = or_(*(damages.c.found_by == one for one in _EXPLAINED))
        news = or_(damages.c.state != DamageState.GONE.value, ~explained)
        taken = {name: statement.excluded[name] for name in outcome}
        statement = statement.on_conflict_do_update(["attachment_uuid"], set_=taken, where=news)
        with self._database.writing() as connection:
            found_again(connection, there, now)
            if rows:
                connection.execute(statement, rows)

    def gone(self) -> tuple[int, Timestamp | None]:
        """Return how many instances the last rescans missed, and since when."""
        query = select(func.count(), func.min(damages.c.since)).where(*_MISSED)
        with self._database.reading() as connection:
            number, since = connection.execute(query).one()
            return number, None if since is None else Timestamp(since)

    def gone_by_study(self, limit: int) -> list[tuple[str, int]]:
        """Return studies with their number of instances that the last rescans missed, the most first."""
        number = func.count()
        query = (
            select(instances.c.study_instance_uid, number)
            .join_from(damages, instances, damages.c.instance == instances.c.number)
            .where(*_MISSED)
            .group_by(instances.c.study_instance_uid)
            .order_by(number.desc())
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [(study, count) for study, count in connection.execute(query)]

    def refused(self, holder: HolderName, limit: int) -> list[Instance]:
        """Return present versions that the holder's lane could not deliver because of their stored file.

        Those with an open damage are left out: they wait until they are healed, and must not fill the limit.
        """
        damaged = select(damages.c.instance).where(damages.c.state == DamageState.OPEN.value)
        query = (
            select(*INSTANCE_COLUMNS)
            .join_from(obligations, instances, obligations.c.instance == instances.c.number)
            .where(
                _PRESENT,
                obligations.c.holder == holder,
                obligations.c.state == ObligationState.REFUSED.value,
                obligations.c.reason.startswith(FILE),
                instances.c.number.not_in(damaged),
            )
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [Instance(*row) for row in connection.execute(query)]

    def reads_again(self, holder: HolderName, numbers: Sequence[InstanceNumber], *, now: Timestamp) -> None:
        """Owe to the holder again instances that were refused because of their stored file."""
        with self._database.writing() as connection:
            refused = able(connection, ObligationEvent.REPLAY, holder, numbers)
            reason = "its stored file can be read again"
            advance(connection, ObligationEvent.REPLAY, holder, refused, now, due=now, reason=reason)

    def open_missed(self, who: str, now: Timestamp) -> int:
        """Have the instances healed that a rescan did not find in Orthanc, with an event.

        Returns how many there are.
        """
        values = {
            "state": DamageState.OPEN.value,
            "reason": f"asked for by {who}",
            "attempts": 0,
            "due": now,
        }
        with self._database.writing() as connection:
            gone_changes(connection)
            number = connection.execute(update(damages).where(*_MISSED).values(values)).rowcount
            append_event(connection, now, who, "heal", {"missed": number})
            return number

    def damaged_since(self) -> Timestamp | None:
        """Return since when the oldest open damage is known, None if no damage is open."""
        query = select(func.min(damages.c.since)).where(damages.c.state == DamageState.OPEN.value)
        with self._database.reading() as connection:
            value = connection.scalar(query)
            return None if value is None else Timestamp(value)

    def counts(self) -> dict[DamageState, int]:
        """Return how many damages are in each state that occurs."""
        query = (
            select(damages.c.state, func.count())
            .where(damages.c.found_by != DELETE)
            .group_by(damages.c.state)
        )
        with self._database.reading() as connection:
            return {DamageState(state): number for state, number in connection.execute(query)}

    def damages(self, *, limit: int, missed: bool = False) -> Sequence[DamageView]:
        """Return damages: open ones first, then the latest.

        With `missed`, return only instances that a rescan did not find in Orthanc and nobody asked to heal.
        """
        query = (
            select(damages, *(instances.c[name] for name in _SHOWN))
            .join_from(damages, instances, damages.c.instance == instances.c.number)
            .where(*(_MISSED if missed else (damages.c.found_by != DELETE,)))
            .order_by(damages.c.state != DamageState.OPEN.value, damages.c.since.desc())
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [_view(row) for row in connection.execute(query)]


_OPEN = select(
    damages.c.attachment_uuid,
    damages.c.instance,
    damages.c.attempts,
    (damages.c.found_by == RESCAN).label("missed"),
).where(damages.c.state == DamageState.OPEN.value)
_MISSED = (damages.c.state == DamageState.GONE.value, damages.c.found_by == RESCAN)
_EXPLAINED = (RESCAN, DELETE)


def found_again(connection: Connection, files: Sequence[str], now: Timestamp) -> None:
    """Record within a transaction that Orthanc has these files after all.

    Ends the records of a rescan that missed their instances, or of a deletion.
    """
    held_again(connection, files, "Orthanc has its instance again", now, found_by=_EXPLAINED)


_SHOWN = ("sop_instance_uid", "study_instance_uid", "orthanc_id", "md5")


def _view(row: Any) -> DamageView:
    return DamageView(
        file=row.attachment_uuid,
        state=DamageState(row.state),
        sop_instance_uid=row.sop_instance_uid,
        study_instance_uid=row.study_instance_uid,
        orthanc_id=row.orthanc_id,
        md5=row.md5,
        found_by=row.found_by,
        since=Timestamp(row.since),
        attempts=row.attempts,
        reason=row.reason,
    )
