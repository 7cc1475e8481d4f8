"""A wrong configuration takes no running appliance down: the last correct one runs."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from understudy import agent
from understudy.adapters.boot import read_report
from understudy.adapters.edge_config import read_digest
from understudy.adapters.in_force import KEPT, choose, present
from understudy.adapters.keys import keep_configuration, share_of
from understudy.cli import run
from understudy.config import ConfigurationError
from understudy.core.model import Timestamp
from understudy.core.views import Urgency, iso
from understudy.flow.configuration import ConfigurationWatch

from tests.certificates import Authority
from tests.unit.fakes import Clock

GOOD = {"Understudy": {"Site": "${SITE:-north}", "Primary": {"AeTitle": "PACS", "Host": "192.0.2.10"}}}
ORTHANC = {"HttpPort": 8042}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the folders of an appliance whose configuration is in order."""
    for name, variable in (
        ("config", "UNDERSTUDY_CONFIG_FOLDER"),
        ("keys", "UNDERSTUDY_KEYS"),
        ("state", "UNDERSTUDY_STATE"),
        ("edge", "UNDERSTUDY_EDGE"),
        ("storage", "UNDERSTUDY_STORAGE"),
    ):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setenv("UNDERSTUDY_INDEX", str(tmp_path / "index"))
    for service in ("edge", "orthanc"):
        share_of(tmp_path / "keys", service).mkdir()
    write(tmp_path, GOOD)
    (tmp_path / "config" / "orthanc.json").write_text(json.dumps(ORTHANC))
    return tmp_path


def write(places: Path, document: object) -> None:
    (places / "config" / "understudy.json").write_text(
        document if isinstance(document, str) else json.dumps(document)
    )


def keep(places: Path) -> None:
    """Keep what is there, as the agent does once it has started with it."""
    keep_configuration(places / "keys", present(places / "config").kept())


def without_ca(places: Path) -> None:
    document = {"Understudy": GOOD["Understudy"] | {"DicomTls": {"ClientCa": "absent.pem"}}}
    write(places, document)


def broken_ca(places: Path) -> None:
    without_ca(places)
    (places / "config" / "absent.pem").write_text("no certificate")


