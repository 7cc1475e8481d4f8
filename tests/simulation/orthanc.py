"""The simulated Orthanc of the standby, with what our plugin makes of it: it keeps what it replaces."""

import hashlib
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

from understudy.core.commitment import CommitmentReport
from understudy.core.model import Instance, NewInstance, SopInstanceUid, StudyInstanceUid
from understudy.core.packing import StudyFacts
from understudy.core.ports import Changes, OrthancUnavailableError, UnreadableFileError

from tests.simulation.contents import file_of, new_instance
from tests.simulation.machine import Machine


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A store that its sender was told the success of."""

    orthanc_id: str
    content: str
    sender: str


@dataclass
class Orthanc:
    """Feed, archive, stored files, kept versions and commitment reports, as the agent sees them."""

    machine: Machine
    is_down: bool = False
    is_full: bool = False
    """Whether it refuses images since a disk is full."""
    here: dict[str, NewInstance] = field(default_factory=dict)
    """What it holds now, by its own identifier."""
    files: dict[str, bytes] = field(default_factory=dict)
    """The bytes of each file, kept versions among them."""
    contents: dict[str, str] = field(default_factory=dict)
    """The content of every file that ever came, by its MD5."""
    kept: dict[str, NewInstance] = field(default_factory=dict)
    """Versions that another content replaced, by file."""
    acknowledged: list[Acknowledged] = field(default_factory=list)
    reports: dict[str, tuple[float, CommitmentReport]] = field(default_factory=dict)
    """Reports on storage commitment, and when each arrives, by transaction."""
    has_news: bool = False
    """Whether anything came since the changes were asked for last."""
    _changes: list[tuple[int, str]] = field(default_factory=list)
    _last: int = 0
    _stored: int = 0

    def receive(self, study: StudyInstanceUid, uid: SopInstanceUid, content: str, sender: str) -> bool:
        """Take an image by C-STORE and say whether it is acknowledged; the sender is told by its AE title."""
        if self.is_down or self.is_full:
            return False
        self._stored += 1
        one = new_instance(study, uid, content, sender, self.machine.now(), f"file-{self._stored}")
        before = self.here.get(one.orthanc_id)
        self.acknowledged.append(Acknowledged(one.orthanc_id, content, sender))
        if before is not None and before.md5 == one.md5:
            return True
        if before is not None:
            self.kept[before.attachment_uuid] = before
            self._forget_changes({one.orthanc_id})
        self.here[one.orthanc_id] = one
        self.files[one.attachment_uuid] = file_of(study, content)
        self.contents[one.md5] = content
        self.has_news = True
        self._last += 1
        self._changes.append((self._last, one.orthanc_id))
        return True

    def _delete(self, orthanc_ids: Collection[str]) -> None:
        for one in orthanc_ids:
            gone = self.here.pop(one, None)
            if gone is not None:
                del self.files[gone.attachment_uuid]
        self._forget_changes(set(orthanc_ids))

    def _forget_changes(self, orthanc_ids: Collection[str]) -> None:
        self._changes = [change for change in self._changes if change[1] not in orthanc_ids]

    def _called(self) -> None:
        self.machine.call()
        if self.is_down:
            raise OrthancUnavailableError("ConnectError")

    # core.ports.Feed

    def changes(self, since: int, limit: int) -> Changes:
        self._called()
        if self._last < since:
            return Changes((), self._last, done=True, was_reset=True)
        newer = [change for change in self._changes if change[0] > since]
        page = newer[:limit]
        done = len(page) == len(newer)
        self.has_news = self.has_news and not done
        last = self._last if done else page[-1][0]
        mark = self._mark(page[-1]) if page else ""
        return Changes([one for _, one in page], last, done=done, was_reset=False, mark=mark)

    def end(self) -> int:
        self._called()
        return self._last

    def contradicts(self, mark: str) -> bool:
        self._called()
        number = int(mark.partition(" ")[0])
        return any(change[0] == number and self._mark(change) != mark for change in self._changes)

    @staticmethod
    def _mark(change: tuple[int, str]) -> str:
        return f"{change[0]} {change[1]}"

    def describe(self, orthanc_ids: Sequence[str]) -> list[NewInstance]:
        self._called()
        return [self.here[one] for one in orthanc_ids if one in self.here]

    def identifiers(self, start: int, limit: int) -> list[str]:
        self._called()
        return list(self.here)[start : start + limit]

    # flow.delete.Archive

    def held(self) -> int:
        self._called()
        return len(self.here)

    def listed(self, orthanc_ids: Sequence[str]) -> set[str]:
        self._called()
        return {one for one in orthanc_ids if one in self.here}

    def delete_all(self, orthanc_ids: Sequence[str]) -> None:
        self._called()
        self._delete(orthanc_ids)

    # core.ports.StoredFiles, flow.route.Attributes, and what a comparison reads

    def read(self, instance: Instance) -> bytes:
        self.machine.call()
        found = self.files.get(instance.attachment_uuid)
        if found is None:
            raise UnreadableFileError("its stored file is missing", permanent=True)
        return found

    @contextmanager
    def open(self, instance: Instance) -> Iterator[BinaryIO]:
        yield io.BytesIO(self.read(instance))

    def digest(self, instance: Instance) -> str:
        """Return the SHA-256 of the stored file, which is all data set here."""
        return hashlib.sha256(self.read(instance)).hexdigest()

    def study_facts(self, file: BinaryIO, transfer_syntax_uid: str) -> StudyFacts | None:
        return None

    def attributes(self, instance: NewInstance, keywords: Collection[str]) -> Mapping[str, Sequence[str]]:
        raise AssertionError("no rule asks for an attribute")

    # flow.conflicts.Kept

    def names(self) -> Iterator[str]:
        self.machine.call()
        yield from list(self.kept)

    def note_of(self, name: str) -> NewInstance | None:
        """Return what is known of a kept version."""
        return self.kept.get(name)

    # core.ports.Reports

    def commitment_report(self, transaction_uid: str) -> CommitmentReport | None:
        self._called()
        arrives, report = self.reports.get(transaction_uid, (0.0, None))
        return report if arrives <= self.machine.true else None
