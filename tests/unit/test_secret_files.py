"""Secret files lie in a folder of the agent alone, and one that lies elsewhere is told."""

from pathlib import Path

import pytest
from understudy.adapters.secret_files import exposed, file_of
from understudy.config import Understudy, parse


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("config", "secrets"):
        (tmp_path / name).mkdir()
    return tmp_path / "config"


def named(folder: Path, credentials: str = "s3.secret") -> Understudy:
    s3 = {"Endpoint": "https://s3.example.org", "Bucket": "vault", "RetentionDays": 1}
    tls = {"Authorities": "pacs.pem", "Certificate": "own.pem", "Key": str(folder / "own.key")}
    return parse(
        {
            "Vaults": [{"Name": "cloud", "CredentialsFile": credentials, **s3}],
            "Primary": {"AeTitle": "PACS", "Host": "192.0.2.1", "Tls": tls},
            "Destinations": [
                {"Name": "web", "Url": "https://192.0.2.2/dicom-web", "CredentialsFile": "web.secret"}
            ],
        }
    )


@pytest.mark.parametrize("written", ["s3.secret", "{folder}/s3.secret"])
def test_file_is_taken_from_the_secrets_before_the_configuration(folder: Path, written: str) -> None:
    name = Path(written.format(folder=folder))
    assert file_of(folder, name) == folder / "s3.secret"
    (folder / "s3.secret").touch()
    assert file_of(folder, name) == folder / "s3.secret"
    (folder.parent / "secrets" / "s3.secret").touch()
    assert file_of(folder, name) == folder.parent / "secrets" / "s3.secret"


def test_file_elsewhere_is_taken_as_it_is_named(folder: Path) -> None:
    (folder.parent / "secrets" / "writer.json").touch()
    assert file_of(folder, Path("/run/secrets/s3/writer.json")) == Path("/run/secrets/s3/writer.json")


def test_secret_in_the_configuration_folder_is_named(folder: Path) -> None:
    names = ["own.key", "s3.secret", "web.secret"]
    for name in (*names, "pacs.pem", "own.pem"):
        (folder / name).touch()
    assert exposed(named(folder), folder) == names
    for name in names:
        (folder / name).rename(folder.parent / "secrets" / name)
    assert exposed(named(folder), folder) == []


def test_secret_that_is_missing_or_elsewhere_is_none_of_this(folder: Path) -> None:
    assert exposed(named(folder, "/run/secrets/s3/writer.json"), folder) == []
