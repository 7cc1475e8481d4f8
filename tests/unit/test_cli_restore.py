"""`understudy restore` as a person types it: what is believed, refused by name, and chosen."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from understudy.adapters.writer import known_writers, make_writer
from understudy.cli import run
from understudy.core.signature import writers_in

from tests.vault_parts import NOW, Bench, bench


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A vault in a directory, and an appliance that has the same vault in its configuration."""
    for name, variable in (
        ("config", "UNDERSTUDY_CONFIG_FOLDER"),
        ("keys", "UNDERSTUDY_KEYS"),
        ("state", "UNDERSTUDY_STATE"),
    ):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    with bench(tmp_path / "bench") as made:
        vault = {"Name": "local", "Directory": str(tmp_path / "bench" / "vault")}
        (tmp_path / "config" / "understudy.json").write_text(json.dumps({"Understudy": {"Vaults": [vault]}}))
        (tmp_path / "identity.txt").write_text(f"{made.keys.identity}\n")
        yield made


def deliver(parts: Bench, content: bytes, *, signed: bool, now: float = NOW) -> None:
    """Vault a content of the instance 1.4."""
    instance = replace(parts.storage.keep(content, sop="1.4", study="1.2"), orthanc_id="the same")
    signer = parts.signer if signed else None
    assert all(item.proof for item in parts.vault(signer=signer, now=now).deliver([instance]))


def restore(parts: Bench, *options: str) -> tuple[int, list[bytes]]:
    """Restore into a folder; return the exit code and what is there then."""
    folder = parts.folder.parent
    arguments = ["restore", "--vault", "local", "--identity-file", str(folder / "identity.txt")]
    code = run([*arguments, "--to", str(folder / "restored"), *options])
    return code, [path.read_bytes() for path in (folder / "restored").rglob("*.dcm")]


def test_restore_on_the_appliance_itself_believes_what_it_signed(parts: Bench) -> None:
    (parts.folder.parent / "keys" / "vault-writers").write_text(parts.signer.writer + "\n")
    deliver(parts, b"true", signed=True)
    assert restore(parts) == (0, [b"true"])


def test_restore_elsewhere_believes_the_writer_in_the_identity_file(parts: Bench) -> None:
    folder = parts.folder.parent
    make_writer(folder / "keys", folder / "state")
    deliver(parts, b"true", signed=True)
    (folder / "identity.txt").write_text(f"# vault writer: {parts.signer.writer}\n{parts.keys.identity}\n")
    assert restore(parts) == (0, [b"true"])


def test_restore_elsewhere_without_the_writer_says_what_to_compare_and_to_type(
    parts: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    deliver(parts, b"true", signed=True)
    assert restore(parts) == (1, [])
    told = " ".join(capsys.readouterr().err.split())
    assert f"--writer {parts.signer.writer}" in told
    assert "the safe" in told
    assert restore(parts, "--writer", parts.signer.writer) == (0, [b"true"])


def test_forged_pack_makes_the_restore_fail_by_name_and_brings_the_true_one(
    parts: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    deliver(parts, b"true", signed=True)
    deliver(parts, b"forged", signed=False, now=NOW + 10**8)
    assert restore(parts, "--writer", parts.signer.writer) == (1, [b"true"])
    assert "may be forged" in " ".join(capsys.readouterr().err.split())


def test_vault_writer_is_printed_as_the_identity_file_has_it(
    parts: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = parts.folder.parent
    assert run(["vault-writer"]) == 1
    writer = make_writer(folder / "keys", folder / "state")
    capsys.readouterr()
    assert run(["vault-writer"]) == 0
    told = capsys.readouterr().out
    assert told == f"# vault writer: {writer}\n"
    assert writers_in(told) == {writer}


def test_writer_of_a_lost_volume_stays_known_beside_the_new_one(parts: Bench) -> None:
    folder = parts.folder.parent
    first = make_writer(folder / "keys", folder / "state")
    assert make_writer(folder / "keys", folder / "state") == first
    (folder / "state" / "vault-writer.key").unlink()
    second = make_writer(folder / "keys", folder / "state")
    assert known_writers(folder / "keys") == {first, second}
    assert (folder / "state" / "vault-writer.key").stat().st_mode & 0o777 == 0o600


def test_list_shows_a_patients_name_as_it_is(parts: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    instances = parts.storage.series("markup", 1)
    path = parts.storage.path(instances[0])
    dataset = pydicom.dcmread(path)
    dataset.PatientName = "[/red]"
    dataset.save_as(path)
    content = path.read_bytes()
    md5 = hashlib.md5(content).hexdigest()
    odd = replace(instances[0], size=len(content), md5=md5)
    assert all(item.proof for item in parts.vault().deliver([odd]))
    assert restore(parts, "--list")[0] == 0
    assert "[/red]" in capsys.readouterr().out


def test_vault_of_an_earlier_version_comes_back_with_a_warning(
    parts: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    deliver(parts, b"true", signed=False)
    assert restore(parts) == (0, [b"true"])
    assert "WARNING: packs without a signature: 1" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "content"),
    [
        (["--version", hashlib.sha256(b"first").hexdigest()], b"first"),
        (["--version", hashlib.sha256(b"second").hexdigest()[:12].upper()], b"second"),
        (["--newest"], b"second"),
    ],
)
def test_of_two_contents_the_chosen_one_comes_back(
    parts: Bench, options: list[str], content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    deliver(parts, b"first", signed=True)
    deliver(parts, b"second", signed=True, now=NOW + 5)
    trust = ["--writer", parts.signer.writer]
    assert restore(parts, *trust) == (1, [])
    told = "".join(capsys.readouterr().err.split())
    assert all(hashlib.sha256(one).hexdigest() in told for one in (b"first", b"second"))
    assert restore(parts, *trust, *options) == (0, [content])


def test_as_of_a_time_leaves_out_what_came_later_and_warns_where_that_is_weak(
    parts: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    deliver(parts, b"true", signed=False)
    assert restore(parts, "--as-of", "2001-01-01") == (0, [])
    assert "chooses the time that --as-of uses" in " ".join(capsys.readouterr().err.split())
    assert restore(parts, "--as-of", "2199-01-01T00:00:00+00:00") == (0, [b"true"])


@pytest.mark.parametrize(
    "options", [["--version", "xyz"], ["--writer", "age1x"], ["--as-of", "yesterday"], ["--version", "abc"]]
)
def test_choice_that_means_nothing_is_wrong_usage(parts: Bench, options: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        restore(parts, *options)
    assert caught.value.code == 2
