"""Restore: brings DICOM files back from a vault, needs only identity and store, checks every digest.

Rule 1: an object of the store is trusted only as far as its signature and digests go (flow/contents.py).
Names are checked before use, and unpacking is limited by the sizes in the manifest.
Rule 2: a vault may have millions of instances. The manifests' content is kept in a file, and read once.
Rule 3: if an instance has several contents, a person chooses. A manifest's statements about itself do not
decide.
"""

import hashlib
import tarfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import BinaryIO, TypeAlias

import zstandard

from understudy.adapters.vault_index import IndexedContent, IndexedManifest, VaultIndex
from understudy.core.model import Timestamp
from understudy.core.packing import Manifest, Member, StudyFacts
from understudy.core.ports import (
    ObjectStore,
    Opener,
    Reads,
    RestoreTarget,
    SealError,
    TargetError,
)
from understudy.core.views import iso
from understudy.flow.contents import NOBODY, Failure, RestoreError, Trust, read_contents
from understudy.system.spool import Spool


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of several contents of an instance a person wants."""

    wants: Callable[[Member], bool] = lambda _: False
    newest: bool = False
    """Whether to take the content that was stored last, if all are signed."""


_UNDECIDED = Choice()
_PIECE = 2**18
"""Bytes that are read at a time."""
_MANIFESTS = 8
"""Manifests in memory while the contents of one instance are compared: a study is in few packs."""
_MOST_NAMED = 10_000
"""Most instances whose failures are reported one by one."""
_NAMED = 5
"""Most failures that an error names if no requested study is in the vault."""


@dataclass(frozen=True, slots=True)
class RestoreProgress:
    """How far a restore is, after each pack."""

    instances_done: int
    instances_total: int
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """The result of a restore; the caller treats one that is not complete as an error."""

    restored: int
    skipped: int
    """Instances that the target already had with exactly these bytes."""
    superseded: int
    """Contents of instances that were not chosen; they stay in the vault."""
    failed: tuple[Failure, ...]
    """Objects that were not restored, with at most 10,000 instances."""
    failures: int
    """Number of all failures."""
    unlisted_packs: tuple[str, ...]
    """Packs without a manifest; a person can open them by age, zstd and tar."""

    unsigned: int
    """Manifests that were trusted although nobody signed them."""

    whole: bool
    """Whether the whole vault was asked for."""

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for is there, as far as is known.

        A pack without a manifest may belong to any study, which is not known before it is opened.
        """
        return not (self.failed or (self.whole and self.unlisted_packs))


@dataclass(frozen=True, slots=True)
class CatalogStudy:
    """One study as the manifests describe it; `facts` are patient data."""

    study_instance_uid: str
    facts: StudyFacts
    instances: int
    size: int
    """Bytes of the DICOM files."""
    packs: int
    first_stored: float
    last_stored: float


@dataclass(frozen=True, slots=True)
class Catalog:
    """The studies in a vault, and the manifests that could not be read."""

    studies: tuple[CatalogStudy, ...]
    failed: tuple[Failure, ...]
    unlisted_packs: tuple[str, ...]
    unsigned: int


def catalog(store: ObjectStore, opener: Opener, *, spool: Spool, trust: Trust = NOBODY) -> Catalog:
    """Return the studies in the vault, or raise RestoreError."""
    with VaultIndex(spool.folder) as index:
        contents = read_contents(store, opener, trust, index)
        studies = tuple(_catalog_study(uid, index) for uid in index.studies())
        return Catalog(studies, contents.failed, contents.unlisted_packs, index.unsigned())


def restore(
    store: ObjectStore,
    opener: Opener,
    target: RestoreTarget,
    study: str | Collection[str] | None = None,
    progress: Callable[[RestoreProgress], None] = lambda _: None,
    *,
    spool: Spool,
    trust: Trust = NOBODY,
    choice: Choice = _UNDECIDED,
) -> RestoreResult:
    """Bring one study or several (by Study Instance UID) or everything back, or raise RestoreError.

    After an interruption it can be started again: an instance that the target has with the same bytes is
    skipped, and a pack is not fetched if the target has all of its instances.
    """
    studies = {study} if isinstance(study, str) else study
    with VaultIndex(spool.folder) as index:
        contents = read_contents(store, opener, trust, index, studies)
        absent = [one for one in studies or () if not index.has_study(one)]
        failed = contents.failed + tuple(Failure(one, "no trusted manifest names it") for one in absent)
        if studies is not None and len(absent) == len(studies):
            reasons = "; ".join(f"{failure.what}: {failure.reason}" for failure in failed[:_NAMED])
            raise RestoreError(
                f"no trusted manifest names the study {', '.join(sorted(studies))}: {reasons}",
                "`understudy restore --vault NAME --identity-file FILE --list` shows what is there",
            )
        run = _Run(store, opener, target, spool, index)
        run.choose(choice)
        for found in index.manifests():
            run.take(found.manifest)
            progress(run.progress())
        number, failures = index.failures(_MOST_NAMED)
        return RestoreResult(
            run.restored,
            run.skipped,
            run.superseded,
            (*failed, *(Failure(what, reason) for what, reason in failures)),
            len(failed) + number,
            contents.unlisted_packs,
            index.unsigned(),
            whole=studies is None,
        )


