"""Restore: every file with its digest or a failure by name, from whatever a store still has."""

import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from understudy.adapters.encryption import AgeOpener, AgeSealer, new_key_pair
from understudy.adapters.signing import Ed25519Signer, new_signing_key
from understudy.adapters.targets import FolderTarget
from understudy.core.model import Instance
from understudy.core.packing import FORMAT, Manifest, Member, StudyFacts, keys_for, manifest_to_json
from understudy.core.ports import ObjectStore, StoredObject
from understudy.flow.contents import RestoreError, Trust
from understudy.flow.restore import Choice, RestoreProgress, catalog, restore

from tests.vault_parts import NOW, REPOSITORY, SPOOL, Bench, Death, DyingStore, bench


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path / "bench") as made:
        yield made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "restored"


def deliver(parts: Bench, instances: list[Instance]) -> None:
    assert all(item.proof is not None for item in parts.vault().deliver(instances))


def trusting(parts: Bench) -> Trust:
    return Trust(frozenset({parts.signer.writer}))


def restored(target: Path) -> dict[str, bytes]:
    return {
        path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()
    }


def expected(parts: Bench, instances: list[Instance]) -> dict[str, bytes]:
    return {name(item): parts.storage.content(item) for item in instances}


def name(instance: Instance) -> str:
    return f"{instance.study_instance_uid}/{instance.series_instance_uid}/{instance.sop_instance_uid}.dcm"


def forge(parts: Bench, name: str, content: bytes, *, sha256: str = "", size: int | None = None) -> None:
    """Store a pack and a manifest as anybody could who knows the public recipient."""
    output = io.BytesIO()
    with tarfile.open(mode="w", fileobj=output) as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    sealer = AgeSealer([parts.keys.recipient])
    pack = sealer.seal(zstandard.ZstdCompressor().compress(output.getvalue()))
    key, manifest_key = keys_for(NOW, "f" * 32)
    member = Member(
        name, "1.4", "1.3", "", "", len(content) if size is None else size,
        sha256 or hashlib.sha256(content).hexdigest(), "", NOW,
    )  # fmt: skip
    manifest = Manifest(
        FORMAT, "x", key, NOW, (), len(pack), hashlib.sha256(pack).hexdigest(), "1.2", StudyFacts(), (member,)
    )
    parts.store.put(key, pack, None)
    parts.store.put(manifest_key, sealer.seal(manifest_to_json(manifest)), None)


def test_restore_one_study_brings_it_and_no_other(parts: Bench, target: Path) -> None:
    first, second = parts.storage.series("first"), parts.storage.series("second")
    deliver(parts, first)
    deliver(parts, second)
    seen: list[RestoreProgress] = []
    result = restore(
        parts.store, parts.opener, FolderTarget(target), first[0].study_instance_uid, seen.append, spool=SPOOL
    )
    assert result.complete
    assert (result.restored, result.skipped, result.superseded) == (3, 0, 0)
    assert restored(target) == expected(parts, first)
    assert seen[-1].instances_done == seen[-1].instances_total == 3
    assert seen[-1].bytes_done == seen[-1].bytes_total == sum(item.size for item in first)


def test_restore_everything_brings_everything(parts: Bench, target: Path) -> None:
    first, second = parts.storage.series("first"), parts.storage.series("second")
    deliver(parts, first)
    deliver(parts, second[:1])
    deliver(parts, second[1:])
    assert restore(parts.store, parts.opener, FolderTarget(target), spool=SPOOL).restored == 6
    assert restored(target) == expected(parts, first + second)


def test_restore_a_second_time_skips_what_is_there(parts: Bench, target: Path) -> None:
    instances = parts.storage.series("again")
    deliver(parts, instances)
    restore(parts.store, parts.opener, FolderTarget(target), spool=SPOOL)
    (target / next(iter(expected(parts, instances)))).unlink()
    result = restore(parts.store, parts.opener, FolderTarget(target), spool=SPOOL)
    assert (result.restored, result.skipped, result.failed) == (1, 2, ())
    assert restored(target) == expected(parts, instances)


