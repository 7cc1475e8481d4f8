"""The operations of the ledger: long-running tasks with their progress and result."""

from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from understudy.core.errors import NotFoundError, RefusedError
from understudy.core.model import Timestamp
from understudy.core.progress import rate_of, seconds_left
from understudy.core.views import OperationState, OperationView
from understudy.ledger.database import Book
from understudy.ledger.events import append_event
from understudy.ledger.modes import current_mode
from understudy.ledger.schema import operations

RESCAN = "rescan"
"""Kind of the operation that compares Orthanc with the ledger, and `found_by` of instances that it missed."""

_RUNNING = OperationState.RUNNING.value

_BEGIN = insert(operations).returning(operations.c.operation)
_UPDATE = update(operations).where(
    operations.c.operation == bindparam("running"), operations.c.state == _RUNNING
)
_STATE = select(operations.c.state).where(operations.c.operation == bindparam("operation"))
_BY_NUMBER = select(operations).where(operations.c.operation == bindparam("operation"))
_LATEST = (
    select(operations)
    .where(operations.c.kind == bindparam("kind"))
    .order_by(operations.c.operation.desc())
    .limit(1)
)
_LATEST_RUNNING = _LATEST.where(operations.c.state == _RUNNING)


class OperationBook(Book):
    """The operations, running and ended."""

    def begin(self, kind: str, *, total: int, unit: str, message: str, now: Timestamp) -> OperationView:
        """Record a new running operation."""
        with self._database.writing() as connection:
            number = begin_operation(connection, kind, total=total, unit=unit, message=message, now=now)
            return _operation(connection.execute(_BY_NUMBER, {"operation": number}).one())

    def update(
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
        """Record progress or the end of a running operation. One that has ended does not change."""
        given = {"done": done, "total": total, "message": message, "report": report}
        values: dict[str, object] = {name: value for name, value in given.items() if value is not None}
        if state is not None:
            values["state"] = state.value
        with self._database.writing() as connection:
            connection.execute(_UPDATE, {"running": operation, "updated": now, **values})
            row = connection.execute(_BY_NUMBER, {"operation": operation}).first()
            if row is None:
                raise _no_operation(operation)
            return _operation(row)

    def cancel(self, operation: int, who: str, now: Timestamp) -> OperationView:
        """Cancel a running operation, with an event; one that was cancelled before stays as it is.

        Raises NotFoundError, and RefusedError, without an event, if it has ended in another way.
        """
        ended = update(operations).where(operations.c.operation == operation, operations.c.state == _RUNNING)
        values = {"state": OperationState.CANCELLED.value, "message": f"cancelled by {who}", "updated": now}
        with self._database.writing() as connection:
            changed = connection.execute(ended.values(**values)).rowcount
            row = connection.execute(_BY_NUMBER, {"operation": operation}).first()
            if row is None:
                raise _no_operation(operation)
            view = _operation(row)
            if view.state is not OperationState.CANCELLED:
                raise RefusedError(
                    f"operation {operation} has ended: it is {view.state.value}",
                    "GET /understudy/operations lists those that run",
                )
            if changed:
                append_event(connection, now, who, "cancel", {"operation": operation})
            return view

    def get(self, operation: int) -> OperationView:
        """Return one operation, or raise NotFoundError."""
        with self._database.reading() as connection:
            row = connection.execute(_BY_NUMBER, {"operation": operation}).first()
        if row is None:
            raise _no_operation(operation)
        return _operation(row)

    def latest(self, kind: str, *, running: bool = False) -> OperationView | None:
        """Return the newest operation of a kind, or the newest running one; None if there is none."""
        with self._database.reading() as connection:
            row = connection.execute(_LATEST_RUNNING if running else _LATEST, {"kind": kind}).first()
            return None if row is None else _operation(row)

    def newest(self, limit: int) -> list[OperationView]:
        """Return the newest operations, newest first."""
        query = select(operations).order_by(operations.c.operation.desc()).limit(limit)
        with self._database.reading() as connection:
            return [_operation(row) for row in connection.execute(query)]


def is_running(connection: Connection, operation: int) -> bool:
    """Return whether an operation has not ended, within a transaction."""
    return connection.scalar(_STATE, {"operation": operation}) == _RUNNING


def begin_operation(
    connection: Connection, kind: str, *, total: int, unit: str, message: str, now: Timestamp
) -> int:
    """Record a new running operation within a transaction and return its number."""
    number = connection.scalar(
        _BEGIN,
        {
            "kind": kind,
            "state": OperationState.RUNNING.value,
            "epoch": current_mode(connection).epoch,
            "started": now,
            "updated": now,
            "message": message,
            "done": 0,
            "total": total,
            "unit": unit,
        },
    )
    return int(number or 0)


def cancel_running(connection: Connection, kind: str, message: str, now: Timestamp) -> None:
    """Cancel the running operations of a kind within a transaction."""
    statement = update(operations).where(operations.c.kind == kind, operations.c.state == _RUNNING)
    connection.execute(statement.values(state=OperationState.CANCELLED.value, updated=now, message=message))


def _no_operation(operation: int) -> NotFoundError:
    return NotFoundError(f"there is no operation {operation}", "GET /understudy/operations lists them")


def _operation(row: Any) -> OperationView:
    state = OperationState(row.state)
    message, *details = row.message.split("\n")
    rate = rate_of(row.done, row.updated - row.started)
    return OperationView(
        operation=row.operation,
        kind=row.kind,
        state=state,
        started=Timestamp(row.started),
        updated=Timestamp(row.updated),
        message=message,
        done=row.done,
        total=row.total,
        unit=row.unit,
        rate=rate,
        eta_seconds=seconds_left(row.total - row.done, rate) if state is OperationState.RUNNING else None,
        report=row.report,
        details=tuple(details),
    )
