"""What IT does between outages: certificates, people, backup, diagnostics, and an end that loses nothing."""

import base64
import re
import socket
import socketserver
import ssl
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tests import data
from tests.ansible import clients
from tests.ansible.alerts import FAULTS, promtool_tests
from tests.ansible.conftest import DICOM, DICOM_TLS, GATEWAY, HTTPS, Standby
from tests.ansible.target import PLAYS
from tests.certificates import Authority, Identity
from tests.stack import IMAGE, StackError, run, wait_until

RULES = PLAYS / "roles" / "monitoring" / "files" / "understudy.rules.yml"

pytestmark = [pytest.mark.longer, pytest.mark.needs("image", "lab-image", "target-image", "ssh")]


def openssl(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["openssl", *arguments], cwd=folder, capture_output=True, check=True, text=True
    ).stdout


def test_authority_of_the_clinics_signs_and_renews(standby: Standby, tmp_path: Path) -> None:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("one", "two"):
        out = ("-keyout", f"{name}.key", "-out", f"{name}.pem")
        openssl(tmp_path, "req", "-x509", *key, *out, "-subj", f"/CN=clinics {name}", "-days", "30")

    def variables(name: str, **more: object) -> dict[str, object]:
        certificate, private = ((tmp_path / f"{name}.{kind}").read_text() for kind in ("pem", "key"))
        authority = {"appliance_tls_ca_certificate": certificate, "appliance_tls_ca_key": private}
        return {
            **standby.variables,
            **authority,
            "appliance_tls_days": 20,
            "appliance_tls_renew_days": 5,
            **more,
        }

    def presented(name: str) -> str:
        context = ssl.create_default_context(cafile=str(tmp_path / f"{name}.pem"))
        with (
            socket.create_connection((standby.host.address, HTTPS), 10) as plain,
            context.wrap_socket(plain, server_hostname=standby.host.address) as line,
        ):
            certificate = line.getpeercert()
            assert certificate is not None
            return str(certificate["serialNumber"])

    standby.host.play("site.yml", variables("one"), "--tags", "appliance").succeeded()
    first = presented("one")
    again = standby.host.play("site.yml", variables("one"), "--tags", "appliance").succeeded()
    assert again.changed == {"standby": 0}, again.changed_tasks
    standby.host.play(
        "site.yml", variables("one", appliance_tls_renew_days=25), "--tags", "appliance"
    ).succeeded()
    assert presented("one") != first
    standby.host.play("site.yml", variables("two"), "--tags", "appliance").succeeded()
    presented("two")
    said = standby.host.execute("understudy-host", "metrics")
    metrics = standby.host.execute("cat", said.strip())
    (end,) = re.findall(r"^understudy_certificate_expiry_timestamp_seconds (\d+)$", metrics, re.MULTILINE)
    now = int(standby.host.execute("date", "+%s"))
    assert 19 * 86_400 < int(end) - now < 21 * 86_400


def test_given_certificate_is_shown_and_a_wrong_one_changes_nothing(standby: Standby, tmp_path: Path) -> None:
    clinic, address = Authority(tmp_path, "clinic"), standby.host.address
    ours, other = clinic.issue("standby", address=address), clinic.issue("other", address=address)

    def given(key: Path) -> dict[str, object]:
        chain = ours.certificate.read_text() + clinic.certificate.read_text()
        return {
            **standby.variables,
            "appliance_tls_certificate": chain,
            "appliance_tls_key": key.read_text(),
        }

    def presented() -> str:
        return ssl.get_server_certificate((address, HTTPS), timeout=10)

    standby.host.play("site.yml", given(ours.key), "--tags", "appliance").succeeded()
    again = standby.host.play("site.yml", given(ours.key), "--tags", "appliance").succeeded()
    assert again.changed == {"standby": 0}, again.changed_tasks
    assert presented() == ours.certificate.read_text()
    refused = standby.host.play("site.yml", given(other.key), "--tags", "appliance")
    assert refused.code == 2
    assert "does not belong to the first certificate" in " ".join(refused.said.split())
    # Neither does a handler say that the edge was restarted where it does not start.
    certificate = "/srv/understudy/keys/data/tls/https.pem"
    standby.host.execute("sh", "-c", f"cp -a {certificate} {certificate}.good; echo nothing > {certificate}")
    said = standby.host.execute("sh", "-c", "understudy-host restart edge 2>&1; echo code $?", timeout=300)
    assert "edge does not start again" in said
    assert said.endswith("code 1\n")
    standby.host.execute("mv", f"{certificate}.good", certificate)
    assert standby.host.execute("understudy-host", "restart", "edge") == "edge is healthy\n"
    assert presented() == ours.certificate.read_text()


