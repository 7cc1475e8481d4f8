"""The durable acknowledgement: what is synced, what is refused, and when stores are taken again."""

import errno
import os
from pathlib import Path

import pytest
from understudy.plugin.durability import (
    RECOVERY_SECONDS,
    DurableAcknowledgement,
    StoreStatus,
    one_folder_a_file_system,
    prove_alive,
    sync_file,
    sync_log,
    write_ahead_log,
)


class Disk:
    """A disk that can be told to refuse, a clock that can be moved, and a log that can be read."""

    def __init__(self) -> None:
        self.broken = False
        self.syncs = 0
        self.now = 1000.0
        self.errors: list[str] = []
        self.ends = 0

    def end_process(self) -> None:
        self.ends += 1

    def sync(self) -> None:
        self.syncs += 1
        if self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO), "index-wal")


def acknowledgement(disk: Disk) -> DurableAcknowledgement:
    return DurableAcknowledgement(disk.sync, lambda: disk.now, disk.errors.append, disk.end_process)


def test_store_is_synced_once_for_each_instance() -> None:
    disk = Disk()
    durable = acknowledgement(disk)
    assert durable.before_store() is StoreStatus.ACCEPT
    syncs_before = disk.syncs
    for _ in range(3):
        durable.after_store()
        assert durable.before_store() is StoreStatus.ACCEPT
    assert disk.syncs - syncs_before == 3
    assert disk.errors == []


def test_first_store_on_broken_disk_is_refused_before_it_begins() -> None:
    disk = Disk()
    disk.broken = True
    durable = acknowledgement(disk)
    assert durable.before_store() is StoreStatus.OUT_OF_RESOURCES
    assert len(disk.errors) == 1
    assert durable.counts().refusing


def test_failed_sync_ends_the_process_before_the_store_is_answered() -> None:
    disk = Disk()
    durable = acknowledgement(disk)
    durable.before_store()
    durable.after_store()
    assert disk.ends == 0
    disk.broken = True
    durable.after_store()
    assert disk.ends == 1
    assert "Orthanc ends" in disk.errors[0]


def test_failed_sync_refuses_every_later_store_and_says_so() -> None:
    disk = Disk()
    durable = acknowledgement(disk)
    durable.before_store()
    disk.broken = True
    durable.after_store()
    assert [durable.before_store() for _ in range(3)] == [StoreStatus.OUT_OF_RESOURCES] * 3
    assert "index_sync failed" in disk.errors[0]
    assert durable.counts().failed == 1
    assert durable.counts().refused == 3


def test_mended_disk_is_not_believed_before_the_recovery_time() -> None:
    disk = Disk()
    durable = acknowledgement(disk)
    durable.before_store()
    disk.broken = True
    durable.after_store()
    disk.broken = False
    disk.now += RECOVERY_SECONDS - 0.1
    assert durable.before_store() is StoreStatus.OUT_OF_RESOURCES
    disk.now += 0.2
    assert durable.before_store() is StoreStatus.ACCEPT
    assert not durable.counts().refusing
    assert "recovered" in disk.errors[-1]


def test_disk_still_broken_after_the_recovery_time_goes_on_refusing() -> None:
    disk = Disk()
    durable = acknowledgement(disk)
    durable.before_store()
    disk.broken = True
    durable.after_store()
    for _ in range(3):
        disk.now += RECOVERY_SECONDS + 0.1
        assert durable.before_store() is StoreStatus.OUT_OF_RESOURCES
    assert durable.counts().failed == 4


def test_missing_log_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync_file(tmp_path / "index-wal")


def test_existing_log_is_synced(tmp_path: Path) -> None:
    log = tmp_path / "index-wal"
    log.write_bytes(b"frames")
    sync_file(log)
    assert log.read_bytes() == b"frames"


def test_living_file_system_is_left_as_it_was(tmp_path: Path) -> None:
    prove_alive(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [errno.EIO, errno.EROFS, errno.EUCLEAN])
def test_file_system_that_takes_no_change_fails_the_sync(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "index-wal"
    log.write_bytes(b"frames")
    really_open = os.open

    def refuse(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(error, os.strerror(error), path)
        return really_open(path, flags, mode)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(OSError, match=os.strerror(error)):
        sync_log(log, [tmp_path])


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EOPNOTSUPP, errno.EISDIR])
def test_full_file_system_or_one_without_nameless_files_is_alive(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Path] = []

    def refuse(path: Path, flags: int, mode: int = 0o777) -> int:
        tried.append(path)
        raise OSError(error, os.strerror(error), path)

    monkeypatch.setattr(os, "open", refuse)
    prove_alive(tmp_path)
    assert tried == [tmp_path]


def test_one_folder_of_each_file_system_is_enough(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    assert one_folder_a_file_system([tmp_path, tmp_path / "storage", Path("/dev")]) == (
        tmp_path,
        Path("/dev"),
    )


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        ({"IndexDirectory": "/index", "StorageDirectory": "/storage"}, "/index/index-wal"),
        ({"StorageDirectory": "/storage"}, "/storage/index-wal"),
    ],
)
def test_log_lies_beside_the_index(configuration: dict[str, object], expected: str) -> None:
    assert write_ahead_log(configuration) == Path(expected)


def test_configuration_without_a_folder_is_refused() -> None:
    with pytest.raises(ValueError, match="IndexDirectory"):
        write_ahead_log({})


def test_refusal_is_the_status_that_senders_try_again_on() -> None:
    assert int(StoreStatus.OUT_OF_RESOURCES) == 0xA700
    assert int(StoreStatus.ACCEPT) == 0
