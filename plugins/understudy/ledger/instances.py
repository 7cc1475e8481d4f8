"""The instances that are held here, and their numbers."""

from sqlalchemy import Connection, bindparam, case, func, select

from understudy.core.model import Instance, InstanceNumber, StudyInstanceUid, Timestamp
from understudy.ledger.counts import studies
from understudy.ledger.database import Book, Database
from understudy.ledger.deletions import IS_HELD, gone, gone_changed
from understudy.ledger.schema import INSTANCE_COLUMNS, instances

_PRESENT = instances.c.superseded_by.is_(None)
_OF_STUDY = select(*INSTANCE_COLUMNS).where(_PRESENT, instances.c.study_instance_uid == bindparam("study"))
_STUDIES_OF_EPOCH = (
    select(instances.c.study_instance_uid).where(instances.c.epoch == bindparam("epoch")).distinct()
)


class InstanceBook(Book):
    """Queries about instances alone, without obligations."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._gone: tuple[int, int] | None = None
        self._changes = 0
        database.follow(self._follow)

    def after(self, after: InstanceNumber, limit: int, *, with_gone: bool = False) -> list[Instance]:
        """Return held instances numbered above `after`, in order; with `with_gone` also gone ones."""
        query = select(*INSTANCE_COLUMNS).where(
            _PRESENT if with_gone else IS_HELD, instances.c.number > after
        )
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(instances.c.number).limit(limit))
            return [Instance(*row) for row in rows]

    def present(self, number: InstanceNumber) -> Instance | None:
        """Return the instance, None if another version has replaced it."""
        query = select(*INSTANCE_COLUMNS).where(_PRESENT, instances.c.number == number)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
            return None if row is None else Instance(*row)

    def of_file(self, orthanc_id: str, attachment_uuid: str) -> Instance | None:
        """Return the present version whose file this is, None if there is none."""
        query = select(*INSTANCE_COLUMNS).where(
            _PRESENT,
            # Only the identifier has an index.
            instances.c.orthanc_id == orthanc_id,
            instances.c.attachment_uuid == attachment_uuid,
        )
        with self._database.reading() as connection:
            row = connection.execute(query).first()
            return None if row is None else Instance(*row)

    def of_study(self, study: StudyInstanceUid) -> list[Instance]:
        """Return the present version of every instance of a study."""
        with self._database.reading() as connection:
            return [Instance(*row) for row in connection.execute(_OF_STUDY, {"study": study})]

    def studies_of_epoch(self, epoch: int) -> set[StudyInstanceUid]:
        """Return the studies with an instance that was noted in this epoch."""
        with self._database.reading() as connection:
            return {StudyInstanceUid(uid) for uid in connection.scalars(_STUDIES_OF_EPOCH, {"epoch": epoch})}

    def studies_since(self, moment: Timestamp) -> set[StudyInstanceUid]:
        """Return the studies with an instance received at this moment or later; reads the whole table."""
        query = select(instances.c.study_instance_uid).where(instances.c.received_at >= moment).distinct()
        with self._database.reading() as connection:
            return {StudyInstanceUid(uid) for uid in connection.scalars(query)}

    def kinds(self) -> dict[tuple[str, str], int]:
        """Return the number of held instances by SOP class and transfer syntax; reads the whole table."""
        kind = (instances.c.sop_class_uid, instances.c.transfer_syntax_uid)
        query = select(*kind, func.count()).where(IS_HELD).group_by(*kind)
        with self._database.reading() as connection:
            return {(sop_class, syntax): number for sop_class, syntax, number in connection.execute(query)}

    def counts(self) -> tuple[int, int]:
        """Return the number of held instances and the number of their studies."""
        query = select(func.sum(studies.c.number), func.count()).where(studies.c.number > 0)
        with self._database.reading() as connection:
            known, of_studies = connection.execute(query).one()
        gone_here, emptied = self._count_gone()
        return (known or 0) - gone_here, of_studies - emptied

    def _count_gone(self) -> tuple[int, int]:
        """Return how many present versions are gone, and how many known studies have no held instance."""
        counted, changes = self._gone, self._changes
        if counted is None:
            of_study = (
                gone(instances.c.study_instance_uid.label("uid"), func.count().label("gone"))
                .group_by(instances.c.study_instance_uid)
                .subquery()
            )
            # A `case`, because SQLAlchemy would return the sum of comparisons as a boolean.
            empty = func.sum(case((of_study.c.gone >= studies.c.number, 1), else_=0))
            query = select(func.sum(of_study.c.gone), empty).join_from(
                of_study, studies, studies.c.study_instance_uid == of_study.c.uid
            )
            with self._database.reading() as connection:
                number, whole = connection.execute(query).one()
            counted = (number or 0, whole or 0)
            if changes == self._changes:
                self._gone = counted
        return counted

    def _follow(self, connection: Connection) -> None:
        """Discard the cached count if a transaction changed which instances are gone."""
        if gone_changed(connection):
            self._changes += 1
            self._gone = None
