"""The DICOMweb adapter against a real HTTP server: every answer of STOW-RS and QIDO-RS, and none."""

import base64
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from understudy.adapters.dicomweb import DicomWebServer
from understudy.adapters.tls import ClientTls
from understudy.core.model import Outcome, SopInstanceUid, StudyInstanceUid
from understudy.core.outcomes import Verdict
from understudy.core.ports import FileToSend, HolderUnavailableError, UnansweredError

from tests.certificates import Authority

STUDY = StudyInstanceUid("1.2.3")
CT, SYNTAX = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
CONTENT = bytes(128) + b"DICM" + bytes(range(256)) * 64

BASIC = base64.b64encode("ann:pä:ss".encode()).decode()


def body(
    referenced: dict[str, int | None] | None = None, failed: dict[str, int | None] | None = None
) -> bytes:
    """Return an answer of STOW-RS: by SOP Instance UID the Warning Reason or Failure Reason."""

    def items(told: dict[str, int | None], reason: str) -> list[dict[str, Any]]:
        return [
            {"00081155": {"vr": "UI", "Value": [uid]}}
            | ({} if code is None else {reason: {"vr": "US", "Value": [code]}})
            for uid, code in told.items()
        ]

    document: dict[str, Any] = {}
    if referenced is not None:
        document["00081199"] = {"vr": "SQ", "Value": items(referenced, "00081196")}
    if failed is not None:
        document["00081198"] = {"vr": "SQ", "Value": items(failed, "00081197")}
    return json.dumps(document).encode()


@dataclass
class Server:
    """Answers every request as told, and keeps what it was sent."""

    status: int = 200
    answer: bytes = b""
    listed: list[str] = field(default_factory=list)
    page: int = 10**6
    """Instances that it lists at most in one answer, whatever it is asked for."""
    reset: bool = False
    """Whether it ends the connection instead of answering."""
    silent: threading.Event | None = None
    received: list[bytes] = field(default_factory=list)
    requests: list[BaseHTTPRequestHandler] = field(default_factory=list)

    @contextmanager
    def serving(self, context: ssl.SSLContext | None = None) -> Iterator[int]:
        """Listen on a free port and give it."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server.received.append(self.rfile.read(int(self.headers["Content-Length"])))
                self._answer(server.status, server.answer)

            def do_GET(self) -> None:
                if server.answer or server.status != 200:
                    self._answer(server.status, server.answer)
                    return
                query = parse_qs(urlsplit(self.path).query)
                assert query["StudyInstanceUID"] == [STUDY]
                offset = int(query["offset"][0])
                most = min(server.page, int(query["limit"][0]))
                found = server.listed[offset : offset + most]
                listed = [{"00080018": {"vr": "UI", "Value": [uid]}} for uid in found]
                self._answer(200 if found else 204, json.dumps(listed).encode() if found else b"")

            def _answer(self, status: int, content: bytes) -> None:
                server.requests.append(self)
                if server.silent is not None:
                    server.silent.wait(30)
                if server.reset:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Type", "application/dicom+json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A handshake that fails or a client that hangs up is what the test is about."""

        with Quiet(("127.0.0.1", 0), Handler) as listening:
            if context is not None:
                listening.socket = context.wrap_socket(listening.socket, server_side=True)
            thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield listening.server_address[1]
            finally:
                if self.silent is not None:
                    self.silent.set()
                listening.shutdown()
                thread.join(30)


def client(port: int, **settings: Any) -> DicomWebServer:
    return DicomWebServer("cloud", f"http://127.0.0.1:{port}/dicom-web/", **{"timeout": 10.0, **settings})


def store(port: int, **settings: Any) -> Verdict:
    with client(port, **settings).storing([(CT, SYNTAX)]) as connection:
        return connection.store(FileToSend("1.2.3.4", CT, SYNTAX, BytesIO(CONTENT), len(CONTENT)))


def test_store_sends_the_file_byte_for_byte_as_one_part() -> None:
    server = Server(answer=body({"1.2.3.4": None}))
    with server.serving() as port:
        assert store(port).outcome is Outcome.DELIVERED
    (request,) = server.requests
    assert request.path == "/dicom-web/studies"
    kind, _, boundary = request.headers["Content-Type"].partition("; boundary=")
    assert kind == 'multipart/related; type="application/dicom"'
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    assert server.received == [head + CONTENT + f"\r\n--{boundary}--\r\n".encode()]


