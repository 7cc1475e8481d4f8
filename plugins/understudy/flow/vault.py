"""Vault: packs the instances of a study, encrypts them and keeps them in an object store, with proof.

Rule 1: intent before the act. A pack is in the ledger before it is uploaded, so that after a crash it is
looked for and never uploaded twice.
Rule 2: nothing is believed that the store itself does not show afterwards.
"""

import hashlib
import io
import secrets
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

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
    PackBook,
    Sealer,
    StoredFiles,
    StoredObject,
    UnreadableFileError,
)
from understudy.core.views import ProofView

_DAY = 86_400.0
_LEVEL = 1
"""Of zstd: higher levels cost much time on noisy images and save little."""


@dataclass(frozen=True, slots=True)
class VaultSettings:
    """What a site decides about one vault."""

    name: HolderName
    site: str
    retention_days: int | None
    """Days for which the store locks every object; None where the store cannot."""


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
        token: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._settings = settings
        self._files = files
        self._store = store
        self._sealer = sealer
        self._book = book
        self._clock = clock
        self._token = token

    @property
    def name(self) -> HolderName:
        return self._settings.name

    @property
    def kind(self) -> HolderKind:
        return HolderKind.VAULT

    @property
    def proof(self) -> ProofView:
        """By what it is proven to have what was packed."""
        return ProofView(ProofKind.CHECKSUM, "the store shows size and digest of what it has")

    def prove(self, instances: Sequence[Instance]) -> Answers:
        """Return a proof for each instance that lies in a pack which the store shows."""
        return Answers(self.find(instances))

    def find(self, instances: Sequence[Instance]) -> Mapping[InstanceNumber, Proof]:
        """Return a proof for each of these instances that is in a pack which the store shows unchanged.

        This is the recovery after a crash and the verification alike. A pack that the store does not show is
        forgotten, so that its instances are delivered again in another one.
        """
        wanted = {instance.number for instance in instances}
        proofs: dict[InstanceNumber, Proof] = {}
        for intent in self._book.open(self.name, sorted(wanted)):
            shown = self._store.stat(intent.key)
            if shown is None or not self._equal(shown, intent.pack):
                self._book.close(self.name, intent.key)
                continue
            manifest = self._store.stat(intent.manifest_key)
            if manifest is None:
                self._put(intent.manifest_key, intent.manifest)
                manifest = self._store.stat(intent.manifest_key)
            if manifest is not None and self._equal(manifest, intent.manifest_digests):
                proofs |= {number: proof for number, proof in self._proofs(intent, shown) if number in wanted}
        return proofs

    def deliver(self, instances: Sequence[Instance]) -> Iterator[Delivery]:
        """Store instances of one study as one pack, yielding exactly one Delivery for each.

        A file that is gone or differs from the index is refused alone; the rest goes on.
        """
        found = self.find(instances)
        for number, proof in found.items():
            yield Delivery(number, Outcome.DELIVERED, "found in the vault already", proof)
        usable: list[Instance] = []
        builder = _PackBuilder()
        absent = [instance for instance in instances if instance.number not in found]
        for instance, name in zip(absent, member_names(absent), strict=True):
            try:
                content = self._files.read(instance)
            except UnreadableFileError as error:
                yield Delivery(
                    instance.number, Outcome.REFUSED if error.permanent else Outcome.RETRY, error.reason
                )
                continue
            if builder.facts is None:
                builder.facts = self._files.study_facts(content, instance.transfer_syntax_uid)
            builder.add(name, instance, content)
            usable.append(instance)
        if usable:
            yield from self._store_pack(usable, builder)

    def _store_pack(self, usable: Sequence[Instance], builder: "_PackBuilder") -> Iterator[Delivery]:
        pack = self._sealer.seal(builder.finish())
        intent = self._intent(usable, builder, digests(pack))
        self._book.plan(self.name, intent)
        self._put(intent.key, pack)
        self._put(intent.manifest_key, intent.manifest)
        shown, manifest = self._store.stat(intent.key), self._store.stat(intent.manifest_key)
        if (
            shown is not None
            and self._equal(shown, intent.pack)
            and manifest is not None
            and self._equal(manifest, intent.manifest_digests)
        ):
            for number, proof in self._proofs(intent, shown):
                yield Delivery(number, Outcome.DELIVERED, "stored and shown by the store", proof)
            return
        for number in intent.numbers:
            yield Delivery(number, Outcome.UNKNOWN, "the store does not show the pack as it was sent")

    def _intent(self, usable: Sequence[Instance], builder: "_PackBuilder", pack: Digests) -> PackIntent:
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
            study_instance_uid=usable[0].study_instance_uid,
            study=builder.facts or StudyFacts(),
            members=tuple(builder.members),
        )
        sealed = self._sealer.seal(manifest_to_json(manifest))
        numbers = tuple(instance.number for instance in usable)
        file_sha256 = tuple(member.sha256 for member in builder.members)
        return PackIntent(key, manifest_key, numbers, file_sha256, pack, sealed, digests(sealed))

    def _put(self, key: str, content: bytes) -> None:
        days = self._settings.retention_days
        until = None if days is None else Timestamp(self._clock.now() + days * _DAY)
        self._store.put(key, content, until)

    def _equal(self, shown: StoredObject, digest: Digests) -> bool:
        """Return whether the store shows the size and the SHA-256, or the MD5 where it tells no SHA-256.

        Raises HolderUnavailableError where the size fits and no digest can be compared: what a store keeps
        encrypted may have an ETag that is no MD5, and one more copy, locked for years, would show no more.
        """
        if shown.size != digest.size:
            return False
        if shown.sha256:
            return shown.sha256 == digest.sha256
        if shown.md5 == digest.md5:
            return True
        raise HolderUnavailableError(
            self.name,
            f"of {shown.key} the store tells no SHA-256, and its ETag is not the MD5",
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
            if shown.md5 == intent.pack.md5:
                evidence["pack_md5"] = shown.md5
            yield number, Proof(ProofKind.CHECKSUM, now, evidence)


class _PackBuilder:
    """Writes a tar through zstd, a file at a time: one file and the compressed pack are all it holds."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.facts: StudyFacts | None = None
        self._output = io.BytesIO()
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).stream_writer(
            self._output, closefd=False
        )
        self._tar = tarfile.TarFile.open(mode="w|", fileobj=self._compressor, format=tarfile.PAX_FORMAT)

    def add(self, name: str, instance: Instance, content: bytes) -> None:
        """Add a file; what tar tells of it depends on the instance alone."""
        entry = tarfile.TarInfo(name)
        entry.size, entry.mtime, entry.mode = len(content), int(instance.received_at), 0o644
        self._tar.addfile(entry, io.BytesIO(content))
        member = Member(
            name=name,
            sop_instance_uid=instance.sop_instance_uid,
            series_instance_uid=instance.series_instance_uid,
            sop_class_uid=instance.sop_class_uid,
            transfer_syntax_uid=instance.transfer_syntax_uid,
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            md5=instance.md5,
            received_at=instance.received_at,
            orthanc_id=instance.orthanc_id,
        )
        self.members.append(member)

    def finish(self) -> bytes:
        """Return the compressed tar."""
        self._tar.close()
        self._compressor.flush(zstandard.FLUSH_FRAME)
        return self._output.getvalue()
