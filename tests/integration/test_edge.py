"""The edge and the plugin against the running stack: who gets in, as what, and what a bad peer can do."""

import base64
import http.client
import json
import ssl
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from pynetdicom import AE

from tests.data import ct_series
from tests.integration.edge_peers import (
    as_person,
    associated,
    call_orthanc,
    connections,
    document,
    echo,
    find_statuses,
    fresh_instance,
    half_an_association_request,
    signed_person,
    store,
    untaken_answers,
)
from tests.integration.raw_store import store_good
from tests.stack import Stack, least, wait_until

pytestmark = pytest.mark.needs("image")

PATHS = (
    "/",
    "/system",
    "/studies",
    "/dicom-web/studies",
    "/ohif/",
    "/ohif/app-config.js",
    "/understudy/status",
    "/understudy/console/",
    "/understudy/docs",
    "/understudy/metrics",
    "/understudy/health/",
    "/understudy/health/..",
    "/understudy/../system",
    "//system",
    "/studies?_method=DELETE",
    "/no-such-path",
)
FREE_WITHOUT_PASSWORD = "/understudy/health"
ACCEPTABLE_DELAY_SECONDS = 1.0
PAGE_SECONDS = 5.0
"""Whoever is kept waiting waits for ten seconds and more."""


@pytest.fixture(scope="module")
def ct_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edge")
    return ct_series(folder, seed="edge", instances=1, rows=64, columns=64).paths[0]


@pytest.fixture(scope="module")
def reader(appliance: Stack) -> tuple[str, str]:
    return appliance.add_user("edge-reader", "reader")


@pytest.fixture
def web(appliance: Stack) -> Iterator[httpx.Client]:
    # The appliance made its certificate by itself; what is tested here is not its chain.
    with httpx.Client(base_url=appliance.https, verify=False, timeout=30) as client:
        yield client


@pytest.mark.parametrize("path", PATHS)
def test_no_password_and_wrong_password_get_401(web: httpx.Client, appliance: Stack, path: str) -> None:
    for login in (None, (appliance.admin[0], "wrong"), ("nobody", "wrong"), ("edge", "wrong"), ("", "")):
        answer = web.get(path, auth=login)
        assert answer.status_code == 401, (login, answer.text)
        assert "basic" in answer.headers["www-authenticate"].lower()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_than_get_need_a_password_even_on_health(web: httpx.Client, method: str) -> None:
    assert web.request(method, FREE_WITHOUT_PASSWORD).status_code == 401


def test_health_answers_without_a_password(web: httpx.Client) -> None:
    assert web.get(FREE_WITHOUT_PASSWORD).status_code in (200, 503)


@pytest.mark.parametrize(
    "path", ["/system", "/dicom-web/studies", "/ohif/", "/ohif/viewer?StudyInstanceUIDs=1.2"]
)
def test_reader_reads(web: httpx.Client, appliance: Stack, path: str, reader: tuple[str, str]) -> None:
    assert web.get(path, auth=reader).status_code in (200, 204)


def test_viewers_own_addresses_answer_its_page(
    web: httpx.Client, appliance: Stack, reader: tuple[str, str]
) -> None:
    page = web.get("/ohif/index.html", auth=reader).text
    assert "<html" in page
    assert web.get("/ohif/", auth=reader).text == page
    assert web.get("/ohif/viewer?StudyInstanceUIDs=1.2", auth=reader).text == page
    assert web.get("/ohif/absent.js", auth=reader).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/instances"),
        ("POST", "/dicom-web/studies"),
        ("DELETE", "/studies/absent"),
        ("PUT", "/studies/absent/metadata/1024"),
        ("GET", "/modalities"),
        ("POST", "/tools/reset"),
    ],
)
def test_reader_changes_nothing(
    web: httpx.Client, appliance: Stack, method: str, path: str, reader: tuple[str, str]
) -> None:
    assert web.request(method, path, auth=reader, content=b"x").status_code == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/tools/reset"),
        ("POST", "/tools/shutdown"),
        ("POST", "/tools/execute-script"),
        ("PUT", "/tools/log-level"),
        ("GET", "/tools/log-level"),
        ("PUT", "/tools/metrics"),
        ("PUT", "/modalities/evil"),
        ("DELETE", "/changes"),
    ],
)
def test_administrator_cannot_stop_or_reconfigure_orthanc(
    web: httpx.Client, appliance: Stack, method: str, path: str
) -> None:
    assert web.request(method, path, auth=appliance.admin, content=b"x").status_code == 403


