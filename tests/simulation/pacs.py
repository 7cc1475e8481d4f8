"""A simulated DICOM party, the primary or the archive of a route, with the ways of PACS that clinics have."""

import random
from collections.abc import Callable, Collection, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from understudy.core.commitment import CommitmentReport
from understudy.core.inventory import Image, ListedStudy, StudyList
from understudy.core.model import Instance, Outcome, SopInstanceUid, StudyInstanceUid
from understudy.core.outcomes import Loss, Verdict, of_loss
from understudy.core.ports import (
    BusyError,
    CappedError,
    CommitmentRefusedError,
    FileToSend,
    HolderUnavailableError,
    MoveResult,
    NoImagesError,
    NotGivenError,
    RejectedError,
    UnansweredError,
)

from tests.simulation.contents import coerced, file_of, origin, parsed, series_of
from tests.simulation.machine import Machine

Kept = dict[StudyInstanceUid, dict[SopInstanceUid, str]]
"""The content of each image, by study."""


@dataclass
class Ways:
    """How a party behaves for a while; as it stands here, it behaves well."""

    silent: bool = False
    busy: bool = False
    rejects: bool = False
    finds: bool = True
    counts: bool = True
    counts_zero: bool = False
    overcounts: set[StudyInstanceUid] = field(default_factory=set)
    """Studies of which it counts more than it lists."""
    imageless: set[StudyInstanceUid] = field(default_factory=set)
    """Studies that it lists without an image."""
    unlisted: set[StudyInstanceUid] = field(default_factory=set)
    """Studies that its list leaves out."""
    cut: bool = False
    forgetful: float = 0.0
    """The share of stores that it acknowledges and does not keep."""
    breaks: float = 0.0
    """The share of stores in which the association ends: before or after it kept the image."""
    refuses: float = 0.0
    short_of_room: float = 0.0
    falls_silent: float = 0.0
    """The share of calls at which it begins to be silent."""
    lists_after: float = 0.0
    """Seconds until it lists what it took."""
    omits: float = 0.0
    """The share of images that an answer leaves out."""
    slow: float = 0.0
    """Seconds of a call, at most."""
    commits: str = "refuses"
    """One of refuses, at once, later, never."""
    report_after: float = 0.0
    gives: str = "all"
    """What it gives back when it is asked for single images: all, nothing, unanswered, fails."""
    moves: bool = True
    """Whether it sends what it is asked to by C-MOVE."""


