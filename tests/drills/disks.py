"""Disks that lose power, fill up and fail: ext4 images on loop devices.

An image lies on a file system of its own, the tray, which is a loop device as well. Freezing the tray stops
every write to the image at one instant, as a power cut does; what the image holds then is what the disk
held. Pages that the server's file system had not written yet are in neither.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.stack import StackError, run, wait_until

# linux/fs.h: _IOWR('X', 119, int), _IOWR('X', 120, int).
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
TRAY_HEADROOM_MB = 64
RELEASE_DEADLINE = 60.0
FILL_DEADLINE = 60.0


class DiskError(Exception):
    """A disk of the drills could not be made or changed; the message says what is missing."""


def make_folder(folder: Path, owner: int) -> Path:
    """Make a folder that a server's user owns."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chown(folder, owner, owner)
    return folder


class Disk:
    """One disk, mounted at `path`; made by `inserted`."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self._folder = folder
        self._megabytes = megabytes
        self._tray_image = folder / "tray.img"
        self._tray = folder / "tray"
        self._cuts = 0
        self.path = folder / "mounted"

    @classmethod
    @contextmanager
    def inserted(cls, folder: Path, *, megabytes: int) -> Iterator["Disk"]:
        """Make an empty disk and mount it; everything is gone afterwards."""
        disk = cls(folder, megabytes)
        # What a killed run left behind.
        disk.remove()
        try:
            disk._make()
            yield disk
        finally:
            disk.remove()

    @property
    def _image(self) -> Path:
        """The image that is in use: each power cut leaves another one."""
        return self._tray / f"disk-{self._cuts}.img"

    def _make(self) -> None:
        for folder in (self._tray, self.path):
            folder.mkdir(parents=True)
        _sparse(self._tray_image, self._megabytes + TRAY_HEADROOM_MB)
        try:
            run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(self._tray_image)])
            run(["mount", "-o", "loop", str(self._tray_image), str(self._tray)])
            _sparse(self._image, self._megabytes)
            run(["mkfs.ext4", "-q", "-m", "0", str(self._image)])
            self._mount()
        except StackError as error:
            raise DiskError(
                f"drills need root, mkfs.ext4 and free loop devices on this machine: {error}"
            ) from error

    def _mount(self) -> None:
        # A real disk's fault makes ext4 read-only, as Debian's installer sets it up.
        run(["mount", "-o", "loop,errors=remount-ro", str(self._image), str(self.path)])

    def _unmount(self) -> None:
        """Unmount it and wait until nobody uses the image.

        A container that starts at this moment, anybody's, holds a copy of all mounts until it has its own; as
        long the file system lives on and writes.
        """
        run(["umount", str(self.path)])
        wait_until(
            lambda: run(["losetup", "--associated", str(self._image)]).decode(),
            lambda devices: not devices,
            deadline=RELEASE_DEADLINE,
            what=f"{self.path} unmounted everywhere",
            pause=0.02,
        )

    @contextmanager
    def without_power(self) -> Iterator[None]:
        """Stop every write at one instant and keep what the disk holds then for `restored`.

        The server has to be killed within; it cannot end before, because its writes do not.
        """
        descriptor = os.open(self._tray, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, FIFREEZE, 0)
            try:
                run(["cp", "--sparse=always", str(self._image), str(self._folder / "cut.img")])
                yield
            finally:
                fcntl.ioctl(descriptor, FITHAW, 0)
        finally:
            os.close(descriptor)

    def restored(self) -> None:
        """Put the disk back as the power cut left it: the mount replays its journal."""
        self._unmount()
        self._image.unlink()
        self._cuts += 1
        copy = self._folder / "cut.img"
        run(["cp", "--sparse=always", str(copy), str(self._image)])
        copy.unlink()
        self._mount()

    def remounted(self) -> None:
        """Take the disk out, repair its file system and put it back, as a person does after a fault."""
        self._unmount()
        # 1 says that errors were corrected (fsck(8)).
        checked = subprocess.run(["e2fsck", "-p", str(self._image)], capture_output=True, check=False)
        if checked.returncode > 1:
            raise DiskError(f"e2fsck: {checked.returncode}: {checked.stdout.decode()}")
        self._mount()

    def fail_file_system(self) -> None:
        """Make ext4 find an error, upon which it turns read-only at once for everybody."""
        source = run(["findmnt", "--noheadings", "--output", "SOURCE", str(self.path)]).decode().strip()
        (Path("/sys/fs/ext4") / Path(source).name / "trigger_fs_error").write_text("drill")

    @property
    def free_bytes(self) -> int:
        """What is left for files."""
        return shutil.disk_usage(self.path).free

    @contextmanager
    def filled(self, *, leaving: int) -> Iterator[None]:
        """Fill the disk up to so many bytes; the space is free again afterwards."""
        filler = self.path / "filler"

        def fill() -> bool:
            """Return whether it was done before the servers took what is to be left."""
            length = str(self.free_bytes - leaving)
            return subprocess.run(["fallocate", "--length", length, str(filler)], check=False).returncode == 0

        try:
            wait_until(fill, bool, deadline=FILL_DEADLINE, what=f"{self.path} filled", pause=0)
            yield
        finally:
            filler.unlink(missing_ok=True)

    def remove(self) -> None:
        """Unmount and delete whatever there is of the disk."""
        if os.path.ismount(self._tray):
            _thaw(self._tray)
        for mounted in (self.path, self._tray):
            while os.path.ismount(mounted):
                # Lazily: a container that is being removed may hold it for a moment longer.
                run(["umount", "--lazy", str(mounted)])
        shutil.rmtree(self._folder, ignore_errors=True)


def _sparse(path: Path, megabytes: int) -> None:
    with path.open("wb") as file:
        file.truncate(megabytes << 20)


def _thaw(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, FITHAW, 0)
    except OSError:
        # It was not frozen.
        return
    finally:
        os.close(descriptor)
