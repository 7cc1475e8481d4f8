"""Every hostile object by C-STORE and by REST: what each did is a table, and nothing of ours breaks.

The table is printed and written to build/hostile.json.
"""

import hashlib
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import pytest

from tests import bombs, hostile
from tests.hostile import Hostile
from tests.integration import raw_store
from tests.stack import BUILD, TEST_PROJECT, Stack, StackError, run, wait_until

pytestmark = pytest.mark.needs("image")

SERVICES = ("edge", "orthanc", "agent")
ENDS_AT_MOST = 6
BACK_WITHIN = 5.0
"""Seconds in which a good store has to work after any object."""
PATIENCE = 60.0
REFUSED_STATUSES = range(0xA700, 0xD000)
PARKED = 0xC000
NO_COMMAND = frozenset({"sop-uid-76", "sop-uid-blanks"})
"""What no C-STORE-RQ can name: without a command there is nothing to answer (DICOM PS3.7 9.3.1)."""
INFLATED = frozenset({"deflate-bomb", "gzip-bomb", "zip-bomb"})
"""Objects that are another size in another run."""
LARGE = 64 * 2**20
"""Bytes of a valid image that is on its way for a while."""
SIDE = 5000
"""Rows and columns of an image that is decoded for a while."""
LONG_SIDE = 7500
"""Of one that is decoded for longer than anybody waits for its turn."""
NEIGHBOUR_WITHIN = 1.0
UNDECODED = re.compile("bytes, more than|no rows or no columns|follows its pixels|samples a pixel")
TURN = 2.0
"""Seconds after which nobody waits any longer for a suspect (docker/reception/parking.cc)."""
NOTES = "var/lib/orthanc/storage/understudy/parking/on-the-way"


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
            for item in (*hostile.corpus(way), *bombs.corpus(way)):
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
def _ended_during(stack: Stack, note: str) -> Iterator[None]:
    """End Orthanc as the kernel does, at the moment when it works on what the note says.

    A note lasts for milliseconds. So the process is stopped, and ended where the note is there still.
    """
    process = stack.pid("orthanc")
    notes = Path(f"/proc/{process}/root/{NOTES}")
    threads = Path(f"/proc/{process}/task")
    # Docker waits twice as long before each restart of what ran for less than 10 s.
    wait_until(lambda: _age(process), lambda age: age > 11, deadline=20, what="Orthanc for 11 s")
    end = time.monotonic() + PATIENCE

    def works_on_it() -> bool:
        return note.encode() in notes.read_bytes()

    def stopped() -> bool:
        try:
            states = [stat.read_text().rpartition(")")[2].split()[0] for stat in threads.glob("*/stat")]
        except OSError:
            # One of them ended meanwhile.
            return False
        return all(state in "TZX" for state in states)

    def wait() -> None:
        while True:
            while not works_on_it():
                assert time.monotonic() < end, note
            os.kill(process, signal.SIGSTOP)
            wait_until(stopped, bool, deadline=20, what="Orthanc stopped", pause=0.001)
            if works_on_it():
                break
            os.kill(process, signal.SIGCONT)
        os.kill(process, signal.SIGKILL)

    with ThreadPoolExecutor(1) as watching:
        watched = watching.submit(wait)
        yield
        watched.result()
    _answers_again(stack)


def _age(process: int) -> float:
    """Return for how many seconds a process runs."""
    started = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - started / os.sysconf("SC_CLK_TCK")


def _answers_again(stack: Stack) -> None:
    """The edge may take note of the end only after Orthanc is back, and then answers 503 for a second."""
    in_a_row = 0

    def ask() -> int:
        nonlocal in_a_row
        before, in_a_row = in_a_row, 0
        stack.get("/system")
        in_a_row = before + 1
        return in_a_row

    wait_until(ask, lambda answers: answers == 6, deadline=120, what="Orthanc again", pause=0.4)


def _parked(stack: Stack) -> list[str]:
    """Return what `understudy quarantine` says of the parked; an end may leave halves of files there, too."""
    shown = stack.execute("agent", "understudy", "quarantine").decode().splitlines()
    return [line for line in shown if ": parked, " in line]


def _suspects(stack: Stack) -> list[str]:
    """Return what Orthanc's ends are counted for, as `ENDS ends CALLING UID`."""
    file = NOTES.replace("on-the-way", "suspects")
    lines = stack.shell("orthanc", f"cat /{file} 2>/dev/null || true").splitlines()
    return [f"{ends} ends {calling} {uid}" for ends, _, calling, uid in map(str.split, lines)]


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
        deadline=300,
        what="everything noted and in the vault",
    )
    assert state.holders["local"].proven == count