_Content: TypeAlias = tuple[IndexedManifest, Member]
"""A manifest and a member of it, which is one content of an instance."""


def _undecided(candidates: Sequence[_Content]) -> str:
    told = "; ".join(
        f"SHA-256 {member.sha256}, {'signed' if found.signed else 'NOT SIGNED'}, stored "
        f"{iso(Timestamp(found.counts_at))}, said to be received {iso(Timestamp(member.received_at))}, "
        f"in {found.manifest.pack_key}"
        for found, member in sorted(candidates, key=lambda pair: pair[0].counts_at)
    )
    return (
        f"the vault has {len(candidates)} different contents of it, so you have to choose: {told}. "
        "`--version SHA256` takes one; `--newest` takes the one stored last, if all are signed; "
        "`--as-of TIME` leaves out contents that were stored later"
    )


class _Run:
    """One restore: the wanted contents, and the progress."""

    def __init__(
        self, store: ObjectStore, opener: Opener, target: RestoreTarget, spool: Spool, index: VaultIndex
    ) -> None:
        self._store = store
        self._opener = opener
        self._target = target
        self._spool = spool
        self._index = index
        self._manifest = lru_cache(_MANIFESTS)(index.manifest)
        self.restored = self.skipped = self.superseded = 0
        self._done = self._bytes_done = self._total = self._bytes_total = 0

    def choose(self, choice: Choice) -> None:
        """Find out which contents each instance has, and which content is wanted."""
        if self._index.unsigned():
            for found in self._index.manifests():
                if not found.signed:
                    # Of an unsigned manifest, only the SOP Instance UIDs are trusted.
                    self._index.add_unsigned(member.sop_instance_uid for member in found.manifest.members)
        for found in self._index.manifests():
            self._index.add_contents(
                found,
                [
                    (self._identity(found.manifest, member), member.sha256, member.name, member.size)
                    for member in found.manifest.members
                ],
            )
        for identity, contents in self._index.with_several_contents():
            candidates = [self._candidate(content) for content in contents]
            chosen = [member for _, member in candidates if choice.wants(member)]
            if not chosen and choice.newest and all(found.signed for found, _ in candidates):
                chosen = [max(candidates, key=lambda pair: pair[0].counts_at)[1]]
            if len(chosen) == 1:
                self.superseded += len(candidates) - 1
                self._index.choose(identity, chosen[0].sha256)
            else:
                self._index.choose(identity, "")
                self._look(identity, candidates)
        self._total, self._bytes_total = self._index.wanted()

    def take(self, manifest: Manifest) -> None:
        """Restore the wanted instances of one pack; one that fails may still come from another pack."""
        wanted: dict[str, Member] = {}
        for member in manifest.members:
            identity = self._identity(manifest, member)
            if not self._index.is_wanted(identity, member.sha256):
                continue
            try:
                if self._target.has(self._named(member)):
                    self.skipped += 1
                    self._finish(identity, member)
                else:
                    wanted[member.name] = member
            except TargetError as error:
                self._fail(identity, member, str(error))
        if not wanted:
            return
        try:
            with self._fetched(manifest) as sealed, self._opener.opened(sealed) as plain:
                for member, content in _unpack(plain, wanted):
                    self._keep(self._identity(manifest, member), member, content)
                    del wanted[member.name]
            reason = "its pack does not contain it"
        except (SealError, RestoreError) as error:
            reason = str(error)
        for member in wanted.values():
            self._fail(self._identity(manifest, member), member, f"{manifest.pack_key}: {reason}")

    def progress(self) -> RestoreProgress:
        """Return the progress."""
        return RestoreProgress(self._done, self._total, self._bytes_done, self._bytes_total)

    def _candidate(self, content: IndexedContent) -> _Content:
        found = self._manifest(content.manifest)
        return found, next(one for one in found.manifest.members if one.name == content.name)

    def _look(self, identity: bytes, candidates: Sequence[_Content]) -> None:
        """Skip or fail an instance with no chosen content; it is skipped if the target has one of them."""
        for _, member in candidates:
            try:
                if self._target.has(self._named(member)):
                    self.skipped += 1
                    return
            except TargetError:
                # The target has other bytes than these.
                continue
        self._fail(identity, candidates[0][1], _undecided(candidates))

    def _identity(self, manifest: Manifest, member: Member) -> bytes:
        """Return an instance's identity: its UIDs, and Orthanc's identifier, which depends on the Patient ID.

        If an unsigned manifest names the instance, the identity is the SOP Instance UID alone.
        """
        if self._index.is_unsigned(member.sop_instance_uid):
            return _digest("", "", member.sop_instance_uid, "")
        return _identity(manifest, member)

    def _fail(self, identity: bytes, member: Member, reason: str) -> None:
        self._index.fail(identity, member.sop_instance_uid, reason)

    def _keep(self, identity: bytes, member: Member, content: Reads) -> None:
        try:
            self._target.keep(self._named(member), _Checked(content, member.sha256))
        except (TargetError, _WrongBytesError) as error:
            self._fail(identity, member, str(error))
            return
        self.restored += 1
        self._finish(identity, member)

    def _named(self, member: Member) -> Member:
        """Return the member with a name that no other instance has; its name in the pack stays."""
        if not self._index.is_shared(member.name):
            return member
        apart = hashlib.sha256(member.orthanc_id.encode()).hexdigest()[:8]
        return replace(member, name=f"{member.name.removesuffix('.dcm')}-{apart}.dcm")

    def _finish(self, identity: bytes, member: Member) -> None:
        self._index.finish(identity, member.sha256)
        self._done += 1
        self._bytes_done += member.size

    @contextmanager
    def _fetched(self, manifest: Manifest) -> Iterator[Reads]:
        """Yield the sealed pack: the version under its key that has the manifest's digest.

        It is fetched whole before it is opened, so that nothing foreign is unpacked.
        """
        versions = self._index.versions(manifest.pack_key)
        for version in versions:
            if version.size != manifest.pack_size:
                continue
            with self._spool.file() as file:
                sha256 = hashlib.sha256()
                try:
                    with self._store.open(version.key, version.version) as content:
                        while piece := content.read(_PIECE):
                            sha256.update(piece)
                            file.write(piece)
                except KeyError:
                    continue
                if sha256.hexdigest() == manifest.pack_sha256:
                    file.seek(0)
                    yield file
                    return
        reason = (
            "no version of it has the size and SHA-256 of the manifest"
            if versions
            else "it is not in the store"
        )
        raise RestoreError(reason, "look for another copy of the vault")