ANSWERS: list[tuple[int, bytes, Outcome, str]] = [
    (200, body({"1.2.3.4": None}), Outcome.DELIVERED, "stored"),
    (200, b"[" + body({"1.2.3.4": None}) + b"]", Outcome.DELIVERED, "stored"),
    (202, body({"1.2.3.4": 0xB000}), Outcome.DELIVERED_ALTERED, "0xB000"),
    (202, body({"9.9": None}, {"1.2.3.4": 0xA700}), Outcome.RETRY, "0xA700"),
    (409, body(None, {"1.2.3.4": 0xC000}), Outcome.REFUSED, "0xC000"),
    (409, body({}, {"1.2.3.4": 0x0111}), Outcome.CONFLICT, "0x0111"),
    (400, body(None, {"1.2.3.4": 0xA900}), Outcome.REFUSED, "0xA900"),
    # A failure counts before everything else that is said.
    (200, body({"1.2.3.4": None}, {"1.2.3.4": 0xC122}), Outcome.REFUSED, "0xC122"),
    (202, body(None, {"1.2.3.4": None}), Outcome.UNKNOWN, "without a reason"),
    (200, body({"9.9": None}), Outcome.UNKNOWN, "not mentioned"),
    (200, b"", Outcome.UNKNOWN, "says nothing"),
    (200, b"<xml/>", Outcome.UNKNOWN, "says nothing"),
    (200, b"[1]", Outcome.UNKNOWN, "says nothing"),
    (200, b'{"00081199": 7}', Outcome.UNKNOWN, "not mentioned"),
    (409, b"", Outcome.REFUSED, "409"),
    (413, b"", Outcome.REFUSED, "413"),
    (415, b"", Outcome.REFUSED, "415"),
    (500, b"", Outcome.RETRY, "500"),
    # A body does not make a fault of the server a success.
    (500, body({"1.2.3.4": None}), Outcome.UNKNOWN, "not mentioned"),
]


@pytest.mark.parametrize(("status", "answer", "outcome", "words"), ANSWERS)
def test_outcome_is_read_from_the_body_and_else_from_the_status(
    status: int, answer: bytes, outcome: Outcome, words: str
) -> None:
    with Server(status=status, answer=answer).serving() as port:
        verdict = store(port)
    assert verdict.outcome is outcome
    assert words in verdict.reason


@pytest.mark.parametrize("status", [301, 401, 403, 404, 407, 408, 429, 502, 503, 504, 507])
def test_what_the_server_says_of_itself_blames_no_instance(status: int) -> None:
    with Server(status=status).serving() as port, pytest.raises(HolderUnavailableError, match=str(status)):
        store(port)


def test_connection_that_ends_instead_of_an_answer_is_an_unknown_outcome() -> None:
    with Server(reset=True).serving() as port, client(port).storing([(CT, SYNTAX)]) as connection:
        assert (
            connection.store(FileToSend("1.2.3.4", CT, SYNTAX, BytesIO(CONTENT), len(CONTENT))).outcome
            is Outcome.UNKNOWN
        )
        assert not connection.is_open


def test_answer_that_does_not_come_is_an_unknown_outcome() -> None:
    with Server(silent=threading.Event()).serving() as port:
        assert store(port, timeout=0.3).outcome is Outcome.UNKNOWN


def test_server_that_is_not_there_blames_no_instance() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(HolderUnavailableError, match="no connection"):
            store(unused.getsockname()[1])


@pytest.mark.parametrize("page", [10**6, 1000, 7])
def test_instances_are_listed_page_by_page(page: int) -> None:
    listed = [f"1.2.3.{number}" for number in range(1001)]
    with Server(listed=listed, page=page).serving() as port:
        assert client(port).instances(STUDY) == set(map(SopInstanceUid, listed))


def test_list_without_an_end_is_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.adapters.dicomweb._MOST_OF_STUDY", 100)
    server = Server(listed=[f"1.2.3.{number}" for number in range(1001)], page=7)
    with server.serving() as port, pytest.raises(UnansweredError, match=r"105 images .* and no end"):
        client(port).instances(STUDY)


