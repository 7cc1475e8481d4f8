"""Every target of a restore keeps one contract: a folder, and a real Orthanc by REST."""

import json
import secrets
import subprocess
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from understudy.adapters.targets import FolderTarget, OrthancTarget
from understudy.core.model import Instance
from understudy.core.packing import Member
from understudy.core.ports import RestoreTarget, TargetError
from understudy.flow.restore import restore

from tests.vault_parts import SPOOL, Bench, bench

pytestmark = pytest.mark.needs("image")


@pytest.fixture(scope="module")
def orthanc() -> Iterator[httpx.Client]:
    configuration = json.dumps(
        {
            "StorageDirectory": "/tmp/storage",
            "IndexDirectory": "/tmp/storage",
            "RemoteAccessAllowed": True,
            "AuthenticationEnabled": False,
            "DicomServerEnabled": False,
        }
    )
    script = 'printf %s "$0" > /tmp/orthanc.json; exec Orthanc /tmp/orthanc.json'
    command = ["docker", "run", "--detach", "--publish", "127.0.0.1::8042", "--entrypoint", "bash"]
    container = _output(*command, "understudy:local", "-c", script, configuration)
    try:
        port = _output("docker", "port", container, "8042").splitlines()[0].rsplit(":", 1)[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            _wait_for(client)
            yield client
    finally:
        _output("docker", "rm", "--force", "--volumes", container)


@pytest.fixture(params=["folder", "orthanc"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> RestoreTarget:
    if request.param == "folder":
        return FolderTarget(tmp_path / "restored")
    return OrthancTarget(request.getfixturevalue("orthanc"), SPOOL)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path / "bench") as made:
        yield made


def delivered(parts: Bench) -> list[Instance]:
    instances = parts.storage.series(secrets.token_hex(8))
    assert all(item.proof is not None for item in parts.vault().deliver(instances))
    return instances


def test_restore_into_the_target_brings_all_and_then_skips_all(parts: Bench, target: RestoreTarget) -> None:
    study = delivered(parts)[0].study_instance_uid
    first = restore(parts.store, parts.opener, target, study, spool=SPOOL)
    assert (first.restored, first.skipped, first.failed) == (3, 0, ())
    second = restore(parts.store, parts.opener, target, study, spool=SPOOL)
    assert (second.restored, second.skipped, second.failed) == (0, 3, ())


def test_target_with_other_bytes_keeps_them_and_says_so(
    parts: Bench, target: RestoreTarget, orthanc: httpx.Client
) -> None:
    instance = delivered(parts)[0]
    original = parts.storage.content(instance)
    restore(parts.store, parts.opener, target, instance.study_instance_uid, spool=SPOOL)
    other = original[:-1] + bytes([original[-1] ^ 1])
    member = Member(
        f"{instance.study_instance_uid}/{instance.series_instance_uid}/{instance.sop_instance_uid}.dcm",
        instance.sop_instance_uid,
        instance.series_instance_uid,
        "",
        "",
        len(other),
        "0" * 64,
        "0" * 32,
        0.0,
    )
    with pytest.raises(TargetError):
        target.has(member)


def test_orthanc_that_answers_already_stored_for_other_bytes_is_not_believed(
    parts: Bench, orthanc: httpx.Client
) -> None:
    instance = delivered(parts)[0]
    target = OrthancTarget(orthanc, SPOOL)
    restore(parts.store, parts.opener, target, instance.study_instance_uid, spool=SPOOL)
    original = parts.storage.content(instance)
    other = original[:-1] + bytes([original[-1] ^ 1])
    member = Member("", instance.sop_instance_uid, "", "", "", len(other), "", "0" * 32, 0.0)
    with pytest.raises(TargetError, match="AlreadyStored"):
        target.keep(member, BytesIO(other))


def test_orthanc_given_no_dicom_refuses_with_its_status(orthanc: httpx.Client) -> None:
    member = Member("", "1.2.3.4", "", "", "", 1, "", "", 0.0)
    with pytest.raises(TargetError, match="400"):
        OrthancTarget(orthanc, SPOOL).keep(member, BytesIO(b"no DICOM"))


def test_orthanc_that_is_down_fails_every_instance_by_name(parts: Bench) -> None:
    instances = delivered(parts)
    with httpx.Client(base_url="http://127.0.0.1:9") as client:
        result = restore(parts.store, parts.opener, OrthancTarget(client, SPOOL), spool=SPOOL)
    assert {failure.what for failure in result.failed} == {item.sop_instance_uid for item in instances}


def test_folder_that_cannot_be_written_fails_every_instance(parts: Bench, tmp_path: Path) -> None:
    instances = delivered(parts)
    (tmp_path / "file").write_bytes(b"")
    result = restore(parts.store, parts.opener, FolderTarget(tmp_path / "file"), spool=SPOOL)
    assert len(result.failed) == len(instances)


def _wait_for(client: httpx.Client) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            client.get("/system").raise_for_status()
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
