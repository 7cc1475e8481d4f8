"""A DICOM or DICOMweb destination as holder: a route's archive, or the primary in a failback."""

import math
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from io import BytesIO
from queue import SimpleQueue

from understudy.core.model import (
    Delivery,
    HolderKind,
    HolderName,
    Instance,
    InstanceNumber,
    Outcome,
    Proof,
    ProofKind,
    SopInstanceUid,
    StudyInstanceUid,
)
from understudy.core.outcomes import Loss, of_loss
from understudy.core.ports import (
    MAX_CONTEXTS,
    Answers,
    CappedError,
    Clock,
    FileToSend,
    HolderUnavailableError,
    Receiver,
    StoredFiles,
    Storing,
    UnreadableFileError,
)
from understudy.core.refusals import UNASKABLE
from understudy.core.uids import can_be_asked_for
from understudy.core.views import ProofView
from understudy.engine.beside import Beside
from understudy.engine.memory import BOUNDLESS, Memory
from understudy.holders.commitment import Commitment
from understudy.holders.readback import ContentCheck, ReadBack

_WORTH_AN_ASSOCIATION = 4
"""Instances below which a further association would cost more time than it saves."""

PLAIN_SYNTAXES = ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
"""Transfer syntaxes that a file can be transcoded to: Explicit and Implicit VR Little Endian. A peer that
accepts the SOP class has to accept the latter (DICOM PS3.5 10.1)."""

Transcode = Callable[[Instance, str], bytes]
"""Returns the instance's file in another transfer syntax, or raises UnreadableFileError."""

_COPIES = 2
"""Copies of a transcoded file that are in memory at once: as it comes from Orthanc, in parts and whole."""

_MOST_LOSSES = 3
"""Associations in a row that end without an answer to any instance, before the peer counts as unavailable."""


