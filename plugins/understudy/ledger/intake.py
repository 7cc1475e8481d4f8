"""Intake: records new instances and new versions of known ones, with their obligations."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    and_,
    bindparam,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from understudy.core.conflicts import ConflictKind
from understudy.core.model import HolderName, InstanceNumber, NewInstance, Proof, Timestamp
from understudy.core.obligations import REACHED, ObligationEvent, ObligationState, origins
from understudy.core.refusals import replaced
from understudy.core.rules import Debt, first_due
from understudy.ledger.columns import insert_rows
from understudy.ledger.conflicts import record_conflict
from understudy.ledger.counts import counted_together, days, senders, studies, tallies
from understudy.ledger.database import Book
from understudy.ledger.dead_letters import stored_again
from understudy.ledger.deletions import IS_HELD, gone
from understudy.ledger.events import append_event
from understudy.ledger.facts import mark_fact, read_cursor, read_fact, write_cursor, write_fact
from understudy.ledger.files import found_again
from understudy.ledger.modes import current_mode
from understudy.ledger.operations import RESCAN, begin_operation, cancel_running
from understudy.ledger.schema import instances, obligations, proofs
from understudy.ledger.transitions import (
    CHUNK,
    OBLIGATION,
    PROOF,
    SYSTEM,
    able,
    advance,
    disprove,
    obligation,
    owe,
    proof_row,
    write_proof,
)


@dataclass(frozen=True, slots=True)
class _Site:
    """The arguments of one call of `note` that all its instances share."""

    primary: HolderName | None
    primary_grace: float
    vaults: Collection[HolderName]
    stable_age: float
    epoch: int
    now: Timestamp

    def due(self, debt: Debt) -> Timestamp:
        """Return when the instance may first be sent to the holder."""
        primary = self.primary_grace if debt.holder == self.primary else None
        return first_due(debt, self.now, primary_grace=primary, stable_age=self.stable_age)


_MOST_STABLE_AGES = 10
"""An obligation waits for a growing study for at most this many times `stable_age`."""

_FIELDS = tuple(NewInstance.__dataclass_fields__)
_FIELDS_OF = attrgetter(*_FIELDS)

Noted = tuple[NewInstance, Sequence[Debt], Proof | None]
"""An instance, its debts, and the proof that the primary has it, if it came from there."""

_NUMBER_FROM = select(func.sum(senders.c.number)).where(
    senders.c.calling_ae_title.in_(bindparam("calling", expanding=True))
)


class IntakeBook(Book):
    """Everything that adds instances and obligations."""

    def note(
        self,
        noted: Sequence[Noted],
        *,
        primary: HolderName | None,
        primary_grace: float,
        vaults: Collection[HolderName],
        cursor: int,
        now: Timestamp,
        stable_age: float = 0.0,
        mark: str = "",
    ) -> int:
        """Record new instances, their obligations and the feed's cursor in one transaction.

        An obligation that waits for a stable study is due when the study has not grown for `stable_age`
        seconds. `mark` identifies the feed's last change. Returns how many instances were new. Repeating a
        call changes nothing.
        """
        with self._database.writing() as connection:
            epoch = current_mode(connection).epoch
            site = _Site(primary, primary_grace, vaults, stable_age, epoch, now)
            unheard, others = _sorted_out(connection, noted)
            _note_unheard(connection, unheard, site)
            fresh = unheard + [one for one in others if _note_one(connection, *one, site)]
            _wait_for_studies(connection, fresh, site)
            write_cursor(connection, "changes", cursor, mark)
            return len(fresh)

    def cursor(self, name: str) -> int:
        """Return a persisted cursor, 0 if it was never written."""
        with self._database.reading() as connection:
            return read_cursor(connection, name)

    def mark(self, name: str) -> str:
        """Return the mark that was written with the cursor, empty if there is none."""
        with self._database.reading() as connection:
            return read_fact(connection, mark_fact(name)) or ""

    def begin_rescan(self, because: str, *, cursor: int, now: Timestamp) -> None:
        """Follow another feed of changes from `cursor` on, and begin the operation that compares the rest."""
        with self._database.writing() as connection:
            fields = {"because": because, "cursor": read_cursor(connection, "changes"), "end": cursor}
            append_event(connection, now, SYSTEM, RESCAN, fields)
            write_cursor(connection, "changes", cursor)
            write_fact(connection, mark_fact("changes"), "")
            cancel_running(connection, RESCAN, "started again", now)
            total = connection.scalar(select(func.max(instances.c.number))) or 0
            begin_operation(connection, RESCAN, total=total, unit="instances", message=because, now=now)

    def owe_all(self, holder: HolderName, *, now: Timestamp) -> int:
        """Owe every held instance to a holder that was configured later; return how many were new to it."""
        missing = (
            select(
                instances.c.number,
                literal(holder),
                literal(ObligationState.OWED.value),
                *map(literal, (0, now, now, now)),
            )
            .where(IS_HELD)
            .where(
                ~exists().where(obligations.c.instance == instances.c.number, obligations.c.holder == holder)
            )
        )
        columns = ["instance", "holder", "state", "attempts", "since", "due", "changed"]
        with self._database.writing() as connection:
            # Without this check every start would read the whole ledger for every holder.
            if _owed_all(connection, holder):
                return 0
            number = connection.execute(
                insert(obligations).from_select([*columns, "reason"], missing.add_columns(literal("")))
            ).rowcount
            if number:
                append_event(connection, now, SYSTEM, "owe", {"holder": holder, "instances": number})
            return number

    def unknown(self, orthanc_ids: Sequence[str]) -> list[str]:
        """Return which of these Orthanc identifiers (at most some hundreds) the ledger does not know."""
        query = select(instances.c.orthanc_id).where(instances.c.orthanc_id.in_(orthanc_ids))
        with self._database.reading() as connection:
            known = set(connection.scalars(query))
        return [one for one in orthanc_ids if one not in known]

    def bytes_by_day(self, since: Timestamp) -> dict[int, int]:
        """Return the bytes received on each day, from the day of `since` on; days are counted from 1970."""
        query = select(days.c.day, days.c.bytes).where(days.c.day >= int(since // 86_400))
        with self._database.reading() as connection:
            return {row.day: row.bytes for row in connection.execute(query)}

    def number_from(self, calling_ae_titles: frozenset[str]) -> int:
        """Return how many instances came over C-STORE from these AE titles so far."""
        with self._database.reading() as connection:
            return connection.scalar(_NUMBER_FROM, {"calling": sorted(calling_ae_titles)}) or 0

    def last_store(self, *, except_from: frozenset[str]) -> Timestamp | None:
        """Return when an instance last came over C-STORE from any other AE title than these.

        Returns None if there was no such store.
        """
        others = senders.c.calling_ae_title.not_in([*sorted(except_from), ""])
        query = select(func.max(senders.c.last)).where(others)
        with self._database.reading() as connection:
            value = connection.scalar(query)
            return None if value is None else Timestamp(value)


def _owed_all(connection: Connection, holder: HolderName) -> bool:
    """Return whether the holder has an obligation for every present version.

    Deleted instances that were never owed to it do not count.
    """
    present = select(func.coalesce(func.sum(studies.c.number), 0))
    owed = select(func.coalesce(func.sum(tallies.c.number), 0)).where(
        tallies.c.holder == holder, tallies.c.present
    )
    ever = exists().where(obligations.c.instance == instances.c.number, obligations.c.holder == holder)
    never = gone(func.count()).where(~ever)
    return connection.scalar(present) == (connection.scalar(owed) or 0) + (connection.scalar(never) or 0)


def _sorted_out(connection: Connection, noted: Sequence[Noted]) -> tuple[list[Noted], list[Noted]]:
    """Return first the instances that share no identifier with a known or a new one, then the others."""
    orthanc_ids = Counter(instance.orthanc_id for instance, _, _ in noted)
    uids = Counter(instance.sop_instance_uid for instance, _, _ in noted)
    known_ids = _known(connection, instances.c.orthanc_id, list(orthanc_ids))
    known_uids = _known(connection, instances.c.sop_instance_uid, list(uids))
    unheard: list[Noted] = []
    others: list[Noted] = []
    for one in noted:
        orthanc_id, uid = one[0].orthanc_id, one[0].sop_instance_uid
        alone = orthanc_ids[orthanc_id] == uids[uid] == 1
        known = orthanc_id in known_ids or uid in known_uids
        (unheard if alone and not known else others).append(one)
    return unheard, others


def _known(connection: Connection, column: Column[str], values: Sequence[str]) -> set[str]:
    """Return which of the values occur in the column."""
    return {
        value
        for start in range(0, len(values), CHUNK)
        for value in connection.scalars(select(column).where(column.in_(values[start : start + CHUNK])))
    }


def _note_unheard(connection: Connection, noted: Sequence[Noted], site: _Site) -> None:
    """Record instances that share no identifier with a known one, with one statement for each table."""
    if not noted:
        return
    last = connection.scalar(select(func.max(instances.c.number))) or 0
    rows: list[Sequence[object]] = []
    owing: list[Sequence[object]] = []
    proven: list[Sequence[object]] = []
    for number, (instance, owed, received) in enumerate(noted, last + 1):
        rows.append((*_FIELDS_OF(instance), number, site.epoch))
        debts = {debt.holder: debt for debt in owed}
        for holder, debt in debts.items():
            owing.append(obligation(number, holder, ObligationState.OWED, site.due(debt), site.now))
        if received is not None and site.primary is not None and site.primary not in debts:
            owing.append(obligation(number, site.primary, ObligationState.PROVEN, site.now, site.now))
            proven.append(proof_row(number, site.primary, received))
    with counted_together(connection):
        insert_rows(connection, instances, (*_FIELDS, "number", "epoch"), rows)
        insert_rows(connection, obligations, OBLIGATION, owing)
    insert_rows(connection, proofs, PROOF, proven)


def _note_one(
    connection: Connection,
    instance: NewInstance,
    owed: Sequence[Debt],
    received: Proof | None,
    site: _Site,
) -> bool:
    """Record one instance and update its earlier versions; return whether it was new."""
    versions = connection.execute(
        select(
            instances.c.number, instances.c.md5, instances.c.attachment_uuid, instances.c.superseded_by
        ).where(instances.c.orthanc_id == instance.orthanc_id)
    ).all()
    same = next((row for row in versions if row.md5 == instance.md5), None)
    if same is not None and same.attachment_uuid == instance.attachment_uuid and same.superseded_by is None:
        return False
    if same is None:
        values = {name: getattr(instance, name) for name in NewInstance.__dataclass_fields__}
        number = connection.scalar(
            insert(instances).values(**values, epoch=site.epoch).returning(instances.c.number)
        )
        _compare_identities(connection, instance, number, site.now)
    else:
        # The same bytes are in a new file: after a deletion, or after a change was undone.
        number = same.number
        changes = {"attachment_uuid": instance.attachment_uuid, "superseded_by": None}
        connection.execute(update(instances).where(instances.c.number == number).values(**changes))
        stored_again(connection, number, site.now)
        found_again(connection, [same.attachment_uuid], site.now)
    _supersede(connection, [row for row in versions if row.number != number], number, site)
    if same is not None and same.superseded_by is None:
        # Its obligations were decided when it first came: a file that is read back in has no sender.
        return False
    for debt in owed:
        due = site.due(debt)
        owe(connection, number, debt.holder, ObligationState.OWED, due, site.now)
        if same is not None:
            _owe_again(connection, number, debt.holder, due, site.now)
    if same is not None:
        received_from = site.primary if received is not None else None
        _disprove_replaced(connection, number, [row.number for row in versions], received_from, site)
    if (
        received is not None
        and site.primary is not None
        and owe(connection, number, site.primary, ObligationState.PROVEN, site.now, site.now)
    ):
        write_proof(connection, number, site.primary, received)
    return same is None


def _wait_for_studies(connection: Connection, fresh: Sequence[Noted], site: _Site) -> None:
    """Delay obligations that wait for a stable study, because the study has grown.

    The delay ends at the latest `_MOST_STABLE_AGES` times `stable_age` after an obligation was first owed.
    """
    grown = {
        (debt.holder, instance.study_instance_uid)
        for instance, owed, _ in fresh
        for debt in owed
        if debt.when_stable
    }
    for holder, study in sorted(grown):
        of_study = select(instances.c.number).where(instances.c.study_instance_uid == study)
        waiting = and_(
            obligations.c.holder == holder,
            obligations.c.instance.in_(of_study),
            obligations.c.state == ObligationState.OWED.value,
            obligations.c.attempts == 0,
            # An obligation that is already due is not delayed.
            obligations.c.due > site.now,
        )
        latest = obligations.c.since + _MOST_STABLE_AGES * site.stable_age
        due = func.min(site.now + site.stable_age, latest)
        connection.execute(update(obligations).where(waiting).values(due=due))


def _supersede(connection: Connection, earlier: Sequence[Any], number: int, site: _Site) -> None:
    """Mark earlier versions of an instance whose content changed. Only the vaults still get them."""
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
            reason = replaced(number)
            advance(
                connection, ObligationEvent.WAIVE, HolderName(holder), [row.number], site.now, reason=reason
            )
        record_conflict(connection, row.number, number, ConflictKind.UNJUDGED, site.now)


def _disprove_replaced(
    connection: Connection,
    number: int,
    versions: Sequence[int],
    received_from: HolderName | None,
    site: _Site,
) -> None:
    """Owe a version that came back to each holder that may have got another version meanwhile.

    An archive keeps only the last content under a SOP Instance UID, so the earlier proof no longer holds. The
    vaults are left out, because they keep every version; so is the holder that sent us the version.
    """
    reached = (
        select(obligations.c.holder)
        .distinct()
        .where(
            obligations.c.instance.in_([version for version in versions if version != number]),
            obligations.c.holder.not_in([*site.vaults, received_from or ""]),
            # After a failed attempt the holder may have it all the same: its answer may have been lost.
            or_(obligations.c.state.in_([state.value for state in REACHED]), obligations.c.attempts > 0),
        )
        .order_by(obligations.c.holder)
    )
    reason = "its content came back after another one was sent there"
    for name in connection.scalars(reached).all():
        holder = HolderName(name)
        if believed := able(connection, ObligationEvent.DISPROVE, holder, [InstanceNumber(number)]):
            disprove(connection, holder, believed, reason=reason, now=site.now, due=site.now)


def _compare_identities(connection: Connection, instance: NewInstance, number: int, now: Timestamp) -> None:
    """Record a conflict if another instance has the same SOP Instance UID, which should be unique.

    A new instance gets one conflict, with the first held instance of that UID. One with each of them would
    make rows by the square of their number.
    """
    others = (
        select(instances.c.number)
        .where(
            instances.c.sop_instance_uid == instance.sop_instance_uid,
            instances.c.orthanc_id != instance.orthanc_id,
            instances.c.superseded_by.is_(None),
        )
        .order_by(instances.c.number)
        .limit(1)
    )
    other = connection.scalar(others.where(IS_HELD)) or connection.scalar(others)
    if other is not None:
        record_conflict(connection, other, number, ConflictKind.IDENTITY, now)


def _owe_again(
    connection: Connection, number: int, holder: HolderName, due: Timestamp, now: Timestamp
) -> None:
    """Owe a version that came back to a holder for which it was given up when another version replaced it."""
    given_up = able(connection, ObligationEvent.RETURN, holder, [InstanceNumber(number)])
    reason = "its content came back"
    advance(connection, ObligationEvent.RETURN, holder, given_up, now, due=due, reason=reason)
