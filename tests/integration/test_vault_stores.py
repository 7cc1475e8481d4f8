"""Every store of a vault keeps one contract: a directory, and a real S3 with Object Lock."""

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError
from understudy.adapters.directory import DirectoryStore
from understudy.adapters.encryption import AgeSealer
from understudy.adapters.s3 import Credentials, S3Store
from understudy.adapters.storage import StorageArea
from understudy.adapters.targets import FolderTarget
from understudy.core.model import HolderName, Outcome, Timestamp
from understudy.core.packing import MANIFEST_PREFIX, PACK_PREFIX, digests, keys_for
from understudy.core.ports import HolderUnavailableError, ObjectStore
from understudy.flow.contents import Trust
from understudy.flow.restore import catalog, restore
from understudy.holders.vault import Vault, VaultSettings
from understudy.ledger import Ledger
from understudy.system.spool import Spool

from tests.contract.holder import Held, HolderContract, in_vault
from tests.vault_parts import (
    SPOOL,
    S3Service,
    StillClock,
    Storage,
    bench,
    changing_proxy,
    deaf_proxy,
    s3_service,
    unpack_by_hand,
)

pytestmark = pytest.mark.needs("image", "s3-image")


@dataclass(frozen=True)
class Pair:
    """A store as the appliance sees it, and as whoever restores sees it."""

    writer: ObjectStore
    reader: ObjectStore
    retention_days: int | None

    def until(self) -> Timestamp | None:
        return None if self.retention_days is None else Timestamp(time.time() + self.retention_days * 86_400)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Service]:
    with s3_service() as service:
        yield service


def s3_store(service: S3Service, keys: tuple[str, str], **changes: str) -> S3Store:
    endpoint = changes.get("endpoint", service.endpoint)
    bucket = changes.get("bucket", service.bucket)
    return S3Store("vault", endpoint, bucket, "us-east-1", lambda: Credentials(*keys), timeout=30)


