"""The edge and the plugin against the running stack: who gets in, as what, and what a bad peer can do."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.data import ct_series
from tests.integration.edge_peers import (
    as_person,
    call_orthanc,
    connections,
    document,
    echo,
    find_statuses,
    fresh_instance,
    half_an_association_request,
    store,
)
from tests.stack import Stack, wait_until

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


@pytest.fixture(scope="module")
def ct_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edge")
    return ct_series(folder, seed="edge", instances=1, rows=64, columns=64).paths[0]


@pytest.fixture(scope="module")
def reader(appliance: Stack) -> tuple[str, str]:
    login = appliance.add_user("edge-reader", "reader")
    # The edge has restarted, and listens on another port of this machine now.
    appliance.close()
    return login


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
    status, text = call_orthanc(appliance, "edge", "GET", "/understudy/status", as_person("reader"))
    assert status == 200
    assert document(text)


def test_answers_carry_the_security_headers(
    web: httpx.Client, appliance: Stack, reader: tuple[str, str]
) -> None:
    for path in ("/system", "/ohif/", "/understudy/health"):
        headers = web.get(path, auth=reader).headers
        assert headers["strict-transport-security"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src" in headers["content-security-policy"]
        assert "server" not in headers
    assert web.get("/system", auth=reader).headers["cache-control"] == "no-store"


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
    with connections(appliance.dicom, 50, first_bytes) as held:
        stored = store(appliance.dicom, fresh_instance(ct_file))
        assert stored.status == 0
        assert stored.seconds <= ACCEPTABLE_DELAY_SECONDS
        # They are given up, not kept.
        for connection in held:
            connection.settimeout(5)
            try:
                assert connection.recv(1) == b""
            except ConnectionResetError:
                continue


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
        deadline=20,
        what="stores accepted again",
    )
    appliance.execute("orthanc", "rm", aside)
