"""The appliance alone, without any configuration: it serves at once, lets nobody in unasked, is confined."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from tests import data
from tests.stack import TEST_PROJECT, Stack, StackError, wait_until

SERVICES = ("edge", "orthanc", "agent")
READY_WITHIN = 20.0
SLOWER_AT_MOST = 1.0

PATHS = (
    "/",
    "/system",
    "/statistics",
    "/changes",
    "/patients",
    "/studies",
    "/series",
    "/instances",
    "/instances/x/file",
    "/tools/find",
    "/tools/execute-script",
    "/tools/reset",
    "/modalities",
    "/plugins",
    "/jobs",
    "/dicom-web/studies",
    "/wado",
    "/ohif/",
    "/ohif/app-config.js",
    "/app/explorer.html",
    "/understudy/status",
    "/understudy/metrics",
    "/understudy/operations",
    "/understudy/obligations",
    "/understudy/modalities",
    "/understudy/reports/1",
    "/understudy/console/",
    "/understudy/docs",
    "/understudy/openapi.json",
    "/understudy/promote",
    "/understudy/failback",
    "/understudy/health/",
    "/understudy/nothing-of-that-name",
    "/nothing-of-that-name",
)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> data.Series:
    return data.ct_series(
        tmp_path_factory.mktemp("alone"), seed="alone-test", instances=3, rows=64, columns=64
    )


@pytest.fixture(scope="module")
def reader(appliance: Stack) -> tuple[str, str]:
    return appliance.add_user("reader", "reader")


@pytest.fixture
def stranger(appliance: Stack) -> Iterator[httpx.Client]:
    """Somebody on the network: trusts the certificate, has no login."""
    with httpx.Client(base_url=appliance.https, verify=appliance.pinned(), timeout=15) as client:
        yield client


def echo(address: tuple[str, int]) -> None:
    entity = AE(ae_title="STRANGER")
    entity.add_requested_context(Verification)
    association = entity.associate(*address, ae_title="UNDERSTUDY")
    assert association.is_established
    assert association.send_c_echo().Status == 0x0000
    association.release()


def store(address: tuple[str, int], path: Path) -> None:
    entity = AE(ae_title="CT1")
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = entity.associate(*address, ae_title="UNDERSTUDY")
    assert association.is_established
    assert association.send_c_store(pydicom.dcmread(path)).Status == 0x0000
    association.release()


def study_uids(appliance: Stack) -> set[str]:
    return {study["0020000D"]["Value"][0] for study in appliance.get("/dicom-web/studies")}


def served(stack: Stack, series: data.Series) -> bool:
    """Try everything that a clinic tries first; raise StackError while one of them does not work."""
    try:
        echo(stack.dicom)
        store(stack.dicom, series.paths[0])
    except AssertionError as error:
        raise StackError(f"DICOM: {error}") from error
    return series.study_instance_uid in study_uids(stack) and stack.client().get("/ohif/").status_code == 200


def test_up_without_configuration_serves_everything_within_20_s(series: data.Series) -> None:
    stack = Stack(f"{TEST_PROJECT}-cold", lab=False)
    stack.down()
    try:
        began = time.monotonic()
        stack.compose("up", "--detach", "--no-build")
        left = max(0.1, READY_WITHIN - (time.monotonic() - began))
        wait_until(lambda: served(stack, series), bool, deadline=left, what="C-ECHO, C-STORE, QIDO and OHIF")
    except StackError:
        print(stack.logs())
        raise
    finally:
        stack.down()


def test_first_start_is_shown_once(appliance: Stack) -> None:
    user, password = appliance.admin
    assert user == "admin"
    assert len(password) >= 20
    with pytest.raises(StackError, match="shown before"):
        appliance.execute("agent", "understudy", "first-start")
    assert password not in appliance.compose("logs", "--no-color")


@pytest.mark.parametrize("path", PATHS)
def test_no_path_answers_without_a_right_password(
    appliance: Stack, stranger: httpx.Client, path: str
) -> None:
    assert stranger.get(path).status_code == 401
    assert stranger.post(path, json={}).status_code == 401
    assert stranger.get(path, auth=(appliance.admin[0], "orthanc")).status_code == 401
    assert (
        stranger.get(path, headers={"X-Understudy-User": "admin", "X-Understudy-Role": "admin"}).status_code
        == 401
    )


def test_health_answers_its_bare_status_code_to_anybody(stranger: httpx.Client) -> None:
    answer = stranger.get("/understudy/health")
    assert answer.status_code == 200
    assert answer.content == b""
    assert stranger.get("/understudy/health", params={"role": "active"}).status_code == 503
    assert stranger.post("/understudy/health").status_code == 401


@pytest.mark.parametrize(
    "disguise",
    [
        {"params": {"_method": "DELETE"}},
        {"params": {"_METHOD": "DELETE"}},
        {"params": {"x": "1", "_method": "delete"}},
        {"headers": {"X-HTTP-Method-Override": "DELETE"}},
    ],
    ids=["query", "query-in-capitals", "second-in-query", "header"],
)
def test_method_override_deletes_nothing_for_a_reader(
    appliance: Stack, reader: tuple[str, str], series: data.Series, disguise: dict[str, dict[str, str]]
) -> None:
    store(appliance.dicom, series.paths[1])
    (study,) = appliance.post(
        "/tools/find", {"Level": "Study", "Query": {"StudyInstanceUID": series.study_instance_uid}}
    )
    client = appliance.client(reader)
    assert client.get(f"/studies/{study}").status_code == 200
    client.get(f"/studies/{study}", params=disguise.get("params"), headers=disguise.get("headers"))
    assert client.delete(f"/studies/{study}").status_code == 403
    assert series.study_instance_uid in study_uids(appliance)


def test_method_override_as_the_test_makes_it_is_what_orthanc_obeys(
    appliance: Stack, series: data.Series
) -> None:
    """Show that the trick works past the edge and as the agent: else the test above could not fail."""
    store(appliance.dicom, series.paths[2])
    script = """