def test_restore_over_another_file_leaves_it_and_fails(parts: Bench, target: Path) -> None:
    instances = parts.storage.series("other", 1)
    deliver(parts, instances)
    path = target / next(iter(expected(parts, instances)))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    result = restore(parts.store, parts.opener, FolderTarget(target), spool=SPOOL)
    assert [failure.what for failure in result.failed] == [instances[0].sop_instance_uid]
    assert path.read_bytes() == b"mine"


def two_contents(parts: Bench, *, signed: bool) -> None:
    """Vault two contents of one instance: the one that was received later is packed before the other."""
    new = parts.storage.keep(b"new", sop="1.4", study="1.2", received_at=NOW + 60)
    old = replace(parts.storage.keep(b"old", sop="1.4", study="1.2"), orthanc_id=new.orthanc_id)
    signer = parts.signer if signed else None
    for instance, now in ((new, NOW), (old, NOW + 5)):
        assert all(item.proof for item in parts.vault(signer=signer, now=now).deliver([instance]))


@pytest.mark.parametrize("signed", [False, True])
def test_restore_of_two_contents_names_both_restores_neither_and_brings_the_rest(
    parts: Bench, target: Path, signed: bool
) -> None:
    two_contents(parts, signed=signed)
    rest = parts.storage.series("rest")
    signer = parts.signer if signed else None
    assert all(item.proof for item in parts.vault(signer=signer).deliver(rest))
    result = restore(parts.store, parts.opener, FolderTarget(target), trust=trusting(parts), spool=SPOOL)
    assert restored(target) == expected(parts, rest)
    (failure,) = result.failed
    assert failure.what == "1.4"
    for content in (b"old", b"new"):
        assert hashlib.sha256(content).hexdigest() in failure.reason
    assert not result.complete


def test_restore_again_after_a_person_chose_asks_no_more(parts: Bench, target: Path) -> None:
    two_contents(parts, signed=False)
    chosen = Choice(lambda member: member.md5 == hashlib.md5(b"old").hexdigest())
    assert restore(parts.store, parts.opener, FolderTarget(target), choice=chosen, spool=SPOOL).restored == 1
    again = restore(parts.store, parts.opener, FolderTarget(target), spool=SPOOL)
    assert (again.restored, again.skipped, again.failed) == (0, 1, ())


@pytest.mark.parametrize("content", [b"old", b"new"])
def test_restore_of_two_contents_brings_the_one_that_a_person_chose(
    parts: Bench, target: Path, content: bytes
) -> None:
    two_contents(parts, signed=False)
    digest = hashlib.sha256(content).hexdigest()
    choice = Choice(lambda member: member.sha256 == digest)
    result = restore(parts.store, parts.opener, FolderTarget(target), choice=choice, spool=SPOOL)
    assert (result.restored, result.superseded, result.failed) == (1, 1, ())
    assert list(restored(target).values()) == [content]


def test_newest_of_two_signed_contents_is_the_one_packed_last_and_not_the_one_said_to_be_received_last(
    parts: Bench, target: Path
) -> None:
    two_contents(parts, signed=True)
    result = restore(
        parts.store,
        parts.opener,
        FolderTarget(target),
        trust=trusting(parts),
        choice=Choice(newest=True),
        spool=SPOOL,
    )
    assert (result.restored, result.failed) == (1, ())
    assert list(restored(target).values()) == [b"old"]


def test_newest_chooses_nothing_where_one_content_is_not_signed(parts: Bench, target: Path) -> None:
    two_contents(parts, signed=False)
    result = restore(parts.store, parts.opener, FolderTarget(target), choice=Choice(newest=True), spool=SPOOL)
    assert (result.restored, len(result.failed)) == (0, 1)


