"""Small real parts for the tests of ledger and flow: a clock that is set, a holder, a peer and a feed."""

import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

import pytest
from sqlalchemy import event, select
from understudy.core import due
from understudy.core.inventory import Image, ListedStudy, StudyList
from understudy.core.model import (
    Delivery,
    HolderKind,
    HolderName,
    Instance,
    InstanceNumber,
    NewInstance,
    Outcome,
    Proof,
    ProofKind,
    SeriesInstanceUid,
    SopInstanceUid,
    StudyInstanceUid,
    Timestamp,
)
from understudy.core.ports import (
    Answers,
    BusyError,
    CappedError,
    Changes,
    HolderUnavailableError,
    MoveResult,
    NoImagesError,
    Storing,
    UnansweredError,
)
from understudy.core.rules import Debt, Rules
from understudy.core.views import ProofView
from understudy.flow.courier import Lane
from understudy.flow.route import Router
from understudy.ledger import Ledger
from understudy.ledger.schema import metadata

NOW = Timestamp(1_700_000_000.0)
PRIMARY, ROUTE, VAULT = HolderName("primary"), HolderName("archive"), HolderName("nas")
PRIMARY_AE = "PRIMARY"
PROVEN_BY = ProofView(ProofKind.INVENTORY, "as configured")
PROOF = Proof(ProofKind.INVENTORY, NOW, {"peer": "ARCHIVE"})
STUDY = StudyInstanceUid("1.2.3")


class Clock(due.Clock):
    """A clock that stands still until time passes, or it is set."""

    def __init__(self, now: float = NOW) -> None:
        self._shown, self._passed = float(now), 0.0
        super().__init__(lambda: self._shown, lambda: self._passed, threading.Lock())

    def advance(self, seconds: float) -> Timestamp:
        """Let time pass; a negative number sets the clock back."""
        self._passed += max(0.0, seconds)
        return self.set_by(seconds)

    def set_by(self, seconds: float) -> Timestamp:
        """Set the machine's clock while no time passes."""
        self._shown += seconds
        return self.now()


class CrashError(Exception):
    """Stands for the end of the process."""


class UnforeseenError(Exception):
    """Stands for a fault in our code or in a library."""


def new_instance(
    name: int,
    *,
    study: str = STUDY,
    content: str = "A",
    calling: str = "CT1",
    size: int = 1000,
    attachment: str = "",
    received_at: float = NOW,
) -> NewInstance:
    """Return an instance as the feed tells of it; `content` stands for its bytes."""
    return NewInstance(
        orthanc_id=f"orthanc-{name}",
        attachment_uuid=attachment or f"file-{name}-{content}",
        sop_instance_uid=SopInstanceUid(f"1.2.3.4.{name}"),
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        series_instance_uid=SeriesInstanceUid(f"{study}.1"),
        study_instance_uid=StudyInstanceUid(study),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        modality="CT",
        size=size,
        md5=f"md5-{name}-{content}",
        calling_ae_title=calling,
        called_ae_title="STANDBY",
        remote_address="192.0.2.1",
        received_at=Timestamp(received_at),
    )


class NoFiles:
    """Stands where no rule looks into a file."""

    def attributes(self, instance: NewInstance, keywords: Collection[str]) -> Mapping[str, Sequence[str]]:
        raise AssertionError("no rule asked for an attribute")


def router_of(rules: Rules, ledger: Ledger) -> Router:
    """Return a router whose rules look into no file."""
    return Router(rules, ledger, NoFiles(), zone=UTC, names_patient=lambda _: False)


def received_proof(now: Timestamp = NOW) -> Proof:
    """Return the proof that an instance came from the primary."""
    return Proof(ProofKind.RECEIVED, now, {"calling_ae_title": PRIMARY_AE})


