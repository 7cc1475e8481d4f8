"""The `understudy` command: over a real Unix socket for what asks the agent, on real files for the rest."""

import json
import socket
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvicorn
from understudy.cli import run
from understudy.core.model import HolderKind, HolderName, ProofKind, Timestamp
from understudy.core.modes import Mode
from understudy.core.views import (
    DiskView,
    Fullness,
    HolderView,
    LaneState,
    LaneView,
    OperationState,
    ProofView,
    Status,
    UnknownVolume,
    VolumeView,
)
from understudy.web.application import application

from tests.unit.web_fakes import CAPABILITIES, STATUS, FakeFacade, by_headers


class Agent(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, FakeFacade]]:
    """One agent on a socket for the whole file: starting it costs more than any test."""
    folder = tmp_path_factory.mktemp("agent")
    facade = FakeFacade(reports=folder)
    app = application(facade, "0.1.0", by_headers, swagger=folder)
    agent = Agent(uvicorn.Config(app, uds=str(folder / "agent.sock"), log_level="error"))
    thread = threading.Thread(target=agent.run)
    thread.start()
    assert agent.listening.wait(60)
    yield folder / "agent.sock", facade
    agent.should_exit = True
    thread.join(60)


@pytest.fixture
def facade(served: tuple[Path, FakeFacade], monkeypatch: pytest.MonkeyPatch) -> FakeFacade:
    path, facade = served
    monkeypatch.setenv("UNDERSTUDY_SOCKET", str(path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TZ", "UTC")
    facade.present = STATUS
    facade.acts.clear()
    facade.fault = None
    return facade


def test_status_shows_mode_primary_and_holders_with_units(
    facade: FakeFacade, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = HolderView(
        name=HolderName("archive"),
        kind=HolderKind.ROUTE,
        owed=18,
        in_flight=0,
        sent=0,
        proven=0,
        refused=0,
        waived=0,
        oldest_owed_seconds=7300.0,
        lane=LaneView(
            LaneState.WAITING, "connection refused", STATUS.now, "2026-03-02T03:14:40.000+00:00", 0.0
        ),
        proof=ProofView(ProofKind.INVENTORY, "no storage commitment: not offered"),
    )
    facade.present = replace(STATUS, holders=[*STATUS.holders, waiting])

    assert run(["status"]) == 0

    shown = capsys.readouterr().out
    assert "STANDBY" in shown
    assert "epoch 3, for 17 h 14 min" in shown
    assert "PRIMARY at 192.0.2.10, port 104" in shown
    assert "archive is proven by inventory: no storage commitment: not offered" in shown
    assert ", 2 min 15 s ago" in shown
    assert "sending, 23.4 instances/s" in shown
    assert "waits: connection refused; tries again in 25 s" in shown
    assert "2 h 1 min" in shown
    assert "ALARM 1 instance is refused by nas" in shown


def test_acts_ask_for_the_mode_alone_and_not_for_the_status(
    facade: FakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs() -> Status:
        raise AssertionError("the status is asked for")

    monkeypatch.setattr(facade, "status", hangs)
    assert run(["promote", "--reason", "down"]) == 0
    assert [act[0] for act in facade.acts] == ["promote"]


def test_status_shows_a_disk_that_does_not_answer(
    facade: FakeFacade, capsys: pytest.CaptureFixture[str]
) -> None:
    facade.present = replace(STATUS, disk=DiskView([], unknown=[UnknownVolume("vault nas", STATUS.now)]))
    assert run(["status"]) == 0
    assert "vault nas has not answered since 2026-03-02 03:14:15" in capsys.readouterr().out


@pytest.mark.parametrize(("state", "colour"), [(Fullness.FINE, ""), (Fullness.REFUSE, "\x1b[1;31m")])
def test_status_shows_a_disk_in_red_where_it_is_full_and_there_alone(
    facade: FakeFacade,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    state: Fullness,
    colour: str,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    volume = VolumeView("index", 10**9, 5 * 10**8, 50.0, state, None)
    facade.present = replace(STATUS, disk=DiskView([volume]))
    assert run(["status"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "index 50 % used" in line]
    assert line.partition("index 50 % used")[0].endswith(colour)
    assert ("31m" in line) is bool(colour)


def test_status_json_is_the_agents_own_answer(facade: FakeFacade, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--json"]) == 0

    assert json.loads(capsys.readouterr().out)["holders"][0]["proven"] == 1203


def test_promote_takes_the_present_epoch(facade: FakeFacade, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["promote", "--reason", "PACS is dead", "--accept-loss"]) == 0

    assert facade.acts == [("promote", "cli", "PACS is dead force=False accept_loss=True")]
    assert "the mode is active, epoch 4" in capsys.readouterr().out


def test_promote_with_a_stale_epoch_is_refused_with_a_hint(
    facade: FakeFacade, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["promote", "--reason", "x", "--epoch", "2"]) == 1

    assert capsys.readouterr().err == (
        "understudy: the epoch is 3\nunderstudy: hint: look at the status and decide again\n"
    )
    assert facade.acts == []


def test_the_whole_way_of_modes_by_command(facade: FakeFacade, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["hold", "--reason", "update"],
        ["release", "--reason", "updated"],
        ["promote", "--reason", "down"],
        ["failback"],
        ["interrupt", "--reason", "down again"],
        ["failback", "--wait"],
        ["settle", "--override-quiet", "nobody works at night"],
    ):
        assert run(arguments) == 0, (arguments, capsys.readouterr().err)

    assert facade.present.mode is Mode.STANDBY
    assert facade.present.epoch == 4
    assert [verb for verb, _, _ in facade.acts] == [
        "hold", "release", "promote", "failback", "interrupt", "failback", "settle",
    ]  # fmt: skip


def test_failback_dry_run_shows_the_plan_and_changes_nothing(
    facade: FakeFacade, capsys: pytest.CaptureFixture[str]
) -> None:
    facade.present = replace(STATUS, mode=Mode.ACTIVE)

    assert run(["failback", "--dry-run"]) == 0

    shown = capsys.readouterr().out
    assert "50  to be sent, of 2 studies" in shown
    assert "1.2.5" in shown
    assert facade.acts == []


@pytest.mark.parametrize(("command", "act"), [("verify", "verify"), ("failback --dry-run", "plan")])
@pytest.mark.parametrize("joins", [True, False])
def test_question_that_joins_a_running_one_says_since_when_that_asks(
    facade: FakeFacade,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    act: str,
    joins: bool,
) -> None:
    begun = getattr(facade, act)("ann")
    view = replace(begun, started=Timestamp(0.0) if joins else begun.updated)
    monkeypatch.setattr(facade, act, lambda _who: view)
    assert run(command.split()) == 0
    told = capsys.readouterr().err
    assert (f"{act} 7 runs since 1970-01-01T00:00:00" in told) is joins
    assert ("its answers may be older than this question" in told) is joins


def test_settle_that_is_refused_names_every_reason_and_exits_1(
    facade: FakeFacade, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = (
        "the primary does not list instance 1.2.3.4 of study 1.2.3",
        "the primary does not list 7 more",
    )
    refused = replace(
        facade.plan("ann"),
        kind="settle",
        state=OperationState.FAILED,
        message="settle is refused",
        details=missing,
    )
    monkeypatch.setattr(facade, "settle", lambda _who, **_: refused)
    assert run(["settle"]) == 1
    told = capsys.readouterr().err
    assert "settle 7 failed: settle is refused" in told
    assert all(line in told for line in missing)


def test_settle_in_the_wrong_mode_exits_1(facade: FakeFacade, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["settle"]) == 1

    assert "settle is possible in mode returning" in capsys.readouterr().err


def test_verify_that_finds_something_names_it_and_exits_with_1(
    facade: FakeFacade, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = replace(facade.verify("ann"), state=OperationState.FAILED, message="the log is broken at event 3")
    monkeypatch.setattr(facade, "verify", lambda _who: found)
    assert run(["verify", "--wait"]) == 1
    assert "verify 7 is failed: the log is broken at event 3" in capsys.readouterr().out


def test_health_tells_by_its_exit_code(facade: FakeFacade, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["health", "--role", "standby"]) == 0
    assert run(["health", "--role", "active"]) == 1
    assert run(["health", "--max-lag", "60"]) == 1
    assert "degraded" not in capsys.readouterr().out
    facade.present = replace(STATUS, configuration_problems=["Understudy.Sight: unknown key"])
    assert run(["health"]) == 0
    assert "degraded: the last correct configuration runs: Understudy.Sight" in capsys.readouterr().out


def test_lists_and_their_acts(facade: FakeFacade, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in (
        (["obligations", "--state", "refused"], "A900"),
        (["obligations", "--limit", "1"], "Only the first 1 are shown"),
        (["obligations", "--holder", "cloud"], "no obligation matches"),
        (["obligations", "--json"], '"sop_instance_uid":"1.2.3.4"'),
        (["operations"], "50 of 200 instances, 12.5/s, about 12 s left"),
        (["modalities"], "192.0.2.20"),
        (["modalities"], "an image larger than 320 MiB: CT Image Storage"),
        (["modalities"], "raise UNDERSTUDY_ORTHANC_MEMORY"),
        (["damages"], "primary does not give it"),
        (["gaps"], "the primary answered C-MOVE with status 0xA801"),
        (["gaps", "--limit", "1"], "this standby"),
        (["gaps", "--json"], '"missing":"primary"'),
        (["routes", "explain", "1.2.3"], "yes  not: BodyPartExamined is HEAD (found: absent)"),
        (["routes", "explain", "1.2.3"], "not sent to archive: it is not sent SOP class"),
        (["routes", "explain", "--json", "1.2.3"], '"because":"every condition holds"'),
        (["heal", "--missed"], "operation 7 (heal) has begun"),
        (["heal", "--wait"], "heal 7 is done"),
        (["approve", "CT2", "192.0.2.1"], "CT2 from 192.0.2.1/32 is on the allow-list"),
        (["revoke", "CT2", "192.0.2.1"], "CT2 from 192.0.2.1/32 is no longer approved"),
        (["dead-letters"], "replay or waive it"),
        (["dead-letters", "--holder", "cloud"], "no instance is refused"),
        (["dead-letters", "--json"], '"instances":3'),
        (["replay", "--holder", "nas"], "1 instance owed to nas again"),
        (["replay", "--study", "1.2.3", "--reason", "mended"], "1 instance owed again"),
        (["waive", "--holder", "nas", "--reason", "test", "--study", "1.2"], "1 instance waived for nas"),
        (
            ["waive", "--holder", "nas", "--reason", "test", "1.2.3.4", "1.2.3.5"],
            "2 instances waived for nas",
        ),
        (["cancel", "7"], "operation 7 (failback) is cancelled"),
        (["verify", "--wait"], "verify 7 is done"),
    ):
        assert run(arguments) == 0, arguments
        assert expected in capsys.readouterr().out, arguments


def test_probe_shows_what_it_found_and_exits_1_if_the_primary_does_not_suit(
    facade: FakeFacade, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["probe"]) == 1
    told = capsys.readouterr().out
    for expected in (
        "PACS at 192.0.2.10:104",
        "C-MOVE to this standby *",
        "missing",
        "status 0xA801",
        "changed since the probe before: C-GET: it gives no image (before: it gives images)",
        "set Primary.Associations to 2: it takes 3 associations at a time",
        CAPABILITIES.verdict,
    ):
        assert expected in told
    assert run(["probe", "--last", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["suits"] is False
    assert [act[0] for act in facade.acts] == ["probe"]
    facade.probed = None
    assert run(["probe", "--last"]) == 1
    assert "the primary was not probed yet" in capsys.readouterr().err


def test_unknown_operation_is_told_with_its_hint(
    facade: FakeFacade, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["cancel", "8"]) == 1

    assert "there is no operation 8" in capsys.readouterr().err


def test_without_an_agent_every_question_exits_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNDERSTUDY_SOCKET", str(tmp_path / "none.sock"))

    for arguments in (["status"], ["health"], ["promote", "--reason", "x"], ["verify"]):
        assert run(arguments) == 3
        assert "cannot be reached" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["promote"], ["obligations", "--state", "lost"], ["status", "--yaml"], ["user"], ["restore"]],
)
def test_wrong_usage_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(arguments)

    assert ended.value.code == 2
    assert "usage: understudy" in capsys.readouterr().err


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, variable in (
        ("config", "UNDERSTUDY_CONFIG_FOLDER"),
        ("keys", "UNDERSTUDY_KEYS"),
        ("state", "UNDERSTUDY_STATE"),
    ):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    (tmp_path / "config" / "understudy.json").write_text(
        json.dumps({"Understudy": {"Vaults": [{"Name": "local", "Directory": str(tmp_path / "vault")}]}})
    )
    return tmp_path


def test_check_config_lists_every_problem(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check-config"]) == 0
    assert (
        "is in order: site clinic, no primary, 1 vault, 0 destinations, 0 routes, 0 modalities"
        in capsys.readouterr().out
    )
    (folders / "config" / "understudy.json").write_text(
        '{"Understudy": {"AeTitle": "MUCH TOO LONG AE TITLE", "Sight": "x", "Policy": {"RetryBase": -1}}}'
    )

    assert run(["check-config"]) == 1

    told = capsys.readouterr().err
    assert "has 3 problems" in told
    assert all(
        path in told for path in ("Understudy.AeTitle", "Understudy.Sight", "Understudy.Policy.RetryBase")
    )


def test_check_config_takes_a_folder(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check-config", str(folders / "empty")]) == 1

    assert "no *.json file is there" in capsys.readouterr().err


def test_first_start_shows_the_secrets_exactly_once(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init"]) == 0
    made = capsys.readouterr()
    assert made.out == ""
    assert "understudy first-start" in made.err

    assert run(["first-start"]) == 0
    shown = capsys.readouterr().out
    assert run(["first-start"]) == 1
    again = capsys.readouterr()

    identity = next(line.split()[-1] for line in shown.splitlines() if "identity" in line)
    password = next(line.split()[-1] for line in shown.splitlines() if line.startswith("password"))
    assert identity.startswith("AGE-SECRET-KEY-1")
    assert identity not in again.out + again.err + made.err
    assert password not in again.out + again.err + made.err
    assert "destroyed" in again.err
    assert not (folders / "state" / "first-start.json").exists()


def test_render_orthanc_prints_json_alone(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["render-orthanc"]) == 1
    assert capsys.readouterr().out == ""
    run(["init"])
    capsys.readouterr()

    assert run(["render-orthanc"]) == 0

    assert set(json.loads(capsys.readouterr().out)["RegisteredUsers"]) == {"edge", "agent"}


def test_prepare_orthanc_renders_first_and_tells_what_it_cannot_do(
    folders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No Orthanc makes an index here: the start goes on, with the accounts and without the statistics."""
    storage, rendered = folders / "storage", folders / "generated.json"
    storage.mkdir()
    monkeypatch.setenv("UNDERSTUDY_STORAGE", str(storage))
    monkeypatch.setenv("UNDERSTUDY_INDEX", str(folders / "no-such-volume" / "index"))
    assert run(["prepare-orthanc", "--render", str(rendered)]) == 1
    assert not rendered.exists(), "without the services' passwords nothing is rendered"
    run(["init"])
    capsys.readouterr()

    assert run(["prepare-orthanc", "--render", str(rendered)]) == 1

    assert stat.S_IMODE(rendered.stat().st_mode) == 0o600
    assert set(json.loads(rendered.read_text())["RegisteredUsers"]) == {"edge", "agent"}
    told = capsys.readouterr().err
    assert "statistics_in_force=false" in told
    assert "did not make its index" in told
    assert json.loads((storage / "understudy" / "boot.json").read_text())["problem"]


def test_quarantine_lists_file_size_and_reason(
    folders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_STORAGE", str(folders / "storage"))
    assert run(["quarantine"]) == 0
    assert capsys.readouterr().out == ""
    quarantine = folders / "storage" / "understudy" / "quarantine"
    quarantine.mkdir(parents=True)
    (quarantine / "a").write_bytes(b"xyz")
    (quarantine / "a.json").write_text('{"reason": "it is cut", "size": 3}')

    assert run(["quarantine"]) == 0

    assert capsys.readouterr().out == "a  3 bytes: it is cut\n"


def test_quarantine_lists_what_is_parked_and_releases_it(
    folders: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_STORAGE", str(folders / "storage"))
    assert run(["quarantine", "--release", "1.2.3"]) == 1
    assert "lists those that are" in capsys.readouterr().err
    parking = folders / "storage" / "understudy" / "parking"
    parking.mkdir(parents=True)
    (parking / "suspects").write_text("2 1700000000 CT1 1.2.3\n1 1700000000 US 1.2.4\n")

    assert run(["quarantine"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("1.2.3  from CT1: parked, Orthanc ended 2 times")
    assert "1.2.4" not in shown, "a suspect is still accepted"

    assert run(["quarantine", "--release", "1.2.3"]) == 0
    assert run(["quarantine"]) == 0
    assert "parked" not in capsys.readouterr().out
    assert (parking / "suspects").read_text() == "1 1700000000 US 1.2.4\n"


def test_users_are_added_listed_and_removed(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["init"])
    capsys.readouterr()

    assert run(["user", "add", "rita", "--role", "reader"]) == 0
    password = capsys.readouterr().out.strip()
    assert run(["user", "list"]) == 0
    listed = capsys.readouterr().out
    assert run(["user", "add", "rita", "--role", "admin"]) == 1
    assert run(["user", "reset", "rita"]) == 0
    another = capsys.readouterr().out.strip()
    assert run(["user", "remove", "rita"]) == 0
    assert run(["user", "remove", "admin"]) == 1

    assert len(password) >= 20
    assert len(another) >= 20
    assert another != password
    assert [line.split() for line in listed.splitlines()] == [["admin", "admin"], ["rita", "reader"]]
    assert "$6$" not in listed
    assert "last administrator" in capsys.readouterr().err
    assert stat.S_IMODE((folders / "keys" / "users.cfg").stat().st_mode) & 0o027 == 0


def test_config_schema_describes_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config-schema"]) == 0

    assert "Primary" in json.loads(capsys.readouterr().out)["properties"]


def test_restore_from_an_unknown_vault_names_the_known_ones(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["restore", "--vault", "cloud", "--identity-file", "x"]) == 1

    assert "the configuration has: local" in capsys.readouterr().err


def test_restore_with_a_wrong_identity_never_repeats_it(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "identity").write_text("AGE-SECRET-KEY-1WRONG\n")

    assert run(["restore", "--vault", "local", "--identity-file", str(tmp_path / "identity"), "--list"]) == 1

    told = capsys.readouterr().err
    assert "not a valid age X25519 identity" in told
    assert "WRONG" not in told


def test_accept_recipients_asks_the_agent_with_the_reason_and_shows_the_fingerprint(
    facade: FakeFacade, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["accept-recipients", "--vault", "local", "--reason", "a new safe"]) == 0
    assert [(verb, told) for verb, _, told in facade.acts] == [("accept_recipients", "local a new safe")]
    assert "1a2b 3c4d 5e6f 7a8b" in capsys.readouterr().out


def test_conflicts_export_writes_both_versions_whole_and_leaves_no_half_of_one(
    facade: FakeFacade, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(range(256)) * 8192
    monkeypatch.setattr(facade.conflicts, "content", content)
    uid = facade.conflicts.present.sop_instance_uid

    assert run(["conflicts", "--export", uid, str(tmp_path)]) == 0
    names = [f"{letter * 32}.dcm" for letter in "ab"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(names, content)
    assert names[0] in capsys.readouterr().out

    missing = replace(facade.conflicts.present.earlier, md5="c" * 32)
    monkeypatch.setattr(
        facade.conflicts, "present", replace(facade.conflicts.present, earlier=missing, later=missing)
    )
    assert run(["conflicts", "--export", uid, str(tmp_path)]) == 1
    assert "has no version" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == set(names)
