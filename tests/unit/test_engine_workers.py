"""The loops of the workers: what stops a step is an alarm until the next step has ended well."""

import threading
from collections import Counter

from understudy.core.ports import OrthancUnavailableError
from understudy.engine.workers import Workers

from tests.stack import wait_until
from tests.unit.fakes import Clock


def test_alarm_that_two_workers_have_is_shown_once_and_ends_with_the_next_good_step() -> None:
    workers, broken, asked = Workers(Clock(), lambda: 0.0), threading.Event(), Counter[str]()
    broken.set()

    def step() -> bool:
        asked[threading.current_thread().name] += 1
        if broken.is_set():
            raise OrthancUnavailableError("refused")
        return False

    def asked_again() -> bool:
        """The second step of a loop begins when the failure of its first is an alarm."""
        workers.wake("note", "reconcile")
        return min(asked["note"], asked["reconcile"]) >= 2

    workers.add("note", step, 0.01)
    workers.add("reconcile", step, 0.01)
    workers.start()
    try:
        wait_until(asked_again, bool, deadline=60, what="a failure of both", pause=0.01)
        assert [alarm.what for alarm in workers.alarms()] == ["Orthanc does not answer: refused"]
        broken.clear()
        workers.wake("note", "reconcile")
        wait_until(workers.alarms, lambda alarms: not alarms, deadline=60, what="its end", pause=0.01)
    finally:
        workers.stop(60)