def note(
    ledger: Ledger,
    *instances: NewInstance,
    owed: Sequence[HolderName] = (ROUTE,),
    received: Proof | None = None,
    cursor: int = 1,
    now: Timestamp = NOW,
    grace: float = 60.0,
) -> int:
    """Note instances that all owe the same."""
    return ledger.intake.note(
        [(instance, [Debt(holder) for holder in owed], received) for instance in instances],
        primary=PRIMARY,
        primary_grace=grace,
        vaults=[VAULT],
        cursor=cursor,
        now=now,
    )


def numbers_of(ledger: Ledger, study: str = STUDY) -> list[InstanceNumber]:
    """Return the numbers of a study's present instances, in order."""
    return sorted(instance.number for instance in ledger.instances.of_study(StudyInstanceUid(study)))


def deliver(ledger: Ledger, number: InstanceNumber, outcome: Outcome, holder: HolderName = ROUTE) -> None:
    """Record one outcome at NOW, with a retry ten seconds later."""
    ledger.custody.record(
        holder,
        [Delivery(number, outcome, "because")],
        now=NOW,
        retry_at=lambda _attempt: Timestamp(NOW + 10),
    )


def work(lane: Lane, clock: "Clock", *, seconds: float = 0.0, step: float = 5.0) -> None:
    """Work as the lane's loop does: again while there is work, and every `step` seconds of the clock."""
    left = seconds
    while True:
        for _ in range(100):
            if not lane.step():
                break
        else:
            raise AssertionError("the lane never comes to rest")
        if left <= 0:
            return
        clock.advance(step)
        left -= step


