"""Orthanc behind its reception: no slow, silent, faulty or large peer keeps a known device from storing.

The measured times are printed.
"""

import io
import json
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet  # type: ignore[attr-defined]

from tests import hostile
from tests.adversary import upper_layer
from tests.hostile import EXPLICIT, Hostile
from tests.integration import raw_store
from tests.stack import IMAGE, REPOSITORY, TEST_PROJECT, Stack, StackError, wait_until

pytestmark = pytest.mark.needs("image")

PRIVATE = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]
"""Docker's networks, from which this machine's connections come."""
CONFIGURATION = {
    "Vaults": [],
    "Modalities": [
        {
            "Name": name.lower(),
            "AeTitle": name,
            "Host": f"{name.lower()}.example.org",
            "Addresses": PRIVATE,
            "Reads": name == "MR1",
        }
        for name in ("CT1", "MR1", "US1")
    ],
}
SOON = 1.0
"""Seconds in which a known device's image is stored, whatever the others do."""
TURN = 2.0
"""Seconds that a store waits for the turn of another, and Orthanc for a request (docker/reception)."""
TOLD_WITHIN = 60
"""Seconds until the reception's file shows a refusal; nobody promises how soon that is."""
CANNOT_UNDERSTAND, OUT_OF_RESOURCES = 0xC000, 0xA700
LARGEST = 219 * 2**20
"""Of one object where Orthanc has 2 GiB."""
MANY_THAT_ARE_READ = 60_000
"""Elements of an object that a reader still gets as JSON."""
GRACE = 60.0
THREADS = 72
"""Of Orthanc, for associations."""
STRANGERS = 24
"""Associations of all strangers together (Edge.AssociationsOfStrangers)."""
MEGABYTE = 2**20


class Reception:
    """The appliance, and what a known device does beside the others."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.edge = stack.dicom
        networks = stack.inspect("orthanc")["NetworkSettings"]["Networks"]
        # Beside the edge, whose gate would refuse what Orthanc has to bear by itself.
        self.orthanc = next(network["IPAddress"] for network in networks.values()), 4242
        self.pid = stack.pid("orthanc")
        self._number = 0

    def store(self, address: tuple[str, int] | None = None, calling: str = "CT1") -> float:
        """Store a good image, trying again at once as a device does, and return the seconds that it took."""
        self._number += 1
        item = hostile.good(f"{calling} {self._number}")
        began = time.monotonic()
        answer = wait_until(
            lambda: raw_store.store(address or self.edge, item, patience=20, calling=calling),
            # The device's own last associations count until they have ended: it is told to try again.
            lambda answer: not answer.text.startswith("association refused (PDU 3, 02"),
            deadline=20,
            what="an association",
            pause=0.05,
        )
        assert answer.status == 0, answer
        return time.monotonic() - began

    def runs(self) -> bool:
        return self.stack.pid("orthanc") == self.pid

    @contextmanager
    def storing(self) -> Iterator[list[float]]:
        """Let a known device store one image after another meanwhile; yield the seconds of each."""
        times: list[float] = []
        ended = threading.Event()

        def device() -> None:
            while not ended.is_set():
                times.append(self.store(calling="US1"))

        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(device)
            try:
                yield times
            finally:
                ended.set()
        future.result()

    def refusals(self) -> list[list[str]]:
        text = self.stack.shell(
            "orthanc", "cat /var/lib/orthanc/storage/understudy/refusals 2>/dev/null || true"
        )
        return [line.split() for line in text.splitlines()]


@pytest.fixture(scope="module")
def reception(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reception]:
    folder = tmp_path_factory.mktemp("reception") / "config"
    shutil.copytree(REPOSITORY / "orthanc-config", folder)
    (folder / "understudy.json").write_text(json.dumps({"Understudy": CONFIGURATION}), encoding="utf-8")
    folder.chmod(0o755)
    stack = Stack(f"{TEST_PROJECT}-reception", lab=False, environment={"UNDERSTUDY_CONFIG": str(folder)})
    stack.down()
    try:
        stack.up()
        yield Reception(stack)
    except StackError:
        print(stack.logs())
        raise
    finally:
        stack.down()


def undelayed(times: list[float]) -> bool:
    """Return whether the stores waited for nobody; this machine's own disk may hold up one of them."""
    *others, slowest = sorted(times)
    return slowest < TURN and all(seconds < SOON for seconds in others)


def idle(address: tuple[str, int], calling: str) -> socket.socket:
    """Return an association on which nothing is said."""
    return raw_store.opened(address, hostile.good(f"idle {calling}"), calling=calling)


