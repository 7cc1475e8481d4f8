"""What the host decides by itself: when a service hangs, an image is replaced, an appliance may go."""

import errno
import itertools
import json
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, cast

import pytest
from understudy.adapters.host_alarms import TAKEOVER, UPKEEP, read_host_alarms
from understudy.core.modes import Mode
from understudy_host import check_config as checking
from understudy_host import compose as composing
from understudy_host import decommission as decommissioning
from understudy_host import metrics as measuring
from understudy_host import mounts as mounting
from understudy_host import places as places_of_host
from understudy_host import supervise as supervising
from understudy_host import update as updating
from understudy_host.__main__ import may_maintain
from understudy_host.alarms import Alarm, tell
from understudy_host.compose import Compose, Health, run
from understudy_host.decommission import elsewhere, reasons, reasons_to_keep
from understudy_host.metrics import last_backup
from understudy_host.mounts import mounted_below, not_mounted, vault_is_away
from understudy_host.places import HostError, Places, RefusedError, image_of, replace_durably, set_image
from understudy_host.supervise import PATIENCE_SECONDS, Patience, remember_mode, supervise
from understudy_host.update import MAY_UPDATE, broken_off, recover, update


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
    return {
        "mode": mode,
        "instances": 3,
        "holders": [of_holder("local", "vault", **counts)],
        "operations": [],
        "departed": 0,
    }


def of_holder(name: str, kind: str, **counts: int) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "owed": 0,
        "in_flight": 0,
        "sent": 0,
        "refused": 0,
        "proven": 3,
        **counts,
    }


def test_decommission_has_no_reason_against_it_where_all_is_proven() -> None:
    assert list(reasons(told())) == []


@pytest.mark.parametrize("state", ["owed", "in_flight", "sent", "refused"])
def test_decommission_is_refused_while_anything_is_unproven(state: str) -> None:
    (reason,) = reasons(told("standby", **{state: 2}))
    assert reason.startswith(f"not everything is proven at local: 2 {state}. ")


@pytest.mark.parametrize("mode", ["active", "returning"])
def test_decommission_is_refused_while_it_stands_in(mode: str) -> None:
    assert list(reasons(told(mode))) == [f"the appliance is {mode}: run failback and settle first"]


def test_decommission_is_refused_where_nobody_else_has_anything() -> None:
    assert len(list(reasons(told(proven=0)))) == 1


@pytest.mark.parametrize(("state", "refused"), [("running", 1), ("done", 0)])
def test_decommission_waits_for_the_end_of_a_rescan(state: str, refused: int) -> None:
    rescan = {"operation": 7, "kind": "rescan", "state": state}
    assert len(list(reasons({**told(), "operations": [rescan]}))) == refused


@pytest.mark.parametrize(
    ("others", "departed", "why"),
    [
        ([], 0, "all 3 instances: nobody"),
        ([of_holder("pacs", "primary", proven=2)], 0, "all 3 instances: pacs 2"),
        ([of_holder("pacs", "primary")], 2, "no longer lists 2 of them"),
        ([of_holder("pacs", "primary")], 0, ""),
        ([of_holder("cloud", "vault"), of_holder("pacs", "primary")], 2, ""),
    ],
)
def test_erasing_is_refused_unless_somebody_elsewhere_has_everything(
    tmp_path: Path, others: list[dict[str, Any]], departed: int, why: str
) -> None:
    places = Places(configuration=tmp_path)
    vaults = [{"Name": "local", "Directory": "/vault"}, {"Name": "cloud", "Endpoint": "https://s3"}]
    (tmp_path / "understudy.json").write_text(
        json.dumps({"Understudy": {"Vaults": vaults}}), encoding="utf-8"
    )
    seen = {**told(), "holders": [*told()["holders"], *others], "departed": departed}
    found = list(reasons_to_keep(seen, elsewhere(places, seen)))
    assert (why in found[0] and len(found) == 1) if why else found == [], found


