"""Replaces the image: checks whether it may, copies ledger and index, and rolls back after a failure.

Rule 1: a journal is on disk before the first step. If a power cut or a kill leaves a journal, the next start
rolls back; `supervise` makes sure that there is a next start.
Rule 2: the edge starts only after the new intake and agent are healthy. Until then nothing new can arrive, so
restoring the copies of ledger and index loses nothing.
Rule 3: the journal says `opened` before the edge starts, with the new image or the old. So copies are never
restored over data that arrived after them.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from understudy_host.check_config import check_config
from understudy_host.compose import SERVICES, START_SECONDS, Compose, run, status
from understudy_host.places import (
    HostError,
    Places,
    RefusedError,
    image_of,
    remove_durably,
    replace_durably,
    set_image,
)
from understudy_host.volumes import exists, read_file, remove_file, write_file

COPIED = ("state", "index")
ANCHOR = "ledger.anchor"
"""File on the volume `keys` in which the agent keeps the ledger's last event a second time."""
_ANCHOR_MODE = 0o600
BEFORE_THE_EDGE = ("orthanc", "agent")
MAY_UPDATE = ("standby", "maintenance")
HEALTHY_SECONDS = 120
KEPT = 2
"""Number of copies of earlier updates that stay."""
SPARE_BYTES = 256 * 2**20
"""Bytes that stay free beside the copies: ledger and index grow until the services stop, and the host needs
some space."""