def test_every_stored_object_comes_back_from_the_vault_byte_for_byte(clinic: Clinic) -> None:
    test_ledger_and_vault_have_all_that_was_stored(clinic)
    stack = clinic.stack
    identity = stack.first_start().identity
    command = "rm -rf /tmp/back; understudy restore --vault local --identity-file - --to /tmp/back >/dev/null"
    stack.execute("agent", "bash", "-c", command, stdin=identity.encode(), timeout=900)
    sums = stack.execute("agent", "bash", "-c", "find /tmp/back -type f -exec sha256sum {} + | cut -c1-64")
    restored = sums.decode().split()
    kept = [
        hashlib.sha256(stack.client().get(f"/instances/{orthanc_id}/file").content).hexdigest()
        for orthanc_id in stack.get("/instances")
    ]
    assert sorted(restored) == sorted(kept)
    sent = {
        hashlib.sha256(item.content).hexdigest(): item.name
        for item in (*hostile.corpus("REST", 2**20), *bombs.corpus("REST"))
        if item.headers is None and item.name not in INFLATED
    }
    stored = {row.object for row in clinic.rows if row.stored and row.way == "REST"}
    assert {sent[digest] for digest in restored if digest in sent} == stored - {"gzip-good", *INFLATED}


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


def _web(tags: dict[str, str]) -> str:
    return (
        f"/dicom-web/studies/{tags['StudyInstanceUID']}/series/{tags['SeriesInstanceUID']}"
        f"/instances/{tags['SOPInstanceUID']}"
    )


def _stored(clinic: Clinic, uid: str) -> tuple[str, str]:
    """Return Orthanc's identifier of an instance and its path in DICOMweb."""
    client = clinic.stack.client()
    (found,) = [
        item["ID"] for item in client.post("/tools/lookup", content=uid).json() if item["Type"] == "Instance"
    ]
    return found, _web(client.get(f"/instances/{found}/simplified-tags").json())


@contextmanager
def _neighbour(clinic: Clinic) -> Iterator[list[float]]:
    """Store good images all the time; yield the seconds that each took."""
    took: list[float] = []
    ended = threading.Event()

    def send() -> None:
        while not ended.is_set():
            item = hostile.good(f"neighbour {len(took)} {clinic.held()}")
            began = time.monotonic()
            assert raw_store.store(clinic.address, item, patience=PATIENCE, calling="CT9").status == 0
            took.append(time.monotonic() - began)

    with ThreadPoolExecutor(1) as devices:
        sending = devices.submit(send)
        try:
            yield took
        finally:
            ended.set()
    sending.result()


def _undelayed(took: list[float]) -> bool:
    """Return whether the stores waited for nobody; this machine's own disk may hold up one of them."""
    *others, slowest = sorted(took)
    return slowest < TURN and all(seconds < NEIGHBOUR_WITHIN for seconds in others)


def test_no_bomb_is_decoded_and_no_neighbour_waits(clinic: Clinic) -> None:
    client, before = clinic.stack.client(), clinic.runs()
    raw = {"Accept": 'multipart/related; type="application/octet-stream"; transfer-syntax=*'}
    stored = [(way, item) for way in ("C-STORE", "REST") for item in bombs.corpus(way)]
    with _neighbour(clinic) as took:
        for way, item in stored:
            found, web = _stored(clinic, item.uid)
            explicit = "1.2.840.10008.1.2.1"
            refused = [
                f"/instances/{found}/preview",
                f"/instances/{found}/rendered",
                f"/instances/{found}/image-uint8",
                f"/instances/{found}/numpy",
                f"/instances/{found}/frames/0/matlab",
                f"{web}/rendered",
                f"{web}/thumbnail",
                f"{web}/frames/1",
                f"{web}/frames/1/rendered",
                f"/wado?requestType=WADO&objectUID={item.uid}",
            ]
            if item.transfer_syntax != explicit:
                refused += [f"/instances/{found}/file?transcode={explicit}", web]
            for path in refused:
                answer = client.get(path)
                assert answer.status_code == 422, (item.name, path, answer.text)
                assert UNDECODED.search(answer.json()["Message"]), (item.name, path)
            assert client.get(f"{web}/frames/1", headers=raw).status_code == 422
            file = client.get(f"/instances/{found}/file").content
            # Orthanc writes another head to what came by C-STORE, and odd elements in another form.
            assert file == item.content if way == "REST" else file[128:132] == b"DICM"
            if item.name.removeprefix("bomb-") in bombs.NAMES:
                assert file.endswith(item.data_set), item.name
            # What the table does not know meets the limits of the process (docker/reception).
            series = client.get(f"/instances/{found}/series").json()["ID"]
            for path in (
                f"/series/{series}/numpy",
                f"/series/{series}/archive?transcode={explicit}",
                f"{web.rpartition('/instances')[0]}/rendered",
                web.rpartition("/instances")[0],
            ):
                client.get(path)
            change = {"Replace": {"PatientName": "X"}, "Transcode": explicit}
            client.post(f"/instances/{found}/modify", json=change)
    assert clinic.runs() == before
    assert _undelayed(took), sorted(took)[-3:]


