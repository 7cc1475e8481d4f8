"""What a crash left on the disk comes back, what a disk lost is healed, and nothing is deleted."""

import hashlib
import io
import json
import tarfile
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from tests import data
from tests.integration import past_us
from tests.lab import PRIMARY, STANDBY, Lab
from tests.stack import IMAGE, State, run, wait_until

pytestmark = pytest.mark.needs("image", "lab-image", "s3-image")

STORAGE = "/var/lib/orthanc/storage"
OURS = f"{STORAGE}/understudy"
QUARANTINE = f"{OURS}/quarantine"
PROVEN = 600
"""Seconds until all is proven: a report of the primary that met no Orthanc is awaited for five minutes."""
HEALED = 300
"""Seconds until a file is healed: what fails once is tried again after half a minute."""
BACK_WITHIN = 5
KILLS = 3


@pytest.fixture(autouse=True)
def clean(lab: Lab) -> Iterator[None]:
    """Leave no half file behind: other tests read the whole disk."""
    yield
    lab.shell("orthanc", f"rm -rf {QUARANTINE}")


def offline(lab: Lab, program: str, *arguments: str, stdin: bytes = b"") -> str:
    """Run a program on Orthanc's volumes while Orthanc is stopped."""
    once = ("run", "--rm", "--no-deps", "--no-TTY", "--entrypoint", program)
    return lab.compose(*once, "orthanc", *arguments, stdin=stdin)


def orphan(lab: Lab, contents: list[bytes]) -> dict[str, bytes]:
    """Put files into the storage area as a crash leaves them: by a new name, without a row in the index."""
    names = {str(uuid.uuid4()): content for content in contents}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in names.items():
            entry = tarfile.TarInfo(f"{name[:2]}/{name[2:4]}/{name}")
            entry.size, entry.mode = len(content), 0o600
            tar.addfile(entry, io.BytesIO(content))
    offline(lab, "tar", "--extract", "--no-same-owner", "--directory", STORAGE, stdin=buffer.getvalue())
    return names


def boot_report(lab: Lab) -> Mapping[str, Any]:
    report: Mapping[str, Any] = json.loads(lab.execute("agent", "cat", f"{OURS}/boot.json"))
    return report


def files(state: State) -> Mapping[str, Any]:
    found: Mapping[str, Any] = state.raw["files"]
    return found


def md5_at_orthanc(lab: Lab, sop_instance_uid: str) -> list[str]:
    """Return the MD5 of what Orthanc itself reads from its disk, for each instance of the UID."""
    login = lab.client()
    found = login.post("/tools/lookup", content=sop_instance_uid).json()
    answers = [login.get(f"/instances/{item['ID']}/file") for item in found if item["Type"] == "Instance"]
    return [hashlib.md5(answer.content, usedforsecurity=False).hexdigest() for answer in answers]


def file_of(lab: Lab, sop_instance_uid: str) -> str:
    """Return the path of the instance's stored file."""
    (found,) = [
        item
        for item in lab.client().post("/tools/lookup", content=sop_instance_uid).json()
        if item["Type"] == "Instance"
    ]
    name = lab.get(f"/instances/{found['ID']}/attachments/dicom/info")["Uuid"]
    return f"{STORAGE}/{name[:2]}/{name[2:4]}/{name}"


def settled(state: State) -> bool:
    return all(holder.unproven == 0 for holder in state.holders.values())


def all_proven(lab: Lab) -> State:
    """Wait until everything that is here is noted, and everybody is proven to have what they are owed."""
    held = lab.instances_at(STANDBY).total()
    return wait_until(
        lab.status,
        lambda seen: seen.instances >= held and settled(seen),
        deadline=PROVEN,
        what="everything noted and proven",
        pause=0.5,
    )


def forwarded(lab: Lab, made: data.Series) -> State:
    """Send a series to the primary, and wait until it is here, and everything is proven."""
    lab.send_all(made.paths[0].parent, calling="CT1", to=PRIMARY)
    wait_until(
        lambda: set(lab.instances_at(STANDBY)),
        lambda here: set(made.sop_instance_uids) <= here,
        deadline=180,
        what="forwarded by the primary",
        pause=0.5,
    )
    return all_proven(lab)


def test_statistics_are_in_force_in_a_real_index(lab: Lab) -> None:
    assert boot_report(lab)["statistics_in_force"] is True
    assert files(lab.status())["statistics_in_force"] is True


