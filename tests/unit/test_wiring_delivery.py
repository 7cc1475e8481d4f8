"""What the configuration says of a destination reaches its lane."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from understudy.config import parse
from understudy.core.model import Timestamp
from understudy.core.views import LaneState
from understudy.wiring.base import Base, Places, open_base
from understudy.wiring.delivery import configured_holders, wire_lane

from tests.unit.fakes import ROUTE, Clock, FakeHolder

ARCHIVE = {
    "Name": "archive",
    "AeTitle": "ARCHIVE",
    "Host": "192.0.2.30",
    "Windows": ["18:00-07:00"],
    "Bandwidth": [{"Hours": "18:00-22:00", "BytesPerSecond": 1024}],
}


def at(hour: int) -> Timestamp:
    """Return a winter's day in Vienna at that hour, which is an hour ahead of UTC."""
    return Timestamp(datetime(2026, 1, 12, hour - 1, tzinfo=UTC).timestamp())


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Base]:
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "agent").write_text("secret")
    places = Places(state=tmp_path, keys=tmp_path, storage=tmp_path)
    found = open_base(parse({"TimeZone": "Europe/Vienna", "Destinations": [ARCHIVE]}), places)
    yield found
    found.ledger.close()
    found.orthanc.close()


def test_lane_keeps_to_the_windows_in_the_sites_time(base: Base) -> None:
    for hour, open_then in ((17, False), (18, True), (23, True), (6, True), (7, False)):
        lane = wire_lane(FakeHolder(), replace(base, clock=Clock(at(hour))))
        lane.step()
        assert (lane.view.state is not LaneState.PAUSED) is open_then, hour
    other = wire_lane(FakeHolder(name=ROUTE.__class__("other")), replace(base, clock=Clock(at(12))))
    other.step()
    assert other.view.state is LaneState.IDLE


def test_destination_is_paced_in_the_hours_of_its_limit(base: Base) -> None:
    for hour, waits in ((19, True), (23, False)):
        clock = Clock(at(hour))
        waited: list[float] = []

        def wait(seconds: float, clock: Clock = clock, waited: list[float] = waited) -> bool:
            clock.advance(seconds)
            waited.append(seconds)
            return True

        paced = replace(base, clock=clock)
        paced.workers.wait = wait  # type: ignore[method-assign]
        (holder,) = configured_holders(paced)
        for _ in range(5):
            assert holder._pace(1024)  # type: ignore[attr-defined]
        assert (sum(waited) >= 3) is waits, hour
