"""Conflicts in the ledger: two contents under one SOP Instance UID, and versions that only the disk has."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, exists, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from understudy.core.conflicts import ConflictKind, ConflictView, VersionView, is_unresolved
from understudy.core.errors import NotFoundError
from understudy.core.model import HolderName, Instance, NewInstance, ProofKind, Timestamp
from understudy.core.obligations import ObligationState
from understudy.ledger.database import Book
from understudy.ledger.events import append_event
from understudy.ledger.modes import current_mode
from understudy.ledger.schema import INSTANCE_COLUMNS, conflicts, instances, obligations, proofs
from understudy.ledger.transitions import SYSTEM, owe

_FIELDS = tuple(NewInstance.__dataclass_fields__)
_EARLIER, _LATER = instances.alias("earlier"), instances.alias("later")
_TO_ACT = [kind.value for kind in ConflictKind if is_unresolved(kind, None)]

_QUERY = (
    select(
        conflicts,
        *(
            table.c[name].label(f"{label}_{name}")
            for table, label in ((_EARLIER, "earlier"), (_LATER, "later"))
            for name in (*_FIELDS, "superseded_by")
        ),
    )
    .join_from(conflicts, _EARLIER, conflicts.c.earlier == _EARLIER.c.number)
    .join(_LATER, conflicts.c.later == _LATER.c.number)
)
_IDENTITIES = _QUERY.where(
    conflicts.c.acknowledged.is_(None),
    conflicts.c.kind == ConflictKind.IDENTITY.value,
    _LATER.c.epoch == bindparam("epoch"),
    ~exists().where(
        proofs.c.instance == _LATER.c.number,
        proofs.c.holder == bindparam("holder"),
        proofs.c.kind == ProofKind.RECEIVED.value,
    ),
).order_by(conflicts.c.conflict)


class ConflictBook(Book):
    """Everything about versions of an instance."""

    def versions_of(self, orthanc_id: str) -> Mapping[str, bool]:
        """Return, for the MD5 of every known version of an instance, whether it is the present version."""
        query = select(instances.c.md5, instances.c.superseded_by).where(instances.c.orthanc_id == orthanc_id)
        with self._database.reading() as connection:
            return {row.md5: row.superseded_by is None for row in connection.execute(query)}

    def keep_version(self, version: NewInstance, vaults: Sequence[HolderName], now: Timestamp) -> bool:
        """Record a version that was replaced before it was noted, and owe it to the vaults.

        Returns whether it was new. There has to be another version of the instance.
        """
        with self._database.writing() as connection:
            rows = connection.execute(
                select(instances.c.number, instances.c.md5, instances.c.superseded_by)
                .where(instances.c.orthanc_id == version.orthanc_id)
                .order_by(instances.c.superseded_by.is_not(None), instances.c.number.desc())
            ).all()
            if any(row.md5 == version.md5 for row in rows):
                return False
            values = {name: getattr(version, name) for name in _FIELDS}
            epoch = current_mode(connection).epoch
            number = connection.scalar(
                insert(instances)
                .values(**values, epoch=epoch, superseded_by=rows[0].number)
                .returning(instances.c.number)
            )
            for vault in vaults:
                owe(connection, number or 0, vault, ObligationState.OWED, now, now)
            record_conflict(connection, number or 0, rows[0].number, ConflictKind.UNJUDGED, now)
            return True

    def listed(
        self, *, everything: bool, sop_instance_uid: str | None = None, limit: int = 100
    ) -> list[ConflictView]:
        """Return conflicts, the latest first: open ones, or all of them."""
        query = _QUERY
        if not everything:
            query = query.where(conflicts.c.acknowledged.is_(None), conflicts.c.kind.in_(_TO_ACT))
        if sop_instance_uid is not None:
            query = query.where(_EARLIER.c.sop_instance_uid == sop_instance_uid)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(conflicts.c.conflict.desc()).limit(limit))
            return [_view(row) for row in rows]

    def identities_of_epoch(self, holder: HolderName, epoch: int) -> list[ConflictView]:
        """Return the open conflicts between patients whose later instance came in this epoch.

        A conflict is left out if the holder itself sent the later instance, because that is the holder's own
        version of the earlier one.
        """
        with self._database.reading() as connection:
            return [_view(row) for row in connection.execute(_IDENTITIES, {"holder": holder, "epoch": epoch})]

    def undone_in_epoch(self, holder: HolderName, epoch: int) -> list[ConflictView]:
        """Return the open conflicts in which an older content came back in place of one of this epoch.

        The holder itself may have sent the older one, for example after a restore from its backup. A conflict
        is left out if the holder was proven to have the content of the epoch before it was replaced, or was
        never owed it: then that content is the older one, and was found late (`keep_version`).
        """
        never_proven = exists().where(
            obligations.c.instance == _EARLIER.c.number,
            obligations.c.holder == holder,
            obligations.c.state != ObligationState.PROVEN.value,
        )
        query = _QUERY.where(
            conflicts.c.acknowledged.is_(None),
            conflicts.c.kind.in_([ConflictKind.UNJUDGED.value, ConflictKind.CONTENT.value]),
            # The content that was noted first is the later one of this conflict.
            _EARLIER.c.number > _LATER.c.number,
            _EARLIER.c.superseded_by == _LATER.c.number,
            _EARLIER.c.epoch == epoch,
            never_proven,
        )
        with self._database.reading() as connection:
            return [_view(row) for row in connection.execute(query.order_by(conflicts.c.conflict))]

    def get(self, number: int) -> ConflictView:
        """Return one conflict, or raise NotFoundError."""
        with self._database.reading() as connection:
            row = connection.execute(_QUERY.where(conflicts.c.conflict == number)).first()
        if row is None:
            raise NotFoundError(f"there is no conflict {number}", "GET /understudy/conflicts lists them")
        return _view(row)

    def open(self) -> tuple[int, Timestamp]:
        """Return how many conflicts nobody has acknowledged, and since when the oldest is known."""
        query = select(func.count(), func.min(conflicts.c.at)).where(
            conflicts.c.acknowledged.is_(None), conflicts.c.kind.in_(_TO_ACT)
        )
        with self._database.reading() as connection:
            row = connection.execute(query).one()
            return row[0], Timestamp(row[1] or 0.0)

    def version(self, orthanc_id: str, md5: str) -> Instance:
        """Return one version of an instance, or raise NotFoundError."""
        query = select(*INSTANCE_COLUMNS).where(instances.c.orthanc_id == orthanc_id, instances.c.md5 == md5)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise NotFoundError(
                f"there is no version {md5} of that instance", "GET /understudy/conflicts lists them"
            )
        return Instance(*row)

    def unjudged(self, limit: int) -> list[ConflictView]:
        """Return conflicts whose contents were not compared yet, the oldest first."""
        query = _QUERY.where(conflicts.c.kind == ConflictKind.UNJUDGED.value)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(conflicts.c.conflict).limit(limit))
            return [_view(row) for row in rows]

    def judged(self, number: int, kind: ConflictKind) -> None:
        """Record the kind of a conflict whose contents have now been compared."""
        unjudged = conflicts.c.kind == ConflictKind.UNJUDGED.value
        with self._database.writing() as connection:
            connection.execute(
                update(conflicts).where(conflicts.c.conflict == number, unjudged).values(kind=kind.value)
            )

    def acknowledge(self, number: int, who: str, reason: str, now: Timestamp) -> ConflictView:
        """Close a conflict with a reason; both versions stay. A closed conflict stays as it is."""
        with self._database.writing() as connection:
            changed = connection.execute(
                update(conflicts)
                .where(conflicts.c.conflict == number, conflicts.c.acknowledged.is_(None))
                .values(acknowledged=now, acknowledged_by=who, reason=reason)
            ).rowcount
            if changed:
                fields = {"conflict": number, "reason": reason}
                append_event(connection, now, who, "acknowledge", fields)
        return self.get(number)


def record_conflict(
    connection: Connection, earlier: int, later: int, kind: ConflictKind, now: Timestamp
) -> None:
    """Record two versions under one SOP Instance UID, once, with an event; within a transaction."""
    statement = upsert(conflicts).values(
        at=now, kind=kind.value, earlier=earlier, later=later, acknowledged_by="", reason=""
    )
    written = connection.execute(statement.on_conflict_do_nothing(index_elements=["earlier", "later"]))
    if written.rowcount:
        md5s = {
            row.number: row.md5
            for row in connection.execute(
                select(instances.c.number, instances.c.md5).where(instances.c.number.in_((earlier, later)))
            )
        }
        fields = {
            "earlier": earlier,
            "earlier_md5": md5s[earlier],
            "later": later,
            "later_md5": md5s[later],
        }
        append_event(connection, now, SYSTEM, "conflict", fields)


def _view(row: Any) -> ConflictView:
    return ConflictView(
        conflict=row.conflict,
        kind=ConflictKind(row.kind),
        sop_instance_uid=row.earlier_sop_instance_uid,
        at=Timestamp(row.at),
        earlier=_version(row, "earlier"),
        later=_version(row, "later"),
        unresolved=is_unresolved(ConflictKind(row.kind), row.acknowledged),
        acknowledged=row.acknowledged,
        acknowledged_by=row.acknowledged_by,
        reason=row.reason,
    )


def _version(row: Any, label: str) -> VersionView:
    values = {name: getattr(row, f"{label}_{name}") for name in (*_FIELDS, "superseded_by")}
    return VersionView(
        orthanc_id=values["orthanc_id"],
        md5=values["md5"],
        size=values["size"],
        received=Timestamp(values["received_at"]),
        sender=values["calling_ae_title"],
        address=values["remote_address"],
        study_instance_uid=values["study_instance_uid"],
        present=values["superseded_by"] is None,
    )
