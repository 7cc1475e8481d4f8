"""What Orthanc refuses inside an association is shown to the operator: by command, REST and browser."""

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context

from tests import hostile
from tests.browser import signed_in, visit
from tests.hostile import EXPLICIT, Hostile
from tests.integration import raw_store
from tests.stack import BUILD, REPOSITORY, TEST_PROJECT, Stack, StackError, wait_until

pytestmark = pytest.mark.needs("image", "browser")

PRIVATE = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]
"""Docker's networks, from which this machine's connections come."""
CONFIGURATION = {
    "Vaults": [],
    "Modalities": [
        {"Name": "ct1", "AeTitle": "CT1", "Host": "ct1.example.org", "Addresses": PRIVATE},
        {"Name": "ws1", "AeTitle": "WS1", "Host": "ws1.example.org", "Addresses": PRIVATE, "Reads": True},
    ],
}
BEYOND = 130 * 2**20
"""Larger than an object may be where Orthanc has 1 GiB: 73 MiB."""
CANNOT_UNDERSTAND = 0xC000
FIND, MOVE, GET = (f"1.2.840.10008.5.1.4.1.2.2.{number}" for number in (1, 2, 3))
"""Study Root Query/Retrieve (PS3.4 C.6.2)."""
WORKLIST = "1.2.840.10008.5.1.4.31"
GE_PRIVATE = GE_SYNTAX = "1.2.840.113619.5.2"
"""A name that DCMTK knows: Orthanc takes classes that have none."""
ROWS = 200
"""Of the reception's file (docker/reception/refusals.cc)."""
DEADLINE = 60


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("refused") / "config"
    shutil.copytree(REPOSITORY / "orthanc-config", folder)
    (folder / "understudy.json").write_text(json.dumps({"Understudy": CONFIGURATION}), encoding="utf-8")
    folder.chmod(0o755)
    environment = {"UNDERSTUDY_CONFIG": str(folder), "UNDERSTUDY_ORTHANC_MEMORY": "1g"}
    stack = Stack(f"{TEST_PROJECT}-refused", lab=False, environment=environment)
    stack.down()
    try:
        stack.up()
        yield stack
    except StackError:
        print(stack.logs())
        raise
    finally:
        stack.down()


def propose(stack: Stack, calling: str, *contexts: tuple[str, str]) -> int:
    """Ask for an association with these classes and transfer syntaxes; return how many were rejected."""
    device = AE(ae_title=calling)
    proposed = [build_context(sop_class, syntax) for sop_class, syntax in contexts]
    association = device.associate(*stack.dicom, contexts=proposed, ae_title="UNDERSTUDY")
    if association.is_established:
        association.release()
    return len(association.rejected_contexts)