import base64, json, urllib.request
secret = open("/var/lib/understudy-keys/service/agent").read().strip()
headers = {"Authorization": "Basic " + base64.b64encode(f"agent:{secret}".encode()).decode()}
def call(path, body=None):
    return urllib.request.urlopen(urllib.request.Request("http://orthanc:8042" + path, body, headers)).read()
query = {"Level": "Instance", "Query": {"SOPInstanceUID": "%s"}}
(found,) = json.loads(call("/tools/find", json.dumps(query).encode()))
call(f"/instances/{found}?_method=DELETE")
print(len(json.loads(call("/tools/find", json.dumps(query).encode()))))
"""
    printed = appliance.execute("agent", "python", "-c", script % series.sop_instance_uids[2])
    assert printed.strip() == b"0"


@pytest.mark.parametrize("service", SERVICES)
def test_service_is_confined(appliance: Stack, service: str) -> None:
    found = appliance.inspect(service)
    host = found["HostConfig"]
    assert found["Config"]["User"] == "10001:10001"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert not host["Privileged"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["Memory"] > 0


@pytest.mark.parametrize("service", SERVICES)
def test_service_has_no_rights_when_it_tries(appliance: Stack, service: str) -> None:
    assert appliance.shell(service, "id -u").strip() == "10001"
    capabilities = appliance.shell(service, "grep -E '^Cap(Prm|Eff|Bnd|Amb)' /proc/self/status")
    assert {line.split()[1] for line in capabilities.splitlines()} == {"0" * 16}
    # One by one, so that one folder that can be written is seen behind the others that cannot.
    written = appliance.shell(
        service,
        """
        for folder in / /etc /etc/understudy/config /opt/understudy/plugins /usr/local/bin /var/lib; do
            if (: > "$folder/written-by-test") 2>/dev/null; then echo "$folder"; fi
        done
        """,
    )
    assert written.strip() == ""


def test_only_two_ports_are_published(appliance: Stack) -> None:
    published = {
        service: sorted(
            port for port, bound in appliance.inspect(service)["NetworkSettings"]["Ports"].items() if bound
        )
        for service in SERVICES
    }
    assert published == {"edge": ["4242/tcp", "8443/tcp"], "orthanc": [], "agent": []}


def test_idle_connections_do_not_delay_a_store(appliance: Stack, tmp_path: Path) -> None:
    files = data.ct_series(tmp_path, seed="idle", instances=4, rows=64, columns=64).paths
    store(appliance.dicom, files[0])
    alone = _seconds(appliance, files[1])
    with ExitStack() as connections:
        for _ in range(50):
            connections.enter_context(socket.create_connection(appliance.dicom, timeout=5))
        beside = _seconds(appliance, files[2])
        assert beside - alone <= SLOWER_AT_MOST, (
            f"{alone:.2f} s alone, {beside:.2f} s beside 50 idle connections"
        )


def _seconds(appliance: Stack, path: Path) -> float:
    address = appliance.dicom
    began = time.monotonic()
    store(address, path)
    return time.monotonic() - began
