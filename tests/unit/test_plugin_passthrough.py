"""The way from Orthanc's REST to the agent, over a real Unix socket with a real HTTP server behind it."""

import json
import socketserver
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from understudy.plugin.passthrough import Request, call


class Echo(BaseHTTPRequestHandler):
    """Answers with what it was asked; `/understudy/code/N` with the status N, `/understudy/slow` never."""

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        if self.path == "/understudy/slow":
            threading.Event().wait(2)
            return
        content = json.dumps(
            {
                "method": self.command,
                "path": self.path,
                "headers": [[k.lower(), v] for k, v in self.headers.items()],
                "body": body,
            }
        ).encode()
        self.send_response(int(self.path.rsplit("/", 1)[1]) if "/code/" in self.path else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Keep the tests' output quiet."""


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """An HTTP server on a Unix socket."""

    daemon_threads = True

    def get_request(self) -> tuple[object, object]:  # type: ignore[override]
        connection, _ = super().get_request()
        return connection, ("unix", 0)


@pytest.fixture
def agent() -> Iterator[Path]:
    # A path below pytest's own folder can be longer than a Unix socket's name may be (108 bytes).
    with tempfile.TemporaryDirectory(prefix="us") as folder:
        path = Path(folder) / "agent.sock"
        with Server(str(path), Echo) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            yield path
            server.shutdown()
            thread.join()


def request(path: str, method: str = "GET", **parts: object) -> Request:
    values: dict[str, object] = {"query": {}, "headers": {}, "body": b""} | parts
    return Request(method=method, path=path, **values)  # type: ignore[arg-type]


def test_call_arrives_with_method_path_query_and_body(agent: Path) -> None:
    answer = call(agent, request("status", query={"a": "b&c=ü"}))
    seen = json.loads(answer.body)
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert (seen["method"], seen["path"]) == ("GET", "/understudy/status?a=b%26c%3D%C3%BC")
    posted = json.loads(call(agent, request("failback", "POST", body=b'{"dry_run": true}')).body)
    assert (posted["method"], posted["body"]) == ("POST", '{"dry_run": true}')


IDENTITY = {
    "x-understudy-user": "ann",
    "x-understudy-role": "reader",
    "x-understudy-time": "1790000000",
    "x-understudy-nonce": "1b4e28ba-2fa1-11d2-883f-0016d3cca427",
    "x-understudy-signature": "AB" * 32,
}


def test_identity_and_signature_go_on_as_they_came_and_no_password_does(agent: Path) -> None:
    sent = IDENTITY | {"authorization": "Basic eve", "cookie": "a=b", "content-type": "application/json"}
    answer = call(agent, request("promote", "POST", headers=sent, body=b"{}"))
    seen = [(name, value) for name, value in json.loads(answer.body)["headers"] if name.startswith("x-")]
    assert dict(seen) == IDENTITY
    assert len(seen) == len(IDENTITY)
    names = {name for name, _ in json.loads(answer.body)["headers"]}
    assert "content-type" in names
    assert not names & {"authorization", "cookie"}


def test_plugin_vouches_for_nobody(agent: Path) -> None:
    seen = json.loads(call(agent, request("wake", "POST")).body)["headers"]
    assert not [name for name, _ in seen if name.startswith("x-")]


def test_header_that_could_become_two_is_left_out(agent: Path) -> None:
    headers = {"x-understudy-user": "ann\r\nx-understudy-role: admin"}
    seen = json.loads(call(agent, request("status", headers=headers)).body)["headers"]
    assert not [name for name, _ in seen if name.startswith("x-")]


@pytest.mark.parametrize("status", [202, 401, 404, 409, 412, 503])
def test_status_of_the_agent_is_passed_back(agent: Path, status: int) -> None:
    assert call(agent, request(f"code/{status}")).status == status


def test_path_cannot_smuggle_a_second_request(agent: Path) -> None:
    seen = json.loads(call(agent, request("status HTTP/1.1\r\nx-understudy-role: admin\r\n\r\n")).body)
    assert not [value for name, value in seen["headers"] if name == "x-understudy-role"]
    assert "\r" not in seen["path"]


def test_absent_agent_answers_503_with_a_hint(tmp_path: Path) -> None:
    answer = call(tmp_path / "absent.sock", request("status"))
    document = json.loads(answer.body)
    assert (answer.status, answer.content_type) == (503, "application/json")
    assert set(document) == {"error", "message", "hint", "details"}
    assert document["error"] == "agent_unavailable"
    assert document["details"] == ["FileNotFoundError"]


def test_silent_agent_answers_503_after_the_timeout(agent: Path) -> None:
    assert call(agent, request("slow"), timeout=0.1).status == 503
