"""Scrub, heal and recover on real files and a real ledger; Orthanc is a small one that keeps files."""

import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import pytest
from understudy.adapters.boot import BootReport, BootReports, Unreadable, write_report
from understudy.adapters.storage import StorageArea
from understudy.core.model import Delivery, Instance, NewInstance, Outcome, Timestamp
from understudy.core.obligations import ObligationState, Selection
from understudy.core.ports import HolderUnavailableError, OrthancUnavailableError
from understudy.core.report import Report
from understudy.core.views import DamageState, OperationState, OperationView
from understudy.flow.heal import Healer, Surgery
from understudy.flow.recover import RecoveryWatch
from understudy.flow.scrub import Scrubber
from understudy.ledger import Ledger
from understudy.system.spool import Spool

from tests.unit.fakes import NOW, ROUTE, STUDY, Clock, deliver, dump, new_instance, note, numbers_of

RATE = 1000


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@dataclass
class SmallOrthanc:
    """Keeps files as Orthanc does: a new name for every store, and none where it has the instance already."""

    root: Path
    listed: dict[str, str] = field(default_factory=dict)
    news: list[NewInstance] = field(default_factory=list)
    away: bool = False

    def store(self, instance: NewInstance, content: bytes) -> NewInstance:
        if instance.orthanc_id in self.listed:
            return instance
        name = str(uuid.uuid4())
        path = self.root / name[:2] / name[2:4] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.listed[instance.orthanc_id] = name
        stored = replace(instance, attachment_uuid=name, size=len(content), md5=md5(content))
        self.news.append(stored)
        return stored

    def file_of(self, orthanc_id: str) -> str | None:
        if self.away:
            raise OrthancUnavailableError("it is away")
        return self.listed.get(orthanc_id)

    def path(self, orthanc_id: str) -> Path:
        name = self.listed[orthanc_id]
        return self.root / name[:2] / name[2:4] / name


@dataclass
class Holder:
    """The primary as a source: data sets by SOP Instance UID."""

    name: str = "primary"
    has: dict[str, bytes] = field(default_factory=dict)
    away: bool = False

    def fetch(self, instance: Instance) -> bytes | None:
        if self.away:
            raise HolderUnavailableError(self.name, "it is away", "wait")
        return self.has.get(instance.sop_instance_uid)


def write_whole(_instance: Instance, dataset: BinaryIO, _damaged: Path, whole: BinaryIO) -> None:
    whole.write(b"head" + dataset.read())