def test_mounts_below_a_folder_are_found_and_no_others(tmp_path: Path) -> None:
    lines = (
        "/dev/a /srv ext4 rw 0 0",
        "/dev/b /srv/understudy/vault ext4 rw 0 0",
        "c /srv/understudy2 nfs rw 0 0",
    )
    (tmp_path / "mounts").write_text("\n".join(lines), encoding="ascii")
    assert mounted_below(Path("/srv/understudy"), tmp_path / "mounts") == [Path("/srv/understudy/vault")]


def test_disk_that_is_named_in_fstab_and_not_mounted_is_found(tmp_path: Path) -> None:
    fstab, mounts = tmp_path / "fstab", tmp_path / "mounts"
    fstab.write_text("# /dev/x /c ext4\n\nbroken\n/dev/a /a ext4 noatime 0 2\n/dev/b /b/ ext4 noatime 0 2\n")
    mounts.write_text("/dev/a /a ext4 rw 0 0\n")
    assert not_mounted([Path("/a"), Path("/b"), Path("/c")], fstab, mounts) == [Path("/b")]
    assert not_mounted([Path("/a")], tmp_path / "none", mounts) == []


def test_vault_is_away_without_its_mount_and_without_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = Places(data=tmp_path)
    before = vault_is_away(places)
    places.volume("vault").mkdir(parents=True)
    here = vault_is_away(places)
    # Under a mount point may lie a folder of the first disk.
    monkeypatch.setattr(mounting, "not_mounted", list)
    assert (before, here, vault_is_away(places)) == (True, False, True)


def test_compose_puts_what_nobody_may_enter_in_the_place_of_a_vault_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, ran = Places(project=tmp_path, data=tmp_path), []

    def note(command: Sequence[str]) -> bytes:
        ran.append([word for word in command if word.startswith("--file=")])
        return b""

    monkeypatch.setattr(composing, "run", note)
    Compose(places).up(seconds=1)
    places.volume("vault").mkdir(parents=True)
    Compose(places).up(seconds=1)
    without = [f"--file={tmp_path}/compose.{kind}yml" for kind in ("", "override.", "without-vault.")]
    assert ran == [without, []]


@pytest.mark.parametrize("agent_runs", [True, False])
def test_edge_gets_its_keys_anew_before_it_restarts_and_keeps_its_own_without_an_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agent_runs: bool
) -> None:
    ran: list[list[str]] = []

    def note(command: Sequence[str]) -> bytes:
        ran.append(list(command[6:]))
        if "exec" in command and not agent_runs:
            raise HostError("no container is running")
        return b""

    monkeypatch.setattr(composing, "run", note)
    monkeypatch.setattr(composing, "vault_is_away", lambda _: False)
    said = Compose(Places(project=tmp_path, data=tmp_path)).restart_healthy("edge")
    assert ran[:2] == [["exec", "--no-TTY", "agent", "understudy", "init"], ["restart", "edge"]]
    assert said.startswith("edge is healthy")
    assert ("no container is running" in said) is not agent_runs


def test_vault_is_taken_up_once_its_disk_is_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = Places(project=tmp_path, data=tmp_path)
    started: list[tuple[str, ...]] = []

    class Watched:
        def up(self, *services: str, seconds: int) -> None:
            started.append(services)

        def health(self) -> dict[str, Health]:
            return {}

    looks = itertools.count(1)

    def sleep(seconds: float) -> None:
        look = next(looks)
        if look == 2:
            places.volume("vault").mkdir(parents=True)
            places.journal.touch()
        if look == 3:
            assert started == [()], "in the middle of an update"
            places.journal.unlink()
        if look == 5:
            raise PowerCut

    monkeypatch.setattr(supervising, "Compose", lambda places: Watched())
    monkeypatch.setattr(updating, "broken_off", lambda places: False)
    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(PowerCut):
        supervise(places)
    assert started == [(), ("agent",)]


