"""The board: what was seen last is shown while it is recent, and is not known after that."""

import threading

import pytest
from understudy.core.views import Alarm, iso
from understudy.engine.board import PATIENCE, Watch, WatchedAlarms

from tests.unit.fakes import NOW, Clock


def test_value_is_what_was_seen_last_until_the_patience_ends() -> None:
    clock, seen = Clock(), [1]
    watch = Watch(lambda: seen[-1], clock)
    assert (watch.value, watch.unknown_since) == (None, None)
    watch.step()
    clock.advance(PATIENCE)
    assert (watch.value, watch.unknown_since) == (1, None)
    clock.advance(0.1)
    unknown, value = watch.unknown_since, watch.value
    assert (unknown, value) == (NOW, None)
    seen.append(2)
    watch.step()
    assert watch.value == 2


def test_what_was_never_seen_is_not_known_since_the_begin() -> None:
    clock = Clock()
    watch = Watch(lambda: 1, clock)
    clock.advance(PATIENCE + 1)
    assert (watch.value, watch.unknown_since) == (None, NOW)


def test_look_that_fails_leaves_the_board_as_it_is() -> None:
    clock, broken = Clock(), False

    def look() -> int:
        if broken:
            raise OSError(107, "Transport endpoint is not connected")
        return 1

    watch = Watch(look, clock)
    watch.step()
    broken = True
    clock.advance(PATIENCE / 2)
    with pytest.raises(OSError, match="not connected"):
        watch.step()
    assert watch.value
    clock.advance(PATIENCE / 2 + 1)
    assert not watch.value
    assert watch.unknown_since == NOW


def test_look_that_hangs_holds_nobody_who_reads() -> None:
    clock, looking, hanging = Clock(), threading.Event(), threading.Event()

    def look() -> int:
        looking.set()
        hanging.wait(60)
        return 1

    watch = Watch(look, clock)
    worker = threading.Thread(target=watch.step)
    worker.start()
    try:
        assert looking.wait(60)
        clock.advance(PATIENCE + 1)
        assert (watch.value, watch.unknown_since) == (None, NOW)
    finally:
        hanging.set()
        worker.join()
    # What was found is as old as the look's begin.
    assert watch.value is None


def test_clock_that_is_set_changes_nothing() -> None:
    clock = Clock()
    watch = Watch(lambda: 1, clock)
    watch.step()
    clock.set_by(30 * 86_400)
    assert watch.value == 1
    clock.set_by(-60 * 86_400)
    clock.advance(PATIENCE + 1)
    assert watch.value is None


def test_alarms_that_nobody_can_read_any_more_are_an_alarm_themselves() -> None:
    clock = Clock()
    rain = Alarm(iso(NOW), "it rains", "take an umbrella")
    watched = WatchedAlarms("the host", "/run/host", lambda: [rain], clock)
    assert watched.alarms() == ()
    watched.step()
    assert watched.alarms() == [rain]
    clock.advance(PATIENCE + 1)
    told = [(alarm.since, alarm.what) for alarm in watched.alarms()]
    assert told == [(iso(NOW), "the host cannot be read")]