def test_no_broken_frame_ends_orthanc(clinic: Clinic) -> None:
    """The headers are those of a small image; each frame ends before its image does."""
    client, before = clinic.stack.client(), clinic.runs()
    for name in bombs.SYNTAXES:
        frame = [bombs.frame(name, 64)]
        item = bombs.bomb(name, "broken frame", rows=64, columns=64, frames=frame)
        assert raw_store.store(clinic.address, item, patience=PATIENCE).status == 0, name
        found, web = _stored(clinic, item.uid)
        for path in (
            f"/instances/{found}/preview",
            f"/instances/{found}/numpy",
            f"/instances/{found}/file?transcode=1.2.840.10008.1.2.1",
            f"{web}/rendered",
            f"{web}/frames/1",
        ):
            client.get(path)
            assert clinic.runs() == before, (name, path)


def test_no_rendering_is_made_at_any_size_or_of_a_frame_that_is_not_there(clinic: Clinic) -> None:
    client, before = clinic.stack.client(), clinic.runs()
    found, web = _stored(clinic, clinic.good[0])
    with _neighbour(clinic) as took:
        for path in (
            f"{web}/rendered?viewport=40000,40000",
            f"{web}/thumbnail?viewport=40000,40000",
            f"/instances/{found}/rendered?width=40000",
            f"/instances/{found}/frames/0/rendered?height=40000",
        ):
            assert client.get(path).status_code == 400, path
        for frame in ("1", "-1", "x", "99999999999"):
            assert client.get(f"/instances/{found}/frames/{frame}/rendered").status_code == 404, frame
        for frame in ("0", "2", "-1", "x", "1,2", "99999999999"):
            assert client.get(f"{web}/frames/{frame}").status_code == 404, frame
            assert client.get(f"{web}/frames/{frame}/rendered").status_code == 404, frame
        shown = {"Accept": "image/jpeg"}
        assert client.get(f"{web}/rendered?viewport=512,512", headers=shown).status_code == 200
        assert client.get(f"/instances/{found}/preview", headers=shown).status_code == 200
    assert clinic.runs() == before
    assert _undelayed(took), sorted(took)[-3:]


def test_the_health_checks_ask_what_a_modality_asks_and_leave_nothing(clinic: Clinic) -> None:
    stack, held = clinic.stack, clinic.held()
    for service in SERVICES:
        assert b"does its work" in stack.execute(service, "healthy", service)
    assert clinic.held() == held
    for service, container in clinic.containers.items():
        log = run(["sh", "-c", f"docker logs {container} 2>&1"]).decode("utf-8", "replace")
        assert "UNDERSTUDY-CHECK" not in log, service
    assert b"UNDERSTUDY-CHECK" not in stack.execute("agent", "understudy", "modalities")
    run(["docker", "pause", clinic.containers["orthanc"]])
    try:
        with pytest.raises(StackError, match="edge does not do its work"):
            stack.execute("edge", "sh", "-c", "healthy edge >&2")
    finally:
        run(["docker", "unpause", clinic.containers["orthanc"]])


def test_an_orderly_restart_is_no_alarm(clinic: Clinic) -> None:
    clinic.stack.restart("orthanc")
    wait_until(
        clinic.stack.status,
        lambda state: not any("does not answer" in alarm for alarm in state.alarms),
        deadline=60,
        what="Orthanc again",
    )
    assert not [alarm for alarm in clinic.stack.status().alarms if "Orthanc crashed" in alarm]


