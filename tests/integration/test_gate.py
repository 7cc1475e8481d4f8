"""The association gate of a closed appliance: who is refused and how, what is reported, who is approved."""

import contextlib
import json
import os
import shutil
import socket
import ssl
import textwrap
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pynetdicom import AE
from pynetdicom.association import Association

from tests.data import ct_series
from tests.integration.edge_peers import (
    VERIFICATION,
    associated,
    connections,
    echo,
    fresh_instance,
    store,
)
from tests.requests import REFUSED, request
from tests.stack import REPOSITORY, TEST_PROJECT, RefusedError, Stack, least, wait_until

pytestmark = pytest.mark.needs("image")

RETRY_LATER = bytes.fromhex("03000000000400020302")
CALLING_NOT_RECOGNISED = bytes.fromhex("03000000000400010103")
CALLED_NOT_RECOGNISED = bytes.fromhex("03000000000400010107")
NO_WAIT_SECONDS = 1.0
DEVICE_LIMIT = 6
STRANGER_LIMIT = 2
PLANTED = ("PLANTED^PATIENT", "PLANTED-ID-1", "19010203", "PLANTED DESCRIPTION")

PRIVATE = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]
"""Docker's networks, from which this machine's connections come."""

CLOSED: dict[str, Any] = {
    "Site": "gate",
    "Vaults": [{"Name": "local", "Directory": "/var/lib/understudy-vault"}],
    "Modalities": [
        {"Name": "ct1", "AeTitle": "CT1", "Host": "ct1.example.org", "Addresses": PRIVATE},
        {"Name": "ct2", "AeTitle": "CT2", "Host": "ct2.example.org", "Addresses": PRIVATE},
        {"Name": "elsewhere", "AeTitle": "MR1", "Host": "198.51.100.7"},
        {"Name": "reader", "AeTitle": "WS1", "Host": "198.51.100.8", "Reads": True},
        # The agent's container, known by its name alone.
        {"Name": "named", "AeTitle": "NAMED", "Host": "agent", "Reads": True},
        {
            "Name": "bound",
            "AeTitle": "BOUND",
            "Host": "bound.example.org",
            "Addresses": PRIVATE,
            "ClientCertificate": "bound",
        },
    ],
    "DicomTls": {"ClientCa": "clinic-ca.pem"},
    "Edge": {
        "Associations": 10,
        "AssociationsOfDevice": DEVICE_LIMIT,
        "AssociationsOfStrangers": STRANGER_LIMIT,
    },
    "Policy": {"AcceptStrangers": False},
}


