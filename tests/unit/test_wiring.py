"""What the configuration says of routes and destinations reaches rules and lanes."""

import io
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread

import pytest
from understudy.adapters.encryption import new_key_pair
from understudy.adapters.writer import make_writer
from understudy.config import parse
from understudy.core.model import Timestamp
from understudy.core.ports import Holder
from understudy.core.rules import Matching, Priority
from understudy.core.views import LaneState
from understudy.engine.memory import RESERVE, Memory
from understudy.flow.appliance import Appliance
from understudy.web.metrics import render
from understudy.wiring.base import Base, Places, open_base
from understudy.wiring.delivery import configured_holders, wire_lane
from understudy.wiring.files import wire_disk
from understudy.wiring.intake import wire_intake

from tests.stack import wait_until
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


def test_routes_reach_the_rules_with_all_that_they_say(base: Base) -> None:
    text = {
        "Destinations": [
            ARCHIVE | {"SopClasses": ["1.2.3"]},
            {"Name": "pacs", "AeTitle": "PACS2", "Host": "pacs"},
        ],
        "Routes": [
            {
                "Name": "er",
                "When": [{"Of": "Modality", "Equals": "CT"}],
                "To": ["archive"],
                "Priority": "high",
            },
            {"Name": "rest", "To": ["archive", "pacs"], "Send": "when_stable"},
        ],
        "RouteMatching": "first",
    }
    _, router, *_ = wire_intake(replace(base, configuration=parse(text)))
    first, second = router.rules.routes
    assert (first.name, first.priority, first.when_stable) == ("er", Priority.HIGH, False)
    assert first.conditions[0].holds(["CT"])
    assert (second.destinations, second.when_stable) == (["archive", "pacs"], True)
    assert router.rules.matching is Matching.FIRST
    archive, pacs = router.rules.destinations.values()
    assert (archive.ae_title, list(archive.addresses)) == ("ARCHIVE", ["192.0.2.30/32"])
    assert archive.sop_classes == {"1.2.3"}
    assert (pacs.addresses, pacs.sop_classes) == ([], frozenset())


def test_status_names_each_lane_that_waits_for_memory(base: Base, tmp_path: Path) -> None:
    text = {
        "Destinations": [ARCHIVE],
        "Vaults": [{"Name": "local", "Directory": str(tmp_path), "Recipients": [new_key_pair().recipient]}],
    }
    make_writer(tmp_path, tmp_path)
    memory = Memory(RESERVE + 2**20)
    configured = replace(base, configuration=parse(text), memory=memory)
    with memory.holding(memory.most):
        for holder in configured_holders(configured):
            Thread(target=_hold, args=(holder,), daemon=True).start()
        waiting = wait_until(memory.waiting, lambda seen: len(seen) == 2, deadline=60, what="both wait")
    assert waiting == {"archive": 1000, "local": 1000}


def _hold(holder: Holder) -> None:
    with holder._memory.holding(1000):  # type: ignore[attr-defined]
        pass


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


@pytest.mark.parametrize(
    ("target", "kind", "because"),
    [
        (ARCHIVE, "inventory", "storage commitment has not been tried yet"),
        (ARCHIVE | {"Proof": "inventory"}, "inventory", "as configured"),
        (ARCHIVE | {"Proof": "readback"}, "readback", "as configured"),
        (
            ARCHIVE | {"Proof": "commitment"},
            "commitment",
            "as configured; storage commitment has not been tried yet",
        ),
        ({"Name": "cloud", "Url": "https://a.example.org"}, "inventory", "as configured"),
        ({"Name": "cloud", "Url": "https://a.example.org", "Proof": "readback"}, "readback", "as configured"),
    ],
)
def test_holder_is_proven_by_what_the_configuration_says(
    base: Base, target: dict[str, object], kind: str, because: str
) -> None:
    (holder,) = configured_holders(replace(base, configuration=parse({"Destinations": [target]})))
    assert (holder.proof.kind.value, holder.proof.because) == (kind, because)


def test_status_of_the_whole_appliance_looks_at_no_file(
    appliance: Appliance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever disk hangs: who asks for status, health, metrics or the mode reads what the workers saw."""
    for name, step in appliance.disk.steps():
        assert not step(), name
    appliance.recovery.step()
    looked: list[str] = []

    def looking(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def look(*arguments: object, **named: object) -> object:
            looked.append(f"{name}{arguments[:1]}")
            return real(*arguments, **named)

        return look

    for name in ("stat", "lstat", "statvfs", "open", "scandir", "listdir", "access"):
        monkeypatch.setattr(os, name, looking(name, getattr(os, name)))
    monkeypatch.setattr(io, "open", looking("open", io.open))
    monkeypatch.setattr("builtins.open", looking("open", open))
    assert not (tmp_path / "nothing").exists()
    assert looked, "the look of the test itself is seen"
    looked.clear()
    status = appliance.status()
    appliance.glance()
    appliance.pulse.step()
    render(status)
    monkeypatch.undo()
    assert looked == []
    assert [volume.name for volume in status.disk.volumes] == ["storage", "index", "state", "vault nas"]


def test_every_volume_is_measured_by_a_worker_of_its_own(base: Base) -> None:
    vault = {"Vaults": [{"Name": "local", "Directory": "/var/lib/understudy-vault"}]}
    names = [name for name, _ in wire_disk(replace(base, configuration=parse(vault))).steps()]
    assert [name for name in names if name.startswith("volume-")] == [
        "volume-storage",
        "volume-index",
        "volume-state",
        "volume-vault local",
    ]


@pytest.mark.parametrize(("associations", "in_turn"), [(1, True), (2, False)])
def test_destination_of_one_association_is_asked_in_turn(
    base: Base, associations: int, in_turn: bool
) -> None:
    target = ARCHIVE | {"Associations": associations}
    (holder,) = configured_holders(replace(base, configuration=parse({"Destinations": [target]})))
    assert holder.beside.in_turn is in_turn  # type: ignore[attr-defined]
