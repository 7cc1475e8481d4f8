"""Readback: fetches an instance from its holder again, and compares the data set with what was sent.

Compared is the SHA-256 of the data set's bytes. A receiver writes the file meta information before it anew,
so the whole files always differ; a data set that was converted or coerced there differs too, and is no proof.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from understudy.core.model import Instance, InstanceNumber, Proof, ProofKind
from understudy.core.ports import Answers, Clock, InstanceSource, UnreadableFileError

_DIFFERS = "what it gives back differs from what was sent"


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
