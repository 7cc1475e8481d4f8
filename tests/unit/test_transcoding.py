"""Transcoding by Orthanc: what it does not decode is a dead letter with the reason."""

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest
from understudy.adapters.orthanc import Orthanc
from understudy.adapters.transcoding import NotDecodedError, Transcoder
from understudy.core.model import Instance, InstanceNumber
from understudy.core.ports import OrthancUnavailableError, UnreadableFileError

from tests.unit.fakes import new_instance

EXPLICIT = "1.2.840.10008.1.2.1"


class Answer(BaseHTTPRequestHandler):
    """Answers as the plugin's refusal does, or as the path says."""

    def do_GET(self) -> None:
        status = int(self.path.split("/")[2])
        body = b'{"HttpStatus": 422, "Message": "a decoded frame has 9 bytes, more than 8"}'
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def orthanc() -> Iterator[Orthanc]:
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Orthanc(f"http://127.0.0.1:{server.server_address[1]}", "agent", "x", 5)
        server.shutdown()
        thread.join()


def test_a_refusal_has_the_reason_of_the_plugin(orthanc: Orthanc) -> None:
    with pytest.raises(NotDecodedError, match="more than 8"):
        orthanc.transcoded("422", EXPLICIT)
    assert orthanc.transcoded("500", EXPLICIT) is None
    with pytest.raises(OrthancUnavailableError):
        orthanc.transcoded("503", EXPLICIT)


class Refusing:
    """Orthanc, where the plugin refuses."""

    def transcoded(self, _orthanc_id: str, _transfer_syntax_uid: str) -> bytes | None:
        raise NotDecodedError("a decoded frame has 9 bytes, more than 8")


def test_an_image_that_is_not_decoded_is_refused_for_good_with_the_reason() -> None:
    instance = Instance(**asdict(new_instance(1)), number=InstanceNumber(1))
    with pytest.raises(UnreadableFileError, match="more than 8") as refused:
        Transcoder(Refusing())(instance, EXPLICIT)
    assert refused.value.permanent


def test_orthanc_may_be_silent_for_minutes_while_it_works_on_one_file() -> None:
    patience: dict[str, float] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        patience[request.url.path] = request.extensions["timeout"]["read"]
        return httpx.Response(200, json={"Status": "Success", "CountInstances": 0})

    with closing(Orthanc("http://orthanc", "agent", "x", 5)) as orthanc:
        orthanc._client.close()
        orthanc._client = httpx.Client(
            base_url="http://orthanc", transport=httpx.MockTransport(answer), timeout=5
        )
        orthanc.store(b"a file")
        orthanc.transcoded("abc", "1.2.840.10008.1.2")
        orthanc.held()
    assert patience == {"/instances": 100, "/instances/abc/file": 100, "/statistics": 5}
