"""What status, health and promotion say beside what is so, with primaries of every habit that was met.

Rule 1: a standby never says that it is complete while an image of the primary is missing.
Rule 2: it never says that a primary is down that answers.
"""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from understudy.core.views import GapSide, PrimaryCondition, Sign, Tone

from tests.contract.truth import LOOK, Standby, standing_by
from tests.peer.pacs import ForeignPacs, Habits, Kept
from tests.unit.fakes import NOW

# pynetdicom drops the socket of a connection that failed without closing it; CPython closes it then.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

TODAY = datetime.fromtimestamp(NOW, UTC).strftime("%Y%m%d")


def images(study: str, *names: int, date: str = "20200101") -> list[Kept]:
    return [Kept(study, f"{study}.1", f"{study}.1.{name}", date) for name in names]


HISTORY = [image for number in range(1, 7) for image in images(f"1.2.{number}", 1, 2, 3)]
"""18 images of 6 studies."""


@pytest.fixture
def pacs() -> Iterator[ForeignPacs]:
    with ForeignPacs(kept=list(HISTORY)) as found:
        yield found


@pytest.fixture
def standby(tmp_path: Path, pacs: ForeignPacs) -> Iterator[Standby]:
    with standing_by(tmp_path, pacs) as found:
        yield found


@pytest.mark.parametrize(
    ("habits", "complete"),
    [
        (Habits(), True),
        (Habits(count="none"), True),
        (Habits(count="zero"), True),
        # Moved, but nobody can say whether that was all.
        (Habits(lists_images=False), False),
        (Habits(count="none", lists_images=False), False),
        (Habits(count="zero", lists_images=False), False),
    ],
    ids=["counts", "no count", "count 0", "no images", "no images, no count", "no images, count 0"],
)
def test_history_is_mirrored_whatever_is_counted_and_complete_only_where_it_was_compared(
    standby: Standby, pacs: ForeignPacs, habits: Habits, *, complete: bool
) -> None:
    pacs.habits = habits
    for _ in range(8):
        standby.works()
    assert standby.missing == 0
    assert standby.says_complete() is complete
    assert ("this standby cannot compare" in " ".join(standby.alarms())) is not complete
    assert (standby.health() == []) is complete
    # A new study and a new image of an old one.
    standby.works(LOOK)
    pacs.kept += [*images("1.2.7", 1, 2, date=TODAY), *images("1.2.1", 4)]
    standby.works(2 * LOOK)
    if complete or habits.count == "true":
        assert standby.missing == 0
    assert standby.says_complete() is complete
    pacs.stop()
    try:
        standby.works(60)
        assert standby.status().primary.condition is PrimaryCondition.DOWN  # type: ignore[union-attr]
        if not complete:
            assert any("nobody knows how many images" in line for line in standby.promote())
            assert standby.health()[0].startswith("no comparison with the primary has been completed")
    finally:
        pacs.start()


@pytest.mark.parametrize("count", ["true", "none", "zero"])
def test_image_that_came_for_one_that_went_is_here_after_the_next_rounds(
    standby: Standby, pacs: ForeignPacs, count: str
) -> None:
    pacs.behaves(count=count)
    pacs.kept += images("1.2.9", 1, 2, date=TODAY)
    standby.works(60)
    assert standby.missing == 0
    pacs.kept = [one for one in pacs.kept if one.sop_instance_uid != "1.2.9.1.1"]
    pacs.kept += images("1.2.9", 3, date=TODAY)
    standby.works(LOOK + 60)
    assert standby.missing == 0
    assert standby.says_complete()
    assert standby.status().departed == 1


