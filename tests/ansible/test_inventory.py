"""A wrong inventory stops the play before anything changes, and every error is listed."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ansible.target import PLAYS, Played, played
from tests.certificates import Authority

MANUAL = PLAYS.parent / "docs" / "deploy.md"
IMAGE = "registry.example.org/understudy@sha256:" + "0" * 64
VAULT = {
    "Name": "cloud",
    "Endpoint": "https://s3.example.org",
    "Bucket": "understudy",
    "CredentialsFile": "/etc/understudy/config/s3-writer.secret",
    "RetentionDays": 3650,
}

PACS = {"AeTitle": "PACS", "Host": "192.0.2.10"}
CT = {"Name": "ct", "AeTitle": "CT", "Host": "ct.example.org", "Addresses": ["172.17.3.4"]}
TLS = {"Authorities": "/etc/ssl/clinic.pem", "Certificate": "our.pem", "Key": "our.key"}
WEB = {"Name": "web", "Url": "https://archive.example.org/dicom-web", "CredentialsFile": "web.secret"}


def host(address: str, site: str, **variables: Any) -> dict[str, Any]:
    section = {"Site": site, **variables.pop("section", {})}
    return {"ansible_host": address, "appliance_image": IMAGE, "appliance_config": section, **variables}


def site(folder: Path, hosts: Mapping[str, Mapping[str, Any]], *options: str) -> Played:
    """Run site.yml with an inventory of these hosts; nobody answers at their addresses."""
    path = folder / "hosts.yml"
    path.write_text(yaml.safe_dump({"standbys": {"hosts": hosts}}), encoding="utf-8")
    return played("site.yml", path, *options)


def test_wrong_inventory_lists_every_error_and_reaches_no_host(tmp_path: Path) -> None:
    hosts = {
        "north": host("192.0.2.1", "north", section={"AeTitle": "BACK\\SLASH", "Primry": {}}),
        "south": host("192.0.2.1", "south", section={"Vaults": [VAULT]}),
        "east": host("192.0.2.3", "west", appliance_secrets={"s3-writer.secret": "{{ vault_writer }}"}),
        "west": host("192.0.2.4", "west", appliance_confg={}, host_ssh_networks=["192.0.2.1/24"]),
    }
    refused = site(tmp_path, hosts)
    told = " ".join(refused.said.split())
    assert refused.code == 2
    for problem in (
        "north: appliance_config: Understudy.AeTitle:",
        "north: appliance_config: Understudy.Primry: unknown key; is Primary meant?",
        "south: appliance_secrets: the secret s3-writer.secret is missing",
        "east: appliance_secrets.s3-writer.secret: it cannot be evaluated",
        "west: appliance_confg: the role appliance knows no such variable",
        "west: host_ssh_networks: 192.0.2.1/24 has host bits set",
        "north, south: they have one address, 192.0.2.1",
        "east, west: they have one site name, appliance_config.Site",
    ):
        assert problem in told, problem
    assert "Look at the system" not in refused.said
    assert sum(refused.changed.values()) == 0


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"appliance_image": "understudy:latest"}, "names no digest"),
        ({"appliance_image": ""}, "name the image by its digest"),
        ({"appliance_image_file": "nowhere.tar"}, "is no archive of one image"),
        ({"appliance_dicom_port": "many"}, "unable to convert to int"),
        ({"appliance_users": [{"name": "anna", "role": "king"}]}, "must be one of: admin, operator, reader"),
        (
            {"section": {"DicomTls": {"ClientCa": "devices.pem"}}},
            "devices.pem is missing, and ClientCa needs",
        ),
        ({"section": {"Primary": {**PACS, "Tls": TLS}}}, "the secret our.key is missing, and Key needs it"),
        ({"section": {"Destinations": [WEB]}}, "the secret web.secret is missing, and CredentialsFile needs"),
        ({"appliance_tls_certificate": "PEM"}, "appliance_tls_key: it is missing"),
        ({"appliance_secrets": {"more.json": "x"}}, "would be read as a section"),
        ({"takeover_method": "keepalived", "takeover_address": "192.0.2.10"}, "with its prefix length"),
        ({"takeover_address": "nowhere"}, "takeover_address:"),
        (
            {"takeover_address": "192.0.2.10/24", "section": {"Primary": PACS}},
            "192.0.2.10 is also Primary.Host",
        ),
        ({"takeover_address": "192.0.2.1/24"}, "they have one address, 192.0.2.1"),
        ({"engine_network": "198.18.0.1/16"}, "198.18.0.1/16 has host bits set"),
        ({"engine_network": "198.18.0.0/24"}, "198.18.0.0/24 is too small"),
        ({"host_ssh_networks": ["198.18.7.0/24"]}, "198.18.7.0/24 of host_ssh_networks overlap"),
        ({"section": {"Primary": {**PACS, "Host": "198.18.0.9"}}}, "198.18.0.9 of appliance_config overlap"),
        (
            {"engine_network": "172.17.0.0/16", "section": {"Modalities": [CT]}},
            "172.17.0.0/16 and 172.17.3.4 of appliance_config overlap",
        ),
        ({"host_disks": [{"device": "/dev/sdb"}]}, "missing required arguments: path"),
        (
            {"host_disks": [{"device": "/dev/sdb", "path": path} for path in ("/srv/a", "/srv/b")]},
            "host_disks: /dev/sdb is listed 2 times",
        ),
        # YAML reads 23:30 as a number.
        ({"host_update_time": 1410}, "host_update_time: 1410 is no time of day in quotes"),
        ({"appliance_log_server": "logs.example.org", "appliance_log_ca": "PEM"}, "names no port"),
        ({"appliance_more_dicom_ports": [104, 4242]}, "appliance_dicom_port has port 4242, too"),
        ({"appliance_https_port": 22}, "host_ssh_port has port 22, too"),
        ({"appliance_users": [{"name": "Anna B", "role": "reader"}]}, "'Anna B' is no user name"),
        (
            {"appliance_users": [{"name": "anna", "role": "reader"}], "appliance_users_removed": ["anna"]},
            "anna is in appliance_users, too",
        ),
        (
            {"section": {"DicomTls": {"ClientCa": "devices.pem"}}, "appliance_files": {"devices.pem": "PEM"}},
            "devices.pem is no certificate in PEM, and ClientCa needs it",
        ),
        ({"appliance_tls_certificate": "PEM", "appliance_tls_key": "PEM"}, "it is no certificate in PEM"),
        (
            {f"appliance_tls_{name}": "PEM" for name in ("certificate", "key", "ca_certificate", "ca_key")},
            "name one of the two",
        ),
    ],
)
def test_wrong_variable_is_told(variables: Mapping[str, Any], problem: str) -> None:
    hosts = {"north": host("192.0.2.1", "north"), "south": host("192.0.2.2", "south", **variables)}
    assert any(problem in told for told in problems(hosts)), problems(hosts)


def test_given_certificate_has_to_hold_and_to_have_its_own_key(tmp_path: Path) -> None:
    clinic = Authority(tmp_path, "clinic")
    good, other = clinic.issue("standby", address="192.0.2.1"), clinic.issue("other", address="192.0.2.2")
    expired = clinic.issue("old", address="192.0.2.1", days=-1)

    def told(certificate: Path, key: Path) -> list[str]:
        given = {"appliance_tls_certificate": certificate.read_text(), "appliance_tls_key": key.read_text()}
        return problems({"north": host("192.0.2.1", "north", **given)})

    assert told(good.certificate, good.key) == []
    assert [
        "does not belong to the first certificate" in problem for problem in told(good.certificate, other.key)
    ] == [True]
    assert ["it ended on" in problem for problem in told(expired.certificate, expired.key)] == [True]
    assert ["no private key in PEM" in problem for problem in told(good.certificate, good.certificate)] == [
        True
    ]


def test_sound_inventory_has_no_problem() -> None:
    everybody = {"host_https_networks": ["0.0.0.0/0", "::/0"]}
    hosts = {"north": host("192.0.2.1", "north"), "south": host("192.0.2.2", "south", **everybody)}
    assert problems(hosts) == []


def manual() -> str:
    """Return the inventory that docs/deploy.md has its reader write."""
    (block,) = re.findall(
        r"^```yaml\n(.*?)^```$", MANUAL.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return str(block)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(manual(), id="manual"),
        pytest.param(
            manual().replace("# host_disks", "host_disks").replace("#   - {", "  - {"), id="manual-disk"
        ),
        pytest.param((PLAYS / "inventories" / "lab" / "hosts.yml").read_text(encoding="utf-8"), id="lab"),
    ],
)
def test_inventory_that_we_give_has_no_problem(text: str) -> None:
    hosts = yaml.safe_load(text)["standbys"]["hosts"]
    for variables in hosts.values():
        variables.update(appliance_image_file="", appliance_image=IMAGE)
    assert problems(hosts) == []


def problems(hosts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Ask the filter itself, without the second that a play needs."""
    told: list[str] = filters()["understudy_problems"](list(hosts), hosts, str(PLAYS))
    return told


