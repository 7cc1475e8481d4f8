"""Every hostile object by C-STORE and by REST: what each did is a table, and nothing of ours breaks.

The table is printed and written to build/hostile.json.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import pytest

from tests import hostile
from tests.hostile import Hostile
from tests.integration import raw_store
from tests.stack import BUILD, TEST_PROJECT, Stack, StackError, run, wait_until

SERVICES = ("edge", "orthanc", "agent")
BACK_WITHIN = 5.0
"""Seconds in which a good store has to work after any object."""
PATIENCE = 60.0
REFUSED_STATUSES = range(0xA700, 0xD000)
PARKED = 0xC000
NO_COMMAND = frozenset({"sop-uid-76", "sop-uid-blanks"})
"""What no C-STORE-RQ can name: without a command there is nothing to answer (DICOM PS3.7 9.3.1)."""
LARGE, LITTLE_MEMORY = 160 * 2**20, "300m"
"""Bytes of a valid image, and memory with which Orthanc cannot receive it."""


@dataclass(slots=True)
class Row:
    """What one object did."""

    object: str
    way: str
    bytes: int
    answer: str
    seconds: float
    stored: bool
    memory_peak_mb: int | None
    restarted: str
    good_store_after: float

    @property
    def name(self) -> str:
        return f"{self.object} by {self.way}"

    def __str__(self) -> str:
        peak = "" if self.memory_peak_mb is None else f"{self.memory_peak_mb} MB"
        return (
            f"{self.object:<24} {self.way:<8} {self.bytes:>9} {self.answer:<34} {self.seconds:>6.2f} s "
            f"{'stored' if self.stored else 'refused':<8} {peak:>8} {self.restarted or '-':<8} "
            f"{self.good_store_after:>5.2f} s"
        )


class Clinic:
    """The appliance under attack, and what it was told to keep."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.address = stack.dicom
        self.containers = {service: stack.container(service) for service in SERVICES}
        self.good: list[str] = []
        self.rows: list[Row] = []
        self._before = self.runs(), self.held()

    def try_all(self) -> None:
        for way in ("C-STORE", "REST"):
            for item in hostile.corpus(way):
                if way == "REST" or item.headers is None:
                    self.rows.append(self._try(item, way))

    def _try(self, item: Hostile, way: str) -> Row:
        before, held = self._before
        _forget_peak(before["orthanc"])
        began = time.monotonic()
        answer = self._c_store(item) if way == "C-STORE" else self._rest(item)
        ended = time.monotonic()
        back = self.good_store(f"{way} {item.name}")
        after, held_after = self._before = self.runs(), self.held()
        return Row(
            object=item.name,
            way=way,
            bytes=len(item.content),
            answer=answer,
            seconds=ended - began,
            stored=held_after - held == 2,
            memory_peak_mb=_peak(after["orthanc"]) if after == before else None,
            restarted=" ".join(service for service in SERVICES if after[service] != before[service]),
            good_store_after=back,
        )

    def _c_store(self, item: Hostile) -> str:
        return raw_store.store(self.address, item, patience=PATIENCE).text

    def _rest(self, item: Hostile) -> str:
        headers = dict(item.headers or {"Content-Type": "application/dicom"})
        try:
            answer = self.stack.client().post(
                "/instances", content=item.content, headers=headers, timeout=PATIENCE
            )
        except httpx.TransportError as error:
            return f"connection lost ({type(error).__name__})"
        return str(answer.status_code)

    def good_store(self, seed: str) -> float:
        """Store a good image, trying again as a modality does, and return the seconds that it took."""
        began = time.monotonic()
        item = hostile.good(seed)
        wait_until(
            lambda: raw_store.store(self.address, item, patience=BACK_WITHIN),
            lambda answer: answer.status == 0,
            deadline=4 * BACK_WITHIN,
            what=f"a good store after {seed}",
            pause=0.1,
        )
        self.good.append(item.uid)
        return time.monotonic() - began

    def held(self) -> int:
        statistics = wait_until(
            lambda: self.stack.get("/statistics"), bool, deadline=20, what="Orthanc's statistics", pause=0.1
        )
        return int(statistics["CountInstances"])

    def runs(self) -> dict[str, int]:
        """Return the process of each service: another one means that it was restarted."""
        ids = list(self.containers.values())
        found = json.loads(run(["docker", "inspect", *ids]))
        return {service: int(state["State"]["Pid"]) for service, state in zip(SERVICES, found, strict=True)}


def _forget_peak(process: int) -> None:
    try:
        Path(f"/proc/{process}/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        # Without the right to, the peak is that of the process' life so far.
        return


def _peak(process: int) -> int | None:
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text(encoding="ascii"))
    except OSError:
        return None
    return int(found[1]) // 1024 if found else None


