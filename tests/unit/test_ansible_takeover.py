"""What the host decides about the address of the PACS: when it is taken, kept, given back and told of."""

import errno
import http.server
import json
import shutil
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jinja2
import pytest
import understudy_takeover as takeover
from understudy_takeover import Held, Holder, Step

from tests.tools.role_readmes import ROLES

ADDRESS = "192.0.2.10"
RIVAL = "02:42:0a:00:00:01"


@pytest.mark.parametrize(
    ("mode", "no", "before", "yes"),
    [
        ("standby", Step.NOTHING, Step.GIVE, Step.GIVE),
        ("maintenance", Step.NOTHING, Step.GIVE, Step.GIVE),
        ("active", Step.TAKE, Step.TAKE, Step.NOTHING),
        ("returning", Step.TAKE, Step.TAKE, Step.NOTHING),
        (None, Step.NOTHING, Step.NOTHING, Step.NOTHING),
    ],
)
def test_step_follows_the_mode(mode: str | None, no: Step, before: Step, yes: Step) -> None:
    assert [takeover.step(mode, held) for held in (Held.NO, Held.BEFORE, Held.YES)] == [no, before, yes]


@pytest.mark.parametrize(
    ("known", "told", "calls"),
    [
        ({"/understudy/mode": "active"}, "active", 1),
        ({"/understudy/status": "standby"}, "standby", 2),
        ({}, None, 2),
        # It is at its limit: the whole status would be more for it to do.
        ({"/understudy/mode": None, "/understudy/status": "standby"}, None, 1),
    ],
)
def test_mode_is_asked_for_alone_and_of_an_older_agent_by_its_status(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    known: dict[str, str | None],
    told: str | None,
    calls: int,
) -> None:
    asked: list[str] = []

    class Agent(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            mode = known.get(self.path)
            self.send_response(200 if mode else 503 if self.path in known else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"mode": mode} if mode else {}).encode())

        def address_string(self) -> str:
            return "socket"

        def log_message(self, format: str, *arguments: object) -> None:
            return

    class Server(socketserver.UnixStreamServer):
        def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
            request, _ = super().get_request()
            return request, ("socket", 0)

    monkeypatch.setattr(takeover, "AGENT", tmp_path / "agent.sock")
    with Server(str(tmp_path / "agent.sock"), Agent) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            assert takeover.mode() == told
        finally:
            server.shutdown()
            thread.join()
    assert asked == ["/understudy/mode", "/understudy/status"][:calls]