def test_an_instance_that_is_posted_again_is_no_suspect(clinic: Clinic) -> None:
    """Orthanc answers AlreadyStored, and the plugin's callback of a stored instance never comes."""
    stack, item = clinic.stack, hostile.good("posted again")
    headers = {"Content-Type": "application/dicom"}
    for _ in range(4):
        assert stack.client().post("/instances", content=item.content, headers=headers).status_code == 200
    os.kill(stack.pid("orthanc"), signal.SIGKILL)
    wait_until(lambda: stack.get("/system"), bool, deadline=120, what="Orthanc again", pause=0.1)
    assert not [suspect for suspect in _suspects(stack) if item.uid in suspect]
    wait_until(
        stack.status,
        lambda state: any("Orthanc crashed once in the last 24 h" in a for a in state.alarms),
        deadline=60,
        what="the alarm of its end",
    )


def test_what_ends_orthanc_twice_is_parked_by_itself_until_it_is_released(clinic: Clinic) -> None:
    stack, large = clinic.stack, hostile.good("large", LARGE)
    held = clinic.held()
    back, answers = [], []
    with _others(clinic, 4) as stored:
        # A second end counts where nothing else was worked on: what could not wait any longer is company.
        for attempt in range(ENDS_AT_MOST):
            with _ended_during(stack, f"HOSTILE {large.uid}"):
                answers.append(raw_store.store(clinic.address, large, patience=PATIENCE).status)
            back.append(clinic.good_store(f"attempt {attempt}"))
            if f"2 ends HOSTILE {large.uid}" in _suspects(stack):
                break
        answers.append(raw_store.store(clinic.address, large, patience=PATIENCE).status)
    *ended, after = answers
    assert set(ended) == {None}, answers
    assert after == PARKED, answers
    assert max(back) < BACK_WITHIN, back
    assert clinic.held() == held + len(back) + len(stored)

    shown = _parked(stack)
    assert len(shown) == 1, shown
    assert shown[0].startswith(f"{large.uid}  from HOSTILE: parked, Orthanc ended 2 times"), shown
    wait_until(
        stack.status,
        lambda state: any("1 image is parked" in alarm for alarm in state.alarms),
        deadline=60,
        what="the alarm",
    )
    headers = {"Content-Type": "application/dicom"}
    refused = stack.client().post("/instances", content=large.content, headers=headers)
    assert refused.status_code == 500

    stack.execute("orthanc", "understudy", "quarantine", "--release", large.uid)
    assert raw_store.store(clinic.address, large, patience=PATIENCE).status == 0
    assert _parked(stack) == []
    wait_until(
        stack.status,
        lambda state: not any("parked" in alarm for alarm in state.alarms),
        deadline=60,
        what="no alarm any more",
    )


def test_what_hides_its_uid_and_ends_orthanc_twice_is_parked_by_its_content(clinic: Clinic) -> None:
    """Orthanc reads what has an unknown transfer syntax; nobody else sees its UID in it."""
    stack, large = clinic.stack, hostile.good("hidden", LARGE)
    content = hostile.header(large.uid, "1.2.3") + large.data_set
    key = f"content-{hashlib.sha224(content).hexdigest()}"

    def post() -> httpx.Response:
        headers = {"Content-Type": "application/dicom"}
        return stack.client().post("/instances", content=content, headers=headers)

    for _ in range(2):
        with _ended_during(stack, f"- {key}"), suppress(httpx.TransportError):
            answer = post()
            assert answer.status_code in (502, 503), answer.text
    assert f"2 ends - {key}" in _suspects(stack)
    before = clinic.runs()
    assert post().status_code == 500
    assert clinic.runs() == before
    stack.execute("orthanc", "understudy", "quarantine", "--release", key)
    assert post().status_code == 200


def test_a_suspect_that_is_refused_without_an_end_is_none_any_more(clinic: Clinic) -> None:
    """Orthanc takes no instance without a series; whatever it answers, it was survived."""
    stack, item = clinic.stack, hostile.without_series("refused suspect", LARGE)
    with _ended_during(stack, f"HOSTILE {item.uid}"):
        assert raw_store.store(clinic.address, item, patience=PATIENCE).status is None
    assert f"1 ends HOSTILE {item.uid}" in _suspects(stack)
    assert raw_store.store(clinic.address, item, patience=PATIENCE).status in REFUSED_STATUSES
    clinic.good_store("after a refused suspect")
    assert not [suspect for suspect in _suspects(stack) if item.uid in suspect]


