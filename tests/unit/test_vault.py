"""Vault: one pack for each delivery whatever happens, and no proof that the store does not show."""

import base64
import errno
import hashlib
import io
import json
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
import zstandard
from botocore.stub import Stubber
from understudy.adapters.directory import DirectoryStore
from understudy.adapters.encryption import AgeOpener, AgeSealer, new_key_pair
from understudy.adapters.s3 import Credentials, S3Store
from understudy.adapters.storage import StorageArea
from understudy.core.model import HolderKind, Instance, Outcome, ProofKind, SopInstanceUid, Timestamp
from understudy.core.packing import Digests, Manifest, StudyFacts, manifest_from_json
from understudy.core.ports import HolderUnavailableError, SealError, StoredObject, UnreadableFileError
from understudy.core.refusals import NO_ROOM
from understudy.engine.memory import RESERVE, Memory
from understudy.holders.vault import WORKING
from understudy.system.spool import Spool

from tests.stack import wait_until
from tests.vault_parts import NAME, NOW, Bench, Death, DyingBook, DyingStore, Killed, bench


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path / "bench") as made:
        yield made


def manifests(parts: Bench) -> list[Manifest]:
    return [
        manifest_from_json(parts.opener.open(parts.store.get(key)), key) for key in parts.stored("manifests/")
    ]


def entries(parts: Bench, key: str) -> list[tarfile.TarInfo]:
    plain = (
        zstandard.ZstdDecompressor().stream_reader(io.BytesIO(parts.opener.open(parts.store.get(key)))).read()
    )
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        return archive.getmembers()


def test_deliver_of_a_series_stores_one_pack_with_its_manifest(parts: Bench) -> None:
    instances = parts.storage.series("one")
    vault = parts.vault()
    assert vault.kind is HolderKind.VAULT
    deliveries = list(vault.deliver(instances))
    assert [item.outcome for item in deliveries] == [Outcome.DELIVERED] * 3
    assert [item.number for item in deliveries] == [instance.number for instance in instances]
    (manifest,) = manifests(parts)
    assert parts.stored("packs/") == [manifest.pack_key]
    assert manifest.site == "clinic"
    assert manifest.recipients == (parts.keys.recipient,)
    assert manifest.study.patient_id == "UNDERSTUDY-1"
    assert manifest.study.patient_name == "Understudy^Phantom"
    assert manifest.study.study_date == "20250102"
    assert manifest.study.modality == "CT"
    for delivery, member in zip(deliveries, manifest.members, strict=True):
        assert delivery.proof is not None
        assert delivery.proof.kind is ProofKind.CHECKSUM
        assert delivery.proof.at == NOW
        assert delivery.proof.evidence["pack"] == manifest.pack_key
        assert delivery.proof.evidence["pack_sha256"] == manifest.pack_sha256
        assert delivery.proof.evidence["file_sha256"] == member.sha256


def test_deliver_writes_the_same_tar_metadata_for_the_same_instance(parts: Bench) -> None:
    instances = parts.storage.series("meta", 2)
    list(parts.vault().deliver(instances))
    (key,) = parts.stored("packs/")
    for entry, instance in zip(entries(parts, key), instances, strict=True):
        assert entry.name == (
            f"{instance.study_instance_uid}/{instance.series_instance_uid}/{instance.sop_instance_uid}.dcm"
        )
        assert (entry.mtime, entry.uid, entry.gid, entry.mode) == (int(NOW), 0, 0, 0o644)
        assert (entry.uname, entry.gname) == ("", "")


def test_deliver_puts_no_uid_and_no_patient_outside_the_encryption(parts: Bench) -> None:
    instances = parts.storage.series("secret", 2)
    list(parts.vault().deliver(instances))
    for key in (*parts.stored("packs/"), *parts.stored("manifests/")):
        outside = key.encode() + parts.store.get(key)
        for word in (
            b"Understudy^Phantom",
            b"UNDERSTUDY-1",
            *(item.sop_instance_uid.encode() for item in instances),
        ):
            assert word not in outside