def in_mid_data_set(address: tuple[str, int], calling: str) -> socket.socket:
    """Return an association on which a data set has begun, and does not go on."""
    item = hostile.good(f"half {calling}")
    connection = raw_store.opened(address, item, calling=calling)
    connection.sendall(raw_store.request(item) + raw_store.fragment(0, item.data_set[:1000]))
    return connection


def another(associate: Callable[[], socket.socket]) -> socket.socket:
    """Ask for an association as a device does: again, where it is told to try later."""

    def asked() -> socket.socket:
        try:
            return associate()
        except raw_store.NotAcceptedError as refused:
            raise StackError(str(refused)) from refused

    return wait_until(asked, lambda _: True, deadline=20, what="an association", pause=0.1)


@contextmanager
def trickling(connections: list[socket.socket]) -> Iterator[None]:
    """Send a byte a second on each, inside one PDU that never ends, as long as it is open."""
    ended = threading.Event()

    def trickle() -> None:
        head = struct.pack(">BBIIBB", 4, 0, 60_000, 59_996, raw_store.CONTEXT, 0)
        send(head)
        while not ended.wait(1):
            send(b"\0")

    def send(content: bytes) -> None:
        for connection in list(connections):
            try:
                connection.sendall(content)
            except OSError:
                connections.remove(connection)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(trickle)
        try:
            yield
        finally:
            ended.set()
    future.result()


