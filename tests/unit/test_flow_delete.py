"""Deletion as an event: who, what, when; refused while it is not safe elsewhere; counts true afterwards."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from understudy.core.deletion import Deletion
from understudy.core.errors import NotFoundError, PreconditionError, RefusedError
from understudy.core.model import HolderName, InstanceNumber, NewInstance, StudyInstanceUid
from understudy.core.obligations import ObligationState
from understudy.core.ports import HolderUnavailableError, OrthancUnavailableError
from understudy.core.rules import Rules
from understudy.flow.delete import UNKNOWN, Deleter, Doubts
from understudy.flow.note import Noter
from understudy.ledger import RESCAN, Ledger
from understudy.ledger.deletions import IS_HELD
from understudy.ledger.schema import instances

from tests.unit.fakes import (
    NOW,
    PRIMARY,
    PRIMARY_AE,
    PROOF,
    STUDY,
    VAULT,
    Clock,
    CrashError,
    FakeFeed,
    crash_after,
    new_instance,
    numbers_of,
    router_of,
)
from tests.unit.world import World, uid

OTHER = StudyInstanceUid("1.2.4")
ALL = Deletion(STUDY)


class Archive(FakeFeed):
    """Orthanc that deletes, or breaks off in the middle of it."""

    def __init__(self) -> None:
        super().__init__()
        self.breaks_after: int | None = None
        self.lists = True
        self.error: Exception = OrthancUnavailableError("it ended")
        self.while_deleting: Callable[[], None] = lambda: None

    def held(self) -> int:
        return len(self.identifiers(0, 1000))

    def listed(self, orthanc_ids: Sequence[str]) -> set[str]:
        if not self.lists:
            raise self.error
        return set(orthanc_ids) & set(self.identifiers(0, 1000))

    def delete_all(self, orthanc_ids: Sequence[str]) -> None:
        self.while_deleting()
        for number, one in enumerate(orthanc_ids):
            if number == self.breaks_after:
                raise self.error
            self.gone.add(one)


class Bench:
    """Five instances of a study and two of another, noted and owed to a vault."""

    def __init__(self, path: Path) -> None:
        self.orthanc, self.clock = Archive(), Clock()
        self.index = (1.0, "first")
        self.ledger = Ledger(path)
        self.ledger.modes.start(NOW)
        self.noter = Noter(
            self.orthanc,
            self.ledger,
            router_of(Rules(None, frozenset({PRIMARY_AE}), [VAULT], [], {}), self.ledger),
            self.clock,
            primary_grace=60,
            index=lambda: self.index,
        )
        self.doubt = ""
        """Why the vault may not have any more what it was proven to have."""
        self.doubts: Doubts = {VAULT: lambda _study: self.doubt}
        self.start()
        self.orthanc.store(*(image(number) for number in range(5)))
        self.orthanc.store(*(image(number, OTHER) for number in (5, 6)))
        self.noter.catch_up()

    def start(self) -> None:
        """Begin to look as after a start of the agent."""
        self.deleter = Deleter(self.ledger, self.orthanc, self.noter, self.clock, self.doubts)

    def agree(self) -> None:
        """See that Orthanc, the counts and what is owed for the study tell the same."""
        assert self.ledger.instances.counts()[0] == self.orthanc.held()
        there = self.orthanc.listed([image(number).orthanc_id for number in range(5)])
        states = self.ledger.obligations.of_study(VAULT, STUDY)
        for one in self.ledger.instances.of_study(STUDY):
            expected = ObligationState.OWED if one.orthanc_id in there else ObligationState.WAIVED
            assert states[one.number] in (expected, ObligationState.PROVEN), one.orthanc_id

    def prove(self, *numbers: int) -> None:
        known = numbers_of(self.ledger)
        self.ledger.custody.find(VAULT, dict.fromkeys([known[number] for number in numbers], PROOF), now=NOW)

    def look(self) -> None:
        """Look as often as it takes for what does not move to be compared."""
        for _ in range(3):
            self.deleter.step()

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        with self.ledger.database.reading() as connection:
            rows = connection.exec_driver_sql("SELECT who, fields FROM events WHERE kind = 'delete'").all()
        return [(who, json.loads(fields)) for who, fields in rows]

    def tally(self) -> dict[ObligationState, int]:
        return self.ledger.obligations.tally()[VAULT]


def image(number: int, study: StudyInstanceUid = STUDY, attachment: str = "") -> NewInstance:
    """Return an instance whose file has a name as Orthanc gives it: the ledger keeps those as bytes."""
    name = attachment or f"00000000-0000-4000-8000-{number:012}"
    return new_instance(number, study=study, attachment=name)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path / "ledger.sqlite")
    yield found
    assert found.ledger.events.broken() is None
    found.ledger.close()


def test_delete_is_refused_while_anything_is_owed_and_changes_nothing(bench: Bench) -> None:
    bench.prove(0, 1)
    with pytest.raises(PreconditionError) as refused:
        bench.deleter.delete("ada", ALL, reason="a full disk", force=False)
    assert list(refused.value.details) == [
        "3 images are owed to nas or not proven there yet",
        "3 images are proven at no other holder and would be lost",
    ]
    assert (bench.ledger.instances.counts(), bench.events(), bench.orthanc.gone) == ((7, 2), [], set())


def test_delete_of_what_is_proven_elsewhere_is_one_event_and_counts_are_true(bench: Bench) -> None:
    bench.prove(*range(5))
    view = bench.deleter.delete("ada", ALL, reason="a full disk", force=False)
    assert (view.instances, view.proven, view.unsettled) == (5, {VAULT: 5}, {})
    assert bench.ledger.instances.counts() == (2, 1)
    ((who, told),) = bench.events()
    assert who == "ada"
    assert (told["study"], told["instances"], told["reason"]) == (STUDY, 5, "a full disk")
    assert (told["forced"], told["proven"], told["alone"]) == (False, {VAULT: 5}, 0)
    assert len(told["sop_instance_uids"]) == 5
    # The scrub reads what is held, and nothing is found missing.
    assert len(bench.ledger.instances.after(InstanceNumber(0), 100)) == 2
    assert bench.ledger.files.damages(limit=10) == []
    bench.noter.catch_up()
    bench.look()
    assert len(bench.events()) == 1
    assert bench.ledger.operations.latest(RESCAN) is None


def test_each_study_that_is_emptied_is_counted_off(bench: Bench) -> None:
    bench.orthanc.store(image(7, StudyInstanceUid("1.2.5")))
    bench.noter.catch_up()
    for study, left in ((STUDY, (3, 2)), (OTHER, (1, 1)), (StudyInstanceUid("1.2.5"), (0, 0))):
        bench.deleter.delete("ada", Deletion(study), reason="a full disk", force=True)
        assert bench.ledger.instances.counts() == left


def test_what_a_doubted_holder_was_proven_to_have_is_deleted_by_force_alone(bench: Bench) -> None:
    bench.prove(*range(5))
    bench.doubt = "it no longer lists 2 instances of the study"
    with pytest.raises(PreconditionError) as refused:
        bench.deleter.delete("ada", ALL, reason="a full disk", force=False)
    assert list(refused.value.details) == [
        "5 images are proven at no other holder and would be lost",
        "5 images were proven at nas, but such a proof does not count now: "
        "it no longer lists 2 instances of the study",
    ]
    assert (bench.ledger.instances.counts(), bench.events(), bench.orthanc.gone) == ((7, 2), [], set())
    view = bench.deleter.delete("ada", ALL, reason="a full disk", force=True)
    assert (view.instances, view.proven) == (5, {})
    ((_, told),) = bench.events()
    assert (told["proven"], told["doubted"], told["alone"]) == ({}, {VAULT: 5}, 5)


def test_what_a_holder_that_is_not_configured_any_more_was_proven_to_have_does_not_count(
    bench: Bench,
) -> None:
    bench.prove(*range(5))
    deleter = Deleter(bench.ledger, bench.orthanc, bench.noter, bench.clock, {})
    with pytest.raises(PreconditionError) as refused:
        deleter.delete("ada", ALL, reason="a full disk", force=False)
    assert any("not configured any more" in line for line in refused.value.details)


def test_doubt_about_one_holder_does_not_matter_where_another_one_has_it(bench: Bench) -> None:
    bench.prove(*range(5))
    known = numbers_of(bench.ledger)[:5]
    other = HolderName("cloud")
    bench.ledger.intake.owe_all(other, now=NOW)
    bench.ledger.custody.find(other, dict.fromkeys(known, PROOF), now=NOW)
    deleter = Deleter(
        bench.ledger,
        bench.orthanc,
        bench.noter,
        bench.clock,
        {VAULT: lambda _study: "it lost them", other: lambda _study: ""},
    )
    view = deleter.delete("ada", ALL, reason="a full disk", force=False)
    assert (view.instances, view.proven) == (5, {other: 5})


@pytest.mark.parametrize(
    "happens", ["nothing", "dropped", "replaced", "cut", "failed", "never compared", "no answer"]
)
def test_last_copy_of_what_the_primary_may_have_lost_is_not_deleted(tmp_path: Path, happens: str) -> None:
    world = World(tmp_path / "ledger.sqlite")
    world.forwarded(1, 2)
    world.mirror.step()
    if happens == "dropped":
        world.peer.lose(STUDY, uid(1), uid(2))
    elif happens == "replaced":
        world.peer.lose(STUDY, uid(1))
        world.peer.keep(STUDY, uid(3))
    elif happens == "cut":
        world.peer.cut = "500 studies, a round number"
    elif happens == "failed":
        world.peer.silent = True
    elif happens == "no answer":
        world.peer.capped = {STUDY}
        world.peer.counts = False
    if happens == "never compared":
        world.restart()
    else:
        with suppress(HolderUnavailableError):
            world.mirror.step(believe_departures=True)
    deleter = Deleter(
        world.ledger, Archive(), world.noter, world.clock, {PRIMARY: lambda study: world.mirror.doubt(study)}
    )
    if happens == "nothing":
        assert deleter.delete("ada", ALL, reason="a full disk", force=False).proven == {PRIMARY: 2}
    else:
        with pytest.raises(PreconditionError) as refused:
            deleter.delete("ada", ALL, reason="a full disk", force=False)
        assert any("does not count now: the primary" in line for line in refused.value.details)
    world.ledger.close()


@pytest.mark.parametrize(
    ("what", "number"),
    [
        (Deletion(STUDY, series_instance_uid="1.2.3.1"), 5),
        (Deletion(STUDY, sop_instance_uids=[image(1).sop_instance_uid]), 1),
    ],
)
def test_delete_of_a_part_deletes_that_alone(bench: Bench, what: Deletion, number: int) -> None:
    bench.prove(*range(5))
    held = [one for one in bench.orthanc.stored if one.study_instance_uid == STUDY]
    series = {one.series_instance_uid for one in held}
    if what.series_instance_uid is not None:
        what = Deletion(STUDY, series_instance_uid=series.pop())
    assert bench.deleter.delete("ada", what, reason="wrong patient", force=False).instances == number
    assert bench.ledger.instances.counts()[0] == 7 - number


def test_forced_delete_gives_up_what_it_was_owed_and_says_so(bench: Bench) -> None:
    bench.prove(0)
    bench.deleter.delete("ada", ALL, reason="a test object", force=True)
    assert bench.ledger.instances.counts() == (2, 1)
    assert bench.tally() == {
        ObligationState.OWED: 2,
        ObligationState.PROVEN: 1,
        ObligationState.WAIVED: 4,
    }
    ((_, told),) = bench.events()
    assert (told["forced"], told["unsettled"], told["alone"]) == (True, {VAULT: 4}, 4)


def test_delete_without_a_reason_or_of_nothing_is_refused(bench: Bench) -> None:
    with pytest.raises(RefusedError):
        bench.deleter.delete("ada", ALL, reason=" ", force=True)
    with pytest.raises(NotFoundError):
        bench.deleter.delete("ada", Deletion(StudyInstanceUid("9.9")), reason="x", force=True)
    bench.deleter.delete("ada", ALL, reason="x", force=True)
    with pytest.raises(NotFoundError):
        bench.deleter.delete("ada", ALL, reason="x", force=True)


def test_what_arrives_during_a_deletion_stays(bench: Bench) -> None:
    bench.prove(*range(5))
    late = image(7)
    bench.orthanc.while_deleting = lambda: bench.orthanc.store(late)
    bench.deleter.delete("ada", ALL, reason="x", force=False)
    bench.noter.catch_up()
    assert late.orthanc_id not in bench.orthanc.gone
    assert bench.ledger.instances.counts() == (3, 2)


def test_what_was_stored_just_before_is_noted_first_and_stands_against_it(bench: Bench) -> None:
    bench.prove(*range(5))
    bench.orthanc.store(image(7))
    with pytest.raises(PreconditionError):
        bench.deleter.delete("ada", ALL, reason="x", force=False)


def test_what_is_stored_again_is_held_again_and_owed_what_was_given_up(bench: Bench) -> None:
    bench.prove(0)
    bench.deleter.delete("ada", ALL, reason="x", force=True)
    bench.orthanc.gone.clear()
    bench.orthanc.store(
        *(image(number, attachment=f"11111111-0000-4000-8000-{number:012}") for number in range(5))
    )
    bench.noter.catch_up()
    assert bench.ledger.instances.counts() == (7, 2)
    bench.look()
    assert len(bench.events()) == 1
    assert bench.tally() == {ObligationState.OWED: 6, ObligationState.PROVEN: 1}


def test_what_a_rescan_finds_after_a_forced_deletion_is_owed_again(bench: Bench) -> None:
    bench.prove(0)
    bench.deleter.delete("ada", ALL, reason="x", force=True)
    # An earlier copy of the index was put back, and lists it.
    files = [image(number).attachment_uuid for number in range(5)]
    bench.ledger.files.compared(files, [], NOW)
    assert bench.tally() == {ObligationState.OWED: 6, ObligationState.PROVEN: 1}


def test_what_a_person_waived_before_a_deletion_that_failed_stays_waived(bench: Bench) -> None:
    bench.ledger.dead_letters.waive(VAULT, [image(1).sop_instance_uid], "a test object", "ada", NOW)
    bench.orthanc.breaks_after = 0
    with pytest.raises(OrthancUnavailableError):
        bench.deleter.delete("ada", ALL, reason="x", force=True)
    assert bench.tally() == {ObligationState.OWED: 6, ObligationState.WAIVED: 1}


@pytest.mark.parametrize("answers", [True, False])
def test_forced_deletion_that_breaks_off_gives_up_only_what_is_gone(bench: Bench, answers: bool) -> None:
    bench.prove(0)
    bench.orthanc.breaks_after = 2
    bench.orthanc.lists = answers
    with pytest.raises(OrthancUnavailableError):
        bench.deleter.delete("ada", ALL, reason="x", force=True)
    bench.orthanc.lists = True
    bench.look()
    bench.agree()
    # The second try ends what the first began.
    bench.orthanc.breaks_after = None
    assert bench.deleter.delete("ada", ALL, reason="x", force=True).instances == 3
    bench.agree()
    assert bench.ledger.instances.counts()[0] == 2


@pytest.mark.parametrize("done", range(6))
def test_crash_while_orthanc_deletes_gives_up_only_what_is_gone(bench: Bench, done: int) -> None:
    bench.prove(0)
    bench.orthanc.breaks_after, bench.orthanc.error = done, CrashError("in the middle")
    if done < 5:
        with pytest.raises(CrashError):
            bench.deleter.delete("ada", ALL, reason="x", force=True)
    else:
        bench.deleter.delete("ada", ALL, reason="x", force=True)
    bench.start()
    bench.look()
    bench.agree()
    assert bench.ledger.instances.counts()[0] == 7 - done


def test_deletion_that_breaks_off_leaves_what_is_here_held(bench: Bench) -> None:
    bench.prove(*range(5))
    bench.orthanc.breaks_after = 2
    with pytest.raises(OrthancUnavailableError):
        bench.deleter.delete("ada", ALL, reason="x", force=False)
    assert bench.ledger.instances.counts()[0] == bench.orthanc.held() == 5


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_crash_after_any_write_of_a_deletion_ends_with_a_true_ledger(
    tmp_path: Path, force: bool, fails: bool
) -> None:
    for point in range(1, 120):
        folder = tmp_path / str(point)
        folder.mkdir()
        bench = Bench(folder / "ledger.sqlite")
        bench.prove(*((0,) if force else range(5)))
        bench.orthanc.breaks_after = 2 if fails else None
        ended = False
        try:
            with crash_after(bench.ledger, point):
                try:
                    bench.deleter.delete("ada", ALL, reason="x", force=force)
                except OrthancUnavailableError:
                    assert fails
                ended = True
        except CrashError:
            pass
        bench.start()
        bench.look()
        bench.agree()
        bench.ledger.close()
        if ended:
            return
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("deleted", [[6], [0, 1, 2, 3, 4], list(range(7))])
def test_deletion_past_us_is_one_event_by_unknown_and_no_rescan(bench: Bench, deleted: list[int]) -> None:
    bench.orthanc.gone |= {image(number).orthanc_id for number in deleted}
    bench.look()
    ((who, told),) = bench.events()
    assert (who, told["instances"]) == (UNKNOWN, len(deleted))
    assert bench.ledger.instances.counts()[0] == bench.orthanc.held() == 7 - len(deleted)
    bench.look()
    bench.noter.catch_up()
    assert len(bench.events()) == 1
    assert bench.ledger.operations.latest(RESCAN) is None
    # What it is owed waits for a person: nobody decided to give it up.
    assert bench.tally() == {ObligationState.OWED: 7}


def test_what_moves_is_not_compared_so_that_one_act_is_one_event(bench: Bench) -> None:
    for number in range(3):
        bench.orthanc.gone.add(image(number).orthanc_id)
        bench.deleter.step()
    assert bench.events() == []
    bench.look()
    ((_, told),) = bench.events()
    assert told["instances"] == 3


def test_replaced_index_is_the_rescans_and_no_deletion(bench: Bench) -> None:
    bench.orthanc.stored.clear()
    bench.index = (2.0, "another")
    bench.look()
    assert bench.events() == []
    bench.noter.catch_up()
    bench.look()
    assert bench.events() == []
    assert bench.ledger.operations.latest(RESCAN, running=True) is not None


def test_instances_that_are_not_noted_yet_are_no_difference(bench: Bench) -> None:
    bench.prove(*range(5))
    bench.deleter.delete("ada", ALL, reason="x", force=False)
    bench.orthanc.store(image(8), image(9))
    bench.look()
    assert bench.ledger.instances.counts()[0] == 2
    bench.noter.catch_up()
    bench.look()
    assert bench.ledger.instances.counts()[0] == 4
    assert len(bench.events()) == 1


def test_question_for_what_is_held_looks_each_file_up_by_its_name(bench: Bench) -> None:
    with bench.ledger.database.reading() as connection:
        query = select(instances.c.number).where(IS_HELD)
        text = query.compile(connection, compile_kwargs={"literal_binds": True})
        steps = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")]
    by_name = "damages USING INDEX sqlite_autoindex_damages_1 (attachment_uuid=?)"
    assert any(by_name in step for step in steps), steps


def test_vault_that_is_named_later_is_not_owed_what_is_gone(bench: Bench) -> None:
    bench.prove(*range(5))
    bench.deleter.delete("ada", ALL, reason="x", force=False)
    later = HolderName("cloud")
    assert bench.ledger.intake.owe_all(later, now=NOW) == 2
    assert bench.ledger.intake.owe_all(later, now=NOW) == 0
    bench.orthanc.store(image(8))
    bench.noter.catch_up()
    assert bench.ledger.intake.owe_all(later, now=NOW) == 1
