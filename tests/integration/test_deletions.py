"""Deletions of every kind at the real Orthanc: one event each, true counts, no rescan and no alarm."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests import hostile
from tests.integration import past_us, raw_store
from tests.stack import RefusedError, Stack, State, wait_until

pytestmark = pytest.mark.needs("image")

EVENTS = """
import json, sqlite3
ledger = sqlite3.connect("file:/var/lib/understudy/ledger.sqlite?mode=ro", uri=True)
wanted = "SELECT kind, who, fields FROM events WHERE kind IN ('delete', 'rescan') ORDER BY event"
rows = ledger.execute(wanted)
print(json.dumps([[kind, who, json.loads(fields)] for kind, who, fields in rows]))
"""
UNKNOWN = "unknown"
Event = tuple[str, str, dict[str, Any]]


def store(stack: Stack, seed: str) -> str:
    """Store an instance in a study of its own and return Orthanc's identifier of the study."""
    item = raw_store.store_good(stack.dicom, seed, 10_000)
    (found,) = [
        one["ID"]
        for one in stack.client().post("/tools/lookup", content=item.uid).json()
        if one["Type"] == "Instance"
    ]
    return str(stack.get(f"/instances/{found}/study")["ID"])


def uid_of(stack: Stack, study: str) -> str:
    return str(stack.get(f"/studies/{study}")["MainDicomTags"]["StudyInstanceUID"])


def settled(stack: Stack, held: int) -> State:
    return wait_until(
        stack.status,
        lambda state: state.instances == held and state.holders["local"].unproven == 0,
        deadline=180,
        what=f"{held} instances held, all proven",
    )


def events(stack: Stack) -> list[Event]:
    answer = stack.execute("agent", "python", "-c", EVENTS)
    return [(kind, who, fields) for kind, who, fields in json.loads(answer)]


def nothing_else(stack: Stack, held: int, known: int) -> None:
    """See that counts are true, no rescan began, and nobody is alarmed."""
    state = settled(stack, held)
    assert stack.get("/statistics")["CountInstances"] == held
    assert [kind for kind, _, _ in events(stack)] == ["delete"] * known
    assert not [alarm for alarm in state.alarms if "index" in alarm or "missing" in alarm], state.alarms


@pytest.mark.parametrize(
    "refused",
    [
        lambda client, study: client.delete(f"/studies/{study}"),
        lambda client, study: client.delete(f"/studies/{study}/"),
        lambda client, study: client.post("/tools/bulk-delete", json={"Resources": [study]}),
    ],
)
def test_administrator_deletes_nothing_past_the_appliance(
    appliance: Stack, refused: Callable[[Any, str], Any]
) -> None:
    study = store(appliance, "kept")
    before = appliance.get("/statistics")["CountInstances"]
    answer = refused(appliance.client(), study)
    assert answer.status_code == 403
    assert appliance.get("/statistics")["CountInstances"] == before


def test_refusal_of_a_plain_deletion_names_the_command(appliance: Stack) -> None:
    answer = appliance.client().delete(f"/studies/{store(appliance, 'kept')}")
    assert "understudy delete" in answer.json()["hint"]


def test_deletion_is_refused_while_nobody_else_has_it_and_one_event_by_name_after(appliance: Stack) -> None:
    held = appliance.get("/statistics")["CountInstances"] + 1
    uid = hostile.uid_of("newest", "good", "study")
    body = {"study_instance_uid": uid, "reason": "a full disk"}
    # Asked at once: the vault has it a few seconds later.
    raw_store.store_good(appliance.dicom, "newest", 10_000)
    with pytest.raises(RefusedError, match="proven") as refused:
        appliance.post("/understudy/deletions", body)
    assert refused.value.status == 412
    settled(appliance, held)
    assert appliance.post("/understudy/deletions", body)["instances"] == 1
    # It is right after it answered, not some seconds later.
    assert appliance.status().instances == held - 1
    ((kind, who, told),) = events(appliance)
    assert (kind, who, told["study"], told["reason"]) == ("delete", "admin", uid, "a full disk")
    assert told["proven"] == {"local": 1}
    nothing_else(appliance, held - 1, 1)


def test_deletion_past_the_appliance_is_one_event_by_unknown(appliance: Stack) -> None:
    studies = [store(appliance, f"past {number}") for number in range(4)]
    held = appliance.get("/statistics")["CountInstances"]
    settled(appliance, held)
    known = len(events(appliance))
    past_us.delete(appliance, f"/studies/{studies[-1]}")
    nothing_else(appliance, held - 1, known + 1)
    past_us.delete_all(appliance, studies[:3])
    nothing_else(appliance, held - 4, known + 2)
    (_, who, told) = events(appliance)[-1]
    assert (who, told["instances"], len(told["studies"])) == (UNKNOWN, 3, 3)


def test_command_deletes_the_rest_and_an_empty_archive_and_a_restart_are_no_rescan(appliance: Stack) -> None:
    held = appliance.get("/statistics")["CountInstances"]
    settled(appliance, held)
    known = len(events(appliance))
    studies = [uid_of(appliance, study) for study in appliance.get("/studies")]
    for uid in studies:
        shown = appliance.execute("agent", "understudy", "delete", uid, "--reason", "the end").decode()
        assert "local is proven to have" in shown
    nothing_else(appliance, 0, known + len(studies))
    appliance.restart("orthanc", "agent")
    nothing_else(appliance, 0, known + len(studies))
    store(appliance, "first again")
    nothing_else(appliance, 1, known + len(studies))
