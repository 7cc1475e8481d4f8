"""Readback: fetches an instance from its holder again, and compares the data set with what was sent.

Compared is the SHA-256 of the data set's bytes. A receiver writes the file meta information before it anew,
so the whole files always differ; a data set that was converted or coerced there differs too, and is no proof.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from understudy.core.model import Instance, InstanceNumber, Proof, ProofKind, Timestamp
from understudy.core.ports import (
    Answers,
    Clock,
    HolderUnavailableError,
    InstanceSource,
    NotGivenError,
    UnansweredError,
    UnreadableFileError,
)

DIFFERS = "what it gives back differs from what was sent"

UNCOMPARED = "uncompared"
"""Key of the evidence of a proof that cannot tell this content from another under the same UID; the value
says why it was not compared."""

_SECONDS = 30.0
"""For which one question compares contents: the lane has others to ask for."""

_PATIENCE = 600.0
"""Seconds for which an instance that cannot be fetched is asked for again, before a person is to look: by
then it is no overload."""


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Compares what one holder has; raises HolderUnavailableError where it does not answer."""

    source: InstanceSource
    data_set: Callable[[Instance], bytes]
    """Returns the data set of the file that is stored here, or raises UnreadableFileError."""
    clock: Clock

    def compare(self, instances: Sequence[Instance]) -> Answers:
        """Return a proof for each that comes back as it was sent; what differs is denied."""
        found: dict[InstanceNumber, Proof] = {}
        denied: dict[InstanceNumber, str] = {}
        for instance in instances:
            try:
                sent = self.digest_here(instance)
                returned = self.source.fetch(instance)
            except (UnreadableFileError, NotGivenError):
                # It proves nothing.
                continue
            if returned is not None and (proof := self.judge(sent, returned)) is not None:
                found[instance.number] = proof
            elif returned is not None:
                denied[instance.number] = DIFFERS
        return Answers(found, denied=denied)

    def digest_here(self, instance: Instance) -> str:
        """Return the digest of what is stored here, or raise UnreadableFileError."""
        return hashlib.sha256(self.data_set(instance)).hexdigest()

    def judge(self, sent: str, returned: bytes) -> Proof | None:
        """Return the proof, None where what came back has another digest than what was sent."""
        if hashlib.sha256(returned).hexdigest() != sent:
            return None
        evidence = {"peer": self.source.ae_title, "data_set_sha256": sent}
        return Proof(ProofKind.READBACK, self.clock.now(), evidence)


@dataclass(frozen=True, slots=True)
class Contents:
    """Tells contents apart where a proof names a SOP Instance UID and there is another content under it.

    One for each lane. A holder may acknowledge the later content, keep the earlier one, and commit to it by
    its UID, as Orthanc does as it comes.
    """

    read_back: ReadBack
    ambiguous: Callable[[Sequence[InstanceNumber]], Set[InstanceNumber]]
    """Returns those of which a UID proves nothing."""
    failing: dict[InstanceNumber, Timestamp] = field(default_factory=dict)
    """Since when those cannot be fetched that could not be when they were asked for last."""

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
        began = self.read_back.clock.now()
        for instance in instances:
            number = instance.number
            if number not in listed:
                continue
            late = not 0 <= self.read_back.clock.now() - began < _SECONDS
            if late and not why:
                pending.add(number)
                continue
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
                if self._is_given_up(number):
                    denied[number] = f"it cannot be fetched to be compared: {error.reason}"
                else:
                    pending.add(number)
                continue
            self.failing.pop(number, None)
            if returned is None:
                doubt = {UNCOMPARED: why or "it does not give this instance out"}
                found[number] = replace(listed[number], evidence={**listed[number].evidence, **doubt})
            elif (proof := self.read_back.judge(sent, returned)) is not None:
                found[number] = proof
            else:
                denied[number] = DIFFERS
        return Answers(found, pending, denied=denied)

    def _is_given_up(self, number: InstanceNumber) -> bool:
        """Note that an instance could not be fetched, and say whether it has been so for long."""
        now = self.read_back.clock.now()
        # Where the clock was set back it begins anew.
        since = self.failing[number] = min(self.failing.get(number, now), now)
        if now - since < _PATIENCE:
            return False
        # A person who replays it begins anew.
        del self.failing[number]
        return True