@dataclass
class Pacs:
    """Peer, receiver, committer and source of single instances in one (core.ports)."""

    name: str
    ae_title: str
    machine: Machine
    chance: random.Random
    host: str = "192.0.2.10"
    port: int = 104
    keeps_first: bool = False
    """Whether it keeps the earlier of two contents under one UID."""
    coerces: bool = False
    ways: Ways = field(default_factory=Ways)
    kept: Kept = field(default_factory=dict)
    heard: int = 0
    sends: Callable[[StudyInstanceUid, SopInstanceUid, str], bool] = lambda _study, _uid, _content: False
    """Stores an image at the standby and says whether that acknowledged it."""
    reports_to: dict[str, tuple[float, CommitmentReport]] = field(default_factory=dict)
    """Where its reports on storage commitment arrive."""
    shown: dict[tuple[StudyInstanceUid, SopInstanceUid], dict[str, float]] = field(default_factory=dict)
    """What it truly had of what it showed: when it last did so, by content as a modality sent it."""
    last_answer: dict[StudyInstanceUid, Set[SopInstanceUid]] = field(default_factory=dict)
    """What it listed of a study when it was asked last, and has sent here since."""
    since: dict[tuple[StudyInstanceUid, SopInstanceUid], float] = field(default_factory=dict)
    """Since when it has each image, and lists it."""
    _hidden_until: dict[tuple[StudyInstanceUid, SopInstanceUid], float] = field(default_factory=dict)

    # What happens in its own house

    def keep(self, study: StudyInstanceUid, uid: SopInstanceUid, content: str) -> None:
        """Take an image from whoever sends it."""
        images = self.kept.setdefault(study, {})
        if uid in images and self.keeps_first:
            return
        if uid not in images:
            self.since[study, uid] = self.machine.true
        images[uid] = coerced(content) if self.coerces else content

    def lose(self, study: StudyInstanceUid, uids: Collection[SopInstanceUid] | None = None) -> None:
        """Delete a study or some images of it."""
        images = self.kept.get(study, {})
        for uid in list(images if uids is None else uids):
            images.pop(uid, None)
        if not images:
            self.kept.pop(study, None)

    def snapshot(self) -> Kept:
        """Return a backup of all that it holds."""
        return {study: dict(images) for study, images in self.kept.items()}

    def restore(self, backup: Kept) -> None:
        """Come back with what it had at the time of a backup."""
        self.kept = {study: dict(images) for study, images in backup.items()}
        self._seen_now(backup)

    def merge(self, study: StudyInstanceUid, into: StudyInstanceUid) -> None:
        """Move all images of a study into another one."""
        moved = self.kept.pop(study, {})
        if not moved:
            return
        self.kept[into] = {**moved, **self.kept.get(into, {})}
        self._seen_now({into: moved})

    def _seen_now(self, images: Kept) -> None:
        for study, uids in images.items():
            self.since |= {(study, uid): self.machine.true for uid in uids}

    def has(self, study: StudyInstanceUid, uid: SopInstanceUid, content: str) -> bool:
        """Say whether it truly has this content there."""
        found = self.kept.get(study, {}).get(uid)
        return found is not None and origin(found) == origin(content)

    # core.ports.Peer and Receiver

    def _answer(self) -> None:
        self.machine.call()
        if self.chance.random() < self.ways.falls_silent:
            self.ways.silent = True
        if self.ways.slow:
            self.machine.wait(self.chance.uniform(0.0, self.ways.slow))
        if self.ways.silent:
            raise HolderUnavailableError(self.name, "no association", "check that it runs")
        if self.ways.busy:
            raise BusyError(self.name, "it rejects our association for now", "allow it more")
        if self.ways.rejects:
            raise RejectedError(self.name, "it rejects our association", "look at its configuration")
        self.heard += 1

    def echo(self) -> None:
        self._answer()

    def studies(self, study: StudyInstanceUid | None = None) -> StudyList:
        self._answer()
        if not self.ways.finds:
            raise UnansweredError(self.name, "it answered C-FIND with status 0xC001", "look at its log")
        # Of today: such studies are compared by images at every look.
        today = datetime.fromtimestamp(self.machine.now(), UTC).strftime("%Y%m%d")
        listed = {
            uid: ListedStudy(self._count(uid), today)
            for uid in self.kept
            if (uid not in self.ways.unlisted if study is None else uid == study)
        }
        return StudyList(listed, "it ended early" if self.ways.cut and study is None else "")

    def studies_between(self, first: date, last: date) -> StudyList:
        today = datetime.fromtimestamp(self.machine.now(), UTC).date()
        return self.studies() if first <= today <= last else StudyList({})

    def character_sets(self, _study: StudyInstanceUid) -> Set[str]:
        return frozenset()

    def _count(self, study: StudyInstanceUid) -> int | None:
        if not self.ways.counts:
            return None
        return len(self.kept.get(study, {})) + (study in self.ways.overcounts)

    def instances(self, study: StudyInstanceUid) -> Set[SopInstanceUid]:
        try:
            return {uid for _, uid in self.images(study)}
        except NoImagesError as error:
            if error.counted:
                raise
            return set()

    def images(self, study: StudyInstanceUid) -> Set[Image]:
        self._answer()
        if not self.ways.finds:
            raise UnansweredError(self.name, "it answered C-FIND with status 0xC001", "look at its log")
        kept = self.kept.get(study, {})
        counted = None if self.ways.counts_zero else self._count(study)
        if kept and study in self.ways.imageless:
            raise NoImagesError(self.name, "it lists no image of it", "look there", counted)
        now = self.machine.true
        listed = {
            uid: content
            for uid, content in kept.items()
            if self._hidden_until.get((study, uid), 0.0) <= now and self.chance.random() >= self.ways.omits
        }
        for uid, content in listed.items():
            self._show(study, uid, content)
        self.last_answer[study] = listed.keys()
        images = {(series_of(study), uid) for uid in listed}
        if counted is not None and counted > len(images):
            raise CappedError(self.name, "it counts more than it lists", "raise its limit", images)
        return images

    def _show(self, study: StudyInstanceUid, uid: SopInstanceUid, content: str) -> None:
        self.shown.setdefault((study, uid), {})[origin(content)] = self.machine.true

    def move(self, study: StudyInstanceUid, destination: str) -> MoveResult:
        self._answer()
        return self._send(study, self.kept.get(study, {}))

    def move_instances(
        self, study: StudyInstanceUid, images: Collection[Image], destination: str
    ) -> MoveResult:
        self._answer()
        wanted = {uid for _, uid in images}
        kept = self.kept.get(study, {})
        return self._send(study, {uid: content for uid, content in kept.items() if uid in wanted})

    def _send(self, study: StudyInstanceUid, images: dict[SopInstanceUid, str]) -> MoveResult:
        if not self.ways.moves:
            return MoveResult(0xA801, 0, 0)
        done = [self.forward(study, uid) for uid in sorted(images)]
        failed = done.count(False)
        return MoveResult(0xB000 if failed else 0, len(done) - failed, failed)

    def forward(self, study: StudyInstanceUid, uid: SopInstanceUid) -> bool:
        """Send an image of its own to the standby and say whether that took it."""
        content = self.kept[study][uid]
        self._show(study, uid, content)
        self.last_answer[study] = self.last_answer.get(study, set()) | {uid}
        return self.sends(study, uid, content)

    # core.ports.Storing

    @contextmanager
    def storing(self, pairs: Collection[tuple[str, str]]) -> Iterator["_Association"]:
        self._answer()
        yield _Association(self)

    # core.ports.Committer

    def commit(
        self, transaction_uid: str, references: Sequence[tuple[str, str]], linger: float
    ) -> CommitmentReport | None:
        self._answer()
        if self.ways.commits == "refuses":
            raise CommitmentRefusedError("it does not take the SOP class")
        uids = {SopInstanceUid(uid) for _, uid in references}
        there: set[str] = set()
        for study, images in self.kept.items():
            for uid in uids & images.keys():
                self._show(study, uid, images[uid])
                there.add(uid)
        report = CommitmentReport(
            transaction_uid, there, dict.fromkeys(sorted(uids - there), 0x0112), self.ae_title
        )
        if self.ways.commits == "at once":
            return report
        if self.ways.commits == "later":
            self.reports_to[transaction_uid] = (self.machine.true + self.ways.report_after, report)
        return None

    # core.ports.InstanceSource

    def fetch(self, instance: Instance) -> bytes | None:
        self._answer()
        match self.ways.gives:
            case "nothing":
                return None
            case "unanswered":
                raise UnansweredError(self.name, "it does not take C-GET", "look at its configuration")
            case "fails":
                raise NotGivenError(self.name, "it failed to give it back", "look at its log")
        content = self.kept.get(instance.study_instance_uid, {}).get(instance.sop_instance_uid)
        if content is None:
            return None
        self._show(instance.study_instance_uid, instance.sop_instance_uid, content)
        return file_of(instance.study_instance_uid, content)


