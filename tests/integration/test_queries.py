"""No list takes the memory of Orthanc, and one that was cut says so.

The archive has more studies than one query gives.
"""

import json
import shutil
from collections.abc import Iterator
from itertools import count
from typing import Any

import httpx
import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.presentation import build_context
from understudy.plugin.lists import MOST_RESULTS

from tests import hostile
from tests.stack import REPOSITORY, TEST_PROJECT, Stack, StackError, wait_until

pytestmark = pytest.mark.needs("image")

FOUND = 1024
"""Answers to one C-FIND where Orthanc has 1 GiB."""
STUDIES = FOUND + 50
PRIVATE = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]
"""Docker's networks, from which this machine's connections come."""
READER = {"Name": "ws1", "AeTitle": "WS1", "Host": "ws1.example.org", "Addresses": PRIVATE, "Reads": True}
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
OUT_OF_RESOURCES = 0xA700


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("queries") / "config"
    shutil.copytree(REPOSITORY / "orthanc-config", folder)
    content = {"Understudy": {"Vaults": [], "Modalities": [READER]}}
    (folder / "understudy.json").write_text(json.dumps(content), encoding="utf-8")
    folder.chmod(0o755)
    environment = {"UNDERSTUDY_CONFIG": str(folder), "UNDERSTUDY_ORTHANC_MEMORY": "1g"}
    stack = Stack(f"{TEST_PROJECT}-queries", lab=False, environment=environment)
    stack.down()
    try:
        stack.up()
        client = stack.client()
        for number in range(STUDIES):
            client.post("/instances", content=hostile.good(f"query/{number}").content).raise_for_status()
        yield stack
    except StackError:
        print(stack.logs())
        raise
    finally:
        stack.down()


def find(archive: Stack, **keys: str) -> tuple[int, int]:
    """Query for studies as a workstation does; return how many were given, and the last status."""
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    for name, value in {"StudyInstanceUID": "", "PatientName": "", **keys}.items():
        setattr(query, name, value)
    workstation = AE(ae_title="WS1")
    association = workstation.associate(*archive.dicom, contexts=[build_context(FIND)], ae_title="UNDERSTUDY")
    assert association.is_established
    number, status = 0, -1
    for told, answer in association.send_c_find(query, FIND):
        number += answer is not None
        status = int(told.Status)
    association.release()
    return number, status


def asked(archive: Stack, path: str, **arguments: str) -> httpx.Response:
    return archive.client().get(path, params=arguments, timeout=120)


def test_query_with_too_many_answers_says_so(archive: Stack) -> None:
    assert find(archive) == (FOUND, OUT_OF_RESOURCES)
    uid = asked(archive, "/dicom-web/studies", limit="1").json()[0]["0020000D"]["Value"][0]
    assert find(archive, StudyInstanceUID=uid) == (1, 0)
    wait_until(
        lambda: archive.compose("logs", "--no-color", "orthanc"),
        lambda log: "query cut calling=WS1" in log,
        deadline=30,
        what="a line in the log",
    )


def test_qido_without_a_limit_is_cut_and_says_so_and_pages_give_everything(archive: Stack) -> None:
    first = asked(archive, "/dicom-web/studies", includefield="all")
    assert (first.status_code, len(first.json())) == (200, MOST_RESULTS)
    assert "at most 500 results" in first.headers["warning"]
    seen: set[str] = set()
    for page in count():
        answer = asked(archive, "/dicom-web/studies", limit="500", offset=str(500 * page))
        assert "warning" not in answer.headers
        found = answer.json() if answer.content else []
        if not found:
            break
        seen |= {one["0020000D"]["Value"][0] for one in found}
    assert len(seen) == STUDIES


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("/dicom-web/studies", {"limit": "501"}),
        ("/dicom-web/instances", {"limit": "1000000"}),
        ("/dicom-web/series/", {"limit": "-1"}),
        ("/studies", {"expand": ""}),
        ("/instances", {"requestedTags": "PatientName"}),
        ("/patients", {"expand": "", "limit": "501", "since": "0"}),
        ("/changes", {"limit": "1000000"}),
    ],
)
def test_longer_list_is_refused_with_the_way_to_ask(
    archive: Stack, path: str, arguments: dict[str, str]
) -> None:
    answer = asked(archive, path, **arguments)
    assert answer.status_code == 400, answer.text
    assert "ask with limit=" in answer.json()["Message"]


@pytest.mark.parametrize("spelled", ["limi%74=1000000", "limit=1&limit=1000000", "LIMIT=1000000&limit=1"])
def test_no_spelling_of_a_limit_gives_more(archive: Stack, spelled: str) -> None:
    answer = archive.client().get(f"/dicom-web/studies?{spelled}")
    assert answer.status_code == 400 or len(answer.json()) <= MOST_RESULTS


def test_identifiers_of_a_small_archive_come_at_once(archive: Stack) -> None:
    assert len(archive.get("/studies")) == STUDIES
    assert len(archive.get("/studies?expand&limit=500&since=0")) == 500


def test_search_gives_a_bounded_number_and_takes_a_bounded_body(archive: Stack) -> None:
    client = archive.client()
    query: dict[str, Any] = {"Level": "Study", "Query": {}, "Expand": True}
    assert len(client.post("/tools/find", json=query).raise_for_status().json()) == FOUND
    for path in ("/tools/bulk-content", "/tools/bulk%2dcontent", "/tools/fin%64"):
        assert client.post(path, content=b" " * 65_537).status_code == 413
    assert client.post("/tools/create-dicom", content=b" " * 1_100_000).status_code == 413
    assert client.post("/tools/bulk-content", content=iter([b"{}"])).status_code == 411
