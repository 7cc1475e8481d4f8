"""The play makes a standby of a bare Debian host; judged from outside, and a second run changes nothing."""

import hashlib
import re
import ssl
from pathlib import Path

import httpx
import pytest

from tests import data
from tests.ansible import clients, target
from tests.ansible.conftest import DICOM, HTTPS, Standby
from tests.certificates import Authority
from tests.stack import IMAGE, run, wait_until

pytestmark = [pytest.mark.longer, pytest.mark.needs("image", "lab-image", "target-image", "ssh")]

CLOSED = (21, 23, 25, 53, 80, 104, 111, 443, 2375, 2376, 2762, 3389, 5000, 8000, 8042, 8080, 9090, 9100)
"""What other programs listen on, and what ours do inside."""


def test_second_run_changes_nothing(standby: Standby) -> None:
    again = standby.host.play("site.yml", standby.variables).succeeded()
    assert again.changed == {"standby": 0}, again.changed_tasks


def test_check_mode_changes_nothing_and_shows_a_change_that_waits(standby: Standby) -> None:
    changed = {**standby.variables, "appliance_orthanc_memory": "3g"}
    before = standby.host.execute("cat", "/opt/understudy/.env")
    checked = standby.host.play("site.yml", changed, "--check", "--diff").succeeded()
    assert set(checked.changed_tasks) == {
        "appliance : Set what differs on this host",
        "appliance : Restart the appliance",
    }
    assert "+UNDERSTUDY_ORTHANC_MEMORY=3g" in checked.said
    assert standby.host.execute("cat", "/opt/understudy/.env") == before


def test_check_mode_passes_where_something_would_be_turned_on(standby: Standby, tmp_path: Path) -> None:
    turned_on = {
        "takeover_method": "keepalived",
        "takeover_address": "172.31.251.99/24",
        "monitoring_remote_write": "https://fleet.test/write",
        "appliance_log_server": "logs.test:6514",
        "appliance_log_ca": Authority(tmp_path, "clinic").certificate.read_text(),
    }
    checked = standby.host.play("site.yml", {**standby.variables, **turned_on}, "--check").succeeded()
    assert {
        "takeover : Make keepalived hold the address when it is told to",
        "monitoring : Configure Prometheus",
        "appliance : Send every log, and keep them while the server is away",
    } <= set(checked.changed_tasks), checked.changed_tasks


def test_secrets_of_the_first_start_are_for_root_alone_and_in_no_log_of_the_play(standby: Standby) -> None:
    assert len(re.findall("AGE-SECRET-KEY-1", standby.handed_over)) == 1
    assert "# vault writer: ed25519:" in standby.handed_over
    assert "AGE-SECRET-KEY-1" not in standby.first.said
    assert standby.login[1] not in standby.first.said
    assert f"sudo cat {target.HANDED_OVER}" in " ".join(standby.first.said.split())
    modes = standby.host.execute("stat", "--format", "%U %a", "/root/understudy", target.HANDED_OVER)
    assert modes.split("\n")[:2] == ["root 700", "root 600"]
    said = standby.host.execute("sh", "-c", "understudy first-start 2>&1 || true")
    assert "shown before" in said


def test_dicom_serves_who_is_known(standby: Standby, tmp_path: Path) -> None:
    series = data.ct_series(tmp_path, seed="ansible", instances=3, rows=64, columns=64)
    host = standby.host.address
    assert clients.echo(host, DICOM, calling="CT1", seconds=20) == 0
    assert clients.store(host, DICOM, series.paths, calling="CT1") == [0, 0, 0]
    assert clients.studies(host, DICOM, calling="READER") == [series.study_instance_uid]
    assert clients.echo(host, DICOM, calling="STRANGER") is None


def test_https_lets_in_who_signs_in(standby: Standby, https: httpx.Client) -> None:
    status = https.get("/understudy/status")
    assert status.status_code == 200
    assert status.json()["mode"] == "standby"
    assert https.get("/understudy/status", auth=("admin", "wrong")).status_code == 401
    assert https.get("/ohif/").status_code == 200


