"""Orthanc's configuration: our files as the appliance reads them, and the part that is made from ours."""

import json
from pathlib import Path

import json5
import pytest
from understudy.adapters.orthanc_config import render, render_reception
from understudy.config import ConfigurationError, Understudy, parse, read_sections

CONFIGURATION = Path(__file__).parents[2] / "orthanc-config"
MEMORY = 2 * 2**30


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "edge").write_text("one\n")
    (tmp_path / "service" / "agent").write_text("two\n")
    return tmp_path


def clinic(**more: object) -> Understudy:
    return parse(
        {
            "AeTitle": "STANDBY",
            "Primary": {"AeTitle": "PRIMARY", "Host": "192.0.2.1"},
            "Modalities": [
                {"Name": "ct1", "AeTitle": "CT1", "Host": "192.0.2.2"},
                {"Name": "reader1", "AeTitle": "READER", "Host": "192.0.2.3", "Port": 11112, "Reads": True},
            ],
        }
        | more
    )


def modalities(configuration: Understudy, keys: Path) -> dict[str, dict[str, object]]:
    rendered = render(configuration, keys, MEMORY)["DicomModalities"]
    assert isinstance(rendered, dict)
    return rendered


def test_render_carries_ae_title_and_service_accounts(keys: Path) -> None:
    rendered = render(clinic(), keys, MEMORY)
    assert rendered["DicomAet"] == "STANDBY"
    assert rendered["RegisteredUsers"] == {"edge": "one", "agent": "two"}
    json.dumps(rendered)


def test_only_listed_readers_query_and_retrieve(keys: Path) -> None:
    devices = modalities(clinic(), keys)
    reading = {"AllowFind", "AllowFindWorklist", "AllowGet", "AllowMove"}
    readers = [name for name, device in devices.items() if all(device[key] for key in reading)]
    assert readers == ["modality-reader1"]
    assert not any(devices["modality-ct1"][key] or devices["primary"][key] for key in reading)
    assert all(device["AllowStore"] and device["AllowEcho"] for device in devices.values())
    assert devices["modality-reader1"]["Port"] == 11112


def test_parties_that_are_sent_to_may_report_on_storage_commitment(keys: Path) -> None:
    archive = {"Name": "archive", "AeTitle": "ARCHIVE", "Host": "192.0.2.4"}
    cloud = {"Name": "cloud", "Url": "https://archive.example.org/dicom-web"}
    devices = modalities(clinic(Destinations=[archive, cloud]), keys)
    assert {"primary", "destination-archive"} <= set(devices)
    assert all(device["AllowStorageCommitment"] for device in devices.values())
    assert not devices["destination-archive"]["AllowFind"]
    assert "destination-cloud" not in devices


def test_devices_of_one_ae_title_are_allowed_the_same(keys: Path) -> None:
    devices = modalities(
        clinic(Modalities=[{"Name": "pacs", "AeTitle": "PRIMARY", "Host": "192.0.2.1", "Reads": True}]), keys
    )
    assert devices["primary"]["AllowMove"] is True
    assert devices["modality-pacs"]["AllowMove"] is True


@pytest.mark.parametrize("accepted", [True, False])
def test_orthanc_leaves_echo_and_store_to_the_edge(keys: Path, accepted: bool) -> None:
    rendered = render(clinic(Policy={"AcceptStrangers": accepted}), keys, MEMORY)
    assert rendered["DicomAlwaysAllowStore"] is True
    assert rendered["DicomAlwaysAllowEcho"] is True
    assert "DicomAlwaysAllowFind" not in rendered


@pytest.mark.parametrize("associations", [8, 64, 1000])
def test_orthanc_has_a_thread_for_each_association_of_the_edge(keys: Path, associations: int) -> None:
    edge = {"Associations": associations, "AssociationsOfDevice": 1, "AssociationsOfStrangers": 1}
    configuration = clinic(Edge=edge)
    assert render(configuration, keys, MEMORY)["DicomThreadsCount"] == associations + 8
    assert f"associations {associations}\n" in render_reception(configuration, MEMORY)


def test_reception_and_http_of_orthanc_have_one_limit(keys: Path) -> None:
    lines = render_reception(clinic(), MEMORY).splitlines()
    assert render(clinic(), keys, MEMORY)["MaximumRequestBodySizeMB"] == 219
    assert f"largest {219 * 2**20}" in lines
    assert f"memory {1536 * 2**20}" in lines
    assert {line for line in lines if line.startswith("known")} == {
        "known CT1",
        "known READER",
        "known PRIMARY",
    }


def test_missing_and_empty_secrets_are_all_named(keys: Path) -> None:
    (keys / "service" / "edge").unlink()
    (keys / "service" / "agent").write_text("\n")
    with pytest.raises(ConfigurationError) as caught:
        render(clinic(), keys, MEMORY)
    assert len(caught.value.problems) == 2


def test_embedded_configuration_is_complete_and_valid(keys: Path) -> None:
    sections = read_sections(CONFIGURATION, {})
    configuration = parse(sections["Understudy"])
    assert configuration.primary is None
    assert [vault.name for vault in configuration.vaults] == ["local"]
    # What is made at the start must not stand in a file too: Orthanc would take one of the two.
    assert not set(render(configuration, keys, MEMORY)) & set(sections)


def test_site_is_taken_from_the_environment() -> None:
    sections = read_sections(CONFIGURATION, {"UNDERSTUDY_SITE": "north", "UNDERSTUDY_AE_TITLE": "NORTH"})
    configuration = parse(sections["Understudy"])
    assert (configuration.site, configuration.ae_title) == ("north", "NORTH")
    assert sections["Name"] == "Understudy north"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("SyncStorageArea", True),
        ("StorageCompression", False),
        ("StoreMD5ForAttachments", True),
        ("OverwriteInstances", "IfChanged"),
        ("MaximumStorageMode", "Reject"),
        ("AuthenticationEnabled", True),
        ("ExecuteLuaEnabled", False),
        ("DicomModalitiesInDatabase", False),
        ("DicomAlwaysAllowFind", False),
    ],
)
def test_option_that_data_or_access_depends_on_is_set(option: str, value: object) -> None:
    assert read_sections(CONFIGURATION, {})[option] == value


def test_one_section_a_file() -> None:
    for file in CONFIGURATION.glob("*.json"):
        if file.name == "orthanc.json":
            continue
        (section,) = json5.loads(file.read_text(encoding="utf-8"))
        assert file.stem.replace("-", "") == section.lower()
