"""What the host decides by itself: when a service hangs, an appliance may go, an address is taken."""

import itertools
import json
import os
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import understudy_takeover as takeover
from understudy.core.modes import Mode
from understudy_host import update as updating
from understudy_host.__main__ import may_maintain
from understudy_host.compose import Health
from understudy_host.decommission import reasons
from understudy_host.metrics import last_backup
from understudy_host.places import HostError, Places, RefusedError, image_of, set_image
from understudy_host.supervise import PATIENCE_SECONDS, Patience
from understudy_host.update import MAY_UPDATE, update
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


def test_backup_that_never_was_is_told_as_0(tmp_path: Path) -> None:
    """Without a value no alert would ever fire."""
    places = Places(backups=tmp_path / "backup")
    assert last_backup(places) == 0
    places.backups.mkdir()
    for name, at in (("configuration-1.tar.age", 100), ("configuration-2.tar.age", 200), ("update-1", 300)):
        (places.backups / name).touch()
        os.utime(places.backups / name, (at, at))
    assert last_backup(places) == 200


class UnixServer(socketserver.UnixStreamServer):
    """A client on a Unix socket has no address; the handler of HTTP needs one."""

    def get_request(self) -> tuple[socket.socket, Any]:
        return self.socket.accept()[0], ("host", 0)


@contextmanager
def agent(folder: Path, *modes: Mode) -> Iterator[Places]:
    """A host with the image `old`, whose agent answers on its socket and tells these modes in turn."""
    told = itertools.chain(modes, itertools.repeat(modes[-1]))

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = json.dumps({"mode": next(told).value}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    places = Places(project=folder, data=folder, backups=folder / "backup")
    places.environment.write_text("UNDERSTUDY_IMAGE=old\n", encoding="utf-8")
    places.agent_socket.parent.mkdir(parents=True)
    with UnixServer(str(places.agent_socket), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield places
        server.shutdown()
        thread.join()


STANDING_IN = (Mode.ACTIVE, Mode.RETURNING)


def test_modes_that_allow_an_update_are_all_but_those_that_stand_in() -> None:
    assert set(MAY_UPDATE) == {mode.value for mode in Mode} - {mode.value for mode in STANDING_IN}


@pytest.mark.parametrize("mode", STANDING_IN)
def test_update_is_refused_while_it_stands_in_and_changes_nothing(tmp_path: Path, mode: Mode) -> None:
    with agent(tmp_path, mode) as places:
        with pytest.raises(RefusedError, match=f"the appliance is {mode.value}: it stands in for the PACS"):
            update(places, "new")
        # Not even where it is said that the agent need not answer: it does.
        with pytest.raises(RefusedError, match=f"the appliance is {mode.value}"):
            update(places, "new", without_status=True)
        assert image_of(places) == "old"
        assert not places.journal.exists()
        assert not places.backups.exists()


@pytest.mark.parametrize("mode", STANDING_IN)
def test_update_is_refused_where_it_is_promoted_while_the_configuration_is_checked(
    tmp_path: Path, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(updating, "check_config", lambda places, image: "in order")
    with agent(tmp_path, Mode.STANDBY, mode) as places:
        with pytest.raises(RefusedError, match=f"the appliance is {mode.value}"):
            update(places, "new")
        assert image_of(places) == "old"
        assert not places.journal.exists()


def test_update_is_refused_where_nobody_tells_the_mode(tmp_path: Path) -> None:
    places = Places(project=tmp_path, data=tmp_path)
    places.environment.write_text("UNDERSTUDY_IMAGE=old\n", encoding="utf-8")
    with pytest.raises(RefusedError, match="update_without_status"):
        update(places, "new")


@pytest.mark.parametrize("mode", STANDING_IN)
def test_maintenance_of_the_host_waits_while_it_stands_in(tmp_path: Path, mode: Mode) -> None:
    with agent(tmp_path, mode) as places, pytest.raises(RefusedError, match="maintenance waits"):
        may_maintain(places)


@pytest.mark.parametrize("mode", [mode for mode in Mode if mode not in STANDING_IN])
def test_maintenance_of_the_host_goes_on_otherwise(tmp_path: Path, mode: Mode) -> None:
    with agent(tmp_path, mode) as places:
        assert may_maintain(places) == f"the appliance is {mode.value}"


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