def test_what_ends_orthanc_twice_while_it_is_decoded_is_decoded_no_more(clinic: Clinic) -> None:
    stack, client = clinic.stack, clinic.stack.client()
    noise = hashlib.shake_256(b"decoded").digest(2 * SIDE * SIDE)
    image = bombs.uncompressed("decoded", rows=SIDE, columns=SIDE, pixels=noise)
    assert raw_store.store(clinic.address, image, patience=PATIENCE).status == 0
    found, web = _stored(clinic, image.uid)
    for _ in range(2):
        with _ended_during(stack, f"admin decode/{image.uid}"), suppress(httpx.TransportError):
            answer = client.get(f"/instances/{found}/preview", headers={"Accept": "image/png"})
            assert answer.status_code in (502, 503), answer.text
    refused = client.get(f"{web}/rendered")
    assert refused.status_code == 422, refused.text
    assert "ended twice" in refused.json()["Message"]
    (shown,) = _parked(stack)
    assert shown.startswith(f"{image.uid}  from admin: parked, Orthanc ended 2 times while it was decoded"), (
        shown
    )
    # It is stored all the same, and goes out as it is.
    assert raw_store.store(clinic.address, image, patience=PATIENCE).status == 0
    assert client.get(f"/instances/{found}/file").content.endswith(image.data_set)
    stack.execute("orthanc", "understudy", "quarantine", "--release", image.uid)
    assert client.get(f"/instances/{found}/preview", headers={"Accept": "image/png"}).status_code == 200


def test_a_reader_that_does_not_fetch_its_answer_keeps_nothing_from_being_parked(clinic: Clinic) -> None:
    stack = clinic.stack
    noise = hashlib.shake_256(b"fetched").digest(2 * SIDE * SIDE)
    image = bombs.uncompressed("fetched", rows=SIDE, columns=SIDE, pixels=noise)
    assert raw_store.store(clinic.address, image, patience=PATIENCE).status == 0
    found, _ = _stored(clinic, image.uid)
    killer = hostile.good("killer", LARGE)
    path = f"/instances/{found}/image-uint16"
    for ends in (1, 2):
        with stack.client().stream("GET", path, headers={"Accept": "image/png"}, timeout=PATIENCE) as answer:
            # Its head is there; nothing of its body is read.
            assert answer.status_code == 200
            with _ended_during(stack, f"HOSTILE {killer.uid}"):
                assert raw_store.store(clinic.address, killer, patience=PATIENCE).status is None
        assert f"{ends} ends HOSTILE {killer.uid}" in _suspects(stack)
    stack.execute("orthanc", "understudy", "quarantine", "--release", killer.uid)


def test_a_suspect_at_work_holds_up_another_store_once(clinic: Clinic) -> None:
    """A store is read in many pieces, and each of them would wait for the suspect's turn to end."""
    stack, client = clinic.stack, clinic.stack.client()
    noise = hashlib.shake_256(b"suspect").digest(2 * LONG_SIDE * LONG_SIDE)
    image = bombs.uncompressed("suspect", rows=LONG_SIDE, columns=LONG_SIDE, pixels=noise)
    assert raw_store.store(clinic.address, image, patience=PATIENCE).status == 0
    found, _ = _stored(clinic, image.uid)

    def decode() -> float:
        began = time.monotonic()
        with suppress(httpx.TransportError):
            client.get(f"/instances/{found}/image-uint16", headers={"Accept": "image/png"}, timeout=PATIENCE)
        return time.monotonic() - began

    with _ended_during(stack, f"admin decode/{image.uid}"):
        decode()
    clinic.good_store("after the suspect")
    with ThreadPoolExecutor(1) as reader:
        decoding = reader.submit(decode)
        notes = Path(f"/proc/{stack.pid('orthanc')}/root/{NOTES}")
        wait_until(
            notes.read_bytes,
            lambda content: f"alone admin decode/{image.uid}".encode() in content,
            deadline=60,
            what="the suspect at work",
            pause=0.01,
        )
        began = time.monotonic()
        pieces = hostile.good("many pieces", 2**20)
        assert raw_store.store(clinic.address, pieces, patience=PATIENCE, calling="CT9").status == 0
        seconds = time.monotonic() - began
        decoded = decoding.result()
    print(f"a store beside a suspect that was decoded for {decoded:.1f} s took {seconds:.1f} s")
    assert seconds < 2 * TURN, "it waits once"
    assert decoded > seconds + 1, "the suspect has to be at work for longer than anybody waits"