def test_deliver_with_hostile_uids_uses_digests_as_names(parts: Bench) -> None:
    bad = parts.storage.keep(b"not even DICOM", sop="../../etc/passwd", study="1.2", series="1.02")
    (delivery,) = parts.vault().deliver([bad])
    assert delivery.outcome is Outcome.DELIVERED
    (manifest,) = manifests(parts)
    (member,) = manifest.members
    study, series, sop = member.name.split("/")
    assert study == "1.2"
    assert series.startswith("sha256-")
    assert sop.startswith("sha256-")
    assert member.sop_instance_uid == "../../etc/passwd"
    assert manifest.study == StudyFacts()


def spoil_gone(parts: Bench, instance: Instance) -> Instance:
    parts.storage.path(instance).unlink()
    return instance


def spoil_short(parts: Bench, instance: Instance) -> Instance:
    parts.storage.path(instance).write_bytes(parts.storage.content(instance)[:-1])
    return instance


def spoil_bit(parts: Bench, instance: Instance) -> Instance:
    content = bytearray(parts.storage.content(instance))
    content[-1] ^= 1
    parts.storage.path(instance).write_bytes(content)
    return instance


def spoil_name(_: Bench, instance: Instance) -> Instance:
    return replace(instance, attachment_uuid="../../../etc/passwd")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_gone, "gone"),
        (spoil_short, "bytes instead of"),
        (spoil_bit, "MD5"),
        (spoil_name, "no valid name"),
    ],
)
def test_deliver_with_one_bad_file_refuses_it_alone(
    parts: Bench, spoil: Callable[[Bench, Instance], Instance], reason: str
) -> None:
    instances = parts.storage.series("bad")
    instances[1] = spoil(parts, instances[1])
    by_number = {item.number: item for item in parts.vault().deliver(instances)}
    assert len(by_number) == 3
    assert by_number[instances[1].number].outcome is Outcome.REFUSED
    assert reason in by_number[instances[1].number].reason
    assert by_number[instances[0].number].outcome is Outcome.DELIVERED
    assert by_number[instances[2].number].outcome is Outcome.DELIVERED
    assert len(manifests(parts)[0].members) == 2


def test_deliver_with_every_file_bad_stores_nothing(parts: Bench) -> None:
    instances = [spoil_bit(parts, instance) for instance in parts.storage.series("all bad")]
    assert {item.outcome for item in parts.vault().deliver(instances)} == {Outcome.REFUSED}
    assert parts.stored("") == []


def test_deliver_with_the_storage_volume_missing_blames_no_instance(parts: Bench) -> None:
    instances = parts.storage.series("volume")
    parts.storage.root.rename(parts.folder / "elsewhere")
    parts.storage.root.mkdir()
    with pytest.raises(HolderUnavailableError, match="storage area") as caught:
        list(parts.vault().deliver(instances))
    assert "mounted" in caught.value.hint


def test_deliver_with_the_vault_missing_is_unavailable_and_goes_on_later(parts: Bench) -> None:
    instances = parts.storage.series("down")
    away = parts.folder / "away"
    (parts.folder / "vault").rename(away)
    with pytest.raises(HolderUnavailableError) as caught:
        list(parts.vault().deliver(instances))
    assert caught.value.holder == NAME
    away.rename(parts.folder / "vault")
    assert {item.outcome for item in parts.vault().deliver(instances)} == {Outcome.DELIVERED}
    assert len(parts.stored("packs/")) == 1