def test_method_override_deletes_nothing(
    web: httpx.Client, appliance: Stack, ct_file: Path, reader: tuple[str, str]
) -> None:
    assert store(appliance.dicom, fresh_instance(ct_file)).status == 0
    study = web.get("/studies", auth=appliance.admin).json()[0]
    for query in ("?_method=DELETE", "?_METHOD=delete", "?%5fmethod=DELETE", "?a=b&_method=DELETE"):
        assert web.get(f"/studies/{study}{query}", auth=appliance.admin).status_code == 400
    for method in ("GET", "POST"):
        web.request(method, f"/studies/{study}", auth=reader, headers={"X-HTTP-Method-Override": "DELETE"})
    # Past the edge the plugin alone decides, by the effective method.
    person = as_person("reader")
    assert call_orthanc(appliance, "edge", "GET", f"/studies/{study}?_method=DELETE", person)[0] == 403
    override = person | {"X-HTTP-Method-Override": "DELETE"}
    assert call_orthanc(appliance, "edge", "GET", f"/studies/{study}", override)[0] == 403
    assert call_orthanc(appliance, "edge", "POST", f"/studies/{study}", override, "{}")[0] == 403
    assert study in web.get("/studies", auth=appliance.admin).json()


def test_forged_identity_is_overwritten(web: httpx.Client, appliance: Stack, reader: tuple[str, str]) -> None:
    forged = {"X-Understudy-Role": "admin", "X-Understudy-User": "root"}
    assert web.get("/modalities", auth=reader, headers=forged).status_code == 403
    assert web.get("/system", headers=forged).status_code == 401


def test_second_password_is_refused(web: httpx.Client, appliance: Stack, reader: tuple[str, str]) -> None:
    """HAProxy checks the first and would take the name from the last."""
    basic = [httpx.BasicAuth(*login)._auth_header for login in (reader, ("admin", "wrong"))]
    headers = [("Authorization", value) for value in basic]
    assert web.get("/system", headers=headers).status_code == 400
    assert web.get("/system", headers=headers[:1]).status_code == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example.org"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "https://{host}"}, 200),
        ({}, 200),
    ],
)
def test_form_on_a_foreign_page_reaches_nobody(
    web: httpx.Client, appliance: Stack, sent: dict[str, str], status: int
) -> None:
    headers = {name: value.format(host=web.base_url.netloc.decode()) for name, value in sent.items()}
    answer = web.post(
        "/tools/find", auth=appliance.admin, headers=headers, json={"Level": "Study", "Query": {}}
    )
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("account", "headers", "status"),
    [
        ("nobody", as_person("admin"), 401),
        ("edge", {}, 403),
        ("edge", as_person("agent"), 403),
        ("edge", as_person("reader"), 200),
        ("agent", {}, 200),
    ],
)
def test_orthanc_itself_asks_who_is_calling(
    appliance: Stack, account: str, headers: dict[str, str], status: int
) -> None:
    assert call_orthanc(appliance, account, "GET", "/system", headers)[0] == status