@pytest.fixture(params=["directory", "s3"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    if request.param == "directory":
        folder = tmp_path / "store"
        folder.mkdir()
        return Pair(DirectoryStore("vault", folder), DirectoryStore("vault", folder), None)
    service: S3Service = request.getfixturevalue("s3")
    return Pair(s3_store(service, service.writer), s3_store(service, service.reader), 1)


def new_key() -> str:
    return keys_for(Timestamp(time.time()), secrets.token_hex(16))[0]


def test_put_then_stat_and_get_show_the_same_bytes(pair: Pair) -> None:
    key, content = new_key(), os.urandom(300_000)
    stored = pair.writer.put(key, content, pair.until())
    shown = pair.writer.stat(key)
    assert shown is not None
    assert (shown.size, shown.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert shown.md5 == ("" if isinstance(pair.writer, DirectoryStore) else hashlib.md5(content).hexdigest())
    assert shown.version == stored.version
    assert pair.reader.get(key) == content
    assert pair.reader.get(key, shown.version) == content


def test_put_the_same_bytes_again_keeps_one_version(pair: Pair) -> None:
    key = new_key()
    first = pair.writer.put(key, b"one", pair.until())
    second = pair.writer.put(key, b"one", pair.until())
    assert second.version == first.version
    assert len(list(pair.reader.list(key))) == 1


def test_put_other_bytes_under_a_taken_key_changes_nothing(pair: Pair) -> None:
    key = new_key()
    pair.writer.put(key, b"one", pair.until())
    with pytest.raises(HolderUnavailableError, match="other bytes"):
        pair.writer.put(key, b"two", pair.until())
    assert pair.reader.get(key) == b"one"


def test_stat_and_get_of_an_absent_key(pair: Pair) -> None:
    key = new_key()
    assert pair.writer.stat(key) is None
    with pytest.raises(KeyError):
        pair.reader.get(key)


def test_stat_of_a_key_that_begins_another_is_none(pair: Pair) -> None:
    key = new_key()
    pair.writer.put(key + ".more", b"x", pair.until())
    assert pair.writer.stat(key) is None


def test_list_gives_every_key_below_the_prefix_in_order(pair: Pair) -> None:
    prefix = f"packs/test-{secrets.token_hex(8)}/"
    keys = sorted(f"{prefix}{number:02d}/{secrets.token_hex(16)}" for number in range(7))
    for key in reversed(keys):
        pair.writer.put(key, key.encode(), pair.until())
    assert [item.key for item in pair.reader.list(prefix)] == keys
    assert list(pair.reader.list(prefix + "none/")) == []


def test_vault_through_the_store_restores_the_same_bytes_and_by_hand_too(pair: Pair, tmp_path: Path) -> None:
    with bench(tmp_path / "bench") as parts:
        instances = parts.storage.series(secrets.token_hex(8), 4, size=64)
        vault = Vault(
            VaultSettings(HolderName("vault"), "clinic", pair.retention_days),
            StorageArea(parts.storage.root),
            pair.writer,
            AgeSealer([parts.keys.recipient]),
            parts.ledger.packs,
            StillClock(time.time()),
            Spool(tmp_path, 2**20),
        )
        deliveries = list(vault.deliver(instances))
        assert [(item.number, item.outcome) for item in deliveries] == [
            (instance.number, Outcome.DELIVERED) for instance in instances
        ]
        proof = deliveries[0].proof
        assert proof is not None
        pack_key = str(proof.evidence["pack"])
        assert vault.find(instances).keys() == {instance.number for instance in instances}

        study = instances[0].study_instance_uid
        result = restore(pair.reader, parts.opener, FolderTarget(tmp_path / "restored"), study, spool=SPOOL)
        assert (result.restored, result.skipped, result.failed) == (4, 0, ())
        pack = tmp_path / "pack.tar.zst.age"
        pack.write_bytes(pair.reader.get(pack_key))
        unpack_by_hand([pack], parts.keys.identity, tmp_path / "by-hand")
        for instance in instances:
            name = Path(study, instance.series_instance_uid, f"{instance.sop_instance_uid}.dcm")
            assert (tmp_path / "restored" / name).read_bytes() == parts.storage.content(instance)
            assert (tmp_path / "by-hand" / name).read_bytes() == parts.storage.content(instance)
        assert sum(1 for path in (tmp_path / "by-hand").rglob("*") if path.is_file()) == 4


# What only S3 has to do.


def test_s3_writer_can_neither_read_nor_delete(s3: S3Service) -> None:
    writer = s3_store(s3, s3.writer)
    key = new_key()
    stored = writer.put(key, b"kept", Timestamp(time.time() + 3600))
    with pytest.raises(HolderUnavailableError, match="AccessDenied"):
        writer.get(key)
    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name="us-east-1",
        aws_access_key_id=s3.writer[0],
        aws_secret_access_key=s3.writer[1],
    )
    with pytest.raises(ClientError, match="AccessDenied"):
        client.delete_object(Bucket=s3.bucket, Key=key, VersionId=stored.version)
    with pytest.raises(ClientError, match="AccessDenied"):
        client.delete_object(Bucket=s3.bucket, Key=key)
    assert s3_store(s3, s3.reader).get(key) == b"kept"


def test_s3_version_put_over_a_pack_by_a_thief_hides_nothing(s3: S3Service, tmp_path: Path) -> None:
    writer, reader = s3_store(s3, s3.writer), s3_store(s3, s3.reader)
    with bench(tmp_path / "bench") as parts:
        instances = parts.storage.series(secrets.token_hex(8), 2)
        vault = Vault(
            VaultSettings(HolderName("vault"), "clinic", 1),
            StorageArea(parts.storage.root),
            writer,
            AgeSealer([parts.keys.recipient]),
            parts.ledger.packs,
            StillClock(time.time()),
            Spool(tmp_path, 2**20),
        )
        proof = next(vault.deliver(instances)).proof
        assert proof is not None
        thief = boto3.client(
            "s3",
            endpoint_url=s3.endpoint,
            region_name="us-east-1",
            aws_access_key_id=s3.writer[0],
            aws_secret_access_key=s3.writer[1],
        )
        pack_key = str(proof.evidence["pack"])
        for key in (
            pack_key,
            pack_key.replace(PACK_PREFIX, MANIFEST_PREFIX).replace(".tar.zst.age", ".json.age"),
        ):
            thief.put_object(Bucket=s3.bucket, Key=key, Body=b"garbage")
            assert len(list(reader.list(key))) == 2
        assert len(vault.find(instances)) == 2
        study = instances[0].study_instance_uid
        result = restore(reader, parts.opener, FolderTarget(tmp_path / "restored"), study, spool=SPOOL)
        assert result.restored == 2
        assert not [failure for failure in result.failed if pack_key[-40:-12] in failure.what]
        assert study in [
            item.study_instance_uid for item in catalog(reader, parts.opener, spool=SPOOL).studies
        ]


def test_s3_object_is_locked_in_compliance_mode_until_the_date(s3: S3Service) -> None:
    key = new_key()
    until = int(time.time()) + 7200
    stored = s3_store(s3, s3.writer).put(key, b"kept", Timestamp(until))
    reader = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name="us-east-1",
        aws_access_key_id=s3.reader[0],
        aws_secret_access_key=s3.reader[1],
    )
    answer = reader.get_object_retention(Bucket=s3.bucket, Key=key, VersionId=stored.version)
    assert answer["Retention"]["Mode"] == "COMPLIANCE"
    assert int(answer["Retention"]["RetainUntilDate"].timestamp()) == until


def test_s3_tells_the_writer_that_the_lock_holds(s3: S3Service) -> None:
    writer, key, until = s3_store(s3, s3.writer), new_key(), Timestamp(int(time.time()) + 7200)
    stored = writer.put(key, b"kept", until)
    assert writer.locked_until(key, stored.version) == until


def test_s3_object_without_a_lock_is_told_from_one_with(s3: S3Service) -> None:
    key = new_key()
    thief = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name="us-east-1",
        aws_access_key_id=s3.writer[0],
        aws_secret_access_key=s3.writer[1],
    )
    version = thief.put_object(Bucket=s3.bucket, Key=key, Body=b"free")["VersionId"]
    assert s3_store(s3, s3.writer).locked_until(key, version) is None