def forged_content(parts: Bench, *, orthanc_id: str, signer: Ed25519Signer | None) -> bytes:
    """Vault a content of 1.4 as whoever knows the recipient and may write there can, received far later."""
    content = b"forged"
    instance = parts.storage.keep(content, sop="1.4", study="1.2", received_at=NOW + 10**8)
    forger = parts.vault(signer=signer, now=NOW + 10**8)
    assert all(item.proof for item in forger.deliver([replace(instance, orthanc_id=orthanc_id)]))
    return content


@pytest.mark.parametrize("forger", [None, Ed25519Signer(new_signing_key())], ids=["unsigned", "other key"])
@pytest.mark.parametrize("orthanc_id", ["the same", "another"])
def test_forged_pack_beside_signed_ones_is_named_and_what_the_appliance_wrote_comes_back(
    parts: Bench, target: Path, forger: Ed25519Signer | None, orthanc_id: str
) -> None:
    true = replace(parts.storage.keep(b"true", sop="1.4", study="1.2"), orthanc_id="the same")
    assert all(item.proof for item in parts.vault(signer=parts.signer).deliver([true]))
    forged_content(parts, orthanc_id=orthanc_id, signer=forger)
    result = restore(parts.store, parts.opener, FolderTarget(target), trust=trusting(parts), spool=SPOOL)
    assert list(restored(target).values()) == [b"true"]
    (failure,) = result.failed
    assert ("signed by this key" in failure.reason) == (forger is not None)
    assert not result.complete
    assert catalog(parts.store, parts.opener, spool=SPOOL, trust=trusting(parts)).failed == result.failed


@pytest.mark.parametrize("orthanc_id", ["the same", "another"])
def test_forged_pack_in_a_vault_without_signatures_wins_nothing(
    parts: Bench, target: Path, orthanc_id: str
) -> None:
    deliver(parts, [replace(parts.storage.keep(b"true", sop="1.4", study="1.2"), orthanc_id="the same")])
    forged_content(parts, orthanc_id=orthanc_id, signer=None)
    result = restore(parts.store, parts.opener, FolderTarget(target), spool=SPOOL)
    assert (restored(target), [failure.what for failure in result.failed]) == ({}, ["1.4"])
    assert result.unsigned == 2


def test_unsigned_packs_of_an_older_version_come_back_and_are_counted(parts: Bench, target: Path) -> None:
    instances = parts.storage.series("older")
    deliver(parts, instances)
    result = restore(parts.store, parts.opener, FolderTarget(target), trust=trusting(parts), spool=SPOOL)
    assert (result.complete, result.unsigned) == (True, 1)
    assert restored(target) == expected(parts, instances)


class VersionedStore(DyingStore):
    """A store whose own clock tells when each object came: the keys that are named came at these times."""

    retained = True

    def __init__(self, store: ObjectStore, times: dict[str, float]) -> None:
        super().__init__(store, Death(0, after=False))
        self._times = times

    def list(self, prefix: str) -> Iterator[StoredObject]:
        for shown in self._store.list(prefix):
            yield replace(shown, stored_at=self._times.get(shown.key, 0.0))


def test_unsigned_packs_count_where_the_store_took_them_before_the_first_signed_one(
    parts: Bench, target: Path
) -> None:
    before, signed, after = (parts.storage.series(name) for name in ("before", "signed", "after"))
    times: dict[str, float] = {}
    for at, series, signer in ((1.0, before, None), (2.0, signed, parts.signer), (3.0, after, None)):
        known = set(parts.stored("manifests/"))
        assert all(item.proof for item in parts.vault(signer=signer).deliver(series))
        times |= dict.fromkeys(set(parts.stored("manifests/")) - known, at)
    store, folder = VersionedStore(parts.store, times), FolderTarget(target)
    result = restore(store, parts.opener, folder, trust=trusting(parts), spool=SPOOL)
    assert (result.restored, result.unsigned, len(result.failed)) == (6, 1, 1)
    assert restored(target) == expected(parts, before + signed)
    # In a directory whoever writes chooses the time.
    assert restore(parts.store, parts.opener, folder, trust=trusting(parts), spool=SPOOL).unsigned == 0
    accepted = replace(trusting(parts), unsigned=True)
    assert restore(parts.store, parts.opener, folder, trust=accepted, spool=SPOOL).restored == 3
    earlier = replace(trusting(parts), as_of=1.5)
    assert restore(store, parts.opener, folder, trust=earlier, spool=SPOOL).skipped == 3