FAULTS: dict[str, Callable[[Path], object]] = {
    "an unknown key": lambda places: write(places, {"Understudy": {"Sight": "x"}}),
    "a value out of range": lambda places: write(places, {"Understudy": {"Policy": {"RetryBase": -1}}}),
    "no JSON": lambda places: write(places, '{"Understudy": '),
    "an empty file": lambda places: write(places, ""),
    "nested without end": lambda places: write(places, "[" * 5_000),
    "no text": lambda places: (places / "config" / "understudy.json").write_bytes(b"\xff\xfe\x00"),
    "another file's section": lambda places: write(places, {"HttpPort": 1}),
    "a broken file of Orthanc": lambda places: (places / "config" / "orthanc.json").write_text("{"),
    "no file at all": lambda places: shutil.rmtree(places / "config"),
    "no authority": without_ca,
    "a recipient that is none": lambda places: write(
        places, {"Understudy": {"Vaults": [{"Name": "v", "Directory": "/v", "Recipients": ["age1wrong"]}]}}
    ),
    "an authority that is none": broken_ca,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_configuration_is_replaced_by_the_last_good_one_with_all_problems(
    places: Path, fault: str
) -> None:
    good = present(places / "config")
    keep(places)
    FAULTS[fault](places)
    with pytest.raises(ConfigurationError) as refused:
        present(places / "config")
    for kept in (places / "keys", share_of(places / "keys", "edge"), share_of(places / "keys", "orthanc")):
        runs = choose(places / "config", kept / KEPT)
        assert (runs.configuration, runs.files, runs.digest) == (good.configuration, good.files, good.digest)
        assert list(runs.problems) == refused.value.problems


@pytest.mark.parametrize("fault", FAULTS)
def test_first_start_with_a_wrong_configuration_is_refused_with_the_same_problems(
    places: Path, fault: str
) -> None:
    FAULTS[fault](places)
    with pytest.raises(ConfigurationError) as expected:
        present(places / "config")
    with pytest.raises(ConfigurationError) as refused:
        choose(places / "config", places / "keys" / KEPT)
    assert refused.value.problems == expected.value.problems


@pytest.mark.parametrize(
    "kept",
    [
        *("", "null", "[]", "{}", '{"files": []}', '{"files": {}}', '{"files": {"a.json": "{}"}}', "\xff"),
        '{"files": {"a.json": "{\\"Understudy\\": {\\"Sight\\": 1}}"}, "client_ca": null}',
    ],
)
def test_copy_that_cannot_be_used_is_no_configuration(places: Path, kept: str) -> None:
    (places / "keys" / KEPT).write_text(kept, encoding="latin-1")
    write(places, "no JSON")
    with pytest.raises(ConfigurationError):
        choose(places / "config", places / "keys" / KEPT)


def test_present_configuration_is_taken_as_soon_as_it_is_in_order_again(places: Path) -> None:
    keep(places)
    write(places, {"Understudy": {"Site": "south"}})
    runs = choose(places / "config", places / "keys" / KEPT)
    assert (runs.configuration.site, runs.problems) == ("south", ())


def test_copy_holds_the_values_of_the_variables_and_not_their_names(places: Path) -> None:
    kept = places / "keys" / KEPT
    keep_configuration(places / "keys", present(places / "config", {"SITE": "west"}).kept())
    write(places, "no JSON")
    assert choose(places / "config", kept, {"SITE": "*" * 1000}).configuration.site == "west"


def test_copy_holds_no_secret_and_is_read_by_no_stranger(places: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    (places / "config" / "ca.pem").write_bytes(authority.certificate.read_bytes())
    for name in ("s3.json.secret", "key.pem", "credentials.txt"):
        (places / "config" / name).write_text("SECRET")
    write(places, {"Understudy": GOOD["Understudy"] | {"DicomTls": {"ClientCa": "ca.pem"}}})
    keep(places)
    for folder in (places / "keys", share_of(places / "keys", "edge"), share_of(places / "keys", "orthanc")):
        kept = folder / KEPT
        assert "SECRET" not in kept.read_text()
        assert kept.stat().st_mode & 0o777 == 0o640
    (places / "config" / "ca.pem").unlink()
    runs = choose(places / "config", places / "keys" / KEPT)
    assert runs.client_ca == authority.certificate.read_text()
    assert len(runs.problems) == 1


def test_all_services_start_with_the_same_configuration_and_say_so(
    places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["init"]) == 0
    keep(places)
    good = present(places / "config")
    write(places, {"Understudy": {"Sight": "x"}})
    generated = places / "generated"
    generated.mkdir()
    capsys.readouterr()
    for command in (
        ["init"],
        ["render-edge", "--to", str(places / "live")],
        ["prepare-orthanc", "--render", str(generated / "generated.json")],
    ):
        run(command)
        told = capsys.readouterr().err
        assert "ALARM: the configuration is wrong, so the last correct one runs" in told, command
        assert "Understudy.Sight: unknown key; is Site meant?" in told, command
        assert "understudy check-config" in told, command
    assert read_digest(places / "edge") == good.digest
    report = read_report(places / "storage")
    assert report is not None
    assert report.configuration == good.digest
    assert json.loads((generated / "orthanc.json").read_text()) == ORTHANC
    assert "PACS" in (generated / "generated.json").read_text()
    assert run(["check-config"]) == 1
    assert "Understudy.Sight" in capsys.readouterr().err


def test_no_service_makes_anything_at_a_first_start_with_a_wrong_configuration(
    places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(places, {"Understudy": {"Sight": "x"}})
    for command in (["init"], ["render-edge", "--to", str(places / "live")], ["prepare-orthanc"]):
        assert run(command) == 1
        told = capsys.readouterr().err
        assert f"the configuration in {places / 'config'} has 1 problem" in told
        assert "Understudy.Sight" in told
    assert not list((places / "keys").iterdir())
    assert not (places / "live").exists()


WRONG, HINT = "the configuration is wrong", "fix it"
START = Timestamp(1_780_000_000.0)


def watch(clock: Clock, others: dict[str, str], *problems: str) -> ConfigurationWatch:
    return ConfigurationWatch("own", lambda: others, problems, clock, wrong=WRONG, hint=HINT)


def test_wrong_configuration_is_an_urgent_alarm_with_every_fault() -> None:
    clock = Clock(START)
    watched = watch(clock, {}, "Understudy.Site: too long", "Understudy.Sight: unknown key")
    clock.advance(5)
    (alarm,) = watched.alarms()
    assert alarm.what == f"{WRONG}: Understudy.Site: too long; Understudy.Sight: unknown key"
    assert (alarm.since, alarm.hint, alarm.urgency) == (iso(START), HINT, Urgency.NOW)


def test_services_that_differ_for_long_are_an_alarm_each() -> None:
    clock = Clock(START)
    others = {"edge": "other", "orthanc": "other"}
    watched = watch(clock, others)
    assert not watched.alarms()
    clock.advance(130)
    assert [alarm.what for alarm in watched.alarms()] == [
        f"the service {name} and the agent run different configurations" for name in ("edge", "orthanc")
    ]
    clock.set_by(-30 * 86_400)
    assert len(watched.alarms()) == 2, "they still differ"
    others["edge"] = "own"
    others["orthanc"] = ""
    assert not watched.alarms()
    others["edge"] = "other"
    clock.set_by(30 * 86_400)
    assert not watched.alarms(), "it has time again, whatever the clock shows"


def test_agent_starts_where_the_copy_cannot_be_written(
    places: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(agent, "keep_configuration", full)
    with caplog.at_level(logging.ERROR):
        agent.keep(places / "keys", present(places / "config"))
    assert "configuration not kept" in caplog.text


def test_agent_says_every_fault_in_its_log(places: Path, caplog: pytest.LogCaptureFixture) -> None:
    keep(places)
    before = (places / "keys" / KEPT).read_bytes()
    write(places, {"Understudy": {"Sight": "x", "Sound": "y"}})
    with caplog.at_level(logging.ERROR):
        agent.keep(places / "keys", choose(places / "config", places / "keys" / KEPT))
    assert caplog.text.count("the last correct one runs") == 2
    assert (places / "keys" / KEPT).read_bytes() == before
