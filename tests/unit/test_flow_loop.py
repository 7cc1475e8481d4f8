"""The loops of the workers: what stops a step is an alarm until the next step has ended well."""

import threading
from collections.abc import Callable

from understudy.core.ports import OrthancUnavailableError
from understudy.flow.loop import Workers

from tests.unit.fakes import Clock


def until(condition: Callable[[], bool]) -> None:
    ended = threading.Event()
    for _ in range(500):
        if condition():
            return
        ended.wait(0.01)
    raise AssertionError("it did not come about within 5 s")


def test_alarm_that_two_workers_have_is_shown_once_and_ends_with_the_next_good_step() -> None:
    workers, broken = Workers(Clock(), lambda: 0.0), threading.Event()
    broken.set()

    def step() -> bool:
        if broken.is_set():
            raise OrthancUnavailableError("refused")
        return False

    workers.add("note", step, 0.01)
    workers.add("reconcile", step, 0.01)
    workers.start()
    try:
        until(lambda: len(workers.alarms()) == 1)
        assert [alarm.what for alarm in workers.alarms()] == ["Orthanc does not answer: refused"]
        broken.clear()
        workers.wake("note", "reconcile")
        until(lambda: not workers.alarms())
    finally:
        workers.stop(5)
