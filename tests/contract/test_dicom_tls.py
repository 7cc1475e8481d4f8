"""DICOM over TLS with certificates on both sides: delivered, or refused with the reason by name."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from understudy.adapters.dicom import DicomPeer
from understudy.adapters.tls import ClientTls
from understudy.core.model import Outcome
from understudy.core.ports import FileToSend, HolderUnavailableError

from tests.certificates import Authority, Identity

# pynetdicom leaves sockets of failed handshakes to be closed by the collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

PART10 = bytes(128) + b"DICM" + bytes.fromhex("0800 0500 4353 0a00") + b"ISO_IR 100"
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@dataclass
class Clinic:
    """Whom both sides trust, and who they are."""

    authority: Authority
    pacs: Identity
    ours: Identity

    def tls(self, **changes: Any) -> ClientTls:
        settings: dict[str, Any] = {
            "authorities": self.authority.certificate,
            "certificate": self.ours.certificate,
            "key": self.ours.key,
        }
        return ClientTls(**settings | changes)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    authority = Authority(tmp_path_factory.mktemp("clinic"), "clinic")
    return Clinic(authority, authority.issue("pacs"), authority.issue("standby"))


@contextmanager
def pacs(
    clinic: Clinic, *, version: ssl.TLSVersion | None, identity: Identity | None = None, plain: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Listen with TLS of this version alone, or in plain text; give the port and what is received."""
    context = None
    if not plain:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        shown = identity or clinic.pacs
        context.load_cert_chain(shown.certificate, shown.key)
        context.load_verify_locations(clinic.authority.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
        if version is not None:
            context.minimum_version = context.maximum_version = version
    received: list[str] = []

    def on_store(event: evt.Event) -> int:
        received.append(str(getattr(event.request, "AffectedSOPInstanceUID")))  # noqa: B009 - untyped there
        return 0

    entity = AE(ae_title="PACS")
    entity.acse_timeout = entity.network_timeout = 5
    entity.add_supported_context(CTImageStorage, ExplicitVRLittleEndian)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)], ssl_context=context
    )
    assert server is not None
    try:
        yield server.server_address[1], received
    finally:
        server.shutdown()
        server.server_close()


def store(port: int, tls: ClientTls | None, *, timeout: float = 10.0) -> list[Outcome]:
    """Send two instances and return their outcomes."""
    peer = DicomPeer(
        "pacs",
        ae_title="PACS",
        host="127.0.0.1",
        port=port,
        calling_ae_title="STANDBY",
        timeout=timeout,
        tls=tls,
    )
    with peer.storing([(CTImageStorage, ExplicitVRLittleEndian)]) as association:
        files = [
            FileToSend(uid, CTImageStorage, ExplicitVRLittleEndian, BytesIO(PART10), len(PART10))
            for uid in ("1.2.1", "1.2.2")
        ]
        return [association.store(file).outcome for file in files]


def refusal(port: int, tls: ClientTls | None, *, timeout: float = 10.0) -> HolderUnavailableError:
    """Return why nothing could be sent."""
    with pytest.raises(HolderUnavailableError) as caught:
        store(port, tls, timeout=timeout)
    return caught.value


@pytest.mark.parametrize("version", VERSIONS)
def test_delivered_with_certificates_on_both_sides(clinic: Clinic, version: ssl.TLSVersion) -> None:
    with pacs(clinic, version=version) as (port, received):
        assert store(port, clinic.tls()) == [Outcome.DELIVERED, Outcome.DELIVERED]
    assert received == ["1.2.1", "1.2.2"]


@pytest.mark.parametrize("version", VERSIONS)
def test_peer_with_a_certificate_of_an_authority_that_we_do_not_trust_is_refused(
    clinic: Clinic, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger").issue("pacs")
    with pacs(clinic, version=version, identity=stranger) as (port, received):
        error = refusal(port, clinic.tls())
    assert "its certificate is not trusted: unable to get local issuer certificate" in error.reason
    assert "certificates" in error.hint
    assert received == []


def test_peer_whose_certificate_has_expired_is_refused(clinic: Clinic) -> None:
    expired = clinic.authority.issue("expired", days=-1)
    with pacs(clinic, version=None, identity=expired) as (port, received):
        assert "certificate has expired" in refusal(port, clinic.tls()).reason
    assert received == []


def test_peer_whose_certificate_bears_another_name_is_refused_unless_it_is_told(clinic: Clinic) -> None:
    elsewhere = clinic.authority.issue("archive", address="192.0.2.1")
    with pacs(clinic, version=None, identity=elsewhere) as (port, _):
        assert "IP address mismatch" in refusal(port, clinic.tls()).reason
        assert store(port, clinic.tls(server_name="archive")) == [Outcome.DELIVERED, Outcome.DELIVERED]


@pytest.mark.parametrize("version", VERSIONS)
def test_peer_that_does_not_trust_our_certificate_says_so(
    clinic: Clinic, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other").issue("standby")
    with pacs(clinic, version=version) as (port, received):
        error = refusal(port, clinic.tls(certificate=other.certificate, key=other.key))
    assert "TLS failed" in error.reason
    assert "unknown ca" in error.reason or "perhaps because of our certificate" in error.reason
    assert received == []


@pytest.mark.parametrize("version", VERSIONS)
def test_peer_that_wants_a_certificate_of_us_and_gets_none_says_so(
    clinic: Clinic, version: ssl.TLSVersion
) -> None:
    with pacs(clinic, version=version) as (port, received):
        error = refusal(port, clinic.tls(certificate=None, key=None))
    assert "TLS failed" in error.reason
    # With TLS 1.3 the alert can be overtaken by the end of the connection.
    assert any(words in error.reason for words in ("certificate", "handshake failure"))
    assert received == []


def test_plain_text_to_a_peer_with_tls_is_refused_and_named(clinic: Clinic) -> None:
    with pacs(clinic, version=None) as (port, received):
        error = refusal(port, None)
    # Its alert can be overtaken by the end of the connection.
    told = ("it uses TLS, and our configuration does not", "may require TLS")
    assert any(words in error.reason for words in told)
    assert received == []


def test_tls_to_a_peer_in_plain_text_is_refused_and_named(clinic: Clinic) -> None:
    with pacs(clinic, version=None, plain=True) as (port, received):
        error = refusal(port, clinic.tls())
    assert "TLS failed" in error.reason
    assert received == []


def test_tls_to_a_peer_that_says_nothing_is_given_up(clinic: Clinic) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = refusal(silent.getsockname()[1], clinic.tls(), timeout=0.3)
    assert "TLS handshake" in error.reason


def test_our_own_files_that_cannot_be_used_are_named(clinic: Clinic, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    with pacs(clinic, version=None) as (port, _):
        for changes, name in (
            ({"authorities": tmp_path / "missing.pem"}, "missing.pem"),
            ({"authorities": broken}, "broken.pem"),
            ({"certificate": broken}, "broken.pem"),
            ({"key": broken}, "standby.pem"),
        ):
            assert f"{name} of ours cannot be used" in refusal(port, clinic.tls(**changes)).reason


def test_files_that_are_renewed_count_for_the_next_association(clinic: Clinic, tmp_path: Path) -> None:
    trusted = tmp_path / "authorities.pem"
    trusted.write_bytes(Authority(tmp_path, "former").certificate.read_bytes())
    tls = clinic.tls(authorities=trusted)
    with pacs(clinic, version=None) as (port, _):
        refusal(port, tls)
        trusted.write_bytes(clinic.authority.certificate.read_bytes())
        assert store(port, tls) == [Outcome.DELIVERED, Outcome.DELIVERED]
