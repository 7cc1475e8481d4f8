"""Reads and writes files in the volumes as root without following links, because containers can write there.

Rule 1: an attacker in a container can put a link, a pipe or a folder in the place of any name. So each folder
is opened without following a link, and each name is used relative to the open folder.
Rule 2: anything but a plain file of the volume's owner is refused by name; it is neither read nor changed.
"""

import os
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from understudy_host.places import RefusedError

_LARGEST = 2**20
"""Bytes of a file at most: certificates, keys, secrets."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def read_file(volume: Path, name: str) -> bytes:
    """Return a file's bytes, or raise FileNotFoundError, or RefusedError if it is not a plain file.

    `name` is relative to the volume's folder and may contain folders.
    """
    with _folder_of(volume, name) as (folder, last):
        try:
            descriptor = os.open(last, _READ, dir_fd=folder)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _refused(volume, name, f"it cannot be opened as a file ({error.strerror})") from error
        try:
            _refuse_unless_plain(os.fstat(descriptor), volume, name)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content = file.read(_LARGEST + 1)
        finally:
            os.close(descriptor)
    if len(content) > _LARGEST:
        raise _refused(volume, name, f"it has more than {_LARGEST} bytes")
    return content


def write_file(volume: Path, name: str, content: bytes, *, mode: int) -> None:
    """Replace a file durably; the new one belongs to the volume's owner.

    A link in its place is itself replaced. A missing folder in the name is made.
    """
    with _folder_of(volume, name, make=True) as (folder, last):
        aside = f".{last}.{secrets.token_hex(8)}"
        descriptor = os.open(aside, _NEW, 0o600, dir_fd=folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                owner = os.stat(volume)
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
                os.fchmod(descriptor, mode)
                os.fsync(descriptor)
            os.rename(aside, last, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException as error:
            with suppress(OSError):
                os.unlink(aside, dir_fd=folder)
            if isinstance(error, IsADirectoryError):
                raise _refused(volume, name, "a folder is in its place") from error
            raise
        os.fsync(folder)


def remove_file(volume: Path, name: str) -> None:
    """Remove a file if it exists; of a link, the link itself."""
    try:
        with _folder_of(volume, name) as (folder, last):
            os.unlink(last, dir_fd=folder)
            os.fsync(folder)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError) as error:
        raise _refused(volume, name, "a folder is in its place") from error


def exists(volume: Path, name: str) -> bool:
    """Return whether anything has this name, even a dangling link."""
    try:
        with _folder_of(volume, name) as (folder, last):
            os.stat(last, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def connect(client: socket.socket, volume: Path, name: str) -> None:
    """Connect to a Unix socket in the volume; raises RefusedError if it is not a socket."""
    with _folder_of(volume, name) as (folder, last):
        descriptor = os.open(last, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            seen = os.fstat(descriptor)
            if not stat.S_ISSOCK(seen.st_mode):
                raise _refused(volume, name, "it is no socket")
            client.connect(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)


@contextmanager
def _folder_of(volume: Path, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the open folder of the name's last part, and that part."""
    *folders, last = name.split("/")
    descriptor = os.open(volume, _FOLDER)
    try:
        for part in folders:
            if make:
                _make_folder(volume, part, descriptor)
            try:
                inner = os.open(part, _FOLDER, dir_fd=descriptor)
            except FileNotFoundError:
                raise
            except OSError as error:
                raise _refused(volume, part, "it is no folder") from error
            os.close(descriptor)
            descriptor = inner
        yield descriptor, last
    finally:
        os.close(descriptor)


def _make_folder(volume: Path, name: str, folder: int) -> None:
    try:
        os.mkdir(name, 0o750, dir_fd=folder)
    except FileExistsError:
        return
    owner = os.stat(volume)
    os.chown(name, owner.st_uid, owner.st_gid, dir_fd=folder, follow_symlinks=False)
    os.fsync(folder)


def _refuse_unless_plain(seen: os.stat_result, volume: Path, name: str) -> None:
    if not stat.S_ISREG(seen.st_mode):
        raise _refused(volume, name, "it is no plain file")
    if seen.st_nlink != 1:
        raise _refused(volume, name, "it has another name besides, which may be another's file")
    if seen.st_uid not in (os.stat(volume).st_uid, os.geteuid()):
        raise _refused(volume, name, "it belongs to neither the volume's owner nor root")


def _refused(volume: Path, name: str, why: str) -> RefusedError:
    return RefusedError(
        f"{volume / name}: {why}. Only an attacker who has taken over a container makes this: nothing "
        "of it was read or changed. Look at it with `ls -l`, then remove it"
    )
