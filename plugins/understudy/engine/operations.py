"""Operations: one runner for each kind of long task.

Rule 1: the arguments are on disk before the caller gets the operation. A restart continues the operation.
Rule 2: a worker runs the operation. The caller gets it at once and does not wait.
Rule 3: an operation ends once: it is done, failed (with all reasons) or cancelled.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from understudy.core.errors import RefusedError
from understudy.core.ports import Clock, HolderUnavailableError
from understudy.core.report import Report
from understudy.core.views import OperationState, OperationView
from understudy.ledger import EventBook, FactBook, OperationBook, Transaction, is_running

_log = logging.getLogger(__name__)

_NO_MEMO: dict[str, Any] = {"who": "", "arguments": {}, "kept": {}, "kept_by": None}
"""What an operation remembers at first; `kept_by` is the number of the operation that kept the values."""
_TELL_EVERY = 1.0
"""Seconds between two writes of the progress. Each write also checks for a cancellation."""


class CancelledError(Exception):
    """The operation was ended from outside, for example cancelled, while its function was running."""


class StoppedError(Exception):
    """The appliance stops. Its next start continues the operation with the values that were kept."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of an operation: `message` is a sentence, `report` is None if the operation has none."""

    message: str
    succeeded: bool = True
    report: Report | None = None


class RunnerBooks(Protocol):
    """The books of the ledger that a runner uses."""

    events: EventBook
    facts: FactBook
    operations: OperationBook


class Running:
    """The running operation, as the function that does the work sees it."""

    def __init__(self, view: OperationView, ledger: RunnerBooks, clock: Clock, memo: dict[str, Any]) -> None:
        self.number = view.operation
        self.started = view.started
        self.who = str(memo["who"])
        """The person who started the operation."""
        self.message = view.message
        """The last message that was written."""
        self.arguments: Mapping[str, Any] = memo["arguments"]
        self.kept: Mapping[str, Any] = memo["kept"] if memo["kept_by"] == view.operation else {}
        """The values that `keep` wrote before a restart, empty at first."""
        self.done, self.total = view.done, view.total
        """The last progress that `tell` was given. It may not be written yet."""
        self._kind = view.kind
        self._ledger = ledger
        self._clock = clock
        self._memo = memo
        self._told = float("-inf")

    def tell(self, done: int, total: int, message: str | None = None) -> None:
        """Write the progress, or raise CancelledError if the operation has ended.

        It is written when all is done, and otherwise at most once a second.
        """
        self.done, self.total = done, total
        now = time.monotonic()
        if now - self._told < _TELL_EVERY and done < total:
            return
        self._told = now
        view = self._ledger.operations.update(
            self.number, now=self._clock.now(), done=done, total=total, message=message
        )
        if view.state is not OperationState.RUNNING:
            raise CancelledError

    def assert_running(self, transaction: Transaction) -> None:
        """Raise CancelledError if the operation has ended. Call this in the transaction of the last step."""
        if not is_running(transaction, self.number):
            raise CancelledError

    def keep(self, kept: Mapping[str, Any]) -> None:
        """Write the state from which a restart continues, as plain values for JSON."""
        self._memo |= {"kept": kept, "kept_by": self.number}
        self._ledger.facts.write(_memo_of(self._kind), json.dumps(self._memo))


class Runner:
    """Runs one operation of its kind at a time; `step` does the work of the running one."""

    def __init__(
        self,
        kind: str,
        act: Callable[[Running], Result],
        ledger: RunnerBooks,
        clock: Clock,
        *,
        unit: str,
        write_report: Callable[[int, Report], str] | None = None,
    ) -> None:
        self.kind = kind
        self._act = act
        self._ledger = ledger
        self._clock = clock
        self._unit = unit
        self._write_report = write_report
        self._one_at_a_time = threading.Lock()

    def begin(
        self, who: str, arguments: Mapping[str, Any] | None = None, *, total: int = 0, message: str = ""
    ) -> OperationView:
        """Record a new operation and return it, or return the running one."""
        with self._one_at_a_time:
            running = self.running()
            if running is not None:
                return running
            now = self._clock.now()
            self._ledger.events.log(who, f"{self.kind}_asked", dict(arguments or {}), now)
            memo = _NO_MEMO | {"who": who, "arguments": dict(arguments or {})}
            self._ledger.facts.write(_memo_of(self.kind), json.dumps(memo))
            return self._ledger.operations.begin(
                self.kind, total=total, unit=self._unit, message=message, now=now
            )

    def running(self) -> OperationView | None:
        """Return the running operation, or None."""
        return self._ledger.operations.latest(self.kind, running=True)

    def step(self) -> bool:
        """Do the work of the running operation, and return whether there was one.

        Raises HolderUnavailableError if a holder does not answer. The operation then keeps running, and its
        message says that it waits.
        """
        view = self.running()
        if view is None:
            return False
        memo = json.loads(self._ledger.facts.read(_memo_of(self.kind)) or "{}")
        running = Running(view, self._ledger, self._clock, _NO_MEMO | memo)
        try:
            result = self._act(running)
        except CancelledError:
            _log.info("%s cancelled operation=%d", self.kind, view.operation)
            return True
        except StoppedError:
            return False
        except HolderUnavailableError as error:
            message = f"waits: {error.reason}; it asks again by itself"
            self._ledger.operations.update(view.operation, now=self._clock.now(), message=message)
            raise
        except RefusedError as error:
            result = Result("\n".join((str(error), *error.details)), succeeded=False)
        self._end(running, result)
        return True

    def cancel(self, message: str) -> None:
        """Cancel the running operation, if there is one."""
        view = self.running()
        if view is not None:
            self._ledger.operations.update(
                view.operation, now=self._clock.now(), state=OperationState.CANCELLED, message=message
            )

    def _end(self, running: Running, result: Result) -> None:
        report = None
        if result.report is not None and self._write_report is not None:
            report = self._write_report(running.number, result.report)
        self._ledger.operations.update(
            running.number,
            now=self._clock.now(),
            done=running.total if result.succeeded else running.done,
            total=running.total,
            state=OperationState.DONE if result.succeeded else OperationState.FAILED,
            message=result.message,
            report=report,
        )
        _log.info("%s ended operation=%d succeeded=%s", self.kind, running.number, result.succeeded)


def _memo_of(kind: str) -> str:
    return f"{kind}.memo"