class Clinic:
    """A configuration folder, and the clinic's certificate authority."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.secrets = folder.parent / "certificates"
        shutil.copytree(REPOSITORY / "orthanc-config", folder)
        self.secrets.mkdir()
        self._authority = self._pair("clinic CA", None, days=30)
        self._write(folder / "clinic-ca.pem", self._authority[0])
        folder.chmod(0o755)
        self.configure(CLOSED)

    def configure(self, section: dict[str, Any]) -> None:
        self._write(self.folder / "understudy.json", json.dumps({"Understudy": section}).encode())

    def client(self, name: str, *, days: int = 1, signed: bool = True) -> ssl.SSLContext:
        """Return a context with a new client certificate, signed by the clinic or by itself."""
        certificate, key = self._pair(name, self._authority if signed else None, days=days)
        file = self.secrets / f"{name}.pem"
        self._write(file, certificate + key)
        context = ssl.create_default_context()
        # The appliance's own certificate; what is tested here is what the appliance asks for.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(file)
        return context

    def _write(self, file: Path, content: bytes) -> None:
        file.write_bytes(content)
        file.chmod(0o644)

    def _pair(self, name: str, issuer: tuple[bytes, bytes] | None, *, days: int) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer: Any = key
        signed_by = subject
        if issuer is not None:
            signer = serialization.load_pem_private_key(issuer[1], None)
            signed_by = x509.load_pem_x509_certificate(issuer[0]).subject
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(signed_by)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=60))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .sign(signer, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate.public_bytes(serialization.Encoding.PEM), private


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    return Clinic(tmp_path_factory.mktemp("gate") / "config")


@pytest.fixture(scope="module")
def gate(clinic: Clinic) -> Iterator[Stack]:
    """A closed appliance with DICOM TLS."""
    stack = Stack(f"{TEST_PROJECT}-gate", lab=False, environment={"UNDERSTUDY_CONFIG": str(clinic.folder)})
    stack.down()
    try:
        stack.up()
        yield stack
    except Exception:
        print(stack.logs())
        raise
    finally:
        stack.down()


def answer(address: tuple[str, int], calling: bytes, called: bytes = b"UNDERSTUDY") -> bytes:
    """Return the first bytes that an association request is answered with, nothing if none came."""
    with socket.create_connection(address, 5) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(request(calling, called))
        return connection.recv(10)
    return b""


def tls_address(stack: Stack) -> tuple[str, int]:
    return stack.port("edge", 2762)


def reported(stack: Stack, calling: str, outcome: str, address: str | None = None) -> dict[str, Any]:
    """Wait until a device is among those that were seen, and return what is said of it."""

    def look() -> list[dict[str, Any]]:
        seen = stack.get("/understudy/modalities")
        return [one for one in seen if one["calling_ae_title"] == calling and one["outcome"] == outcome]

    return wait_until(look, bool, deadline=30, what=f"{calling or 'nobody'} reported as {outcome}")[0]


def open_association(stack: Stack, calling: str) -> Association:
    entity = AE(calling)
    entity.add_requested_context(VERIFICATION)
    return associated(entity, stack.dicom)


@contextlib.contextmanager
def held_requests(address: tuple[str, int], pdus: list[bytes]) -> Iterator[list[bytes]]:
    """Send every request over a connection of its own, hold all open, and yield what each was answered."""
    with contextlib.ExitStack() as opened:
        held = [opened.enter_context(socket.create_connection(address, 5)) for _ in pdus]
        for connection, pdu in zip(held, pdus, strict=True):
            connection.sendall(pdu)
        yield [connection.recv(10) for connection in held]
        for connection in held:
            # The gate closes, and does not wait for the caller.
            connection.settimeout(10)
            assert connection.recv(1) == b""


def from_agent(stack: Stack, pdu: bytes) -> bytes:
    """Return what a request from the agent's container is answered with."""
    script = "import socket,sys; s=socket.create_connection(('edge', 4242), 5); "
    script += "s.sendall(bytes.fromhex(sys.argv[1])); print(s.recv(10).hex())"
    said = stack.execute("agent", "/usr/bin/python3", "-c", script, pdu.hex())
    return bytes.fromhex(said.decode().strip())


def restarted(stack: Stack, service: str) -> None:
    stack.restart(service)
    # It listens on other ports of this machine now.
    stack.close()


def test_listed_device_is_let_in_and_shown_with_its_own_address(gate: Stack) -> None:
    assert echo(gate.dicom, "CT1", "UNDERSTUDY") == 0
    seen = reported(gate, "CT1", "accepted")
    networks = gate.inspect("edge")["NetworkSettings"]["Networks"].values()
    assert seen["known"] is True
    assert seen["remote_address"] not in {network["IPAddress"] for network in networks}
    assert seen["remote_address"] in {network["Gateway"] for network in networks}
    assert seen["tls"] is False


def test_wrong_address_is_refused_and_named(gate: Stack) -> None:
    assert answer(gate.dicom, b"MR1") == CALLING_NOT_RECOGNISED
    assert reported(gate, "MR1", "refused_address")["known"] is False


def test_wrong_ae_title_is_refused_and_named(gate: Stack) -> None:
    assert answer(gate.dicom, b"WRONG") == CALLING_NOT_RECOGNISED
    seen = reported(gate, "WRONG", "refused_calling")
    assert (seen["known"], seen["associations"]) == (False, 0)
    assert seen["refused"] >= 1
    assert "WRONG" in gate.execute("agent", "understudy", "modalities").decode()


