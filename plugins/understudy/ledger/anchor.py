"""The anchor: a file with number and hash of the last event. It shows if the last events were removed.

Rule 1: the anchor is updated only while the ledger has the event that it names. Otherwise it is kept, as
evidence.
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
    """The anchor's file. It is on another volume, so restoring an older ledger does not restore the anchor.

    Calls have to come one at a time, in the order of the events.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = 0
        self._follows = False

    def read(self) -> Link | None:
        """Return the stored event, None if there is none. Unreadable text gives one that no ledger has."""
        try:
            event, _, chain = self._path.read_text(encoding="ascii").strip().partition(" ")
            return Link(int(event), chain)
        except FileNotFoundError:
            return None
        except ValueError:
            return Link(0, "")

    def begin(self, last: Link | None, *, follows: bool) -> None:
        """Begin to follow the events. `follows` says whether the ledger has the stored event.

        The last run may have ended before it stored `last`.
        """
        kept = self.read()
        self._follows, self._last = follows, 0 if kept is None else kept.event
        if last is not None and last != kept:
            self.follow(last)

    def follow(self, last: Link) -> None:
        """Store the event that was just written, durably. If that fails, the next call makes up for it."""
        # If the number was used before, somebody cut events off meanwhile.
        self._follows = self._follows and last.event > self._last
        if not self._follows:
            return
        self._last = last.event
        try:
            write_durably(self._path, f"{last.event} {last.chain}\n".encode(), mode=0o600)
        except OSError as error:
            _log.warning("anchor not written event=%d because=%s", last.event, error)
