"""What the inventory diff last found: gaps here, and departures from the primary."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Table, bindparam, func, select
from sqlalchemy.dialects.sqlite import insert as upsert

from understudy.core.model import StudyInstanceUid, Timestamp
from understudy.ledger.database import Book
from understudy.ledger.schema import departures, gaps


@dataclass(frozen=True, slots=True)
class Finding:
    """So many instances of one study, and since when that is known."""

    study: StudyInstanceUid
    instances: int
    since: Timestamp


@dataclass(frozen=True, slots=True)
class GapsTally:
    """How many instances of how many studies are missing here, and since when the oldest is known."""

    studies: int
    instances: int
    since: Timestamp | None


class GapBook(Book):
    """The gaps and departures of the ledger."""

    def write(self, missing: Mapping[StudyInstanceUid, int], now: Timestamp) -> None:
        """Replace the known gaps: what the primary has and we do not; a gap that stays keeps its age."""
        self._replace(gaps, missing, now)

    def read(self) -> list[Finding]:
        """Return the known gaps."""
        return self._read(gaps)

    def tally(self) -> GapsTally:
        """Return the known gaps in numbers: of a large archive there may be one for each of its studies."""
        query = select(func.count(), func.coalesce(func.sum(gaps.c.instances), 0), func.min(gaps.c.since))
        with self._database.reading() as connection:
            studies, number, since = connection.execute(query).one()
        return GapsTally(studies, number, None if since is None else Timestamp(since))

    def write_departures(self, lost: Mapping[StudyInstanceUid, int], now: Timestamp) -> None:
        """Replace the known departures: what the primary was proven to have and does not list any more."""
        self._replace(departures, lost, now)

    def read_departures(self) -> list[Finding]:
        """Return the known departures."""
        return self._read(departures)

    def _replace(self, table: Table, found: Mapping[StudyInstanceUid, int], now: Timestamp) -> None:
        with self._database.writing() as connection:
            rows = connection.execute(select(table.c.study_instance_uid, table.c.instances))
            known = {row.study_instance_uid: row.instances for row in rows}
            gone = [{"study": study} for study in known.keys() - found.keys()]
            if gone:
                deletion = table.delete().where(table.c.study_instance_uid == bindparam("study"))
                connection.execute(deletion, gone)
            changed = [
                {"study_instance_uid": study, "instances": number, "since": now}
                for study, number in found.items()
                if known.get(study) != number
            ]
            if changed:
                statement = upsert(table)
                kept = {"instances": statement.excluded.instances}
                connection.execute(
                    statement.on_conflict_do_update(index_elements=["study_instance_uid"], set_=kept), changed
                )

    def _read(self, table: Table) -> list[Finding]:
        with self._database.reading() as connection:
            rows = connection.execute(select(table)).all()
        return [
            Finding(StudyInstanceUid(row.study_instance_uid), row.instances, Timestamp(row.since))
            for row in rows
        ]