@pytest.mark.parametrize(
    ("calling", "shown", "outcome"),
    [
        (b'A"\\\n}{', "A???}{", "refused_request"),
        (b"\x1b[2J\xff", "?[2J?", "refused_request"),
        (b"CT1 x|*,", "CT1 x|*,", "refused_calling"),
        (b"ct1", "ct1", "refused_calling"),
        (b" " * 16, "", "refused_request"),
        (b"*", "*", "refused_calling"),
    ],
)
def test_nasty_ae_title_is_refused_and_shown_without_harm(
    gate: Stack, calling: bytes, shown: str, outcome: str
) -> None:
    assert answer(gate.dicom, calling) == CALLING_NOT_RECOGNISED
    assert reported(gate, shown, outcome)["known"] is False
    # The gate still stands.
    assert echo(gate.dicom, "CT1", "UNDERSTUDY") == 0


def test_padding_by_zeros_is_padding(gate: Stack) -> None:
    def associations() -> int:
        seen = gate.get("/understudy/modalities")
        return sum(one["associations"] for one in seen if one["calling_ae_title"] == "CT1")

    before = associations()
    with socket.create_connection(gate.dicom, 5) as connection:
        connection.sendall(request(b"CT1".ljust(16, b"\0"), b"UNDERSTUDY"))
        wait_until(associations, lambda now: now > before, deadline=30, what="CT1 let in")


def test_plain_text_on_the_tls_port_is_refused_and_named(gate: Stack) -> None:
    assert answer(tls_address(gate), b"CT1")[:1] != b"\x02"
    seen = reported(gate, "", "tls_failed")
    assert seen["known"] is False
    assert seen["remote_address"]


def refused_by_tls(stack: Stack, context: ssl.SSLContext) -> None:
    """Fail unless the TLS port refuses this client."""
    with socket.create_connection(tls_address(stack), 5) as plain:
        # With TLS 1.3 the client hears of it after its own handshake is done.
        connection = context.wrap_socket(plain, do_handshake_on_connect=False)
        answered = b""
        with connection, contextlib.suppress(ssl.SSLError, ConnectionError):
            connection.do_handshake()
            connection.sendall(request(b"CT1", b"UNDERSTUDY"))
            answered = connection.recv(10)
        assert answered == b""


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda clinic: clinic.client("expired", days=-1), "expired"),
        (lambda clinic: clinic.client("foreign", signed=False), "certificate"),
    ],
    ids=["expired", "of another authority"],
)
def test_bad_client_certificate_is_refused_and_named(
    gate: Stack, clinic: Clinic, make: Callable[[Clinic], ssl.SSLContext], reason: str
) -> None:
    refused_by_tls(gate, make(clinic))
    assert wait_until(
        lambda: reported(gate, "", "tls_failed")["reason"],
        lambda said: reason in said,
        deadline=30,
        what=f"a report that says {reason}",
    )


def test_no_client_certificate_is_refused(gate: Stack) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    refused_by_tls(gate, context)


def test_good_client_certificate_is_let_in(gate: Stack, clinic: Clinic) -> None:
    context = clinic.client("good")
    entity = AE("CT1")
    entity.add_requested_context(VERIFICATION)
    association = associated(entity, tls_address(gate), tls=(context, "edge"))
    assert association.is_established
    assert association.send_c_echo().Status == 0
    association.release()

    def over_tls() -> bool:
        return any(one["tls"] and one["associations"] for one in gate.get("/understudy/modalities"))

    wait_until(over_tls, bool, deadline=30, what="an association over TLS reported")


def test_tls_before_1_2_is_refused(gate: Stack, clinic: Clinic) -> None:
    context = clinic.client("old")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    refused_by_tls(gate, context)