def test_manifest_that_was_changed_after_it_was_signed_is_refused(parts: Bench, target: Path) -> None:
    instance = parts.storage.keep(b"true", sop="1.4", study="1.2")
    assert all(item.proof for item in parts.vault(signer=parts.signer).deliver([instance]))
    (key,) = parts.stored("manifests/")
    path = parts.folder / "vault" / key
    plain = parts.opener.open(path.read_bytes())
    path.chmod(0o640)
    for changed in (
        plain.replace(b'"clinic"', b'"somebody"'),
        plain[: plain.rfind(b',\n "signature"')] + b"\n}",
        plain.replace(b'"signature": "', b'"signature": "00'),
        plain.replace(parts.signer.writer.encode(), b"ed25519:" + b"A" * 43 + b"="),
        plain.replace(b"\n}", b',\n "site": "somebody"\n}'),
    ):
        assert changed != plain
        path.write_bytes(AgeSealer([parts.keys.recipient]).seal(changed))
        result = restore(
            parts.store,
            parts.opener,
            FolderTarget(target),
            trust=replace(trusting(parts), unsigned=True),
            spool=SPOOL,
        )
        assert "signature is wrong" in result.failed[0].reason, changed
    assert restored(target) == {}


def test_signature_is_checked_by_hand_as_the_document_says(parts: Bench, tmp_path: Path) -> None:
    document = (REPOSITORY / "docs/vault-format.md").read_text(encoding="utf-8")
    block = document.split("<!-- checked by test_vault_restore.py -->\n```\n")[1].split("```")[0]
    decrypt, *commands = block.splitlines()
    assert decrypt.startswith("age --decrypt")
    instance = parts.storage.keep(b"true", sop="1.4", study="1.2")
    assert all(item.proof for item in parts.vault(signer=parts.signer).deliver([instance]))
    (key,) = parts.stored("manifests/")
    plain = parts.opener.open(parts.store.get(key))
    environment = {**os.environ, "WRITER": parts.signer.writer.removeprefix("ed25519:")}
    for content, valid in ((plain, True), (plain.replace(b'"clinic"', b'"clinik"'), False)):
        (tmp_path / "manifest.json").write_bytes(content)
        script = "set -euo pipefail; " + "\n".join(commands)
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            check=False,
            timeout=30,
        )
        assert (done.returncode == 0) is valid, done.stderr


def test_writers_of_an_unknown_key_are_named_once_with_what_to_do(parts: Bench, target: Path) -> None:
    for seed in ("one", "two"):
        assert all(
            item.proof for item in parts.vault(signer=parts.signer).deliver(parts.storage.series(seed))
        )
    result = restore(parts.store, parts.opener, FolderTarget(target), trust=Trust(), spool=SPOOL)
    (failure,) = result.failed
    assert failure.what == parts.signer.writer
    assert failure.reason.startswith("2 packs")
    assert f"--writer {parts.signer.writer}" in failure.reason
    assert result.restored == 0


def test_restore_of_two_patients_under_one_uid_brings_both(parts: Bench, target: Path) -> None:
    for content in (b"of Anna", b"of Berta"):
        instance = parts.storage.keep(content, sop="1.4", study="1.2")
        assert all(item.proof for item in parts.vault(signer=parts.signer).deliver([instance]))
    for expected in ((2, 0), (0, 2)):
        result = restore(parts.store, parts.opener, FolderTarget(target), trust=trusting(parts), spool=SPOOL)
        assert (result.restored, result.skipped) == expected
        assert (result.superseded, result.failed) == (0, ())
    assert sorted(restored(target).values()) == [b"of Anna", b"of Berta"]