@contextmanager
def steady(connections: list[socket.socket], bytes_a_second: int) -> Iterator[None]:
    """Send so many bytes a second on each, as a slow link does."""
    ended = threading.Event()
    pause, pieces = 0.5, 64

    def send() -> None:
        piece = raw_store.fragment(0, bytes(int(bytes_a_second * pause) // pieces // 2 * 2))
        while not ended.wait(pause):
            for connection in connections:
                connection.sendall(piece * pieces)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(send)
        try:
            yield
        finally:
            ended.set()
    future.result()


def closed(connection: socket.socket) -> bool:
    """Return whether the other side has ended the association."""
    connection.settimeout(0.01)
    try:
        return connection.recv(100)[:1] in (b"", b"\x07")
    except TimeoutError:
        return False
    except OSError:
        return True


def test_a_device_stores_at_once_although_others_hold_every_association(reception: Reception) -> None:
    """All places of strangers are idle; a device trickles on 32 associations, another one is silent on 8."""
    times = []
    with ExitStack() as held:
        for number in range(STRANGERS):
            held.enter_context(another(partial(idle, reception.edge, f"STRANGER{number}")))
        times.append(reception.store())
        # What does nothing is ended only after a moment.
        opened_at = time.monotonic()
        wait_until(
            lambda: time.monotonic() - opened_at, lambda passed: passed > 2, deadline=5, what="a moment"
        )
        slow = [
            held.enter_context(another(lambda: in_mid_data_set(reception.edge, "MR1"))) for _ in range(32)
        ]
        for _ in range(8):
            held.enter_context(another(lambda: in_mid_data_set(reception.edge, "US1")))
        with trickling(slow):
            times += [reception.store() for _ in range(10)]
    print(f"besieged: {min(times):.2f} to {max(times):.2f} s")
    assert undelayed(times), times
    assert reception.runs()


def test_who_sends_nothing_or_a_faulty_request_holds_nobody(reception: Reception) -> None:
    """As in the cases of held requests; the edge refuses them, and Orthanc bears them without it."""
    whole = raw_store.associate_request(hostile.good("request"), "HELD")
    assert whole[10:26] == b"UNDERSTUDY".ljust(16)
    shapes = {
        "blank called": whole[:10] + b" " * 16 + whole[26:],
        "NUL called": whole[:10] + b"\0" * 16 + whole[26:],
        "backslash calling": whole[:26] + b"A\\B".ljust(16) + whole[42:],
        "no items": struct.pack(">BBI", 1, 0, 68) + whole[6:74],
        "wrong version": whole[:6] + b"\0\2" + whole[8:],
        "longer item": whole[:76] + b"\0\xff" + whole[78:],
        "half": whole[:60],
        "nothing": b"",
    }

    def beside(request: bytes) -> float:
        with socket.create_connection(reception.orthanc, 5) as held:
            held.sendall(request)
            return reception.store(reception.orthanc)

    for name, request in shapes.items():
        # This machine's own disk may hold up one store; a request that holds the others does so each time.
        seconds = min(beside(request) for _ in range(2))
        print(f"{name}: {seconds:.2f} s")
        # Of what is not there Orthanc has to wait for the rest.
        assert seconds < (SOON if len(request) >= 74 else 2 + SOON), name


def test_every_store_on_its_way_is_noted(reception: Reception) -> None:
    """Orthanc has more threads for stores than the edge lets in associations; each of them may end it."""
    notes = Path(f"/proc/{reception.pid}/root/var/lib/orthanc/storage/understudy/parking/on-the-way")
    with ExitStack() as held:
        for number in range(THREADS):
            held.enter_context(in_mid_data_set(reception.orthanc, f"NOTED{number}"))
        wait_until(
            lambda: notes.read_bytes().count(b"store NOTED"),
            lambda count: count == THREADS,
            deadline=20,
            what="all notes",
        )
    wait_until(lambda: b"NOTED" in notes.read_bytes(), lambda left: not left, deadline=20, what="no notes")


def test_an_idle_association_is_ended_for_another_one_and_a_stranger_goes_first(reception: Reception) -> None:
    with ExitStack() as held:
        known = held.enter_context(idle(reception.orthanc, "MR1"))
        strangers = [held.enter_context(idle(reception.orthanc, f"IDLE{number}")) for number in range(54)]
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began, lambda passed: passed > 2.5, deadline=5, what="a moment")
        for number in range(4):
            held.enter_context(idle(reception.orthanc, f"LATER{number}"))
        wait_until(
            lambda: sum(map(closed, strangers)), lambda count: count >= 2, deadline=15, what="some ended"
        )
        assert not closed(known)


def test_a_trickling_data_set_ends_after_its_time(reception: Reception) -> None:
    item = hostile.good("slow link")
    began = time.monotonic()
    with (
        raw_store.opened(reception.edge, item, calling="CT1") as slow,
        in_mid_data_set(reception.edge, "MR1") as connection,
        trickling([connection]),
    ):
        slow.sendall(raw_store.request(item))
        for piece in raw_store.large_pieces(item, 0, claim=20 * MEGABYTE):
            slow.sendall(piece)
        connection.settimeout(GRACE + 30)
        with steady([slow], 24 * 1024):
            try:
                ended = connection.recv(100)
            except ConnectionResetError:
                ended = b""
            seconds = time.monotonic() - began
        assert not closed(slow), "a link of 24 KiB/s is slow, and steady"
    print(f"a trickling data set was ended after {seconds:.0f} s")
    assert ended[:1] in (b"", b"\x07")
    assert GRACE - 1 < seconds < GRACE + 15
    wait_until(
        reception.refusals,
        lambda rows: ["MR1", "slow"] in [row[2:4] for row in rows],
        deadline=TOLD_WITHIN,
        what="row",
    )


def test_who_sent_quickly_first_does_not_hold_the_memory_for_long(reception: Reception) -> None:
    """Strangers hold all memory for large objects, and drip; a device's large image comes in."""
    with ExitStack() as held:
        slow = []
        for number in range(4):
            item = hostile.good(f"holds {number}")
            connection = held.enter_context(raw_store.opened(reception.edge, item, calling=f"HOLDER{number}"))
            connection.sendall(raw_store.request(item))
            for piece in raw_store.large_pieces(item, 210 * MEGABYTE):
                connection.sendall(piece)
            slow.append(connection)
        with trickling(slow):
            began = time.monotonic()
            answers = [large(reception, 200, "behind holders").status]
            while answers[-1] != 0 and time.monotonic() - began < GRACE:
                answers.append(large(reception, 200, "behind holders").status)
            seconds = time.monotonic() - began
    print(f"four that drip held the memory for {seconds:.0f} s: {answers}")
    assert answers[-1] == 0
    assert seconds < GRACE


def test_who_claims_memory_and_drips_keeps_no_device_from_storing_a_large_image(reception: Reception) -> None:
    """Every stranger begins with a value of which it claims that it is large."""
    with ExitStack() as held:
        slow = []
        for number in range(STRANGERS):
            item = hostile.good(f"claims {number}")
            # The holders of the test before take places until the edge has ended them.
            connection = held.enter_context(
                another(partial(raw_store.opened, reception.edge, item, calling=f"CLAIMER{number}"))
            )
            connection.sendall(raw_store.request(item))
            for piece in raw_store.large_pieces(item, 0, claim=210 * MEGABYTE):
                connection.sendall(piece)
            slow.append(connection)
        with trickling(slow):
            began = time.monotonic()
            answer = large(reception, 210, "behind claimers")
            seconds = time.monotonic() - began
    print(f"behind {STRANGERS} who claim memory an image of 210 MB took {seconds:.0f} s")
    assert answer.status == 0


def _sent_until_closed(connection: socket.socket, pieces: Iterator[bytes]) -> int:
    """Return how many bytes the other side took before it closed."""
    sent = 0
    with suppress(ConnectionError):
        for piece in pieces:
            connection.sendall(piece)
            sent += len(piece)
    return sent


FLOOD, TAKEN_AT_MOST = 256 * MEGABYTE, 48 * MEGABYTE
"""Bytes of an endless message, and what the buffers on its way may take of them: 10 MB at each of three."""


def _endless_command() -> Iterator[bytes]:
    large = raw_store.fragment(1, struct.pack("<HHI", 0x0009, 0x1000, 900_000) + bytes(16_000))
    for _ in range(FLOOD // 16_000):
        yield large


def _endless_identifier() -> Iterator[bytes]:
    yield upper_layer.message(0x0020, upper_layer.FIND, b"\0")[:-13]
    for elements in hostile.empty_elements(FLOOD // 8):
        yield raw_store.fragment(0, elements)


@pytest.mark.parametrize(("calling", "pieces"), [("ENDLESS", _endless_command), ("MR1", _endless_identifier)])
def test_a_message_without_an_end_is_refused_before_it_takes_memory(
    reception: Reception, calling: str, pieces: Callable[[], Iterator[bytes]]
) -> None:
    good = hostile.good("endless")
    query = Hostile("query", b"", good.uid, sop_class=upper_layer.FIND.decode())
    began = time.monotonic()
    asked = query if calling == "MR1" else good
    with another(partial(raw_store.opened, reception.edge, asked, calling=calling)) as connection:
        sent = _sent_until_closed(connection, pieces())
    print(f"a message without an end was ended after {sent} bytes and {time.monotonic() - began:.1f} s")
    assert sent < TAKEN_AT_MOST
    assert reception.runs()
    assert min(reception.store() for _ in range(2)) < SOON
    wait_until(
        reception.refusals,
        lambda rows: [calling, "message"] in [row[2:4] for row in rows],
        deadline=TOLD_WITHIN,
        what="row",
    )


def test_a_data_set_of_empty_elements_is_refused_before_it_takes_memory(reception: Reception) -> None:
    """Each of them has 8 bytes on the wire and 200 in memory."""
    item = hostile.good("elements")
    # Made before: this process also measures the neighbour.
    pieces = [
        raw_store.request(item) + raw_store.fragment(0, item.data_set),
        *(raw_store.fragment(0, elements) for elements in hostile.empty_elements(1_500_000)),
        raw_store.fragment(2, item.data_set[:0]),
    ]
    with reception.storing() as neighbour:
        answer = raw_store.send(reception.edge, item, pieces, patience=60, calling="ELEMENTS")
    assert answer.status == CANNOT_UNDERSTAND
    assert reception.runs()
    assert undelayed(neighbour), sorted(neighbour)[-3:]


def _stored_at_once(reception: Reception, items: list[Hostile]) -> tuple[list[int | None], list[float]]:
    """Return the answers to all of them, and the seconds of each store of a neighbour meanwhile."""

    def store(item: Hostile) -> int | None:
        return raw_store.store(reception.edge, item, patience=150, calling="CT1").status

    with reception.storing() as neighbour, ThreadPoolExecutor(len(items)) as pool:
        answers = list(pool.map(store, items))
    print(f"{answers}; a neighbour's stores took up to {max(neighbour):.2f} s of {len(neighbour)}")
    return answers, neighbour


def _resident(process: int) -> int:
    """Return how many bytes a process has in memory."""
    (line,) = [
        line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmRSS:")
    ]
    return int(line.split()[1]) * 1024


def test_objects_of_many_elements_at_once_share_the_memory(reception: Reception) -> None:
    """Each has 2.5 MB on the wire, and takes 270 MB while Orthanc stores it."""
    items = [hostile.many_elements(f"{time.time()} {number}", 240_000) for number in range(12)]
    answers, _ = _stored_at_once(reception, items)
    assert reception.runs()
    assert set(answers) <= {0, OUT_OF_RESOURCES}
    assert 0 in answers
    # What was freed is given back: the next ones need it, and readers do.
    wait_until(
        lambda: _resident(reception.pid) // MEGABYTE, lambda held: held < 640, deadline=10, what="its memory"
    )


def test_objects_of_many_elements_keep_no_device_from_storing(reception: Reception) -> None:
    items = [hostile.many_elements(f"UN {time.time()} {number}", 60_000, "UN") for number in range(16)]
    answers, neighbour = _stored_at_once(reception, items)
    assert reception.runs()
    assert set(answers) == {0}
    assert max(neighbour) < 2 * SOON


@pytest.mark.parametrize("limits", ["", "largest 1\nmemory 0\n", "largest 1000000\nmemory 10000000\n"])
def test_orthanc_does_not_start_without_the_limits_of_its_reception(limits: str) -> None:
    script = 'printf "$1" > /tmp/limits; UNDERSTUDY_RECEPTION=/tmp/$2 LD_PRELOAD=$3 Orthanc --version 2>&1'
    library = "/opt/understudy/lib/reception.so"
    docker = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "bash", IMAGE, "-c", script, "sh"]
    for file in ("limits", "none"):
        tried = subprocess.run([*docker, limits, file, library], capture_output=True, text=True, check=False)
        assert tried.returncode == 1
        assert "Orthanc does not start" in tried.stdout
        assert "--force-recreate orthanc" in tried.stdout


def test_a_uid_is_read_whatever_its_vr_and_its_padding(reception: Reception) -> None:
    item = hostile.good("odd UIDs")
    study = hostile.text(0x0020000D, "UI", hostile.uid_of("odd UIDs", "good", "study"))
    series = hostile.text(0x0020000E, "UI", hostile.uid_of("odd UIDs", "good", "series"))
    assert study in item.content
    assert series in item.content
    odd = item.content.replace(study, hostile.element(0x0020000D, "UI", study[8:] + b"\0\0"))
    odd = odd.replace(series, hostile.element(0x0020000E, "UN", series[8:]))
    made = Hostile("odd", odd, item.uid)
    assert raw_store.store(reception.edge, made, patience=20, calling="CT1").status == 0
    client = reception.stack.client()
    (found,) = client.post("/tools/lookup", content=item.uid).json()
    tags = client.get(f"/instances/{found['ID']}/simplified-tags").json()
    assert tags["StudyInstanceUID"] == hostile.uid_of("odd UIDs", "good", "study")
    assert tags["SeriesInstanceUID"] == hostile.uid_of("odd UIDs", "good", "series")


def large(reception: Reception, megabytes: int, seed: str) -> raw_store.Answer:
    item = hostile.good(f"large {seed} {megabytes}")
    return raw_store.store_large(reception.edge, item, megabytes * MEGABYTE, patience=120, calling="CT1")


def test_an_object_is_stored_up_to_the_documented_size_and_refused_beyond(reception: Reception) -> None:
    with reception.storing() as neighbour:
        answers = {size: large(reception, size, "alone").status for size in (210, 700, 1024, 4000)}
    print(f"{answers}; a neighbour's stores took up to {max(neighbour):.2f} s of {len(neighbour)}")
    assert answers == {210: 0} | dict.fromkeys((700, 1024, 4000), CANNOT_UNDERSTAND)
    assert reception.runs()
    assert undelayed(neighbour), sorted(neighbour)[-3:]

    def too_large() -> list[list[str]]:
        return [row for row in reception.refusals() if row[2:4] == ["CT1", "large"]]

    (row,) = wait_until(
        too_large, lambda rows: [row[0] for row in rows] == ["3"], deadline=TOLD_WITHIN, what="three counted"
    )
    assert row[4].startswith(f"class={hostile.CT},instance=2.25.")


def test_large_objects_at_once_share_the_memory(reception: Reception) -> None:
    with reception.storing() as neighbour, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda seed: large(reception, 210, str(seed)).status, range(4)))
    print(f"{answers}; a neighbour's stores took up to {max(neighbour):.2f} s of {len(neighbour)}")
    assert reception.runs()
    assert set(answers) <= {0, OUT_OF_RESOURCES}
    assert 0 in answers
    assert undelayed(neighbour), sorted(neighbour)[-3:]