def test_certificate_of_a_device_is_asked_for_and_another_is_refused(gate: Stack, clinic: Clinic) -> None:
    own, other = clinic.client("bound"), clinic.client("another")
    for context, expected in ((own, b"\2"), (other, CALLING_NOT_RECOGNISED)):
        with (
            socket.create_connection(tls_address(gate), 5) as plain,
            context.wrap_socket(plain) as connection,
        ):
            connection.sendall(request(b"BOUND"))
            assert connection.recv(10).startswith(expected)
    # Without TLS nothing proves that it is this device.
    assert answer(gate.dicom, b"BOUND") == CALLING_NOT_RECOGNISED
    seen = [one for one in gate.get("/understudy/modalities") if one["calling_ae_title"] == "BOUND"]
    wait_until(
        lambda: {
            (one["tls"], one["outcome"])
            for one in gate.get("/understudy/modalities")
            if one["calling_ae_title"] == "BOUND"
        },
        lambda said: said == {(True, "refused_certificate"), (False, "refused_certificate")},
        deadline=30,
        what=f"refused for the certificate, with TLS and without, not {seen}",
    )


def test_revoked_certificate_is_refused_within_two_seconds_and_drops_no_association(
    gate: Stack, clinic: Clinic
) -> None:
    stolen, other = clinic.client("stolen"), clinic.client("other")
    certificate = x509.load_pem_x509_certificate((clinic.secrets / "stolen.pem").read_bytes())
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    address = tls_address(gate)

    def opened(context: ssl.SSLContext) -> Association:
        entity = AE("CT1")
        entity.add_requested_context(VERIFICATION)
        return associated(entity, address, tls=(context, "edge"))

    def let_in(context: ssl.SSLContext) -> bool:
        association = opened(context)
        if association.is_established:
            association.release()
            return True
        return False

    def becomes(expected: bool) -> None:
        """Look at most five times, half a second apart: time in which the machine stands still is no time
        of the edge's."""
        seen: list[bool] = []

        def look() -> bool:
            seen.append(let_in(stolen))
            return seen[-1]

        what = f"let in: {expected}"
        wait_until(look, lambda now: now is expected or len(seen) == 5, deadline=60, what=what, pause=0.5)
        assert seen[-1] is expected, what

    running = [opened(stolen), opened(other)]
    assert all(association.is_established for association in running)
    gate.execute("agent", "understudy", "certificate", "revoke", fingerprint)
    try:
        becomes(False)
        # Before the other is let in: of one device the last outcome is shown.
        assert "revoked" in reported(gate, "CT1", "refused_certificate")["reason"]
        assert let_in(other)
        # Those that run go on, its own as well.
        assert [association.send_c_echo().Status for association in running] == [0, 0]
    finally:
        gate.execute("agent", "understudy", "certificate", "allow", fingerprint)
    becomes(True)
    for association in running:
        association.release()


@pytest.mark.parametrize("calling", [b"WS1", b"ws1", b" WS1", b"WS1\0x", b"Ws1"])
def test_title_of_a_listed_reader_is_refused_from_elsewhere_in_every_spelling(
    gate: Stack, clinic: Clinic, calling: bytes
) -> None:
    assert answer(gate.dicom, calling) == CALLING_NOT_RECOGNISED
    reported(gate, calling.partition(b"\0")[0].strip().decode(), "refused_address")


def test_device_that_is_named_by_its_host_is_let_in_from_there_alone(gate: Stack) -> None:
    named = request(b"NAMED", b"UNDERSTUDY")
    wait_until(
        lambda: from_agent(gate, named)[:1], lambda got: got == b"\2", deadline=60, what="its name looked up"
    )
    assert answer(gate.dicom, b"NAMED") == CALLING_NOT_RECOGNISED
    addresses = {
        network["IPAddress"] for network in gate.inspect("agent")["NetworkSettings"]["Networks"].values()
    }

    def let_in_from() -> set[str]:
        seen = [one for one in gate.get("/understudy/modalities") if one["calling_ae_title"] == "NAMED"]
        return {one["remote_address"] for one in seen if one["associations"]}

    assert wait_until(let_in_from, bool, deadline=30, what="NAMED let in") <= addresses
    reported(gate, "NAMED", "refused_address")
    # The edge keeps it over a restart without the agent.
    gate.stop("agent")
    try:
        restarted(gate, "edge")
        assert answer(gate.dicom, b"NAMED") == CALLING_NOT_RECOGNISED
    finally:
        gate.start("agent")
    wait_until(
        lambda: from_agent(gate, named)[:1], lambda got: got == b"\2", deadline=60, what="let in again"
    )