def test_s3_pack_forged_by_a_thief_of_the_credential_is_named_and_wins_nothing(
    s3: S3Service, tmp_path: Path
) -> None:
    writer, reader = s3_store(s3, s3.writer), s3_store(s3, s3.reader)
    with bench(tmp_path / "bench") as parts:
        sop = f"1.2.3.{secrets.randbelow(10**12)}"
        true = parts.storage.keep(b"true", sop=sop, study=f"{sop}.1")
        forged = parts.storage.keep(b"forged", sop=sop, study=f"{sop}.1", received_at=time.time() + 10**6)
        for instance, signer in ((true, parts.signer), (replace(forged, orthanc_id=true.orthanc_id), None)):
            vault = Vault(
                VaultSettings(HolderName("vault"), "clinic", 1),
                StorageArea(parts.storage.root),
                writer,
                AgeSealer([parts.keys.recipient]),
                parts.ledger.packs,
                StillClock(time.time()),
                Spool(tmp_path, 2**20),
                signer=signer,
            )
            assert all(item.proof for item in vault.deliver([instance]))
        trust = Trust(frozenset({parts.signer.writer}))
        target = FolderTarget(tmp_path / "restored")
        result = restore(reader, parts.opener, target, f"{sop}.1", trust=trust, spool=SPOOL)
        assert [path.read_bytes() for path in (tmp_path / "restored").rglob("*.dcm")] == [b"true"]
        assert not result.complete
        (failure,) = [failure for failure in result.failed if failure.what.startswith("packs/")]
        assert "has no signature" in failure.reason


