"""The wake-up: debounced, from its own thread, never in the way."""

import threading

from understudy.plugin.wake import Waker

DEADLINE = 60.0


def test_notice_wakes_the_agent() -> None:
    woken = threading.Event()
    waker = Waker(woken.set, quiet=0.0)
    waker.start()
    waker.notice()
    assert woken.wait(DEADLINE)
    waker.stop()


def test_notices_during_a_wake_become_one_more() -> None:
    entered, leave, again = threading.Event(), threading.Event(), threading.Event()
    wakes: list[int] = []

    def wake() -> None:
        wakes.append(1)
        (again if entered.is_set() else entered).set()
        assert leave.wait(DEADLINE)

    waker = Waker(wake, quiet=0.0)
    waker.start()
    waker.notice()
    assert entered.wait(DEADLINE)
    for _ in range(100):
        waker.notice()  # Returns at once although the wake is still going on.
    leave.set()
    assert again.wait(DEADLINE)
    waker.stop(DEADLINE)
    assert len(wakes) == 2


def test_stop_without_start_returns() -> None:
    Waker(lambda: None).stop()


def test_stop_does_not_wait_for_a_hanging_agent() -> None:
    entered, leave = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        leave.wait(DEADLINE)

    waker = Waker(hang, quiet=0.0)
    waker.start()
    waker.notice()
    assert entered.wait(DEADLINE)
    waker.stop(timeout=0.01)
    assert not leave.is_set()
    leave.set()
