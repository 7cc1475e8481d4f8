"""Restore: brings DICOM files back out of a vault, from identity and store alone, every digest checked.

Rule 1: what comes out of a store is believed only as far as its digests go. A recipient is public, so a
manifest may be anybody's: names are checked before they are used, and sizes bound what is unpacked.
"""

import hashlib
import io
import tarfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import zstandard

from understudy.core.packing import (
    MANIFEST_PREFIX,
    PACK_PREFIX,
    Manifest,
    ManifestError,
    Member,
    StudyFacts,
    manifest_from_json,
    pack_key_of,
)
from understudy.core.ports import ObjectStore, Opener, RestoreTarget, SealError, StoredObject, TargetError

Identity = tuple[str, str, str, str]
"""Study, series and SOP Instance UID, and Orthanc's identifier, in which the patient's is."""


class RestoreError(Exception):
    """The vault as a whole cannot be read."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Failure:
    """One thing that did not come back, and why; `what` is a key or a SOP Instance UID."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a restore is, after each pack."""

    instances_done: int
    instances_total: int
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """What a restore did; anything but complete is an error to the caller."""

    restored: int
    skipped: int
    """Instances of which the target had exactly these bytes already."""
    superseded: int
    """Older versions of instances that the vault has in a newer one; they stay in the vault."""
    failed: tuple[Failure, ...]
    unlisted_packs: tuple[str, ...]
    """Packs without a manifest: to be looked into by age, zstd and tar."""

    whole: bool
    """Whether the whole vault was asked for."""

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for is there, as far as can be told.

        Of a pack without a manifest nobody knows whose it is before it is opened.
        """
        return not (self.failed or (self.whole and self.unlisted_packs))


@dataclass(frozen=True, slots=True)
class CatalogStudy:
    """One study as the manifests tell of it; `facts` are patient data."""

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
    """What is in a vault, and which manifests could not be read."""

    studies: tuple[CatalogStudy, ...]
    failed: tuple[Failure, ...]
    unlisted_packs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Contents:
    manifests: tuple[Manifest, ...]
    failed: tuple[Failure, ...]
    unlisted_packs: tuple[str, ...]
    versions: dict[str, list[StoredObject]]


def catalog(store: ObjectStore, opener: Opener) -> Catalog:
    """Return the studies in the vault, or raise RestoreError."""
    contents = _read_manifests(store, opener)
    by_study: dict[str, list[Manifest]] = defaultdict(list)
    for manifest in contents.manifests:
        by_study[manifest.study_instance_uid].append(manifest)
    studies = tuple(_catalog_study(uid, manifests) for uid, manifests in by_study.items())
    return Catalog(studies, contents.failed, contents.unlisted_packs)


def restore(
    store: ObjectStore,
    opener: Opener,
    target: RestoreTarget,
    study: str | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> RestoreResult:
    """Bring one study (by Study Instance UID) or everything back, or raise RestoreError.

    Interrupted, it can be started again: what the target has already with the same bytes is skipped, and a
    pack all of whose instances are there is not fetched.
    """
    contents = _read_manifests(store, opener)
    chosen = [item for item in contents.manifests if study is None or item.study_instance_uid == study]
    if study is not None and not chosen:
        raise RestoreError(
            f"no manifest that could be read names the study {study}",
            "`understudy restore --vault NAME --identity-file FILE --list` shows what is there",
        )
    newest = _newest(chosen)
    run = _Run(store, opener, target, contents.versions, newest, _shared_names(newest))
    for manifest in chosen:
        run.take(manifest)
        progress(run.progress())
    superseded = len({(_identity(m, item), item.sha256) for m in chosen for item in m.members}) - len(newest)
    failed = contents.failed + tuple(Failure(what[2], reason) for what, reason in run.failures.items())
    return RestoreResult(
        run.restored, run.skipped, superseded, failed, contents.unlisted_packs, whole=study is None
    )


@dataclass(slots=True)
class _Run:
    store: ObjectStore
    opener: Opener
    target: RestoreTarget
    versions: dict[str, list[StoredObject]]
    newest: dict[Identity, Member]
    shared: Set[str]
    """Names in the packs that several instances have."""
    done: set[Identity] = field(default_factory=set)
    failures: dict[Identity, str] = field(default_factory=dict)
    restored: int = 0
    skipped: int = 0
    bytes_done: int = 0

    def take(self, manifest: Manifest) -> None:
        """Bring back what is wanted of one pack; an instance that fails may still come from another one."""
        wanted: dict[str, Member] = {}
        for member in manifest.members:
            identity = _identity(manifest, member)
            if identity in self.done or self.newest[identity].sha256 != member.sha256:
                continue
            try:
                if self.target.has(self._named(member)):
                    self.skipped += 1
                    self._finish(identity, member)
                else:
                    wanted[member.name] = member
            except TargetError as error:
                self.failures[identity] = str(error)
        if not wanted:
            return
        try:
            for member, content in _unpack(self._fetch(manifest), wanted):
                self._keep(_identity(manifest, member), member, content)
                del wanted[member.name]
            reason = "its pack does not have it"
        except (SealError, RestoreError) as error:
            reason = str(error)
        for member in wanted.values():
            self.failures[_identity(manifest, member)] = f"{manifest.pack_key}: {reason}"

    def progress(self) -> Progress:
        total = sum(member.size for member in self.newest.values())
        return Progress(len(self.done), len(self.newest), self.bytes_done, total)

    def _keep(self, identity: Identity, member: Member, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != member.sha256:
            self.failures[identity] = "its bytes differ from the SHA-256 in the manifest"
            return
        try:
            self.target.keep(self._named(member), content)
        except TargetError as error:
            self.failures[identity] = str(error)
            return
        self.restored += 1
        self._finish(identity, member)

    def _named(self, member: Member) -> Member:
        """Return the member with a name that no other instance has; in its pack it keeps the other."""
        if member.name not in self.shared:
            return member
        apart = hashlib.sha256(member.orthanc_id.encode()).hexdigest()[:8]
        return replace(member, name=f"{member.name.removesuffix('.dcm')}-{apart}.dcm")

    def _finish(self, identity: Identity, member: Member) -> None:
        self.done.add(identity)
        self.failures.pop(identity, None)
        self.bytes_done += member.size

    def _fetch(self, manifest: Manifest) -> bytes:
        """Return the decrypted pack: of the versions under its key the one with the manifest's digest."""
        versions = self.versions.get(manifest.pack_key, [])
        for version in versions:
            if version.size != manifest.pack_size:
                continue
            try:
                content = self.store.get(version.key, version.version)
            except KeyError:
                continue
            if hashlib.sha256(content).hexdigest() == manifest.pack_sha256:
                return self.opener.open(content)
        reason = (
            "no version of it has the size and SHA-256 of the manifest"
            if versions
            else "it is not in the store"
        )
        raise RestoreError(reason, "look for another copy of the vault")


