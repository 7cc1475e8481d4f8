"""Suspects: instances that the agent worked on when it was killed, and that may be the reason.

A suspect is delivered alone. If the agent is killed again meanwhile, the suspect is parked as a dead letter.

Rule 1: the claims in the ledger say which instances a run worked on. A claim is durable before the instance's
file is read.
Rule 2: if a run ended neither in order nor with the host, the next run suspects the instances that it had
claimed: the agent may have run out of memory, or a library may have crashed on one of them.
Rule 3: only one lane at a time works on a suspect, and the ledger holds the suspect's name before that work
begins. A second kill then has one possible cause.
"""

import json
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from understudy.core.model import Delivery, HolderName, Instance, InstanceNumber, Outcome, Timestamp
from understudy.core.refusals import ENDED_US
from understudy.ledger import CustodyBook, FactBook, InstanceBook, ObligationBook, QueueBook

_log = logging.getLogger(__name__)

_RUN, _ALONE, _SUSPECTS = "agent.run", "agent.alone", "agent.suspects"
_STOPPED = "stopped"
_MOST = 20
"""Most suspects of one lane after one kill, the largest instances. The others go in packs as before."""


class SuspectBooks(Protocol):
    """The books of the ledger that the suspects use."""

    custody: CustodyBook
    facts: FactBook
    instances: InstanceBook
    obligations: ObligationBook
    queue: QueueBook


class Suspects:
    """The suspects of all lanes; made at the start, before the claims of the last run are given back."""

    def __init__(self, ledger: SuspectBooks, now: Timestamp, *, boot: str) -> None:
        """`boot` names this run of the host's kernel: if the host went down, no instance is suspected."""
        self._ledger = ledger
        self._one_at_a_time = threading.Lock()
        self._waiting: dict[HolderName, set[InstanceNumber]] = {
            HolderName(holder): {InstanceNumber(number) for number in numbers}
            for holder, numbers in json.loads(ledger.facts.read(_SUSPECTS) or "{}").items()
        }
        running = f"running {boot}"
        if ledger.facts.read(_RUN) == running:
            self._suspect(now)
        ledger.facts.write(_RUN, running)
        self._write()
        ledger.facts.write(_ALONE, "")

    def stopped(self) -> None:
        """Write down that this run ends in order."""
        self._ledger.facts.write(_RUN, _STOPPED)

    def cut(self, holder: HolderName, batch: Sequence[Instance]) -> tuple[Sequence[Instance], bool]:
        """Return the largest suspect of the batch alone, or the batch; and whether it is a suspect."""
        suspects = [instance for instance in batch if self._is_one(holder, instance)]
        if not suspects:
            return batch, False
        return [max(suspects, key=lambda instance: instance.size)], True

    def besides(self, holder: HolderName, batch: Sequence[Instance]) -> Sequence[Instance]:
        """Return those of the batch that are no suspects."""
        return [instance for instance in batch if not self._is_one(holder, instance)]

    def _is_one(self, holder: HolderName, instance: Instance) -> bool:
        return instance.number in self._waiting.get(holder, set())

    @contextmanager
    def alone(self, holder: HolderName, number: InstanceNumber) -> Iterator[bool]:
        """Let one suspect be worked on; if the block ends without an error, it is no suspect any more.

        Yields False if another lane works on a suspect: that lane may hang, and this one has other work.
        """
        if not self._one_at_a_time.acquire(blocking=False):
            yield False
            return
        try:
            self._ledger.facts.write(_ALONE, json.dumps([holder, number]))
            try:
                yield True
                self._waiting[holder].discard(number)
                self._write()
            finally:
                self._ledger.facts.write(_ALONE, "")
        finally:
            self._one_at_a_time.release()

    def _suspect(self, now: Timestamp) -> None:
        claimed = {
            holder: self._ledger.queue.in_flight(holder) for holder in self._ledger.obligations.tally()
        }
        holder, number = json.loads(self._ledger.facts.read(_ALONE) or "[null, null]")
        if holder in claimed and number in claimed[HolderName(holder)]:
            self._park(HolderName(holder), InstanceNumber(number), now)
            claimed[HolderName(holder)].remove(InstanceNumber(number))
        for lane, numbers in claimed.items():
            sizes = self._sizes(numbers)
            largest = sorted(sizes, key=lambda one: sizes[one], reverse=True)[:_MOST]
            if largest:
                _log.warning("suspects holder=%s instances=%d because=killed", lane, len(largest))
                self._waiting.setdefault(lane, set()).update(largest)

    def _park(self, holder: HolderName, number: InstanceNumber, now: Timestamp) -> None:
        refused = [Delivery(number, Outcome.REFUSED, ENDED_US)]
        self._ledger.custody.record(holder, refused, now=now, retry_at=lambda _: now)
        self._waiting.get(holder, set()).discard(number)
        _log.error("parked holder=%s instance=%d because=%s", holder, number, ENDED_US)

    def _sizes(self, numbers: Sequence[InstanceNumber]) -> Mapping[InstanceNumber, int]:
        found = {number: self._ledger.instances.present(number) for number in numbers}
        return {number: 0 if one is None else one.size for number, one in found.items()}

    def _write(self) -> None:
        waiting = {holder: sorted(numbers) for holder, numbers in self._waiting.items() if numbers}
        self._ledger.facts.write(_SUSPECTS, json.dumps(waiting))
