"""The ports: the interfaces through which the flow uses holders, Orthanc, object stores and files."""

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from understudy.core.commitment import CommitmentReport
from understudy.core.due import Clock as Clock
from understudy.core.inventory import Image, StudyList
from understudy.core.model import (
    Delivery,
    HolderKind,
    HolderName,
    Instance,
    InstanceNumber,
    NewInstance,
    Proof,
    SopInstanceUid,
    StudyInstanceUid,
    Timestamp,
)
from understudy.core.outcomes import Verdict
from understudy.core.packing import Digests, Member, StudyFacts
from understudy.core.views import ProofView


class Reads(Protocol):
    """A source of bytes."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most `size`, empty at the end."""
        ...


class Writes(Protocol):
    """A sink of bytes."""

    def write(self, content: bytes, /) -> object: ...


class HolderUnavailableError(Exception):
    """The holder cannot be reached or used now. A later attempt can help, and no instance is to blame."""

    def __init__(self, holder: str, reason: str, hint: str) -> None:
        super().__init__(f"{holder}: {reason}")
        self.holder = holder
        self.reason = reason
        self.hint = hint


class UnansweredError(HolderUnavailableError):
    """The holder is reachable but gives no usable answer to a query. It may still accept instances."""


class BusyError(HolderUnavailableError):
    """The holder is reachable but accepts no further association for now."""


class RejectedError(HolderUnavailableError):
    """The holder is reachable but rejects our association permanently."""


class NoImagesError(UnansweredError):
    """The holder lists a study but none of its images, so nothing can be concluded.

    `counted` is the number of instances that the holder gives for the study, None if it gives none.
    """

    def __init__(self, holder: str, reason: str, hint: str, counted: int | None) -> None:
        super().__init__(holder, reason, hint)
        self.counted = counted


class NotGivenError(HolderUnavailableError):
    """The holder failed to return one instance. It may return others."""


class CappedError(UnansweredError):
    """The holder lists fewer instances of a study than it counts.

    The holder has the listed instances. Nothing is known of the others.
    """

    def __init__(self, holder: str, reason: str, hint: str, listed: Set[Image]) -> None:
        super().__init__(holder, reason, hint)
        self.listed = listed

    @property
    def uids(self) -> Set[SopInstanceUid]:
        """The SOP Instance UIDs of the listed images."""
        return {uid for _, uid in self.listed}


@dataclass(frozen=True, slots=True)
class OpenCommitment:
    """A storage commitment transaction that was requested from the holder and has no report yet."""

    transaction_uid: str
    requested: Timestamp
    members: Mapping[InstanceNumber, SopInstanceUid]


@dataclass(frozen=True, slots=True)
class Settlement:
    """The result of a transaction's report: committed instances, and denied ones with the reason."""

    transaction_uid: str
    committed: Mapping[InstanceNumber, Proof]
    denied: Mapping[InstanceNumber, str]


@dataclass(frozen=True, slots=True)
class Answers:
    """The result of asking for proofs. A requested instance that no field names is absent at the holder."""

    found: Mapping[InstanceNumber, Proof]
    pending: Set[InstanceNumber] = frozenset()
    """Instances whose answer is still awaited."""
    settlements: Sequence[Settlement] = ()
    """Reports that have arrived, about these instances or about others."""
    denied: Mapping[InstanceNumber, str] = field(default_factory=dict)
    """Instances that one more copy would not prove either, with the reason."""


class CommitmentRefusedError(Exception):
    """The holder does not accept a request for storage commitment; the text is the reason."""


class Committer(Protocol):
    """A holder that can be asked for storage commitment."""

    @property
    def name(self) -> str: ...

    @property
    def ae_title(self) -> str: ...

    def commit(
        self, transaction_uid: str, references: Sequence[tuple[str, str]], linger: float
    ) -> CommitmentReport | None:
        """Ask the holder to commit to instances, each given by SOP class and SOP Instance UID (N-ACTION).

        Returns the report if it arrives over the same association within `linger` seconds, otherwise None.
        Raises CommitmentRefusedError or HolderUnavailableError.
        """
        ...


class CommitmentReports(Protocol):
    """Access to the reports that holders send over associations of their own."""

    def commitment_report(self, transaction_uid: str) -> CommitmentReport | None:
        """Return the report on a transaction, or None if there is none. Raises OrthancUnavailableError."""
        ...


class InstanceSource(Protocol):
    """A holder that can return single instances."""

    @property
    def ae_title(self) -> str: ...

    def fetch(self, instance: Instance) -> bytes | None:
        """Return the data set as the holder keeps it, or None if the holder answers that it has none.

        Raises HolderUnavailableError, or NotGivenError if the holder tries to return it and fails.
        """
        ...


