"""A DICOM destination as holder: a route's archive, or the primary in a failback."""

from collections.abc import Iterator, Mapping, Sequence

from understudy.core.model import (
    Delivery,
    HolderKind,
    HolderName,
    Instance,
    InstanceNumber,
    Outcome,
    Proof,
    ProofKind,
    StudyInstanceUid,
)
from understudy.core.outcomes import Loss, of_loss, of_status
from understudy.core.ports import MAX_CONTEXTS, Clock, FileToSend, Peer, StoredFiles, UnreadableFileError


class DicomDestination:
    """Delivers by C-STORE and proves by IMAGE-level C-FIND (core.ports.Holder)."""

    def __init__(self, kind: HolderKind, peer: Peer, files: StoredFiles, clock: Clock) -> None:
        self.name = HolderName(peer.name)
        self.kind = kind
        self._peer = peer
        self._files = files
        self._clock = clock

    def find(self, instances: Sequence[Instance]) -> Mapping[InstanceNumber, Proof]:
        """Return an inventory proof for each instance whose SOP Instance UID the peer lists."""
        found: dict[InstanceNumber, Proof] = {}
        for study in sorted({instance.study_instance_uid for instance in instances}):
            listed = self._peer.instances(study)
            proof = inventory_proof(self._peer.ae_title, study, len(listed), self._clock)
            for instance in instances:
                if instance.study_instance_uid == study and instance.sop_instance_uid in listed:
                    found[instance.number] = proof
        return found

    def deliver(self, instances: Sequence[Instance]) -> Iterator[Delivery]:
        """Send the stored files byte for byte, yielding the exact outcome of each."""
        ready: list[tuple[Instance, FileToSend]] = []
        for instance in instances:
            try:
                path = self._files.verified_path(instance)
            except UnreadableFileError as error:
                outcome = Outcome.REFUSED if error.permanent else Outcome.RETRY
                yield Delivery(instance.number, outcome, error.reason)
                continue
            ready.append((instance, FileToSend(path, instance.sop_class_uid, instance.transfer_syntax_uid)))
        # One association proposes at most 128 contexts, and a batch never needs more contexts than it has
        # files.
        for start in range(0, len(ready), MAX_CONTEXTS):
            part = ready[start : start + MAX_CONTEXTS]
            answers = self._peer.store([file for _, file in part])
            for (instance, _), answer in zip(part, answers, strict=True):
                yield _delivery(instance.number, answer)


def inventory_proof(ae_title: str, study: StudyInstanceUid, listed: int, clock: Clock) -> Proof:
    """Return the proof that the peer's IMAGE-level answer named an instance."""
    return Proof(
        ProofKind.INVENTORY,
        clock.now(),
        {"peer": ae_title, "level": "IMAGE", "study": study, "listed": listed},
    )


def _delivery(number: InstanceNumber, answer: int | str | None) -> Delivery:
    if isinstance(answer, str):
        return Delivery(number, Outcome.REFUSED, answer)
    verdict = of_loss(Loss.TIMED_OUT) if answer is None else of_status(answer)
    return Delivery(number, verdict.outcome, verdict.reason, hint=verdict.hint)
