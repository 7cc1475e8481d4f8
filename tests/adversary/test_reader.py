"""Somebody with a reader's password: what is asked for may be refused, and ends nothing."""

import json
import time
from dataclasses import dataclass

import pytest
from pydicom.data import get_testdata_file

from tests import hostile
from tests.adversary.clinic import Clinic

pytestmark = pytest.mark.needs("image")

COLOUR_JPEG_2000 = "examples_jpeg2k.dcm"

_CALL = """
import base64, http.client, json, os, ssl, sys, time
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
login = base64.b64encode(os.environ["ADVERSARY_LOGIN"].encode()).decode()
answers = []
for method, target, headers, body in json.loads(sys.argv[1]):
    connection = http.client.HTTPSConnection("edge", 8443, timeout=30, context=context)
    began = time.monotonic()
    try:
        content = body["unit"].encode() * body["times"] if isinstance(body, dict) else body.encode()
        connection.request(method, target, content or None, {"Authorization": "Basic " + login, **headers})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        status = type(error).__name__
    finally:
        connection.close()
    answers.append([status, round(time.monotonic() - began, 2)])
print(json.dumps(answers))
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the reader may look at: one plain image and one colour image in JPEG 2000."""

    login: str
    plain: str
    compressed: str
    wado: str
    """The compressed one's path in DICOMweb."""


@pytest.fixture(scope="module")
def shown(clinic: Clinic) -> Shown:
    user, password = clinic.stack.add_user("looker", "reader")
    headers = {"Content-Type": "application/dicom"}
    contents = [hostile.good("shown").content]
    path = get_testdata_file(COLOUR_JPEG_2000, download=False)
    assert isinstance(path, str)
    with open(path, "rb") as file:
        contents.append(file.read())
    stored = [
        clinic.stack.client().post("/instances", content=content, headers=headers).json()
        for content in contents
    ]
    tags = clinic.stack.get(f"/instances/{stored[1]['ID']}/tags?simplify")
    wado = (
        f"/dicom-web/studies/{tags['StudyInstanceUID']}/series/{tags['SeriesInstanceUID']}"
        f"/instances/{tags['SOPInstanceUID']}"
    )
    return Shown(f"{user}:{password}", stored[0]["ID"], stored[1]["ID"], wado)


def _called(
    clinic: Clinic, shown: Shown, *calls: tuple[str, str, dict[str, str], object]
) -> list[list[object]]:
    with clinic.unharmed(), clinic.witnessed() as testimony:
        told = clinic.script(_CALL, json.dumps(calls), login=shown.login)
    testimony.assert_never_kept_waiting()
    answers: list[list[object]] = json.loads(told.splitlines()[-1])
    return answers


@pytest.mark.parametrize("depth", [200, 10_000, 1_000_000])
@pytest.mark.parametrize("unit", ["[", '{"a":'])
def test_brackets_of_any_depth_end_nothing(clinic: Clinic, shown: Shown, depth: int, unit: str) -> None:
    json_body = {"Content-Type": "application/json"}
    calls = [
        ("POST", path, json_body, {"unit": unit, "times": depth})
        for path in ("/tools/find", "/tools/lookup", "/tools/count-resources", "/tools/bulk-content")
    ]
    # Orthanc answers 200, 400 or 500 by the depth; what matters is that it answers, and goes on.
    for status, seconds in _called(clinic, shown, *calls):
        assert isinstance(status, int), status
        assert float(str(seconds)) < 10


SIZES = [
    "/instances/{compressed}/rendered?width=40000&height=40000",
    "/instances/{compressed}/rendered?width=40000",
    "/instances/{plain}/rendered?height=999999999",
    "/instances/{plain}/frames/0/rendered?width=40000",
    "/instances/{plain}/rendered?width=-1&height=40000",
    "/series/{series}/rendered?width=40000",
    "{wado}/rendered?viewport=40000,40000",
    "{wado}/rendered?viewport=40000,40000,0,0,10,10",
    "{wado}/frames/1/rendered?viewport=99999,99999",
    "{wado}/rendered?viewport=40000%2C40000",
    "{wado}/thumbnail?viewport=40000,40000",
]
FRAMES = [
    "/instances/{compressed}/frames/1/rendered",
    "/instances/{compressed}/frames/2/preview",
    "/instances/{compressed}/frames/4294967295/preview",
    "/instances/{compressed}/frames/-1/rendered",
    "{wado}/frames/0/rendered",
    "{wado}/frames/2/rendered",
    "{wado}/frames/2",
    "{wado}/frames/99999999999999999999",
]


@pytest.mark.parametrize("paths", [SIZES, FRAMES], ids=["sizes", "frames"])
def test_sizes_and_frames_beyond_reason_are_refused(clinic: Clinic, shown: Shown, paths: list[str]) -> None:
    series = clinic.stack.get(f"/instances/{shown.compressed}/series")["ID"]
    targets = [
        path.format(plain=shown.plain, compressed=shown.compressed, wado=shown.wado, series=series)
        for path in paths
    ]
    answers = _called(clinic, shown, *[("GET", target, {}, "") for target in targets])
    wrong = {
        target: status
        for target, (status, _) in zip(targets, answers, strict=True)
        if not isinstance(status, int) or not 400 <= status < 500
    }
    assert wrong == {}