class Holder(Protocol):
    """A place that has to have instances: the primary, a route's destination or a vault.

    All calls raise HolderUnavailableError if the holder as a whole does not answer.
    """

    @property
    def name(self) -> HolderName: ...

    @property
    def kind(self) -> HolderKind: ...

    def find(self, instances: Sequence[Instance]) -> Mapping[InstanceNumber, Proof]:
        """Return a proof for each of these instances that the holder has, and nothing for the others."""
        ...

    @property
    def proof(self) -> ProofView:
        """The kind of proof that is asked for acknowledged instances now."""
        ...

    def prove(self, instances: Sequence[Instance]) -> Answers:
        """Ask for proofs of acknowledged instances of one study, and collect reports that have arrived.

        Without instances, only collect the reports.
        """
        ...

    def deliver(self, instances: Sequence[Instance]) -> Iterator[Delivery]:
        """Send instances of one study, and yield a Delivery for each as soon as its outcome is known.

        An instance without a Delivery was not sent.
        """
        ...


MAX_CONTEXTS = 128
"""Presentation contexts of one association: odd numbers from 1 to 255 (DICOM PS3.8 9.3.2.2)."""


@dataclass(frozen=True, slots=True)
class FileToSend:
    """One stored file: `content` is the whole file with its file meta information, and is read once."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    content: BinaryIO
    size: int
    """Bytes of the content."""


class Storing(Protocol):
    """An association over which files are sent, one at a time."""

    @property
    def is_open(self) -> bool:
        """Whether further files can be sent over it."""
        ...

    def accepts(self, sop_class_uid: str, transfer_syntax_uid: str) -> bool:
        """Say whether the peer accepts this pair, which has to be one that the association proposed."""
        ...

    def store(self, file: FileToSend) -> Verdict:
        """Send one file and return the outcome.

        Raises HolderUnavailableError if the peer reports a fault of its own and not of the file.
        """
        ...


@dataclass(frozen=True, slots=True)
class MoveResult:
    """The result of a C-MOVE: its final DIMSE status and the numbers of its sub-operations."""

    status: int
    completed: int
    failed: int


class Receiver(Protocol):
    """A party that accepts instances and lists a study's instances. Calls raise HolderUnavailableError."""

    @property
    def name(self) -> str: ...

    @property
    def ae_title(self) -> str:
        """The name of this party in proofs: its AE title, or the address of a DICOMweb server."""
        ...

    def instances(self, study: StudyInstanceUid) -> Set[SopInstanceUid]:
        """Return the SOP Instance UIDs that the party lists for a study, empty if it lists none."""
        ...

    def storing(self, pairs: Collection[tuple[str, str]]) -> AbstractContextManager[Storing]:
        """Open an association for at most MAX_CONTEXTS pairs of SOP class and transfer syntax."""
        ...


class Peer(Receiver, Protocol):
    """A remote DICOM AE. A call that cannot be done raises HolderUnavailableError."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    def echo(self) -> None:
        """Check that the peer answers (C-ECHO)."""
        ...

    def studies(self, study: StudyInstanceUid | None = None) -> StudyList:
        """Return every study, or only the given one, with the newest first."""
        ...

    def images(self, study: StudyInstanceUid) -> Set[Image]:
        """Return the images that the peer lists for a study.

        Raises CappedError if the peer counts more images than it lists, and NoImagesError if it lists the
        study without any image.
        """
        ...

    def move(self, study: StudyInstanceUid, destination: str) -> MoveResult:
        """Ask the peer to send a study to the AE title `destination`, and wait for the end."""
        ...

    def move_instances(
        self, study: StudyInstanceUid, images: Collection[Image], destination: str
    ) -> MoveResult:
        """Ask the peer to send images of a study one by one, and wait for the end of each."""
        ...


class OrthancUnavailableError(Exception):
    """Our own Orthanc does not answer. A later attempt can help."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Orthanc does not answer: {reason}")
        self.hint = "the service orthanc restarts by itself; its log says why it stopped"


@dataclass(frozen=True, slots=True)
class Changes:
    """One page of Orthanc's changes feed, with the identifiers of stored instances.

    `last` is the cursor for the next page. `was_reset` is true if the feed ends at `last`, before the
    requested cursor: the index was replaced or restored from a backup. `mark` identifies the last change of
    the page, and is empty if the page has no change.
    """

    orthanc_ids: Sequence[str]
    last: int
    done: bool
    was_reset: bool
    mark: str = ""