@pytest.mark.parametrize("calling", [b"CT1", b"STRANGER"])
@pytest.mark.parametrize("name", REFUSED)
def test_held_faulty_request_is_answered_and_delays_nobody(gate: Stack, name: str, calling: bytes) -> None:
    pdu = REFUSED[name]
    if pdu[26:42] == b"CT1".ljust(16):
        pdu = pdu[:26] + calling.ljust(16) + pdu[42:]
    # Asked for once: the Engine takes a while.
    address = gate.dicom

    def seconds_of_an_echo() -> float:
        with held_requests(address, [pdu]) as answers:
            begun = time.monotonic()
            assert echo(address, "CT2", "UNDERSTUDY") == 0
            took = time.monotonic() - begun
        assert answers[0][:1] in (b"\3", b"\7")
        return took

    assert least(seconds_of_an_echo, enough=NO_WAIT_SECONDS) <= NO_WAIT_SECONDS


@pytest.mark.parametrize("count", [1, 32])
def test_faulty_requests_held_delay_no_store_and_are_named(gate: Stack, tmp_path: Path, count: int) -> None:
    path = ct_series(tmp_path, seed="held", instances=1, rows=8, columns=8).paths[0]
    shapes = [pdu for name, pdu in REFUSED.items() if "calling" not in name and len(pdu) > 42]
    calling = f"HELD{count}"
    pdus = [shape[:26] + calling.encode().ljust(16) + shape[42:] for shape in shapes]
    pdus = (pdus * 2)[: max(count, 1)] if count > 1 else [request(calling.encode(), b" " * 16)]
    seconds = float(os.environ.get("UNDERSTUDY_HELD_SECONDS", "20"))
    address = gate.dicom
    asked = 0

    def slowest_store() -> float:
        nonlocal asked
        asked += len(pdus)
        slowest = 0.0
        with held_requests(address, pdus):
            begun = time.monotonic()
            while time.monotonic() - begun < seconds:
                stored = store(address, fresh_instance(path), calling="CT2")
                assert stored.status == 0
                slowest = max(slowest, stored.seconds)
        print(f"{count} held for {seconds:g} s, slowest store {slowest:.2f} s")
        return slowest

    assert least(slowest_store, enough=NO_WAIT_SECONDS) <= NO_WAIT_SECONDS

    def named() -> list[dict[str, Any]]:
        return [one for one in gate.get("/understudy/modalities") if one["calling_ae_title"] == calling]

    told = wait_until(
        named,
        lambda rows: sum(one["refused"] for one in rows) == asked,
        deadline=30,
        what=f"{asked} refused",
    )
    assert all(one["reason"] and one["remote_address"] for one in told)


def test_request_that_is_too_large_is_answered(gate: Stack) -> None:
    with socket.create_connection(gate.dicom, 5) as connection:
        connection.sendall(request(length=200_000) + bytes(150_000))
        assert connection.recv(10) == bytes.fromhex("03000000000400010101")

    def reasons() -> set[str]:
        return {one["reason"] for one in gate.get("/understudy/modalities")}

    wait_until(reasons, lambda said: "a request of 200000 bytes" in said, deadline=30, what="its size told")


@pytest.mark.parametrize("said", [b"", b"\1", request()[:40]], ids=["nothing", "a byte", "half"])
def test_caller_that_goes_away_is_counted_and_stops_no_count(gate: Stack, said: bytes) -> None:
    def nobody() -> int:
        seen = [one for one in gate.get("/understudy/modalities") if one["calling_ae_title"] == ""]
        return sum(one["refused"] for one in seen)

    before = nobody()
    address = gate.dicom
    for _ in range(20):
        with socket.create_connection(address, 5) as connection:
            connection.sendall(said)
    wait_until(nobody, lambda now: now >= before + 20, deadline=30, what="twenty more counted")