class DicomDestination:
    """Delivers by C-STORE or STOW-RS, proves by IMAGE-level C-FIND or QIDO-RS (core.ports.Holder)."""

    def __init__(
        self,
        kind: HolderKind,
        peer: Receiver,
        files: StoredFiles,
        clock: Clock,
        *,
        associations: int = 1,
        pace: Callable[[int], bool] = lambda _size: True,
        transcode: Transcode | None = None,
        commitment: Commitment | None = None,
        read_back: ReadBack | None = None,
        contents: ContentCheck | None = None,
        memory: Memory | None = None,
        beside: Beside | None = None,
        thread: type[threading.Thread] = threading.Thread,
    ) -> None:
        self.name = HolderName(peer.name)
        self.kind = kind
        self._peer = peer
        self._files = files
        self._clock = clock
        self._associations = associations
        self._pace = pace
        """Waits until the given number of bytes may be sent; returns False if sending has to stop."""
        self._transcode = transcode
        """None if only the stored bytes may be sent."""
        self._commitment = commitment
        self._read_back = read_back
        self._contents = contents
        self.beside = beside or Beside(clock, in_turn=True)
        """Makes the lane's questions while it sends."""
        self._memory = memory or Memory(BOUNDLESS)
        self._thread = thread
        """Runs each association; a test that wants no threads gives a class that runs them in turn."""

    @property
    def proof(self) -> ProofView:
        """The kind of proof that acknowledged instances get now."""
        if self._commitment is not None:
            return self._commitment.view
        kind = ProofKind.INVENTORY if self._read_back is None else ProofKind.READBACK
        return ProofView(kind, "as configured")

    def prove(self, instances: Sequence[Instance]) -> Answers:
        """Ask for the proof that counts here; instances that are only listed are read back if configured.

        An instance whose UID has another content, too, is always fetched again and compared.
        """
        judged, rest = self._judged(instances)
        if self._commitment is not None:
            answers = self._commitment.prove(rest, self._listed)
        else:
            answers = self._compared(rest, self._listed(rest))
        return replace(
            answers,
            found={**answers.found, **judged.found},
            denied={**answers.denied, **judged.denied},
            pending=answers.pending | judged.pending,
        )

    def _judged(self, instances: Sequence[Instance]) -> tuple[Answers, Sequence[Instance]]:
        """Return the answers about instances whose UID has another content, too, and the other instances."""
        if self._contents is None:
            return Answers({}), instances
        numbers = self._contents.ambiguous([instance.number for instance in instances])
        rest = [instance for instance in instances if instance.number not in numbers]
        doubtful = [instance for instance in instances if instance.number in numbers]
        try:
            return self._contents.judge(doubtful, self._listed(doubtful)), rest
        except HolderUnavailableError:
            if not rest:
                raise
            # The others may be proven in another way.
            return Answers({}, pending=numbers), rest

    def find(self, instances: Sequence[Instance]) -> Mapping[InstanceNumber, Proof]:
        """Return a proof for each instance whose SOP Instance UID the peer lists.

        The listing is the proof. If reading back is configured, the proof is an equal content read back.
        """
        return self._compared(instances, self._listed(instances)).found

    def _compared(self, instances: Sequence[Instance], listed: Mapping[InstanceNumber, Proof]) -> Answers:
        if self._read_back is None:
            return Answers(listed)
        return self._read_back.compare([one for one in instances if one.number in listed])

    def _listed(self, instances: Sequence[Instance]) -> Mapping[InstanceNumber, Proof]:
        found: dict[InstanceNumber, Proof] = {}
        for study in sorted({instance.study_instance_uid for instance in instances}):
            if not can_be_asked_for(study):
                continue
            mine = [instance for instance in instances if instance.study_instance_uid == study]
            listed = self._listed_of(study, {instance.sop_instance_uid for instance in mine})
            proof = inventory_proof(self._peer.ae_title, study, len(listed), self._clock)
            found |= {instance.number: proof for instance in mine if instance.sop_instance_uid in listed}
        return found

    def _listed_of(self, study: StudyInstanceUid, wanted: Set[SopInstanceUid]) -> Set[SopInstanceUid]:
        """Return the UIDs that the peer lists; raise CappedError if a list that is cut lacks a wanted one."""
        try:
            return self._peer.instances(study)
        except CappedError as error:
            if wanted <= error.uids:
                return error.uids
            raise

    def deliver(self, instances: Sequence[Instance]) -> Iterator[Delivery]:
        """Send the stored files byte for byte over parallel associations, yielding the outcome of each.

        If the peer does not accept a file's transfer syntax, it gets a transcoded copy, if that is allowed.

        The answer to one instance affects no other: after the peer ended an association, the others go over
        a new one. A doubted refusal counts only if it comes again on a separate association. An instance
        without a Delivery was not sent.
        """
        syntaxes = PLAIN_SYNTAXES if self._transcode else ()
        doubted: list[Instance] = []
        known = [instance for instance in instances if can_be_asked_for(instance.study_instance_uid)]
        for instance in instances:
            if not can_be_asked_for(instance.study_instance_uid):
                yield Delivery(instance.number, Outcome.REFUSED, UNASKABLE)
        for part, pairs in _parts(known, syntaxes):
            yield from self._deliver(_Parcel(part, pairs), doubted)
        for instance in doubted:
            for part, pairs in _parts([instance], syntaxes):
                yield from self._deliver(_Parcel(part, pairs), None)

    def _deliver(self, parcel: "_Parcel", doubted: list[Instance] | None) -> Iterator[Delivery]:
        """Yield the outcomes; an instance whose refusal is doubted goes into the list, if there is one."""
        number = min(self._associations, math.ceil(parcel.size / _WORTH_AN_ASSOCIATION))
        workers = [
            self._thread(target=self._work, args=(parcel,), name=f"{self.name}-{one}", daemon=True)
            for one in range(number)
        ]
        left, ended = parcel.size, 0
        for worker in workers:
            worker.start()
        errors: list[Exception] = []
        try:
            while ended < number:
                told = parcel.told.get()
                if isinstance(told, _Told):
                    left -= 1
                    if told.doubted and doubted is not None:
                        doubted.append(told.instance)
                    else:
                        yield told.delivery
                    continue
                ended += 1
                if told is not None:
                    errors.append(told)
        finally:
            parcel.stop()
            for worker in workers:
                worker.join()
        # An error of ours says more than one of the peer's. If one of several associations could not be made
        # and the others have sent everything, nothing is raised.
        errors.sort(key=lambda error: isinstance(error, HolderUnavailableError))
        if left and errors:
            raise errors[0]

    def _work(self, parcel: "_Parcel") -> None:
        """Send waiting instances; open another association whenever the peer ends one."""
        error: Exception | None = None
        try:
            while parcel.has_more:
                with self._peer.storing(parcel.pairs) as association:
                    while association.is_open and (instance := parcel.take()) is not None:
                        if not self._pace(instance.size):
                            parcel.stop()
                            return
                        parcel.tell(self._store(association, instance))
                    lost = not association.is_open
                if lost and parcel.losses >= _MOST_LOSSES:
                    verdict = of_loss(Loss.NOT_SENT, f"{parcel.losses} associations in a row")
                    raise HolderUnavailableError(self.name, verdict.reason, "look at its log")
        except Exception as raised:  # noqa: BLE001 - handed to the lane, which raises and records it
            error = raised
            if not isinstance(raised, HolderUnavailableError):
                parcel.stop()
        finally:
            parcel.told.put(error)

    def _store(self, association: Storing, instance: Instance) -> "_Told":
        syntax = self._syntax(association, instance)
        if syntax == instance.transfer_syntax_uid:
            # The stored file is sent in pieces.
            return self._store_as(syntax, association, instance)
        if (refusal := self._memory.refusal(instance.size, _COPIES)) is not None:
            return _Told(instance, Delivery(instance.number, Outcome.REFUSED, refusal))
        with self._memory.holding(_COPIES * instance.size):
            return self._store_as(syntax, association, instance)

    def _store_as(self, syntax: str, association: Storing, instance: Instance) -> "_Told":
        stored = syntax == instance.transfer_syntax_uid
        try:
            # The stored file is checked in any case: a copy of a damaged file would hide the damage.
            with self._files.open(instance) as file:
                size = instance.size
                if self._transcode is not None and not stored:
                    copy = self._transcode(instance, syntax)
                    file, size = BytesIO(copy), len(copy)
                verdict = association.store(
                    FileToSend(instance.sop_instance_uid, instance.sop_class_uid, syntax, file, size)
                )
        except UnreadableFileError as error:
            outcome = Outcome.REFUSED if error.permanent else Outcome.RETRY
            return _Told(instance, Delivery(instance.number, outcome, error.reason))
        outcome, reason = verdict.outcome, verdict.reason
        if outcome is Outcome.DELIVERED and not stored:
            outcome = Outcome.DELIVERED_ALTERED
            reason = f"transcoded from {instance.transfer_syntax_uid} to {syntax}"
        return _Told(instance, Delivery(instance.number, outcome, reason), verdict.doubted)

    def _syntax(self, association: Storing, instance: Instance) -> str:
        """Return the transfer syntax to send the instance in: its own if possible."""
        own, sop_class = instance.transfer_syntax_uid, instance.sop_class_uid
        if self._transcode is None or association.accepts(sop_class, own):
            return own
        return next((one for one in PLAIN_SYNTAXES if association.accepts(sop_class, one)), own)


