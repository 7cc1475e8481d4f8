"""Replaces the image: refused unless it may, ledger and index copied first, rolled back by itself.

Rule 1: the intent is on the disk, as a journal, before the first step. Where a power cut or a kill leaves
one, the next start rolls back; `supervise` sees to it that there is a next start.
Rule 2: nobody is let in before the new intake and agent are healthy. So until then the copies of ledger and
index are the whole truth, and putting them back loses nothing.
Rule 3: the journal says so before anybody is let in, by the new image or by the old. So copies are never put
back over what came after them.
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
"""The ledger's last event, which the agent keeps a second time on the volume `keys`."""
_ANCHOR_MODE = 0o600
BEFORE_THE_EDGE = ("orthanc", "agent")
MAY_UPDATE = ("standby", "maintenance")
HEALTHY_SECONDS = 120
KEPT = 2
"""Copies of earlier updates that stay."""
SPARE_BYTES = 256 * 2**20
"""What the copies leave free: ledger and index grow until the services stop, and the host needs some."""


@contextmanager
def _alone(places: Places, *, wait: bool = True) -> Iterator[None]:
    """Let one process at a time replace the image or roll back; BlockingIOError without the wait for it."""
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
    """Folder of the copies; complete where `copied`."""
    copied: bool = False
    opened: bool = False
    """Somebody may have been let in: what is there now stays."""


class _UnopenedError(HostError):
    """Intake and agent are healthy with the new image, but its edge is not."""


def update(places: Places, image: str, *, without_status: bool = False) -> str:
    """Run `image` from now on and return what was done; raise RefusedError, or HostError after a rollback."""
    previous = image_of(places)
    if image == previous:
        return f"unchanged: {image} runs already"
    _refuse_unless_allowed(places, without_status)
    if exists(places.volume("state"), "first-start.json"):
        raise RefusedError(
            "the secrets of the first start were not taken yet, and the copies would keep them: "
            "`understudy first-start`, then update"
        )
    try:
        check_config(places, image)
    except HostError as error:
        raise RefusedError(f"the new image does not accept the configuration: {error}") from error
    with _alone(places):
        # Somebody may have promoted it meanwhile.
        _refuse_unless_allowed(places, without_status)
        _refuse_without_room(places)
        compose = Compose(places)
        try:
            return _replace(places, compose, previous, image)
        except _UnopenedError as error:
            # Somebody may have been let in: it goes back as it came, with copies of what is there now.
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
    """Start all services; the journal, which says `opened`, ends with their start."""
    try:
        compose.up(seconds=seconds)
    except HostError:
        remove_durably(places.journal)
        raise
    remove_durably(places.journal)


def broken_off(places: Places) -> bool:
    """Say whether an update was killed in the middle: its journal is there, and nobody works on it."""
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
            f"{error}: whether the appliance stands in for the PACS cannot be told. Fix it first; if the "
            "update is what fixes it: update_without_status"
        ) from error
    if mode not in MAY_UPDATE:
        raise RefusedError(
            f"the appliance is {mode}: it stands in for the PACS now. Update after failback and settle"
        )


def _refuse_without_room(places: Places) -> None:
    """Raise RefusedError where the copies would fill the disk that they go to."""
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
    """Copy what only the appliance knows, with owners and modes; the services have to be stopped."""
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
    # Of the ledger that was put back, not of the one that the new image went on with.
    remove_file(places.volume("keys"), ANCHOR)
    if (copy / ANCHOR).exists():
        write_file(places.volume("keys"), ANCHOR, (copy / ANCHOR).read_bytes(), mode=_ANCHOR_MODE)
    os.sync()


def _roll_back(places: Places, compose: Compose, journal: Journal) -> None:
    """Make image, ledger and index the previous ones; the caller starts them."""
    compose.stop()
    if journal.copied:
        _put_back(places, Path(journal.copy))
    else:
        # It may be what has filled the disk.
        shutil.rmtree(journal.copy, ignore_errors=True)
    set_image(places, journal.previous)
    _write(places, replace(journal, opened=True))
    _forget(places)


def _write(places: Places, journal: Journal) -> Journal:
    """Put the journal on the disk and return it."""
    replace_durably(places.journal, json.dumps(asdict(journal)), mode=0o600)
    return journal


def _forget(places: Places) -> None:
    for old in sorted(places.backups.glob("update-*"))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