def test_sixty_associations_at_once_are_sixty_counted(gate: Stack) -> None:
    # Asked for once: the Engine takes a while, and Orthanc ends an association after 30 s without a command.
    address = gate.dicom
    # The agent is away in the middle of it.
    gate.stop("agent")
    try:
        with contextlib.ExitStack() as opened:
            held = []
            for _ in range(60):
                held.append(opened.enter_context(socket.create_connection(address, 5)))
                held[-1].sendall(request(b"CT1", b"BURST"))
            answers = [connection.recv(10)[:1] for connection in held]
    finally:
        gate.start("agent")
    assert len(answers) == 60

    def counted() -> tuple[int, int]:
        seen = [one for one in gate.get("/understudy/modalities") if one["called_ae_title"] == "BURST"]
        return sum(one["associations"] for one in seen), sum(one["refused"] for one in seen)

    expected = (answers.count(b"\2"), answers.count(b"\3"))
    assert wait_until(counted, lambda now: now == expected, deadline=30, what=f"{expected} counted")


def test_silent_connections_of_one_address_close_no_port_for_others(gate: Stack) -> None:
    https, instance = gate.port("edge", 8443), request(b"NAMED", b"UNDERSTUDY")
    with connections(https, 700), connections(gate.dicom, 700):
        begun = time.monotonic()
        gate.execute("edge", "healthy", "edge")
        assert from_agent(gate, instance)[:1] == b"\2"
        # Of this the Engine takes most.
        assert time.monotonic() - begun < 10
    wait_until(
        lambda: echo(gate.dicom, "CT1", "UNDERSTUDY"),
        lambda status: status == 0,
        deadline=60,
        what="room again",
    )


def test_approval_with_a_scope_is_refused_and_one_of_before_keeps_no_edge_from_starting(gate: Stack) -> None:
    with pytest.raises(RefusedError) as refused:
        gate.post("/understudy/modalities/approve", {"calling_ae_title": "US2", "address": "fe80::1%25eth0"})
    assert refused.value.status == 400
    script = """
        import json, pathlib
        file = pathlib.Path("/run/understudy-edge/approved.json")
        rows = json.loads(file.read_text()) if file.exists() else []
        file.write_text(json.dumps([*rows, ["US2", "fe80::1%25eth0", None]]))
    """
    gate.execute("agent", "/usr/bin/python3", "-c", textwrap.dedent(script))
    gate.stop("agent")
    try:
        restarted(gate, "edge")
        assert echo(gate.dicom, "CT1", "UNDERSTUDY") == 0
        assert "approval left out" in gate.logs()
    finally:
        gate.start("agent")


def test_approval_is_live_without_dropping_an_association(gate: Stack) -> None:
    began = gate.inspect("edge")["State"]["StartedAt"]
    running = open_association(gate, "CT1")
    assert running.send_c_echo().Status == 0
    assert answer(gate.dicom, b"NEW1") == CALLING_NOT_RECOGNISED
    address = reported(gate, "NEW1", "refused_calling")["remote_address"]

    approval = gate.post("/understudy/modalities/approve", {"calling_ae_title": "NEW1", "address": address})

    assert approval == {
        "calling_ae_title": "NEW1",
        "network": f"{address}/32",
        "called_ae_title": None,
        "live": True,
    }
    assert echo(gate.dicom, "NEW1", "UNDERSTUDY") == 0
    assert reported(gate, "NEW1", "accepted")["known"] is True
    assert running.send_c_echo().Status == 0
    gate.post("/understudy/modalities/revoke", {"calling_ae_title": "NEW1", "address": address})
    assert answer(gate.dicom, b"NEW1") == CALLING_NOT_RECOGNISED
    assert running.send_c_echo().Status == 0
    running.release()
    assert gate.inspect("edge")["State"]["StartedAt"] == began


def test_approval_for_one_called_ae_title_refuses_others_by_the_called(gate: Stack) -> None:
    said = gate.execute(
        "agent", "understudy", "approve", "US1", "0.0.0.0/0", "--called", "UNDERSTUDY"
    ).decode()
    assert "US1 from 0.0.0.0/0, calling UNDERSTUDY is on the allow-list" in said
    assert echo(gate.dicom, "US1", "UNDERSTUDY") == 0
    assert answer(gate.dicom, b"US1", b"OTHER") == CALLED_NOT_RECOGNISED
    assert reported(gate, "US1", "refused_called")["known"] is False
    restarted(gate, "edge")
    assert echo(gate.dicom, "US1", "UNDERSTUDY") == 0
    assert answer(gate.dicom, b"US1", b"OTHER") == CALLED_NOT_RECOGNISED