def test_restore_of_everything_is_not_complete_where_a_pack_has_no_manifest(
    parts: Bench, target: Path
) -> None:
    deliver(parts, [parts.storage.keep(b"one", sop="1.4", study="1.2")])
    (manifest,) = parts.stored("manifests/")
    deliver(parts, [parts.storage.keep(b"two", sop="1.5", study="1.3")])
    (parts.folder / "vault" / manifest).unlink()
    result = restore(parts.store, parts.opener, FolderTarget(target), spool=SPOOL)
    assert (result.restored, len(result.unlisted_packs), result.failed) == (1, 1, ())
    assert not result.complete
    assert restore(parts.store, parts.opener, FolderTarget(target), study="1.3", spool=SPOOL).complete


def test_restore_of_an_instance_in_two_packs_survives_the_loss_of_one(parts: Bench, target: Path) -> None:
    instances = parts.storage.series("twice")
    deliver(parts, instances)
    (first,) = parts.stored("packs/")
    again = [replace(item, number=item.number + 100) for item in instances]  # type: ignore[arg-type]
    deliver(parts, again)
    (parts.folder / "vault" / first).unlink()
    result = restore(parts.store, parts.opener, FolderTarget(target), spool=SPOOL)
    assert (result.restored, result.failed) == (3, ())


@pytest.mark.parametrize("damage", ["deleted", "flipped", "cut"])
def test_restore_of_a_damaged_pack_names_each_instance_and_goes_on(
    parts: Bench, target: Path, damage: str
) -> None:
    lost, kept = parts.storage.series("lost", 2), parts.storage.series("kept", 2)
    deliver(parts, lost)
    (key,) = parts.stored("packs/")
    deliver(parts, kept)
    path = parts.folder / "vault" / key
    path.chmod(0o640)
    content = path.read_bytes()
    if damage == "deleted":
        path.unlink()
    elif damage == "flipped":
        path.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    else:
        path.write_bytes(content[:-1])
    result = restore(parts.store, parts.opener, FolderTarget(target), spool=SPOOL)
    assert not result.complete
    assert {failure.what for failure in result.failed} == {item.sop_instance_uid for item in lost}
    assert all(key in failure.reason for failure in result.failed)
    assert restored(target) == expected(parts, kept)


def test_restore_of_swapped_packs_restores_neither(parts: Bench, target: Path) -> None:
    deliver(parts, parts.storage.series("a", 1))
    deliver(parts, parts.storage.series("b", 1))
    first, second = (parts.folder / "vault" / key for key in parts.stored("packs/"))
    first.rename(first.with_suffix(".swap"))
    second.rename(first)
    first.with_suffix(".swap").rename(second)
    result = restore(parts.store, parts.opener, FolderTarget(target), spool=SPOOL)
    assert (result.restored, len(result.failed)) == (0, 2)
    assert restored(target) == {}


def test_restore_of_swapped_manifests_is_refused(parts: Bench, target: Path) -> None:
    deliver(parts, parts.storage.series("a", 1))
    deliver(parts, parts.storage.series("b", 1))
    first, second = (parts.folder / "vault" / key for key in parts.stored("manifests/"))
    first.rename(first.with_suffix(".swap"))
    second.rename(first)
    first.with_suffix(".swap").rename(second)
    result = restore(parts.store, parts.opener, FolderTarget(target), spool=SPOOL)
    assert {failure.reason for failure in result.failed} == {
        "it describes another pack than the one beside it"
    }


def test_restore_with_another_key_says_whose_it_is(parts: Bench, target: Path) -> None:
    deliver(parts, parts.storage.series("key", 1))
    other = new_key_pair()
    with pytest.raises(RestoreError, match="none of 1 manifests") as caught:
        restore(parts.store, AgeOpener(other.identity), FolderTarget(target), spool=SPOOL)
    assert other.recipient in caught.value.hint


