"""What the agent held when it was killed: alone the next time, parked after the second, the others go on.

The kills are real ones, of a process of its own: nothing that stands in a `finally` runs.
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from understudy.core.model import Delivery, HolderName, Instance, InstanceNumber
from understudy.core.obligations import ObligationState, Selection
from understudy.core.refusals import ENDED_US
from understudy.flow.courier import Lane, LanePolicy
from understudy.flow.suspects import Suspects
from understudy.ledger import Ledger

from tests.unit.fakes import NOW, ROUTE, STUDY, Clock, FakeHolder, new_instance, note, numbers_of

BIG = InstanceNumber(4)
BOOT = "b0"
"""This run of the host."""
POLICY = LanePolicy(10, 10**9, 0, retry_base=1, retry_cap=10)


class Fatal(FakeHolder):
    """A holder whose library ends the process on one instance; batches are written down, one a line."""

    def __init__(self, batches: Path, fatal: InstanceNumber | None) -> None:
        super().__init__(proof_at_once=True)
        self._batches = batches
        self._fatal = fatal

    def deliver(self, instances: Sequence[Instance]) -> Iterator[Delivery]:
        numbers = [instance.number for instance in instances]
        with self._batches.open("a") as file:
            file.write(f"{numbers}\n")
        if self._fatal in numbers:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super().deliver(instances)


def run(folder: Path, fatal: InstanceNumber | None, boot: str = BOOT) -> None:
    """Be the agent from its start until there is nothing more to do."""
    clock = Clock()
    ledger = Ledger(folder / "ledger.sqlite")
    ledger.modes.start(clock.now())
    suspects = Suspects(ledger, clock.now(), boot=boot)
    ledger.custody.release(now=clock.now())
    holder = Fatal(folder / "batches", fatal)
    lane = Lane(holder, ledger, clock, POLICY, is_open=lambda: True, fraction=lambda: 0.0, suspects=suspects)
    while lane.step():
        pass
    suspects.stopped()
    ledger.close()


def killed(folder: Path, fatal: InstanceNumber, boot: str = BOOT) -> bool:
    """Run the agent in a process of its own, and say whether it was killed."""
    process = multiprocessing.get_context("spawn").Process(target=run, args=(folder, fatal, boot))
    process.start()
    process.join(60)
    return process.exitcode == -signal.SIGKILL


def batches(folder: Path) -> list[str]:
    return (folder / "batches").read_text().splitlines()


def states(folder: Path) -> tuple[dict[InstanceNumber, ObligationState], list[str]]:
    ledger = Ledger(folder / "ledger.sqlite")
    found = ledger.obligations.of_study(ROUTE, STUDY)
    letters = [letter.reason for letter in ledger.dead_letters.listed(Selection(None, None, None))]
    ledger.close()
    return found, letters


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A ledger with six instances that are owed, the fourth of them large."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.modes.start(NOW)
    sizes = [1000] * 3 + [10**8] + [1000] * 2
    note(ledger, *(new_instance(number, size=size) for number, size in enumerate(sizes)))
    assert numbers_of(ledger)[3] == BIG
    ledger.close()
    return tmp_path


def test_what_ends_it_twice_is_parked_and_the_others_go_on(folder: Path) -> None:
    assert killed(folder, BIG)
    assert killed(folder, BIG)
    assert batches(folder) == ["[1, 2, 3, 4, 5, 6]", "[4]"], "the largest comes first, and alone"
    assert not killed(folder, BIG)
    found, letters = states(folder)
    assert found.pop(BIG) is ObligationState.REFUSED
    assert set(found.values()) == {ObligationState.PROVEN}
    assert letters == [ENDED_US]


def test_what_did_not_end_it_again_is_delivered_and_no_suspect_any_more(folder: Path) -> None:
    assert killed(folder, BIG)
    run(folder, None)
    found, letters = states(folder)
    assert (set(found.values()), letters) == ({ObligationState.PROVEN}, [])
    ledger = Ledger(folder / "ledger.sqlite")
    suspects = Suspects(ledger, NOW, boot=BOOT)
    instances = ledger.instances.of_study(STUDY)
    assert suspects.cut(ROUTE, instances) == (instances, False)
    ledger.close()


def test_power_cuts_make_no_instance_a_suspect(folder: Path) -> None:
    # It falls in the middle of the same large instance, twice: each time the host starts again.
    assert killed(folder, BIG, "b1")
    assert killed(folder, BIG, "b2")
    run(folder, None, "b3")
    assert batches(folder) == ["[1, 2, 3, 4, 5, 6]"] * 3
    found, letters = states(folder)
    assert (set(found.values()), letters) == ({ObligationState.PROVEN}, [])


def test_power_cut_while_a_suspect_is_worked_on_does_not_park_it(folder: Path) -> None:
    assert killed(folder, BIG)
    assert killed(folder, BIG)
    assert batches(folder)[1:] == ["[4]"]
    run(folder, None, "after the power cut")
    found, letters = states(folder)
    assert (set(found.values()), letters) == ({ObligationState.PROVEN}, [])


def test_end_in_order_suspects_nothing(folder: Path) -> None:
    ledger = Ledger(folder / "ledger.sqlite")
    suspects = Suspects(ledger, NOW, boot=BOOT)
    instances = ledger.instances.of_study(STUDY)
    ledger.custody.claim(ROUTE, [instance.number for instance in instances], now=NOW)
    suspects.stopped()
    assert Suspects(ledger, NOW, boot=BOOT).cut(ROUTE, instances) == (instances, False)
    # That run does not end in order.
    first, alone = Suspects(ledger, NOW, boot=BOOT).cut(ROUTE, instances)
    assert ([instance.number for instance in first], alone) == ([BIG], True)
    ledger.close()


def test_lane_that_works_on_a_suspect_keeps_no_other_lane_from_the_rest(folder: Path) -> None:
    ledger = Ledger(folder / "ledger.sqlite")
    Suspects(ledger, NOW, boot=BOOT)
    ledger.custody.claim(ROUTE, [BIG], now=NOW)
    suspects = Suspects(ledger, NOW, boot=BOOT)
    instances = ledger.instances.of_study(STUDY)
    with suspects.alone(ROUTE, BIG) as first, suspects.alone(HolderName("other"), BIG) as second:
        assert (first, second) == (True, False)
        rest = [instance.number for instance in suspects.besides(ROUTE, instances)]
        assert rest == [1, 2, 3, 5, 6]
    ledger.close()