def test_server_that_ignores_the_offset_is_asked_no_further_than_it_tells_something_new() -> None:
    told = json.dumps([{"00080018": {"Value": ["1.2.3.4"]}}]).encode()
    server = Server(answer=told)
    with server.serving() as port:
        assert client(port).instances(STUDY) == {"1.2.3.4"}
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "answer"),
    [(404, b""), (500, b""), (200, b"<xml/>"), (200, b"[{}]"), (200, b'{"errors": 1}')],
)
def test_question_without_a_usable_answer_proves_nothing(status: int, answer: bytes) -> None:
    with Server(status=status, answer=answer).serving() as port, pytest.raises(HolderUnavailableError):
        client(port).instances(STUDY)


@pytest.mark.parametrize(
    ("account", "expected"),
    [
        ({"token": "abc"}, "Bearer abc"),
        (
            {"username": "ann", "password": "pä:ss"},
            f"Basic {BASIC}",
        ),
    ],
)
def test_account_goes_with_every_request(account: dict[str, str], expected: str, tmp_path: Path) -> None:
    file = tmp_path / "account.json"
    file.write_text(json.dumps(account))
    server = Server(answer=body({"1.2.3.4": None}))
    with server.serving() as port:
        store(port, credentials=file)
    assert server.requests[0].headers["Authorization"] == expected


@pytest.mark.parametrize("content", ["secret", '{"user": "secret"}', None])
def test_account_that_cannot_be_read_is_told_without_its_content(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "account.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(HolderUnavailableError, match="credentials cannot be used") as caught:
        store(1, credentials=file)
    assert "secret" not in caught.value.reason


VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
Secured = Callable[[ssl.TLSVersion], tuple[ssl.SSLContext, ClientTls, ClientTls]]


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    """Give the server's side of one version, our side, and one with a certificate of somebody else's."""
    authority = Authority(tmp_path, "clinic")
    (tmp_path / "elsewhere").mkdir()
    stranger = Authority(tmp_path / "elsewhere", "stranger").issue("stranger")
    shown, ours = authority.issue("cloud"), authority.issue("standby")

    def both(version: ssl.TLSVersion) -> tuple[ssl.SSLContext, ClientTls, ClientTls]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(shown.certificate, shown.key)
        context.load_verify_locations(authority.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = context.maximum_version = version
        return (
            context,
            ClientTls(authority.certificate, ours.certificate, ours.key),
            ClientTls(authority.certificate, stranger.certificate, stranger.key),
        )

    return both


@pytest.mark.parametrize("version", VERSIONS)
def test_delivered_and_proven_over_tls_with_certificates_on_both_sides(
    version: ssl.TLSVersion, secured: Secured
) -> None:
    context, ours, _ = secured(version)
    server = Server(answer=body({"1.2.3.4": None}))
    with server.serving(context) as port:
        https = DicomWebServer("cloud", f"https://127.0.0.1:{port}", timeout=10.0, tls=ours)
        with https.storing([(CT, SYNTAX)]) as connection:
            assert (
                connection.store(FileToSend("1.2.3.4", CT, SYNTAX, BytesIO(CONTENT), len(CONTENT))).outcome
                is Outcome.DELIVERED
            )


@pytest.mark.parametrize("version", VERSIONS)
def test_certificate_that_the_server_does_not_trust_delivers_nothing(
    version: ssl.TLSVersion, secured: Secured
) -> None:
    context, _, stranger = secured(version)
    server = Server()
    with server.serving(context) as port:
        https = DicomWebServer("cloud", f"https://127.0.0.1:{port}", timeout=10.0, tls=stranger)
        with pytest.raises(HolderUnavailableError, match=r"TLS failed|the connection ended"):
            https.instances(STUDY)
    assert server.requests == []


def test_server_whose_authority_we_do_not_trust_is_refused_by_name(secured: Secured) -> None:
    context, _, _ = secured(ssl.TLSVersion.TLSv1_3)
    with Server().serving(context) as port:
        https = DicomWebServer("cloud", f"https://127.0.0.1:{port}", timeout=10.0)
        with pytest.raises(HolderUnavailableError, match="its certificate is not trusted"):
            https.instances(STUDY)


def test_https_to_a_server_in_plain_text_is_refused_by_name(secured: Secured) -> None:
    _, ours, _ = secured(ssl.TLSVersion.TLSv1_3)
    with Server().serving() as port:
        https = DicomWebServer("cloud", f"https://127.0.0.1:{port}", timeout=10.0, tls=ours)
        with pytest.raises(HolderUnavailableError, match="TLS failed"):
            https.instances(STUDY)
