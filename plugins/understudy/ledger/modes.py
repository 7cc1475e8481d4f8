"""The modes and epochs of the ledger, each change with its event in one transaction."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select

from understudy.core.errors import PreconditionError, StaleEpochError
from understudy.core.model import Timestamp
from understudy.core.modes import Mode, ModeEvent, after, next_epoch
from understudy.ledger.database import Book, Database
from understudy.ledger.events import append_event
from understudy.ledger.schema import modes


@dataclass(frozen=True, slots=True)
class ModeRecord:
    """The mode in force."""

    mode: Mode
    epoch: int
    since: Timestamp


Transaction = Connection
"""A transaction of the ledger, in which a guard can query."""

Guard = Callable[[Transaction], Sequence[str]]
"""Looks at the ledger inside the transition's own transaction and returns the reasons against the change."""

_CURRENT = select(modes).order_by(modes.c.change.desc()).limit(1)

_CHANGED_MODE = "understudy_mode"
"""Key in a connection's `info`: the mode that its transaction wrote."""


class ModeBook(Book):
    """The mode in force and those before it."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._known: ModeRecord | None = None
        database.follow(self._follow)

    def start(self, now: Timestamp) -> None:
        """Write the first mode, standby with epoch 0, if there is none yet."""
        with self._database.writing() as connection:
            if connection.execute(select(modes).limit(1)).first() is None:
                connection.execute(insert(modes).values(mode=Mode.STANDBY.value, epoch=0, at=now))
                append_event(connection, now, "understudy", "begin", {"mode": Mode.STANDBY.value, "epoch": 0})
            connection.info[_CHANGED_MODE] = current_mode(connection)

    @property
    def known(self) -> ModeRecord:
        """The mode in force, from memory, so that the caller does not wait for the ledger's disk.

        Only this process changes the mode. Raises LookupError before `start`.
        """
        if self._known is None:
            raise LookupError("the ledger was not started")
        return self._known

    def current(self) -> ModeRecord:
        """Return the mode in force."""
        with self._database.reading() as connection:
            return current_mode(connection)

    def began(self) -> Timestamp:
        """Return when this ledger was created."""
        with self._database.reading() as connection:
            return Timestamp(connection.scalar(select(modes.c.at).order_by(modes.c.change).limit(1)) or 0.0)

    def epoch_began(self, epoch: int) -> Timestamp:
        """Return when an epoch began: with its promotion, or for epoch 0 with the ledger."""
        with self._database.reading() as connection:
            return Timestamp(
                connection.scalar(select(func.min(modes.c.at)).where(modes.c.epoch == epoch)) or 0.0
            )

    def change(
        self,
        event: ModeEvent,
        *,
        epoch: int,
        who: str,
        fields: Mapping[str, object],
        now: Timestamp,
        guard: Guard | None = None,
    ) -> ModeRecord:
        """Change the mode in one durable transaction with its event row.

        Raises StaleEpochError if the caller saw another epoch, WrongModeError if the table does not allow the
        event, or PreconditionError with all reasons of the guard. In each case nothing is changed.
        """
        with self._database.writing() as connection:
            before = current_mode(connection)
            if epoch != before.epoch:
                raise StaleEpochError(
                    f"the epoch is {before.epoch}, not {epoch}",
                    "look at the status again: somebody acted meanwhile",
                )
            mode = after(before.mode, event)
            unmet = guard(connection) if guard is not None else ()
            if unmet:
                raise PreconditionError(f"{event.value} is refused", "each line says what to fix", unmet)
            new_epoch = next_epoch(before.epoch, event)
            connection.execute(insert(modes).values(mode=mode.value, epoch=new_epoch, at=now))
            told = {"from": before.mode.value, "to": mode.value, "epoch": new_epoch, **fields}
            append_event(connection, now, who, event.value, told)
            record = connection.info[_CHANGED_MODE] = ModeRecord(mode, new_epoch, now)
            return record

    def _follow(self, connection: Connection) -> None:
        """Remember the mode that a committed transaction wrote."""
        self._known = connection.info.get(_CHANGED_MODE, self._known)


def current_mode(connection: Connection) -> ModeRecord:
    """Return the mode in force, within a transaction."""
    row = connection.execute(_CURRENT).one()
    return ModeRecord(Mode(row.mode), row.epoch, Timestamp(row.at))