class _Association:
    """One association for C-STORE."""

    def __init__(self, pacs: Pacs) -> None:
        self._pacs = pacs
        self.is_open = True

    def accepts(self, sop_class_uid: str, transfer_syntax_uid: str) -> bool:
        return True

    def store(self, file: FileToSend) -> Verdict:
        pacs, ways = self._pacs, self._pacs.ways
        pacs._answer()
        draw = pacs.chance.random()
        if draw < ways.refuses:
            return Verdict(Outcome.REFUSED, "refused: 0xA900")
        if draw < ways.refuses + ways.short_of_room:
            return Verdict(Outcome.RETRY, "out of resources")
        if pacs.chance.random() < ways.breaks:
            self.is_open = False
            if pacs.chance.random() < 0.5:
                self._keep(file)
            return of_loss(Loss.CLOSED, "")
        if pacs.chance.random() >= ways.forgetful:
            self._keep(file)
        return Verdict(Outcome.DELIVERED, "stored")

    def _keep(self, file: FileToSend) -> None:
        pacs = self._pacs
        study, content = parsed(file.content.read())
        uid = SopInstanceUid(file.sop_instance_uid)
        pacs.keep(study, uid, content)
        if pacs.ways.lists_after:
            shown_from = pacs.machine.true + pacs.ways.lists_after
            pacs._hidden_until[study, uid] = pacs.since[study, uid] = shown_from
