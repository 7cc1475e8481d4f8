"""Obligations as they are counted and shown. Nothing here writes to the ledger."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, Subquery, and_, bindparam, func, or_, select, union_all

from understudy.core.model import (
    HolderName,
    Instance,
    InstanceNumber,
    ProofKind,
    StudyInstanceUid,
    Timestamp,
)
from understudy.core.obligations import UNSETTLED, Obligation, ObligationState, Selection
from understudy.ledger.counts import ages, tallies
from understudy.ledger.database import Book
from understudy.ledger.dead_letters import meant
from understudy.ledger.facts import read_fact
from understudy.ledger.schema import INSTANCE_COLUMNS, conflicts, instances, obligations, proofs

_UNSETTLED = [state.value for state in UNSETTLED]

_TALLY = (
    select(tallies.c.holder, tallies.c.state, func.sum(tallies.c.number))
    .where(tallies.c.number > 0, or_(tallies.c.present, tallies.c.state.in_(_UNSETTLED)))
    .group_by(tallies.c.holder, tallies.c.state)
)

# Counted, not read from `tallies`: a failback must never settle while an instance is owed.
_UNSETTLED_TO = select(func.count()).where(
    obligations.c.holder == bindparam("holder"), obligations.c.state.in_(_UNSETTLED)
)

_LOOKED_BACK = 5000
"""Instances, the newest ones, among which `seen` looks for studies."""

_TELLS_CONTENT = [ProofKind.RECEIVED.value, ProofKind.READBACK.value]
"""Proofs for which the holder has sent the content itself."""

_OF_STUDY = (
    select(obligations.c.instance, obligations.c.state)
    .join_from(obligations, instances, obligations.c.instance == instances.c.number)
    .where(obligations.c.holder == bindparam("holder"), instances.c.study_instance_uid == bindparam("study"))
)
_STUDIES_WITH = (
    select(instances.c.study_instance_uid, func.count(instances.c.sop_instance_uid.distinct()).label("found"))
    .join_from(obligations, instances, obligations.c.instance == instances.c.number)
    .where(obligations.c.holder == bindparam("holder"), obligations.c.state == bindparam("state"))
    .where(instances.c.superseded_by.is_(None))
    # Not grouped by the column itself: SQLite would read its whole index to find a handful of obligations.
    .group_by(instances.c.study_instance_uid.concat(""))
)


class ObligationBook(Book):
    """Queries about obligations and their proofs. The queries of a lane are in QueueBook."""

    def of_study(self, holder: HolderName, study: StudyInstanceUid) -> dict[InstanceNumber, ObligationState]:
        """Return the state of every obligation of a study to a holder."""
        with self._database.reading() as connection:
            rows = connection.execute(_OF_STUDY, {"holder": holder, "study": study})
            return {InstanceNumber(row.instance): ObligationState(row.state) for row in rows}

    def studies_with(self, holder: HolderName, state: ObligationState) -> dict[StudyInstanceUid, int]:
        """Return how many SOP Instance UIDs of each study are in the state at the holder, if any are."""
        with self._database.reading() as connection:
            rows = connection.execute(_STUDIES_WITH, {"holder": holder, "state": state.value})
            return {StudyInstanceUid(row.study_instance_uid): row.found for row in rows}

    def proofs_of_epoch(
        self, holder: HolderName, epoch: int
    ) -> list[tuple[StudyInstanceUid, ProofKind, int]]:
        """Return (study, kind of the latest proof, number of instances) for what is proven of this epoch."""
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
                (StudyInstanceUid(study), ProofKind(kind), number)
                for study, kind, number in connection.execute(query)
            ]

    def proofs_of_epoch_with(self, holder: HolderName, epoch: int, key: str) -> int:
        """Return how many instances of this epoch are proven by a last proof whose evidence has this key."""
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
        """Return (study, reason, number) for the instances of this epoch that were waived for a holder."""
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
        """Return proven instances numbered above `after`, only present versions, in the order of numbers."""
        query = (
            select(*INSTANCE_COLUMNS)
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
            return [Instance(*row) for row in connection.execute(query)]

    def seen(self, holder: HolderName, *, before: int, studies: int, corrected: int) -> list[Instance]:
        """Return proven instances whose content was last seen at the holder, as a sample of all of them.

        First come instances that replaced another content, from the latest `corrected` conflicts; then the
        newest instance of each of the `studies` studies that grew last before the epoch `before`.
        """
        last = (
            select(proofs.c.kind)
            .where(proofs.c.instance == instances.c.number, proofs.c.holder == holder)
            .order_by(proofs.c.proof.desc())
            .limit(1)
            .scalar_subquery()
        )
        query = (
            select(*INSTANCE_COLUMNS, obligations.c.state)
            .join(obligations, obligations.c.instance == instances.c.number)
            .where(obligations.c.holder == holder, instances.c.superseded_by.is_(None))
            .where(last.in_(_TELLS_CONTENT))
        )
        latest = select(conflicts).order_by(conflicts.c.conflict.desc()).limit(corrected).subquery()
        versions = instances.alias("versions")
        replacing = select(versions.c.superseded_by).where(
            versions.c.number.in_(union_all(select(latest.c.earlier), select(latest.c.later)))
        )
        newest = (
            select(instances.c.number)
            .where(instances.c.epoch < before)
            .order_by(instances.c.number.desc())
            .limit(_LOOKED_BACK)
        )
        by_age = query.where(instances.c.number.in_(newest)).order_by(instances.c.number.desc())
        with self._database.reading() as connection:
            rows = list(connection.execute(query.where(instances.c.number.in_(replacing))))
            of_study: dict[str, Any] = {}
            for row in connection.execute(by_age):
                if row.study_instance_uid not in of_study:
                    if len(of_study) == studies:
                        break
                    of_study[row.study_instance_uid] = row
            rows += of_study.values()
        proven = [Instance(*row[:-1]) for row in rows if row.state == ObligationState.PROVEN.value]
        return list({instance.number: instance for instance in proven}.values())

    def in_state(
        self,
        holder: HolderName,
        state: ObligationState,
        numbers: Collection[InstanceNumber],
        *,
        reason: str = "",
    ) -> list[Instance]:
        """Return those of some hundred instances that are in the state, for a reason that begins so."""
        query = (
            select(*INSTANCE_COLUMNS)
            .join(obligations, obligations.c.instance == instances.c.number)
            .where(obligations.c.holder == holder, obligations.c.state == state.value)
            .where(obligations.c.reason.startswith(reason, autoescape=True))
            .where(instances.c.number.in_(numbers), instances.c.superseded_by.is_(None))
            .order_by(instances.c.number)
        )
        with self._database.reading() as connection:
            return [Instance(*row) for row in connection.execute(query)]

    def tally(self) -> dict[HolderName, dict[ObligationState, int]]:
        """Return the number of obligations of every holder in every state that occurs.

        Earlier versions of an instance count only while they are unsettled.
        """
        found: dict[HolderName, dict[ObligationState, int]] = {}
        with self._database.reading() as connection:
            for holder, state, number in connection.execute(_TALLY):
                found.setdefault(HolderName(holder), {})[ObligationState(state)] = number
        return found

    def oldest(self, holder: HolderName) -> Timestamp | None:
        """Return since when the holder's oldest unsettled obligation is owed, None if there is none."""
        query = select(func.min(ages.c.since)).where(ages.c.holder == holder)
        with self._database.reading() as connection:
            value = connection.scalar(query)
            return None if value is None else Timestamp(value)

    def newest(self) -> Timestamp | None:
        """Return since when the newest unsettled obligation of any holder is owed, None if there is none."""
        with self._database.reading() as connection:
            value = connection.scalar(select(func.max(ages.c.since)))
            return None if value is None else Timestamp(value)

    def listed(
        self, holder: str | None, state: ObligationState | None, limit: int, *, study: str | None = None
    ) -> list[Obligation]:
        """Return obligations, only those of the holder, state and study if given.

        Unsettled ones come first; among these and among the rest, those that are unchanged for longest.
        """
        query = select(obligations, instances.c.sop_instance_uid, instances.c.study_instance_uid).join_from(
            obligations, instances, obligations.c.instance == instances.c.number
        )
        query = query.where(*meant(Selection(holder, None, study)))
        if state is not None:
            query = query.where(obligations.c.state == state.value)
        query = query.order_by(obligations.c.state.not_in(_UNSETTLED), obligations.c.changed).limit(limit)
        with self._database.reading() as connection:
            return [_obligation(row) for row in connection.execute(query)]

    def altered(self, holder: HolderName) -> int:
        """Return how often the holder stored an instance with a warning, or got another encoding of it."""
        with self._database.reading() as connection:
            return int(read_fact(connection, altered_fact(holder)) or 0)


def unsettled_to(connection: Connection, holder: HolderName) -> int:
    """Return how many obligations to the holder are not settled, within a transaction."""
    return connection.scalar(_UNSETTLED_TO, {"holder": holder}) or 0


def _obligation(row: Any) -> Obligation:
    return Obligation(
        holder=HolderName(row.holder),
        state=ObligationState(row.state),
        sop_instance_uid=row.sop_instance_uid,
        study_instance_uid=row.study_instance_uid,
        attempts=row.attempts,
        # A due time before `since` is only a head start over other obligations.
        due=Timestamp(max(row.due, row.since)),
        changed=Timestamp(row.changed),
        reason=row.reason,
    )


def _latest_proofs(holder: HolderName, epoch: int) -> Subquery:
    """Select the holder's latest proof of each instance of an epoch."""
    return (
        select(func.max(proofs.c.proof).label("proof"))
        .join_from(proofs, instances, proofs.c.instance == instances.c.number)
        .where(proofs.c.holder == holder, instances.c.epoch == epoch)
        .group_by(proofs.c.instance)
        .subquery()
    )


def altered_fact(holder: HolderName) -> str:
    """Return the name of the fact that counts the instances that a holder altered."""
    return f"altered:{holder}"