def test_dicom_over_tls_is_let_in_where_it_is_configured_and_there_alone(
    standby: Standby, tmp_path: Path
) -> None:
    host, clinic = standby.host.address, Authority(tmp_path, "clinic")
    section = {**standby.variables["appliance_config"], "DicomTls": {"ClientCa": "devices.pem"}}
    files = {"devices.pem": clinic.certificate.read_text(encoding="ascii")}
    variables = {**standby.variables, "appliance_config": section, "appliance_files": files}
    standby.host.play("site.yml", variables, "--tags", "host,appliance").succeeded()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ssl.get_server_certificate((host, HTTPS), timeout=10))
    # An authority of the clinics may have signed it.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    without = clients.echo(host, DICOM_TLS, calling="CT1", over=context)
    device = clinic.issue("ct1", address=GATEWAY)
    context.load_cert_chain(device.certificate, device.key)
    assert (without, clients.echo(host, DICOM_TLS, calling="CT1", over=context)) == (None, 0)
    standby.host.play("site.yml", standby.variables, "--tags", "host,appliance").succeeded()
    assert not clients.is_open(host, DICOM_TLS)
    assert clients.echo(host, DICOM, calling="CT1") == 0


@contextmanager
def fleet() -> Iterator[tuple[str, list[tuple[str | None, str | None]]]]:
    """A place that Prometheus writes to; yield its address, and who wrote in which encoding."""
    wrote: list[tuple[str | None, str | None]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            wrote.append((self.headers["Authorization"], self.headers["Content-Encoding"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer((GATEWAY, 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{GATEWAY}:{server.server_port}/write", wrote
        server.shutdown()


def test_every_alert_fires_for_its_fault_and_for_no_other(standby: Standby) -> None:
    (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    assert [rule["alert"] for rule in group["rules"]] == list(FAULTS)
    # Where nothing is sent there is no Prometheus, and so no promtool.
    standby.host.execute("apt-get", "install", "--yes", "--no-install-recommends", "prometheus", timeout=600)
    for name, content in (
        ("rules.yml", RULES.read_text(encoding="utf-8")),
        ("tests.yml", yaml.safe_dump(promtool_tests("/tmp/rules.yml"))),
    ):
        standby.host.execute("tee", f"/tmp/{name}", stdin=content.encode())
    assert "SUCCESS" in standby.host.execute("promtool", "test", "rules", "/tmp/tests.yml")


def test_measurements_reach_the_place_that_sees_all_clinics(standby: Standby) -> None:
    with fleet() as (address, wrote):
        there = {"monitoring_remote_write": address, "monitoring_remote_user": "clinics"}
        variables = {**standby.variables, **there, "monitoring_remote_password": "word"}
        standby.host.play("site.yml", variables, "--tags", "monitoring").succeeded()
        again = standby.host.play("site.yml", variables, "--tags", "monitoring").succeeded()
        assert again.changed == {"standby": 0}, again.changed_tasks
        query = ("promtool", "query", "instant", "http://127.0.0.1:9090")
        wait_until(
            lambda: standby.host.execute(
                *query, 'understudy_mode{mode="standby"} and on (instance) up{job="understudy"} == 1'
            ),
            lambda said: "=> 1 @" in said,
            deadline=90,
            what="the mode in Prometheus",
        )
        assert "understudy_service_healthy" in standby.host.execute(*query, "understudy_service_healthy == 1")
        assert "understudy.prom" in standby.host.execute(*query, "node_textfile_mtime_seconds")
        # All is well: of what is missing, nothing is missed.
        (group,) = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
        expressions = {rule["alert"]: rule["expr"] for rule in group["rules"]}
        for alert in ("UnderstudyAway", "UnderstudySilent", "UnderstudyNotMeasured"):
            assert standby.host.execute(*query, expressions[alert]).strip() == "", alert
        login = "Basic " + base64.b64encode(b"clinics:word").decode()
        wait_until(lambda: wrote, lambda seen: (login, "snappy") in seen, deadline=90, what="a remote write")


@contextmanager
def log_server(identity: Identity) -> Iterator[tuple[int, list[bytes]]]:
    """A syslog server over TLS on every address of this machine; yield its port, and the lines that came."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.certificate, identity.key)
    lines: list[bytes] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            # The handshake apart: one that is refused leaves a socket that has to be closed, too.
            wrapped = context.wrap_socket(self.request, server_side=True, do_handshake_on_connect=False)
            with wrapped as line, suppress(OSError):
                line.do_handshake()
                while part := line.recv(65536):
                    lines.append(part)

    with socketserver.ThreadingTCPServer((GATEWAY, 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], lines
        server.shutdown()


def test_logs_reach_the_server_that_the_authority_knows_and_no_other(
    standby: Standby, tmp_path: Path
) -> None:
    clinic, stranger = Authority(tmp_path, "clinic"), Authority(tmp_path, "stranger")
    standby.host.execute("sh", "-c", f"echo {GATEWAY} logs.test >> /etc/hosts")

    def sent(port: int) -> dict[str, object]:
        named = {
            "appliance_log_server": f"logs.test:{port}",
            "appliance_log_ca": clinic.certificate.read_text(),
        }
        return {**standby.variables, **named}

    def accepted(lines: list[bytes]) -> bool:
        assert clients.echo(standby.host.address, DICOM, calling="CT1") == 0
        return b"outcome=accepted" in b"".join(lines)

    with (
        log_server(stranger.issue("logs.test", address=GATEWAY)) as (wrong, nothing),
        log_server(clinic.issue("logs.test", address=GATEWAY)) as (right, lines),
    ):
        for port in (wrong, right):
            standby.host.play("site.yml", sent(port), "--tags", "appliance").succeeded()
            again = standby.host.play("site.yml", sent(port), "--tags", "appliance").succeeded()
            assert again.changed == {"standby": 0}, again.changed_tasks
        wait_until(
            lambda: accepted(lines), bool, deadline=60, what="an association in the sent logs", pause=2
        )
        assert nothing == []
        standby.host.play("site.yml", standby.variables, "--tags", "appliance").succeeded()
        assert "understudy" not in standby.host.execute("sh", "-c", "ls /etc/rsyslog.d")


def test_people_come_and_go_and_what_is_no_longer_named_ends(standby: Standby) -> None:
    come = {"appliance_users": [{"name": name, "role": "operator"} for name in ("anna", "bert")]}
    added = standby.host.play("site.yml", {**standby.variables, **come}, "--tags", "appliance").succeeded()
    for name in ("anna", "bert"):
        kept = f"/root/understudy/password-{name}.txt"
        password = standby.host.execute("cat", kept).strip()
        assert (len(password) > 20, password in added.said, kept in added.said) == (True, False, True)
        assert standby.host.execute("stat", "--format", "%U %a", kept).strip() == "root 600"
        assert re.search(rf"^{name} +operator$", standby.understudy("user", "list"), re.MULTILINE)
    # As after a play that broke off: the firewall's file is in its place, and its rules are not.
    standby.host.execute("nft", "delete", "table", "inet", "understudy")
    gone: dict[str, object] = {
        "appliance_users": [{"name": "bert", "role": "reader"}],
        "appliance_users_removed": ["anna"],
    }
    gone["appliance_show_secrets"] = True
    tags = ("--tags", "host,appliance,monitoring")
    changed = standby.host.play("site.yml", {**standby.variables, **gone}, *tags).succeeded()
    assert "anna" not in standby.understudy("user", "list")
    assert "bert: " in changed.said
    assert re.search(r"^bert +reader$", standby.understudy("user", "list"), re.MULTILINE)
    assert "chain outside" in standby.host.execute("nft", "list", "table", "inet", "understudy")
    # Not `inactive`: how Prometheus ends is its own affair.
    state = standby.host.execute("systemctl", "show", "--property", "ActiveState", "prometheus.service")
    assert state != "ActiveState=active\n"
    assert "password" not in standby.host.execute("sh", "-c", "ls /etc/prometheus || true")


def test_host_restarts_after_an_update_that_needs_it_and_serves_again(standby: Standby) -> None:
    host = standby.host
    host.play("site.yml", {**standby.variables, "host_update_reboot": True}, "--tags", "host").succeeded()
    host.execute("touch", "/run/reboot-required")
    # The connection ends with the host.
    with suppress(StackError):
        host.execute("systemctl", "start", "apt-daily-upgrade.service", timeout=300)
    wait_until(
        lambda: run(["docker", "inspect", "--format", "{{.State.Running}}", host.name]).strip(),
        lambda running: running == b"false",
        deadline=120,
        what="the end of the host",
    )
    run(["docker", "start", host.name])
    wait_until(
        lambda: clients.echo(host.address, DICOM, calling="CT1"),
        lambda status: status == 0,
        deadline=180,
        what="C-ECHO after the restart",
    )


def test_backup_of_configuration_and_keys_opens_with_the_identity_alone(
    standby: Standby, tmp_path: Path
) -> None:
    path = standby.host.execute("understudy-host", "back-up").strip()
    run(["docker", "cp", f"{standby.host.name}:{path}", str(tmp_path / "backup")])
    assert b"wrong" not in (tmp_path / "backup").read_bytes()
    (identity,) = re.findall(r"AGE-SECRET-KEY-1\w+", standby.handed_over)
    (tmp_path / "identity").write_text(identity + "\n", encoding="ascii")
    (tmp_path / "identity").chmod(0o644)
    age = [
        "docker",
        "run",
        "--rm",
        "--interactive",
        # The folder of a test is for its owner alone.
        "--user",
        "0",
        "--volume",
        f"{tmp_path}:/safe:ro",
        "--entrypoint",
        "age",
    ]
    opened = run(
        [*age, IMAGE, "--decrypt", "--identity", "/safe/identity"], stdin=(tmp_path / "backup").read_bytes()
    )
    (tmp_path / "opened.tar").write_bytes(opened)
    with tarfile.open(tmp_path / "opened.tar") as archive:
        names = archive.getnames()
    assert "etc/understudy/config/understudy.json" in names
    assert "srv/understudy/keys/data/users.cfg" in names


def test_diagnostics_hold_no_secret_and_no_patient(
    standby: Standby, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = data.Patient(patient_id="ID-4711-SECRET", name="Zwetschge^Adelheid", birth_date="19230405")
    series = data.ct_series(tmp_path, seed="diagnostics", instances=2, rows=16, columns=16, patient=patient)
    assert clients.store(standby.host.address, DICOM, series.paths, calling="CT1") == [0, 0]
    secret = {
        "appliance_secrets": {"s3-writer.secret": {"access_key": "A", "secret_key": "very-secret-word"}}
    }
    standby.host.play("site.yml", {**standby.variables, **secret}, "--tags", "appliance").succeeded()
    # The play's own folder is another than the one it is run in.
    monkeypatch.setenv("PWD", str(tmp_path))
    done = standby.host.play("diagnostics.yml", standby.variables).succeeded()
    archive_here = tmp_path / "diagnostics" / "standby.tar.gz"
    assert str(archive_here) in done.said
    assert archive_here.parent.stat().st_mode & 0o777 == 0o700
    with tarfile.open(archive_here) as archive:
        files = {
            member.name: file.read()
            for member in archive
            if (file := archive.extractfile(member)) is not None
        }
    assert b'"mode"' in files["diagnostics/status"]
    assert b"ward-seven" in files["diagnostics/understudy.json"]
    assert len(files["diagnostics/orthanc.log"]) > 100
    everything = b"\n".join(files.values())
    keys = standby.host.execute("sh", "-c", "cat /srv/understudy/keys/data/service/*").split()
    secrets = ["very-secret-word", standby.login[1], "AGE-SECRET-KEY-1", "PRIVATE KEY", "$6$", *keys]
    for word in (*secrets, patient.patient_id, "Zwetschge", "Adelheid", patient.birth_date):
        assert word.encode() not in everything, word


def test_vault_that_is_missing_at_a_start_keeps_nobody_out_and_is_taken_up_later(
    standby: Standby, tmp_path: Path
) -> None:
    host, vault = standby.host, "/srv/understudy/vault"
    host.execute("systemctl", "stop", "understudy.service", timeout=300)
    # As where its disk is not mounted.
    host.execute("mv", f"{vault}/data", f"{vault}/away")
    host.execute("systemctl", "start", "understudy.service", timeout=600)
    series = data.ct_series(tmp_path, seed="vault away", instances=1, rows=16, columns=16)
    assert clients.store(host.address, DICOM, series.paths, calling="CT1") == [0]

    def noted(state: str) -> bool:
        asked = f"understudy obligations --holder local --state {state} --study {series.study_instance_uid}"
        return series.sop_instance_uids[0] in host.execute("sh", "-c", f"{asked} --json || true")

    wait_until(lambda: noted("owed"), bool, deadline=60, what="an instance that is owed to the vault")
    assert host.execute("ls", vault, "/opt/understudy/without-vault").split() == [
        "/opt/understudy/without-vault:",
        f"{vault}:",
        "away",
    ]
    host.execute("mv", f"{vault}/away", f"{vault}/data")
    wait_until(lambda: noted("proven"), bool, deadline=180, what="the instance in the vault", pause=2)


def test_decommission_is_refused_while_anything_is_unproven_then_takes_all_away(
    standby: Standby, tmp_path: Path
) -> None:
    """The last test of this host."""
    host = standby.host
    site = ("--extra-vars", f"decommission_site=ward-seven decommission_to={tmp_path}")
    erase = ("--extra-vars", '{"decommission_erase": true}')
    unnamed = host.play("decommission.yml", standby.variables)
    assert unnamed.code == 2
    assert "Name the site to decommission" in unnamed.said
    # The vault cannot be written: what arrives now is owed to it.
    host.execute("chmod", "000", "/srv/understudy/vault/data")
    series = data.ct_series(tmp_path, seed="decommission", instances=1, rows=16, columns=16)
    assert clients.store(host.address, DICOM, series.paths, calling="CT1") == [0]
    owed = "not everything is proven at local"
    wait_until(
        lambda: host.execute("sh", "-c", "understudy obligations --state owed --json"),
        lambda said: series.sop_instance_uids[0] in said,
        deadline=30,
        what="an instance that is owed to the vault",
    )
    refused = host.play("decommission.yml", standby.variables, *site)
    assert refused.code == 2
    assert owed in " ".join(refused.said.split())
    assert clients.echo(host.address, DICOM, calling="CT1") == 0
    host.execute("chmod", "750", "/srv/understudy/vault/data")
    # What somebody mounted there by hand is not ours to empty.
    mounted = "/srv/understudy/elsewhere"
    host.execute("sh", "-c", f"mkdir {mounted} && mount -t tmpfs none {mounted} && touch {mounted}/file")
    foreign = host.play("decommission.yml", standby.variables, *site, *erase)
    assert foreign.code == 2
    assert f"{mounted} is mounted and not in host_disks" in foreign.said
    assert clients.echo(host.address, DICOM, calling="CT1") == 0
    host.execute("umount", mounted)
    done = wait_until(
        lambda: host.play("decommission.yml", standby.variables, *site),
        lambda played: played.code == 0,
        deadline=180,
        what="decommissioned",
        pause=5,
    )
    assert "the data stays in /srv/understudy" in done.said
    assert list(tmp_path.glob("standby-configuration-*.tar.age"))
    assert not clients.is_open(host.address, DICOM)
    assert host.execute("docker", "ps", "--all", "--quiet") == ""
    assert "understudy" not in host.execute("systemctl", "--no-pager", "list-timers", "--all")
    exporter = host.execute(
        "systemctl", "show", "--property", "ActiveState", "prometheus-node-exporter.service"
    )
    assert exporter != "ActiveState=active\n"
    # Once more, and this time for good.
    erased = host.play("decommission.yml", standby.variables, *site, *erase).succeeded()
    assert "images, vault, ledger, configuration and keys are erased" in " ".join(erased.said.split())
    folders = "ls -d /srv/understudy /etc/understudy /opt/understudy 2>/dev/null || true"
    assert host.execute("sh", "-c", folders) == ""
    host.play("decommission.yml", standby.variables, *site, *erase).succeeded()