def test_deliver_two_versions_of_one_instance_keeps_both(parts: Bench) -> None:
    first = parts.storage.keep(b"first", sop="1.4", study="1.2")
    second = parts.storage.keep(b"second", sop="1.4", study="1.2")
    assert len(list(parts.vault().deliver([first, second]))) == 2
    assert [member.name for member in manifests(parts)[0].members] == [
        "1.2/1.2.3/1.4.dcm",
        "1.2/1.2.3/1.4-2.dcm",
    ]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_deliver_killed_at_each_step_and_repeated_uploads_once(tmp_path: Path, after: bool) -> None:
    survived = False
    for step in range(1, 20):
        with bench(tmp_path / str(step)) as parts:
            instances = parts.storage.series("killed", 2)
            death = Death(step, after=after)
            try:
                list(
                    parts.vault(DyingStore(parts.store, death), DyingBook(parts.ledger, death)).deliver(
                        instances
                    )
                )
                survived = True
            except Killed:
                pass
            deliveries = list(parts.vault().deliver(instances))
            assert {item.number for item in deliveries} == {instance.number for instance in instances}
            assert {item.outcome for item in deliveries} == {Outcome.DELIVERED}
            assert len(parts.stored("packs/")) == 1, f"step {step}"
            (manifest,) = manifests(parts)
            assert {member.sop_instance_uid for member in manifest.members} == {
                instance.sop_instance_uid for instance in instances
            }
        if survived:
            break
    assert survived
    assert step > 5, "open, plan, two puts and two looks are steps at least"


def test_find_of_what_was_never_delivered_is_empty(parts: Bench) -> None:
    assert parts.vault().find(parts.storage.series("none")) == {}


def test_find_of_delivered_instances_proves_them_again(parts: Bench) -> None:
    instances = parts.storage.series("verify")
    list(parts.vault().deliver(instances))
    found = parts.vault().find(instances[:2])
    assert found.keys() == {instance.number for instance in instances[:2]}


@pytest.mark.parametrize("damage", ["deleted", "changed", "cut"])
def test_find_of_a_damaged_pack_proves_nothing_and_the_next_delivery_mends_it(
    parts: Bench, damage: str
) -> None:
    instances = parts.storage.series("damage")
    list(parts.vault().deliver(instances))
    (key,) = parts.stored("packs/")
    path = parts.folder / "vault" / key
    content = path.read_bytes()
    path.chmod(0o640)
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + (bytes([content[-1] ^ 1]) if damage == "changed" else b""))
    assert parts.vault().find(instances) == {}
    assert {item.outcome for item in parts.vault().deliver(instances)} == {Outcome.DELIVERED}
    assert len(parts.vault().find(instances)) == 3


def test_find_with_the_manifest_missing_puts_it_again(parts: Bench) -> None:
    instances = parts.storage.series("manifest")
    list(parts.vault().deliver(instances))
    (key,) = parts.stored("manifests/")
    (parts.folder / "vault" / key).unlink()
    assert len(parts.vault().find(instances)) == 3
    assert parts.stored("manifests/") == [key]
    assert len(manifests(parts)) == 1


def test_find_with_a_changed_manifest_proves_nothing(parts: Bench) -> None:
    instances = parts.storage.series("changed manifest")
    list(parts.vault().deliver(instances))
    (key,) = parts.stored("manifests/")
    path = parts.folder / "vault" / key
    path.chmod(0o640)
    path.write_bytes(b"x")
    assert parts.vault().find(instances) == {}


def test_study_facts_of_broken_files_are_absent_and_raise_nothing(parts: Bench) -> None:
    (instance,) = parts.storage.series("facts", 1)
    content = parts.storage.content(instance)
    area = StorageArea(parts.storage.root)

    def facts(content: bytes, syntax: str = instance.transfer_syntax_uid) -> StudyFacts | None:
        return area.study_facts(io.BytesIO(content), syntax)

    whole = facts(content)
    assert whole is not None
    assert whole.accession_number == instance.study_instance_uid[-12:]
    assert facts(b"") is None
    for end in range(0, 1200, 7):
        facts(content[:end])
        facts(content[:end] + b"\xff" * 64 + content[end + 64 :])
    assert facts(content, "1.2.840.10008.1.2.1.99") is None


def test_sealer_without_a_valid_recipient_says_so(parts: Bench) -> None:
    with pytest.raises(SealError, match="no age recipient"):
        AgeSealer([])
    with pytest.raises(SealError, match="not valid"):
        AgeSealer([parts.keys.recipient, "age1nonsense"])


