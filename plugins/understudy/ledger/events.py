"""The event log: each event has a hash over itself and the event before, so a change of the log shows."""

import json
from collections.abc import Mapping

from sqlalchemy import Connection, exists, func, insert, select

from understudy.core.chain import first_unattested, link
from understudy.core.model import Timestamp
from understudy.core.modes import ModeEvent
from understudy.core.obligations import ObligationState
from understudy.core.text import counted
from understudy.ledger.anchor import Anchor, Link
from understudy.ledger.database import Book, Database
from understudy.ledger.schema import events, modes, obligations, proofs

_APPENDED = "understudy_appended"
"""Key in a connection's `info`: the last event that its transaction wrote."""

_LAST = select(events.c.event, events.c.chain).order_by(events.c.event.desc()).limit(1)
_APPEND = insert(events).returning(events.c.event)


class EventBook(Book):
    """The log of events, and the checks of its integrity."""

    def __init__(self, database: Database, anchor: Anchor) -> None:
        super().__init__(database)
        self._anchor = anchor
        anchor.begin(self.last(), follows=self._unanchored() is None)
        database.follow(self._follow)

    def log(self, who: str, kind: str, fields: Mapping[str, object], now: Timestamp) -> None:
        """Append an event in a transaction of its own."""
        with self._database.writing() as connection:
            append_event(connection, now, who, kind, fields)

    def latest_by(self, kind: str) -> str | None:
        """Return who caused the latest event of this kind, None if there is none."""
        query = select(events.c.who).where(events.c.kind == kind).order_by(events.c.event.desc()).limit(1)
        with self._database.reading() as connection:
            return connection.scalar(query)

    def broken(self) -> int | None:
        """Return the first event whose hash does not follow from its content and its predecessor, or None.

        The hashes of later events show that an event was changed or removed. The anchor shows that the last
        events, or all of them, were removed.
        """
        with self._database.reading() as connection:
            previous, expected = "", 1
            for row in connection.execute(select(events).order_by(events.c.event)):
                if row.event != expected or row.chain != link(
                    previous, row.at, row.who, row.kind, row.fields
                ):
                    return expected
                previous, expected = row.chain, expected + 1
        # Checked after the events, because the anchor follows events that are written meanwhile.
        lost = self._unanchored()
        return None if lost is None else min(lost, expected)

    def contradictions(self) -> list[str]:
        """Return the contradictions in the event log, or between it and other tables; each names a row."""
        found: list[str] = []
        broken = self.broken()
        if broken is not None:
            found.append(f"the event log is broken at event {broken}: changed, missing, or of another ledger")
        with self._database.reading() as connection:
            # A broken log proves nothing about the modes.
            change = None if broken is not None else _unattested_mode(connection)
            number, instance, holder = connection.execute(_UNPROVEN).one()
        if change is not None:
            found.append(f"mode change {change} is not what the event log says of it")
        if number:
            found.append(
                f"{counted(number, 'obligation is', 'obligations are')} proven without a proof, "
                f"first instance {instance} at {holder}"
            )
        return found

    def last(self) -> Link | None:
        """Return the last event and its hash, to be kept elsewhere."""
        with self._database.reading() as connection:
            return _last(connection)

    def _unanchored(self) -> int | None:
        """Return the event that the anchor names if the ledger lacks it or has another hash for it."""
        kept = self._anchor.read()
        if kept is None:
            return None
        query = select(events.c.chain).where(events.c.event == kept.event)
        with self._database.reading() as connection:
            return None if connection.scalar(query) == kept.chain else kept.event

    def _follow(self, connection: Connection) -> None:
        appended = connection.info.pop(_APPENDED, None)
        if appended is not None:
            self._anchor.follow(appended)


def append_event(
    connection: Connection, now: Timestamp, who: str, kind: str, fields: Mapping[str, object]
) -> None:
    """Append an event to the hash chain within a transaction: identifiers and numbers only."""
    text = json.dumps(dict(fields), sort_keys=True, separators=(",", ":"))
    previous = _last(connection)
    # A float, as the column returns it: the hash of 5 differs from that of 5.0.
    at = float(now)
    chain = link("" if previous is None else previous.chain, at, who, kind, text)
    row = {"at": at, "who": who, "kind": kind, "fields": text, "chain": chain}
    connection.info[_APPENDED] = Link(connection.scalar(_APPEND, row) or 0, chain)


def _last(connection: Connection) -> Link | None:
    row = connection.execute(_LAST).first()
    return None if row is None else Link(row.event, row.chain)


_UNPROVEN = select(func.count(), func.min(obligations.c.instance), obligations.c.holder).where(
    obligations.c.state == ObligationState.PROVEN.value,
    ~exists().where(proofs.c.instance == obligations.c.instance, proofs.c.holder == obligations.c.holder),
)
"""Counts proven obligations without a proof, with the first instance and its holder (SQLite takes the holder
from the row with the minimum)."""

_MODE_CHANGES = ("begin", *(event.value for event in ModeEvent))


def _unattested_mode(connection: Connection) -> int | None:
    """Return the first change of mode that differs from the event log."""
    told = select(events.c.fields, events.c.at).where(events.c.kind.in_(_MODE_CHANGES))
    attested = [
        (json.loads(fields), Timestamp(at))
        for fields, at in connection.execute(told.order_by(events.c.event))
    ]
    changes = connection.execute(select(modes.c.mode, modes.c.epoch, modes.c.at).order_by(modes.c.change))
    return first_unattested(attested, [(row.mode, row.epoch, row.at) for row in changes])
