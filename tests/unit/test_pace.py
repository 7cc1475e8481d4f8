"""Bandwidth: the rate of the hour holds over any time, whoever shares it."""

import threading
from collections import deque

import pytest
from understudy.core.model import Timestamp
from understudy.core.pace import TokenBucket
from understudy.engine.pace import Pacer

from tests.unit.fakes import NOW, Clock


def send(bucket: TokenBucket, clock: Clock, size: int, rate: int | None) -> None:
    """Send one instance as soon as the bucket lets it."""
    while seconds := bucket.take(size, clock.now(), rate):
        clock.advance(seconds)


@pytest.mark.parametrize("size", [100, 1000, 50_000])
def test_bucket_keeps_to_its_rate(size: int) -> None:
    clock, bucket = Clock(), TokenBucket(at=NOW)
    for _ in range(101):
        send(bucket, clock, size, 1000)
    # All but the last instance and a second's worth have been paid for.
    assert clock.now() - NOW == pytest.approx(100 * size / 1000, abs=size / 1000 + 1)


def test_bucket_that_was_idle_lets_a_second_through_at_once() -> None:
    clock, bucket = Clock(), TokenBucket(at=NOW)
    clock.advance(3600)
    for _ in range(10):
        send(bucket, clock, 100, 1000)
    assert clock.now() == NOW + 3600
    send(bucket, clock, 100, 1000)
    send(bucket, clock, 100, 1000)
    assert clock.now() > NOW + 3600


def test_bucket_without_a_rate_never_waits_and_saves_nothing() -> None:
    clock, bucket = Clock(), TokenBucket(at=NOW)
    for _ in range(10):
        send(bucket, clock, 10**9, None)
    assert clock.now() == NOW
    assert bucket.take(1, clock.now(), 1000) == 0


def test_clock_that_was_set_back_earns_nothing() -> None:
    bucket = TokenBucket(at=NOW)
    assert bucket.take(1000, NOW, 1000) == 0
    assert bucket.take(1000, Timestamp(NOW - 100), 1000) == 1.0


class World:
    """A clock that moves while somebody waits, and a rate that changes with the hour."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.rate: int | None = 1000
        self.waited: list[float] = []
        self.stopped = False
        self.hours: deque[tuple[float, int | None]] = deque()
        self._lock = threading.Lock()
        self.pacer = Pacer(lambda: self.rate, self.clock, self.wait)

    def wait(self, seconds: float) -> bool:
        with self._lock:
            if seconds:
                self.waited.append(seconds)
                self.clock.advance(seconds)
            while self.hours and self.hours[0][0] <= self.clock.now():
                self.rate = self.hours.popleft()[1]
            return not self.stopped


def test_pacer_looks_the_rate_up_while_it_waits() -> None:
    world = World()
    world.hours.append((NOW + 20, None))
    assert world.pacer(10**6)
    assert world.pacer(1)
    # At the old rate it would have waited 1000 seconds.
    assert world.clock.now() == NOW + 20


def test_pacer_lets_go_when_all_is_to_stop() -> None:
    world = World()
    assert world.pacer(10**6)
    world.stopped = True
    assert not world.pacer(1)
    assert world.waited == []


def test_workers_share_one_rate() -> None:
    world = World()

    def work() -> None:
        for _ in range(25):
            assert world.pacer(1000)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert world.clock.now() - NOW >= 98