def test_images_in_every_rendering_end_nothing_and_are_shown(clinic: Clinic, shown: Shown) -> None:
    pictures = {"Accept": "image/jpeg"}
    calls = [
        ("GET", f"/instances/{shown.compressed}/preview", {}, ""),
        ("GET", f"/instances/{shown.compressed}/rendered", {}, ""),
        ("GET", f"{shown.wado}/rendered", pictures, ""),
        ("GET", f"{shown.wado}/frames/1/rendered", pictures, ""),
        ("GET", f"{shown.wado}/frames/1", {}, ""),
        ("GET", f"{shown.wado}/rendered?viewport=256,256", pictures, ""),
    ]
    assert [status for status, _ in _called(clinic, shown, *calls)] == [200] * len(calls)


FORBIDDEN = [
    ("DELETE", "/studies/x"),
    ("POST", "/instances"),
    ("PUT", "/modalities/x"),
    ("POST", "/modalities/x/store"),
    ("POST", "/tools/execute-script"),
    ("POST", "/tools/shutdown"),
    ("POST", "/tools/reset"),
    ("POST", "/tools/bulk-delete"),
    ("POST", "/tools/create-dicom"),
    ("GET", "/modalities"),
    ("GET", "/peers"),
    ("GET", "/plugins"),
    ("GET", "/tools/log-level"),
    ("GET", "/instances?_method=DELETE"),
    ("GET", "/instances?%5fmethod=DELETE"),
    ("POST", "/understudy/promote"),
    ("POST", "/understudy/failback"),
    ("POST", "/understudy/obligations/waive"),
]


def test_everything_that_a_reader_may_not_is_refused(clinic: Clinic, shown: Shown) -> None:
    body = {"Content-Type": "application/json"}
    before = clinic.stack.status()
    answers = _called(
        clinic,
        shown,
        *[(method, target, body, "" if method == "GET" else "{}") for method, target in FORBIDDEN],
    )
    allowed = {
        f"{method} {target}": status
        for (method, target), (status, _) in zip(FORBIDDEN, answers, strict=True)
        if status not in (400, 403, 404, 405)
    }
    assert allowed == {}
    after = clinic.stack.status()
    assert (after.mode, after.epoch) == (before.mode, before.epoch)


_SLOW = """
import socket, ssl, sys, time
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
held, begun = [], time.monotonic()
while len(held) < 60:
    try:
        connection = context.wrap_socket(socket.create_connection(("edge", 8443), 5))
        connection.sendall(
            b"POST /tools/find HTTP/1.1\\r\\nHost: edge\\r\\nContent-Length: 100000\\r\\nX-Slow: "
        )
        held.append(connection)
    except OSError:
        # The connections of the test before may be counted still.
        if time.monotonic() > begun + 60:
            raise
        time.sleep(0.2)
end = time.monotonic() + 8
while time.monotonic() < end:
    for connection in held:
        try:
            connection.sendall(b"x")
        except OSError:
            pass
    time.sleep(0.5)
print(len(held))
"""


def test_sixty_slow_clients_delay_no_page(clinic: Clinic) -> None:
    with clinic.unharmed(), clinic.witnessed() as testimony:
        assert clinic.script(_SLOW).strip().endswith("60")
        answer = clinic.stack.client().get("/understudy/console/")
    assert answer.status_code == 200
    assert answer.elapsed.total_seconds() < 2 + testimony.allowance
    testimony.assert_never_kept_waiting()


SECONDS = 8

_SEARCH = """
import base64, http.client, json, os, ssl, sys, threading, time
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
login = base64.b64encode(os.environ["ADVERSARY_LOGIN"].encode()).decode()
path, body, end = sys.argv[1], sys.argv[2], time.monotonic() + float(sys.argv[3])
answers = []

def search():
    while time.monotonic() < end:
        connection = http.client.HTTPSConnection("edge", 8443, timeout=40, context=context)
        connection.request("POST" if body else "GET", path, body or None, {"Authorization": "Basic " + login})
        answer = connection.getresponse()
        answer.read()
        answers.append(answer.status)
        connection.close()

threads = [threading.Thread(target=search) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def filled(clinic: Clinic) -> None:
    clinic.fill("searched", 500)


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/dicom-web/instances?includefield=all", ""),
        ("/dicom-web/studies", ""),
        ("/tools/find", json.dumps({"Level": "Instance", "Query": {}, "Expand": True})),
    ],
)
def test_sixteen_searches_at_once_delay_no_store_and_no_search_of_another(
    clinic: Clinic, shown: Shown, path: str, body: str
) -> None:
    """Orthanc's index does one thing at a time; a store waited 2 s for the searches of one reader."""
    with clinic.unharmed(), clinic.witnessed() as testimony:
        searching = clinic.begun(_SEARCH, path, body, str(SECONDS), login=shown.login)
        others: list[float] = []
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            other = clinic.stack.client().get("/dicom-web/studies?limit=1", timeout=40)
            assert other.status_code == 200
            others.append(other.elapsed.total_seconds())
        answers = json.loads(searching().splitlines()[-1])
    print(f"{len(answers)} searches, store {testimony.slowest_seconds} s, another's search {max(others)} s")
    assert set(answers) == {200}
    assert len(answers) >= 16
    assert max(others) < 2 + testimony.allowance
    testimony.assert_never_kept_waiting()
