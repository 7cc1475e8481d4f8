"""The association gate as the agent sees it: who was seen, who is approved."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from understudy.adapters.ledger import Ledger
from understudy.core.errors import NotFoundError
from understudy.core.gate import Allowed, Seen, Verdict, verdict
from understudy.core.ports import Clock
from understudy.core.views import ModalityView

_log = logging.getLogger(__name__)

_REPORTS_A_STEP = 1000


class LiveEdge(Protocol):
    """The running edge; it raises `unavailable` where it does not take it now."""

    def publish(self, configured: Sequence[Allowed], approved: Sequence[Allowed]) -> None: ...


class Gate:
    """Keeps the edge's allow-list in step with ours, and writes down what the edge reports."""

    def __init__(
        self,
        ledger: Ledger,
        edge: LiveEdge,
        clock: Clock,
        configured: Sequence[Allowed],
        *,
        unavailable: type[Exception],
        read_reports: Callable[[int], Sequence[Seen]],
    ) -> None:
        self._ledger = ledger
        self._edge = edge
        self._clock = clock
        self._configured = tuple(configured)
        self._unavailable = unavailable
        self._read_reports = read_reports
        self._one_at_a_time = threading.Lock()
        # The edge may have missed what this agent's predecessor said.
        self._pending = True

    def step(self) -> bool:
        """Write down what was reported, and tell the edge what it has not taken yet."""
        seen = self._read_reports(_REPORTS_A_STEP)
        if seen:
            self._ledger.note_seen(seen, self._clock.now())
        self._tell_edge()
        return len(seen) == _REPORTS_A_STEP

    def approve(self, who: str, entry: Allowed) -> bool:
        """Let a device in, durably, and say whether the running edge does so already."""
        if self._ledger.approve(entry, who, self._clock.now()):
            _log.info("approve by=%s calling=%r network=%s", who, entry.calling_ae_title, entry.network)
        return self._tell_edge(anew=True)

    def revoke(self, who: str, entry: Allowed) -> bool:
        """Take an approval back; associations that run go on to their end."""
        if not self._ledger.revoke(entry, who, self._clock.now()):
            raise NotFoundError(
                "there is no such approval",
                "`understudy modalities` shows who is known; the rest is configured",
            )
        _log.info("revoke by=%s calling=%r network=%s", who, entry.calling_ae_title, entry.network)
        return self._tell_edge(anew=True)

    def modalities(self) -> list[ModalityView]:
        """Return every device that was seen, with what the allow-list says of it now."""
        allowed = [*self._configured, *self._ledger.approvals()]

        def known(address: str, calling: str, called: str) -> bool:
            return verdict(allowed, address=address, calling=calling, called=called) is Verdict.KNOWN

        return self._ledger.modalities(known)

    def _tell_edge(self, *, anew: bool = False) -> bool:
        """Tell the edge what it has not taken yet, or all of it anew; return whether it has taken it."""
        with self._one_at_a_time:
            self._pending |= anew
            if self._pending:
                try:
                    self._edge.publish(self._configured, self._ledger.approvals())
                except self._unavailable as error:
                    # It reads the same from the shared folder when it starts; the next step tells it again.
                    _log.debug("gate edge unavailable because=%s", error)
                else:
                    self._pending = False
            return not self._pending
