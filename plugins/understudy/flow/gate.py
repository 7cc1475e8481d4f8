"""The association gate as the agent sees it: which devices were seen, and which are approved."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from understudy.core.errors import NotFoundError
from understudy.core.gate import (
    HINTS,
    IMPOSTORS,
    Admission,
    Allowed,
    GateOutcome,
    Seen,
    is_network,
    verdict,
)
from understudy.core.model import Timestamp
from understudy.core.ports import Clock
from understudy.core.text import visible
from understudy.core.views import Alarm, ModalityView, iso
from understudy.ledger import DeviceBook

_log = logging.getLogger(__name__)

_REPORTS_A_STEP = 1000

_PATIENCE = 5.0
"""Seconds that a restart of the edge may take before its old allow-list is an alarm."""

_LATELY = 3600.0
_NAMED = 3
"""Seconds for which a refusal is an alarm, and how many callers the alarm names."""

_BATCHES_A_SECOND = 1_000_000
"""The number of an edge's first batch is the time of its start in seconds, times this (edge/gate.lua)."""


class LiveEdge(Protocol):
    """The running edge; both calls raise `unavailable` if it takes no command now."""

    def publish(self, configured: Sequence[Allowed], approved: Sequence[Allowed]) -> None: ...

    def counted(self, noted: int) -> tuple[int, Sequence[Seen]]: ...


class Gate:
    """Keeps the edge's allow-list equal to ours, and records the edge's reports."""

    def __init__(
        self,
        book: DeviceBook,
        edge: LiveEdge,
        clock: Clock,
        configured: Callable[[], Sequence[Allowed]],
        *,
        unavailable: type[Exception],
        read_reports: Callable[[int], Sequence[Seen]],
    ) -> None:
        self._book = book
        self._edge = edge
        self._clock = clock
        self._configured = configured
        self._unavailable = unavailable
        self._read_reports = read_reports
        self._one_at_a_time = threading.Lock()
        # The edge may have missed the last change that the agent told it before this start.
        self._pending = True
        self._silent_since: Timestamp | None = None
        self._start = 0

    def step(self) -> bool:
        """Record the counts and reports, and publish the allow-list if the edge has not taken it yet."""
        reported = self._read_reports(_REPORTS_A_STEP)
        try:
            batch, counted = self._take_counts()
        finally:
            # This comes after the counts, which show a new start of the edge, and even if they fail.
            self._tell_edge()
        if reported or counted:
            self._book.note_seen([*counted, *reported], self._clock.now(), batch=batch, known=self._known())
        return len(reported) == _REPORTS_A_STEP

    def _take_counts(self) -> tuple[int | None, Sequence[Seen]]:
        noted = self._book.edge_batch()
        try:
            batch, counted = self._edge.counted(noted)
        except self._unavailable as error:
            self._heard(error)
            return None, ()
        if not self._pending:
            self._heard(None)
        if batch // _BATCHES_A_SECOND != self._start:
            # The edge was started again: it has the list that it could read then.
            self._start = batch // _BATCHES_A_SECOND
            self.renew()
        # The edge repeats a batch that was noted if there is nothing new.
        if batch == noted:
            return None, ()
        # A batch has no order: refusals are noted last, so that they are shown.
        return batch, sorted(counted, key=lambda one: one.outcome is not GateOutcome.ACCEPTED)

    def renew(self) -> None:
        """Publish the whole list to the edge with the next step."""
        with self._one_at_a_time:
            self._pending = True

    def alarms(self) -> Sequence[Alarm]:
        """Return the alarms on the allow-list that is in force."""
        found = []
        since = self._silent_since
        if since is not None and self._clock.has_waited(since, _PATIENCE):
            what = "the edge accepts no command"
            if self._pending:
                what += ", so the allow-list is not in force: a device that was revoked may still be let in"
            hint = "`docker compose restart edge`: the edge reads the list when it starts"
            found.append(Alarm(iso(since), what, hint))
        for entry in self._book.approvals():
            if not is_network(entry.network):
                what = f"the approval of {entry.calling_ae_title} at {entry.network} is not in force"
                hint = "revoke it, and approve the address without a scope"
                found.append(Alarm(iso(self._clock.now()), what, hint))
        return [*found, *self._not_believed()]

    def _not_believed(self) -> list[Alarm]:
        """Return an alarm for each kind of refusal of a listed AE title within the last hour."""
        known = self._known()
        found = []
        for outcome in IMPOSTORS:
            refused = [
                view
                for view in self._book.refused_attempts(outcome)
                if not self._clock.has_waited(view.last_seen, _LATELY)
                # The caller may have been approved meanwhile.
                and not known(view.remote_address, view.calling_ae_title, view.called_ae_title)
            ]
            if refused:
                named = ", ".join(
                    visible(f"{view.calling_ae_title} from {view.remote_address}")
                    for view in refused[:_NAMED]
                )
                more = f" and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
                words = outcome.value.replace("_", " ")
                what = f"a listed AE title was refused within the last hour ({words}): {named}{more}"
                since = min(view.last_seen for view in refused)
                found.append(Alarm(iso(since), what, HINTS[outcome]))
        return found

    def approve(self, who: str, entry: Allowed) -> bool:
        """Approve a device, durably, and say whether the running edge knows already."""
        if self._book.approve(entry, who, self._clock.now()):
            _log.info("approve by=%s calling=%r network=%s", who, entry.calling_ae_title, entry.network)
        return self._tell_edge(everything=True)

    def revoke(self, who: str, entry: Allowed) -> bool:
        """Revoke an approval; open associations are not ended. Say whether the running edge knows already."""
        if not self._book.revoke(entry, who, self._clock.now()):
            raise NotFoundError(
                "there is no such approval",
                "`understudy modalities` shows who is known; the rest is configured",
            )
        _log.info("revoke by=%s calling=%r network=%s", who, entry.calling_ae_title, entry.network)
        return self._tell_edge(everything=True)

    def modalities(self) -> list[ModalityView]:
        """Return every device that was seen, with its present verdict of the allow-list."""
        hints = {outcome.value: hint for outcome, hint in HINTS.items()}
        found = self._book.modalities(self._known())
        return [replace(view, hint=hints.get(view.outcome, "")) for view in found]

    def listed(self) -> frozenset[str]:
        """Return the AE titles of the allow-list."""
        return frozenset(entry.calling_ae_title for entry in [*self._configured(), *self._book.approvals()])

    def _known(self) -> Callable[[str, str, str], bool]:
        allowed = [*self._configured(), *self._approved()]

        def known(address: str, calling: str, called: str) -> bool:
            return verdict(allowed, address=address, calling=calling, called=called) is Admission.KNOWN

        return known

    def _approved(self) -> list[Allowed]:
        """Return the approvals that the edge can load; `alarms` names the others."""
        return [entry for entry in self._book.approvals() if is_network(entry.network)]

    def _tell_edge(self, *, everything: bool = False) -> bool:
        """Publish a pending list, or with `everything` in any case; return whether the edge has taken it."""
        with self._one_at_a_time:
            self._pending |= everything
            if self._pending:
                try:
                    self._edge.publish(self._configured(), self._approved())
                except self._unavailable as error:
                    # The edge reads the same list from the shared folder at its start; the next step retries.
                    self._heard(error)
                else:
                    self._pending = False
                    self._heard(None)
            return not self._pending

    def _heard(self, error: Exception | None) -> None:
        """Note since when the edge takes no command."""
        if error is None:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = self._clock.now()
            _log.warning("gate edge unavailable because=%s", error)