def _read_manifests(store: ObjectStore, opener: Opener) -> _Contents:
    """Read all manifests, the newest first; of several versions under one key the first that opens."""
    manifests: dict[str, Manifest] = {}
    failures: dict[str, str] = {}
    locked: SealError | None = None
    objects = sorted(store.list(MANIFEST_PREFIX), key=lambda item: item.key, reverse=True)
    for stored in objects:
        if stored.key in manifests:
            continue
        try:
            plain = opener.open(store.get(stored.key, stored.version))
            manifests[stored.key] = manifest_from_json(plain, stored.key)
            failures.pop(stored.key, None)
        except SealError as error:
            locked = error
            failures.setdefault(stored.key, str(error))
        except ManifestError as error:
            failures.setdefault(stored.key, str(error))
        except KeyError:
            failures.setdefault(stored.key, "it vanished from the store")
    if locked is not None and not manifests:
        raise RestoreError(f"none of {len(failures)} manifests can be decrypted", locked.hint)
    versions: dict[str, list[StoredObject]] = defaultdict(list)
    for stored in store.list(PACK_PREFIX):
        versions[stored.key].append(stored)
    listed = {pack_key_of(stored.key) for stored in objects}
    failed = tuple(Failure(what, reason) for what, reason in failures.items())
    ordered = tuple(sorted(manifests.values(), key=lambda manifest: manifest.created, reverse=True))
    return _Contents(ordered, failed, tuple(sorted(versions.keys() - listed)), versions)


def _newest(manifests: Iterable[Manifest]) -> dict[Identity, Member]:
    """Return the version of each instance that was received last."""
    newest: dict[Identity, Member] = {}
    for manifest in manifests:
        for member in manifest.members:
            present = newest.get(_identity(manifest, member))
            if present is None or member.received_at > present.received_at:
                newest[_identity(manifest, member)] = member
    return newest


def _unpack(plain: bytes, wanted: dict[str, Member]) -> Iterator[tuple[Member, bytes]]:
    """Yield the wanted members; raises RestoreError where the tar is broken or one has another size."""
    try:
        with (
            zstandard.ZstdDecompressor().stream_reader(io.BytesIO(plain)) as stream,
            tarfile.open(mode="r|", fileobj=stream) as archive,
        ):
            for entry in archive:
                member = wanted.get(entry.name)
                if member is None or not entry.isfile():
                    continue
                if entry.size != member.size:
                    raise RestoreError(
                        f"{entry.name} has another size than in the manifest", "use another copy"
                    )
                file = archive.extractfile(entry)
                assert file is not None, "a regular file can be extracted"
                yield member, file.read()
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as error:
        raise RestoreError(f"it cannot be unpacked: {error}", "use another copy of the vault") from error


def _identity(manifest: Manifest, member: Member) -> Identity:
    return (
        manifest.study_instance_uid,
        member.series_instance_uid,
        member.sop_instance_uid,
        member.orthanc_id,
    )


def _shared_names(newest: Mapping[Identity, Member]) -> set[str]:
    """Return the names that more than one instance has: such as name different patients, for one."""
    counts = Counter(member.name for member in newest.values())
    return {name for name, number in counts.items() if number > 1}


def _catalog_study(uid: str, manifests: Sequence[Manifest]) -> CatalogStudy:
    newest = _newest(manifests)
    known = [manifest.study for manifest in manifests if manifest.study != StudyFacts()]
    return CatalogStudy(
        uid,
        known[0] if known else StudyFacts(),
        len(newest),
        sum(member.size for member in newest.values()),
        len(manifests),
        min(manifest.created for manifest in manifests),
        max(manifest.created for manifest in manifests),
    )