def test_agent_is_reached_through_orthancs_rest(appliance: Stack) -> None:
    for path in ("/understudy/status", "/understudy/obligations?limit=3"):
        person = signed_person(appliance, "reader", "GET", path)
        status, text = call_orthanc(appliance, "edge", "GET", path, person)
        assert status == 200, text
        # What Orthanc has seen in passing serves for nothing else, and not again.
        for method, other in (("GET", path), ("GET", "/understudy/metrics"), ("POST", "/understudy/promote")):
            status, text = call_orthanc(appliance, "edge", method, other, person, body="{}")
            assert status == 401
            assert document(text)["error"] in ("used_signature", "wrong_signature")


@pytest.mark.parametrize(
    ("account", "status", "error"), [("edge", 401, "unsigned_identity"), ("agent", 403, "")]
)
def test_orthancs_own_passwords_open_no_call_of_the_agent(
    appliance: Stack, account: str, status: int, error: str
) -> None:
    """Whoever takes over Orthanc knows both."""
    answered, text = call_orthanc(
        appliance, account, "POST", "/understudy/promote", as_person("admin"), '{"reason": "x", "epoch": 0}'
    )
    assert answered == status
    assert error in text
    assert appliance.get("/understudy/status")["mode"] == "standby"


def test_answers_carry_the_security_headers(
    web: httpx.Client, appliance: Stack, reader: tuple[str, str]
) -> None:
    for path in ("/system", "/ohif/", "/understudy/health"):
        headers = web.get(path, auth=reader).headers
        carries_security(headers)
        assert "default-src" in headers["content-security-policy"]
        assert "server" not in headers
    assert web.get("/system", auth=reader).headers["cache-control"] == "no-store"


def carries_security(headers: Mapping[str, str]) -> None:
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "SAMEORIGIN"
    assert headers["content-security-policy"]
    # With our own certificate it would cut off other services of the same host name.
    assert "strict-transport-security" not in headers


@pytest.mark.parametrize(
    ("status", "path", "sent"),
    [
        (302, "/", {}),
        (302, "/ohif", {}),
        (400, "/studies?_method=DELETE", {}),
        (403, "/tools/find", {"Sec-Fetch-Site": "cross-site"}),
        (413, "/understudy/promote", {"Content-Length": "1048577"}),
    ],
)
def test_the_edges_own_answers_carry_the_security_headers(
    appliance: Stack, reader: tuple[str, str], status: int, path: str, sent: dict[str, str]
) -> None:
    method = "GET" if status in (302, 400) else "POST"
    answered, headers, body = spelt(appliance, reader, path, method, sent)
    assert answered == status
    carries_security(headers)
    if status >= 400:
        assert set(json.loads(body)) == {"error", "message", "hint", "details"}
    carries_security(spelt(appliance, None, path)[1])


LOOSER = ("unsafe-inline", "unsafe-eval", "blob:")
SPELLINGS = (
    *("/%6fhif/", "/%6Fhif/", "/ohi%66/", "/%6f%68%69%66/index.html", "/ohif%2findex.html", "/%256fhif/"),
    *("/OHIF/", "/ohif;/", "/ohif;x=1/index.html", "/./ohif/", "/x/%2e%2e/ohif/", "/%2fohif/", "/ohif%00/"),
)


@pytest.mark.parametrize("path", SPELLINGS)
def test_no_other_spelling_of_a_path_gets_a_looser_policy(
    web: httpx.Client, appliance: Stack, reader: tuple[str, str], path: str
) -> None:
    """Of the viewer's policy and the one of all else, each is right for what it is for alone."""
    status, headers, _ = spelt(appliance, reader, path)
    assert status in (200, 400, 403, 404)
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert not [word for word in LOOSER if word in policy]
    assert spelt(appliance, None, path)[0] in (400, 401)


@pytest.mark.parametrize("path", ["/dicom-web//studies", "//dicom-web/studies", "/dicom-web///studies"])
def test_several_slashes_are_one(appliance: Stack, reader: tuple[str, str], path: str) -> None:
    assert spelt(appliance, reader, path)[0] == 200
    assert spelt(appliance, None, path)[0] == 401