@contextmanager
def _memory(container: str, limit: str) -> Iterator[None]:
    """Give a container other memory for a while."""
    before = json.loads(run(["docker", "inspect", container]))[0]["HostConfig"]["Memory"]

    def set_to(memory: str) -> None:
        run(["docker", "update", "--memory", memory, "--memory-swap", memory, container])

    set_to(limit)
    try:
        yield
    finally:
        set_to(str(before))


@contextmanager
def _others(clinic: Clinic, count: int) -> Iterator[list[str]]:
    """Let other devices send good images all the time; yield the UIDs that they were told success for."""
    stored: list[str] = []
    ended = threading.Event()

    def send(device: int) -> None:
        number = 0
        while not ended.is_set():
            item = hostile.good(f"device {device} image {number}")
            if raw_store.store(clinic.address, item, patience=PATIENCE, calling=f"CT{device}").status == 0:
                stored.append(item.uid)
                number += 1
            else:
                # The same one again, as a modality does.
                ended.wait(0.2)

    with ThreadPoolExecutor(count) as devices:
        sending = [devices.submit(send, device) for device in range(count)]
        try:
            yield stored
        finally:
            ended.set()
    for future in sending:
        future.result()


@pytest.fixture(scope="module")
def clinic() -> Iterator[Clinic]:
    """The appliance after all of it; the table is printed and written."""
    stack = Stack(f"{TEST_PROJECT}-hostile", lab=False)
    stack.down()
    try:
        stack.up()
        clinic = Clinic(stack)
        clinic.try_all()
        BUILD.mkdir(exist_ok=True)
        table = [asdict(row) for row in clinic.rows]
        (BUILD / "hostile.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
        print("\n".join(map(str, clinic.rows)))
        yield clinic
    except StackError:
        print(stack.logs())
        raise
    finally:
        stack.down()


def test_nothing_ends_a_service(clinic: Clinic) -> None:
    assert not {row.name: row.restarted for row in clinic.rows if row.restarted}


def test_a_good_store_works_within_5_s_after_each(clinic: Clinic) -> None:
    late = [str(row) for row in clinic.rows if row.good_store_after > BACK_WITHIN]
    assert not late, "\n".join(late)


def test_each_is_stored_or_refused_and_told_so(clinic: Clinic) -> None:
    wrong = []
    for row in clinic.rows:
        if row.stored:
            right = row.answer in ("0x0000", "200")
        elif row.way == "REST":
            right = row.answer.startswith(("4", "5"))
        else:
            right = (row.answer == "association aborted" and row.object in NO_COMMAND) or (
                row.answer.startswith("0x") and int(row.answer, 16) in REFUSED_STATUSES
            )
        if not right:
            wrong.append(str(row))
    assert not wrong, "\n".join(wrong)


def test_everything_good_is_still_there(clinic: Clinic) -> None:
    query = {"Level": "Instance", "Query": {"PatientID": hostile.CANARY_ID}, "Expand": False}
    assert len(clinic.good) == len(clinic.rows)
    found = {
        item["ID"]
        for uid in clinic.good
        for item in clinic.stack.client().post("/tools/lookup", content=uid).json()
        if item["Type"] == "Instance"
    }
    assert len(found) == len(set(clinic.good))
    assert found <= set(clinic.stack.post("/tools/find", query))


def test_every_reader_of_what_was_stored_survives(clinic: Clinic) -> None:
    """A stored object that ends whoever reads it would do so again and again."""
    client, before = clinic.stack.client(), clinic.runs()
    for orthanc_id in clinic.stack.get("/instances"):
        for path in ("tags", "simplified-tags", "metadata?expand", "file", "study"):
            answer = client.get(f"/instances/{orthanc_id}/{path}")
            assert answer.status_code == 200, (orthanc_id, path, answer.text)
    for path in ("/dicom-web/studies", "/dicom-web/series", "/dicom-web/instances"):
        assert client.get(path).status_code == 200, path
    for study in clinic.stack.get("/studies"):
        uid = clinic.stack.get(f"/studies/{study}")["MainDicomTags"].get("StudyInstanceUID", "")
        if re.fullmatch(r"[0-9.]{1,64}", uid):
            assert client.get(f"/dicom-web/studies/{uid}/metadata").status_code == 200, uid
    assert clinic.runs() == before


def test_ledger_and_vault_have_all_that_was_stored(clinic: Clinic) -> None:
    count = clinic.held()
    state = wait_until(
        clinic.stack.status,
        lambda state: state.instances == count and state.holders["local"].unproven == 0,
        deadline=90,
        what="everything noted and in the vault",
    )
    assert state.holders["local"].proven == count


def test_every_stored_object_comes_back_from_the_vault_byte_for_byte(clinic: Clinic) -> None:
    test_ledger_and_vault_have_all_that_was_stored(clinic)
    stack = clinic.stack
    identity = stack.first_start().identity
    command = "rm -rf /tmp/back; understudy restore --vault local --identity-file - --to /tmp/back >/dev/null"
    stack.execute("agent", "bash", "-c", command, stdin=identity.encode())
    sums = stack.execute("agent", "bash", "-c", "find /tmp/back -type f -exec sha256sum {} + | cut -c1-64")
    restored = sums.decode().split()
    kept = [
        hashlib.sha256(stack.client().get(f"/instances/{orthanc_id}/file").content).hexdigest()
        for orthanc_id in stack.get("/instances")
    ]
    assert sorted(restored) == sorted(kept)
    sent = {
        hashlib.sha256(item.content).hexdigest(): item.name
        for item in hostile.corpus("REST", 2**20)
        if item.headers is None and "bomb" not in item.name
    }
    stored = {row.object for row in clinic.rows if row.stored and row.way == "REST"}
    assert {sent[digest] for digest in restored if digest in sent} == stored - {"gzip-good", "deflate-bomb"}


def test_no_name_leaves_its_place(clinic: Clinic) -> None:
    """No path is made from a UID: everything that any service wrote lies under names of ours."""
    look = "find /var/lib/understudy /var/lib/understudy-vault -type f -printf '%p\\n'"
    for name in clinic.stack.execute("agent", "bash", "-c", look).decode().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._/-]+", name), name
        assert "passwd" not in name, name
    for service in SERVICES:
        changed = run(["docker", "diff", clinic.containers[service]]).decode().split("\n")
        assert not [line for line in changed if "passwd" in line], service