def test_approval_of_what_is_no_address_or_ae_title_is_refused(gate: Stack) -> None:
    for body in (
        {"calling_ae_title": "NEW1", "address": "ct.example.org"},
        {"calling_ae_title": "MUCH TOO LONG TITLE", "address": "192.0.2.1"},
        {"calling_ae_title": "A\nB", "address": "192.0.2.1"},
    ):
        with pytest.raises(RefusedError) as refused:
            gate.post("/understudy/modalities/approve", body)
        assert refused.value.status == 400
    with pytest.raises(RefusedError) as absent:
        gate.post("/understudy/modalities/revoke", {"calling_ae_title": "CT1", "address": "192.0.2.1"})
    assert absent.value.status == 404


def test_one_device_cannot_take_the_places_of_others(gate: Stack) -> None:
    held = [open_association(gate, "CT1") for _ in range(DEVICE_LIMIT)]
    try:
        assert all(association.is_established for association in held)
        assert answer(gate.dicom, b"CT1") == RETRY_LATER
        assert reported(gate, "CT1", "refused_limit")["known"] is True
        assert echo(gate.dicom, "CT2", "UNDERSTUDY") == 0
    finally:
        for association in held:
            association.release()
    wait_until(
        lambda: echo(gate.dicom, "CT1", "UNDERSTUDY"),
        lambda status: status == 0,
        deadline=30,
        what="CT1 let in again",
    )


def test_full_disk_is_told_as_a_reason_to_retry(gate: Stack) -> None:
    # Who watches the volumes would take the mark away again: it runs inside Orthanc.
    gate.stop("orthanc")
    mark = "/run/understudy-intake/refuse-intake"

    def in_orthancs_place(tool: str) -> None:
        gate.compose("run", "--rm", "--no-deps", "--entrypoint", tool, "orthanc", mark)

    in_orthancs_place("touch")
    try:
        wait_until(
            lambda: answer(gate.dicom, b"CT1"),
            lambda got: got == RETRY_LATER,
            deadline=15,
            what="the gate shut",
        )
        reported(gate, "CT1", "refused_full")
        # Who is not known hears that first.
        assert answer(gate.dicom, b"WRONG") == CALLING_NOT_RECOGNISED
    finally:
        in_orthancs_place("rm")
        gate.start("orthanc")
    wait_until(
        lambda: echo(gate.dicom, "CT1", "UNDERSTUDY"),
        lambda status: status == 0,
        deadline=60,
        what="the gate open",
    )


def test_agent_down_stops_nothing_at_the_edge(gate: Stack) -> None:
    gate.stop("agent")
    try:
        assert echo(gate.dicom, "CT1", "UNDERSTUDY") == 0
        assert answer(gate.dicom, b"WRONG") == CALLING_NOT_RECOGNISED
        restarted(gate, "edge")
        assert echo(gate.dicom, "US1", "UNDERSTUDY") == 0
    finally:
        gate.start("agent")
    assert answer(gate.dicom, b"LATER") == CALLING_NOT_RECOGNISED
    reported(gate, "LATER", "refused_calling")


def test_body_that_is_too_large_and_header_that_is_too_slow_are_given_up(gate: Stack) -> None:
    # The edge closes what it does not read to its end, at times before the answer is read here.
    wait_until(
        lambda: gate.client().post("/understudy/verify", content=b" " * 2_000_000).status_code,
        lambda status: status == 413,
        deadline=30,
        what="a body that is too large answered 413",
    )
    address, context = gate.port("edge", 8443), gate.pinned()
    with socket.create_connection(address, 5) as plain, context.wrap_socket(plain) as connection:
        begun = time.monotonic()
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        connection.settimeout(20)
        assert b"408" in connection.recv(100)
        assert time.monotonic() - begun < 15


