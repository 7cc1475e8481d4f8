"""The peer on DICOMweb: STOW-RS and QIDO-RS that misbehave by the script (DICOM PS3.18 10.5 and 10.6).

The act of an instance decides what is said of it. Where an act breaks off, hangs or trickles, it does so with
the whole request.
"""

import json
import sys
import threading
from collections.abc import Mapping, Sequence
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.lab import dataset_bytes
from tests.peer.acting import Acting, Sent
from tests.peer.ending import end
from tests.peer.record import Entry, Moment
from tests.peer.script import Act, Answer, Break, Hang, Listing, Script, Trickle

JSON = "application/dicom+json"
_PART = 2**14
"""Bytes of a request that are read at a time."""


class WebArchive(Acting):
    """Listens on a free port of this machine while it is entered; its service is below `url`."""

    def __init__(self, script: Script | None = None) -> None:
        super().__init__(script)
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        """The base of the service, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/dicom-web"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.script = Script()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    def __init__(self, archive: WebArchive) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.archive = archive

    def handle_error(self, *arguments: Any) -> None:
        """Pass over senders that gave up; tell of the rest."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*arguments)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_: object) -> None:
        """Say nothing: the record does."""

    def do_POST(self) -> None:
        """Take a request of STOW-RS."""
        archive = self.server.archive
        length = int(self.headers["Content-Length"])
        acts = [archive.next_act()]
        if self._acted(acts[0], self.rfile, length):
            return
        content = self.rfile.read(length)
        script = archive.script
        if script.http_status is not None:
            self._answer(script.http_status, b"")
            return
        files = _parts(self.headers, content)
        acts += [archive.next_act() for _ in files[1:]]
        told: list[tuple[Entry, int]] = []
        for file, act in zip(files, acts, strict=True):
            sent = Sent.read(file, dataset_bytes(file))
            told.append((sent.entry, archive.take(sent, act)))
        whole = next((act for act in acts if not isinstance(act, Answer)), None)
        if isinstance(whole, Break):
            self._break(whole)
        elif isinstance(whole, Hang):
            archive.hang()
            self.close_connection = True
        else:
            status, body = _told(told, script)
            self._answer(status, body, whole)

    def _acted(self, act: Act, incoming: Any, length: int) -> bool:
        """Do in the middle of the request what is to be done there, and return whether there was anything."""
        if not isinstance(act, Break | Hang) or act.after_bytes is None:
            return False
        left = min(length, act.after_bytes)
        while left > 0:
            left -= len(incoming.read(min(left, _PART)))
        if isinstance(act, Hang):
            self.server.archive.hang()
            self.close_connection = True
        else:
            self._break(act)
        return True

    def _break(self, act: Break) -> None:
        self.close_connection = True
        end(self.connection, act.ending)
        self.server.archive.record.note(Moment.BROKEN)

    def do_GET(self) -> None:
        """Answer QIDO-RS for studies and for the instances of a study."""
        archive = self.server.archive
        parts = urlsplit(self.path).path.split("/")
        if parts[-2] == "instances":
            self._give_back(parts[-1])
            return
        match archive.script.listing:
            case Listing.SILENT:
                archive.hang()
                self.close_connection = True
                return
            case Listing.REFUSED:
                self._answer(503, b"")
                return
            case Listing.ABORTED:
                self._answer(403, b"")
                return
            case Listing.EMPTY:
                entries: Sequence[Entry] = ()
            case Listing.WHOLE:
                entries = list(archive.record.kept.values())
        archive.record.note(Moment.ASKED)
        address = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(address.query).items()}
        found = _found(address.path, asked, entries)
        self._answer(200 if found else 204, json.dumps(found).encode() if found else b"")

    def _give_back(self, sop_instance_uid: str) -> None:
        """Answer WADO-RS for one instance (DICOM PS3.18 10.4)."""
        file = self.server.archive.given_back(sop_instance_uid)
        if file is None:
            self._answer(404, b"")
            return
        head = b"--here\r\nContent-Type: application/dicom\r\n\r\n"
        kind = 'multipart/related; type="application/dicom"; boundary=here'
        self._answer(200, head + file + b"\r\n--here--\r\n", kind=kind)

    def _answer(self, status: int, body: bytes, slowly: Trickle | None = None, *, kind: str = JSON) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if slowly is None:
            self.wfile.write(body)
            return
        go_on = self.server.archive.go_on
        for number in range(len(body)):
            if slowly.most is not None and number >= slowly.most:
                self.server.archive.hang()
            go_on.wait(slowly.pause)
            self.wfile.write(body[number : number + 1])


def _parts(headers: Message, content: bytes) -> list[bytes]:
    """Return the bodies of a multipart/related request."""
    boundary = headers.get_param("boundary")
    if headers.get_content_type() != "multipart/related" or not isinstance(boundary, str):
        raise AssertionError(f"not a request of STOW-RS: {headers['Content-Type']}")
    pieces = content.split(b"--" + boundary.encode())[1:-1]
    return [piece.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for piece in pieces]


def _told(told: Sequence[tuple[Entry, int]], script: Script) -> tuple[int, bytes]:
    """Return the status and body that speak of every instance (DICOM PS3.18 10.5.3 and I.2)."""
    stored: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for entry, status in told:
        reference: dict[str, Any] = {
            "00081150": {"vr": "UI", "Value": [entry.sop_class_uid]},
            "00081155": {"vr": "UI", "Value": [entry.sop_instance_uid]},
        }
        is_stored = Answer(status).stores
        if is_stored and status:
            reference["00081196"] = {"vr": "US", "Value": [status]}
        if not is_stored:
            reference["00081197"] = {"vr": "US", "Value": [status]}
        if entry.sop_instance_uid not in script.unmentioned:
            (stored if is_stored else failed).append(reference)
    warned = any(status for _, status in told)
    all_failed = not any(Answer(status).stores for _, status in told)
    body: dict[str, Mapping[str, Any]] = {}
    if stored:
        body["00081199"] = {"vr": "SQ", "Value": stored}
    if failed:
        body["00081198"] = {"vr": "SQ", "Value": failed}
    return 409 if all_failed else 202 if warned else 200, json.dumps(body).encode()


def _found(path: str, asked: Mapping[str, str], entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Return what QIDO-RS answers, by pages where they are asked for (DICOM PS3.18 8.3.4.4)."""
    _, _, below = path.partition("/dicom-web/")
    parts = below.split("/")
    study = parts[1] if len(parts) > 2 else asked.get("StudyInstanceUID", asked.get("0020000D", ""))
    wanted = [one for one in entries if study in ("", one.study_instance_uid)]
    if parts[-1] == "studies":
        uids = dict.fromkeys(one.study_instance_uid for one in wanted)
        found = [{"0020000D": _uid(uid)} for uid in uids]
    else:
        found = [
            {
                "0020000D": _uid(one.study_instance_uid),
                "0020000E": _uid(one.series_instance_uid),
                "00080016": _uid(one.sop_class_uid),
                "00080018": _uid(one.sop_instance_uid),
            }
            for one in wanted
        ]
    start = int(asked.get("offset", 0))
    return found[start : start + int(asked.get("limit", len(found)))]


def _uid(value: str) -> dict[str, Any]:
    return {"vr": "UI", "Value": [value]}
