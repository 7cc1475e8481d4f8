"""Readback: fetches an instance from its holder again, and compares its data set with the one that was sent.

It compares the SHA-256 of the data set's bytes. A receiver writes its own file meta information before it, so
the whole files always differ. A data set that the receiver converted or coerced differs, too: no proof.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from understudy.core.model import Instance, InstanceNumber, Proof, ProofKind
from understudy.core.ports import (
    Answers,
    Clock,
    HolderUnavailableError,
    InstanceSource,
    NotGivenError,
    UnansweredError,
    UnreadableFileError,
)
from understudy.engine.memory import BOUNDLESS, Memory

DIFFERS = "the instance that it gives back differs from the sent one"
_NOT_FETCHED = "it cannot be fetched for comparison"

UNCOMPARED = "uncompared"
"""Key of the evidence of a proof that cannot tell this content from another under the same UID; the value
says why it was not compared."""

COPIES = 3
"""Copies of an instance that are in memory at once: as it came over the network, whole and in parts."""

_SECONDS = 30.0
"""Seconds for which one question compares contents: the lane has other instances to ask for."""

_PATIENCE = 600.0
"""Seconds for which an instance that cannot be fetched is tried again. After that the cause is no overload,
and a person has to look."""


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Compares the instances of one holder; raises HolderUnavailableError if it does not answer."""

    source: InstanceSource
    digest_here: Callable[[Instance], str]
    """Returns the SHA-256 of the data set that is stored here, or raises UnreadableFileError."""
    clock: Clock
    memory: Memory = field(default_factory=lambda: Memory(BOUNDLESS))
    failing: dict[InstanceNumber, float] = field(default_factory=dict)
    """Instances whose last fetch failed, and since when they cannot be fetched, by the monotonic clock."""

    def compare(self, instances: Sequence[Instance]) -> Answers:
        """Return a proof for each instance that comes back as it was sent; one that differs is denied.

        An instance that cannot be fetched for long is denied, too: otherwise it would wait for ever, and a
        person could do nothing about it.
        """
        found: dict[InstanceNumber, Proof] = {}
        denied: dict[InstanceNumber, str] = {}
        for instance in instances:
            if (refusal := self.memory.refusal(instance.size, COPIES)) is not None:
                denied[instance.number] = refusal
                continue
            with self.memory.holding(COPIES * instance.size):
                try:
                    sent = self.digest_here(instance)
                    returned = self.source.fetch(instance)
                except (UnreadableFileError, NotGivenError):
                    # Without both contents there is no proof.
                    continue
                except UnansweredError:
                    raise
                except HolderUnavailableError as error:
                    if not self.is_given_up(instance.number):
                        raise
                    denied[instance.number] = f"{_NOT_FETCHED}: {error.reason}"
                    continue
                self.failing.pop(instance.number, None)
                if returned is not None and (proof := self.judge(sent, returned)) is not None:
                    found[instance.number] = proof
                elif returned is not None:
                    denied[instance.number] = DIFFERS
        return Answers(found, denied=denied)

    def judge(self, sent: str, returned: bytes) -> Proof | None:
        """Return the proof; None if the returned data set has another digest than the one that was sent."""
        if hashlib.sha256(returned).hexdigest() != sent:
            return None
        evidence = {"peer": self.source.ae_title, "data_set_sha256": sent}
        return Proof(ProofKind.READBACK, self.clock.now(), evidence)

    def is_given_up(self, number: InstanceNumber) -> bool:
        """Note that an instance could not be fetched; say whether the patience with it is over."""
        moment = self.clock.monotonic()
        if moment - self.failing.setdefault(number, moment) < _PATIENCE:
            return False
        # A person who replays it begins again.
        self.failing.pop(number, None)
        return True


@dataclass(frozen=True, slots=True)
class ContentCheck:
    """Tells contents apart if a proof names a SOP Instance UID that has another content, too.

    One for each lane. A holder may acknowledge the later content, keep the earlier one, and commit to it by
    its UID, as Orthanc does by default.
    """

    read_back: ReadBack
    ambiguous: Callable[[Sequence[InstanceNumber]], Set[InstanceNumber]]
    """Returns the instances for which a UID proves nothing."""

    def judge(self, instances: Sequence[Instance], listed: Mapping[InstanceNumber, Proof]) -> Answers:
        """Fetch each listed instance again: an equal content is proven, another content is denied.

        If the holder offers no way to fetch, or says that it does not have the instance, the instance stays
        proven by its UID, and the evidence says so. An instance that cannot be compared for now, or within
        the lane's time, is pending. One that cannot be fetched for long is denied. One that cannot be read
        here is left out.
        """
        found: dict[InstanceNumber, Proof] = {}
        denied: dict[InstanceNumber, str] = {}
        pending: set[InstanceNumber] = set()
        why = ""
        began = self.read_back.clock.monotonic()
        for instance in instances:
            number = instance.number
            if number not in listed:
                continue
            late = self.read_back.clock.monotonic() - began >= _SECONDS
            if late and not why:
                pending.add(number)
                continue
            if (refusal := self.read_back.memory.refusal(instance.size, COPIES)) is not None:
                denied[number] = refusal
                continue
            with self.read_back.memory.holding(COPIES * instance.size):
                returned = None
                try:
                    sent = self.read_back.digest_here(instance)
                    returned = None if why else self.read_back.source.fetch(instance)
                except UnreadableFileError as error:
                    if not error.permanent:
                        pending.add(number)
                    continue
                except UnansweredError as error:
                    why = error.reason
                except HolderUnavailableError as error:
                    if self.read_back.is_given_up(number):
                        denied[number] = f"{_NOT_FETCHED}: {error.reason}"
                    else:
                        pending.add(number)
                    continue
                self.read_back.failing.pop(number, None)
                if returned is None:
                    doubt = {UNCOMPARED: why or "it does not give this instance back"}
                    found[number] = replace(listed[number], evidence={**listed[number].evidence, **doubt})
                elif (proof := self.read_back.judge(sent, returned)) is not None:
                    found[number] = proof
                else:
                    denied[number] = DIFFERS
        return Answers(found, pending, denied=denied)