def filters() -> Mapping[str, Any]:
    spec = importlib.util.spec_from_file_location(
        "understudy_filters", PLAYS / "filter_plugins" / "understudy.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: Mapping[str, Any] = module.FilterModule().filters()
    return found


def test_example_inventory_is_in_order(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("example", encoding="ascii")
    inventory = PLAYS / "inventories" / "example"
    told = played("check.yml", inventory, "--vault-password-file", str(password)).succeeded()
    assert "The inventory is in order." in told.said


def test_example_secrets_are_encrypted() -> None:
    vault = (PLAYS / "inventories" / "example" / "group_vars" / "standbys" / "vault.yml").read_text(
        encoding="ascii"
    )
    assert vault.startswith("$ANSIBLE_VAULT;1.1;AES256")


def test_signed_certificate_is_the_authoritys_and_names_what_was_asked(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    assert openssl is not None

    def run(*arguments: str) -> str:
        done = subprocess.run([openssl, *arguments], cwd=tmp_path, capture_output=True, check=True, text=True)
        return done.stdout

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    run("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=clinics", "-days", "10")
    request = run(
        "req", "-new", *key, "-keyout", "key", "-subj", "/CN=x", "-addext", "subjectAltName=DNS:standby"
    )
    authority = [(tmp_path / name).read_text(encoding="ascii") for name in ("ca.pem", "ca.key")]
    (tmp_path / "signed.pem").write_text(
        filters()["understudy_sign"](request, *authority, 30), encoding="ascii"
    )
    assert "signed.pem: OK" in run("verify", "-CAfile", "ca.pem", "-purpose", "sslserver", "signed.pem")
    assert "DNS:standby" in run("x509", "-noout", "-ext", "subjectAltName", "-in", "signed.pem")
