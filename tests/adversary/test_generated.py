"""Whatever the generators make, nobody is kept waiting, nothing ends, and nobody gets what is not theirs.

`make test` gives each generator a few seconds and a fixed seed, `make adversary` an hour in all.
"""

import json

import pytest

from tests.adversary.clinic import Clinic, seconds_of_a_case, seed
from tests.hostile import CANARIES
from tests.stack import BUILD

pytestmark = pytest.mark.needs("image")


@pytest.mark.parametrize("kind", ["association", "data", "identifier", "object"])
def test_generated_dicom_keeps_nobody_waiting_and_ends_nothing(clinic: Clinic, kind: str) -> None:
    with clinic.unharmed(), clinic.witnessed() as testimony:
        seen = clinic.attack(kind, seconds=seconds_of_a_case(), seed=seed())
    _write(kind, seen, testimony.slowest_seconds)
    assert seen["cases"] > 20, seen
    assert seen["findings"] == [], seen
    testimony.assert_never_kept_waiting()


@pytest.mark.parametrize("role", ["reader", "operator"])
def test_generated_http_changes_nothing_beyond_the_role_and_ends_nothing(clinic: Clinic, role: str) -> None:
    user, password = clinic.stack.add_user(f"adversary-{role}", role)
    instances = clinic.stack.get("/instances?limit=5&since=0")
    before = clinic.stack.status()
    with clinic.unharmed(), clinic.witnessed() as testimony:
        seen = clinic.attack(
            "http",
            seconds=seconds_of_a_case(),
            seed=seed(),
            login=f"{user}:{password}",
            instances=instances,
        )
    _write(f"http-{role}", seen, testimony.slowest_seconds)
    after = clinic.stack.status()
    assert seen["cases"] > 20, seen
    assert seen["findings"] == [], seen
    if role == "reader":
        assert (after.mode, after.epoch) == (before.mode, before.epoch)
    assert after.instances >= before.instances
    assert [clinic.stack.get(f"/instances/{instance}")["ID"] for instance in instances] == instances
    testimony.assert_never_kept_waiting()


def test_no_log_names_a_planted_patient(clinic: Clinic) -> None:
    logs = clinic.stack.compose("logs", "--no-color")
    assert [word for word in CANARIES if word in logs] == []


def _write(kind: str, seen: dict[str, object], slowest: float) -> None:
    BUILD.mkdir(exist_ok=True)
    told = {**seen, "slowest_store_of_a_known_device_seconds": slowest}
    (BUILD / f"adversary-{kind}.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
    print(json.dumps(told))
