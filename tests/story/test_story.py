"""The demo plays the whole outage, ends with nothing missing, and fails where a proof is broken."""

from collections import Counter

import pytest

from tests import data
from tests.lab import PRIMARY, STANDBY
from tests.story.conftest import Demo, Watched

pytestmark = pytest.mark.needs("image", "lab-image", "s3-image", "browser")


@pytest.fixture(scope="module")
def demo(played: tuple[Demo, Watched]) -> Demo:
    return played[0]


def test_demo_exits_0_and_says_what_to_look_at(demo: Demo) -> None:
    assert demo.process.returncode == 0, demo.text
    assert "FAILED" not in demo.text
    for shown in ("Nothing is missing anywhere", "console", "viewer (OHIF)", "failback report", " down"):
        assert shown in demo.text
    assert demo.lab.first_start().password not in demo.text
    report = (demo.output / "report.html").read_text(encoding="utf-8")
    assert "Nothing is missing anywhere" in report
    assert "promote to first accepted C-STORE" in report


def test_primary_and_standby_hold_the_same_instances_once_each(demo: Demo) -> None:
    primary, standby = demo.lab.instances_at(PRIMARY), demo.lab.instances_at(STANDBY)
    assert primary == standby
    assert set(primary.values()) == {1}
    assert len(primary) > 350


def test_every_instance_is_in_each_vault(demo: Demo) -> None:
    identity = demo.lab.first_start().identity
    held = demo.lab.uids_at_standby()
    for vault in (demo.lab.local_vault(identity), demo.lab.cloud_vault(identity)):
        assert Counter(copy.sop_instance_uid for copy in vault.copies()) == Counter(held)


def test_appliance_says_0_missing_0_unproven(demo: Demo) -> None:
    state = demo.lab.status()
    assert state.mode == "standby"
    assert state.epoch == 1
    assert state.gaps == 0
    assert {name: counts.unproven for name, counts in state.holders.items()} == dict.fromkeys(
        state.holders, 0
    )
    assert state.instances == len(demo.lab.uids_at_standby())


def test_primary_is_proven_by_the_commitment_that_it_reports(demo: Demo) -> None:
    """Stock Orthanc reports to our AE title, which is our own Orthanc, where the agent looks."""
    holders = {one["name"]: one["proof"] for one in demo.lab.get("/understudy/status")["holders"]}
    assert holders["primary"] == {"kind": "commitment", "because": "it reports on storage commitment"}
    # dcmqrscp knows no storage commitment.
    assert holders["archive"]["kind"] == "inventory"
    assert "no storage commitment" in holders["archive"]["because"]


def test_failback_report_is_served(demo: Demo) -> None:
    (operation,) = [one for one in demo.lab.get("/understudy/operations") if one["kind"] == "failback"]
    answer = demo.lab.client().get(operation["report"], headers={"Accept": "text/html"})
    assert answer.status_code == 200
    assert "Failback" in answer.text


def test_demo_with_a_broken_proof_exits_1_and_names_the_instance(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("named")
    wanted = data.ct_series(folder, seed="emergency", instances=1, rows=8, columns=8).sop_instance_uids[0]
    broken = Demo.begin("broken", "--small", "--break", "settle")
    try:
        assert broken.end() == 1, broken.text
        assert f"instance {wanted}" in broken.text
        assert "settle is refused" in broken.text
        assert broken.lab.status().mode == "returning"
    finally:
        broken.remove()
