"""The host of the agent: its clock, which people may set, and the life and the disk of its process."""

from contextlib import nullcontext

from understudy.core.model import Timestamp
from understudy.core.ports import Clock


class KilledError(BaseException):
    """The process ended; nothing of it runs any more, so no handler of an Exception sees this."""


class FullDiskError(Exception):
    """The disk of the ledger takes no write."""


class Machine:
    """Counts true time, tells the time of its own clock, and kills the agent when it is told to."""

    def __init__(self, now: float) -> None:
        self.true = now
        """Seconds that really passed, from the same origin as the clock."""
        self._ahead = 0.0
        """By how much the machine's clock is wrong."""
        self._calls_left: int | None = None
        self._is_dead = False
        self._writes_left: int | None = None

    def now(self) -> Timestamp:
        """Return what the machine's clock shows."""
        return Timestamp(self.true + self._ahead)

    def clock(self) -> Clock:
        """Return the clock of a process that begins now."""
        return Clock(self.now, lambda: self.true, nullcontext())

    def wait(self, seconds: float) -> bool:
        """Let time pass; a wait of the agent is never cut short."""
        self.true += seconds
        return True

    def step_clock(self, seconds: float) -> None:
        """Set the clock forward, or back, by so much."""
        self._ahead += seconds

    def kill_after(self, calls: int | None) -> None:
        """Let the agent end before one more call to the outside after so many; None lets it live."""
        self._calls_left = calls

    def call(self) -> None:
        """Stand for one statement of the ledger or one call to the outside by the agent."""
        if self._is_dead:
            raise KilledError
        if self._calls_left is not None:
            if not self._calls_left:
                self._is_dead = True
                raise KilledError
            self._calls_left -= 1

    def fill_disk_after(self, writes: int | None) -> None:
        """Let the disk be full after so many more writes; None makes room."""
        self._writes_left = writes

    def write(self) -> None:
        """Stand for a write to the disk of the ledger."""
        if self._writes_left is not None:
            if not self._writes_left:
                raise FullDiskError("database or disk is full")
            self._writes_left -= 1

    def start(self) -> None:
        """Let the process live again."""
        self._is_dead = False
        self._calls_left = None
