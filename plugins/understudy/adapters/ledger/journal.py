"""The journal: modes and epochs, operations, cursors and events."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from understudy.adapters.ledger.chain import Chain, append_event
from understudy.adapters.ledger.schema import instances, ledger_facts, modes, operations
from understudy.core.errors import NotFoundError, PreconditionError, StaleEpochError
from understudy.core.model import Timestamp
from understudy.core.modes import Mode, ModeEvent, after, next_epoch
from understudy.core.views import OperationState, OperationView, iso


@dataclass(frozen=True, slots=True)
class ModeRecord:
    """The mode in force."""

    mode: Mode
    epoch: int
    since: Timestamp


Transaction = Connection
"""A transaction of the ledger, for a guard that looks at it from inside."""

Guard = Callable[[Transaction], Sequence[str]]
"""Looks at the ledger inside the transition's own transaction and returns what stands against it."""


RESCAN = "rescan"
"""The operation that compares all that Orthanc holds with the ledger, and what it finds missing."""

_RUNNING = OperationState.RUNNING.value


class Journal(Chain):
    """The modes, operations, cursors and events of the ledger."""

    def start(self, now: Timestamp) -> None:
        """Write the first mode where there is none: standby, epoch 0."""
        with self._database.writing() as connection:
            if connection.execute(select(modes).limit(1)).first() is None:
                connection.execute(insert(modes).values(mode=Mode.STANDBY.value, epoch=0, at=now))
                append_event(connection, now, "understudy", "begin", {"mode": Mode.STANDBY.value, "epoch": 0})

    def mode(self) -> ModeRecord:
        """Return the mode in force."""
        with self._database.reading() as connection:
            return current_mode(connection)

    def began(self) -> Timestamp:
        """Return when this ledger was begun."""
        with self._database.reading() as connection:
            return Timestamp(connection.scalar(select(modes.c.at).order_by(modes.c.change).limit(1)) or 0.0)

    def epoch_began(self, epoch: int) -> Timestamp:
        """Return when an epoch began: that of the promotion, for every epoch but the first."""
        with self._database.reading() as connection:
            return Timestamp(
                connection.scalar(select(func.min(modes.c.at)).where(modes.c.epoch == epoch)) or 0.0
            )

    def change_mode(
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

        Raises StaleEpochError where the caller saw another epoch, WrongModeError where the event is not in
        the table, PreconditionError with all that the guard found; in each case nothing is changed.
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
                raise PreconditionError(f"{event.value} is refused", "each line says what to mend", unmet)
            new_epoch = next_epoch(before.epoch, event)
            connection.execute(insert(modes).values(mode=mode.value, epoch=new_epoch, at=now))
            told = {"from": before.mode.value, "to": mode.value, "epoch": new_epoch, **fields}
            append_event(connection, now, who, event.value, told)
            return ModeRecord(mode, new_epoch, now)

    def cursor(self, name: str) -> int:
        """Return a persisted cursor, 0 where it was never written."""
        with self._database.reading() as connection:
            value = connection.scalar(
                select(ledger_facts.c.value).where(ledger_facts.c.name == f"cursor:{name}")
            )
            return int(value or 0)

    def mark(self, name: str) -> str:
        """Return what was written with the cursor, empty where nothing was."""
        return self.fact(_mark(name)) or ""

    def begin_rescan(self, because: str, *, cursor: int, now: Timestamp) -> None:
        """Follow another feed of changes from `cursor` on, and record that all else is to be compared."""
        with self._database.writing() as connection:
            before = connection.scalar(
                select(ledger_facts.c.value).where(ledger_facts.c.name == "cursor:changes")
            )
            fields = {"because": because, "cursor": int(before or 0), "end": cursor}
            append_event(connection, now, "understudy", RESCAN, fields)
            write_cursor(connection, "changes", cursor)
            _write(connection, f"fact:{_mark('changes')}", "")
            statement = update(operations).where(operations.c.kind == RESCAN, operations.c.state == _RUNNING)
            connection.execute(
                statement.values(state=OperationState.CANCELLED.value, updated=now, message="begun anew")
            )
            total = connection.scalar(select(func.max(instances.c.number))) or 0
            begin_operation(connection, RESCAN, total=total, unit="instances", message=because, now=now)

    def fact(self, name: str) -> str | None:
        """Return a small persisted fact, None where it was never written."""
        with self._database.reading() as connection:
            return connection.scalar(
                select(ledger_facts.c.value).where(ledger_facts.c.name == f"fact:{name}")
            )

    def write_fact(self, name: str, value: str) -> None:
        """Persist a small fact."""
        with self._database.writing() as connection:
            _write(connection, f"fact:{name}", value)

    def log(self, who: str, kind: str, fields: Mapping[str, object], now: Timestamp) -> None:
        """Append an event of its own."""
        with self._database.writing() as connection:
            append_event(connection, now, who, kind, fields)

    # Operations

    def begin_operation(
        self, kind: str, *, total: int, unit: str, message: str, now: Timestamp
    ) -> OperationView:
        """Record a new running operation."""
        with self._database.writing() as connection:
            number = begin_operation(connection, kind, total=total, unit=unit, message=message, now=now)
            return _operation(connection.execute(_by_number(number)).one())

    def update_operation(
        self,
        operation: int,
        *,
        now: Timestamp,
        done: int | None = None,
        total: int | None = None,
        message: str | None = None,
        state: OperationState | None = None,
        report: str | None = None,
    ) -> OperationView:
        """Record progress or the end of a running operation; one that has ended does not change any more."""
        given = {"done": done, "total": total, "message": message, "report": report}
        values: dict[str, object] = {name: value for name, value in given.items() if value is not None}
        if state is not None:
            values["state"] = state.value
        running = operations.c.state == _RUNNING
        with self._database.writing() as connection:
            statement = update(operations).where(operations.c.operation == operation, running)
            connection.execute(statement.values(updated=now, **values))
            row = connection.execute(_by_number(operation)).first()
            if row is None:
                raise _no_operation(operation)
            return _operation(row)

    def operation(self, operation: int) -> OperationView:
        """Return one operation, or raise NotFoundError."""
        with self._database.reading() as connection:
            row = connection.execute(_by_number(operation)).first()
        if row is None:
            raise _no_operation(operation)
        return _operation(row)

    def latest_operation(self, kind: str, *, running: bool = False) -> OperationView | None:
        """Return the newest operation of a kind, or the newest that is running, None where there is none."""
        query = select(operations).where(operations.c.kind == kind)
        if running:
            query = query.where(operations.c.state == _RUNNING)
        with self._database.reading() as connection:
            row = connection.execute(query.order_by(operations.c.operation.desc()).limit(1)).first()
            return None if row is None else _operation(row)

    def operations(self, limit: int) -> list[OperationView]:
        """Return the newest operations, newest first."""
        query = select(operations).order_by(operations.c.operation.desc()).limit(limit)
        with self._database.reading() as connection:
            return [_operation(row) for row in connection.execute(query)]


def current_mode(connection: Connection) -> ModeRecord:
    """Return the mode in force, within a transaction."""
    row = connection.execute(select(modes).order_by(modes.c.change.desc()).limit(1)).one()
    return ModeRecord(Mode(row.mode), row.epoch, Timestamp(row.at))


def begin_operation(
    connection: Connection, kind: str, *, total: int, unit: str, message: str, now: Timestamp
) -> int:
    """Record a new running operation within a transaction and return its number."""
    number = connection.scalar(
        insert(operations)
        .values(
            kind=kind,
            state=OperationState.RUNNING.value,
            epoch=current_mode(connection).epoch,
            started=now,
            updated=now,
            message=message,
            done=0,
            total=total,
            unit=unit,
        )
        .returning(operations.c.operation)
    )
    return int(number or 0)


def write_cursor(connection: Connection, name: str, value: int, mark: str = "") -> None:
    """Persist a cursor within a transaction, and the mark of what was seen last, if there is one."""
    _write(connection, f"cursor:{name}", str(value))
    if mark:
        _write(connection, f"fact:{_mark(name)}", mark)


def _mark(cursor: str) -> str:
    """Return the name of the fact that keeps a cursor's mark."""
    return f"{cursor}.mark"


def _write(connection: Connection, name: str, value: str) -> None:
    statement = upsert(ledger_facts).values(name=name, value=value)
    connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": value}))


def _by_number(operation: int) -> Any:
    return select(operations).where(operations.c.operation == operation)


def _no_operation(operation: int) -> NotFoundError:
    return NotFoundError(f"there is no operation {operation}", "GET /understudy/operations lists them")


def _operation(row: Any) -> OperationView:
    elapsed = row.updated - row.started
    rate = row.done / elapsed if elapsed > 0 else 0.0
    running = row.state == OperationState.RUNNING.value
    return OperationView(
        operation=row.operation,
        kind=row.kind,
        state=OperationState(row.state),
        started=iso(row.started),
        updated=iso(row.updated),
        message=row.message,
        done=row.done,
        total=row.total,
        unit=row.unit,
        rate=rate,
        eta_seconds=(row.total - row.done) / rate if running and rate > 0 else None,
        report=row.report,
    )
