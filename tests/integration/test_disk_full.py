"""Volumes of 48 MB that fill up: nothing is acknowledged that is not kept, deletion works, intake resumes."""

from collections.abc import Iterator

import pytest

from tests import hostile
from tests.integration import raw_store
from tests.stack import TEST_PROJECT, Stack, StackError, run, wait_until

pytestmark = pytest.mark.needs("image")

MEGABYTE = 2**20
VOLUME_MB = 48
OUR_USER = 10001
REJECTED_FOR_NOW = "association refused (PDU 3, 020302)"
"""Rejected-transient by the presentation service provider: local limit exceeded (DICOM PS3.8 9.3.4)."""
INDEX = "/var/lib/orthanc/index"
NOTICED_WITHIN = 60.0


@pytest.fixture(scope="module")
def small() -> Iterator[Stack]:
    """The appliance with index and storage on file systems of their own."""
    stack = Stack(f"{TEST_PROJECT}-full", lab=False)
    stack.down()
    for volume in ("index", "storage"):
        labels = (f"com.docker.compose.project={stack.project}", f"com.docker.compose.volume={volume}")
        options = (
            "type=tmpfs",
            "device=tmpfs",
            f"o=size={VOLUME_MB}m,uid={OUR_USER},gid={OUR_USER},mode=750",
        )
        run(
            [
                *("docker", "volume", "create"),
                *(part for label in labels for part in ("--label", label)),
                *(part for option in options for part in ("--opt", option)),
                f"{stack.project}_{volume}",
            ]
        )
    try:
        stack.up()
        yield stack
    except StackError:
        print(stack.logs())
        raise
    finally:
        stack.down()


def store(stack: Stack, seed: str, megabytes: int = 1) -> tuple[str, raw_store.Answer]:
    item = hostile.good(seed, megabytes * MEGABYTE)
    return item.uid, raw_store.store(stack.dicom, item, patience=20)


def held(stack: Stack, uid: str) -> bool:
    found = stack.client().post("/tools/lookup", content=uid).json()
    return any(item["Type"] == "Instance" for item in found)


def delete(stack: Stack, study: str) -> None:
    """Delete a study as an administrator does, whether its vault has it by now or not."""
    uid = stack.get(study)["MainDicomTags"]["StudyInstanceUID"]
    stack.post(
        "/understudy/deletions", {"study_instance_uid": uid, "reason": "the disk is full", "force": True}
    )


def files(stack: Stack, folder: str) -> set[str]:
    return set(stack.execute("orthanc", "ls", "-A", folder).decode().split())


def refusing(stack: Stack) -> bool:
    return bool(stack.status().raw["disk"]["refusing"])


def test_full_storage_refuses_for_now_keeps_what_it_said_and_resumes_by_itself(small: Stack) -> None:
    acknowledged, answers = [], []
    # What is refused is answered within milliseconds, and the edge looks for the mark once a second.
    for number in range(10 * VOLUME_MB):
        uid, answer = store(small, f"full {number}")
        answers.append(answer.text)
        if answer.status == 0:
            acknowledged.append(uid)
        if answer.text == REJECTED_FOR_NOW:
            break
    assert answers[-1] == REJECTED_FOR_NOW, answers
    assert set(answers) <= {"0x0000", "0xA700", REJECTED_FOR_NOW}, answers
    assert len(acknowledged) > VOLUME_MB // 2
    assert all(held(small, uid) for uid in acknowledged)
    state = wait_until(
        small.status,
        lambda seen: bool(seen.raw["disk"]["refusing"]),
        deadline=NOTICED_WITHIN,
        what="told",
    )
    assert any("a disk is full" in alarm for alarm in state.alarms)
    assert "FULL" in small.execute("agent", "understudy", "status").decode()
    assert "understudy_intake_refused 1.0" in small.client().get("/understudy/metrics").text
    stored = small.client().post(
        "/instances",
        content=hostile.good("rest").content,
        headers={"Content-Type": "application/dicom"},
    )
    assert stored.status_code == 403
    for study in small.get("/studies")[:4]:
        delete(small, f"/studies/{study}")
    uid, _ = wait_until(
        lambda: store(small, "room again"),
        lambda answered: answered[1].status == 0,
        deadline=NOTICED_WITHIN,
        what="intake again",
    )
    assert held(small, uid)
    wait_until(lambda: refusing(small), lambda refused: not refused, deadline=NOTICED_WITHIN, what="told")


def test_full_index_gives_its_ballast_for_a_deletion(small: Stack) -> None:
    uid, _ = wait_until(
        lambda: store(small, "before the index is full", 0),
        lambda answered: answered[1].status == 0,
        deadline=NOTICED_WITHIN,
        what="intake",
    )
    assert ".understudy-ballast" in files(small, INDEX)
    # Another one fills the disk, but takes no space of the ballast, which may be given up in the middle.
    free = f"$(df --output=avail --block-size=4096 {INDEX} | tail -n 1)"
    fill = f"dd if=/dev/zero of={INDEX}/filler bs=4k count={free} status=none || true"
    small.execute("orthanc", "bash", "-c", fill)
    wait_until(
        lambda: files(small, INDEX),
        lambda seen: ".understudy-ballast" not in seen,
        deadline=NOTICED_WITHIN,
        what="the ballast given up",
    )
    answers = [store(small, f"index {number}", 0) for number in range(5)]
    assert {answer.text for _, answer in answers} <= {"0xA700", REJECTED_FOR_NOW}
    assert not any(held(small, refused) for refused, _ in answers)
    (found,) = [
        item["ID"]
        for item in small.client().post("/tools/lookup", content=uid).json()
        if item["Type"] == "Instance"
    ]
    delete(small, f"/instances/{found}/study")
    small.execute("orthanc", "rm", f"{INDEX}/filler")
    wait_until(
        lambda: store(small, "index again", 0)[1],
        lambda again: again.status == 0,
        deadline=NOTICED_WITHIN,
        what="intake again",
    )
    assert ".understudy-ballast" in files(small, INDEX)