def test_two_objects_of_four_gigabytes_at_once_are_refused_and_keep_nobody_waiting(
    reception: Reception,
) -> None:
    with reception.storing() as neighbour, ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda seed: large(reception, 4000, str(seed)).status, range(2)))
    print(f"{answers}; a neighbour's stores took up to {max(neighbour):.2f} s of {len(neighbour)}")
    assert answers == [CANNOT_UNDERSTAND] * 2
    assert reception.runs()
    assert undelayed(neighbour), sorted(neighbour)[-3:]


def _parts(content: bytes) -> bytes:
    boundary = b"--understudy-test-boundary"
    return (
        boundary + b"\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n" + boundary + b"--\r\n"
    )


def _chunks(content: bytes) -> Iterator[bytes]:
    for begin in range(0, len(content), 2**16):
        yield content[begin : begin + 2**16]


FILE = {"Content-Type": "application/dicom"}
STOW = {
    "Content-Type": 'multipart/related; type="application/dicom"; boundary=understudy-test-boundary',
    "Accept": "application/dicom+json",
}


def test_uploads_have_the_same_limit_and_say_so(reception: Reception) -> None:
    client = reception.stack.client()

    def post(path: str, content: bytes | Iterator[bytes], headers: dict[str, str]) -> httpx.Response:
        return client.post(path, content=content, headers=headers, timeout=120)

    # Larger than Orthanc's /tmp would take.
    size = 210 * MEGABYTE
    answer = post("/instances", hostile.good("rest", size).content, FILE)
    assert answer.status_code == 200, answer.text + reception.stack.logs("orthanc")
    stow = post("/dicom-web/studies", _chunks(_parts(hostile.good("stow", size).content)), STOW)
    assert stow.status_code == 200, stow.text
    assert not stow.json().get("00081198"), stow.text
    too_large = hostile.good("too large", LARGEST).content

    for path, headers, content in (
        ("/instances", FILE, too_large),
        ("/dicom-web/studies", STOW, _parts(too_large)),
    ):
        refused = post(path, bytes(content), headers)
        assert refused.status_code == 413
        assert refused.json()["error"] == "too_large"
        assert post(path, _chunks(content), headers).status_code in (400, 413)
    assert reception.runs()