class World:
    """One appliance as far as its stored files go."""

    def __init__(self, root: Path) -> None:
        self.storage = root / "storage"
        self.storage.mkdir()
        self.clock = Clock()
        self.ledger = Ledger(root / "ledger.sqlite")
        self.ledger.modes.start(self.clock.now())
        self.orthanc = SmallOrthanc(self.storage)
        self.primary = Holder()
        self.contents: dict[str, bytes] = {}
        self.reports: dict[int, Report] = {}
        self.waited = 0.0
        self.stopping = False
        self.writes_back = True
        self.before_put: Callable[[], None] = lambda: None
        self.deleted: list[str] = []
        self.on_damage: Callable[[], None] = lambda: None
        disk = StorageArea(self.storage)
        self.healer = Healer(
            self.ledger,
            disk,
            self.orthanc,
            self,
            [self.primary],
            Surgery(
                write_whole,
                lambda _id, digest, content: True,
            ),
            self.clock,
            Spool(root, 2**20),
            holders=[ROUTE],
            catch_up=self.catch_up,
            fraction=lambda: 1.0,
            wait=self._wait,
            site="clinic",
            write_report=self._write_report,
        )
        self.scrubber = Scrubber(
            self.ledger,
            disk,
            self.orthanc,
            self.clock,
            rate=RATE,
            interval=7 * 86400,
            wait=self._wait,
            site="clinic",
            write_report=self._write_report,
            on_damage=lambda: self.on_damage(),
        )
        self.recovery = RecoveryWatch(
            BootReports(self.storage), self.ledger, self.scrubber, self.clock, on_damage=lambda: None
        )

    # Place: what Replacement does with the real Orthanc

    def offer(self, file: BinaryIO) -> None:
        """The plugin writes back what Orthanc lists (plugin/versions.py); Orthanc stores what it lacks."""
        file.seek(0)
        content = file.read()
        for item in [item for item in self.stored if item.md5 == md5(content)]:
            if item.orthanc_id not in self.orthanc.listed:
                self.orthanc.store(item, content)
            elif self.writes_back:
                path = self.orthanc.path(item.orthanc_id)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)

    def put(self, orthanc_id: str, file: str, content: BinaryIO) -> bool:
        self.before_put()
        content.seek(0)
        if self.orthanc.listed[orthanc_id] != file:
            return False
        before = next(item for item in self.stored if item.orthanc_id == orthanc_id)
        self.orthanc.path(orthanc_id).unlink(missing_ok=True)
        del self.orthanc.listed[orthanc_id]
        self.deleted.append(orthanc_id)
        self.orthanc.store(before, content.read())
        return True

    def resume(self) -> int:
        return 0

    def _wait(self, seconds: float) -> bool:
        self.waited += seconds
        self.clock.advance(seconds)
        return not self.stopping

    def _write_report(self, operation: int, report: Report) -> str:
        self.reports[operation] = report
        return f"/understudy/reports/{operation}"

    def store(self, count: int, size: int = 100) -> None:
        for name in range(1, count + 1):
            content = b"head" + bytes([name % 256]) * (size - 4)
            self.contents[f"orthanc-{name}"] = content
            self.orthanc.store(new_instance(name), content)
        self.catch_up()

    @property
    def stored(self) -> list[NewInstance]:
        return self.orthanc.news

    def catch_up(self) -> int:
        return note(self.ledger, *self.stored, now=self.clock.now())

    def flip(self, name: int) -> None:
        path = self.orthanc.path(f"orthanc-{name}")
        content = bytearray(path.read_bytes())
        content[7] ^= 1
        path.write_bytes(content)

    def remove(self, name: int) -> None:
        self.orthanc.path(f"orthanc-{name}").unlink()

    def heal(self, *, missed: bool = False) -> OperationView:
        """Do what a person asks for, to its end."""
        begun = self.healer.begin("ann", missed=missed)
        assert self.healer.step()
        return self.operation(begun)

    def operation(self, view: OperationView) -> OperationView:
        return self.ledger.operations.get(view.operation)

    def open_damages(self) -> set[str]:
        return {
            view.orthanc_id
            for view in self.ledger.files.damages(limit=1000)
            if view.state is DamageState.OPEN
        }

    def scrub_round(self) -> int:
        steps = 1
        while self.scrubber.step():
            steps += 1
            assert steps < 10_000
        return steps


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_scrub_finds_what_is_missing_changed_or_cut_and_nothing_else(world: World) -> None:
    world.store(250)
    world.flip(3)
    world.remove(120)
    path = world.orthanc.path("orthanc-250")
    path.write_bytes(path.read_bytes()[:-1])
    world.scrub_round()
    assert world.open_damages() == {"orthanc-3", "orthanc-120", "orthanc-250"}
    last = world.scrubber.last
    assert last is not None
    assert (last.files, last.damaged) == (250, 3)


def test_scrub_reads_no_faster_than_its_rate(world: World) -> None:
    world.store(50, size=1000)
    began = world.clock.now()
    world.scrub_round()
    assert world.clock.now() - began == pytest.approx(50 * 1000 / RATE)


def test_scrub_goes_on_after_a_restart_and_begins_again_after_its_interval(world: World) -> None:
    world.store(50, size=1000)
    assert world.scrubber.step()
    present = world.scrubber.present
    assert present is not None
    assert 0 < present.files < 50
    world.scrub_round()
    last = world.scrubber.last
    assert last is not None
    assert last.files == 50
    assert not world.scrubber.step(), "the next one has time"
    world.clock.advance(7 * 86400)
    world.flip(1)
    world.scrub_round()
    assert world.open_damages() == {"orthanc-1"}


def test_scrub_that_is_stopped_in_a_file_reads_it_again(world: World) -> None:
    world.store(3)
    world.flip(1)
    world.stopping = True
    assert world.scrubber.step()
    assert world.open_damages() == set()
    world.stopping = False
    world.scrub_round()
    assert world.open_damages() == {"orthanc-1"}


def test_scrub_takes_no_deleted_instance_for_damage(world: World) -> None:
    world.store(3)
    world.remove(2)
    del world.orthanc.listed["orthanc-2"]
    world.scrub_round()
    assert world.open_damages() == set()


