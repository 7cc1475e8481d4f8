"""A night without an archive: nothing is lost, nobody storms its door, and what is urgent comes first."""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from understudy.core.model import HolderName, Instance, InstanceNumber, Proof, Timestamp
from understudy.core.rules import Debt, Priority
from understudy.flow.courier import Lane, LanePolicy
from understudy.ledger import Ledger

from tests.unit.fakes import NOW, Clock, FakeHolder, new_instance, unproven

HOUR = 3600.0
NIGHT = 12 * HOUR
ARRIVAL = 15 * 60.0
"""Seconds from one study to the next."""
STEP, SELDOM = 5.0, 60.0
"""Seconds from one look of the lanes at the clock to the next, and in a night in which nothing happens."""
CAP = 300.0
HOLDERS = [HolderName(f"archive-{number}") for number in range(4)]
"""Destinations of one PACS, which goes away with all of them."""
PRIORITIES = [Priority.LOW, Priority.MEDIUM, Priority.HIGH]
INSTANCES_OF_A_STUDY = 5


@dataclass
class Archive(FakeHolder):
    """A holder that writes down when it was asked anything."""

    clock: Clock = field(default_factory=Clock)
    attempts: list[float] = field(default_factory=list)

    def find(self, instances: Sequence[Instance]) -> Mapping[InstanceNumber, Proof]:
        self.attempts.append(self.clock.now() - NOW)
        return super().find(instances)


class Night:
    """A lane to each archive, all of them away, and studies of three priorities in turn."""

    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.ledger.modes.start(NOW)
        self.archives = [Archive(name=holder, clock=self.clock, away=True) for holder in HOLDERS]
        policy = LanePolicy(500, 10**9, linger=0.0, retry_base=1.0, retry_cap=CAP)
        fraction = random.Random(1).random
        self.lanes = [
            Lane(archive, self.ledger, self.clock, policy, is_open=lambda: True, fraction=fraction)
            for archive in self.archives
        ]
        self.urgency: dict[str, Priority] = {}
        """By SOP Instance UID, in the order in which they came."""

    def receive(self) -> None:
        """Let one study come, of the next priority in turn."""
        first = len(self.urgency)
        priority = PRIORITIES[first // INSTANCES_OF_A_STUDY % len(PRIORITIES)]
        study = f"1.2.3.{first}"
        come = [new_instance(first + one, study=study) for one in range(INSTANCES_OF_A_STUDY)]
        debts = [Debt(holder, priority) for holder in HOLDERS]
        self.ledger.intake.note(
            [(instance, debts, None) for instance in come],
            primary=None,
            primary_grace=0,
            vaults=[],
            cursor=1,
            now=self.clock.now(),
        )
        self.urgency |= {instance.sop_instance_uid: priority for instance in come}

    def pass_time(self, seconds: float, step: float = STEP) -> None:
        """Let the lanes work, and studies come at their times."""
        end = self.clock.now() + seconds
        while self.clock.now() < end:
            if (self.clock.now() - NOW) % ARRIVAL == 0 and self.clock.now() - NOW < NIGHT:
                self.receive()
            for lane in self.lanes:
                while lane.step():
                    pass
            self.clock.advance(step)


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    found = Night(tmp_path)
    yield found
    found.ledger.close()


def test_archive_that_is_away_for_a_night_gets_everything_in_order_of_priority_without_a_storm(
    night: Night,
) -> None:
    night.pass_time(NIGHT, SELDOM)
    away = [list(archive.attempts) for archive in night.archives]
    assert all(archive.delivered == [] for archive in night.archives)
    for archive in night.archives:
        archive.away = False
    night.pass_time(CAP + STEP)

    print_attempts(away)
    # Everything has arrived, with a proof, and not one instance was blamed for the night.
    owed = len(night.urgency)
    assert owed == NIGHT / ARRIVAL * INSTANCES_OF_A_STUDY
    for holder in HOLDERS:
        views = night.ledger.obligations.listed(holder, None, 1000)
        assert Counter(view.state.value for view in views) == {"proven": owed}
        assert {view.attempts for view in views} == {0}
    assert unproven(night.ledger) == []
    # The urgent first, and each priority in the order in which it came.
    expected = sorted(night.urgency, key=lambda uid: -night.urgency[uid])
    assert [archive.delivered for archive in night.archives] == [expected] * len(HOLDERS)
    # No storm: each archive was asked by one lane, seldom, and no two hours differ by much.
    for attempts in away:
        by_hour = Counter(int(at // HOUR) for at in attempts)
        assert all(HOUR / CAP <= by_hour[hour] <= 2 * HOUR / CAP for hour in range(1, 12))
    # Nor do they come back together: each with one instance, and not all at one time.
    returns = [next(at for at in archive.attempts if at >= NIGHT) for archive in night.archives]
    assert len(set(returns)) == len(HOLDERS)
    assert [archive.asked[0] for archive in night.archives] == [1] * len(HOLDERS)


def print_attempts(away: Sequence[Sequence[float]]) -> None:
    """Print how often each archive was asked in each hour of the night."""
    print("attempts per hour of the night:", *(f"{hour:3}" for hour in range(1, 13)))
    for holder, attempts in zip(HOLDERS, away, strict=True):
        by_hour = Counter(int(at // HOUR) for at in attempts)
        print(f"{holder:>31}", *(f"{by_hour[hour]:3}" for hour in range(12)))


def test_study_that_comes_while_the_backlog_is_sent_takes_its_turn(night: Night) -> None:
    night.pass_time(2 * ARRIVAL)
    low, medium = list(night.urgency)[:5], list(night.urgency)[5:10]
    archive, lane = night.archives[0], night.lanes[0]
    archive.away = False
    night.clock.advance(CAP)
    assert lane.step()
    assert archive.delivered == medium[:1]
    night.receive()
    high = list(night.urgency)[10:15]
    while lane.step():
        pass
    assert archive.delivered == [medium[0], *high, *medium[1:], *low]
    assert night.clock.now() < Timestamp(NOW + HOUR)