class Project:
    """Containers of a compose project, and the order of what is done to them."""

    def __init__(self, *, exists: bool = True) -> None:
        self._exists = exists
        self.did: list[str] = []

    def exists(self) -> bool:
        return self._exists

    def stop(self, *services: str) -> None:
        self.did.append(f"stop {','.join(services) or 'all'}")

    def up(self, *, seconds: int) -> None:
        self.did.append("up")

    def remove(self) -> None:
        self.did.append("remove")


def decommissioned(
    folder: Path, monkeypatch: pytest.MonkeyPatch, project: Project, *answers: dict[str, Any], **how: Any
) -> str:
    """Decommission a project whose agent gives these answers, then none; a wait is what was done as well."""
    remaining = iter(answers)

    def status(places: Places) -> dict[str, Any]:
        try:
            return next(remaining)
        except StopIteration:
            raise HostError("the agent does not answer") from None

    places = Places(project=folder, configuration=folder)
    places.environment.write_text("UNDERSTUDY_IMAGE=old\n", encoding="utf-8")
    (folder / "understudy.json").write_text('{"Understudy": {}}', encoding="utf-8")
    monkeypatch.setattr(decommissioning, "Compose", lambda places: project)
    monkeypatch.setattr(decommissioning, "status", status)
    monkeypatch.setattr(time, "sleep", lambda seconds: project.did.append("wait"))
    return decommissioning.decommission(places, **how)


def test_decommission_removes_once_nobody_is_let_in_and_all_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project()
    said = decommissioned(tmp_path, monkeypatch, project, told(), told(), told())
    assert project.did == ["stop edge", "wait", "stop all", "remove"]
    assert "the services are removed" in said


def test_decommission_that_is_refused_at_once_disturbs_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project()
    with pytest.raises(RefusedError, match="1 owed"):
        decommissioned(tmp_path, monkeypatch, project, told(owed=1))
    assert project.did == []


@pytest.mark.parametrize(
    ("last", "why"),
    [
        ([told(owed=1)], "1 owed"),
        ([{**told(), "instances": 4}], "1 instances came just now"),
        ([], "the agent does not answer"),
    ],
)
def test_decommission_lets_in_again_where_an_association_left_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: list[dict[str, Any]], why: str
) -> None:
    project = Project()
    with pytest.raises(HostError, match=why):
        decommissioned(tmp_path, monkeypatch, project, told(), told(), *last)
    assert project.did == ["stop edge", "wait", "up"]


def test_decommission_of_what_is_removed_already_is_done_and_erased_by_what_was_seen_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decommissioned(tmp_path, monkeypatch, Project(), told(), told(), told())
    removed = Project(exists=False)
    assert "the services are removed" in decommissioned(tmp_path, monkeypatch, removed)
    with pytest.raises(RefusedError, match="no other holder is proven to have all 3 instances"):
        decommissioned(tmp_path, monkeypatch, removed, erase=True)
    assert "are removed" in decommissioned(tmp_path, monkeypatch, removed, erase=True, accept_loss=True)
    assert removed.did == []


def test_decommission_of_services_that_somebody_else_removed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RefusedError, match="what they held is not known"):
        decommissioned(tmp_path, monkeypatch, Project(exists=False), accept_loss=True)


def test_erasing_the_only_copy_is_refused_before_anything_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project()
    with pytest.raises(RefusedError, match="no other holder"):
        decommissioned(tmp_path, monkeypatch, project, told(), erase=True)
    assert project.did == []


