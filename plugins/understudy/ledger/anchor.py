"""The anchor: number and hash of the last event in a file of its own, so that events cut off are missed.

Rule 1: it follows the events only while the ledger has the one that it names. Else it stays, as evidence.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from understudy.system.files import write_durably

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Link:
    """One event of the chain."""

    event: int
    chain: str


class Anchor:
    """The file, which lies on another volume than the ledger: a ledger of before does not bring it along.

    Calls come one at a time, in the order of the events.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = 0
        self._follows = False

    def read(self) -> Link | None:
        """Return what was kept, None where nothing was. Unreadable text is an event that no ledger has."""
        try:
            event, _, chain = self._path.read_text(encoding="ascii").strip().partition(" ")
            return Link(int(event), chain)
        except FileNotFoundError:
            return None
        except ValueError:
            return Link(0, "")

    def begin(self, last: Link | None, *, follows: bool) -> None:
        """Begin to follow, where the ledger has what was kept; the last run may not have kept `last`."""
        kept = self.read()
        self._follows, self._last = follows, 0 if kept is None else kept.event
        if last is not None and last != kept:
            self.follow(last)

    def follow(self, last: Link) -> None:
        """Keep the event that was just written, durably; where that fails, the next makes up for it."""
        # A number that was given before: somebody cut events off meanwhile.
        self._follows = self._follows and last.event > self._last
        if not self._follows:
            return
        self._last = last.event
        try:
            write_durably(self._path, f"{last.event} {last.chain}\n".encode(), mode=0o600)
        except OSError as error:
            _log.warning("anchor not written event=%d because=%s", last.event, error)