@contextmanager
def memory_held(reception: Reception) -> Iterator[list[socket.socket]]:
    """Let four devices on slow links have the memory."""
    with ExitStack() as held:
        slow = []
        for number in range(4):
            item = hostile.good(f"has memory {number}")
            connection = held.enter_context(raw_store.opened(reception.edge, item, calling="CT1"))
            connection.sendall(raw_store.request(item))
            for piece in raw_store.large_pieces(item, 0, claim=210 * MEGABYTE):
                connection.sendall(piece)
            slow.append(connection)
        with steady(slow, 2 * MEGABYTE):
            yield slow


def test_an_upload_that_finds_no_memory_is_counted_as_that(reception: Reception) -> None:
    """Those that have the memory lose nothing to the upload that waits for it."""
    with memory_held(reception) as slow:
        content = hostile.good("no memory", 100 * MEGABYTE).content
        client = reception.stack.client()
        with suppress(httpx.TransportError):
            answer = client.post("/instances", content=_chunks(content), headers=FILE, timeout=120)
            assert answer.status_code >= 400
        # One that says its length is refused before it is read, and the answer arrives nevertheless.
        post = partial(client.post, "/instances", content=content, headers=FILE, timeout=120)
        with ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(post) for _ in range(4)]
        assert {(one.result().status_code, one.result().json()["error"]) for one in answers} == {
            (503, "no_memory")
        }
        assert not [connection for connection in slow if closed(connection)]
    wait_until(
        reception.refusals,
        lambda rows: ["-", "memory"] in [row[2:4] for row in rows],
        deadline=TOLD_WITHIN,
        what="row",
    )


