"""Conflicts: what only the disk knows reaches the ledger, contents are compared, and people close them."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from understudy.adapters.storage import StorageArea
from understudy.adapters.versions import KeptVersions
from understudy.core.conflicts import ConflictKind, dataset_at, judge
from understudy.core.errors import NotFoundError
from understudy.core.model import (
    HolderName,
    NewInstance,
    SeriesInstanceUid,
    SopInstanceUid,
    StudyInstanceUid,
    Timestamp,
)
from understudy.core.obligations import ObligationState
from understudy.core.ports import UnreadableFileError
from understudy.core.rules import Debt
from understudy.flow.conflicts import Conflicts
from understudy.ledger import Ledger

from tests.unit.fakes import Clock

VAULT = HolderName("nas")
ORTHANC_ID = "-".join(["0123abcd"] * 5)
NOW = Timestamp(1_790_000_000.0)


def part10(data: bytes, head: bytes = b"") -> bytes:
    """Return a file with a head of its own before the data set."""
    return b"\0" * 128 + b"DICM\2\0\0\0UL\4\0" + len(head).to_bytes(4, "little") + head + data


class World:
    """A ledger, a storage area and what Orthanc shows of one instance."""

    def __init__(self, folder: Path) -> None:
        self.storage = folder / "storage"
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.ledger.modes.start(NOW)
        self.shown: NewInstance | None = None
        self.stored = 0
        self.conflicts = Conflicts(
            KeptVersions(self.storage),
            StorageArea(self.storage),
            self,
            self.ledger.conflicts,
            Clock(NOW),
            lambda: [VAULT],
        )

    def describe(self, orthanc_ids: Sequence[str]) -> list[NewInstance]:
        assert list(orthanc_ids) == [ORTHANC_ID]
        return [] if self.shown is None else [self.shown]

    def store(self, content: bytes, sender: str = "CT1") -> NewInstance:
        """Show this content, as Orthanc does, and forget the file of the one before."""
        if self.shown is not None:
            self.path(self.shown).unlink()
        self.stored += 1
        self.shown = NewInstance(
            orthanc_id=ORTHANC_ID,
            attachment_uuid=f"{self.stored:08x}-0000-0000-0000-000000000000",
            sop_instance_uid=SopInstanceUid("1.2.3.4"),
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            series_instance_uid=SeriesInstanceUid("1.2.3"),
            study_instance_uid=StudyInstanceUid("1.2"),
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            modality="CT",
            size=len(content),
            md5=hashlib.md5(content).hexdigest(),
            calling_ae_title=sender,
            called_ae_title="STANDBY",
            remote_address="192.0.2.20",
            received_at=Timestamp(NOW - 100 + self.stored),
        )
        self.path(self.shown).parent.mkdir(parents=True, exist_ok=True)
        self.path(self.shown).write_bytes(content)
        return self.shown

    def path(self, instance: NewInstance) -> Path:
        uuid = instance.attachment_uuid
        return self.storage / uuid[0:2] / uuid[2:4] / uuid

    def keep(self, instance: NewInstance, content: bytes) -> None:
        """Do what the plugin does before other bytes come."""
        folder = self.storage / "understudy" / "versions"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{instance.orthanc_id}.{instance.md5}.dcm"
        note = {
            "sop_instance_uid": instance.sop_instance_uid,
            "series_instance_uid": instance.series_instance_uid,
            "study_instance_uid": instance.study_instance_uid,
            "modality": "CT",
            "orthanc_id": instance.orthanc_id,
            "attachment_uuid": instance.attachment_uuid,
            "size": len(content),
            "md5": instance.md5,
            "metadata": {
                "RemoteAET": instance.calling_ae_title,
                "ReceptionDate": "20260302T031415",
                "TransferSyntax": instance.transfer_syntax_uid,
            },
        }
        (folder / f"{name}.json").write_text(json.dumps(note))
        (folder / name).write_bytes(content)

    def note(self, instance: NewInstance) -> None:
        self.ledger.intake.note(
            [(instance, [Debt(VAULT)], None)],
            primary=None,
            primary_grace=0,
            vaults=[VAULT],
            cursor=self.stored,
            now=NOW,
        )

    def owed(self) -> set[str]:
        """Return the MD5 of every version that is owed to the vault."""
        due = self.ledger.queue.due(VAULT, now=NOW, limit=100, max_bytes=10**9)
        return {instance.md5 for instance in due}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.ledger.close()


FIRST, SECOND = part10(b"first data set"), part10(b"second data set")


def replaced(world: World, first: bytes = FIRST, second: bytes = SECOND) -> tuple[NewInstance, NewInstance]:
    """Replace an instance before anybody noted it."""
    earlier = world.store(first, "CT1")
    world.keep(earlier, first)
    return earlier, world.store(second, "MR1")


def given_out(world: World, conflict: int, md5: str) -> bytes:
    with world.conflicts.version(conflict, md5) as (size, file):
        content = file.read()
    assert len(content) == size
    return content


def test_a_version_replaced_before_it_was_noted_reaches_ledger_and_vault(world: World) -> None:
    earlier, later = replaced(world)
    world.conflicts.step()
    assert world.ledger.instances.counts() == (0, 0), (
        "nothing is recorded before the one that replaces it is noted"
    )
    world.note(later)
    world.conflicts.step()
    assert world.owed() == {earlier.md5, later.md5}
    assert world.ledger.instances.counts() == (1, 1)
    (conflict,) = world.conflicts.conflicts(everything=False, sop_instance_uid="1.2.3.4", limit=10)
    assert (conflict.earlier.md5, conflict.earlier.sender, conflict.earlier.present) == (
        earlier.md5,
        "CT1",
        False,
    )
    assert (conflict.later.md5, conflict.later.sender, conflict.later.present) == (later.md5, "MR1", True)
    assert given_out(world, conflict.conflict, earlier.md5) == FIRST
    assert given_out(world, conflict.conflict, later.md5) == SECOND


def test_a_second_look_and_a_restart_record_nothing_twice(world: World) -> None:
    _, later = replaced(world)
    world.note(later)
    for _ in range(3):
        world.conflicts.step()
    world.conflicts = Conflicts(
        KeptVersions(world.storage),
        StorageArea(world.storage),
        world,
        world.ledger.conflicts,
        Clock(NOW),
        lambda: [VAULT],
    )
    world.conflicts.step()
    assert len(world.conflicts.conflicts(everything=True, sop_instance_uid=None, limit=10)) == 1
    assert world.ledger.events.broken() is None


def test_versions_that_have_to_wait_keep_none_behind_them(world: World) -> None:
    earlier, later = replaced(world)
    world.note(later)
    for number in range(250):
        unknown = replace(earlier, orthanc_id=f"00000000-{number:08}", md5=f"{number:032x}")
        world.keep(unknown, FIRST)
    looks = [world.conflicts.step() for _ in range(3)]
    assert looks == [True, True, False]
    assert world.owed() == {earlier.md5, later.md5}
    assert [world.conflicts.step() for _ in range(3)] == [True, True, False], "they are looked at again"


def test_a_version_replaced_after_it_was_noted_is_read_from_where_it_is_kept(world: World) -> None:
    earlier = world.store(FIRST)
    world.note(earlier)
    world.keep(earlier, FIRST)
    world.note(world.store(SECOND))
    world.conflicts.step()
    assert not world.path(earlier).exists()
    files = StorageArea(world.storage)
    assert files.read(world.ledger.conflicts.version(ORTHANC_ID, earlier.md5)) == FIRST
    assert len(world.conflicts.conflicts(everything=True, sop_instance_uid=None, limit=10)) == 1


def test_a_kept_copy_of_what_orthanc_shows_is_no_conflict(world: World) -> None:
    older = world.store(FIRST)
    world.note(older)
    present = world.store(SECOND)
    world.keep(present, SECOND)
    world.conflicts.step()
    assert world.ledger.conflicts.versions_of(ORTHANC_ID) == {older.md5: True}
    world.note(present)
    world.conflicts.step()
    assert world.ledger.conflicts.versions_of(ORTHANC_ID) == {older.md5: False, present.md5: True}


@pytest.mark.parametrize("data", [b"same", bytes(5 * 2**20)], ids=["small", "large"])
def test_other_heads_before_one_data_set_need_nobody(world: World, data: bytes) -> None:
    _, later = replaced(world, part10(data, b"head of one"), part10(data, b"another head"))
    world.note(later)
    world.conflicts.step()
    (conflict,) = world.conflicts.conflicts(everything=True, sop_instance_uid=None, limit=10)
    assert (conflict.kind, conflict.unresolved) == (ConflictKind.HEAD, False)
    assert world.conflicts.alarms() == []


def test_an_open_conflict_is_an_alarm_until_it_is_acknowledged(world: World) -> None:
    _, later = replaced(world)
    world.note(later)
    world.conflicts.step()
    (alarm,) = world.conflicts.alarms()
    assert alarm.what == "1 SOP Instance UID came here with two different contents"
    closed = world.conflicts.acknowledge("otto", 1, "the later one is right")
    assert (closed.kind, closed.unresolved, closed.acknowledged_by) == (ConflictKind.CONTENT, False, "otto")
    assert world.conflicts.alarms() == []
    assert world.conflicts.acknowledge("ada", 1, "again").acknowledged_by == "otto"


def test_one_uid_in_two_studies_is_a_conflict_of_identity(world: World) -> None:
    instance = world.store(FIRST)
    study = StudyInstanceUid("9.9")
    world.note(instance)
    world.note(
        replace(instance, orthanc_id="-".join(["fedc4321"] * 5), study_instance_uid=study, md5="f" * 32)
    )
    (conflict,) = world.conflicts.conflicts(everything=False, sop_instance_uid=None, limit=10)
    assert conflict.kind is ConflictKind.IDENTITY
    assert conflict.earlier.present
    assert conflict.later.present


def test_one_uid_of_many_patients_is_one_conflict_and_one_event_an_arrival(world: World) -> None:
    instance = world.store(FIRST)
    patients = [
        replace(
            instance,
            orthanc_id="-".join([f"{number:08x}"] * 5),
            study_instance_uid=StudyInstanceUid(f"9.{number}"),
            md5=f"{number:032x}",
        )
        for number in range(1, 31)
    ]
    world.note(instance)
    before = world.ledger.events.last()
    world.ledger.intake.note(
        [(one, [], None) for one in patients],
        primary=None,
        primary_grace=0.0,
        vaults=[VAULT],
        cursor=2,
        now=NOW,
    )
    listed = world.conflicts.conflicts(everything=False, sop_instance_uid="1.2.3.4", limit=10_000)
    assert {conflict.later.orthanc_id for conflict in listed} == {one.orthanc_id for one in patients}
    assert {conflict.earlier.orthanc_id for conflict in listed} == {ORTHANC_ID}
    assert len(listed) == len(patients)
    after = world.ledger.events.last()
    assert before is not None
    assert after is not None
    assert after.event - before.event == len(patients), "one event each"
    assert all(conflict.kind is ConflictKind.IDENTITY for conflict in listed)


def test_what_is_not_there_is_refused_with_a_hint(world: World) -> None:
    earlier, later = replaced(world)
    world.note(later)
    world.conflicts.step()
    with pytest.raises(NotFoundError, match="no conflict 99"):
        given_out(world, 99, earlier.md5)
    with pytest.raises(NotFoundError, match="no version"):
        given_out(world, 1, "0" * 32)
    with pytest.raises(NotFoundError, match="no conflict 99"):
        world.conflicts.acknowledge("otto", 99, "why not")
    kept = world.storage / "understudy" / "versions" / f"{ORTHANC_ID}.{earlier.md5}.dcm"
    kept.write_bytes(b"X" * len(FIRST))
    with pytest.raises(NotFoundError, match="cannot be read"):
        given_out(world, 1, earlier.md5)
    with pytest.raises(UnreadableFileError):
        StorageArea(world.storage).read(world.ledger.conflicts.version(ORTHANC_ID, earlier.md5))


@pytest.mark.parametrize("note", ["", "{}", "[]", '{"metadata": {}}', '{"metadata": 1}'])
def test_a_note_that_cannot_be_read_stops_no_other(world: World, note: str) -> None:
    earlier, later = replaced(world)
    (world.storage / "understudy" / "versions" / "broken.dcm").write_bytes(b"")
    (world.storage / "understudy" / "versions" / "broken.dcm.json").write_text(note)
    world.note(later)
    world.conflicts.step()
    assert earlier.md5 in world.ledger.conflicts.versions_of(ORTHANC_ID)


def test_a_version_is_owed_to_vaults_alone(world: World) -> None:
    _, later = replaced(world)
    world.note(later)
    world.conflicts.step()
    rows = world.ledger.obligations.listed(None, None, 100)
    assert [(row.holder, row.state) for row in rows] == [(VAULT, ObligationState.OWED)] * 2


def test_judging_needs_the_same_syntax_and_a_readable_head() -> None:
    assert judge("same", "same", same_syntax=True) is ConflictKind.HEAD
    assert judge("same", "same", same_syntax=False) is ConflictKind.CONTENT
    assert judge("same", "other", same_syntax=True) is ConflictKind.CONTENT
    assert judge(None, None, same_syntax=True) is ConflictKind.CONTENT
    assert dataset_at(part10(b"")) == len(part10(b""))
    assert dataset_at(b"\0" * 200) is None
    assert dataset_at(b"") is None
