"""The console shows the outage as it happens, in a real browser, with the same facts as the command line."""

import re
from typing import Any, cast

import pytest

from tests.story.conftest import Demo, Watched


@pytest.fixture(scope="module")
def watched(played: tuple[Demo, Watched]) -> Watched:
    demo, watched = played
    assert demo.process.returncode == 0, demo.text
    return watched


def test_console_shows_every_mode_of_the_story(watched: Watched) -> None:
    assert watched.modes == ["standby", "active", "returning", "standby"]


def test_console_has_no_error(watched: Watched) -> None:
    assert not watched.errors


def test_console_asks_no_other_host(played: tuple[Demo, Watched]) -> None:
    demo, watched = played
    assert watched.hosts == {demo.lab.https}


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
    assert _number(facts["missing here"]) == status["gaps"]["instances"]
    assert facts["primary"] == {"up": "works", "down": "down"}[status["primary"]["condition"]]
    for holder in status["holders"]:
        assert _number(facts[f"holder {holder['name']}"]) == holder["proven"]


def test_viewer_shows_the_study_list_from_this_host_alone(played: tuple[Demo, Watched]) -> None:
    demo, _ = played
    answer = demo.lab.client().get("/ohif/")
    assert answer.status_code == 200
    foreign = [
        address for address in re.findall(r"https?://[^\s\"'<>)]+", answer.text) if "w3.org" not in address
    ]
    assert not foreign


def _number(text: str) -> int:
    found = re.match(r"[\d\u202f]+", text.strip())
    assert found is not None, text
    return int(found[0].replace("\u202f", ""))