def test_metadata_that_finds_no_memory_waits_for_it_and_is_complete(reception: Reception) -> None:
    """DICOMweb would keep metadata that lacks an instance, and no viewer would show that instance."""
    item = hostile.good("metadata", 30 * MEGABYTE)
    assert raw_store.store(reception.edge, item, patience=60, calling="CT1").status == 0
    client = reception.stack.client()
    (found,) = client.post("/tools/lookup", content=item.uid).json()
    series = client.get(f"/instances/{found['ID']}/series").json()
    path = (
        f"/dicom-web/studies/{_study(client, series)}/series/{series['MainDicomTags']['SeriesInstanceUID']}"
    )
    with ThreadPoolExecutor(1) as pool:
        with memory_held(reception):
            metadata = pool.submit(client.get, f"{path}/metadata", timeout=60)
            assert not wait([metadata], timeout=5).done, "it waits while the memory is held"
        answer = metadata.result()
    assert answer.status_code == 200, answer.text
    uids = [one["00080018"]["Value"][0] for one in answer.json()]
    assert item.uid in uids
    assert len(uids) == len(series["Instances"])


def _study(client: httpx.Client, series: dict[str, Any]) -> str:
    study = client.get(f"/studies/{series['ParentStudy']}").json()
    return str(study["MainDicomTags"]["StudyInstanceUID"])


