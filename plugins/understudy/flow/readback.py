"""Readback: fetches an instance from its holder again, and compares the data set with what was sent.

Compared is the SHA-256 of the data set's bytes. A receiver writes the file meta information before it anew,
so the whole files always differ; a data set that was converted or coerced there differs too, and is no proof.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from understudy.core.model import Instance, InstanceNumber, Proof, ProofKind
from understudy.core.ports import (
    Answers,
    Clock,
    HolderUnavailableError,
    InstanceSource,
    UnreadableFileError,
)

_DIFFERS = "what it gives back differs from what was sent"

UNCOMPARED = "uncompared"
"""Key of the evidence of a proof that cannot tell this content from another under the same UID; the value
says why it was not compared."""


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
            sent = self._digest_here(instance)
            returned = None if sent is None else self.source.fetch(instance)
            if returned is None:
                continue
            if hashlib.sha256(returned).hexdigest() != sent:
                denied[instance.number] = _DIFFERS
                continue
            evidence = {"peer": self.source.ae_title, "data_set_sha256": str(sent)}
            found[instance.number] = Proof(ProofKind.READBACK, self.clock.now(), evidence)
        return Answers(found, denied=denied)

    def _digest_here(self, instance: Instance) -> str | None:
        """Return the digest of what is stored here, None where that cannot be read: it proves nothing."""
        try:
            return hashlib.sha256(self.data_set(instance)).hexdigest()
        except UnreadableFileError:
            return None


@dataclass(frozen=True, slots=True)
class Contents:
    """Tells contents apart where a proof names a SOP Instance UID and there is another content under it.

    A holder may acknowledge the later content, keep the earlier one, and commit to it by its UID, as Orthanc
    does as it comes.
    """

    read_back: ReadBack
    ambiguous: Callable[[Sequence[InstanceNumber]], Set[InstanceNumber]]
    """Returns those of which a UID proves nothing."""

    def judge(self, instances: Sequence[Instance], listed: Mapping[InstanceNumber, Proof]) -> Answers:
        """Return what is fetched again of those that are listed: the same, or denied.

        What the holder does not give out stays proven by its UID, and the evidence says so.
        """
        try:
            compared = self.read_back.compare([one for one in instances if one.number in listed])
            why = "it does not give the instance out"
        except HolderUnavailableError as error:
            compared, why = Answers({}), error.reason
        uncompared = {
            number: replace(proof, evidence={**proof.evidence, UNCOMPARED: why})
            for number, proof in listed.items()
            if number not in compared.found and number not in compared.denied
        }
        return Answers({**compared.found, **uncompared}, denied=compared.denied)