@dataclass(frozen=True, slots=True)
class _Told:
    """The outcome of one instance, and whether it needs confirmation by a second attempt."""

    instance: Instance
    delivery: Delivery
    doubted: bool = False


class _Parcel:
    """Instances that the workers share; each is taken once."""

    def __init__(self, instances: Sequence[Instance], pairs: Collection[tuple[str, str]]) -> None:
        self.pairs = pairs
        """Pairs of SOP class and transfer syntax to propose."""
        self.size = len(instances)
        self.told: SimpleQueue[_Told | Exception | None] = SimpleQueue()
        """Outcomes as they become known; at the end of each worker its error, or None."""
        self.losses = 0
        """Instances in a row whose association ended before the answer."""
        self._waiting = deque(instances)
        self._lock = threading.Lock()
        self._stopped = False

    @property
    def has_more(self) -> bool:
        """Whether there is an instance to take."""
        with self._lock:
            return bool(self._waiting) and not self._stopped

    def take(self) -> Instance | None:
        """Return the next instance; None if there is none, or after `stop`."""
        with self._lock:
            return self._waiting.popleft() if self._waiting and not self._stopped else None

    def tell(self, told: _Told) -> None:
        """Hand an outcome to the lane."""
        with self._lock:
            self.losses = self.losses + 1 if told.delivery.outcome is Outcome.UNKNOWN else 0
        self.told.put(told)

    def stop(self) -> None:
        """Let each worker end after the instance that it is sending."""
        with self._lock:
            self._stopped = True


def _parts(
    instances: Sequence[Instance], others: Sequence[str]
) -> Iterator[tuple[list[Instance], set[tuple[str, str]]]]:
    """Yield the instances in parts, with the pairs of each part; one association has contexts for a part.

    Each SOP class is paired with the transfer syntaxes of its instances, and with `others`.
    """
    part: list[Instance] = []
    pairs: set[tuple[str, str]] = set()
    uids: set[str] = set()
    for instance in instances:
        needed = {(instance.sop_class_uid, one) for one in (instance.transfer_syntax_uid, *others)}
        # Two contents of one UID go one after the other, since the peer keeps the last one.
        if len(pairs | needed) > MAX_CONTEXTS or instance.sop_instance_uid in uids:
            yield part, pairs
            part, pairs, uids = [], set(), set()
        part.append(instance)
        pairs |= needed
        uids.add(instance.sop_instance_uid)
    if part:
        yield part, pairs


def inventory_proof(ae_title: str, study: StudyInstanceUid, listed: int, clock: Clock) -> Proof:
    """Return the proof that the peer's IMAGE-level answer named an instance."""
    return Proof(
        ProofKind.INVENTORY,
        clock.now(),
        {"peer": ae_title, "level": "IMAGE", "study": study, "listed": listed},
    )
