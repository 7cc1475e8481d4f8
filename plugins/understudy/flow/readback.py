"""Readback: fetches an instance from its holder again, and compares the data set with what was sent.

Compared is the SHA-256 of the data set's bytes. A receiver writes the file meta information before it again,
so the whole files always differ; a data set that was converted or coerced there differs too, and is no proof.
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
from understudy.flow.holding import BOUNDLESS, Memory

DIFFERS = "what it gives back differs from what was sent"
_NOT_FETCHED = "it cannot be fetched to be compared"

UNCOMPARED = "uncompared"
"""Key of the evidence of a proof that cannot tell this content from another under the same UID; the value
says why it was not compared."""

COPIES = 3
"""Of an instance that is compared, in memory at once: what came over the network, as a whole and in parts."""

_SECONDS = 30.0
"""For which one question compares contents: the lane has others to ask for."""

_PATIENCE = 600.0
"""Seconds for which an instance that cannot be fetched is asked for again, before a person is to look: by
then it is no overload."""


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Compares what one holder has; raises HolderUnavailableError where it does not answer."""

    source: InstanceSource
    digest_here: Callable[[Instance], str]
    """Returns the SHA-256 of the data set that is stored here, or raises UnreadableFileError."""
    clock: Clock
    memory: Memory = field(default_factory=lambda: Memory(BOUNDLESS))
    failing: dict[InstanceNumber, float] = field(default_factory=dict)
    """Since when those cannot be fetched that could not be when they were asked for last, by the monotonic
    clock."""

    def compare(self, instances: Sequence[Instance]) -> Answers:
        """Return a proof for each that comes back as it was sent; what differs is denied.

        So is what cannot be fetched for long: it would wait for ever, and a person could do nothing about it.
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
                    # It proves nothing.
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
        """Return the proof, None where what came back has another digest than what was sent."""
        if hashlib.sha256(returned).hexdigest() != sent:
            return None
        evidence = {"peer": self.source.ae_title, "data_set_sha256": sent}
        return Proof(ProofKind.READBACK, self.clock.now(), evidence)

    def is_given_up(self, number: InstanceNumber) -> bool:
        """Note that an instance could not be fetched, and say whether it has been so for long."""
        moment = self.clock.monotonic()
        if moment - self.failing.setdefault(number, moment) < _PATIENCE:
            return False
        # A person who replays it begins again.
        del self.failing[number]
        return True


@dataclass(frozen=True, slots=True)
class ContentCheck:
    """Tells contents apart where a proof names a SOP Instance UID and there is another content under it.

    One for each lane. A holder may acknowledge the later content, keep the earlier one, and commit to it by
    its UID, as Orthanc does as it comes.
    """

    read_back: ReadBack
    ambiguous: Callable[[Sequence[InstanceNumber]], Set[InstanceNumber]]
    """Returns those of which a UID proves nothing."""

    def judge(self, instances: Sequence[Instance], listed: Mapping[InstanceNumber, Proof]) -> Answers:
        """Return what is fetched again of those that are listed: the same, or denied.

        Where the holder offers nothing to fetch with, or says that there is nothing, an instance stays proven
        by its UID, and the evidence says so. What could not be compared for now, or in the time that a lane
        has, is pending; what cannot be fetched for long is denied. What cannot be read here is left out.
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
                    doubt = {UNCOMPARED: why or "it does not give this instance out"}
                    found[number] = replace(listed[number], evidence={**listed[number].evidence, **doubt})
                elif (proof := self.read_back.judge(sent, returned)) is not None:
                    found[number] = proof
                else:
                    denied[number] = DIFFERS
        return Answers(found, pending, denied=denied)