@pytest.mark.parametrize("status", [0xA700, 0xFE00, 0xC001])
def test_list_that_ends_early_is_used_the_rest_is_asked_for_and_the_alarm_is_steady(
    standby: Standby, pacs: ForeignPacs, status: int
) -> None:
    pacs.kept = [
        image
        for number in range(10)
        for image in images(f"1.2.{number}", 1, date=f"20200{1 + number // 4}{1 + number % 4:02}")
    ]
    pacs.behaves(most_studies=8, cut_status=status)
    standby.works()
    since = {alarm.since for alarm in standby.status().alarms if "list of studies is cut" in alarm.what}
    for _ in range(6):
        standby.works()
        (alarm,) = [one for one in standby.status().alarms if "list of studies is cut" in one.what]
        assert {alarm.since} == since
        assert f"it ended after 8 studies, it answered C-FIND with status 0x{status:04X}" in alarm.what
        assert "asked by date it lists 10" in alarm.what
    assert standby.missing == 0
    assert standby.status().horizon is None
    pacs.behaves(most_studies=None)
    standby.works(LOOK)
    assert standby.status().horizon is not None
    assert standby.alarms() == []


def test_primary_whose_days_are_cut_too_is_mirrored_as_far_as_it_lists(
    standby: Standby, pacs: ForeignPacs
) -> None:
    pacs.kept = [image for number in range(9) for image in images(f"1.2.{number}", 1, date=TODAY)]
    pacs.behaves(most_studies=6)
    standby.works(60)
    assert standby.missing == 3
    assert any("asked by date it lists 6 and ends early again" in what for what in standby.alarms())
    assert (standby.status().horizon, standby.says_complete()) == (None, False)


@pytest.mark.parametrize(
    ("habits", "condition", "sign", "words"),
    [
        (
            Habits(find_status=0xC001),
            PrimaryCondition.REFUSES,
            Sign.REFUSES,
            "C-FIND it answered C-FIND with status 0xC001",
        ),
        (Habits(find_status=0xA900), PrimaryCondition.REFUSES, Sign.REFUSES, "0xA900"),
        (Habits(queries=False), PrimaryCondition.REFUSES, Sign.REFUSES, "it does not offer us this service"),
        (Habits(rejects=True), PrimaryCondition.REFUSES, Sign.REFUSES, "calling AE title not recognised"),
        (Habits(associations=0), PrimaryCondition.BUSY, Sign.BUSY, "local limit exceeded"),
    ],
    ids=["no right to query", "queries fail", "no query service", "rejects us", "no association free"],
)
def test_primary_that_answers_and_does_not_serve_us_is_not_down(
    standby: Standby, pacs: ForeignPacs, habits: Habits, condition: PrimaryCondition, sign: Sign, words: str
) -> None:
    pacs.habits = habits
    for _ in range(6):
        standby.works()
        status = standby.status()
        assert status.primary is not None
        assert status.primary.condition in (PrimaryCondition.UNKNOWN, condition)
        assert status.primary.evidence[0].sign is sign
        assert not any("understudy promote" in alarm.hint for alarm in status.alarms)
        assert not standby.says_complete()
    (alarm,) = [one for one in standby.status().alarms if one.what.startswith("the primary works, but it ")]
    assert words in alarm.what
    assert "at the PACS" in alarm.hint
    assert standby.status().tone is Tone.WARN
    assert any(line.startswith("the primary answers") for line in standby.promote())
    # It is mended, and then it dies.
    pacs.habits = Habits()
    standby.works(120)
    assert standby.missing == 0
    assert standby.alarms() == []


def test_primary_of_one_association_is_up_while_our_own_pull_has_it(
    standby: Standby, pacs: ForeignPacs
) -> None:
    pacs.behaves(associations=1)
    seen: list[PrimaryCondition] = []

    def probe_meanwhile() -> None:
        standby.clock.advance(10)
        standby.probe()
        seen.append(standby.parts.prober.health.condition)

    standby.works(20)
    standby.receiver.during_a_store = probe_meanwhile
    pacs.kept += images("1.2.9", *range(1, 9), date=TODAY)
    standby.works(2 * LOOK)
    assert len(seen) >= 8
    assert set(seen) == {PrimaryCondition.UP}
    assert {probe.sign for probe in standby.parts.prober.health.evidence} <= {Sign.ANSWERS, Sign.WORKS}
    assert standby.missing == 0


