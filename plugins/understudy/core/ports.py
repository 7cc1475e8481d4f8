"""What the flow asks of the outside: a holder, a clock."""

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
    """Takes bytes."""

    def write(self, content: bytes, /) -> object: ...


class HolderUnavailableError(Exception):
    """The holder cannot be asked or given anything now; a later try can help, and no instance is to blame."""

    def __init__(self, holder: str, reason: str, hint: str) -> None:
        super().__init__(f"{holder}: {reason}")
        self.holder = holder
        self.reason = reason
        self.hint = hint


class UnansweredError(HolderUnavailableError):
    """The holder is there and has no usable answer to a question; it may take instances all the same."""


class BusyError(HolderUnavailableError):
    """The holder is there and takes no further association for now."""


class RejectedError(HolderUnavailableError):
    """The holder is there and rejects our association for good."""


class NoImagesError(UnansweredError):
    """The holder lists a study, and no image of it: nothing can be concluded; `counted` is what it counts."""

    def __init__(self, holder: str, reason: str, hint: str, counted: int | None) -> None:
        super().__init__(holder, reason, hint)
        self.counted = counted


class NotGivenError(HolderUnavailableError):
    """The holder was asked to give one instance back and failed; it may give back others."""


class CappedError(UnansweredError):
    """The holder lists fewer instances of a study than it counts: what it lists it has, of others it tells
    nothing."""

    def __init__(self, holder: str, reason: str, hint: str, listed: Set[Image]) -> None:
        super().__init__(holder, reason, hint)
        self.listed = listed

    @property
    def uids(self) -> Set[SopInstanceUid]:
        """The SOP Instance UIDs of what it lists."""
        return {uid for _, uid in self.listed}


