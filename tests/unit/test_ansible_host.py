"""What the host decides by itself: when a service hangs, an appliance may go, an address is taken."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import understudy_takeover as takeover
from understudy_host.compose import Health
from understudy_host.decommission import reasons
from understudy_host.places import HostError, Places, image_of, set_image
from understudy_host.supervise import PATIENCE_SECONDS, Patience
from understudy_takeover import Holder, Step


def seen(edge: Health) -> dict[str, Health]:
    return {"edge": edge, "orthanc": Health.HEALTHY, "agent": Health.STARTING}


def test_patience_restarts_what_is_unhealthy_for_long() -> None:
    patience, overdue = Patience({}).look(seen(Health.UNHEALTHY), 100)
    assert overdue == []
    patience, overdue = patience.look(seen(Health.UNHEALTHY), 100 + PATIENCE_SECONDS - 1)
    assert overdue == []
    patience, overdue = patience.look(seen(Health.UNHEALTHY), 100 + PATIENCE_SECONDS)
    assert overdue == ["edge"]
    assert patience.since == {}


def test_patience_begins_anew_after_a_healthy_moment() -> None:
    patience, _ = Patience({}).look(seen(Health.UNHEALTHY), 0)
    patience, _ = patience.look(seen(Health.HEALTHY), 100)
    _, overdue = patience.look(seen(Health.UNHEALTHY), PATIENCE_SECONDS)
    assert overdue == []


def told(mode: str = "standby", **counts: int) -> dict[str, Any]:
    holder = {"name": "local", "owed": 0, "in_flight": 0, "sent": 0, "refused": 0, "proven": 3, **counts}
    return {"mode": mode, "instances": 3, "holders": [holder]}


def test_decommission_has_no_reason_against_it_where_all_is_proven() -> None:
    assert list(reasons(told())) == []


@pytest.mark.parametrize("state", ["owed", "in_flight", "sent", "refused"])
def test_decommission_is_refused_while_anything_is_unproven(state: str) -> None:
    assert list(reasons(told("standby", **{state: 2}))) == [f"not everything is proven at local: 2 {state}"]


@pytest.mark.parametrize("mode", ["active", "returning"])
def test_decommission_is_refused_while_it_stands_in(mode: str) -> None:
    assert list(reasons(told(mode))) == [f"the appliance is {mode}: give back and settle first"]


def test_decommission_is_refused_where_nobody_else_has_anything() -> None:
    assert len(list(reasons(told(proven=0)))) == 1


def test_image_is_replaced_in_its_line_alone(tmp_path: Path) -> None:
    places = Places(project=tmp_path)
    places.environment.write_text("A=1\nUNDERSTUDY_IMAGE=understudy:one\nB=2\n", encoding="utf-8")
    set_image(places, "understudy:two")
    assert places.environment.read_text(encoding="utf-8") == "A=1\nUNDERSTUDY_IMAGE=understudy:two\nB=2\n"
    assert image_of(places) == "understudy:two"
    assert places.environment.stat().st_mode & 0o777 == 0o640


def test_image_that_nobody_named_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=1\n", encoding="utf-8")
    with pytest.raises(HostError, match="run the play again"):
        image_of(Places(project=tmp_path))


@pytest.mark.parametrize(
    ("mode", "held", "expected"),
    [
        ("standby", False, Step.NOTHING),
        ("standby", True, Step.GIVE),
        ("active", False, Step.TAKE),
        ("active", True, Step.NOTHING),
        ("returning", False, Step.TAKE),
        ("returning", True, Step.NOTHING),
        ("maintenance", False, Step.NOTHING),
        ("maintenance", True, Step.GIVE),
        (None, False, Step.NOTHING),
        (None, True, Step.NOTHING),
    ],
)
def test_step_follows_the_mode(mode: str | None, held: bool, expected: Step) -> None:
    assert takeover.step(mode, held) is expected


@pytest.fixture
def holder(tmp_path: Path) -> Holder:
    def note(word: str) -> Callable[[], None]:
        def append() -> None:
            with (tmp_path / "did").open("a", encoding="ascii") as file:
                file.write(word)

        return append

    return Holder(note("take "), note("give "), "lo", "192.0.2.10", tmp_path / "held")


def test_follow_takes_a_free_address_and_gives_it_back(
    holder: Holder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "owner", lambda interface, address: None)
    assert [holder.follow(mode) for mode in ("standby", "active", "returning", None, "standby")] == [True] * 5
    assert (holder.mark.parent / "did").read_text(encoding="ascii") == "take give "


def test_follow_never_takes_an_address_that_is_alive(
    holder: Holder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(takeover, "owner", lambda interface, address: "02:42:0a:00:00:01")
    assert not holder.follow("active")
    assert not holder.held
    assert not (holder.mark.parent / "did").exists()
    assert "02:42:0a:00:00:01 answers for it" in capsys.readouterr().out


def test_hook_that_fails_is_tried_again(tmp_path: Path) -> None:
    script = tmp_path / "promote"
    script.write_text(f"#!/bin/sh\ntest -e {tmp_path}/allowed\n", encoding="ascii")
    script.chmod(0o755)
    holder = takeover.hooks("lo", "", tmp_path, tmp_path)
    with pytest.raises(subprocess.CalledProcessError):
        holder.follow("active")
    assert not holder.held
    (tmp_path / "allowed").touch()
    assert holder.follow("active")
    assert holder.held