@pytest.mark.parametrize(("method", "most"), [("keepalived", 25), ("hooks", 90)])
def test_unit_is_confined_to_what_it_does(tmp_path: Path, method: str, most: int) -> None:
    """systemd's own measure, in tenths; a site's hooks may do more. Nothing at all would be 96."""
    analyze = shutil.which("systemd-analyze")
    template = ROLES / "takeover" / "templates" / "understudy-takeover.service.j2"
    unit = tmp_path / "understudy-takeover.service"
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False)
    unit.write_text(
        environment.from_string(template.read_text(encoding="utf-8")).render(
            ansible_managed="",
            takeover_method=method,
            takeover_on="eth0",
            takeover_address="192.0.2.11/24",
        ),
        encoding="utf-8",
    )
    confined = "ProtectSystem=strict" in unit.read_text(encoding="utf-8")
    assert confined == (method == "keepalived"), "a hook may write wherever the site needs it"
    if analyze is None:
        pytest.skip("systemd-analyze is not here")
    command = [analyze, "security", "--no-pager", "--offline=true", f"--threshold={most}", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


class Site:
    """A host with its two folders, what was done on it, and who else answers for the address."""

    def __init__(self, folder: Path) -> None:
        self.state, self.runtime = folder / "state", folder / "runtime"
        self.state.mkdir()
        self.runtime.mkdir()
        self.did: list[str] = []
        self.rival: str | None = None

    def holder(self, address: str = ADDRESS) -> Holder:
        def note(word: str) -> Callable[[], None]:
            return lambda: self.did.append(word)

        return Holder(note("take"), note("give"), "lo", address, self.state, self.runtime)

    def restart(self) -> None:
        """What is in memory is gone."""
        for file in self.runtime.iterdir():
            file.unlink()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(tmp_path)
    monkeypatch.setattr(takeover, "owner", lambda interface, address: made.rival)
    return made


def test_follow_takes_a_free_address_and_gives_it_back(site: Site) -> None:
    holder = site.holder()
    assert [holder.follow(mode) for mode in ("standby", "active", "returning", None, "standby")] == [None] * 5
    assert site.did == ["take", "give"]


def test_follow_never_takes_an_address_that_is_alive(site: Site) -> None:
    site.rival = RIVAL
    alarm = site.holder().follow("active")
    assert alarm is not None
    assert f"{RIVAL} answers for it" in alarm.what
    assert site.holder().held is Held.NO
    assert site.did == []


def test_follow_takes_anew_after_a_start_of_the_host_and_looks_before(site: Site) -> None:
    site.holder().follow("active")
    site.restart()
    assert site.holder().held is Held.BEFORE
    site.rival = RIVAL
    assert site.holder().follow("active") is not None
    site.rival = None
    assert site.holder().follow("active") is None
    assert site.did == ["take", "take"]


def test_follow_gives_back_what_was_held_before_a_start_of_the_host(site: Site) -> None:
    site.holder().follow("active")
    site.restart()
    assert [site.holder().follow("standby") for _ in range(2)] == [None, None]
    assert site.did == ["take", "give"]


def test_follow_looks_who_has_another_address_before_it_is_taken(site: Site) -> None:
    site.holder().follow("active")
    other = site.holder("192.0.2.11")
    site.rival = RIVAL
    assert other.held is Held.BEFORE
    assert other.follow("active") is not None
    assert site.did == ["take"]


def test_watch_tells_of_a_second_host_with_the_address_that_is_held(site: Site) -> None:
    holder = site.holder()
    site.rival = RIVAL
    assert holder.watch() is None
    site.rival = None
    holder.follow("active")
    assert holder.watch() is None
    site.rival = RIVAL
    alarm = holder.watch()
    assert alarm is not None
    assert alarm.what == f"two hosts have the address {ADDRESS}: this one, and {RIVAL}"


def test_address_that_hooks_have_moved_elsewhere_keeps_no_later_attempt_from_them(
    site: Site, tmp_path: Path
) -> None:
    for name in ("promote", "demote"):
        script = tmp_path / name
        script.write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/did\ntest -e {tmp_path}/{name}d\n")
        script.chmod(0o755)

    def look(mode: str, address: str = ADDRESS) -> str:
        holder = takeover.hooks("lo", address, tmp_path, site.runtime, site.state)
        alarm = takeover.look(holder, mode, watch=True)
        return f"{alarm.what if alarm else ''} {holder.held.name}"

    def did() -> list[str]:
        return (tmp_path / "did").read_text().split() if (tmp_path / "did").exists() else []

    site.rival = RIVAL
    assert f"{RIVAL} answers for it NO" in look("active")
    site.rival = None
    assert "the takeover fails" in look("active")
    # The script has moved it to a router, and failed afterwards.
    site.rival = RIVAL
    assert "the takeover fails" in look("active")
    (tmp_path / "promoted").touch()
    assert look("active") == " YES"
    site.restart()
    assert look("active") == " YES"
    assert did() == ["promote"] * 4
    assert f"{RIVAL} answers for it BEFORE" in look("active", "192.0.2.11")
    (tmp_path / "demoted").touch()
    assert look("standby") == " NO"
    assert f"{RIVAL} answers for it NO" in look("active")
    assert did() == ["promote"] * 4 + ["demote"]


def test_hook_that_never_succeeded_is_given_back_all_the_same(site: Site, tmp_path: Path) -> None:
    script = tmp_path / "promote"
    script.write_text("#!/bin/sh\nfalse\n")
    script.chmod(0o755)
    holder = takeover.hooks("lo", ADDRESS, tmp_path, site.runtime, site.state)
    seen = [(takeover.look(holder, mode, watch=True) is None, holder.held) for mode in ("active", "standby")]
    assert seen == [(False, Held.BEFORE), (True, Held.NO)]


def test_address_is_taken_and_given_back_although_the_disk_takes_nothing(site: Site) -> None:
    site.state.rmdir()
    holder = site.holder()
    alarm = takeover.look(holder, "active", watch=True)
    assert alarm is not None
    assert "the takeover fails" in alarm.what
    assert takeover.look(holder, "standby", watch=True) is None
    assert site.did == ["take", "give"]


def test_keepalived_is_told_to_hold_nothing_until_somebody_has_looked(site: Site) -> None:
    def weight() -> str:
        return (site.runtime / "weight").read_text(encoding="ascii")

    def start() -> Holder:
        return takeover.keepalived("lo", ADDRESS, site.runtime, site.state)

    start().follow("active")
    assert weight() == "0\n"
    start()
    assert weight() == "0\n", "a restart of the program gave the address up"
    takeover.keepalived("lo", "192.0.2.11", site.runtime, site.state)
    assert weight() == "-254\n", "another address was taken unseen"
    site.restart()
    start()
    assert weight() == "-254\n", "after a start of the host it was taken unseen"


def test_hook_that_fails_is_told_and_tried_again(site: Site, tmp_path: Path) -> None:
    script = tmp_path / "promote"
    script.write_text(f"#!/bin/sh\ntest -e {tmp_path}/allowed\n", encoding="ascii")
    script.chmod(0o755)
    holder = takeover.hooks("lo", "", tmp_path, site.runtime, site.state)
    alarm = takeover.look(holder, "active", watch=True)
    assert alarm is not None
    assert "the takeover fails" in alarm.what
    assert str(script) in alarm.what
    (tmp_path / "allowed").touch()
    assert takeover.look(holder, "active", watch=True) is None
    assert holder.held is Held.YES


class EndedError(Exception):
    """The test has seen enough of a loop that never ends."""


def test_takeover_goes_on_where_its_alarm_cannot_be_written(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def sleep(seconds: float) -> None:
        raise EndedError

    for name, changed in (("mode", lambda: "active"), ("tell", tell), ("notify", lambda state: None)):
        monkeypatch.setattr(takeover, name, changed)
    monkeypatch.setattr(time, "sleep", sleep)
    for name, folder in (("STATE_DIRECTORY", site.state), ("RUNTIME_DIRECTORY", site.runtime)):
        monkeypatch.setenv(name, str(folder))
    with pytest.raises(EndedError):
        takeover.main(["--method", "keepalived", "--interface", "lo", "--address", f"{ADDRESS}/24"])
    assert (site.runtime / "weight").read_text(encoding="ascii") == "0\n"
