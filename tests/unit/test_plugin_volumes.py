"""The guard on real file systems of a few megabytes: full, given room, full again."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from understudy.plugin.volumes import BALLAST_FILE, Ballast, IntakeGuard, Space, Volume, measure

MEGABYTE = 2**20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 MB of its own."""
    if os.geteuid() != 0:
        pytest.skip("a file system can only be mounted by root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def fill(folder: Path, megabytes: int, name: str = "images") -> Path:
    file = folder / name
    file.write_bytes(bytes(megabytes * MEGABYTE))
    return file


def guard(folder: Path, flag: Path, said: list[str], ballast: int = MEGABYTE) -> IntakeGuard:
    return IntakeGuard({"index": Volume(folder, ballast, 0.9)}, flag, said.append)


def test_measure_counts_what_runs_out_first() -> None:
    assert Space(total=100, free=50, inodes=0, inodes_free=0).used == 0.5
    assert Space(total=100, free=50, inodes=10, inodes_free=1).used == 0.9
    assert Space(total=0, free=0, inodes=0, inodes_free=0).used == 0


def test_ballast_takes_real_blocks_and_a_twentieth_at_most(small: Path) -> None:
    before = measure(small)
    Ballast(small, 100 * MEGABYTE).make(before)
    assert before.free - measure(small).free == MEGABYTE
    assert (small / BALLAST_FILE).stat().st_size == MEGABYTE


def test_ballast_without_room_leaves_nothing(small: Path) -> None:
    space = measure(small)
    (small / "all").write_bytes(bytes(space.free))
    with pytest.raises(OSError, match="No space"):
        Ballast(small, MEGABYTE).make(space)
    assert not (small / BALLAST_FILE).exists()


def test_guard_refuses_at_the_mark_and_gives_the_ballast_up(
    small: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    flag, said = tmp_path_factory.mktemp("flag") / "refuse-intake", list[str]()
    watched = guard(small, flag, said)
    watched.look()
    assert not watched.full
    assert (small / BALLAST_FILE).exists()
    images = fill(small, 18)
    for _ in range(3):
        # What the ballast gives back never counts as room.
        watched.look()
        assert watched.full == ("index",)
        assert flag.exists()
        assert not (small / BALLAST_FILE).exists()
    # The ballast's megabyte is there for whoever deletes.
    fill(small, 1, "journal")
    images.unlink()
    watched.look()
    assert watched.full == ()
    assert not flag.exists()
    assert (small / BALLAST_FILE).exists()
    assert said == ["intake refused because=full volumes=index", "intake accepted"]


def test_flag_can_be_opened_by_the_group_whatever_the_umask(small: Path, tmp_path: Path) -> None:
    flag = tmp_path / "refuse-intake"
    watched = guard(small, flag, [], ballast=0)
    fill(small, 18)
    before = os.umask(0o077)
    try:
        watched.look()
    finally:
        os.umask(before)
    assert flag.stat().st_mode & 0o777 == 0o640


def test_guard_does_not_swing_at_the_mark(small: Path, tmp_path: Path) -> None:
    said: list[str] = []
    watched = guard(small, small / "flag", said, ballast=0)
    mark = int(measure(small).total * 0.9)
    file = small / "images"
    for size in (mark + 8192, mark - 8192, mark + 8192, mark - 8192):
        file.write_bytes(bytes(size))
        watched.look()
        assert watched.full
    file.write_bytes(bytes(mark - MEGABYTE))
    watched.look()
    assert not watched.full
    assert len(said) == 2


def test_guard_takes_a_flag_of_its_predecessor_away(tmp_path: Path) -> None:
    flag = tmp_path / "refuse-intake"
    flag.touch()
    IntakeGuard({"here": Volume(tmp_path, 0, 1.0)}, flag, list[str]().append).look()
    assert not flag.exists()


def test_guard_that_cannot_measure_says_so_once_and_does_not_refuse(tmp_path: Path) -> None:
    said: list[str] = []
    watched = guard(tmp_path / "gone", tmp_path / "flag", said)
    watched.look()
    watched.look()
    assert watched.full == ()
    assert said == ["intake accepted problems=['index: No such file or directory']"]


def test_guard_looks_by_itself_until_it_is_stopped(small: Path, tmp_path: Path) -> None:
    watched = guard(small, small / "flag", [])
    fill(small, 18)
    watched.start()
    watched.stop()
    assert watched.full