@dataclass(frozen=True, slots=True)
class OpenCommitment:
    """A transaction of storage commitment that the holder was asked for, without a report so far."""

    transaction_uid: str
    requested: Timestamp
    members: Mapping[InstanceNumber, SopInstanceUid]


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the report of a transaction comes to; for each denied instance why."""

    transaction_uid: str
    committed: Mapping[InstanceNumber, Proof]
    denied: Mapping[InstanceNumber, str]


@dataclass(frozen=True, slots=True)
class Answers:
    """What asking for proofs brought; instances of the question that are in neither are absent."""

    found: Mapping[InstanceNumber, Proof]
    pending: Set[InstanceNumber] = frozenset()
    """Whose answer is still awaited."""
    settlements: Sequence[Settlement] = ()
    """Reports that came in, of these instances or of others."""
    denied: Mapping[InstanceNumber, str] = field(default_factory=dict)
    """Why one more copy could not be proven either."""


class CommitmentRefusedError(Exception):
    """The holder does not take a request for storage commitment; why is its text."""


class Committer(Protocol):
    """Who can be asked for storage commitment."""

    @property
    def name(self) -> str: ...

    @property
    def ae_title(self) -> str: ...

    def commit(
        self, transaction_uid: str, references: Sequence[tuple[str, str]], linger: float
    ) -> CommitmentReport | None:
        """Ask it to commit to instances, each by SOP class and SOP Instance UID (N-ACTION).

        Returns its report where that comes over the same association within `linger` seconds. Raises
        CommitmentRefusedError, and HolderUnavailableError.
        """
        ...


class CommitmentReports(Protocol):
    """Where reports arrive that holders send over associations of their own."""

    def commitment_report(self, transaction_uid: str) -> CommitmentReport | None:
        """Return the report on a transaction, None where there is none; or raise OrthancUnavailableError."""
        ...


class InstanceSource(Protocol):
    """Who gives single instances back."""

    @property
    def ae_title(self) -> str: ...

    def fetch(self, instance: Instance) -> bytes | None:
        """Return the data set as it is kept there, None where the answer is that there is none to give.

        Raises HolderUnavailableError; NotGivenError where it tries and fails.
        """
        ...


class Holder(Protocol):
    """Whoever may hold an instance: the primary, a route destination or a vault.

    All calls raise HolderUnavailableError where the holder as a whole does not answer.
    """

    @property
    def name(self) -> HolderName: ...

    @property
    def kind(self) -> HolderKind: ...

    def find(self, instances: Sequence[Instance]) -> Mapping[InstanceNumber, Proof]:
        """Return a proof for each of these instances that the holder has; the absent ones are left out."""
        ...

    @property
    def proof(self) -> ProofView:
        """By what it is proven now to have what it acknowledged."""
        ...

    def prove(self, instances: Sequence[Instance]) -> Answers:
        """Ask for proofs of acknowledged instances, of one study or of none; see what came in meanwhile."""
        ...

    def deliver(self, instances: Sequence[Instance]) -> Iterator[Delivery]:
        """Hand over instances of one study, yielding one Delivery for each as it becomes known.

        One without a Delivery was not sent.
        """
        ...


MAX_CONTEXTS = 128
"""Presentation contexts of one association: odd numbers from 1 to 255 (DICOM PS3.8 9.3.2.2)."""


@dataclass(frozen=True, slots=True)
class FileToSend:
    """One stored file: `content` is the whole of it, with its file meta information, and is read once."""

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
        """Say whether the peer takes this pair, which has to be one that the association was made for."""
        ...

    def store(self, file: FileToSend) -> Verdict:
        """Send one file and return what became of it.

        Raises HolderUnavailableError where the peer says something of itself and not of the file.
        """
        ...


@dataclass(frozen=True, slots=True)
class MoveResult:
    """What a C-MOVE ended with: its DIMSE status and the numbers of its sub-operations."""

    status: int
    completed: int
    failed: int


class Receiver(Protocol):
    """Who takes instances and tells which of a study it has, or raises HolderUnavailableError."""

    @property
    def name(self) -> str: ...

    @property
    def ae_title(self) -> str:
        """What proofs name it by: its AE title, or the address of a DICOMweb server."""
        ...

    def instances(self, study: StudyInstanceUid) -> Set[SopInstanceUid]:
        """Return the SOP Instance UIDs that it lists for a study; a study without any counts as absent."""
        ...

    def storing(self, pairs: Collection[tuple[str, str]]) -> AbstractContextManager[Storing]:
        """Give an association for files of at most MAX_CONTEXTS pairs of SOP class and transfer syntax."""
        ...


class Peer(Receiver, Protocol):
    """A remote DICOM AE as we call it; each call raises HolderUnavailableError where it cannot be done."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    def echo(self) -> None:
        """Ask whether it answers (C-ECHO)."""
        ...

    def studies(self, study: StudyInstanceUid | None = None) -> StudyList:
        """Return every study, or the one asked for, the newest first."""
        ...

    def images(self, study: StudyInstanceUid) -> Set[Image]:
        """Return the images that it lists for a study.

        Raises CappedError where it counts more than it lists, NoImagesError where it lists the study alone.
        """
        ...

    def move(self, study: StudyInstanceUid, destination: str) -> MoveResult:
        """Ask it to send a study to the AE title `destination` and wait for the end."""
        ...

    def move_instances(
        self, study: StudyInstanceUid, images: Collection[Image], destination: str
    ) -> MoveResult:
        """Ask it for images of a study one by one, and wait for the end of each."""
        ...


class OrthancUnavailableError(Exception):
    """Our own Orthanc does not answer; a later try can help."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"Orthanc does not answer: {reason}")
        self.hint = "the service orthanc restarts by itself; its log says why it stopped"


@dataclass(frozen=True, slots=True)
class Changes:
    """One page of Orthanc's changes feed: identifiers of stored instances, and where to read on.

    `last` is the cursor for the next page. `was_reset` tells that the feed ends at `last`, before the cursor
    that was asked for: the index was replaced or restored from a backup. `mark` tells the last of these
    changes from any other, and is empty where there is none.
    """

    orthanc_ids: Sequence[str]
    last: int
    done: bool
    was_reset: bool
    mark: str = ""


class Feed(Protocol):
    """Orthanc as the note sees it; all calls raise OrthancUnavailableError."""

    def changes(self, since: int, limit: int) -> Changes:
        """Return the instances stored after the cursor `since`, at most `limit`."""
        ...

    def end(self) -> int:
        """Return the cursor after the last change."""
        ...

    def contradicts(self, mark: str) -> bool:
        """Say whether another change has the number of this one; one that is not there any more does not."""
        ...

    def describe(self, orthanc_ids: Sequence[str]) -> list[NewInstance]:
        """Return what Orthanc knows of these instances; those deleted meanwhile are left out."""
        ...

    def identifiers(self, start: int, limit: int) -> list[str]:
        """Return Orthanc's identifiers of what it holds, from position `start`, at most `limit`."""
        ...


