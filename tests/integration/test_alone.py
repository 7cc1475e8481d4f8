"""The appliance alone, without any configuration: it serves at once, lets nobody in unasked, is confined."""

import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pydicom
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import generate_uid
from understudy.holders.destination import PLAIN_SYNTAXES

from tests import data
from tests.stack import LAB_IMAGE, TEST_PROJECT, Stack, StackError, least, run, wait_until

pytestmark = pytest.mark.needs("image", "lab-image")

USERS = {"edge": "10002:10002", "orthanc": "10001:10001", "agent": "10001:10001"}
SERVICES = tuple(USERS)
READY_WITHIN = 20.0

INSTALLED = """
from importlib.metadata import distributions
for found in distributions():
    print(found.metadata["Name"].lower().replace("_", "-").replace(".", "-"), found.version)
"""

TRANSCODE = """
import sys
from understudy.adapters.orthanc import Orthanc
from understudy.adapters.transcoding import Transcoder
from understudy.core.model import Instance, InstanceNumber, NewInstance
from understudy.core.ports import UnreadableFileError
secret = open("/var/lib/understudy-keys/service/agent").read().strip()
orthanc = Orthanc("http://orthanc:8042", "agent", secret, timeout=30)
(found,) = orthanc.describe([sys.argv[1]])
fields = {name: getattr(found, name) for name in NewInstance.__dataclass_fields__}
try:
    content = Transcoder(orthanc)(Instance(**fields, number=InstanceNumber(1)), sys.argv[2])
except UnreadableFileError as error:
    content = f"{error.reason}, permanent={error.permanent}".encode()
sys.stdout.buffer.write(content)
"""

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


@pytest.fixture
def stranger(appliance: Stack) -> Iterator[httpx.Client]:
    """Somebody on the network: trusts the certificate, has no login."""
    with httpx.Client(base_url=appliance.https, verify=appliance.pinned(), timeout=15) as client:
        yield client


def dcmtk(tool: str, address: tuple[str, int], *paths: Path) -> None:
    """Run a tool of dcmtk from the lab's image against the appliance; raise StackError where it fails."""
    host, port = address
    folders = {path.parent for path in paths}
    run(
        [
            *("docker", "run", "--rm", "--network", "host", "--user", f"{os.getuid()}:{os.getgid()}"),
            *(part for folder in folders for part in ("--volume", f"{folder}:{folder}:ro")),
            *("--entrypoint", tool, LAB_IMAGE, "-aet", "CT1", "-aec", "UNDERSTUDY", host, str(port)),
            *map(str, paths),
        ]
    )


def study_uids(appliance: Stack) -> set[str]:
    return {study["0020000D"]["Value"][0] for study in appliance.get("/dicom-web/studies")}


def served(stack: Stack, series: data.Series) -> bool:
    """Try everything that a clinic tries first; raise StackError while one of them does not work."""
    dcmtk("echoscu", stack.dicom)
    dcmtk("storescu", stack.dicom, series.paths[0])
    return series.study_instance_uid in study_uids(stack) and stack.client().get("/ohif/").status_code == 200


def test_up_without_configuration_serves_everything_within_20_s(series: data.Series) -> None:
    def seconds_of_a_start() -> float:
        """Return when the look began that found all there: the tools' own start takes seconds."""
        stack = Stack(f"{TEST_PROJECT}-cold", lab=False)
        stack.down()
        looks: list[float] = []

        def look() -> bool:
            looks.append(time.monotonic())
            return served(stack, series)

        try:
            began = time.monotonic()
            stack.compose("up", "--detach", "--no-build")
            wait_until(look, bool, deadline=120, what="C-ECHO, C-STORE, QIDO and OHIF")
            return looks[-1] - began
        except StackError:
            print(stack.logs())
            raise
        finally:
            stack.down()

    assert least(seconds_of_a_start, enough=READY_WITHIN) <= READY_WITHIN


def test_first_start_is_shown_once(appliance: Stack) -> None:
    user, password = appliance.admin
    assert user == "admin"
    assert len(password) >= 20
    with pytest.raises(StackError, match="shown before"):
        appliance.execute("agent", "understudy", "first-start")
    assert password not in appliance.compose("logs", "--no-color")