def test_console_cli_and_status_show_it_without_a_fault(clinic: Clinic) -> None:
    stack, client = clinic.stack, clinic.stack.client()
    assert stack.status().mode == "standby"
    for path in ("status", "metrics", "obligations?limit=1000", "modalities", "operations", "console/"):
        assert client.get(f"/understudy/{path}").status_code == 200, path
    for command in (("status",), ("obligations",), ("modalities",)):
        shown = stack.execute("agent", "understudy", *command).decode()
        assert "\x1b" not in shown
        assert "Traceback" not in shown
    assert not [alarm for alarm in stack.status().alarms if "Error" in alarm]


def test_no_log_shows_the_planted_patient_or_a_forged_line(clinic: Clinic) -> None:
    for service, container in clinic.containers.items():
        log = run(["sh", "-c", f"docker logs {container} 2>&1"]).decode("utf-8", "replace")
        assert len(log) > 100, service
        for planted in (*hostile.CANARIES, hostile.FORGED, "\x1b[2J", "Traceback"):
            lines = [line for line in log.splitlines() if planted in line]
            assert not lines, (service, planted, lines[:3])


def test_what_ends_orthanc_twice_is_parked_by_itself_until_it_is_released(clinic: Clinic) -> None:
    stack, large = clinic.stack, hostile.good("larger than the memory", LARGE)
    held = clinic.held()
    back, answers = [], []
    # What it took for the objects before would not fit.
    stack.restart("orthanc")
    with _memory(clinic.containers["orthanc"], LITTLE_MEMORY), _others(clinic, 4) as stored:
        for attempt in range(3):
            answers.append(raw_store.store(clinic.address, large, patience=PATIENCE).status)
            back.append(clinic.good_store(f"attempt {attempt}"))
    assert answers == [None, None, PARKED]
    assert max(back) < BACK_WITHIN, back
    assert clinic.held() == held + len(answers) + len(stored)

    shown = stack.execute("agent", "understudy", "quarantine").decode().splitlines()
    assert len(shown) == 1, shown
    assert shown[0].startswith(f"{large.uid}  from HOSTILE: parked, Orthanc ended 2 times"), shown
    wait_until(
        stack.status,
        lambda state: any("1 instances are parked" in alarm for alarm in state.alarms),
        deadline=20,
        what="the alarm",
    )
    headers = {"Content-Type": "application/dicom"}
    refused = stack.client().post("/instances", content=large.content, headers=headers)
    assert refused.status_code == 500

    stack.execute("orthanc", "understudy", "quarantine", "--release", large.uid)
    assert raw_store.store(clinic.address, large, patience=PATIENCE).status == 0
    assert stack.execute("agent", "understudy", "quarantine") == b""
    assert not [alarm for alarm in stack.status().alarms if "parked" in alarm]