def ask(stack: Stack, calling: str) -> list[bool]:
    """Query and retrieve as viewers do; return for each whether it was answered."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = "2.25.1"
    answered = []
    for model in (FIND, MOVE, GET):
        device = AE(ae_title=calling)
        association = device.associate(*stack.dicom, contexts=[build_context(model)], ae_title="UNDERSTUDY")
        assert association.is_established
        if model == FIND:
            answers = association.send_c_find(identifier, model)
        elif model == MOVE:
            answers = association.send_c_move(identifier, calling, model)
        else:
            answers = association.send_c_get(identifier, model)
        answered.append(any("Status" in status for status, _ in answers))
        if association.is_established:
            association.release()
    return answered


def shown(stack: Stack, calling: str) -> dict[str, dict[str, Any]]:
    """Return what REST tells of this device, by reason."""
    devices = [one for one in stack.get("/understudy/modalities") if one["calling_ae_title"] == calling]
    return {refusal["reason"]: refusal for one in devices for refusal in one["refusals"]}


def test_operator_sees_device_reason_and_hint_of_what_orthanc_refused(stack: Stack) -> None:
    good, long = hostile.good("after a long UID"), hostile.good("a long UID")
    long = Hostile(long.name, long.content, "1." * 37 + "1")
    with raw_store.opened(stack.dicom, good, calling="CT1") as connection:
        for item, status in ((long, CANNOT_UNDERSTAND), (good, 0)):
            connection.sendall(raw_store.request(item) + raw_store.fragment(2, item.data_set))
            assert raw_store.answer(connection).status == status
    propose(stack, "CT1", (hostile.CT, GE_SYNTAX))
    propose(stack, "CT1", (GE_PRIVATE, EXPLICIT), (hostile.CT, EXPLICIT))
    propose(
        stack,
        "MR7",
        (hostile.CT, GE_SYNTAX),
        (hostile.CT, EXPLICIT),
        (WORKLIST, EXPLICIT),
    )
    large = raw_store.store_large(stack.dicom, hostile.good("large"), BEYOND, patience=60, calling="CT1")
    assert large.status == CANNOT_UNDERSTAND
    assert ask(stack, "WS1") == [True, True, True]
    assert ask(stack, "CT1") == [False, False, False]
    # The edge refuses a body whose length is told; Orthanc cuts off one that is not.
    assert stack.client().post("/instances", content=bytes(BEYOND), timeout=60).status_code == 413
    wait_until(
        lambda: [(one["outcome"], one["refused"]) for one in stack.get("/understudy/modalities")],
        lambda found: ("refused_upload", 1) in found,
        deadline=DEADLINE,
        what="the upload that the edge refused",
    )
    upload = stack.client().post("/instances", content=iter([bytes(2**20)] * (BEYOND // 2**20)), timeout=60)
    assert upload.status_code in (400, 413)

    wanted = {"uid", "syntax", "class", "large", "query"}
    told = wait_until(
        lambda: shown(stack, "CT1"),
        lambda found: wanted <= set(found),
        deadline=DEADLINE,
        what="CT1's refusals",
    )
    assert set(told) == wanted
    assert told["large"]["what"] == "an image larger than 73 MiB: CT Image Storage"
    assert told["syntax"]["what"].endswith(f"CT Image Storage as {GE_SYNTAX}")
    assert told["class"]["what"].endswith(GE_PRIVATE)
    assert "a device that is not listed as a reader: Study Root" in told["query"]["what"]
    assert "`Reads`" in told["query"]["hint"]
    assert shown(stack, "WS1") == {}
    stranger = wait_until(
        lambda: shown(stack, "MR7"), lambda found: len(found) == 2, deadline=DEADLINE, what="MR7's refusals"
    )
    assert "Modality Worklist" in stranger["class"]["what"]
    assert not stranger["class"]["keeps_images_out"]
    assert not stranger["alternative"]["keeps_images_out"]
    wait_until(
        lambda: shown(stack, "by HTTP, without AE title"),
        lambda found: "large" in found and found["large"]["count"] == 1,
        deadline=DEADLINE,
        what="the upload that was cut off",
    )

    text = stack.execute("agent", "understudy", "modalities").decode()
    (BUILD / "refused-modalities.txt").write_text(text, encoding="utf-8")
    for words in (
        "CT1",
        "an image larger than 73 MiB",
        "UNDERSTUDY_ORTHANC_MEMORY",
        "MR7",
        "by HTTP",
        "Reads",
    ):
        assert words in text, text
    alarms = [
        alarm["what"]
        for alarm in wait_until(
            lambda: stack.get("/understudy/status")["alarms"],
            lambda alarms: sum("refused within" in alarm["what"] for alarm in alarms) == 4,
            deadline=DEADLINE,
            what="an alarm for each reason",
        )
        if "refused within" in alarm["what"]
    ]
    assert all("CT1 (" in alarm for alarm in alarms), alarms
    metrics = stack.client().get("/understudy/metrics").text
    assert 'understudy_refused_instances{reason="query"} 3.0' in metrics
    assert 'understudy_refused_instances{reason="large"} 2.0' in metrics


@pytest.mark.parametrize("width", [1280, 390])
def test_console_shows_what_was_refused(stack: Stack, width: int) -> None:
    propose(stack, "CT1", (hostile.CT, GE_SYNTAX))
    wait_until(lambda: shown(stack, "CT1"), bool, deadline=DEADLINE, what="CT1's refusals")
    with signed_in(stack.admin, width=width) as (page, heard):
        panel = page.locator("#refused")
        visit(page, heard, f"{stack.https}/understudy/console/", lambda: panel.wait_for())
        page.screenshot(path=BUILD / f"refused-{width}.png", full_page=True)
        text = panel.inner_text()
        assert "CT1" in text
        assert f"CT Image Storage as {GE_SYNTAX}" in text
        assert "set the device to send" in text
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert not heard.errors


def test_strangers_push_no_listed_device_out_and_no_count_is_lost(stack: Stack) -> None:
    def rows() -> list[list[str]]:
        file = "/var/lib/orthanc/storage/understudy/refusals"
        content = stack.shell("orthanc", f"cat {file} 2>/dev/null || true")
        return [line.split() for line in content.splitlines()]

    def classes(found: list[list[str]]) -> int:
        return sum(int(row[0]) for row in found if row[3] == "class")

    counted = classes(rows())
    propose(stack, "CT1", (GE_PRIVATE, EXPLICIT))
    # Whatever was refused before is in the file that has this one.
    before = wait_until(
        rows, lambda found: classes(found) > counted, deadline=DEADLINE, what="one more counted"
    )
    services = [
        (uid, EXPLICIT)
        for uid, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and "Storage" not in name
    ]
    rejected = sum(
        propose(stack, f"FLOOD{number}", (hostile.CT, EXPLICIT), *services[:127]) for number in range(5)
    )
    assert rejected > 2 * ROWS
    after = wait_until(
        rows,
        lambda found: classes(found) >= classes(before) + rejected,
        deadline=DEADLINE,
        what="every refused class counted",
    )
    assert classes(after) == classes(before) + rejected
    assert len(after) <= ROWS
    assert [row for row in after if row[2] == "CT1"] == [row for row in before if row[2] == "CT1"]
    wait_until(
        lambda: shown(stack, "others, no longer told apart"),
        lambda others: bool(others) and others["class"]["count"] >= rejected - ROWS,
        deadline=DEADLINE,
        what="the others counted",
    )
    (alarm,) = [
        one["what"] for one in stack.get("/understudy/status")["alarms"] if "a kind of object" in one["what"]
    ]
    assert "CT1 (" in alarm
    assert len(alarm) < 300