def test_opener_with_another_key_names_its_recipient_and_never_itself(parts: Bench) -> None:
    sealed = AgeSealer([parts.keys.recipient]).seal(b"x")
    other = new_key_pair()
    with pytest.raises(SealError) as caught:
        AgeOpener(other.identity).open(sealed)
    assert other.recipient in caught.value.hint
    with pytest.raises(SealError) as caught:
        AgeOpener(other.identity[:-4])
    assert other.identity[:-4] not in str(caught.value) + caught.value.hint
    assert AgeOpener(f"# created: today\n{parts.keys.identity}\n").open(sealed) == b"x"


def test_opener_of_a_flipped_bit_refuses(parts: Bench) -> None:
    sealed = bytearray(AgeSealer([parts.keys.recipient]).seal(b"x" * 1000))
    for position in (20, len(sealed) // 2, len(sealed) - 1):
        flipped = bytearray(sealed)
        flipped[position] ^= 1
        with pytest.raises(SealError):
            parts.opener.open(bytes(flipped))


def test_sealer_with_two_recipients_lets_each_read(parts: Bench) -> None:
    other = new_key_pair()
    sealed = AgeSealer([parts.keys.recipient, other.recipient]).seal(b"both")
    assert parts.opener.open(sealed) == AgeOpener(other.identity).open(sealed) == b"both"


def test_manifest_as_json_tells_a_person_what_is_in_the_pack(parts: Bench) -> None:
    instances = parts.storage.series("json", 1)
    list(parts.vault().deliver(instances))
    (key,) = parts.stored("manifests/")
    document = json.loads(parts.opener.open(parts.store.get(key)))
    assert document["members"][0]["sop_instance_uid"] == SopInstanceUid(instances[0].sop_instance_uid)
    assert "STUDY/SERIES/SOP.dcm" in document["names"]


class OtherChecksumStore(DyingStore):
    """A store that shows an object's size and MD5 as they were sent, and another SHA-256."""

    def stat(self, key: str) -> StoredObject | None:
        shown = super().stat(key)
        return None if shown is None else replace(shown, sha256="0" * 64)


def test_deliver_to_a_store_that_shows_another_sha256_proves_nothing(parts: Bench) -> None:
    instances = parts.storage.series("sha", 2)
    store = OtherChecksumStore(parts.store, Death(0, after=False))
    deliveries = list(parts.vault(store).deliver(instances))
    assert [(item.outcome, item.proof) for item in deliveries] == [(Outcome.UNKNOWN, None)] * 2


class EncryptingStore(DyingStore):
    """A store whose ETag is no MD5; it tells the SHA-256 where it is allowed."""

    tells = False
    puts = 0

    def put_file(
        self, key: str, file: BinaryIO, digests: Digests, retain_until: Timestamp | None
    ) -> StoredObject:
        self.puts += 1
        return super().put_file(key, file, digests, retain_until)

    def stat(self, key: str) -> StoredObject | None:
        shown = super().stat(key)
        if shown is None:
            return None
        return replace(shown, md5="e" * 32, sha256=shown.sha256 if self.tells else None)


def test_deliver_to_a_store_whose_etag_is_no_md5_is_proven_by_its_sha256(parts: Bench) -> None:
    store = EncryptingStore(parts.store, Death(0, after=False))
    store.tells = True
    deliveries = list(parts.vault(store).deliver(parts.storage.series("kms", 2)))
    assert [item.outcome for item in deliveries] == [Outcome.DELIVERED] * 2
    proofs = [item.proof for item in deliveries if item.proof is not None]
    assert len(proofs) == 2
    assert all("pack_md5" not in proof.evidence for proof in proofs)


def test_pack_of_which_no_digest_can_be_compared_is_stored_once_and_proven_when_one_can(parts: Bench) -> None:
    store = EncryptingStore(parts.store, Death(0, after=False))
    instances = parts.storage.series("kms", 2)
    for _ in range(3):
        with pytest.raises(HolderUnavailableError, match="ETag") as caught:
            list(parts.vault(store).deliver(instances))
        assert "s3:GetObjectAttributes" in caught.value.hint
    # The pack; its manifest is put beside it.
    assert store.puts == 1
    store.tells = True
    assert parts.vault(store).find(instances).keys() == {instance.number for instance in instances}
    assert store.puts == 1


@pytest.mark.parametrize("tells", [True, False])
def test_s3_put_whose_answer_was_lost_is_done_where_the_sha256_is_equal(tells: bool) -> None:
    store = S3Store("vault", "http://127.0.0.1:9", "bucket", "us-east-1", lambda: Credentials("a", "b"))
    checksum = base64.b64encode(hashlib.sha256(b"content").digest()).decode("ascii")
    version = {"Key": "key", "VersionId": "1", "Size": 7, "ETag": '"no MD5"', "IsLatest": True}
    with Stubber(store._client) as stub:
        stub.add_client_error("put_object", "PreconditionFailed", http_status_code=412)
        stub.add_response("list_object_versions", {"Versions": [version]})
        if tells:
            stub.add_response("get_object_attributes", {"Checksum": {"ChecksumSHA256": checksum}})
            assert store.put("key", b"content", Timestamp(NOW)).version == "1"
        else:
            stub.add_client_error("get_object_attributes", "AccessDenied", http_status_code=403)
            with pytest.raises(HolderUnavailableError, match="other bytes"):
                store.put("key", b"content", Timestamp(NOW))


def test_pack_in_a_bad_sector_is_forgotten_and_stored_anew(
    parts: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    instances = parts.storage.series("sector", 2)
    numbers = {instance.number for instance in instances}
    list(parts.vault().deliver(instances))
    (intent,) = parts.ledger.packs.open(NAME, sorted(numbers))
    bad = (parts.folder / "vault" / intent.key).stat().st_ino
    advise = os.posix_fadvise

    def failing(descriptor: int, *arguments: int) -> None:
        if os.fstat(descriptor).st_ino == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        advise(descriptor, *arguments)

    monkeypatch.setattr(os, "posix_fadvise", failing)
    assert parts.vault().find(instances) == {}
    deliveries = list(parts.vault().deliver(instances))
    assert [item.outcome for item in deliveries] == [Outcome.DELIVERED] * 2
    (again,) = parts.ledger.packs.open(NAME, sorted(numbers))
    assert again.key != intent.key
    assert parts.vault().find(instances).keys() == numbers


def test_find_forgets_a_pack_that_the_store_does_not_show(parts: Bench) -> None:
    instances = parts.storage.series("forget", 2)
    numbers = [instance.number for instance in instances]
    list(parts.vault().deliver(instances))
    (intent,) = parts.ledger.packs.open(NAME, numbers)
    (parts.folder / "vault" / intent.key).unlink()
    parts.vault().find(instances)
    assert parts.ledger.packs.open(NAME, numbers) == []


def large(parts: Bench) -> Instance:
    """Keep a file that is not held while it is used."""
    return parts.storage.keep(os.urandom(5 * 2**20), sop="1.2.3.1", study="1.2.3")


def test_large_file_is_packed_as_a_small_one_is(parts: Bench) -> None:
    instance = large(parts)
    (delivery,) = parts.vault(spool=Spool(parts.folder, 1000)).deliver([instance])
    assert delivery.outcome is Outcome.DELIVERED
    (manifest,) = manifests(parts)
    (entry,) = entries(parts, manifest.pack_key)
    assert (entry.name, entry.size) == (manifest.members[0].name, instance.size)
    content = parts.storage.content(instance)
    assert manifest.members[0].sha256 == hashlib.sha256(content).hexdigest()


def test_large_file_that_changes_while_it_is_read_fails_with_its_last_bytes(parts: Bench) -> None:
    instance = large(parts)
    with StorageArea(parts.storage.root).open(instance) as file:
        with parts.storage.path(instance).open("r+b") as stored:
            stored.seek(1000)
            stored.write(b"changed")
        assert len(file.read(instance.size - 1)) == instance.size - 1
        with pytest.raises(UnreadableFileError, match="changed while it was read"):
            file.read(1)


def test_large_file_that_is_cut_while_it_is_read_fails_where_it_ends(parts: Bench) -> None:
    instance = large(parts)
    with StorageArea(parts.storage.root).open(instance) as file:
        os.truncate(parts.storage.path(instance), 1000)
        assert len(file.read(2000)) == 1000
        with pytest.raises(UnreadableFileError, match="changed while it was read"):
            file.read(2000)


class ChangingFiles(StorageArea):
    """A storage area in which a file changes when it is opened."""

    @contextmanager
    def open(self, instance: Instance) -> Iterator[BinaryIO]:
        with super().open(instance) as file:
            with self.path(instance).open("r+b") as stored:
                stored.write(b"changed")
            yield file


def test_pack_of_a_file_that_changed_while_it_was_read_is_not_stored(parts: Bench) -> None:
    instance = large(parts)
    vault = parts.vault(files=ChangingFiles(parts.storage.root))
    (delivery,) = vault.deliver([instance])
    assert (delivery.outcome, parts.stored("")) == (Outcome.RETRY, [])
    (delivery,) = parts.vault().deliver([instance])
    assert (delivery.outcome, parts.stored("")) == (Outcome.REFUSED, [])


class SmallStore(DyingStore):
    """A store that takes no large object."""

    largest = 2000


def test_pack_that_the_store_does_not_take_is_refused_by_its_size(parts: Bench) -> None:
    store = SmallStore(parts.store, Death(0, after=False))
    (delivery,) = parts.vault(store).deliver([large(parts)])
    assert delivery.outcome is Outcome.REFUSED
    assert delivery.reason.startswith("its pack is too large: ")
    assert parts.stored("") == []


def test_pack_that_the_volume_has_no_room_for_is_tried_again(parts: Bench) -> None:
    (instance,) = parts.storage.series("large", 1)
    # What is free grows where others delete something.
    volume = shutil.disk_usage(parts.folder).total
    deliveries = list(parts.vault().deliver([replace(instance, size=volume)]))
    assert [(one.outcome, one.reason) for one in deliveries] == [(Outcome.RETRY, NO_ROOM)]


class HangingStore(DirectoryStore):
    """A store whose disk hangs in the middle of a put, until it is let go."""

    def __init__(self, folder: Path) -> None:
        super().__init__(NAME, folder)
        self.hangs, self.let_go = threading.Event(), threading.Event()

    def put_file(
        self, key: str, file: BinaryIO, digests: Digests, retain_until: Timestamp | None
    ) -> StoredObject:
        self.hangs.set()
        assert self.let_go.wait(300)
        return super().put_file(key, file, digests, retain_until)


def test_vault_that_hangs_and_a_large_instance_behind_it_keep_no_other_vault_waiting(parts: Bench) -> None:
    store = HangingStore(parts.folder / "vault")
    first, second = parts.storage.series("first"), parts.storage.series("second")
    memory = Memory(RESERVE + 2 * (WORKING + 2**20))
    hanging = threading.Thread(
        target=lambda: list(parts.vault(store, memory=memory).deliver(first)), daemon=True
    )
    hanging.start()
    assert store.hangs.wait(60)

    def hold_all() -> None:
        with memory.of("archive").holding(memory.most):
            pass

    large = threading.Thread(target=hold_all, daemon=True)
    large.start()
    wait_until(memory.waiting, lambda seen: "archive" in seen, deadline=60, what="the large one waits")
    outcomes: list[Outcome] = []
    other = threading.Thread(
        target=lambda: outcomes.extend(one.outcome for one in parts.vault(memory=memory).deliver(second)),
        daemon=True,
    )
    other.start()
    other.join(60)
    assert outcomes == [Outcome.DELIVERED] * 3
    assert "archive" in memory.waiting()
    store.let_go.set()
    for thread in (hanging, large):
        thread.join(60)
        assert not thread.is_alive()
