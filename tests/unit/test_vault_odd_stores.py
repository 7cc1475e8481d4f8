"""S3 services that differ: none is called immutable that is not, and none is owed for ever for a header."""

import time
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import BinaryIO

import botocore.session
import pytest
from understudy.adapters.encryption import AgeSealer
from understudy.adapters.s3 import Credentials, S3Store
from understudy.adapters.storage import StorageArea
from understudy.core.model import Outcome, Timestamp
from understudy.core.packing import Digests
from understudy.core.ports import HolderUnavailableError, StoredObject
from understudy.holders.immutability import Lock, LockWatch
from understudy.holders.vault import Vault, VaultSettings
from understudy.system.spool import Spool

from tests.odd_s3 import OddS3, odd_s3
from tests.unit.fakes import Clock
from tests.vault_parts import NAME, NOW, Bench, bench

DAY = 86_400


@pytest.fixture(scope="module", autouse=True)
def service_model_read_once() -> Iterator[None]:
    """Let all clients share what botocore reads of S3 from its files: that takes longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", cache(botocore.session.create_loader))
        yield


@pytest.fixture
def service() -> Iterator[OddS3]:
    with odd_s3() as found:
        yield found


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path / "bench") as made:
        yield made


def store_of(service: OddS3, kind: type[S3Store] = S3Store, timeout: float = 5) -> S3Store:
    return kind(NAME, service.endpoint, "bucket", "us-east-1", lambda: Credentials("a", "b"), timeout=timeout)


def vault_of(
    parts: Bench, service: OddS3, clock: Clock, kind: type[S3Store] = S3Store
) -> tuple[Vault, LockWatch]:
    store = store_of(service, kind)
    watch = LockWatch(NAME, store, partial(parts.ledger.packs.newest, NAME), clock)
    files, sealer = StorageArea(parts.storage.root), AgeSealer([parts.keys.recipient])
    settings = VaultSettings(NAME, "clinic", 30)
    spool = Spool(parts.folder, 2**20)
    return Vault(settings, files, store, sealer, parts.ledger.packs, clock, spool, watch=watch), watch


def evidence(parts: Bench, vault: Vault, seed: str) -> str:
    """Deliver a series and return what its proofs say of the lock."""
    proofs = [item.proof for item in vault.deliver(parts.storage.series(seed))]
    (said,) = {str(proof.evidence["lock"]) for proof in proofs if proof is not None}
    assert None not in proofs
    return said


@pytest.mark.parametrize("how", ["forgets the lock", "keeps it in governance mode", "keeps it too short"])
def test_store_that_ignores_the_retention_is_an_alarm_and_the_proof_says_so(
    parts: Bench, service: OddS3, how: str
) -> None:
    service.keeps_locks = how != "forgets the lock"
    service.lock_mode = "GOVERNANCE" if how == "keeps it in governance mode" else "COMPLIANCE"
    kind = ShortStore if how == "keeps it too short" else S3Store
    vault, _ = vault_of(parts, service, Clock(NOW), kind)
    assert "ignores the retention" in evidence(parts, vault, "odd")
    (alarm,) = vault.alarms()
    assert "not immutable" in alarm.what
    assert "ignores the retention" in vault.proof.because


class ShortStore(S3Store):
    """A store that locks for a day, whatever it is asked for."""

    def put_file(
        self, key: str, file: BinaryIO, digests: Digests, retain_until: Timestamp | None
    ) -> StoredObject:
        return super().put_file(key, file, digests, Timestamp(NOW + DAY))


def test_store_that_keeps_the_lock_raises_no_alarm_and_the_proof_says_read_back(
    parts: Bench, service: OddS3
) -> None:
    vault, _ = vault_of(parts, service, Clock(NOW))
    assert evidence(parts, vault, "even") == "read back"
    assert vault.alarms() == ()


def test_lock_that_may_not_be_asked_for_is_an_alarm_that_names_the_permission(
    parts: Bench, service: OddS3
) -> None:
    service.tells_locks = False
    vault, _ = vault_of(parts, service, Clock(NOW))
    assert evidence(parts, vault, "untold") == "not told by the store"
    (alarm,) = vault.alarms()
    assert "s3:GetObjectRetention" in alarm.hint


@pytest.mark.parametrize("step", [0, -30 * DAY, 20 * DAY], ids=["left alone", "set back", "set forward"])
def test_lock_is_read_back_every_day_also_where_nothing_is_put(
    parts: Bench, service: OddS3, step: int
) -> None:
    clock = Clock(NOW)
    vault, watch = vault_of(parts, service, clock)
    assert not watch.step(), "there is nothing to look at"
    evidence(parts, vault, "daily")
    service.locks.clear()
    assert not watch.step(), "it was looked at just now"
    assert vault.alarms() == ()
    clock.set_by(step)
    assert not watch.step()
    clock.advance(DAY + 1)
    assert watch.step()
    assert len(vault.alarms()) == 1


@pytest.mark.parametrize("restarts", [False, True])
def test_lock_that_is_too_short_stays_an_alarm_on_every_day_after(
    parts: Bench, service: OddS3, restarts: bool
) -> None:
    clock = Clock(NOW)
    vault, watch = vault_of(parts, service, clock, WeekStore)
    evidence(parts, vault, "short")
    # The store's date lies ahead for a week, and then behind.
    for _ in range(10):
        if restarts:
            vault, watch = vault_of(parts, service, clock, WeekStore)
        clock.advance(DAY + 1)
        assert watch.step()
        (alarm,) = vault.alarms()
        assert "not immutable" in alarm.what


class WeekStore(S3Store):
    """A store that locks for a week, whatever it is asked for."""

    def put_file(
        self, key: str, file: BinaryIO, digests: Digests, retain_until: Timestamp | None
    ) -> StoredObject:
        return super().put_file(key, file, digests, Timestamp(NOW + 7 * DAY))


def test_lock_that_ends_when_it_was_to_end_is_no_alarm(parts: Bench, service: OddS3) -> None:
    clock = Clock(NOW)
    vault, watch = vault_of(parts, service, clock)
    assert evidence(parts, vault, "long ago") == "read back"
    for _ in range(40):
        clock.advance(DAY + 1)
        watch.step()
        assert vault.alarms() == ()
    assert not watch.step(), "nothing is locked any more, and nothing was to be"


def test_lock_whose_end_is_past_is_an_alarm_whatever_was_asked_for(parts: Bench, service: OddS3) -> None:
    clock = Clock(NOW)
    evidence(parts, vault_of(parts, service, clock)[0], "even")
    (key, *_) = service.locks
    watch = LockWatch(NAME, store_of(service), lambda: None, clock)
    clock.advance(31 * DAY)
    watch.look(key, "1", None)
    assert watch.lock is Lock.ABSENT


def test_lock_is_read_back_after_a_start_where_nothing_is_put(parts: Bench, service: OddS3) -> None:
    clock = Clock(NOW)
    service.keeps_locks = False
    evidence(parts, vault_of(parts, service, clock)[0], "before")
    vault, watch = vault_of(parts, service, clock)
    assert vault.alarms() == ()
    assert watch.step()
    assert len(vault.alarms()) == 1


@pytest.mark.parametrize(
    "refuses",
    [
        {"x-amz-checksum-sha256": (400, "InvalidArgument")},
        {"x-amz-sdk-checksum-algorithm": (400, "InvalidRequest")},
        {"If-None-Match": (501, "NotImplemented")},
        {"If-None-Match": (501, "NotImplemented"), "x-amz-checksum-sha256": (400, "InvalidHeader")},
    ],
    ids=["checksum", "algorithm", "once", "both"],
)
def test_store_that_refuses_a_header_is_given_its_packs_without_it(
    parts: Bench, service: OddS3, refuses: dict[str, tuple[int, str]]
) -> None:
    service.refuses = refuses
    vault, _ = vault_of(parts, service, Clock(NOW))
    for seed in ("one", "two"):
        assert evidence(parts, vault, seed) == "read back"
    assert len(service.objects) == 4
    # What was learnt with the first object is remembered.
    tried = len(service.puts)
    evidence(parts, vault, "three")
    assert len(service.puts) == tried + 2


def test_put_without_if_none_match_changes_nothing_that_is_there(service: OddS3) -> None:
    service.refuses = {"If-None-Match": (501, "NotImplemented")}
    store = store_of(service)
    put = partial(store.put, "key", retain_until=NOW)
    first = put(content=b"one")
    puts = len(service.puts)
    assert put(content=b"one").version == first.version
    with pytest.raises(HolderUnavailableError, match="other bytes"):
        put(content=b"two")
    assert (service.objects["key"], len(service.puts)) == (b"one", puts)


def test_store_that_does_not_know_object_lock_says_which_headers_are_refused(service: OddS3) -> None:
    service.refuses = {"x-amz-object-lock-mode": (501, "NotImplemented")}
    with pytest.raises(HolderUnavailableError, match="NotImplemented") as caught:
        store_of(service).put("key", b"one", NOW)
    assert "x-amz-object-lock-mode" in caught.value.hint


def test_put_whose_bytes_changed_on_the_way_is_not_tried_without_its_digest(service: OddS3) -> None:
    service.refuses = {"x-amz-checksum-sha256": (400, "BadDigest")}
    with pytest.raises(HolderUnavailableError, match="BadDigest"):
        store_of(service).put("key", b"one", NOW)
    assert service.objects == {}


def test_listing_that_is_late_makes_no_second_copy(parts: Bench, service: OddS3) -> None:
    clock = Clock(NOW)
    vault, _ = vault_of(parts, service, clock)
    service.is_late = True
    series = [parts.storage.series(str(number), 2) for number in range(10)]
    for instances in series:
        assert {item.outcome for item in vault.deliver(instances)} == {Outcome.UNKNOWN}
        for _ in range(3):
            clock.advance(1)
            with pytest.raises(HolderUnavailableError, match="does not list it yet"):
                list(vault.deliver(instances))
    service.late.clear()
    for instances in series:
        assert {item.outcome for item in vault.deliver(instances)} == {Outcome.DELIVERED}
    assert len(service.puts) == 20


def test_pack_that_is_never_listed_is_stored_anew_in_the_end(parts: Bench, service: OddS3) -> None:
    clock = Clock(NOW)
    vault, _ = vault_of(parts, service, clock)
    service.is_late = True
    instances = parts.storage.series("never", 2)
    assert {item.outcome for item in vault.deliver(instances)} == {Outcome.UNKNOWN}
    service.is_late = False
    clock.advance(601)
    assert {item.outcome for item in vault.deliver(instances)} == {Outcome.DELIVERED}


def test_object_that_arrives_steadily_may_take_longer_than_the_time_limit(service: OddS3) -> None:
    service.objects["packs/1"] = bytes(2048)
    service.piece, service.pause = 128, 0.1
    began = time.monotonic()
    assert store_of(service, timeout=1).get("packs/1", "1") == bytes(2048)
    assert time.monotonic() - began > 1


@pytest.mark.parametrize("pause", [0.1, 3.0], ids=["drips", "is silent"])
def test_object_that_hardly_arrives_is_given_up(service: OddS3, pause: float) -> None:
    service.objects["packs/1"] = bytes(100)
    service.piece, service.pause = 1, pause
    began = time.monotonic()
    with pytest.raises(HolderUnavailableError, match="get packs/1"):
        store_of(service, timeout=1).get("packs/1", "1")
    assert time.monotonic() - began < 5