def test_files_without_a_row_come_back_whole_and_broken_ones_are_kept_apart(lab: Lab) -> None:
    made = data.ct_series(lab.data / "orphans", seed="orphans", instances=12, rows=64, columns=64)
    contents = [path.read_bytes() for path in made.paths]
    whole, cut = contents[:10], contents[10]
    # Sent again before the crash was noticed: the same bytes, and other bytes of the same UID.
    lab.store(made.paths[11], calling="CT1", to=STANDBY)
    stored_md5 = md5_at_orthanc(lab, made.sop_instance_uids[11])
    stored = lab.execute("orthanc", "cat", file_of(lab, made.sop_instance_uids[11]))
    altered = contents[11].replace(b"Noisy phantom", b"Other phantom")
    broken = [cut[:-1], cut[: len(cut) // 2], cut[:4096], cut[:300], cut[:131], b"", b"GIF89a" * 100, altered]
    lab.stop("orthanc")
    names = orphan(lab, [*whole, stored, *broken])
    lab.start("orthanc")
    state = wait_until(
        lab.status,
        lambda seen: files(seen)["recovered"] == 11 and files(seen)["quarantined"] == len(broken),
        deadline=180,
        what="11 files read in and the rest set aside",
    )
    assert files(state)["recovering"] == 0
    assert boot_report(lab)["quarantined"] == len(broken) - 1, "the altered one is whole: Orthanc had to say"
    all_proven(lab)
    lab.stop("orthanc")
    kept = offline(lab, "bash", "-c", f"cd {QUARANTINE} && wc -c -- *[0-9a-f] | grep -v total")
    lab.start("orthanc")
    sizes = {line.split()[1]: int(line.split()[0]) for line in kept.splitlines() if len(line.split()) == 2}
    assert sizes == {name: len(content) for name, content in names.items() if content in broken}
    for uid in made.sop_instance_uids[:10]:
        assert len(md5_at_orthanc(lab, uid)) == 1
    assert md5_at_orthanc(lab, made.sop_instance_uids[11]) == stored_md5
    shown = lab.execute("agent", "understudy", "quarantine").decode()
    assert all(name in shown for name in sizes)
    assert any("quarantine" in alarm for alarm in lab.status().alarms)
    assert set(made.sop_instance_uids[:10]) <= set(lab.instances_at(PRIMARY))


def test_flipped_bit_and_missing_file_are_found_by_one_scrub_and_healed(lab: Lab) -> None:
    made = data.ct_series(lab.data / "rot", seed="rot", instances=6, rows=128, columns=128)
    forwarded(lab, made)
    before = {uid: md5_at_orthanc(lab, uid) for uid in made.sop_instance_uids}
    flipped, missing = made.sop_instance_uids[0], made.sop_instance_uids[1]
    # Warm: Orthanc has just served both, and holds their bytes in its cache.
    script = """
        printf '\\xff\\xfe' | dd of="$1" bs=1 seek=5000 conv=notrunc status=none
        rm "$2"
    """
    lab.shell("orthanc", script, file_of(lab, flipped), file_of(lab, missing))
    healed_before = files(lab.status())["healed"]
    number = int(lab.post("/understudy/scrub", {})["operation"])
    operation = wait_until(
        lambda: lab.operation(number), lambda seen: seen["state"] != "running", deadline=180, what="scrub"
    )
    assert operation["message"].startswith("2 stored files")
    state = wait_until(
        lab.status,
        lambda seen: (
            files(seen)["healed"] == healed_before + 2
            and files(seen)["damaged"] == 0
            and not any("missing or changed" in alarm for alarm in seen.alarms)
        ),
        deadline=HEALED,
        what="both healed, and the alarm gone",
    )
    assert {uid: md5_at_orthanc(lab, uid) for uid in made.sop_instance_uids} == before
    damages = {row["sop_instance_uid"]: row for row in lab.get("/understudy/damages")}
    assert {uid for uid in (flipped, missing) if damages[uid]["state"] == "healed"} == {flipped, missing}
    assert "gave it back with the same bytes" in damages[flipped]["reason"]
    assert lab.status().instances == state.instances
    lab.finished(int(lab.post("/understudy/scrub", {})["operation"]), deadline=180)


def test_row_without_a_file_is_told_by_the_next_start_and_healed(lab: Lab) -> None:
    made = data.ct_series(lab.data / "gone", seed="gone", instances=2, rows=64, columns=64)
    forwarded(lab, made)
    before = md5_at_orthanc(lab, made.sop_instance_uids[0])
    path = file_of(lab, made.sop_instance_uids[0])
    lab.stop("orthanc")
    offline(lab, "truncate", "--size", "100", path)
    offline(lab, "touch", str(Path(path).parent / "noticed"))
    offline(lab, "rm", str(Path(path).parent / "noticed"))
    lab.start("orthanc")
    assert boot_report(lab)["unreadable"] == 1
    healed = wait_until(
        lambda: md5_at_orthanc(lab, made.sop_instance_uids[0]),
        lambda seen: seen == before,
        deadline=HEALED,
        what="healed from the primary",
    )
    assert healed == before


def test_file_that_the_primary_does_not_have_is_healed_from_a_vault(lab: Lab) -> None:
    made = data.ct_series(lab.data / "alone", seed="alone-in-vault", instances=2, rows=64, columns=64)
    epoch = lab.promote("a test of healing", force=True).epoch
    lab.send_all(made.paths[0].parent, calling="CT1", to=STANDBY)
    wait_until(
        lab.status,
        lambda seen: seen.holders["local"].unproven == 0 and seen.holders["primary"].owed >= 2,
        deadline=180,
        what="in the vault",
    )
    uid = made.sop_instance_uids[0]
    before = md5_at_orthanc(lab, uid)
    lab.shell("orthanc", 'rm "$1"', file_of(lab, uid))
    number = int(lab.post("/understudy/scrub", {})["operation"])
    wait_until(
        lambda: lab.operation(number), lambda seen: seen["state"] != "running", deadline=180, what="scrub"
    )
    state = wait_until(
        lab.status, lambda seen: files(seen)["damaged"] == 1, deadline=120, what="open: no holder gives it"
    )
    assert any("missing or changed" in alarm for alarm in state.alarms)
    identity = lab.first_start().identity.encode()
    said = lab.execute(
        "agent", "understudy", "heal", "--vault", "local", "--identity-file", "-", stdin=identity
    ).decode()
    assert "1 of 1 file" in said
    wait_until(lab.status, lambda seen: files(seen)["damaged"] == 0, deadline=HEALED, what="healed")
    assert md5_at_orthanc(lab, uid) == before
    number = lab.failback()
    lab.finished(number, deadline=PROVEN)
    assert lab.settled(deadline=PROVEN).epoch == epoch


def letters(lab: Lab, study: str) -> list[tuple[str, str, int]]:
    found = lab.get(f"/understudy/dead-letters?study_instance_uid={study}")
    return [(row["holder"], row["reason"], row["instances"]) for row in found]


def test_what_was_deleted_before_it_was_delivered_is_a_dead_letter_until_it_comes_again(lab: Lab) -> None:
    made = data.ct_series(lab.data / "deleted", seed="deleted", instances=2, rows=64, columns=64)
    study, deleted = made.study_instance_uid, made.sop_instance_uids[0]
    # What the test before left would be owed to the archive as well.
    all_proven(lab)
    lab.stop("archive")
    lab.send_all(made.paths[0].parent, calling="CT1", to=PRIMARY)
    wait_until(
        lab.status,
        lambda seen: (
            seen.holders["archive"].owed == 2
            and all(holder.unproven == 0 for name, holder in seen.holders.items() if name != "archive")
        ),
        deadline=PROVEN,
        what="owed to the archive alone",
    )
    explained = lab.post("/understudy/routes/explain", {"study_instance_uid": study})
    (one,) = explained["explanations"]
    assert (one["instances"], "archive" in one["owed"]) == (2, True)
    assert one["routes"][0]["conditions"] == [{"asks": "Modality is CT", "values": ["CT"], "holds": True}]
    orthanc_id = next(
        item["ID"]
        for item in lab.client().post("/tools/lookup", content=deleted).json()
        if item["Type"] == "Instance"
    )
    past_us.delete(lab, f"/instances/{orthanc_id}")
    lab.start("archive")
    letter = ("archive", "it was deleted here; cloud, local, primary has it", 1)
    for _ in range(2):
        wait_until(
            lambda: letters(lab, study), lambda seen: seen == [letter], deadline=180, what="a dead letter"
        )
        # Tried again while it is not here, it comes back as a letter.
        assert lab.post("/understudy/obligations/replay", {"study_instance_uid": study}) == {"changed": 1}
    wait_until(lambda: letters(lab, study), lambda seen: seen == [letter], deadline=180, what="a dead letter")
    assert any("archive refused 1 image" in alarm for alarm in lab.status().alarms)
    assert deleted not in {row["sop_instance_uid"] for row in lab.get("/understudy/damages")}
    wait_until(
        lambda: set(made.sop_instance_uids) - lab.uids_at_archive(),
        lambda lacking: lacking == {deleted},
        deadline=180,
        what="the other one at the archive",
    )
    # The primary gets it once more and forwards it.
    lab.delete_at_primary(deleted)
    lab.send_all(made.paths[0].parent, calling="CT1", to=PRIMARY)
    wait_until(lab.status, settled, deadline=PROVEN, what="everything proven")
    assert letters(lab, study) == []
    assert set(made.sop_instance_uids) <= lab.uids_at_archive()


def test_index_that_was_lost_is_noticed_and_nothing_is_owed_twice(lab: Lab) -> None:
    made = data.ct_series(lab.data / "lost-index", seed="lost-index", instances=2, rows=64, columns=64)
    before = forwarded(lab, made)
    kept, lost = made.sop_instance_uids
    md5, had, path = md5_at_orthanc(lab, lost), lab.instances_at(STANDBY), file_of(lab, lost)
    lab.stop("orthanc")
    # Orthanc makes a new index; all files but one lie on the disk.
    offline(lab, "bash", "-c", 'rm "$1" /var/lib/orthanc/index/index*', "bash", path)
    lab.start("orthanc")

    def missed(state: State) -> bool:
        return any("lacks" in alarm for alarm in state.alarms)

    state = wait_until(lab.status, missed, deadline=300, what="compared, and one is missed", pause=0.5)
    assert had - lab.instances_at(STANDBY) == {lost: 1}
    # What is not here is not counted as held, a moment later.
    state = wait_until(
        lab.status,
        lambda seen: settled(seen) and seen.instances == before.instances - 1,
        deadline=PROVEN,
        what="counted no more",
    )
    rescans = [item for item in state.raw["operations"] if item["kind"] == "rescan"]
    assert rescans
    assert [(one["state"], one["done"]) for one in rescans] == [("failed", one["total"]) for one in rescans]
    damages = {row["sop_instance_uid"]: row for row in lab.get("/understudy/damages")}
    assert (damages[lost]["state"], kept in damages) == ("gone", False)
    lab.execute("agent", "understudy", "heal", "--missed")
    wait_until(lab.status, lambda seen: not missed(seen), deadline=HEALED, what="asked for", pause=0.5)
    healed = wait_until(
        lambda: md5_at_orthanc(lab, lost), lambda seen: seen == md5, deadline=HEALED, what="from the primary"
    )
    assert healed == md5
    after = all_proven(lab)
    assert (lab.instances_at(STANDBY), after.instances) == (had, before.instances)


def test_orthanc_killed_answers_again_within_5_s(lab: Lab) -> None:
    """Of several kills one counts: the machine may be busy with something else."""
    all_proven(lab)
    took: list[float] = []
    while not took or (took[-1] >= BACK_WITHIN and len(took) < KILLS):
        took.append(seconds_after_a_kill(lab))
    assert took[-1] < BACK_WITHIN, took


def seconds_after_a_kill(lab: Lab) -> float:
    """Kill the process, and return the seconds until C-ECHO is answered.

    Not the container: Docker restarts nothing that it was told to kill.
    """
    state = lab.inspect("orthanc")["State"]
    # Docker waits longer before each restart of what ran for less than 10 s.
    wait_until(
        lambda: time.time() - datetime.fromisoformat(state["StartedAt"]).timestamp(),
        lambda age: age > 11,
        deadline=15,
        what="Orthanc for 11 s",
    )
    pid, container, address = state["Pid"], lab.container("orthanc"), lab.dicom
    kill = ("--rm", "--pid", "host", "--user", "0", "--entrypoint", "bash", IMAGE, "-c", f"kill -KILL {pid}")
    run(["docker", "run", *kill])

    def answered() -> float | None:
        now = run(["docker", "inspect", "--format", "{{.State.Pid}}", container])
        return time.time() if int(now) != pid and echoes(address) else None

    at = wait_until(answered, lambda seen: seen is not None, deadline=60, what="C-ECHO answered", pause=0.05)
    died = datetime.fromisoformat(lab.inspect("orthanc")["State"]["FinishedAt"])
    lab.healthy("orthanc", deadline=120)
    assert at is not None
    return at - died.timestamp()


def echoes(address: tuple[str, int]) -> bool:
    entity = AE(ae_title="PROBE")
    entity.add_requested_context(Verification)
    association = entity.associate(*address, ae_title="STANDBY")
    if not association.is_established:
        return False
    status = association.send_c_echo()
    association.release()
    return "Status" in status and status.Status == 0x0000
