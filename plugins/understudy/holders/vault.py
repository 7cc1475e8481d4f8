"""Vault: packs the instances of a study, encrypts them and keeps them in an object store, with proof.

Rule 1: intent before the act. A pack is in the ledger before it is uploaded, so that after a crash it is
looked for and never uploaded twice.
Rule 2: an upload counts only if the store itself shows it afterwards.
Rule 3: a large file is never held whole. Its pack is written to a file without a name and sent in pieces.
"""

import hashlib
import secrets
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, cast

import zstandard

from understudy.core.model import (
    Delivery,
    HolderKind,
    HolderName,
    Instance,
    InstanceNumber,
    Outcome,
    Proof,
    ProofKind,
    Timestamp,
)
from understudy.core.packing import (
    FORMAT,
    Digests,
    Manifest,
    Member,
    PackIntent,
    StudyFacts,
    digests,
    keys_for,
    manifest_to_json,
    member_names,
)
from understudy.core.ports import (
    Answers,
    Clock,
    HolderUnavailableError,
    ObjectStore,
    Reads,
    Sealer,
    Signer,
    StoredFiles,
    StoredObject,
    UnreadableFileError,
)
from understudy.core.refusals import NO_ROOM, pack_too_large
from understudy.core.signature import bytes_to_sign, fingerprint, with_signature
from understudy.core.views import Alarm, ProofView
from understudy.engine.memory import BOUNDLESS, Memory, Room
from understudy.holders.immutability import LockWatch
from understudy.ledger import PackBook
from understudy.system.spool import Spool

WORKING = 16 * 2**20
"""Bytes that packing needs besides the pack: a file that is held, and the pieces on their way."""
_DAY = 86_400.0
_LATEST_LISTING = 600.0
"""Seconds after which an object that the store took and does not list counts as lost."""
_HELD = 72 * 2**20
"""Bytes up to which a pack is held in memory; a pack of Policy.PackBytes fits even if nothing compresses."""
_PIECE = 2**18
"""Bytes of a file that are read at a time."""
_LEVEL = 1
"""Level of zstd: higher levels cost much time on noisy images and save little."""