def test_flood_of_bad_connections_delays_no_known_device(gate: Stack, tmp_path: Path) -> None:
    instance = fresh_instance(ct_series(tmp_path, seed="flood", instances=1, rows=8, columns=8).paths[0])
    # Asked for once: the Engine takes a while, and the gate ends who says nothing for two seconds.
    plain, tls, https = gate.dicom, tls_address(gate), gate.port("edge", 8443)

    def seconds_of_a_store() -> float:
        with (
            connections(plain, 200),
            connections(plain, 50, b"\xff\x00garbage"),
            connections(tls, 50, b"\x16\x03\x01"),
            connections(https, 60, b"\x16\x03\x01\x02"),
        ):
            stored = store(plain, instance, calling="CT1")
        assert stored.status == 0
        return stored.seconds

    assert least(seconds_of_a_store, enough=NO_WAIT_SECONDS) <= NO_WAIT_SECONDS


def test_logs_and_reports_hold_no_patient(gate: Stack, tmp_path: Path) -> None:
    name, number, born, description = PLANTED
    instance = fresh_instance(ct_series(tmp_path, seed="gate", instances=1, rows=8, columns=8).paths[0])
    instance.PatientName, instance.PatientID, instance.PatientBirthDate = name, number, born
    instance.StudyDescription = description
    assert store(gate.dicom, instance, calling="CT1").status == 0
    client: httpx.Client = gate.client()
    found = client.get("/dicom-web/studies", params={"PatientName": name, "PatientID": number})
    assert found.json()[0]["00100020"]["Value"] == [number]
    assert client.post("/tools/find", json={"Level": "Study", "Query": {"PatientID": number}}).json()
    # A line is written when its request has ended.
    text = wait_until(
        lambda: gate.compose("logs", "--no-color"),
        lambda seen: "outcome=accepted" in seen and 'path="/dicom-web/studies"' in seen,
        deadline=30,
        what="both logged",
    )
    told = [line.partition("dicom ")[2] for line in text.splitlines() if "dicom number=" in line]
    assert len(told) == len(set(told)), "an association is told of twice"
    text += json.dumps(gate.get("/understudy/modalities"))
    assert not [planted for planted in PLANTED if planted in text]
    assert "PLANTED" not in text


def test_open_mode_takes_strangers_up_to_their_share(gate: Stack, clinic: Clinic) -> None:
    clinic.configure(CLOSED | {"Policy": {"AcceptStrangers": True}})
    try:
        restarted(gate, "edge")
        held = [open_association(gate, f"STRANGER{number}") for number in range(STRANGER_LIMIT)]
        assert all(association.is_established for association in held)
        assert answer(gate.dicom, b"STRANGER9") == RETRY_LATER
        assert echo(gate.dicom, "CT1", "UNDERSTUDY") == 0
        assert reported(gate, "STRANGER0", "accepted")["known"] is False
        assert reported(gate, "STRANGER9", "refused_limit")["known"] is False
        # Strangers are let in, and nobody under the title of a listed device.
        for calling in (b"WS1", b"ws1", b"MR1", b"NAMED", b"BOUND"):
            assert answer(gate.dicom, calling) == CALLING_NOT_RECOGNISED
        for association in held:
            association.release()
    finally:
        clinic.configure(CLOSED)
        restarted(gate, "edge")


def test_plain_dicom_can_be_turned_off(gate: Stack, clinic: Clinic) -> None:
    clinic.configure(CLOSED | {"DicomTls": {"ClientCa": "clinic-ca.pem", "Required": True}})
    try:
        restarted(gate, "edge")
        refused = contextlib.suppress(ConnectionResetError, BrokenPipeError)
        with socket.create_connection(gate.dicom, 5) as connection, refused:
            connection.sendall(request(b"CT1", b"UNDERSTUDY"))
            assert connection.recv(1) == b""
        with (
            socket.create_connection(tls_address(gate), 5) as plain,
            clinic.client("only").wrap_socket(plain) as connection,
        ):
            assert connection.version() in ("TLSv1.2", "TLSv1.3")
    finally:
        clinic.configure(CLOSED)
        restarted(gate, "edge")
