"""An S3 service as odd as real ones: headers that it refuses, locks that it forgets, a late listing."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class OddS3:
    """What the service has, and how it is odd; a test may change that at any time."""

    refuses: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Status and code by the header that it answers so to."""
    keeps_locks: bool = True
    lock_mode: str = "COMPLIANCE"
    tells_locks: bool = True
    late: set[str] = field(default_factory=set)
    """Keys that the listing does not show yet."""
    is_late: bool = False
    objects: dict[str, bytes] = field(default_factory=dict)
    piece: int = 2**16
    """Bytes of an object that it sends at a time."""
    pause: float = 0.0
    """Seconds between two pieces."""
    locks: dict[str, str] = field(default_factory=dict)
    puts: list[str] = field(default_factory=list)
    endpoint: str = ""


@contextmanager
def odd_s3() -> Iterator[OddS3]:
    """Serve one bucket on a free port of this machine."""
    service, ended = OddS3(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # The body, which comes after the headers, would wait for 40 ms until the client acknowledges these.
        disable_nagle_algorithm = True

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            key = unquote(urlsplit(self.path).path).split("/", 2)[2]
            service.puts.append(key)
            for header, (status, code) in service.refuses.items():
                if header in self.headers:
                    return self._fail(status, code)
            if self.headers.get("If-None-Match") == "*" and key in service.objects:
                return self._fail(412, "PreconditionFailed")
            service.objects[key] = body
            if service.is_late:
                service.late.add(key)
            if service.keeps_locks:
                service.locks[key] = self.headers["x-amz-object-lock-retain-until-date"]
            return self._answer(200, "", {"ETag": f'"{_md5(body)}"', "x-amz-version-id": "1"})

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = parse_qs(parts.query, keep_blank_values=True)
            if "versions" in query:
                return self._answer(200, _listing(service, query["prefix"][0]))
            key = unquote(parts.path).split("/", 2)[2]
            if "retention" in query and not service.tells_locks:
                return self._fail(403, "AccessDenied")
            if "retention" in query and key in service.locks:
                told = (
                    f"<Mode>{service.lock_mode}</Mode><RetainUntilDate>{service.locks[key]}</RetainUntilDate>"
                )
                return self._answer(200, f"<Retention>{told}</Retention>")
            if "retention" in query:
                return self._fail(404, "NoSuchObjectLockConfiguration")
            if "attributes" not in query and key in service.objects:
                return self._send(service.objects[key])
            return self._fail(501, "NotImplemented")

        def _send(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(OSError):
                # The client may have had enough.
                for start in range(0, len(content), service.piece):
                    self.wfile.write(content[start : start + service.piece])
                    self.wfile.flush()
                    ended.wait(service.pause)

        def _fail(self, status: int, code: str) -> None:
            self._answer(status, f"<Error><Code>{code}</Code><Message>no</Message></Error>")

        def _answer(self, status: int, body: str, headers: dict[str, str] | None = None) -> None:
            content = f'<?xml version="1.0"?>{body}'.encode() if body else b""
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    service.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield service
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _listing(service: OddS3, prefix: str) -> str:
    told = "".join(
        f"<Version><Key>{key}</Key><VersionId>1</VersionId><Size>{len(content)}</Size>"
        f"<ETag>&quot;{_md5(content)}&quot;</ETag><LastModified>2026-01-01T00:00:00Z</LastModified></Version>"
        for key, content in sorted(service.objects.items())
        if key.startswith(prefix) and key not in service.late
    )
    return f"<ListVersionsResult><IsTruncated>false</IsTruncated>{told}</ListVersionsResult>"


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
