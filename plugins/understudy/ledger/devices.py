"""Devices: those that asked for associations at the edge, and those approved beyond the configuration."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, and_, exists, func, select
from sqlalchemy.dialects.sqlite import insert as upsert

from understudy.core.gate import Allowed, GateOutcome, Seen
from understudy.core.model import Timestamp
from understudy.core.views import ModalityView
from understudy.ledger.counts import senders
from understudy.ledger.database import Book
from understudy.ledger.events import append_event
from understudy.ledger.schema import approvals, devices, edge_batch

_MOST_DEVICES = 1000
"""Rows kept. A caller with a new AE title for every attempt displaces old rows, and the table stays small."""

_ANY = ""
"""Stands for any called AE title in the key of an approval, because NULL equals nothing."""

_NEW = upsert(devices)
_NOTE = _NEW.on_conflict_do_update(
    index_elements=list(devices.primary_key),
    set_={
        "last_seen": _NEW.excluded.last_seen,
        "associations": devices.c.associations + _NEW.excluded.associations,
        "refused": devices.c.refused + _NEW.excluded.refused,
        "outcome": _NEW.excluded.outcome,
        "reason": _NEW.excluded.reason,
    },
)

_REPORTED = exists().where(
    devices.c.calling_ae_title == senders.c.calling_ae_title,
    devices.c.called_ae_title == senders.c.called_ae_title,
)
"""Whether the edge reported the pair of AE titles."""


class DeviceBook(Book):
    """Everything about the devices that send here."""

    def edge_batch(self) -> int:
        """Return the number of the edge's batch of counts that was noted last, 0 if none was."""
        with self._database.reading() as connection:
            return connection.scalar(select(edge_batch.c.number)) or 0

    def note_seen(
        self,
        seen: Sequence[Seen],
        now: Timestamp,
        *,
        batch: int | None = None,
        known: Callable[[str, str, str], bool] = lambda *_: False,
    ) -> None:
        """Count associations and attempts by device, and store the number of the edge's batch with them.

        `known` takes address, calling and called AE title and returns whether the allow-list has them. Such
        devices are forgotten last.
        """
        with self._database.writing() as connection:
            if seen:
                connection.execute(_NOTE, [_row(one, now) for one in seen])
            if batch is not None:
                connection.execute(edge_batch.delete())
                connection.execute(edge_batch.insert().values(number=batch))
            self._forget(connection, known)

    def _forget(self, connection: Connection, known: Callable[[str, str, str], bool]) -> None:
        """Delete rows beyond `_MOST_DEVICES`: strangers first, the oldest before others."""
        surplus = (connection.scalar(select(func.count()).select_from(devices)) or 0) - _MOST_DEVICES
        if surplus <= 0:
            return
        rows = connection.execute(select(*devices.primary_key, devices.c.last_seen)).all()
        by_age = sorted(rows, key=lambda row: row.last_seen)
        by_age.sort(key=lambda row: known(row.remote_address, row.calling_ae_title, row.called_ae_title))
        for row in by_age[:surplus]:
            same = (column == getattr(row, column.name) for column in devices.primary_key)
            connection.execute(devices.delete().where(*same))

    def last_address(self, calling_ae_title: str, called_ae_title: str) -> str:
        """Return the address from which this pair of AE titles last came through the edge, empty if never."""
        query = select(devices.c.remote_address).where(
            devices.c.calling_ae_title == calling_ae_title,
            devices.c.called_ae_title == called_ae_title,
            devices.c.associations > 0,
        )
        with self._database.reading() as connection:
            return connection.scalar(query.order_by(devices.c.last_seen.desc()).limit(1)) or ""

    def approvals(self) -> list[Allowed]:
        """Return the approved entries, in the order of approval."""
        with self._database.reading() as connection:
            return [
                Allowed(row.calling_ae_title, row.network, row.called_ae_title or None)
                for row in connection.execute(select(approvals).order_by(approvals.c.at))
            ]

    def approve(self, entry: Allowed, who: str, now: Timestamp) -> bool:
        """Approve an entry; return False if it already was."""
        row = {
            "calling_ae_title": entry.calling_ae_title,
            "network": entry.network,
            "called_ae_title": entry.called_ae_title or _ANY,
        }
        with self._database.writing() as connection:
            done = connection.execute(
                upsert(approvals).values(**row, who=who, at=now).on_conflict_do_nothing()
            )
            if done.rowcount:
                append_event(connection, now, who, "approve", row)
            return bool(done.rowcount)

    def revoke(self, entry: Allowed, who: str, now: Timestamp) -> bool:
        """Revoke an approval; return False if there was none."""
        row = {
            "calling_ae_title": entry.calling_ae_title,
            "network": entry.network,
            "called_ae_title": entry.called_ae_title or _ANY,
        }
        with self._database.writing() as connection:
            matching = and_(*(approvals.c[name] == value for name, value in row.items()))
            done = connection.execute(approvals.delete().where(matching))
            if done.rowcount:
                append_event(connection, now, who, "revoke", row)
            return bool(done.rowcount)

    def refused_attempts(self, outcome: GateOutcome) -> list[ModalityView]:
        """Return the devices whose last attempt had this outcome, the latest first."""
        query = select(devices).where(devices.c.outcome == outcome.value)
        with self._database.reading() as connection:
            return [_view(row) for row in connection.execute(query.order_by(devices.c.last_seen.desc()))]

    def modalities(self, known: Callable[[str, str, str], bool]) -> list[ModalityView]:
        """Return every device that asked for an association or that instances came from, the latest first.

        `known` takes address, calling and called AE title and returns whether the allow-list has them.
        Orthanc sees only the edge's address, so instances are counted by the pair of AE titles. The address
        that Orthanc saw is shown only for a pair that no report of the edge names. Of these pairs the latest
        1000 are returned: a device that takes a new title for every image makes as many as it sends.
        """
        with self._database.reading() as connection:
            reported = connection.execute(select(devices)).all()
            sent = {
                (row.calling_ae_title, row.called_ae_title): row.number
                for row in connection.execute(select(senders).where(_REPORTED))
            }
            unreported = connection.execute(
                select(senders).where(~_REPORTED).order_by(senders.c.last.desc()).limit(_MOST_DEVICES)
            ).all()
        views = [
            replace(
                _view(row),
                # A caller that was never let in did not send the instances that came under its AE titles.
                instances=sent.get((row.calling_ae_title, row.called_ae_title), 0) if row.associations else 0,
                known=row.outcome != GateOutcome.REFUSED_CERTIFICATE.value
                and known(row.remote_address, row.calling_ae_title, row.called_ae_title),
            )
            for row in reported
        ]
        views += [
            ModalityView(
                calling_ae_title=row.calling_ae_title,
                called_ae_title=row.called_ae_title,
                remote_address=row.remote_address,
                instances=row.number,
                first_seen=Timestamp(row.first),
                last_seen=Timestamp(row.last),
                known=known(row.remote_address, row.calling_ae_title, row.called_ae_title),
            )
            for row in unreported
        ]
        return sorted(views, key=lambda view: view.last_seen, reverse=True)


def _row(one: Seen, now: Timestamp) -> dict[str, object]:
    """Return the row of a device that is seen for the first time."""
    accepted = one.outcome is GateOutcome.ACCEPTED
    return {
        "calling_ae_title": one.calling_ae_title,
        "called_ae_title": one.called_ae_title,
        "remote_address": one.address,
        "tls": one.tls,
        "first_seen": now,
        "last_seen": now,
        "associations": one.number if accepted else 0,
        "refused": 0 if accepted else one.number,
        "outcome": one.outcome.value,
        "reason": one.reason,
    }


def _view(row: Any) -> ModalityView:
    """Return the edge's report of a device, without its instances and without the allow-list's answer."""
    return ModalityView(
        calling_ae_title=row.calling_ae_title,
        called_ae_title=row.called_ae_title,
        remote_address=row.remote_address,
        instances=0,
        first_seen=Timestamp(row.first_seen),
        last_seen=Timestamp(row.last_seen),
        tls=bool(row.tls),
        associations=row.associations,
        refused=row.refused,
        outcome=row.outcome,
        reason=row.reason,
    )