def test_certificate_is_the_one_that_was_shown(standby: Standby) -> None:
    pem = ssl.get_server_certificate((standby.host.address, HTTPS), timeout=10)
    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).digest().hex(":").upper()
    assert fingerprint in standby.handed_over


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_tls_refuses_an_old_version(standby: Standby, version: ssl.TLSVersion) -> None:
    assert clients.tls(standby.host.address, HTTPS, version) is None


def test_tls_refuses_a_weak_cipher_and_takes_a_strong_one(standby: Standby) -> None:
    host, version = standby.host.address, ssl.TLSVersion.TLSv1_2
    assert clients.tls(host, HTTPS, version, "AES128-SHA:AES256-SHA:@SECLEVEL=0") is None
    cipher = clients.tls(host, HTTPS, version)
    assert cipher is not None
    assert re.fullmatch(r"ECDHE-ECDSA-(AES(128|256)-GCM-SHA(256|384)|CHACHA20-POLY1305)", cipher)


def test_every_other_port_is_closed(standby: Standby) -> None:
    ports = sorted({*CLOSED, *target.listening(standby.host)} - {22, DICOM, HTTPS})
    opened = [port for port in ports if clients.is_open(standby.host.address, port)]
    assert opened == []
    assert clients.is_open(standby.host.address, HTTPS, seconds=20)


def test_networks_that_are_not_named_reach_nothing(standby: Standby) -> None:
    """A neighbour on the same network, whose address nobody named."""
    script = (
        "import socket, sys\n"
        "for port in (22, 4242, 8443):\n"
        "    try:\n"
        "        socket.create_connection((sys.argv[1], port), 1).close()\n"
        "        print(port)\n"
        "    except TimeoutError:\n"
        "        pass\n"
    )
    neighbour = [
        "docker",
        "run",
        "--rm",
        "--interactive",
        "--network",
        standby.host.network,
        "--entrypoint",
        "python3",
    ]
    assert run([*neighbour, IMAGE, "-", standby.host.address], stdin=script.encode()) == b""


def test_container_reaches_no_port_of_the_host(standby: Standby) -> None:
    """Whoever gets into a service finds the host's own door shut."""
    script = (
        "import os, socket\n"
        "for line in open('/proc/net/route').read().splitlines()[1:]:\n"
        "    gateway = socket.inet_ntoa(bytes.fromhex(line.split()[2])[::-1])\n"
        "    for host in {gateway, os.environ['HOST']} - {'0.0.0.0'}:\n"
        "        try:\n"
        "            socket.create_connection((host, 22), 1).close()\n"
        "            print(host)\n"
        "        except TimeoutError:\n"
        "            print('shut')\n"
    )
    inside = ["docker", "compose", "--project-directory", "/opt/understudy", "exec", "--no-TTY"]
    inside += ["--env", f"HOST={standby.host.address}", "agent", "python3", "-"]
    told = standby.host.execute(*inside, stdin=script.encode()).split()
    assert set(told) == {"shut"}, told


def test_host_is_hardened(standby: Standby) -> None:
    settings = standby.host.execute("sshd", "-T")
    assert "passwordauthentication no" in settings
    assert "permitrootlogin without-password" in settings
    modes = standby.host.execute(
        "stat",
        "--format",
        "%a %U %n",
        "/etc/understudy/config",
        "/etc/understudy/secrets",
        "/opt/understudy/.env",
    )
    assert modes.splitlines() == [
        "750 root /etc/understudy/config",
        "750 root /etc/understudy/secrets",
        "640 root /opt/understudy/.env",
    ]
    assert "ActiveState=active" in standby.host.execute("systemctl", "show", "understudy.service")
    # What a timer starts every minute may have failed once, while the machine was busy.
    wait_until(
        lambda: standby.host.execute("systemctl", "list-units", "--failed", "--no-legend"),
        lambda failed: not failed.strip(),
        deadline=150,
        what="no unit that failed",
    )
