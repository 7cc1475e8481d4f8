"""Recipients: the age keys that can open a vault's packs, pinned in the ledger against unseen changes.

Rule 1: the read-only configuration may change them; a file that a process of ours can write may not.
Rule 2: while they differ from the pinned ones, nothing is sealed. Intake goes on, and the vault is owed.
"""

import json
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from understudy.core.errors import RefusedError
from understudy.core.model import HolderName
from understudy.core.ports import Clock, HolderUnavailableError, Reads, Sealer, SealError, Writes
from understudy.core.signature import fingerprint
from understudy.core.views import Alarm, iso
from understudy.ledger import EventBook, FactBook

_log = logging.getLogger(__name__)

EVENT = "recipients"


class RecipientBooks(Protocol):
    """The books of the ledger that a sealer uses."""

    events: EventBook
    facts: FactBook


class PinnedSealer:
    """Seals to the pinned recipients, and to no others (core.ports.Sealer)."""

    def __init__(
        self,
        vault: HolderName,
        given: Callable[[], Sequence[str]],
        seal_to: Callable[[Sequence[str]], Sealer],
        ledger: RecipientBooks,
        clock: Clock,
        *,
        configured: bool,
    ) -> None:
        """Pin the given recipients if none are pinned yet, or if the configuration names them.

        `given` is called again before each pack; `configured` says that it reads the configuration.
        """
        self._vault = vault
        self._given = given
        self._seal_to = seal_to
        self._ledger = ledger
        self._clock = clock
        self._fact = f"{EVENT}:{vault}"
        self._changed_since: str | None = None
        pinned = ledger.facts.read(self._fact)
        now = tuple(given())
        if pinned is None:
            self._pin(now, "understudy", "seen for the first time")
        elif configured and set(json.loads(pinned)) != set(now):
            self._pin(now, "configuration", "the configuration names others")
        else:
            self._sealer = seal_to(json.loads(pinned))

    @property
    def recipients(self) -> Sequence[str]:
        """The pinned recipients."""
        return self._sealer.recipients

    def seal(self, plain: bytes) -> bytes:
        """Return the content sealed, or raise HolderUnavailableError while the recipients differ."""
        self._expect_pinned()
        return self._sealer.seal(plain)

    def seal_stream(self, plain: Reads, sealed: Writes) -> None:
        """Write the reader's content sealed, or raise as `seal` does."""
        self._expect_pinned()
        self._sealer.seal_stream(plain, sealed)

    def _expect_pinned(self) -> None:
        alarms = self.alarms()
        if alarms:
            raise HolderUnavailableError(self._vault, alarms[0].what, alarms[0].hint)

    def alarms(self) -> Sequence[Alarm]:
        """Return an alarm if the recipients were changed."""
        given = tuple(self._given())
        if set(given) == set(self.recipients):
            self._changed_since = None
            return ()
        if self._changed_since is None:
            self._changed_since = iso(self._clock.now())
            _log.error("recipients changed vault=%s pinned=%s", self._vault, fingerprint(self.recipients))
        what = f"the recipients of vault {self._vault} were changed, so no image is packed for it"
        hint = (
            f"the pinned key has the fingerprint {fingerprint(self.recipients)}, keys/vault-recipient has "
            f"{fingerprint(given) if given else 'no key'}. Put the file back; or, if you changed it: "
            f"`understudy accept-recipients --vault {self._vault} --reason ...`"
        )
        return (Alarm(self._changed_since, what, hint),)

    def accept(self, who: str, reason: str) -> str:
        """Pin the present recipients, and return their fingerprint; the event log has who did it and why."""
        given = tuple(self._given())
        if set(given) == set(self.recipients):
            raise RefusedError(
                f"the recipients of {self._vault} are the pinned ones", "there is no change to accept"
            )
        try:
            self._pin(given, who, reason)
        except SealError as error:
            raise RefusedError(str(error), error.hint) from error
        return fingerprint(given)

    def _pin(self, recipients: Sequence[str], who: str, reason: str) -> None:
        # This raises SealError if one is not a valid recipient.
        self._sealer = self._seal_to(recipients)
        told = {"vault": self._vault, "recipients": list(recipients), "reason": reason}
        self._ledger.events.log(who, EVENT, told, self._clock.now())
        self._ledger.facts.write(self._fact, json.dumps(list(recipients)))