def test_standby_that_never_compared_says_so_everywhere(standby: Standby, pacs: ForeignPacs) -> None:
    pacs.behaves(most_studies=2, lists_images=False)
    standby.works(60)
    pacs.stop()
    try:
        standby.works(60)
        status = standby.status()
        assert (status.horizon, status.lag_seconds, status.loss_seconds) == (None, None, None)
        assert status.alarms[0].what.startswith("the primary is down")
        assert status.tone is Tone.BAD
        assert standby.health(1e9) != []
        assert any(
            "nobody knows how many images of the primary are missing" in one for one in standby.promote()
        )
    finally:
        pacs.start()


def test_age_of_the_horizon_grows_while_the_primary_is_down_and_the_loss_does_not(
    standby: Standby, pacs: ForeignPacs
) -> None:
    standby.works(60)
    assert standby.missing == 0
    pacs.stop()
    try:
        standby.works(60)
        first = standby.status()
        standby.works(3600)
        later = standby.status()
    finally:
        pacs.start()
    assert first.horizon == later.horizon
    assert first.primary is not None
    assert later.primary is not None
    assert first.primary.last_seen == later.primary.last_seen
    assert later.lag_seconds == pytest.approx(first.lag_seconds + 3600)  # type: ignore[operator]
    assert later.loss_seconds == first.loss_seconds
    assert later.loss_seconds is not None
    assert later.loss_seconds <= 120
    assert standby.health() == [], "a standby of a dead primary gets no closer to it"


def test_uid_in_two_series_is_here_twice_and_named(standby: Standby, pacs: ForeignPacs) -> None:
    standby.works(60)
    pacs.kept.append(replace(pacs.kept[0], series="1.2.1.2"))
    standby.works(LOOK + 60)
    assert standby.missing == 0
    assert standby.status().instances == 19
    assert "the primary has one SOP Instance UID in two series, in 1 study" in standby.alarms()
    horizon = standby.status().horizon
    standby.works(LOOK)
    assert standby.status().horizon > horizon  # type: ignore[operator]


def test_gaps_and_departures_are_listed_with_their_reasons(standby: Standby, pacs: ForeignPacs) -> None:
    standby.works(60)
    assert standby.appliance.gaps(10) == []
    standby.receiver.close()
    pacs.kept += images("1.2.8", 1, 2, date=TODAY)
    pacs.kept.remove(HISTORY[0])
    standby.clock.advance(LOOK)
    standby.works(30)
    found = [
        (one.study_instance_uid, one.missing, one.instances, one.reason) for one in standby.appliance.gaps(10)
    ]
    assert sorted(found) == [
        ("1.2.1", GapSide.PRIMARY, 1, ""),
        ("1.2.8", GapSide.HERE, 2, "it answered C-MOVE with status 0xA801, and 2 images have not come"),
    ]
    assert len(standby.appliance.gaps(1)) == 1


def test_images_that_come_after_the_answer_to_a_move_are_waited_for_and_asked_for_once(
    standby: Standby, pacs: ForeignPacs
) -> None:
    pacs.behaves(late=0.02)
    standby.works(60)
    assert standby.missing == 0
    assert pacs.moved == ["STUDY"] * 6
    assert standby.alarms() == []


def test_move_that_says_success_and_brings_nothing_is_an_alarm_with_its_cause(
    standby: Standby, pacs: ForeignPacs
) -> None:
    pacs.behaves(moves=False)
    standby.works(20)
    assert standby.missing == len(HISTORY)
    (alarm,) = [one for one in standby.status().alarms if "does not send" in one.what]
    assert "it answered C-MOVE with success, and 3 images have not come" in alarm.what
    assert set(pacs.moved) == {"STUDY"}
    assert "check that it knows the AE title UNDERSTUDY" in alarm.hint
    assert standby.appliance.gaps(1)[0].reason.startswith("it answered C-MOVE with success")
