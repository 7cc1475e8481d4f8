"""The result of the last inventory comparison: gaps here, and instances that the primary no longer lists."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Table, bindparam, func, select
from sqlalchemy.dialects.sqlite import insert as upsert

from understudy.core.model import StudyInstanceUid, Timestamp
from understudy.ledger.database import Book
from understudy.ledger.schema import departures, gaps


@dataclass(frozen=True, slots=True)
class Finding:
    """A number of instances of one study, and since when it is known."""

    study: StudyInstanceUid
    instances: int
    since: Timestamp


@dataclass(frozen=True, slots=True)
class GapsTally:
    """How many studies and instances are missing here, and since when the oldest gap is known."""

    studies: int
    instances: int
    since: Timestamp | None


_ALL = {table: select(table) for table in (gaps, departures)}
_TALLY = select(func.count(), func.coalesce(func.sum(gaps.c.instances), 0), func.min(gaps.c.since))


class GapBook(Book):
    """The gaps, and the departures: instances that the primary was proven to have and no longer lists."""

    def write(self, missing: Mapping[StudyInstanceUid, int], now: Timestamp) -> None:
        """Replace the known gaps: instances that only the primary has. A gap that stays keeps its age."""
        self._replace(gaps, missing, now)

    def read(self) -> list[Finding]:
        """Return the known gaps."""
        return self._read(gaps)

    def tally(self) -> GapsTally:
        """Return the known gaps in numbers: a large archive may have one for each of its studies."""
        with self._database.reading() as connection:
            studies, number, since = connection.execute(_TALLY).one()
        return GapsTally(studies, number, None if since is None else Timestamp(since))

    def write_departures(self, lost: Mapping[StudyInstanceUid, int], now: Timestamp) -> None:
        """Replace the known departures."""
        self._replace(departures, lost, now)

    def read_departures(self) -> list[Finding]:
        """Return the known departures."""
        return self._read(departures)

    def _replace(self, table: Table, found: Mapping[StudyInstanceUid, int], now: Timestamp) -> None:
        with self._database.writing() as connection:
            rows = connection.execute(_ALL[table])
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
            rows = connection.execute(_ALL[table]).all()
        return [
            Finding(StudyInstanceUid(row.study_instance_uid), row.instances, Timestamp(row.since))
            for row in rows
        ]
