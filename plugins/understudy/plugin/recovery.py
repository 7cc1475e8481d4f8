"""Stores files again that are in Orthanc's storage area but not in its index, from its own thread.

Before Orthanc starts, adapters/boot.py examines these files and moves the complete ones to `recover/` in the
storage area. This module only hands them to Orthanc.

Rule 1: a file is deleted from `recover/` only when Orthanc is proven to have its bytes, durably. A file that
Orthanc does not take goes to `quarantine/` with a reason.
Rule 2: an attempt is noted on the disk before it is made, so a file that ends Orthanc twice is not tried
again.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path

RECOVER, QUARANTINE = "recover", "quarantine"
NOTE_SUFFIX = ".json"
RESULT_FILE = "recovery.json"
MAX_ATTEMPTS = 2
"""Number of attempts during which Orthanc ended, after which a file goes to quarantine."""
RETRY_SECONDS = 30.0


class RefusedFileError(Exception):
    """Orthanc will never take this file."""


class NotNowError(Exception):
    """Orthanc does not take the file now; a later try can help."""


@dataclass(frozen=True, slots=True)
class RecoveringOrthanc:
    """The calls to Orthanc; they raise NotNowError, and `store` may raise RefusedFileError."""

    held_md5s: Callable[[str], Set[str]]
    """MD5 of every instance that Orthanc has under a SOP Instance UID; several if the patients differ."""
    store: Callable[[bytes], None]
    make_durable: Callable[[], None]
    """Put Orthanc's commits on the disk; raises OSError."""
    is_parked: Callable[[str], bool]
    """Whether stores of a SOP Instance UID are refused, because Orthanc ended twice while it worked on it."""


def write_whole(path: Path, document: object) -> None:
    """Replace a small file so that a crash leaves either the old or the new content."""
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(file: Path, quarantine: Path, reason: str) -> None:
    """Move a file to quarantine and write the reason beside it; never replace a file of the same name."""
    target = quarantine / file.name
    number = 0
    while target.exists():
        number += 1
        target = quarantine / f"{file.name}-{number}"
    write_whole(quarantine / f"{target.name}{NOTE_SUFFIX}", {"reason": reason, "size": file.stat().st_size})
    file.rename(target)
    sync_folder(quarantine)


def write_note(file: Path, sop_instance_uid: str, attempts: int) -> None:
    """Write SOP Instance UID and number of attempts beside a file in `recover/`."""
    note = {"sop_instance_uid": sop_instance_uid, "attempts": attempts}
    write_whole(file.with_name(file.name + NOTE_SUFFIX), note)


def read_note(file: Path) -> tuple[str, int] | None:
    """Return SOP Instance UID and attempts from a file's note, None if it cannot be read."""
    try:
        note = json.loads(file.with_name(file.name + NOTE_SUFFIX).read_text(encoding="utf-8"))
        return str(note["sop_instance_uid"]), int(note["attempts"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Recovery:
    """Hands every file of `recover/` to Orthanc; `folder` is storage/understudy."""

    def __init__(self, folder: Path, orthanc: RecoveringOrthanc, log: Callable[[str], None]) -> None:
        self._folder = folder
        self._orthanc = orthanc
        self._log = log
        self._stopping = threading.Event()
        self._outcomes = {"stored": 0, "already_there": 0, "set_aside": 0}
        self._thread = threading.Thread(target=self._run, name="understudy-recover", daemon=True)

    def start(self) -> None:
        """Start the thread; it ends at once if no file waits."""
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """End the thread after the current file, waiting up to `timeout` seconds."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def waiting(self) -> list[Path]:
        """Return the files that still have to be stored, in order.

        If a crash lost the note of a file, that file is left out; the next start examines it again.
        """
        folder = self._folder / RECOVER
        if not folder.is_dir():
            return []
        notes = sorted(path for path in folder.iterdir() if path.name.endswith(NOTE_SUFFIX))
        files = [path.with_name(path.name.removesuffix(NOTE_SUFFIX)) for path in notes]
        return [path for path in files if path.is_file() and read_note(path) is not None]

    def take_all(self) -> bool:
        """Hand every waiting file to Orthanc; return whether no file waits any more."""
        done = True
        for file in self.waiting():
            if self._stopping.is_set():
                return True
            try:
                self._outcomes[self._take(file)] += 1
            except (NotNowError, OSError) as error:
                # Orthanc may never take this file, so the other files do not wait for it.
                self._log(f"recover waits file={file.name} because={type(error).__name__}: {error}")
                done = False
        return done

    def _run(self) -> None:
        if not self.waiting():
            return
        while True:
            done = self.take_all()
            self._tell()
            if done or self._stopping.wait(RETRY_SECONDS):
                return

    def _take(self, file: Path) -> str:
        note_path = file.with_name(file.name + NOTE_SUFFIX)
        note = read_note(file)
        if note is None:
            raise NotNowError("its note is missing")
        uid, attempts = note
        if attempts >= MAX_ATTEMPTS:
            return self._set_aside(file, f"Orthanc ended {attempts} times while it was imported")
        content = file.read_bytes()
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        held = self._orthanc.held_md5s(uid)
        if held and md5 not in held:
            # This file was never acknowledged, unlike the instance that Orthanc has under its UID. Storing
            # the file would replace that instance.
            others = ", ".join(sorted(held))
            reason = f"Orthanc has other bytes (MD5 {others}) under its UID; these have MD5 {md5}"
            return self._set_aside(file, reason)
        if not held and self._orthanc.is_parked(uid):
            return self._set_aside(file, "it is parked: it ended Orthanc twice")
        if not held:
            write_note(file, uid, attempts + 1)
            try:
                self._orthanc.store(content)
            except RefusedFileError as error:
                return self._set_aside(file, f"Orthanc refuses it: {error}")
            except NotNowError:
                # Orthanc did not end, so this attempt does not count.
                write_note(file, uid, attempts)
                raise
            if md5 not in self._orthanc.held_md5s(uid):
                return self._set_aside(file, f"Orthanc accepted it, but does not show its bytes (MD5 {md5})")
        self._orthanc.make_durable()
        file.unlink()
        note_path.unlink()
        return "already_there" if held else "stored"

    def _set_aside(self, file: Path, reason: str) -> str:
        self._log(f"recover set_aside file={file.name}: {reason}")
        quarantine = self._folder / QUARANTINE
        quarantine.mkdir(mode=0o750, exist_ok=True)
        set_aside(file, quarantine, reason)
        file.with_name(file.name + NOTE_SUFFIX).unlink()
        return "set_aside"

    def _tell(self) -> None:
        document = {**self._outcomes, "waiting": len(self.waiting())}
        try:
            write_whole(self._folder / RESULT_FILE, document)
        except OSError as error:
            self._log(f"recover result not written because={error}")
        counts = " ".join(f"{name}={number}" for name, number in document.items())
        self._log(f"recover {counts}")