def test_erasing_is_refused_while_a_disk_is_not_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decommissioned(tmp_path, monkeypatch, Project(), told(), told(), told())
    monkeypatch.setattr(decommissioning, "not_mounted", list)
    how: dict[str, Any] = {"erase": True, "accept_loss": True, "disks": [Path("/srv/understudy/storage")]}
    with pytest.raises(RefusedError, match=r"/srv/understudy/storage is in /etc/fstab and not mounted"):
        decommissioned(tmp_path, monkeypatch, Project(exists=False), **how)


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A host whose certificate ends on 2026-12-01, with a volume that the agent reads."""
    places = Places(
        project=tmp_path, data=tmp_path, backups=tmp_path / "backup", handed_over=tmp_path / "handed-over"
    )
    places.backups.mkdir()
    places.environment.touch()
    places.host_alarms.mkdir()
    end = datetime(2026, 12, 1, tzinfo=UTC).timestamp()
    monkeypatch.setattr(measuring, "certificate_end", lambda places: end)
    return places


def at(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def test_certificate_and_backup_become_alarms_in_time(measured: Places) -> None:
    backup = measured.backups / "configuration-1.tar.age"
    backup.touch()
    for made, file in (("2026-10-01T00:00Z", measured.environment), ("2026-10-20T00:00Z", backup)):
        os.utime(file, (at(made), at(made)))
    told = {
        day: [alarm.what for alarm in measuring.alarms(measured, at(f"2026-{day}T00:00Z"))]
        for day in ("10-21", "10-24", "11-02")
    }
    old = "configuration and keys have had no backup since 2026-10-20"
    assert told == {"10-21": [], "10-24": [old], "11-02": ["the certificate ends on 2026-12-01", old]}


def test_secret_that_nobody_took_away_is_an_alarm_after_a_day(measured: Places) -> None:
    measured.handed_over.mkdir()
    secret = measured.handed_over / "first-start.txt"
    secret.write_text("password: pw")
    now = secret.stat().st_mtime
    os.utime(measured.environment, (now, now))
    told = [[alarm.hint for alarm in measuring.alarms(measured, now + hours * 3600)] for hours in (23, 25)]
    hints = [[hint for hint in hints if "shred" in hint] for hints in told]
    assert hints == [[], [f"put it into the safe, then erase it there: `sudo shred --remove {secret}`"]]


def test_vault_whose_disk_is_not_mounted_is_an_alarm(
    measured: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "not_mounted", list)
    (alarm,) = measuring.alarms(measured, measured.environment.stat().st_mtime - 365 * 86_400)
    assert (
        alarm.what
        == f"the vault's disk at {measured.data}/vault is not mounted, so no image reaches the vault"
    )


def test_alarms_of_the_host_are_read_by_the_agent_and_keep_their_beginning(measured: Places) -> None:
    folder = measured.host_alarms
    assert read_host_alarms(folder, UPKEEP) == []
    tell(measured, UPKEEP, [Alarm("it burns", "water")])
    (first,) = read_host_alarms(folder, UPKEEP)
    assert (first.what, first.hint) == ("it burns", "water")
    assert datetime.fromisoformat(first.since).tzinfo is not None
    tell(measured, UPKEEP, [Alarm("it rains", "-"), Alarm("it burns", "water")])
    rains, burns = read_host_alarms(folder, UPKEEP)
    assert (rains.what, burns) == ("it rains", first)
    assert read_host_alarms(folder, TAKEOVER) == []
    tell(measured, UPKEEP, [])
    assert read_host_alarms(folder, UPKEEP) == []


@pytest.mark.parametrize("content", [b"{", b"[1]", b'[{"what": "x"}]', b"\xff"])
def test_alarms_of_the_host_that_cannot_be_read_are_one(measured: Places, content: bytes) -> None:
    (measured.host_alarms / "host.json").write_bytes(content)
    (alarm,) = read_host_alarms(measured.host_alarms, UPKEEP)
    assert "host.json" in alarm.what


def test_alarms_of_the_host_need_no_appliance(tmp_path: Path) -> None:
    places = Places(data=tmp_path)
    tell(places, "takeover", [Alarm("it burns", "water")])
    assert not places.host_alarms.exists()


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
        try:
            yield places
        finally:
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


class PowerCut(BaseException):
    """The host lost its power."""


class Appliance:
    """What the compose project does to image and ledger: the new image's agent migrates the ledger, which the
    old one refuses then; whoever is let in leaves an instance in it."""

    def __init__(self, places: Places, *ill: tuple[str, str]) -> None:
        self._places = places
        self.ill = ill
        self.migrates = True
        self.acknowledged: list[str] = []
        self.broken = False
        """Whether a ledger was begun with that is not the one of the anchor."""

    def stop(self) -> None:
        pass

    def up(self, *services: str, seconds: int) -> None:
        image = image_of(self._places)
        version, *instances = self.ledger
        anchor = self._places.volume("keys") / updating.ANCHOR
        self.broken |= anchor.exists() and anchor.read_text(encoding="utf-8") != version
        if self.migrates and (version, image) == ("new", "old"):
            raise HostError("the ledger is of a newer version")
        if (image, "agent") not in self.ill and not services:
            self.acknowledged.append(f"instance {len(self.acknowledged)}")
            instances.append(self.acknowledged[-1])
        self._ledger.write_text("\n".join([image, *instances]), encoding="utf-8")
        anchor.write_text(image, encoding="utf-8")
        if any((image, service) in self.ill for service in services or ("agent", "edge")):
            raise HostError(f"{image} is not healthy")

    def last_words(self, *services: str) -> str:
        return ""

    @property
    def _ledger(self) -> Path:
        return self._places.volume("state") / "ledger"

    @property
    def ledger(self) -> list[str]:
        return self._ledger.read_text(encoding="utf-8").splitlines()


@contextmanager
def appliance(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *ill: tuple[str, str]
) -> Iterator[tuple[Places, Appliance]]:
    """A standby with the image `old`; `ill` are services that do not become healthy with an image."""
    moments = itertools.count()
    with agent(folder, Mode.STANDBY) as places:
        for name in (*updating.COPIED, "keys"):
            places.volume(name).mkdir(parents=True)
        (places.volume("keys") / updating.ANCHOR).write_text("old", encoding="utf-8")
        (places.volume("state") / "ledger").write_text("old\ninstance before", encoding="utf-8")
        compose = Appliance(places, *ill)
        monkeypatch.setattr(updating, "check_config", lambda places, image: "in order")
        monkeypatch.setattr(updating, "Compose", lambda places: compose)
        # It would wait for what others write on this machine.
        monkeypatch.setattr(os, "sync", lambda: None)
        monkeypatch.setattr(time, "strftime", lambda form: f"update-{next(moments)}")
        yield places, compose


def cut_power(monkeypatch: pytest.MonkeyPatch, compose: Appliance, after: int) -> None:
    """Cut the power after so many steps that change the disk or the services."""
    steps = itertools.count(1)

    def cut(step: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*arguments: Any, **named: Any) -> Any:
            done = step(*arguments, **named)
            if next(steps) == after:
                raise PowerCut
            return done

        return stepped

    for name in ("run", "replace_durably", "set_image", "remove_durably"):
        monkeypatch.setattr(updating, name, cut(getattr(updating, name)))
    for name in ("stop", "up"):
        monkeypatch.setattr(compose, name, cut(getattr(compose, name)))


NEW_AGENT_ILL, NEW_EDGE_ILL, OLD_EDGE_ILL = ("new", "agent"), ("new", "edge"), ("old", "edge")


@pytest.mark.parametrize("after", range(1, 34))
@pytest.mark.parametrize("ill", [(), (NEW_AGENT_ILL,), (NEW_AGENT_ILL, OLD_EDGE_ILL), (NEW_EDGE_ILL,)])
def test_update_that_a_power_cut_interrupts_loses_nothing_that_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ill: tuple[tuple[str, str], ...], after: int
) -> None:
    with appliance(tmp_path, monkeypatch, *ill) as (places, compose):
        with monkeypatch.context() as patched:
            cut_power(patched, compose, after)
            with suppress(PowerCut, HostError):
                update(places, "new")
        compose.ill = ()
        for _ in range(2):
            recover(places, cast(Compose, compose))
            compose.up(seconds=1)
            assert compose.ledger == [image_of(places), "instance before", *compose.acknowledged]
        assert not compose.broken
        assert not places.journal.exists()


def test_update_that_is_killed_ends_the_watch_so_that_the_next_start_rolls_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with appliance(tmp_path, monkeypatch) as (places, compose):
        assert not broken_off(places)
        with monkeypatch.context() as patched:
            cut_power(patched, compose, 2)
            with suppress(PowerCut):
                update(places, "new")
        monkeypatch.setattr(supervising, "Compose", lambda places: compose)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        monkeypatch.setattr(updating, "recover", lambda places, compose: None)
        with pytest.raises(HostError, match="killed in the middle"):
            supervise(places)


def test_update_that_goes_on_is_not_taken_for_one_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = []
    with appliance(tmp_path, monkeypatch) as (places, compose):
        monkeypatch.setattr(compose, "stop", lambda: looked.append(broken_off(places)))
        update(places, "new")
        assert looked == [False]
        assert not broken_off(places)


def test_update_whose_agent_is_ill_is_rolled_back_with_the_old_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with appliance(tmp_path, monkeypatch, NEW_AGENT_ILL) as (places, compose):
        with pytest.raises(HostError, match="rolled back to old, which serves again"):
            update(places, "new")
        assert compose.ledger == ["old", "instance before", "instance 0"]


def test_rollback_that_is_slow_to_serve_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with appliance(tmp_path, monkeypatch, NEW_AGENT_ILL, OLD_EDGE_ILL) as (places, compose):
        with pytest.raises(HostError, match="rolled back to old, but: old is not healthy"):
            update(places, "new")
        recover(places, cast(Compose, compose))
        assert compose.ledger == ["old", "instance before", "instance 0"]


def test_update_whose_edge_is_ill_stays_where_the_old_image_refuses_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with appliance(tmp_path, monkeypatch, NEW_EDGE_ILL) as (places, compose):
        with pytest.raises(HostError, match="old did not take over again: the ledger is of a newer version"):
            update(places, "new")
        assert image_of(places) == "new"
        assert compose.ledger[:2] == ["new", "instance before"]
        assert compose.ledger[2:] == compose.acknowledged


def test_update_whose_edge_is_ill_is_rolled_back_with_what_was_acknowledged_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with appliance(tmp_path, monkeypatch, NEW_EDGE_ILL) as (places, compose):
        compose.migrates = False
        with pytest.raises(HostError, match="rolled back to old, which serves again"):
            update(places, "new")
        assert compose.ledger == ["old", "instance before", "instance 0", "instance 1"]


def test_update_is_refused_while_the_first_starts_secrets_would_be_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with appliance(tmp_path, monkeypatch) as (places, _):
        (places.volume("state") / "first-start.json").touch()
        with pytest.raises(RefusedError, match="understudy first-start"):
            update(places, "new")
        assert not places.journal.exists()


def test_update_is_refused_without_room_for_the_copies_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with appliance(tmp_path, monkeypatch) as (places, compose):
        monkeypatch.setattr(updating, "SPARE_BYTES", 2**60)
        with pytest.raises(RefusedError, match=r"need \d+ MiB, and \d+ MiB are free"):
            update(places, "new")
        assert compose.ledger == ["old", "instance before"]
        assert not places.journal.exists()
        assert list(places.backups.iterdir()) == []


def test_update_whose_copies_fill_the_disk_serves_again_and_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(command: Sequence[str]) -> bytes:
        if command[0] != "cp":
            return run(command)
        partial = Path(command[-1])
        partial.mkdir()
        full.append(partial)
        raise HostError("No space left on device")

    def write(path: Path, text: str, *, mode: int) -> None:
        if any(partial.exists() for partial in full):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace_durably(path, text, mode=mode)

    full: list[Path] = []
    with appliance(tmp_path, monkeypatch) as (places, compose):
        monkeypatch.setattr(updating, "run", fill)
        # `set_image` writes by it, and the journal.
        monkeypatch.setattr(updating, "replace_durably", write)
        monkeypatch.setattr(places_of_host, "replace_durably", write)
        with pytest.raises(HostError, match="rolled back to old, which serves again"):
            update(places, "new")
        assert compose.ledger == ["old", "instance before", "instance 0"]
        assert not places.journal.exists()
        assert list(places.backups.iterdir()) == []


def test_updates_that_are_rolled_back_leave_no_more_copies_than_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with appliance(tmp_path, monkeypatch, NEW_AGENT_ILL) as (places, _):
        for _ in range(updating.KEPT + 1):
            with pytest.raises(HostError, match="rolled back"):
                update(places, "new")
        assert len(list(places.backups.iterdir())) == updating.KEPT


@pytest.mark.parametrize("mode", STANDING_IN)
def test_maintenance_of_the_host_waits_while_it_stands_in(tmp_path: Path, mode: Mode) -> None:
    with agent(tmp_path, mode) as places, pytest.raises(RefusedError, match="maintenance waits"):
        may_maintain(places)


@pytest.mark.parametrize("mode", [mode for mode in Mode if mode not in STANDING_IN])
def test_maintenance_of_the_host_goes_on_otherwise(tmp_path: Path, mode: Mode) -> None:
    with agent(tmp_path, mode) as places:
        assert may_maintain(places) == f"the appliance is {mode.value}"


@pytest.mark.parametrize("mode", list(Mode))
def test_maintenance_goes_by_the_last_mode_while_the_agent_is_away(tmp_path: Path, mode: Mode) -> None:
    with agent(tmp_path, mode) as places:
        remember_mode(places)
    if mode in STANDING_IN:
        with pytest.raises(RefusedError, match=f"was {mode.value}: maintenance waits"):
            may_maintain(places)
    else:
        assert may_maintain(places).endswith(f"was {mode.value}")
    with pytest.raises(HostError):
        remember_mode(places)


def test_maintenance_goes_on_where_the_agent_has_never_answered(tmp_path: Path) -> None:
    assert "never answered" in may_maintain(Places(project=tmp_path, data=tmp_path))


@pytest.mark.parametrize(
    ("client_ca", "shown"),
    [
        ("ca.pem", {"understudy.json", "dicom.json", "ca.pem"}),
        ("absent.pem", {"understudy.json", "dicom.json"}),
        ("../secrets/key.pem", {"understudy.json", "dicom.json"}),
        (7, {"understudy.json", "dicom.json"}),
        (None, {"understudy.json", "dicom.json"}),
    ],
)
def test_checker_is_given_the_configuration_and_the_authority_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client_ca: object, shown: set[str]
) -> None:
    (tmp_path / "secrets").mkdir()
    config = tmp_path / "config"
    config.mkdir()
    for name in ("understudy.json", "dicom.json", "ca.pem", "s3.txt", "../secrets/key.pem"):
        (config / name).write_text("{}")
    candidate = tmp_path / "candidate"
    candidate.write_text(json.dumps({"Understudy": {"DicomTls": {"ClientCa": client_ca}}}))
    given: set[str] = set()

    def note(command: Sequence[str]) -> bytes:
        folder = Path(command[command.index("--volume") + 1].split(":")[0])
        given.update(file.name for file in folder.iterdir())
        assert (folder / "understudy.json").read_text() == candidate.read_text()
        return b"in order\n"

    monkeypatch.setattr(checking, "run", note)
    assert checking.check_config(Places(configuration=config), "image", candidate) == "in order"
    assert given == shown