def test_viewer_behind_two_slashes_gets_the_viewers_policy(appliance: Stack, reader: tuple[str, str]) -> None:
    status, headers, _ = spelt(appliance, reader, "//ohif//index.html")
    assert status == 200
    assert "wasm-unsafe-eval" in headers["content-security-policy"]


def spelt(
    appliance: Stack,
    login: tuple[str, str] | None,
    path: str,
    method: str = "GET",
    sent: Mapping[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body; path and headers go out as they are spelt here, without a body."""
    host, port = appliance.port("edge", 8443)
    connection = http.client.HTTPSConnection(host, port, context=ssl._create_unverified_context(), timeout=30)
    connection.putrequest(method, path)
    if login is not None:
        basic = base64.b64encode(":".join(login).encode()).decode()
        connection.putheader("Authorization", f"Basic {basic}")
    for name, value in (sent or {}).items():
        connection.putheader(name, value)
    try:
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


PATHS_OF_A_READER = ("/system", "/dicom-web/studies", "/ohif/", "/understudy/status")


def statuses(web: httpx.Client, login: tuple[str, str]) -> list[int]:
    """Return how each part of the appliance answers this person: Orthanc, DICOMweb, viewer, agent."""
    return [web.get(path, auth=login).status_code for path in PATHS_OF_A_READER]


def test_what_changes_of_a_person_is_in_force_within_two_seconds_and_drops_no_association(
    web: httpx.Client, appliance: Stack
) -> None:
    def changed(*command: str) -> str:
        return appliance.execute("agent", "understudy", "user", *command).decode().strip()

    def becomes(login: tuple[str, str], *expected: int) -> None:
        """Wait for one part of the appliance, then ask all.

        Twenty wrong passwords of a name in a minute are answered 429, so the edge, which reads its list
        twice a second, is not asked more often than that. Looks are counted: time in which the machine
        stands still is no time of the edge's.
        """
        seen: list[int] = []

        def look() -> int:
            seen.append(web.get(PATHS_OF_A_READER[0], auth=login).status_code)
            return seen[-1]

        wait_until(
            look,
            lambda status: status in expected or len(seen) == 5,
            deadline=60,
            what=f"{login[0]} answered by {expected}",
            pause=0.5,
        )
        assert seen[-1] in expected, seen
        assert set(statuses(web, login)) <= set(expected)
        # Orthanc ends an association after 30 s without a command.
        assert association.send_c_echo().Status == 0

    first = appliance.add_user("edge-leaver", "operator")
    entity = AE("CT1")
    entity.add_requested_context("1.2.840.10008.1.1")
    association = associated(entity, appliance.dicom)
    started = appliance.inspect("edge")["State"]["StartedAt"]
    try:
        becomes(first, 200, 204)
        second = "edge-leaver", changed("reset", "edge-leaver")
        becomes(first, 401)
        becomes(second, 200, 204)
        assert web.post("/understudy/scrub", auth=second, json={}).status_code != 403
        changed("remove", "edge-leaver")
        becomes(second, 401)
        third = "edge-leaver", changed("add", "edge-leaver", "--role", "reader")
        becomes(third, 200, 204)
        assert web.post("/understudy/scrub", auth=third, json={}).status_code == 403
        assert association.send_c_echo().Status == 0
    finally:
        association.release()
        changed("remove", "edge-leaver")
    assert appliance.inspect("edge")["State"]["StartedAt"] == started


def test_unknown_name_takes_as_long_as_a_wrong_password(web: httpx.Client, appliance: Stack) -> None:
    """The least of many is compared: what the machine does beside only adds."""
    known: list[float] = []
    unknown: list[float] = []

    def difference() -> float:
        """Try two more names, and return by how much an unknown one was answered sooner.

        Twenty a minute of a name are compared, and those count by which `add_user` waited.
        """
        names = (f"edge-timed-{len(known)}", f"edge-absent-{len(known)}")
        appliance.add_user(names[0], "reader")
        for number in range(8):
            for name, taken in zip(names, (known, unknown), strict=True):
                begin = time.perf_counter()
                answer = web.get("/system", auth=(name, f"a-password-that-is-wrong-{number:02}"))
                taken.append(time.perf_counter() - begin)
                assert answer.status_code == 401
        return min(known) - min(unknown)

    # A hash takes 0.6 ms and more.
    assert least(difference, enough=0.0003) <= 0.0003, (min(known), min(unknown))


def test_guessing_is_slowed_by_name_and_raises_an_alarm(
    web: httpx.Client, appliance: Stack, reader: tuple[str, str]
) -> None:
    answers = [web.get("/system", auth=("edge-guessed", f"guess-{number}")) for number in range(25)]
    statuses = [answer.status_code for answer in answers]
    assert set(statuses[:20]) <= {401, 429}
    assert set(statuses[21:]) == {429}
    assert answers[-1].headers["retry-after"] == "60"
    carries_security(answers[-1].headers)
    # Whoever knows a password goes on, behind the same address too.
    assert web.get("/system", auth=reader).status_code == 200
    state = wait_until(
        appliance.status,
        lambda state: any("wrong passwords came from" in alarm for alarm in state.alarms),
        deadline=40,
        what="an alarm about guessing",
    )
    assert "edge-guessed" not in str(state.raw)
    assert "edge-guessed" not in appliance.logs("edge", "agent")


def test_who_has_signed_in_goes_on_while_others_guess_at_that_name_and_colleagues_come(
    web: httpx.Client, appliance: Stack
) -> None:
    name, password = appliance.add_user("edge-guessed-at", "reader")
    for number in range(25):
        web.get("/system", auth=(name, f"guess-{number}"))
    assert web.get("/system", auth=(name, password)).status_code == 200
    appliance.add_user("edge-colleague", "reader")
    assert web.get("/system", auth=(name, password)).status_code == 200
    # Spelled with another blank it is a password like any other, and is not compared now.
    pair = base64.b64encode(f"{name}:{password}".encode()).decode()
    assert web.get("/system", headers={"Authorization": f"Basic  {pair}"}).status_code == 429


def test_guessing_at_the_health_call_is_slowed_as_well(appliance: Stack) -> None:
    """It is answered all the same, and no password is compared: that takes HAProxy's thread milliseconds."""
    name, password = appliance.add_user("edge-health", "reader")
    health = "/understudy/health"
    # Who is known by this very header goes on; spelled with another blank it has to be compared again.
    pair = base64.b64encode(f"{name}:{password}".encode()).decode()
    right = {"Authorization": f"Basic  {pair}"}
    with httpx.Client(base_url=appliance.https, verify=False, timeout=30) as web:
        for number in range(25):
            assert web.get(health, auth=(name, f"guess-{number}")).content == b""
        assert web.get(health, headers=right).content == b""
        assert web.get("/system", headers=right).status_code == 429


@pytest.fixture(scope="module")
def large_file(appliance: Stack) -> str:
    """The path of a file that fits into no buffer on its way."""
    item = store_good(appliance.dicom, "edge-large", 16_000_000)
    found = appliance.post("/tools/find", {"Level": "Instance", "Query": {"SOPInstanceUID": item.uid}})
    return f"/instances/{found[0]}/file"


def seconds_of_an_answer(web: httpx.Client, login: tuple[str, str], path: str) -> float:
    answer = web.get(path, auth=login)
    assert answer.status_code == 200, answer.text
    return answer.elapsed.total_seconds()


@pytest.mark.parametrize("turn", ["first", "again"])
def test_sixty_answers_that_one_person_does_not_take_keep_no_other_waiting(
    web: httpx.Client, appliance: Stack, reader: tuple[str, str], large_file: str, turn: str
) -> None:
    """Asked by a person of whom nothing is counted yet, and by one of whom there is."""
    with untaken_answers(appliance, reader, large_file, 60) as held:
        wait_until(
            lambda: [text for text in map(beginning, held) if text.startswith(b"HTTP/1.1 200")],
            bool,
            deadline=60,
            what="an answer under way",
        )
        for path in ("/system", "/dicom-web/studies", "/understudy/console/", "/understudy/status"):
            assert seconds_of_an_answer(web, appliance.admin, path) < PAGE_SECONDS
        # What goes beyond the share waits its turn, and is told so when it has waited long enough.
        told = wait_until(
            lambda: [text for text in map(beginning, held) if text.startswith(b"HTTP/1.1 429")],
            bool,
            deadline=90,
            what="a request beyond the share answered",
        )[0]
        assert b"retry-after: " in told.lower()
        assert b'"too_many_requests"' in told
        assert seconds_of_an_answer(web, appliance.admin, "/system") < PAGE_SECONDS


def beginning(connection: ssl.SSLSocket) -> bytes:
    """Return what has come of an answer, a thousand bytes at most; nothing of a connection that has ended."""
    connection.setblocking(False)
    try:
        return connection.recv(1000)
    except OSError:
        return b""


@pytest.mark.parametrize("windows", [5])
def test_person_with_several_browsers_is_refused_nothing(
    web: httpx.Client, appliance: Stack, reader: tuple[str, str], large_file: str, windows: int
) -> None:
    """A browser has six connections by HTTP/1.1: what comes beyond the share waits."""
    small = large_file.replace("/file", "/tags?simplify")

    def ask(number: int) -> list[int]:
        with httpx.Client(base_url=appliance.https, verify=False, timeout=60, auth=reader) as browser:
            return [
                browser.get(large_file if turn == number % 20 else small).status_code for turn in range(20)
            ]

    with ThreadPoolExecutor(windows * 6) as threads:
        answered = [status for told in threads.map(ask, range(windows * 6)) for status in told]
    assert set(answered) == {200}


_CROWD = """
import base64, http.client, json, socket, ssl, sys, time
addresses, each, strangers, login = *map(int, sys.argv[1:4]), sys.argv[4]
basic = "Basic " + base64.b64encode(login.encode()).decode()
context = ssl._create_unverified_context()

def asked(number):
    began = time.monotonic()
    connection = http.client.HTTPSConnection(
        "127.0.0.1", 8443, timeout=5, context=context, source_address=(f"127.0.1.{number}", 0)
    )
    try:
        connection.request("GET", "/understudy/status", headers={"Authorization": basic})
        status = connection.getresponse().status
    except OSError as error:
        status = type(error).__name__
    held.append(connection)
    return [status, round(time.monotonic() - began, 2)]

def fill():
    for number in range(addresses):
        for _ in range(each):
            try:
                held.append(socket.create_connection(("127.0.0.1", 8443), 1, (f"127.0.2.{number + 1}", 0)))
            except OSError:
                break

held = []
before = asked(1)
# Connections that ended meanwhile, of other tests too, have left places: they are taken again.
for number in range(addresses, addresses + strangers):
    fill()
    new = asked(2 + number)
    if new[0] != 200:
        break
known = asked(1)
print(json.dumps({"before": before, "known": known, "new": new}))
"""


def crowded(appliance: Stack, addresses: int, each: int, strangers: int = 1) -> dict[str, list[object]]:
    """Open so many connections of each of so many addresses, from within the edge's container.

    There a caller has many addresses. Return how another address is answered, one that has signed in
    before and one that has not: the first of so many that is refused, or the last.
    """
    login = ":".join(appliance.admin)
    numbers = map(str, (addresses, each, strangers))
    told = appliance.execute("edge", "/usr/bin/python3", "-c", _CROWD, *numbers, login)
    answers: dict[str, list[object]] = json.loads(told)
    return answers


@pytest.mark.parametrize("addresses", [3, 10])
def test_connections_of_several_addresses_close_nothing_for_another(appliance: Stack, addresses: int) -> None:
    for status, seconds in crowded(appliance, addresses, 250).values():
        assert status == 200
        assert float(str(seconds)) < PAGE_SECONDS


def test_address_that_has_signed_in_gets_in_beside_any_number_of_strangers(appliance: Stack) -> None:
    answers = crowded(appliance, 80, 10, strangers=20)
    assert answers["known"][0] == 200
    # Otherwise they were not enough to close anything.
    assert answers["new"][0] != 200


def test_addresses_of_bulk_data_lead_back_through_the_edge(
    web: httpx.Client, appliance: Stack, ct_file: Path, reader: tuple[str, str]
) -> None:
    instance = fresh_instance(ct_file)
    assert store(appliance.dicom, instance).status == 0
    path = f"/dicom-web/studies/{instance.StudyInstanceUID}/instances"
    (url, *_) = {item["00081190"]["Value"][0] for item in web.get(path, auth=reader).json()}
    assert url.startswith(appliance.https + "/dicom-web/")


@pytest.mark.parametrize("called", ["UNDERSTUDY", "PRIMARY", "ANY-SCP"])
def test_echo_under_any_called_ae_title_is_answered(appliance: Stack, called: str) -> None:
    assert echo(appliance.dicom, "CT1", called) == 0


def test_stranger_may_store_and_may_not_query(appliance: Stack, ct_file: Path) -> None:
    assert store(appliance.dicom, fresh_instance(ct_file), calling="STRANGER").status == 0
    statuses = find_statuses(appliance.dicom, "STRANGER")
    assert not [status for status in statuses if status in (0x0000, 0xFF00, 0xFF01)]


@pytest.mark.parametrize(
    "first_bytes",
    [b"", b"\x01", b"GET / HTTP/1.1\r\n\r\n", half_an_association_request()],
    ids=["idle", "one byte", "http", "half a request"],
)
def test_fifty_bad_connections_do_not_delay_a_store(
    appliance: Stack, ct_file: Path, first_bytes: bytes
) -> None:
    # Asked for once: the Engine takes a while, and the gate ends who says nothing for two seconds.
    address = appliance.dicom

    def seconds_of_a_store() -> float:
        with connections(address, 50, first_bytes) as held:
            stored = store(address, fresh_instance(ct_file))
            assert stored.status == 0
            # They are given up, not kept; who has said anything is told so by an A-ABORT (DICOM PS3.8 9.3.8).
            for connection in held:
                connection.settimeout(10)
                try:
                    answer = connection.recv(10)
                    assert answer[:1] in ((b"\7", b"\3") if first_bytes else (b"",))
                    assert not answer or connection.recv(1) == b""
                except ConnectionResetError:
                    continue
        return stored.seconds

    assert least(seconds_of_a_store, enough=ACCEPTABLE_DELAY_SECONDS) <= ACCEPTABLE_DELAY_SECONDS


def test_missing_write_ahead_log_ends_orthanc_before_a_store_is_answered(
    appliance: Stack, ct_file: Path
) -> None:
    log, aside = "/var/lib/orthanc/index/index-wal", "/var/lib/orthanc/index/moved-by-a-test"
    assert store(appliance.dicom, fresh_instance(ct_file)).status == 0
    appliance.execute("orthanc", "mv", log, aside)
    # Orthanc has committed this one and would answer success: its process ends first.
    assert store(appliance.dicom, fresh_instance(ct_file)).status is None
    wait_until(
        lambda: store(appliance.dicom, fresh_instance(ct_file)),
        lambda stored: stored.status == 0,
        deadline=120,
        what="stores accepted again",
    )
    appliance.execute("orthanc", "rm", aside)