def held_in_memory(most: int, vaults: int) -> int:
    """Return up to how many bytes a pack is held in memory, so that each vault has room beside all others.

    `most` is how many bytes all vaults together may hold. A larger pack is in a file.
    """
    return min(_HELD, max(1, most // vaults - WORKING))


@dataclass(frozen=True, slots=True)
class VaultSettings:
    """The site's settings for one vault."""

    name: HolderName
    site: str
    retention_days: int | None
    """Days for which the store locks every object; None if the store cannot lock."""


class Vault:
    """A holder that keeps encrypted packs (docs/vault-format.md)."""

    def __init__(
        self,
        settings: VaultSettings,
        files: StoredFiles,
        store: ObjectStore,
        sealer: Sealer,
        book: PackBook,
        clock: Clock,
        spool: Spool,
        token: Callable[[], str] = lambda: secrets.token_hex(16),
        *,
        signer: Signer | None = None,
        watch: LockWatch | None = None,
        memory: Memory | None = None,
    ) -> None:
        self._settings = settings
        self._files = files
        self._store = store
        self._sealer = sealer
        self._book = book
        self._clock = clock
        self._spool = spool
        self._token = token
        self._signer = signer
        self._watch = watch
        self._put_at: dict[str, float] = {}
        """When each object was put that the store did not show yet, by the monotonic clock."""
        self._memory = memory or Memory(BOUNDLESS)

    @property
    def name(self) -> HolderName:
        return self._settings.name

    @property
    def kind(self) -> HolderKind:
        return HolderKind.VAULT

    @property
    def proof(self) -> ProofView:
        """The kind of proof that packed instances get."""
        opened = f"packs open with the key {fingerprint(self._sealer.recipients)}"
        lock = "" if self._watch is None else f"; the lock is {self._watch.lock.value}"
        return ProofView(
            ProofKind.CHECKSUM, f"the store shows the size and digest of each pack; {opened}{lock}"
        )

    def alarms(self) -> Sequence[Alarm]:
        """Return the alarms on this vault besides those on its lane."""
        return () if self._watch is None else self._watch.alarms()

    def prove(self, instances: Sequence[Instance]) -> Answers:
        """Return a proof for each instance in a pack that the store shows."""
        return Answers(self.find(instances))

    def find(self, instances: Sequence[Instance]) -> Mapping[InstanceNumber, Proof]:
        """Return a proof for each of these instances whose pack the store shows unchanged.

        It serves the recovery after a crash and the verification. A pack that the store does not show is
        forgotten, so that its instances are delivered again in another pack.
        """
        wanted = {instance.number for instance in instances}
        proofs: dict[InstanceNumber, Proof] = {}
        for intent in self._book.open(self.name, sorted(wanted)):
            shown = self._store.stat(intent.key)
            if shown is None:
                self._refuse_while_fresh(intent.key)
            if shown is None or not self._equal(shown, intent.pack):
                self._book.close(self.name, intent.key)
                continue
            manifest = self._store.stat(intent.manifest_key)
            if manifest is None:
                self._store.put(intent.manifest_key, intent.manifest, self._lock_from_now())
                manifest = self._store.stat(intent.manifest_key)
            if manifest is not None and self._equal(manifest, intent.manifest_digests):
                proofs |= {number: proof for number, proof in self._proofs(intent, shown) if number in wanted}
        return proofs

    def deliver(self, instances: Sequence[Instance]) -> Iterator[Delivery]:
        """Store instances of one study as one pack, yielding exactly one Delivery for each.

        A file that is gone or differs from the index is refused alone; the others are packed.
        """
        found = self.find(instances)
        for number, proof in found.items():
            yield Delivery(number, Outcome.DELIVERED, "found in the vault already", proof)
        absent = [instance for instance in instances if instance.number not in found]
        if not absent:
            return
        size = sum(instance.size for instance in absent)
        if self._spool.lacks_room(size):
            for instance in absent:
                yield Delivery(instance.number, Outcome.RETRY, NO_ROOM)
            return
        with self._memory.holding(min(size, self._spool.in_memory) + WORKING) as room:
            yield from self._pack(absent, room)

    def _pack(self, absent: Sequence[Instance], room: Room) -> Iterator[Delivery]:
        with self._spool.file() as file:
            contents = _Contents(self._files, absent)
            pack = _Digested(file)
            try:
                self._sealer.seal_stream(contents.compressed(), pack)
            except UnreadableFileError as error:
                for instance in absent:
                    yield Delivery(instance.number, Outcome.RETRY, error.reason)
                return
            except OSError as error:
                raise HolderUnavailableError(
                    self.name,
                    f"a pack cannot be written on the volume `state`: {error.strerror}",
                    "make room on that volume",
                ) from error
            for instance, why in contents.unreadable:
                yield Delivery(
                    instance.number, Outcome.REFUSED if why.permanent else Outcome.RETRY, why.reason
                )
            if contents.packed:
                # While the store hangs, this lane holds no more memory than the pack needs.
                room.shrink(min(pack.digests.size, self._spool.in_memory) + WORKING)
                file.seek(0)
                yield from self._store_pack(contents, file, pack.digests)

    def _store_pack(self, contents: "_Contents", file: BinaryIO, pack: Digests) -> Iterator[Delivery]:
        if pack.size > self._store.largest:
            for instance in contents.packed:
                yield Delivery(
                    instance.number, Outcome.REFUSED, pack_too_large(pack.size, self._store.largest)
                )
            return
        intent = self._intent(contents, pack)
        self._book.plan(self.name, intent)
        self._store.put_file(intent.key, file, pack, intent.locked_until)
        self._store.put(intent.manifest_key, intent.manifest, intent.locked_until)
        shown, manifest = self._store.stat(intent.key), self._store.stat(intent.manifest_key)
        if (
            shown is not None
            and self._equal(shown, intent.pack)
            and manifest is not None
            and self._equal(manifest, intent.manifest_digests)
        ):
            if self._watch is not None:
                self._watch.look(shown.key, shown.version, intent.locked_until)
            for number, proof in self._proofs(intent, shown):
                yield Delivery(number, Outcome.DELIVERED, "stored and shown by the store", proof)
            return
        if shown is None:
            self._put_at[intent.key] = self._clock.monotonic()
        for number in intent.numbers:
            yield Delivery(number, Outcome.UNKNOWN, "the store does not show the pack as it was sent")

    def _intent(self, contents: "_Contents", pack: Digests) -> PackIntent:
        created = self._clock.now()
        key, manifest_key = keys_for(created, self._token())
        manifest = Manifest(
            format=FORMAT,
            site=self._settings.site,
            pack_key=key,
            created=created,
            recipients=tuple(self._sealer.recipients),
            pack_size=pack.size,
            pack_sha256=pack.sha256,
            study_instance_uid=contents.packed[0].study_instance_uid,
            study=contents.facts or StudyFacts(),
            members=tuple(contents.members),
            writer="" if self._signer is None else self._signer.writer,
        )
        document = manifest_to_json(manifest)
        if self._signer is not None:
            document = with_signature(document, self._signer.sign(bytes_to_sign(document)))
        sealed = self._sealer.seal(document)
        numbers = tuple(instance.number for instance in contents.packed)
        file_sha256 = tuple(member.sha256 for member in contents.members)
        until = self._lock_from_now()
        return PackIntent(key, manifest_key, numbers, file_sha256, pack, sealed, digests(sealed), until)

    def _refuse_while_fresh(self, key: str) -> None:
        """Raise HolderUnavailableError for an object that was put just now: a listing may be late."""
        moment = self._clock.monotonic()
        self._put_at = {put: at for put, at in self._put_at.items() if moment - at < _LATEST_LISTING}
        if key in self._put_at:
            raise HolderUnavailableError(
                self.name,
                f"the store accepted {key}, but does not list it yet",
                f"its list may be late: the pack is sent again after {_LATEST_LISTING:.0f} s",
            )

    def _lock_from_now(self) -> Timestamp | None:
        """Return until when the store has to lock an object that is put now."""
        days = self._settings.retention_days
        return None if days is None else Timestamp(self._clock.now() + days * _DAY)

    def _equal(self, shown: StoredObject, digest: Digests) -> bool:
        """Return whether the store shows the size and the SHA-256, or the MD5 if it shows no SHA-256.

        Raises HolderUnavailableError if the size fits and no digest can be compared: an object that the store
        encrypts may have an ETag that is no MD5, and one more copy, locked for years, would show no more.
        """
        if shown.size != digest.size:
            return False
        if shown.sha256:
            return shown.sha256 == digest.sha256
        if shown.md5 == digest.md5:
            return True
        raise HolderUnavailableError(
            self.name,
            f"the store tells no SHA-256 of {shown.key}, and its ETag is not the MD5",
            "allow the appliance's user s3:GetObjectAttributes and s3:GetObjectVersionAttributes; where the "
            "service has no such call, turn off the encryption that changes the ETag (SSE-KMS, SSE-C)",
        )

    def _proofs(self, intent: PackIntent, shown: StoredObject) -> Iterator[tuple[InstanceNumber, Proof]]:
        now = self._clock.now()
        for number, file_sha256 in zip(intent.numbers, intent.file_sha256, strict=True):
            evidence = {
                "pack": intent.key,
                "version": shown.version,
                "pack_sha256": intent.pack.sha256,
                "file_sha256": file_sha256,
            }
            if self._watch is not None:
                evidence["lock"] = self._watch.lock.value
            if shown.md5 == intent.pack.md5:
                evidence["pack_md5"] = shown.md5
            yield number, Proof(ProofKind.CHECKSUM, now, evidence)


class _Digested:
    """Writes to a file, and computes the digests of the written bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = 0
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self._sha256.update(content)
        self._md5.update(content)
        self._size += len(content)

    @property
    def digests(self) -> Digests:
        """Size and digests of the written bytes."""
        return Digests(self._size, self._sha256.hexdigest(), self._md5.hexdigest())


class _Contents:
    """The content of a pack, as a stream that is read once; the attributes are complete after that."""

    def __init__(self, files: StoredFiles, instances: Sequence[Instance]) -> None:
        self.packed: list[Instance] = []
        self.members: list[Member] = []
        """Entries of the packed instances, in the same order."""
        self.unreadable: list[tuple[Instance, UnreadableFileError]] = []
        self.facts: StudyFacts | None = None
        self._files = files
        self._instances = instances

    def compressed(self) -> Reads:
        """Return the tar through zstd."""
        compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
        return compressor.stream_reader(cast(BinaryIO, _Joined(self._tar())))

    def _tar(self) -> Iterator[bytes]:
        length = 0
        for instance, name in zip(self._instances, member_names(self._instances), strict=True):
            for piece in self._member(instance, name):
                length += len(piece)
                yield piece
        yield bytes(2 * tarfile.BLOCKSIZE + -(length + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE)

    def _member(self, instance: Instance, name: str) -> Iterator[bytes]:
        """Yield a file's part of the tar; nothing if the file cannot be read or differs from the ledger."""
        with ExitStack() as stack:
            try:
                file = stack.enter_context(self._files.open(instance))
            except UnreadableFileError as error:
                self.unreadable.append((instance, error))
                return
            if self.facts is None:
                self.facts = self._files.study_facts(file, instance.transfer_syntax_uid)
                file.seek(0)
            # The header depends on the instance alone.
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = instance.size, int(instance.received_at), 0o644
            yield entry.tobuf(tarfile.PAX_FORMAT)
            sha256 = hashlib.sha256()
            while piece := file.read(_PIECE):
                sha256.update(piece)
                yield piece
            yield bytes(-instance.size % tarfile.BLOCKSIZE)
        self.packed.append(instance)
        self.members.append(
            Member(
                name=name,
                sop_instance_uid=instance.sop_instance_uid,
                series_instance_uid=instance.series_instance_uid,
                sop_class_uid=instance.sop_class_uid,
                transfer_syntax_uid=instance.transfer_syntax_uid,
                size=instance.size,
                sha256=sha256.hexdigest(),
                md5=instance.md5,
                received_at=instance.received_at,
                orthanc_id=instance.orthanc_id,
            )
        )


class _Joined:
    """Pieces as one stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = BytesIO()

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`, empty at the end."""
        while not (part := self._piece.read(size)):
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._piece = BytesIO(piece)
        return part