def test_the_largest_object_is_given_back_by_every_way(reception: Reception) -> None:
    """What readers may take beside the receptions suffices for it."""
    size = LARGEST - 2 * MEGABYTE
    item = hostile.good("given back", size)
    assert raw_store.store(reception.edge, item, patience=120, calling="CT1").status == 0
    client = reception.stack.client()
    (found,) = client.post("/tools/lookup", content=item.uid).json()
    # What the test before had sent may have its memory for a moment longer.
    tags = wait_until(
        lambda: client.get(f"/instances/{found['ID']}/simplified-tags"),
        lambda answer: answer.status_code == 200,
        deadline=60,
        what="its tags",
        pause=1,
    ).json()
    path = (
        f"/dicom-web/studies/{tags['StudyInstanceUID']}/series/{tags['SeriesInstanceUID']}"
        f"/instances/{tags['SOPInstanceUID']}"
    )

    def given(url: str) -> tuple[int, int]:
        with client.stream("GET", url, headers={"Accept": "*/*"}, timeout=120) as answer:
            return answer.status_code, sum(map(len, answer.iter_bytes(MEGABYTE)))

    for url in (f"/instances/{found['ID']}/file", path):
        # What the test before had sent may have its memory for a moment longer.
        _, taken = wait_until(
            partial(given, url), lambda told: told[0] == 200, deadline=60, what=url, pause=1
        )
        assert taken > size, url

    got: list[int] = []

    def take(event: Any) -> int:
        got.append(len(event.request.DataSet.getvalue()))
        return 0

    asker = AE("MR1")
    asker.dimse_timeout = 120
    asker.add_requested_context(StudyRootQueryRetrieveInformationModelGet)
    asker.add_requested_context(hostile.CT, EXPLICIT)
    asked = pydicom.Dataset()
    asked.QueryRetrieveLevel = "IMAGE"
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(asked, name, tags[name])

    def fetched() -> list[int]:
        got.clear()
        association = asker.associate(
            *reception.edge,
            ae_title="UNDERSTUDY",
            ext_neg=[build_role(hostile.CT, scp_role=True)],
            evt_handlers=[(evt.EVT_C_STORE, take)],
        )
        if not association.is_established:
            raise StackError("no association for C-GET")
        answers = list(association.send_c_get(asked, StudyRootQueryRetrieveInformationModelGet))
        association.release()
        if (status := answers[-1][0].get("Status")) != 0:
            raise StackError(f"C-GET ended with {status}")
        return got

    # What DICOMweb gave may have its memory for a moment longer.
    (taken,) = wait_until(fetched, bool, deadline=60, what="given by C-GET", pause=1)
    assert taken > size
    assert reception.runs()


def test_nested_json_and_a_colour_jpeg_2000_end_nothing(reception: Reception) -> None:
    client = reception.stack.client()
    # A search has at most 64 kB, and the edge refuses the last one.
    for depth, refusals in ((200, (400, 500)), (1_000, (400, 500)), (6_000, (400, 500)), (1_000_000, (413,))):
        for begin, middle, end in ((b"[", b"", b"]"), (b'{"Level":', b"1", b"}")):
            answer = client.post("/tools/find", content=begin * depth + middle + end * depth)
            assert answer.status_code in refusals, depth
    for name in ("examples_jpeg2k.dcm", "JPEG2000.dcm", "693_J2KI.dcm"):
        file = get_testdata_file(name, download=False)
        assert isinstance(file, str)
        assert client.post("/instances", content=Path(file).read_bytes(), headers=FILE).status_code == 200
        image = pydicom.dcmread(file, stop_before_pixels=True)
        path = (
            f"/dicom-web/studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}"
            f"/instances/{image.SOPInstanceUID}/rendered"
        )
        rendered = client.get(path, headers={"Accept": "image/jpeg"})
        assert rendered.status_code == 200, (name, rendered.text[:200])
        assert rendered.content[:2] == b"\xff\xd8"
    assert reception.runs()


def _lying_jpeg_2000(of_samples: str) -> pydicom.Dataset:
    """Return an image of which not every frame has the samples that the first one and the data set claim."""
    file = get_testdata_file("examples_jpeg2k.dcm", download=False)
    assert isinstance(file, str)
    image = pydicom.dcmread(file)
    frame = next(generate_frames(image.PixelData, number_of_frames=1))
    bits, count = bytearray(frame), bytearray(frame)
    # Of the size segment: the three components' bits less 1, and their number.
    bits[42:51:3] = b"\x0f" * 3
    count[41] = 1
    image.NumberOfFrames = 2
    image.PixelData = encapsulate([frame, bytes(bits if of_samples == "more bits" else count)])
    image.SOPInstanceUID = hostile.uid_of("lying JPEG 2000", of_samples)
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    return image


@pytest.mark.parametrize("of_samples", ["more bits", "fewer components"])
def test_a_jpeg_2000_frame_of_other_samples_is_not_decoded(reception: Reception, of_samples: str) -> None:
    """GDCM wrote such a frame behind its memory, whoever asked for the image."""
    image, file = _lying_jpeg_2000(of_samples), io.BytesIO()
    image.save_as(file)
    client = reception.stack.client()
    stored = client.post("/instances", content=file.getvalue(), headers=FILE)
    assert stored.status_code == 200
    series = f"/dicom-web/studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}"
    for path in (
        f"{series}/instances/{image.SOPInstanceUID}/rendered",
        f"{series}/instances/{image.SOPInstanceUID}/frames/1",
        f"/instances/{stored.json()['ID']}/frames/1/preview",
        f"/instances/{stored.json()['ID']}/file?transcode={EXPLICIT}",
    ):
        answer = client.get(path)
        assert answer.status_code >= 400, path
    assert reception.runs()