class Feed(Protocol):
    """Orthanc's changes feed and index. All calls raise OrthancUnavailableError."""

    def changes(self, since: int, limit: int) -> Changes:
        """Return up to `limit` instances that were stored after the cursor `since`."""
        ...

    def end(self) -> int:
        """Return the cursor after the last change."""
        ...

    def contradicts(self, mark: str) -> bool:
        """Say whether the feed has another change under the number in this mark.

        A change that is no longer in the feed is no contradiction.
        """
        ...

    def describe(self, orthanc_ids: Sequence[str]) -> list[NewInstance]:
        """Return Orthanc's description of these instances, without those that have been deleted."""
        ...

    def identifiers(self, start: int, limit: int) -> list[str]:
        """Return up to `limit` of Orthanc's identifiers of its instances, from position `start`."""
        ...


LARGEST_SMALL = 2**26
"""Size in bytes above which `ObjectStore.get` returns only the beginning of an object."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One version of one object, as the store itself describes it."""

    key: str
    version: str
    """The store's own name of the version, empty if the store keeps no versions."""
    size: int
    md5: str
    """Empty if the store gives no MD5."""
    sha256: str | None = None
    """Known from `stat` only; a listing has none."""
    stored_at: float | None = None
    """When the store received the object, by its own clock, in seconds since 1970; None if not known.

    If the store is not `retained`, the writer can choose this time."""


class ObjectStore(Protocol):
    """The store in which a vault keeps its objects. Each key is written once and never changed.

    All calls raise HolderUnavailableError if the store does not answer or refuses us.
    """

    @property
    def retained(self) -> bool:
        """Whether the store itself protects an object from deletion and change until its retention ends."""
        ...

    @property
    def largest(self) -> int:
        """Size in bytes of the largest object that the store accepts."""
        ...

    def put_file(
        self, key: str, file: BinaryIO, digests: Digests, retain_until: Timestamp | None
    ) -> StoredObject:
        """Store the whole file with these digests durably. A key that has the same bytes stays unchanged.

        The returned object only names the version. Use `stat` to learn what the store really has.
        """
        ...

    def put(self, key: str, content: bytes, retain_until: Timestamp | None) -> StoredObject:
        """Store small content as `put_file` does."""
        ...

    def stat(self, key: str) -> StoredObject | None:
        """Return the version that was written first under the key, or None if the store has none."""
        ...

    def open(self, key: str, version: str = "") -> AbstractContextManager[Reads]:
        """Give the bytes of the version, or of the one that `stat` returns. Raises KeyError if absent."""
        ...

    def get(self, key: str, version: str = "") -> bytes:
        """Return the bytes of a small object, of the same version as `open` does."""
        ...

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield all versions of all objects under the prefix, deleted ones too, the oldest of a key first."""
        ...


class UntoldError(Exception):
    """The store does not let this user read an object's lock."""


class UnreadableFileError(Exception):
    """One stored file cannot be used; `permanent` says whether a person has to act."""

    def __init__(self, reason: str, *, permanent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.permanent = permanent


class StoredFiles(Protocol):
    """Orthanc's stored files, read only."""

    def open(self, instance: Instance) -> AbstractContextManager[BinaryIO]:
        """Open the file, after a check of its size and MD5 against the ledger, or raise UnreadableFileError.

        Reading its end raises UnreadableFileError too, if the file has changed meanwhile.
        """
        ...

    def study_facts(self, file: BinaryIO, transfer_syntax_uid: str) -> StudyFacts | None:
        """Return the file's attributes of its study, or None if the file cannot be parsed."""
        ...


class Sealer(Protocol):
    """Encryption to recipients. The appliance can encrypt, but cannot decrypt."""

    @property
    def recipients(self) -> Sequence[str]: ...

    def seal(self, plain: bytes) -> bytes: ...

    def seal_stream(self, plain: Reads, sealed: Writes) -> None:
        """Encrypt the bytes of `plain` into `sealed`. Errors of either side are passed on."""
        ...


class Signer(Protocol):
    """Signs the objects that this appliance writes, so that a reader can tell who wrote them."""

    @property
    def writer(self) -> str:
        """The public key for checking the signatures."""
        ...

    def sign(self, content: bytes) -> bytes: ...


class SealError(Exception):
    """Decryption failed: the key is another one, or bytes were changed."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


class Opener(Protocol):
    """Decryption with an age identity."""

    def open(self, sealed: bytes) -> bytes:
        """Return the plain bytes, or raise SealError."""
        ...

    def opened(self, sealed: Reads) -> AbstractContextManager[BinaryIO]:
        """Give the plain bytes as a stream. Reading it raises SealError."""
        ...


class TargetError(Exception):
    """The target of a restore does not accept a file."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


class RestoreTarget(Protocol):
    """The target of a restore: a folder or an Orthanc."""

    def has(self, member: Member) -> bool:
        """Say whether exactly these bytes are there already. Raises TargetError if other bytes are there."""
        ...

    def keep(self, member: Member, content: Reads) -> None:
        """Write the file durably, or raise TargetError.

        The file counts as written only after its content was read to the end. Reading the end raises an
        error if the bytes are not those of the member.
        """
        ...