class _WrongBytesError(Exception):
    pass


class _Checked:
    """A member's bytes; at their end, raises _WrongBytesError if their SHA-256 is wrong."""

    def __init__(self, content: Reads, sha256: str) -> None:
        self._content = content
        self._sha256 = sha256
        self._digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        with _unpacking():
            piece = self._content.read(size)
        self._digest.update(piece)
        if not piece and self._digest.hexdigest() != self._sha256:
            raise _WrongBytesError("its bytes differ from the SHA-256 in the manifest")
        return piece


def _unpack(plain: BinaryIO, wanted: dict[str, Member]) -> Iterator[tuple[Member, Reads]]:
    """Yield the wanted members; raise RestoreError if the tar is broken or a member has another size."""
    with (
        _unpacking(),
        zstandard.ZstdDecompressor().stream_reader(plain) as stream,
        tarfile.open(mode="r|", fileobj=stream, bufsize=_PIECE) as archive,
    ):
        for entry in archive:
            member = wanted.get(entry.name)
            if member is None or not entry.isfile():
                continue
            if entry.size != member.size:
                raise RestoreError(f"{entry.name} does not have the size in the manifest", "use another copy")
            file = archive.extractfile(entry)
            assert file is not None, "a regular file can be extracted"
            yield member, file


@contextmanager
def _unpacking() -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as error:
        raise RestoreError(f"it cannot be unpacked: {error}", "use another copy of the vault") from error


def _identity(manifest: Manifest, member: Member) -> bytes:
    return _digest(
        manifest.study_instance_uid,
        member.series_instance_uid,
        member.sop_instance_uid,
        member.orthanc_id,
    )


def _digest(*parts: str) -> bytes:
    """Return a short digest of the parts: millions of them are kept."""
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).digest()


def _catalog_study(uid: str, index: VaultIndex) -> CatalogStudy:
    facts = StudyFacts()
    # The same instance may be in several packs, and in several contents.
    sizes: dict[bytes, int] = {}
    created: list[float] = []
    for found in index.manifests(uid):
        facts = found.manifest.study if facts == StudyFacts() else facts
        created.append(found.manifest.created)
        sizes |= {_identity(found.manifest, member): member.size for member in found.manifest.members}
    return CatalogStudy(uid, facts, len(sizes), sum(sizes.values()), len(created), min(created), max(created))