def test_what_orthanc_refuses_is_counted_by_device_and_the_association_goes_on(reception: Reception) -> None:
    good, long = hostile.good("after a long UID"), hostile.good("a long UID")
    long = Hostile(long.name, long.content, "1." * 37 + "1")
    with raw_store.opened(reception.edge, good, calling="LONG UID") as connection:
        for item, status in ((long, CANNOT_UNDERSTAND), (good, 0)):
            connection.sendall(raw_store.request(item) + raw_store.fragment(2, item.data_set))
            assert raw_store.answer(connection).status == status
    for sop_class, syntax in (("1.2.840.113619.5.2", EXPLICIT), (hostile.CT, "1.2.840.113619.5.2")):
        other = Hostile("context", good.content, good.uid, sop_class=sop_class, transfer_syntax=syntax)
        raw_store.store(reception.edge, other, patience=5, calling="CONTEXT")
    wanted = {("LONG%20UID", "uid"), ("CONTEXT", "syntax")}
    rows = wait_until(
        reception.refusals,
        lambda rows: wanted <= {(row[2], row[3]) for row in rows},
        deadline=TOLD_WITHIN,
        what="the refusals",
    )
    (context,) = [row[4] for row in rows if row[2:4] == ["CONTEXT", "syntax"]]
    assert context == f"class={hostile.CT},syntax=1.2.840.113619.5.2"


def test_an_orderly_stop_ends_with_0(reception: Reception) -> None:
    reception.store()
    reception.stack.get("/understudy/status")
    for _ in range(2):
        reception.stack.stop("orthanc")
        state = reception.stack.inspect("orthanc")["State"]
        assert state["ExitCode"] == 0, reception.stack.logs("orthanc")
        reception.stack.start("orthanc")


def test_an_orderly_stop_while_images_arrive_ends_with_0(reception: Reception) -> None:
    """The plugin for Python frees twice what it is told of after its own end (docker/reception/stop.cc)."""
    ended = threading.Event()

    def device(name: str) -> int:
        stored = 0
        while not ended.wait(0.001):
            item = hostile.good(f"{name} {stored}")
            stored += raw_store.store(reception.edge, item, patience=5, calling="US1").status == 0
        return stored

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(device, f"stop {number}") for number in range(4)]
        try:
            reception.store()
            reception.stack.stop("orthanc")
        finally:
            ended.set()
    state = reception.stack.inspect("orthanc")["State"]
    print(f"stopped while {sum(future.result() for future in futures)} images arrived")
    assert state["ExitCode"] == 0, reception.stack.logs("orthanc")
    reception.stack.start("orthanc")


def test_readers_and_uploads_of_many_elements_do_not_end_orthanc(reception: Reception) -> None:
    """Orthanc takes up to 1,300 bytes for each element that it writes as JSON.

    The last test: Orthanc writes the metadata of the stored objects for a minute, and would not stop in time.
    """
    pid = reception.stack.pid("orthanc")
    few, *many = (
        hostile.many_elements(f"readers {time.time()} {number}", number)
        for number in (MANY_THAT_ARE_READ, 700_000, 700_001, 700_002, 700_003)
    )
    client, tags = reception.stack.client(), []
    for item in (few, *many):
        assert raw_store.store(reception.edge, item, patience=60, calling="CT1").status == 0
        (found,) = client.post("/tools/lookup", content=item.uid).json()
        tags.append(f"/instances/{found['ID']}/tags")
    assert client.get(tags[0], timeout=60).status_code == 200
    with reception.storing() as neighbour, ThreadPoolExecutor(4) as pool:
        # Each of them alone and all at once; Orthanc keeps in memory what it has parsed.
        answers = [client.get(path, timeout=60) for path in tags[1:]]
        answers += pool.map(lambda path: client.get(path, timeout=60), tags[1:] * 2)
    assert max(neighbour) < 2 * SOON
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} <= {200, 500, 503}
    assert refused
    assert "there is no memory now" in refused[0].json()["Message"]

    # The metadata of what was stored is written while the next ones arrive.
    for _ in range(3):
        upload = hostile.many_elements(f"upload {time.time()}", 990_000).content
        post = partial(client.post, "/instances", content=upload, headers=FILE, timeout=60)
        with ThreadPoolExecutor(2) as pool:
            posted = [pool.submit(post) for _ in range(2)]
        assert {answer.result().status_code for answer in posted} <= {200, 500, 503}
    assert reception.stack.pid("orthanc") == pid
