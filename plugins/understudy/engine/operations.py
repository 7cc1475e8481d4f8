"""Operations: one runner for each kind of long act that a person asks for.

Rule 1: an act's arguments are on disk before the caller hears that it has begun; a restart goes on with it.
Rule 2: a worker does the act. The caller gets the operation at once and waits for nothing.
Rule 3: an operation ends once: done, failed with every reason, or cancelled.
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

_TELL_EVERY = 1.0
"""Seconds between two writes of the progress, which are also the moments that notice a cancellation."""


class CancelledError(Exception):
    """The operation ended from outside while its act was at work."""


@dataclass(frozen=True, slots=True)
class Result:
    """How an act ended: `message` in a sentence, `report` where it leaves one."""

    message: str
    succeeded: bool = True
    report: Report | None = None


class RunnerBooks(Protocol):
    """The books of the ledger that a runner uses."""

    events: EventBook
    facts: FactBook
    operations: OperationBook


class Running:
    """The operation as its act sees it."""

    def __init__(self, view: OperationView, ledger: RunnerBooks, clock: Clock, memo: dict[str, Any]) -> None:
        self.number = view.operation
        self.started = view.started
        self.who = str(memo["who"])
        """Who asked for it first."""
        self.arguments: Mapping[str, Any] = memo["arguments"]
        self.kept: Mapping[str, Any] = memo["kept"]
        """What `keep` wrote before a restart, empty at first."""
        self._kind = view.kind
        self._ledger = ledger
        self._clock = clock
        self._memo = memo
        self._told = float("-inf")

    def tell(self, done: int, total: int, message: str | None = None) -> None:
        """Write how far the act is, once a second at most; raise CancelledError where it has to end."""
        now = time.monotonic()
        if now - self._told < _TELL_EVERY:
            return
        self._told = now
        view = self._ledger.operations.update(
            self.number, now=self._clock.now(), done=done, total=total, message=message
        )
        if view.state is not OperationState.RUNNING:
            raise CancelledError

    def assert_running(self, transaction: Transaction) -> None:
        """Raise CancelledError where the operation has ended, inside the transaction of the last step."""
        if not is_running(transaction, self.number):
            raise CancelledError

    def keep(self, kept: Mapping[str, Any]) -> None:
        """Write where to go on after a restart: plain values for JSON."""
        self._memo["kept"] = kept
        self._ledger.facts.write(_memo_of(self._kind), json.dumps(self._memo))


class Runner:
    """Runs one operation of a kind at a time; `step` does the running one to its end."""

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
        """Record a new operation and return it, or return the one that is running."""
        with self._one_at_a_time:
            running = self.running()
            if running is not None:
                return running
            now = self._clock.now()
            self._ledger.events.log(who, f"{self.kind}_asked", dict(arguments or {}), now)
            memo = {"who": who, "arguments": dict(arguments or {}), "kept": {}}
            self._ledger.facts.write(_memo_of(self.kind), json.dumps(memo))
            return self._ledger.operations.begin(
                self.kind, total=total, unit=self._unit, message=message, now=now
            )

    def running(self) -> OperationView | None:
        """Return the operation that is running, None where none is."""
        return self._ledger.operations.latest(self.kind, running=True)

    def step(self) -> bool:
        """Do the running operation, if there is one; return whether there was.

        Raises HolderUnavailableError where a holder does not answer: the operation waits, and says so.
        """
        view = self.running()
        if view is None:
            return False
        memo = json.loads(self._ledger.facts.read(_memo_of(self.kind)) or "{}")
        running = Running(view, self._ledger, self._clock, {"who": "", "arguments": {}, "kept": {}, **memo})
        try:
            result = self._act(running)
        except CancelledError:
            _log.info("%s cancelled operation=%d", self.kind, view.operation)
            return True
        except HolderUnavailableError as error:
            message = f"waits: {error.reason}; it asks again by itself"
            self._ledger.operations.update(view.operation, now=self._clock.now(), message=message)
            raise
        except RefusedError as error:
            result = Result("\n".join((str(error), *error.details)), succeeded=False)
        self._end(view.operation, result)
        return True

    def cancel(self, message: str) -> None:
        """End the running operation, if there is one."""
        view = self.running()
        if view is not None:
            self._ledger.operations.update(
                view.operation, now=self._clock.now(), state=OperationState.CANCELLED, message=message
            )

    def _end(self, operation: int, result: Result) -> None:
        report = None
        if result.report is not None and self._write_report is not None:
            report = self._write_report(operation, result.report)
        view = self._ledger.operations.get(operation)
        self._ledger.operations.update(
            operation,
            now=self._clock.now(),
            done=view.total if result.succeeded else None,
            state=OperationState.DONE if result.succeeded else OperationState.FAILED,
            message=result.message,
            report=report,
        )
        _log.info("%s ended operation=%d succeeded=%s", self.kind, operation, result.succeeded)


def _memo_of(kind: str) -> str:
    return f"{kind}.memo"