@pytest.mark.parametrize(
    ("change", "code", "hint"),
    [
        ({"bucket": "nowhere"}, "NoSuchBucket", "bucket"),
        ({"endpoint": "http://127.0.0.1:9"}, "EndpointConnectionError", "reached"),
    ],
)
def test_s3_that_cannot_be_used_says_what_to_do(
    s3: S3Service, change: dict[str, str], code: str, hint: str
) -> None:
    store = s3_store(s3, s3.writer, **change)
    with pytest.raises(HolderUnavailableError, match=code) as caught:
        store.put(new_key(), b"x", Timestamp(time.time() + 3600))
    assert hint in caught.value.hint
    with pytest.raises(HolderUnavailableError, match=code):
        store.stat(new_key())


def test_s3_wrong_secret_says_which_file_to_check(s3: S3Service) -> None:
    with pytest.raises(HolderUnavailableError, match="SignatureDoesNotMatch") as caught:
        s3_store(s3, (s3.writer[0], "wrong")).stat(new_key())
    assert "credentials file" in caught.value.hint


def test_s3_answer_lost_after_the_commit_is_found_out_and_not_stored_twice(s3: S3Service) -> None:
    key, content = new_key(), os.urandom(200_000)
    with deaf_proxy(s3.endpoint) as endpoint:
        stored = s3_store(s3, s3.writer, endpoint=endpoint).put(key, content, Timestamp(time.time() + 3600))
    (only,) = list(s3_store(s3, s3.reader).list(key))
    assert (only.version, only.size) == (stored.version, len(content))


def test_s3_body_changed_on_the_way_is_refused_by_the_store(s3: S3Service) -> None:
    key = new_key()
    with changing_proxy(s3.endpoint, b"ORIGINAL", b"MODIFIED") as endpoint:
        store = s3_store(s3, s3.writer, endpoint=endpoint)
        with pytest.raises(HolderUnavailableError, match=r"BadDigest|ContentSHA256Mismatch"):
            store.put(key, b"x" * 1000 + b"ORIGINAL", Timestamp(time.time() + 3600))
    assert s3_store(s3, s3.reader).stat(key) is None


# What only a directory has to do.


def test_directory_that_is_gone_is_unavailable_and_not_made(tmp_path: Path) -> None:
    store = DirectoryStore("vault", tmp_path / "unmounted")
    with pytest.raises(HolderUnavailableError, match="does not exist") as caught:
        store.put(new_key(), b"x", None)
    assert "mount" in caught.value.hint
    assert not (tmp_path / "unmounted").exists()


def test_directory_files_are_read_only_and_leave_no_temporary_name(tmp_path: Path) -> None:
    store = DirectoryStore("vault", tmp_path)
    store.put(new_key(), b"x", None)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.stat().st_mode & 0o777 for path in files] == [0o440]


def test_directory_flipped_bit_is_seen_by_stat(tmp_path: Path) -> None:
    store = DirectoryStore("vault", tmp_path)
    key = new_key()
    store.put(key, b"abc", None)
    path = tmp_path / key
    path.chmod(0o640)
    path.write_bytes(b"abd")
    shown = store.stat(key)
    assert shown is not None
    assert shown.sha256 != digests(b"abc").sha256


@pytest.mark.parametrize(
    "key", ["../outside", "packs//x", "packs/../../x", "/etc/passwd", "packs/.hidden", ""]
)
def test_directory_key_that_leaves_the_directory_is_refused(tmp_path: Path, key: str) -> None:
    store = DirectoryStore("vault", tmp_path)
    with pytest.raises(ValueError, match="no key"):
        store.put(key, b"x", None)
    with pytest.raises(ValueError, match="no key"):
        store.get(key)


# Last: what this leaves in the store cannot be opened with the keys of the tests before.


class TestVaultInS3(HolderContract):
    """What every holder promises; nothing is lost here, because the store locks it."""

    @pytest.fixture
    def held(self, s3: S3Service, tmp_path: Path) -> Iterator[Held]:
        (tmp_path / "storage").mkdir()
        with closing(Ledger(tmp_path / "ledger.sqlite")) as ledger:
            ledger.modes.start(Timestamp(time.time()))
            yield in_vault(
                s3_store(s3, s3.writer),
                s3_store(s3, s3.writer, endpoint="http://127.0.0.1:1"),
                Storage(tmp_path / "storage"),
                ledger,
                retention_days=1,
            )