def test_scrub_of_a_volume_that_is_not_there_accuses_no_file(world: World) -> None:
    world.store(3)
    world.storage.rename(world.storage.with_name("away"))
    with pytest.raises(HolderUnavailableError, match="missing or empty"):
        world.scrub_round()
    assert world.open_damages() == set()


def test_scrub_asked_for_reads_at_full_speed_and_reports(world: World) -> None:
    world.store(250)
    world.flip(3)
    began = world.clock.now()
    operation = world.scrubber.begin("ann")
    assert world.scrubber.begin("ann").operation == operation.operation
    assert world.scrubber.step()
    view = world.ledger.operations.get(operation.operation)
    assert (view.state, view.done, view.total) == (OperationState.FAILED, 250, 250)
    assert world.clock.now() == began
    report = world.reports[operation.operation]
    assert not report.succeeded
    assert [row[1] for row in report.tables[0].rows] == ["1.2.3.4.3"]


def test_scrub_reports_what_it_found_although_the_clock_was_set_back(world: World) -> None:
    world.store(3)
    world.flip(1)
    world.scrub_round()
    world.clock.advance(60)
    operation = world.scrubber.begin("ann").operation
    world.flip(3)
    world.clock.set_by(-30 * 86_400)
    world.scrubber.step()
    assert [row[1] for row in world.reports[operation].tables[0].rows] == ["1.2.3.4.3"]


def test_scrub_asked_for_is_cancelled(world: World) -> None:
    world.store(250)
    operation = world.scrubber.begin("ann").operation
    world.ledger.operations.update(operation, now=NOW, state=OperationState.CANCELLED, message="by ann")
    world.scrubber.step()
    assert operation not in world.reports