@contextmanager
def _alone(places: Places, *, wait: bool = True) -> Iterator[None]:
    """Let one process at a time replace the image or roll back.

    Without `wait` it raises BlockingIOError if another process is at it.
    """
    folder = os.open(places.project, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(folder)


@dataclass(frozen=True, slots=True)
class Journal:
    """An update that is under way."""

    previous: str
    following: str
    copy: str
    """Folder of the copies, which are complete if `copied` is true."""
    copied: bool = False
    opened: bool = False
    """The edge may have started: the present data stays."""


class _UnopenedError(HostError):
    """Intake and agent are healthy with the new image, but its edge is not."""


def update(places: Places, image: str, *, without_status: bool = False) -> str:
    """Change to this image and return a message; raise RefusedError, or HostError after a rollback."""
    previous = image_of(places)
    if image == previous:
        return f"unchanged: {image} runs already"
    _refuse_unless_allowed(places, without_status)
    if exists(places.volume("state"), "first-start.json"):
        raise RefusedError(
            "the secrets of the first start were not fetched yet, and the copies would keep them: "
            "`understudy first-start`, then update"
        )
    try:
        check_config(places, image)
    except HostError as error:
        raise RefusedError(f"the new image does not accept the configuration: {error}") from error
    with _alone(places):
        # Somebody may have promoted the appliance meanwhile.
        _refuse_unless_allowed(places, without_status)
        _refuse_without_room(places)
        compose = Compose(places)
        try:
            return _replace(places, compose, previous, image)
        except _UnopenedError as error:
            # New data may have arrived: the previous image is put back by another update, with new copies.
            try:
                _replace(places, compose, image, previous)
            except HostError as another:
                raise HostError(f"{error}\n{previous} did not take over again: {another}") from another
            raise HostError(f"rolled back to {previous}, which serves again. The reason: {error}") from error


def _replace(places: Places, compose: Compose, previous: str, image: str) -> str:
    copy = places.backups / time.strftime("update-%Y%m%d-%H%M%S")
    journal = _write(places, Journal(previous, image, str(copy)))
    begun = time.monotonic()
    try:
        compose.stop()
        _copy(places, copy)
        journal = _write(places, replace(journal, copied=True))
        set_image(places, image)
        compose.up(*BEFORE_THE_EDGE, seconds=HEALTHY_SECONDS)
        _write(places, replace(journal, opened=True))
    except (HostError, OSError) as error:
        reason = f"{error}\n{compose.last_words(*BEFORE_THE_EDGE)}"
        _roll_back(places, compose, journal)
        try:
            _let_in(places, compose, seconds=START_SECONDS)
        except HostError as another:
            raise HostError(f"{reason}\nrolled back to {previous}, but: {another}") from another
        raise HostError(f"rolled back to {previous}, which serves again. The reason: {reason}") from error
    try:
        _let_in(places, compose, seconds=HEALTHY_SECONDS)
    except HostError as error:
        raise _UnopenedError(f"{error}\n{compose.last_words(*SERVICES)}") from error
    _forget(places)
    return f"updated: {image} serves after {time.monotonic() - begun:.0f} s; before it {previous}"


def _let_in(places: Places, compose: Compose, *, seconds: int) -> None:
    """Start all services, then remove the journal, which says `opened`, also if the start fails."""
    try:
        compose.up(seconds=seconds)
    except HostError:
        remove_durably(places.journal)
        raise
    remove_durably(places.journal)


def broken_off(places: Places) -> bool:
    """Return whether an update was killed in the middle: it left a journal, and no process works on it."""
    try:
        with _alone(places, wait=False):
            return places.journal.exists()
    except BlockingIOError:
        return False


def recover(places: Places, compose: Compose) -> None:
    """Roll back an update that a power cut or a kill interrupted; the caller starts the services."""
    with _alone(places):
        if not places.journal.exists():
            return
        journal = Journal(**json.loads(places.journal.read_text(encoding="utf-8")))
        if not journal.opened:
            print(
                f"the update to {journal.following} was interrupted: rolls back to {journal.previous}",
                flush=True,
            )
            _roll_back(places, compose, journal)
        remove_durably(places.journal)


def _refuse_unless_allowed(places: Places, without_status: bool) -> None:
    try:
        mode = status(places)["mode"]
    except HostError as error:
        if without_status:
            return
        raise RefusedError(
            f"{error}: it is not known whether the appliance stands in for the PACS. Fix this first; if "
            "only the update can fix it: update_without_status"
        ) from error
    if mode not in MAY_UPDATE:
        raise RefusedError(
            f"the appliance is {mode}: it stands in for the PACS now. Update after failback and settle"
        )


def _refuse_without_room(places: Places) -> None:
    """Raise RefusedError if the copies would fill their disk."""
    measured = run(["du", "--summarize", "--block-size=1", *(str(places.volume(name)) for name in COPIED)])
    needed = sum(int(line.split()[0]) for line in measured.splitlines()) + SPARE_BYTES
    places.backups.mkdir(parents=True, exist_ok=True, mode=0o700)
    free = shutil.disk_usage(places.backups).free
    if free < needed:
        raise RefusedError(
            f"the copies of ledger and index in {places.backups} need {needed / 2**20:.0f} MiB, and "
            f"{free / 2**20:.0f} MiB are free: make room there, or mount a disk there"
        )


def _copy(places: Places, copy: Path) -> None:
    """Copy ledger, index and anchor; the first two with owners and modes. The services have to be stopped."""
    copy.mkdir(mode=0o700)
    for name in COPIED:
        run(["cp", "--archive", "--reflink=auto", str(places.volume(name)), str(copy / name)])
    if exists(places.volume("keys"), ANCHOR):
        (copy / ANCHOR).write_bytes(read_file(places.volume("keys"), ANCHOR))
    os.sync()


def _put_back(places: Places, copy: Path) -> None:
    for name in COPIED:
        run(["find", str(places.volume(name)), "-mindepth", "1", "-delete"])
        run(["cp", "--archive", "--reflink=auto", f"{copy / name}/.", str(places.volume(name))])
    # The anchor has to belong to the restored ledger, not to the one that the new image continued.
    remove_file(places.volume("keys"), ANCHOR)
    if (copy / ANCHOR).exists():
        write_file(places.volume("keys"), ANCHOR, (copy / ANCHOR).read_bytes(), mode=_ANCHOR_MODE)
    os.sync()


def _roll_back(places: Places, compose: Compose, journal: Journal) -> None:
    """Restore the previous image, ledger and index; the caller starts the services."""
    compose.stop()
    if journal.copied:
        _put_back(places, Path(journal.copy))
    else:
        # An incomplete copy may have filled the disk.
        shutil.rmtree(journal.copy, ignore_errors=True)
    set_image(places, journal.previous)
    _write(places, replace(journal, opened=True))
    _forget(places)


def _write(places: Places, journal: Journal) -> Journal:
    """Write the journal durably and return it."""
    replace_durably(places.journal, json.dumps(asdict(journal)), mode=0o600)
    return journal


def _forget(places: Places) -> None:
    for old in sorted(places.backups.glob("update-*"))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