def test_restore_of_an_unknown_study_is_an_error(parts: Bench, target: Path) -> None:
    deliver(parts, parts.storage.series("known", 1))
    with pytest.raises(RestoreError, match=r"1\.2\.3\.4"):
        restore(parts.store, parts.opener, FolderTarget(target), "1.2.3.4", spool=SPOOL)


def test_restore_tells_of_a_pack_without_a_manifest(parts: Bench, target: Path) -> None:
    deliver(parts, parts.storage.series("unlisted", 1))
    (manifest,) = parts.stored("manifests/")
    (parts.folder / "vault" / manifest).unlink()
    result = restore(parts.store, parts.opener, FolderTarget(target), spool=SPOOL)
    assert list(result.unlisted_packs) == parts.stored("packs/")
    assert catalog(parts.store, parts.opener, spool=SPOOL).unlisted_packs == result.unlisted_packs


@pytest.mark.parametrize("name", ["../../outside.dcm", "/tmp/outside.dcm", "1.2/../../outside.dcm"])
def test_restore_of_a_forged_name_writes_nothing(parts: Bench, target: Path, name: str) -> None:
    forge(parts, name, b"x")
    result = restore(parts.store, parts.opener, FolderTarget(target), spool=SPOOL)
    assert "no name of a member" in result.failed[0].reason
    assert list(target.parent.rglob("outside.dcm")) == []


def test_restore_of_a_member_with_other_bytes_fails(parts: Bench, target: Path) -> None:
    forge(parts, "1.2/1.3/1.4.dcm", b"x", sha256="0" * 64)
    result = restore(parts.store, parts.opener, FolderTarget(target), spool=SPOOL)
    assert result.failed[0].reason.startswith("its bytes differ")
    assert restored(target) == {}


def test_restore_of_a_member_larger_than_its_manifest_says_unpacks_nothing(
    parts: Bench, target: Path
) -> None:
    forge(parts, "1.2/1.3/1.4.dcm", b"x" * 5000, size=1)
    result = restore(parts.store, parts.opener, FolderTarget(target), spool=SPOOL)
    assert "does not have the size" in result.failed[0].reason
    assert restored(target) == {}


def test_catalog_lists_each_study_with_what_helps_to_find_it(parts: Bench) -> None:
    first, second = parts.storage.series("first"), parts.storage.series("second", 2)
    deliver(parts, first[:2])
    deliver(parts, first[2:])
    deliver(parts, second)
    studies = {
        item.study_instance_uid: item for item in catalog(parts.store, parts.opener, spool=SPOOL).studies
    }
    assert studies.keys() == {first[0].study_instance_uid, second[0].study_instance_uid}
    found = studies[first[0].study_instance_uid]
    assert (found.instances, found.packs, found.size) == (3, 2, sum(item.size for item in first))
    assert found.facts.patient_id == "UNDERSTUDY-1"


def test_catalog_of_an_empty_vault_is_empty(parts: Bench) -> None:
    found = catalog(parts.store, parts.opener, spool=SPOOL)
    assert (found.studies, found.failed, found.unlisted_packs) == ((), (), ())


def test_restore_of_a_pack_sealed_anew_by_somebody_else_is_refused(parts: Bench, target: Path) -> None:
    deliver(parts, parts.storage.series("sealed again", 1))
    (key,) = parts.stored("packs/")
    path = parts.folder / "vault" / key
    sealer, plain = AgeSealer([parts.keys.recipient]), parts.opener.open(path.read_bytes())
    # age adds a random number of bytes that mean nothing: only some attempts have the same size.
    again = next(sealed for _ in range(50_000) if len(sealed := sealer.seal(plain)) == path.stat().st_size)
    path.chmod(0o640)
    path.write_bytes(again)
    result = restore(parts.store, parts.opener, FolderTarget(target), spool=SPOOL)
    assert "SHA-256 of the manifest" in result.failed[0].reason
    assert restored(target) == {}