def dump(ledger: Ledger) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table."""
    with ledger.database.reading() as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(select(table))), key=repr)
            for table in metadata.sorted_tables
        }


def unproven(ledger: Ledger) -> list[tuple[Any, ...]]:
    """Return the obligations that are proven without a proof row: there must be none."""
    tables = dump(ledger)
    kept = {(row[1], row[2]) for row in tables["proofs"]}
    return [row for row in tables["obligations"] if row[2] == "proven" and (row[0], row[1]) not in kept]


def miscounted(ledger: Ledger) -> dict[str, tuple[Any, ...]]:
    """Return, by table of counts, what it tells and what its rows are where they differ: nowhere."""
    told = dump(ledger)
    with ledger.database.reading() as connection:
        counted = {
            name: sorted((tuple(row) for row in connection.exec_driver_sql(query)), key=repr)
            for name, query in _COUNTED.items()
        }
    # A count that has come down to nothing may stay.
    return {
        name: (rows, counted[name])
        for name in _COUNTED
        if (rows := [row for row in told[name] if name == "senders" or row[-1]]) != counted[name]
    }


_COUNTED = {
    "studies": """SELECT study_instance_uid, sum(superseded_by IS NULL) FROM instances
        GROUP BY 1 HAVING sum(superseded_by IS NULL)""",
    "senders": """SELECT calling_ae_title, called_ae_title, max(remote_address), count(*), min(received_at),
        max(received_at) FROM instances GROUP BY 1, 2""",
    "days": "SELECT CAST(received_at / 86400 AS INTEGER), sum(size) FROM instances GROUP BY 1",
    "tallies": """SELECT holder, state, superseded_by IS NULL, count(*)
        FROM obligations JOIN instances ON number = instance GROUP BY 1, 2, 3""",
    "ages": """SELECT holder, since, count(*) FROM obligations
        WHERE state IN ('owed', 'in_flight', 'sent', 'refused') GROUP BY 1, 2""",
    "batches": "SELECT 1 WHERE 0",
}


def shares(count: int, name: str = "share") -> pytest.MarkDecorator:
    """Divide an exploration among so many tests, of which `make quick` runs the first."""
    rest = (pytest.param(share, marks=pytest.mark.long) for share in range(1, count))
    return pytest.mark.parametrize(name, [0, *rest])


CRASH_SHARES = 6
"""Tests that divide among them the crashes that are tried: each takes every sixth."""


@contextmanager
def crash_after(ledger: Ledger, statements: int, *, only_writes: bool = False) -> Iterator[Callable[[], int]]:
    """Raise CrashError after so many SQL statements, the last before the commit; give how many there were."""
    seen = 0

    def count(*arguments: Any) -> None:
        nonlocal seen
        # A commit comes with its connection alone.
        statement = arguments[2] if len(arguments) > 1 else "COMMIT"
        if only_writes and statement.split(maxsplit=1)[0] not in ("INSERT", "UPDATE", "DELETE"):
            return
        seen += 1
        if seen == statements:
            raise CrashError(f"after statement {seen}")

    for name in ("after_cursor_execute", "commit"):
        event.listen(ledger.database.engine, name, count)
    try:
        yield lambda: seen
    finally:
        for name in ("after_cursor_execute", "commit"):
            event.remove(ledger.database.engine, name, count)


@dataclass
class FakeHolder:
    """A holder that keeps a set of SOP Instance UIDs and misbehaves as told, per call or per instance."""

    name: HolderName = ROUTE
    kind: HolderKind = HolderKind.ROUTE
    kept: set[str] = field(default_factory=set)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """By SOP Instance UID; delivered where nothing is said."""
    unlisted: set[str] = field(default_factory=set)
    poison_to_find: set[str] = field(default_factory=set)
    poison_to_deliver: set[str] = field(default_factory=set)
    away: bool = False
    away_after: int | None = None
    """Instances delivered before the holder goes away in the middle of a batch."""
    crash_after: int | None = None
    proof_at_once: bool = False
    delivered: list[str] = field(default_factory=list)
    """Every SOP Instance UID that was handed over, in order."""
    asked: list[int] = field(default_factory=list)
    """How many instances each question was about."""

    @property
    def proof(self) -> ProofView:
        return PROVEN_BY

    def prove(self, instances: Sequence[Instance]) -> Answers:
        return Answers(self.find(instances) if instances else {})

    def find(self, instances: Sequence[Instance]) -> Mapping[InstanceNumber, Proof]:
        if self.away:
            raise HolderUnavailableError(self.name, "it is away", "wait")
        self.asked.append(len(instances))
        uids = {instance.sop_instance_uid for instance in instances}
        if uids & self.poison_to_find:
            raise UnforeseenError
        return {
            instance.number: PROOF
            for instance in instances
            if instance.sop_instance_uid in self.kept - self.unlisted
        }

    def deliver(self, instances: Sequence[Instance]) -> Iterator[Delivery]:
        for done, instance in enumerate(instances):
            uid = instance.sop_instance_uid
            if self.away_after is not None and done >= self.away_after:
                raise HolderUnavailableError(self.name, "it went away", "wait")
            if self.crash_after is not None and done >= self.crash_after:
                raise KeyboardInterrupt
            if uid in self.poison_to_deliver:
                raise UnforeseenError
            self.delivered.append(uid)
            outcome = self.outcomes.get(uid, Outcome.DELIVERED)
            if outcome in (Outcome.DELIVERED, Outcome.DELIVERED_ALTERED):
                self.kept.add(uid)
            proof = PROOF if self.proof_at_once and outcome is Outcome.DELIVERED else None
            yield Delivery(instance.number, outcome, "because", proof)


OLD = "20200101"
"""A Study Date long before NOW."""


@dataclass
class FakePeer:
    """A PACS that keeps its instances by study; what it sends on C-MOVE goes to `receive`."""

    studies_kept: dict[StudyInstanceUid, set[SopInstanceUid]] = field(default_factory=dict)
    name: str = PRIMARY
    ae_title: str = PRIMARY_AE
    host: str = "192.0.2.10"
    port: int = 104
    silent: bool = False
    busy: bool = False
    finds: bool = True
    counts: bool = True
    move_status: int = 0x0000
    receive: Callable[[StudyInstanceUid, SopInstanceUid], None] = lambda _study, _uid: None
    after_instances: Callable[[StudyInstanceUid], None] = lambda _study: None
    """Called when a study was asked for at the IMAGE level: what others do meanwhile."""
    moved: list[str] = field(default_factory=list)
    """What it was asked to send: Study or SOP Instance UIDs, in order."""
    unmovable: set[str] = field(default_factory=set)
    """SOP Instance UIDs that a C-MOVE of their whole study leaves out."""
    asked: list[StudyInstanceUid] = field(default_factory=list)
    capped: set[str] = field(default_factory=set)
    """Study Instance UIDs that it has no usable answer for."""
    overcounted: set[str] = field(default_factory=set)
    """Study Instance UIDs of which it counts more instances than it lists."""
    unlisted: set[str] = field(default_factory=set)
    """Study Instance UIDs that it leaves out where all are asked for."""
    dates: dict[str, str] = field(default_factory=dict)
    """Study Dates by Study Instance UID; the others are old."""
    imageless: set[str] = field(default_factory=set)
    """Study Instance UIDs that it lists without any image."""
    twins: set[Image] = field(default_factory=set)
    """Images that it lists besides those of the common series."""
    cut: str = ""
    """Why its list of studies is cut."""
    contents: dict[str, bytes] = field(default_factory=dict)
    """Data sets by SOP Instance UID that are not those that are here."""
    gives: bool = True
    """Whether it offers C-GET."""

    def keep(self, study: str, *uids: str) -> None:
        kept = self.studies_kept.setdefault(StudyInstanceUid(study), set())
        kept |= {SopInstanceUid(uid) for uid in uids}

    def lose(self, study: str, *uids: str) -> None:
        kept = self.studies_kept[StudyInstanceUid(study)]
        kept -= set(uids)
        if not kept:
            del self.studies_kept[StudyInstanceUid(study)]

    def _answer(self) -> None:
        if self.silent:
            raise HolderUnavailableError(self.name, "no association", "check that it runs")
        if self.busy:
            raise BusyError(self.name, "it rejects our association: local limit exceeded", "allow it more")

    def echo(self) -> None:
        self._answer()

    def studies(self, study: StudyInstanceUid | None = None) -> StudyList:
        self._answer()
        if not self.finds:
            raise UnansweredError(self.name, "it answered C-FIND with status 0xC001", "look at its log")
        return StudyList(
            {
                uid: ListedStudy(self._count(uid), self.dates.get(uid, OLD))
                for uid in self.studies_kept
                if (uid not in self.unlisted if study is None else uid == study)
            },
            self.cut if study is None else "",
        )

    def _count(self, study: StudyInstanceUid) -> int | None:
        return len(self.studies_kept[study]) + (study in self.overcounted) if self.counts else None

    def instances(self, study: StudyInstanceUid) -> Set[SopInstanceUid]:
        return {uid for _, uid in self.images(study)}

    def images(self, study: StudyInstanceUid) -> Set[Image]:
        self._answer()
        self.asked.append(study)
        if study in self.capped:
            raise UnansweredError(self.name, "its answers are capped", "raise the limit")
        kept = self.studies_kept.get(study, set())
        listed = {(SeriesInstanceUid(f"{study}.1"), uid) for uid in kept} | {
            image for image in self.twins if image[1] in kept
        }
        if study in self.imageless and kept:
            raise NoImagesError(self.name, "it lists no image of it", "look there", self._count(study))
        if study in self.overcounted:
            raise CappedError(self.name, "its answers are capped", "raise the limit", listed)
        self.after_instances(study)
        return listed

    def fetch(self, instance: Instance) -> bytes | None:
        self._answer()
        if not self.gives:
            raise UnansweredError(self.name, "it offers no C-GET", "see that it allows us C-GET")
        uid = instance.sop_instance_uid
        has = uid in self.studies_kept.get(instance.study_instance_uid, set())
        return self.contents.get(uid, instance.md5.encode()) if has else None

    def move(self, study: StudyInstanceUid, destination: str) -> MoveResult:
        self._answer()
        self.moved.append(study)
        kept = self.studies_kept.get(study, set())
        return self._send(study, kept - self.unmovable, len(kept & self.unmovable))

    def move_instances(
        self, study: StudyInstanceUid, images: Collection[Image], destination: str
    ) -> MoveResult:
        self._answer()
        uids = {uid for _, uid in images}
        self.moved += sorted(uids)
        return self._send(study, self.studies_kept.get(study, set()) & uids, 0)

    def _send(self, study: StudyInstanceUid, uids: set[SopInstanceUid], failed: int) -> MoveResult:
        if self.move_status:
            return MoveResult(self.move_status, 0, 0)
        for uid in sorted(uids):
            self.receive(study, uid)
        return MoveResult(0xB000 if failed else 0, len(uids), failed)

    def storing(self, pairs: Collection[tuple[str, str]]) -> AbstractContextManager[Storing]:
        raise NotImplementedError("the flow's tests deliver through PeerHolder")


@dataclass
class PeerHolder:
    """The primary as holder: delivers into a FakePeer."""

    peer: FakePeer
    name: HolderName = PRIMARY
    kind: HolderKind = HolderKind.PRIMARY
    sent: list[str] = field(default_factory=list)

    @property
    def proof(self) -> ProofView:
        return PROVEN_BY

    def prove(self, instances: Sequence[Instance]) -> Answers:
        return Answers(self.find(instances))

    def find(self, instances: Sequence[Instance]) -> Mapping[InstanceNumber, Proof]:
        return {
            instance.number: PROOF
            for instance in instances
            if instance.sop_instance_uid in self.peer.instances(instance.study_instance_uid)
        }

    def deliver(self, instances: Sequence[Instance]) -> Iterator[Delivery]:
        for instance in instances:
            self.peer.echo()
            self.sent.append(instance.sop_instance_uid)
            self.peer.keep(instance.study_instance_uid, instance.sop_instance_uid)
            yield Delivery(instance.number, Outcome.DELIVERED, "stored")


class FakeFeed:
    """Orthanc's changes feed over a list of stored instances; `gone` were deleted since."""

    def __init__(self) -> None:
        self.stored: list[NewInstance] = []
        self.gone: set[str] = set()
        self.page = 500
        self.after_changes: Callable[[], None] = lambda: None

    def store(self, *instances: NewInstance) -> None:
        self.stored += instances

    def changes(self, since: int, limit: int) -> Changes:
        if since > len(self.stored):
            return Changes((), self.end(), done=True, was_reset=True)
        last = min(len(self.stored), since + min(limit, self.page))
        found = [instance.orthanc_id for instance in self.stored[since:last]]
        self.after_changes()
        mark = self._mark(last) if found else ""
        return Changes(found, last, done=last == len(self.stored), was_reset=False, mark=mark)

    def end(self) -> int:
        return len(self.stored)

    def contradicts(self, mark: str) -> bool:
        number = int(mark.partition(" ")[0])
        return number <= len(self.stored) and self._mark(number) not in ("", mark)

    def _mark(self, number: int) -> str:
        instance = self.stored[number - 1]
        return "" if instance.orthanc_id in self.gone else f"{number} {instance.attachment_uuid}"

    def identifiers(self, start: int, limit: int) -> list[str]:
        held = {instance.orthanc_id: None for instance in self.stored if instance.orthanc_id not in self.gone}
        return list(held)[start : start + limit]

    def describe(self, orthanc_ids: Sequence[str]) -> list[NewInstance]:
        latest = {instance.orthanc_id: instance for instance in self.stored}
        return [latest[one] for one in orthanc_ids if one in latest and one not in self.gone]