@pytest.mark.parametrize("path", PATHS)
def test_no_path_answers_a_stranger(stranger: httpx.Client, path: str) -> None:
    """Wrong passwords are in test_edge: they are counted against their sender."""
    assert stranger.get(path).status_code == 401
    assert stranger.post(path, json={}).status_code == 401
    forged = {"X-Understudy-User": "admin", "X-Understudy-Role": "admin"}
    assert stranger.get(path, headers=forged).status_code == 401


def test_health_answers_its_bare_status_code_to_anybody(stranger: httpx.Client) -> None:
    answer = stranger.get("/understudy/health")
    assert answer.status_code == 200
    assert answer.content == b""
    assert stranger.get("/understudy/health", params={"role": "active"}).status_code == 503
    assert stranger.post("/understudy/health").status_code == 401


def stored(appliance: Stack, name: str, *, pixels: bytes | None = None) -> tuple[str, bytes]:
    """Store one of pydicom's files under a UID of its own; return Orthanc's name for it, and the file."""
    dataset = pydicom.dcmread(str(get_testdata_file(name)))
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[name])
    if pixels is not None:
        dataset.PixelData = encapsulate([pixels])
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    answer = appliance.client().post("/instances", content=buffer.getvalue()).raise_for_status().json()
    orthanc_id = str(answer["ID"])
    return orthanc_id, appliance.client().get(f"/instances/{orthanc_id}/file").content


@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"]
)
def test_copy_for_a_peer_without_compression_has_the_same_pixels_and_the_file_stays(
    appliance: Stack, name: str
) -> None:
    plain = pydicom.dcmread(str(get_testdata_file("MR_small.dcm"))).pixel_array
    orthanc_id, before = stored(appliance, name)
    for syntax in PLAIN_SYNTAXES:
        content = appliance.execute("agent", "python3", "-c", TRANSCODE, orthanc_id, syntax)
        copy = pydicom.dcmread(io.BytesIO(content))
        assert copy.file_meta.TransferSyntaxUID == syntax
        assert copy.SOPInstanceUID == pydicom.dcmread(io.BytesIO(before)).SOPInstanceUID
        assert (copy.pixel_array == plain).all()
    assert appliance.client().get(f"/instances/{orthanc_id}/file").content == before


def test_what_orthanc_cannot_transcode_is_told_and_never_sent_as_it_is(appliance: Stack) -> None:
    orthanc_id, _ = stored(appliance, "MR_small_jp2klossless.dcm", pixels=b"no code stream at all")
    content = appliance.execute("agent", "python3", "-c", TRANSCODE, orthanc_id, PLAIN_SYNTAXES[0])
    assert content.startswith(b"it cannot be transcoded")
    assert content.endswith(b"permanent=True")


def test_method_override_past_the_edge_deletes_for_the_agent(appliance: Stack, series: data.Series) -> None:
    """Show that Orthanc knows the trick that test_edge refuses to a reader: else that could not fail."""
    dcmtk("storescu", appliance.dicom, series.paths[2])
    script = """
import base64, json, urllib.request
secret = open("/var/lib/understudy-keys/service/agent").read().strip()
headers = {"Authorization": "Basic " + base64.b64encode(f"agent:{secret}".encode()).decode()}
def call(path, body=None):
    return urllib.request.urlopen(urllib.request.Request("http://orthanc:8042" + path, body, headers)).read()
(found,) = json.loads(call("/tools/lookup", b"%s"))
call(f"/instances/{found['ID']}?_method=DELETE")
print(len(json.loads(call("/tools/lookup", b"%s"))))
"""
    uid = series.sop_instance_uids[2]
    printed = appliance.execute("agent", "python", "-c", script % (uid, uid))
    assert printed.strip() == b"0"


@pytest.mark.parametrize("service", SERVICES)
def test_service_is_confined(appliance: Stack, service: str) -> None:
    found = appliance.inspect(service)
    host = found["HostConfig"]
    assert found["Config"]["User"] == USERS[service]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert not host["Privileged"]
    assert not host["Devices"]
    assert {host["NetworkMode"], host["PidMode"], host["UTSMode"]} & {"host"} == set()
    assert host["IpcMode"] == "private"
    # No other profile in place of the Engine's: what holds is seen below.
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert all(mount["Type"] == "volume" or not mount["RW"] for mount in found["Mounts"])


