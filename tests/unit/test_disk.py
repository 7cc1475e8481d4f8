"""The forecast, the marks and the alarms of the disks, by numbers alone and by the wired watch."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from understudy.core.disk import DAY, VolumeSpace, alarms, bytes_a_day, volume_view
from understudy.core.model import Timestamp
from understudy.core.views import DiskView, Fullness, UnknownVolume, iso
from understudy.engine.board import PATIENCE
from understudy.flow.disk import DiskWatch, WatchedVolume
from understudy.ledger import Ledger
from understudy.plugin.probe import try_disk
from understudy.plugin.volumes import Space, Volume, read_from_disk

from tests.unit.fakes import Clock, new_instance, note

GIGABYTE = 2**30
NOW = Timestamp(1000 * DAY + 3600)
MARKS: dict[str, Any] = {"warn_percent": 80.0, "refuse_percent": 95.0}


def space(used: float, growth: float = 0.0) -> VolumeSpace:
    return VolumeSpace("storage", 100 * GIGABYTE, int(100 * GIGABYTE * (1 - used)), used, growth)


def test_bytes_a_day_is_the_mean_of_whole_days_and_counts_the_idle_ones() -> None:
    by_day = {992: 999, 993: 70, 999: 70, 1000: 999}
    assert bytes_a_day(by_day, NOW, Timestamp(0)) == 20


def test_bytes_a_day_of_a_young_appliance_is_of_its_own_days() -> None:
    assert bytes_a_day({998: 999, 999: 70}, NOW, Timestamp(998 * DAY + 1)) == 70
    assert bytes_a_day({1000: 70}, NOW, Timestamp(1000 * DAY + 1)) == 0


@pytest.mark.parametrize(
    ("used", "state"),
    [
        (0.0, Fullness.FINE),
        (0.79, Fullness.FINE),
        (0.8, Fullness.WARN),
        (0.95, Fullness.REFUSE),
        (1.0, Fullness.REFUSE),
    ],
)
def test_volume_view_judges_by_the_marks(used: float, state: Fullness) -> None:
    assert volume_view(space(used), **MARKS).state is state


def test_days_left_are_until_the_last_mark() -> None:
    assert volume_view(space(0.75, 2 * GIGABYTE), **MARKS).days_left == pytest.approx(10)
    assert volume_view(space(0.99, 2 * GIGABYTE), **MARKS).days_left == 0
    assert volume_view(space(0.5), **MARKS).days_left is None


def test_alarms_name_the_volume_before_it_is_full() -> None:
    def what(*spaces: VolumeSpace, refusing: bool = False) -> list[str]:
        view = DiskView([volume_view(one, **MARKS) for one in spaces], refusing)
        return [alarm.what for alarm in alarms(view, lambda _: iso(NOW))]

    assert what(space(0.5)) == []
    assert what(space(0.85)) == ["the volume storage is 85 % full"]
    assert what(space(0.7, 2 * GIGABYTE)) == [
        "the volume storage is 70 % full and lasts 12 more days at the present rate"
    ]
    assert what(space(0.96), refusing=True)[0].startswith("a disk is full: new images are refused")


class _Received:
    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, since: Timestamp) -> Mapping[int, int]:
        self.asked += 1
        assert since == NOW - 8 * DAY
        return {999: 7 * GIGABYTE}


def test_volume_that_tells_its_room_and_gives_no_file_is_not_known(tmp_path: Path) -> None:
    goes_on, reads = threading.Event(), threading.Event()

    def hanging(file: Path) -> None:
        assert file == tmp_path / "boot.json"
        reads.set()
        assert goes_on.wait(30)

    clock = Clock(NOW)
    watch = DiskWatch(
        (WatchedVolume("storage", tmp_path, takes_intake=True, file=tmp_path / "boot.json"),),
        Volume(tmp_path, 0, 1.0),
        tmp_path / "refuse-intake",
        clock,
        received=_Received(),
        began=Timestamp(0),
        read=hanging,
        **MARKS,
    )
    worker = threading.Thread(target=dict(watch.steps())["volume-storage"])
    worker.start()
    try:
        assert reads.wait(30)
        assert watch.unknown_since("storage") is None, "it has its time"
        clock.advance(PATIENCE + 1)
        assert watch.unknown_since("storage") == NOW
        assert watch.view().unknown[0].name == "storage"
    finally:
        goes_on.set()
        worker.join()


@pytest.mark.parametrize(
    ("content", "calls"),
    [(None, []), (b"", ["posix_fadvise", "pread"]), (b"{}", ["posix_fadvise", "pread"])],
)
def test_file_is_read_past_the_cache_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, calls: list[str]
) -> None:
    file = tmp_path / "boot.json"
    if content is not None:
        file.write_bytes(content)
    seen: list[str] = []
    for name in ("posix_fadvise", "pread"):
        monkeypatch.setattr(f"os.{name}", lambda *_, name=name: seen.append(name))
    read_from_disk(file)
    assert seen == calls


def test_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="directory"):
        read_from_disk(tmp_path)


def test_probe_of_a_store_reads_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try_disk(tmp_path)
    monkeypatch.setattr("os.pread", lambda *_: b"other")
    with pytest.raises(OSError, match="differ from the written ones"):
        try_disk(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_watch_adds_up_what_shares_a_file_system_and_follows_the_flag(tmp_path: Path) -> None:
    def measured(folder: Path) -> Space:
        if folder.name == "gone":
            raise FileNotFoundError(2, "No such file or directory")
        return Space(100 * GIGABYTE, 50 * GIGABYTE, 0, 0)

    for name in ("storage", "index", "gone"):
        (tmp_path / name).mkdir()
    volumes = tuple(
        WatchedVolume(name, tmp_path / name, takes_intake=name != "index")
        for name in ("storage", "index", "gone")
    )
    received, flag = _Received(), tmp_path / "refuse-intake"
    own, clock = Volume(tmp_path, 0, 1.0), Clock(NOW)
    watch = DiskWatch(
        volumes,
        own,
        flag,
        clock,
        received=received,
        began=Timestamp(0),
        measure=measured,
        **MARKS,
    )
    steps = dict(watch.steps())

    def look() -> None:
        for step in steps.values():
            step()

    assert watch.view().volumes == []
    steps["volume-storage"]()
    assert [volume.days_left for volume in watch.view().volumes] == [None]
    look()
    look()
    assert received.asked == 1
    view = watch.view()
    # Both lie on one disk, and one gigabyte a day arrives on it.
    assert [volume.name for volume in view.volumes] == ["storage", "index"]
    assert [volume.days_left for volume in view.volumes] == [pytest.approx(45), pytest.approx(45)]
    assert not view.refusing
    flag.touch()
    look()
    assert watch.view().refusing
    (alarm,) = watch.alarms(watch.view())
    clock.advance(5)
    assert watch.alarms(watch.view()) == [alarm]
    flag.unlink()
    look()
    assert watch.alarms(watch.view()) == []
    flag.touch()
    look()
    assert watch.alarms(watch.view())[0].since == iso(clock.now())


def test_volume_that_hangs_is_not_known_since_then_and_holds_no_other(tmp_path: Path) -> None:
    hangs, hanging = threading.Event(), threading.Event()

    def measured(folder: Path) -> Space:
        if folder.name == "vault" and hangs.is_set():
            hanging.wait(30)
        return Space(100 * GIGABYTE, 50 * GIGABYTE, 0, 0)

    for name in ("storage", "vault"):
        (tmp_path / name).mkdir()
    volumes = tuple(WatchedVolume(name, tmp_path / name, takes_intake=True) for name in ("storage", "vault"))
    clock = Clock(NOW)
    watch = DiskWatch(
        volumes,
        Volume(tmp_path, 0, 1.0),
        tmp_path / "flag",
        clock,
        received=_Received(),
        began=Timestamp(0),
        measure=measured,
        **MARKS,
    )
    steps = dict(watch.steps())
    for step in steps.values():
        step()
    assert [volume.name for volume in watch.view().volumes] == ["storage", "vault"]
    hangs.set()
    worker = threading.Thread(target=steps.pop("volume-vault"))
    worker.start()
    try:
        clock.advance(PATIENCE + 1)
        for step in steps.values():
            step()
        view = watch.view()
        assert [volume.name for volume in view.volumes] == ["storage"]
        assert view.unknown == [UnknownVolume("vault", iso(NOW))]
        (alarm,) = watch.alarms(view)
        assert (alarm.since, "volume vault does not answer" in alarm.what) == (iso(NOW), True)
    finally:
        hanging.set()
        worker.join()


def test_ledger_sums_bytes_by_day_since_a_moment(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.modes.start(NOW)
    received = ((1, 998.5), (2, 999.0), (3, 999.9), (4, 1000.0))
    note(ledger, *(new_instance(name, size=name, received_at=day * DAY) for name, day in received))
    assert ledger.intake.bytes_by_day(Timestamp(999 * DAY)) == {999: 5, 1000: 4}
    ledger.close()