def test_scrub_asked_for_continues_after_a_restart(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.store(25)
    world.flip(3)
    operation = world.scrubber.begin("ann").operation
    read: list[int] = []
    damage = StorageArea.damage

    def stops_at_21(area: StorageArea, instance: Instance, paced: Callable[[int], bool]) -> str | None:
        read.append(instance.number)
        world.stopping = instance.number == 21 and read.count(21) < 3
        return damage(area, instance, paced)

    monkeypatch.setattr(StorageArea, "damage", stops_at_21)
    assert not world.scrubber.step()
    assert world.ledger.operations.get(operation).state is OperationState.RUNNING
    before = len(read)
    assert world.scrubber.step()
    assert read[before:] == [21, 22, 23, 24, 25]
    view = world.ledger.operations.get(operation)
    assert (view.state, view.done) == (OperationState.FAILED, 25)
    assert [row[1] for row in world.reports[operation].tables[0].rows] == ["1.2.3.4.3"]


@pytest.mark.parametrize("writes_back", [True, False])
@pytest.mark.parametrize("spoil", ["flip", "remove"])
def test_heal_from_the_primary_makes_it_the_same_version_again(
    world: World, spoil: str, writes_back: bool
) -> None:
    world.store(3)
    world.writes_back = writes_back
    getattr(world, spoil)(2)
    (number,) = [n for n in numbers_of(world.ledger) if n == 2]
    world.ledger.custody.claim(ROUTE, [number], now=NOW)
    deliver(world.ledger, number, Outcome.REFUSED)
    world.primary.has["1.2.3.4.2"] = world.contents["orthanc-2"][4:]
    world.scrub_round()
    assert world.healer.step()
    assert world.open_damages() == set()
    healed = world.ledger.instances.present(number)
    assert healed is not None
    assert world.orthanc.path("orthanc-2").read_bytes() == world.contents["orthanc-2"]
    assert healed.attachment_uuid == world.orthanc.listed["orthanc-2"]
    assert world.deleted == ([] if writes_back else ["orthanc-2"])
    assert [view.state for view in world.ledger.obligations.listed(ROUTE, None, 10)].count(
        ObligationState.REFUSED
    ) == 1, "it was refused for another reason than its file"
    world.clock.advance(7 * 86400)
    world.scrub_round()
    assert world.open_damages() == set()


def test_heal_owes_again_what_was_refused_because_of_the_file(world: World) -> None:
    world.store(2)
    number = numbers_of(world.ledger)[0]
    world.ledger.custody.claim(ROUTE, [number], now=NOW)
    refusal = Delivery(number, Outcome.REFUSED, "its stored file is gone")
    world.ledger.custody.record(ROUTE, [refusal], now=NOW, retry_at=lambda _: Timestamp(NOW))
    world.remove(1)
    world.primary.has["1.2.3.4.1"] = world.contents["orthanc-1"][4:]
    world.scrub_round()
    assert world.healer.step()
    world.healer.step()
    states = {view.sop_instance_uid: view.state for view in world.ledger.obligations.listed(ROUTE, None, 10)}
    assert states["1.2.3.4.1"] is ObligationState.OWED


def test_heal_takes_a_lane_that_cannot_read_a_file_for_a_finding(world: World) -> None:
    world.store(2)
    number = numbers_of(world.ledger)[0]
    world.ledger.custody.claim(ROUTE, [number], now=NOW)
    refusal = Delivery(number, Outcome.REFUSED, "its stored file is gone")
    world.ledger.custody.record(ROUTE, [refusal], now=NOW, retry_at=lambda _: Timestamp(NOW))
    world.remove(1)
    world.healer.step()
    assert world.open_damages() == {"orthanc-1"}
    assert world.ledger.files.damages(limit=1)[0].found_by == "deliver"


def test_heal_reaches_a_file_that_reads_again_behind_many_that_do_not(world: World) -> None:
    world.store(60)
    numbers = numbers_of(world.ledger)
    world.ledger.custody.claim(ROUTE, numbers, now=NOW)
    refusals = [Delivery(number, Outcome.REFUSED, "its stored file is gone") for number in numbers]
    world.ledger.custody.record(ROUTE, refusals, now=NOW, retry_at=lambda _: Timestamp(NOW))
    for name in range(1, 60):
        world.remove(name)
    world.primary.away = True
    for _ in range(3):
        world.healer.step()
    owed = world.ledger.obligations.listed(ROUTE, ObligationState.OWED, 100)
    assert [view.sop_instance_uid for view in owed] == ["1.2.3.4.60"]
    assert len(world.open_damages()) == 59


def test_heal_leaves_alone_a_content_that_was_stored_while_it_looked(world: World) -> None:
    world.store(2)
    world.flip(1)
    world.scrub_round()
    world.writes_back = False
    world.primary.has["1.2.3.4.1"] = world.contents["orthanc-1"][4:]
    newer = b"head of other bytes"

    def modality_sends() -> None:
        before = world.stored[0]
        del world.orthanc.listed["orthanc-1"]
        world.orthanc.store(before, newer)

    world.before_put = modality_sends
    assert not world.healer.step()
    assert world.orthanc.path("orthanc-1").read_bytes() == newer
    assert world.deleted == []


def test_heal_looks_once_for_what_a_person_deleted_and_says_so(world: World) -> None:
    world.store(2)
    number = numbers_of(world.ledger)[0]
    world.ledger.custody.claim(ROUTE, [number], now=NOW)
    refusal = Delivery(number, Outcome.REFUSED, "its stored file is gone")
    world.ledger.custody.record(ROUTE, [refusal], now=NOW, retry_at=lambda _: Timestamp(NOW))
    stored = world.stored[0]
    world.remove(1)
    del world.orthanc.listed["orthanc-1"]
    world.healer.step()
    once = dump(world.ledger)
    for _ in range(3):
        world.clock.advance(5)
        world.healer.step()
    assert dump(world.ledger) == once
    assert world.ledger.files.damages(limit=10) == []
    (letter,) = world.ledger.dead_letters.listed(Selection())
    assert (letter.holder, letter.reason) == (ROUTE, "it was deleted here; nobody is proven to have it")
    # A person sends it again.
    world.orthanc.store(stored, world.contents["orthanc-1"])
    world.catch_up()
    assert world.ledger.dead_letters.listed(Selection()) == []
    assert {view.state for view in world.ledger.obligations.listed(ROUTE, None, 10)} == {ObligationState.OWED}


def test_heal_brings_back_what_a_rescan_missed_once_a_person_asks_for_it(world: World) -> None:
    world.store(3)
    lost = [world.ledger.instances.present(number) for number in numbers_of(world.ledger)[:2]]
    for name in (1, 2):
        world.remove(name)
        del world.orthanc.listed[f"orthanc-{name}"]
    world.ledger.files.compared([], [instance for instance in lost if instance], world.clock.now())
    world.primary.has["1.2.3.4.1"] = world.contents["orthanc-1"][4:]
    assert not world.healer.step()
    assert world.heal().message == "No stored file is missing or changed any more."
    assert len(world.ledger.files.damages(limit=10, missed=True)) == 2
    ended = world.heal(missed=True)
    assert (ended.state, ended.done, ended.total) == (OperationState.FAILED, 2, 2)
    assert ended.message.startswith("1 stored file is missing or changed and could not be healed")
    (still,) = world.reports[ended.operation].tables[0].rows
    assert still[1:] == ("1.2.3.4.2", STUDY, "primary does not give it back")
    assert world.ledger.files.damages(limit=10, missed=True) == []
    assert world.orthanc.path("orthanc-1").read_bytes() == world.contents["orthanc-1"]
    # The other stays an alarm until somebody has it.
    assert world.open_damages() == {"orthanc-2"}
    assert world.deleted == []
    assert world.ledger.files.gone() == (0, None)


def test_heal_with_other_bytes_is_a_new_version_and_no_loss(world: World) -> None:
    world.store(2)
    world.remove(1)
    world.primary.has["1.2.3.4.1"] = b"coerced by the primary"
    world.scrub_round()
    assert world.healer.step()
    assert world.open_damages() == set()
    assert "new version" in world.ledger.files.damages(limit=10)[0].reason


def test_heal_tries_again_where_the_clock_was_set_back_by_days(world: World) -> None:
    world.store(3)
    world.remove(2)
    world.scrub_round()
    assert not world.healer.step(), "no holder has it"
    world.primary.has["1.2.3.4.2"] = world.contents["orthanc-2"]
    world.clock.advance(-86400)
    assert world.healer.step()
    assert world.open_damages() == set()


def test_heal_that_finds_no_holder_stays_open_and_tries_again_later(world: World) -> None:
    world.store(2)
    world.remove(1)
    world.scrub_round()
    world.primary.away = True
    assert not world.healer.step()
    view = world.ledger.files.damages(limit=10)[0]
    assert (view.state, view.attempts, view.reason) == (DamageState.OPEN, 1, "primary: it is away")
    world.primary.away = False
    world.primary.has["1.2.3.4.1"] = world.contents["orthanc-1"][4:]
    assert not world.healer.step(), "its time has not come"
    assert world.heal().state is OperationState.DONE
    assert world.open_damages() == set()


def test_heal_that_a_person_asked_for_goes_on_after_a_restart_and_tries_each_file_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.store(4)
    for name in range(1, 5):
        world.remove(name)
    world.scrub_round()
    asked: list[str] = []
    fetch = world.primary.fetch

    def counted(instance: Instance) -> bytes | None:
        asked.append(instance.sop_instance_uid)
        world.stopping = len(asked) == 2
        return fetch(instance)

    monkeypatch.setattr(world.primary, "fetch", counted)
    world.primary.has["1.2.3.4.3"] = world.contents["orthanc-3"][4:]
    begun = world.healer.begin("ann", missed=False)
    assert world.healer.begin("bob", missed=False) == begun
    monkeypatch.setattr(world.ledger.files, "to_heal", lambda **_: [])
    world.healer.step()
    assert (len(asked), world.operation(begun).state) == (2, OperationState.RUNNING)
    world.stopping = False
    world.healer.step()
    ended = world.operation(begun)
    assert sorted(asked) == [f"1.2.3.4.{name}" for name in range(1, 5)]
    assert (ended.state, ended.done) == (OperationState.FAILED, 4)
    summary = {row.name: row.value for row in world.reports[ended.operation].summary}
    assert summary == {"Files tried": "4", "Healed": "1", "Still missing or changed": "3"}


def test_heal_takes_note_of_a_file_that_was_sent_again(world: World) -> None:
    world.store(2)
    world.remove(1)
    world.scrub_round()
    before = world.stored[0]
    del world.orthanc.listed["orthanc-1"]
    world.orthanc.store(before, world.contents["orthanc-1"])
    assert world.healer.step()
    assert world.ledger.files.damages(limit=10)[0].reason == "stored again"


def test_heal_closes_what_was_deleted(world: World) -> None:
    world.store(2)
    world.remove(1)
    world.scrub_round()
    del world.orthanc.listed["orthanc-1"]
    world.healer.step()
    assert world.ledger.files.damages(limit=10)[0].state is DamageState.GONE


def boot(world: World, **fields: object) -> BootReport:
    report = replace(BootReport(at=NOW, statistics_in_force=True, problem=""), **fields)  # type: ignore[arg-type]
    write_report(world.storage, report)
    return report


def test_recover_records_rows_without_a_file_once_the_ledger_knows_them(world: World) -> None:
    world.orthanc.store(new_instance(1), b"content")
    name = world.orthanc.listed["orthanc-1"]
    world.remove(1)
    boot(world, unreadable=1, listed=(Unreadable("orthanc-1", name, True, -1),))
    world.recovery.step()
    assert world.open_damages() == set()
    world.catch_up()
    world.recovery.step()
    assert world.open_damages() == {"orthanc-1"}
    assert any("missing or changed" in alarm.what for alarm in world.recovery.alarms())


def test_recover_logs_a_start_and_its_end_once_each(world: World) -> None:
    boot(world, recoverable=2, quarantined=1)
    for _ in range(3):
        world.recovery.step()
    (world.storage / "understudy" / "recovery.json").write_text(
        '{"stored": 2, "already_there": 0, "set_aside": 0, "waiting": 0}'
    )
    for _ in range(3):
        world.recovery.step()
    with world.ledger.database.reading() as connection:
        kinds = connection.exec_driver_sql("SELECT fields FROM events WHERE kind = 'recover'").scalars().all()
    assert len(kinds) == 2
    assert '"stored":2' in kinds[1]
    assert world.recovery.files().recovered == 2


def test_recover_says_nothing_of_a_start_without_findings(world: World) -> None:
    boot(world)
    world.recovery.step()
    assert world.recovery.alarms() == []
    assert world.ledger.events.broken() is None


def test_recover_raises_an_alarm_where_a_start_was_not_prepared(world: World) -> None:
    boot(world, problem="the index cannot be opened", statistics_in_force=False)
    world.recovery.step()
    (alarm,) = world.recovery.alarms()
    assert "index" in alarm.what
    assert not world.recovery.files().statistics_in_force


def test_recover_raises_an_alarm_while_anything_is_in_quarantine(world: World) -> None:
    boot(world)
    folder = world.storage / "understudy" / "quarantine"
    folder.mkdir()
    (folder / "a").write_bytes(b"x")
    (folder / "a.json").write_text("{}")
    world.recovery.step()
    (alarm,) = world.recovery.alarms()
    assert alarm.what.startswith("1 file ")
    assert world.recovery.files().quarantined == 1


def test_recover_raises_an_alarm_while_anything_is_parked(world: World) -> None:
    boot(world, parked=1)
    folder = world.storage / "understudy" / "parking"
    folder.mkdir()
    (folder / "suspects").write_text("2 1700000000 CT1 1.2.3\n1 1700000000 US 1.2.4\n")
    world.recovery.step()
    (alarm,) = world.recovery.alarms()
    assert alarm.what.startswith("1 image is parked")
    assert world.recovery.files().parked == 1
    with world.ledger.database.reading() as connection:
        (fields,) = (
            connection.exec_driver_sql("SELECT fields FROM events WHERE kind = 'recover'").scalars().all()
        )
    assert '"parked":1' in fields


def test_recover_raises_an_alarm_for_a_day_after_orthanc_ended_by_a_fault(world: World) -> None:
    boot(world, ended="decode anna decode/1.2.3")
    folder = world.storage / "understudy" / "parking"
    folder.mkdir()
    day = 24 * 3600
    (folder / "ends.json").write_text(
        json.dumps(
            [
                {"at": NOW - day - 1, "doing": ["store CT1 1.9"]},
                {"at": NOW - 60, "doing": []},
                {"at": NOW, "doing": ["decode anna decode/1.2.3", "store - 1.4"]},
            ]
        )
    )
    world.recovery.step()
    (alarm,) = world.recovery.alarms()
    assert alarm.what == (
        "Orthanc crashed 2 times in the last 24 h, the last time during: "
        "decode anna decode/1.2.3; store - 1.4"
    )
    assert world.recovery.files().ended == 2
    with world.ledger.database.reading() as connection:
        (fields,) = (
            connection.exec_driver_sql("SELECT fields FROM events WHERE kind = 'recover'").scalars().all()
        )
    assert '"ended":"decode anna decode/1.2.3"' in fields
    world.clock.advance(day + 1)
    world.recovery.step()
    assert world.recovery.alarms() == []