@pytest.mark.parametrize("service", SERVICES)
def test_service_has_no_rights_when_it_tries(appliance: Stack, service: str) -> None:
    assert appliance.shell(service, "echo $(id -u):$(id -g)").strip() == USERS[service]
    status = dict(
        line.split(":\t", 1) for line in appliance.shell(service, "cat /proc/self/status").splitlines()
    )
    assert {status[f"Cap{kind}"] for kind in ("Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    # 2: calls are filtered.
    assert status["Seccomp"] == "2"
    # The kernel alone would allow this call; the Engine's profile does not.
    with pytest.raises(StackError, match="Operation not permitted"):
        appliance.shell(service, "unshare --user true")
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


@pytest.mark.parametrize("service", SERVICES)
def test_service_finds_no_program_that_lends_rights(appliance: Stack, service: str) -> None:
    assert appliance.shell(service, "find / -xdev -perm /6000 -type f 2>/dev/null || true") == ""


@pytest.mark.parametrize("service", SERVICES)
def test_service_runs_nothing_from_tmp(appliance: Stack, service: str) -> None:
    script = "printf '#!/bin/sh\\n' > /tmp/program; chmod +x /tmp/program; /tmp/program"
    with pytest.raises(StackError, match="Permission denied"):
        appliance.shell(service, script)


@pytest.mark.parametrize(
    ("service", "memory", "processes"), [("edge", 640, 64), ("orthanc", 2048, 1280), ("agent", 1024, 256)]
)
def test_service_is_limited_by_the_kernel(
    appliance: Stack, service: str, memory: int, processes: int
) -> None:
    host = appliance.inspect(service)["HostConfig"]
    # The second is that of memory and swap together.
    assert (host["Memory"], host["MemorySwap"]) == (memory << 20, memory << 20)
    # Version 2 of the control groups has other names for the same.
    limits = appliance.shell(
        service,
        """
        cd /sys/fs/cgroup
        cat memory.max memory/memory.limit_in_bytes 2>/dev/null || true
        cat pids.max pids/pids.max 2>/dev/null || true
        ulimit -H -c
        """,
    )
    assert limits.split() == [str(memory << 20), str(processes), "0"]


def test_intake_goes_before_the_rest_where_the_processors_are_short(appliance: Stack) -> None:
    shares = {service: appliance.inspect(service)["HostConfig"]["CpuShares"] for service in SERVICES}
    assert 0 < 4 * shares["agent"] <= min(shares["edge"], shares["orthanc"])


def test_bill_of_materials_has_every_installed_package(appliance: Stack) -> None:
    listed = json.loads(appliance.execute("agent", "cat", "/usr/share/doc/understudy/sbom.cdx.json"))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(listed)) is None
    debian = appliance.shell("agent", "dpkg-query --show --showformat='${Package} ${Version}\n'")
    python = appliance.shell("agent", "python -c '" + INSTALLED + "'")
    found: dict[str, set[str]] = {"deb": set(), "pypi": set(), "npm": set()}
    for part in listed["components"]:
        kind = part["purl"].split("/")[0].removeprefix("pkg:")
        found[kind].add(f"{part['name']} {part['version']}")
    assert found["deb"] == set(debian.splitlines())
    assert found["pypi"] == set(python.splitlines())
    assert {part.split()[0] for part in found["npm"]} == {"app", "swagger-ui-dist"}
    # Debian's policy asks for a copyright file in every package, and a licence asks for its text.
    missing = "for package in $(dpkg-query --show --showformat='${Package} '); do "
    missing += "[ -s /usr/share/doc/$package/copyright ] || echo $package; done"
    assert appliance.shell("agent", missing) == ""


def test_only_the_edges_ports_are_published(appliance: Stack) -> None:
    published = {
        service: sorted(
            port for port, bound in appliance.inspect(service)["NetworkSettings"]["Ports"].items() if bound
        )
        for service in SERVICES
    }
    assert published == {"edge": ["2762/tcp", "4242/tcp", "8443/tcp"], "orthanc": [], "agent": []}