LARGEST_SMALL = 2**26
"""Bytes of an object beyond which `ObjectStore.get` returns its beginning alone."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One version of one object, as the store itself tells of it."""

    key: str
    version: str
    """The store's own name of the version; empty where it keeps none."""
    size: int
    md5: str
    """Empty where the store tells none."""
    sha256: str | None = None
    """Only where `stat` told it; a listing has none."""
    stored_at: float | None = None
    """When the store took it, by its own clock, in seconds since 1970; None where it was not told.

    A store that is not `retained` lets whoever writes choose this time."""


class ObjectStore(Protocol):
    """Where a vault keeps its objects: each key is written once and never changed.

    All calls raise HolderUnavailableError where the store does not answer or refuses us.
    """

    @property
    def retained(self) -> bool:
        """Whether the store itself refuses to delete or change an object until its retention ends."""
        ...

    @property
    def largest(self) -> int:
        """Bytes of the largest object that it takes."""
        ...

    def put_file(
        self, key: str, file: BinaryIO, digests: Digests, retain_until: Timestamp | None
    ) -> StoredObject:
        """Store the whole file, of these digests, durably; a key that holds the same bytes is left as it is.

        What is returned names the version; only `stat` tells what the store has.
        """
        ...

    def put(self, key: str, content: bytes, retain_until: Timestamp | None) -> StoredObject:
        """Store small content as `put_file` does."""
        ...

    def stat(self, key: str) -> StoredObject | None:
        """Return what the store shows under the key: the version that was written first, or None."""
        ...

    def open(self, key: str, version: str = "") -> AbstractContextManager[Reads]:
        """Give the bytes of the version, or of the one that `stat` shows; raises KeyError if absent."""
        ...

    def get(self, key: str, version: str = "") -> bytes:
        """Return the bytes of a small object as `open` gives them."""
        ...

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield every version of every object below the prefix, deleted or not, the oldest of a key first."""
        ...


class UntoldError(Exception):
    """A store does not tell this user of an object's lock."""


class UnreadableFileError(Exception):
    """One stored file cannot be used; `permanent` says whether a person has to act."""

    def __init__(self, reason: str, *, permanent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.permanent = permanent


class StoredFiles(Protocol):
    """Orthanc's stored files, read only."""

    def open(self, instance: Instance) -> AbstractContextManager[BinaryIO]:
        """Give the file, which has the size and MD5 that the ledger has, or raise UnreadableFileError.

        Reading the last of it raises UnreadableFileError too, where it changed meanwhile.
        """
        ...

    def study_facts(self, file: BinaryIO, transfer_syntax_uid: str) -> StudyFacts | None:
        """Return what the file says of its study, or None where it cannot be parsed."""
        ...


class Sealer(Protocol):
    """Encryption to recipients: this side can write and never read."""

    @property
    def recipients(self) -> Sequence[str]: ...

    def seal(self, plain: bytes) -> bytes: ...

    def seal_stream(self, plain: Reads, sealed: Writes) -> None:
        """Write what the reader gives, sealed; raises what either end raises."""
        ...


class Signer(Protocol):
    """Signs what this appliance writes, so that a reader tells it from what anybody else wrote."""

    @property
    def writer(self) -> str:
        """The public key that the signatures are checked by."""
        ...

    def sign(self, content: bytes) -> bytes: ...


class SealError(Exception):
    """Something sealed cannot be opened: another key, or bytes that were changed."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


class Opener(Protocol):
    """Decryption by an identity."""

    def open(self, sealed: bytes) -> bytes:
        """Return the plain bytes, or raise SealError."""
        ...

    def opened(self, sealed: Reads) -> AbstractContextManager[BinaryIO]:
        """Give the plain bytes as a stream, whose reading raises SealError."""
        ...


class TargetError(Exception):
    """The place that a restore writes to does not take one file."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


class RestoreTarget(Protocol):
    """Where a restore puts DICOM files: a folder or an Orthanc."""

    def has(self, member: Member) -> bool:
        """Say whether exactly these bytes are there already, or raise TargetError where other bytes are."""
        ...

    def keep(self, member: Member, content: Reads) -> None:
        """Put the file there durably, or raise TargetError.

        The content is read to its end before the file counts as there: reading the end raises where the
        bytes are not the member's.
        """
        ...
