"""The console shows the outage as it happens, in a real browser, with the same facts as the command line."""

import re
from typing import Any, cast

import pytest

from tests.browser import signed_in, visit, wait_for_pixels
from tests.stack import BUILD
from tests.story.conftest import Demo, Watched

pytestmark = pytest.mark.needs("image", "lab-image", "s3-image", "browser")


@pytest.fixture(scope="module")
def watched(played: tuple[Demo, Watched]) -> Watched:
    demo, watched = played
    assert demo.process.returncode == 0, demo.text
    return watched


def test_console_shows_every_mode_of_the_story(watched: Watched) -> None:
    assert watched.modes == ["standby", "active", "returning", "standby"]


def test_console_has_no_error(watched: Watched) -> None:
    assert not watched.heard.errors


def test_console_asks_no_other_host(played: tuple[Demo, Watched]) -> None:
    demo, watched = played
    assert watched.heard.hosts == {demo.lab.https}


def test_console_is_on_a_picture(watched: Watched) -> None:
    content = watched.screenshot.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 20_000


def test_console_and_command_tell_the_same(watched: Watched) -> None:
    status = cast("dict[str, Any]", watched.status)
    facts = watched.facts
    assert facts["mode"] == status["mode"]
    assert facts["epoch"].startswith(f"epoch {status['epoch']},")
    assert _number(facts["held here"]) == status["instances"]
    missing = status["gaps"]["instances"]
    assert facts["missing here"] == "nothing" if missing == 0 else _number(facts["missing here"]) == missing
    assert facts["pacs"] == {"up": "works", "down": "down"}[status["primary"]["condition"]]
    for holder in status["holders"]:
        assert _number(facts[f"holder {holder['name']}"]) == holder["proven"]


def test_viewer_lists_the_studies_of_the_demo_and_shows_pixels(played: tuple[Demo, Watched]) -> None:
    """A person follows the link that the demo prints, and opens the study of most images."""
    demo, _ = played
    link = re.search(r"viewer \(OHIF\) +(https://\S+)", demo.text)
    assert link is not None
    query = {
        "Level": "Study",
        "Query": {"ModalitiesInStudy": "CT"},
        "Expand": True,
        "RequestedTags": ["NumberOfStudyRelatedInstances"],
    }
    found = demo.lab.client().post("/tools/find", json=query).json()
    largest = max(found, key=lambda study: int(study["RequestedTags"]["NumberOfStudyRelatedInstances"]))
    uid = largest["MainDicomTags"]["StudyInstanceUID"]
    studies = len(demo.lab.get("/studies"))
    with signed_in(demo.lab.admin) as (page, heard):
        rows = page.locator("tr[data-cy^=studyRow-]")
        visit(page, heard, link[1], lambda: rows.first.wait_for())
        page.screenshot(path=BUILD / "demo-viewer-list.png")
        assert page.locator("[data-cy=num-studies]").inner_text() == str(studies)
        visit(page, heard, f"{link[1]}viewer?StudyInstanceUIDs={uid}", lambda: wait_for_pixels(page))
        page.screenshot(path=BUILD / "demo-viewer-study.png")
        assert page.get_by_text("went wrong").count() == 0
        assert not heard.errors
        assert heard.hosts == {demo.lab.https}


def _number(text: str) -> int:
    found = re.match(r"[\d\u202f]+", text.strip())
    assert found is not None, text
    return int(found[0].replace("\u202f", ""))
