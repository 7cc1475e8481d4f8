"""Sends one large file through a part of the agent in a process of its own, and tells how its memory grew.

`python -m tests.large WAY MEGABYTES FOLDER AT_ONCE` prints how much the largest resident set grew, and the
largest, in MB.
"""

import hashlib
import json
import os
import shutil
import socketserver
import struct
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from understudy.adapters.dicom import DicomPeer
from understudy.adapters.dicomweb import DicomWebServer
from understudy.adapters.directory import DirectoryStore
from understudy.adapters.encryption import AgeOpener, AgeSealer, KeyPair, new_key_pair
from understudy.adapters.part10 import dcmtk_head
from understudy.adapters.s3 import Credentials, S3Store
from understudy.adapters.storage import StorageArea
from understudy.adapters.targets import FolderTarget
from understudy.core.model import (
    HolderKind,
    HolderName,
    Instance,
    InstanceNumber,
    Outcome,
    SeriesInstanceUid,
    SopInstanceUid,
    StudyInstanceUid,
)
from understudy.core.ports import Clock, ObjectStore, Receiver
from understudy.flow.restore import restore
from understudy.holders.destination import DicomDestination
from understudy.holders.vault import Vault, VaultSettings
from understudy.ledger import Ledger
from understudy.system.spool import Spool

REPOSITORY = Path(__file__).parent.parent
NAME = HolderName("vault")
CT, EXPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
SOP = "1.2.3.1"
HEAD = dcmtk_head(CT, SOP, EXPLICIT, "OFFIS_DCMTK_370")
_BLOCK = 2**24
"""Bytes after which the file repeats itself: further than zstd looks back, so that nothing is compressed."""


class _Clock(Clock):
    def __init__(self) -> None:
        super().__init__(lambda: 1_700_000_000.0, lambda: 0.0, threading.Lock())


@dataclass(frozen=True)
class _Parts:
    """What one way needs, below one folder; nothing here needs more than the agent's image has."""

    folder: Path
    instance: Instance
    ledger: Ledger
    keys: KeyPair

    @property
    def files(self) -> StorageArea:
        return StorageArea(self.folder / "storage")

    @property
    def path(self) -> Path:
        return self.files.path(self.instance)


@contextmanager
def _parts(folder: Path, megabytes: int) -> Iterator[_Parts]:
    """Give the parts, with one file of this size kept as Orthanc would."""
    for name in ("storage", "vault"):
        (folder / name).mkdir(parents=True)
    name = str(uuid.uuid4())
    path = folder / "storage" / name[0:2] / name[2:4] / name
    path.parent.mkdir(parents=True)
    block, length = os.urandom(_BLOCK), megabytes * 10**6
    digest = hashlib.md5(usedforsecurity=False)
    start = HEAD + struct.pack("<HH2sxxI", 0x7FE0, 0x10, b"OW", length)
    with path.open("wb") as file:
        for piece in (start, *repeat(block, length // _BLOCK), block[: length % _BLOCK]):
            file.write(piece)
            digest.update(piece)
    instance = Instance(
        orthanc_id="orthanc-1",
        attachment_uuid=name,
        sop_instance_uid=SopInstanceUid(SOP),
        sop_class_uid=CT,
        series_instance_uid=SeriesInstanceUid("1.2.3.4"),
        study_instance_uid=StudyInstanceUid("1.2.3"),
        transfer_syntax_uid=EXPLICIT,
        modality="CT",
        size=len(start) + length,
        md5=digest.hexdigest(),
        calling_ae_title="CT1",
        called_ae_title="STANDBY",
        remote_address="192.0.2.1",
        received_at=_Clock().now(),
        number=InstanceNumber(1),
    )
    ledger = Ledger(folder / "ledger.sqlite")
    try:
        yield _Parts(folder, instance, ledger, new_key_pair())
    finally:
        ledger.close()
        shutil.rmtree(folder)


def growth(way: str, megabytes: int, folder: Path) -> float:
    """Run one way in a process of its own and return how many MB its memory grew by."""
    command = [sys.executable, "-m", "tests.large", way, str(megabytes), str(folder), "1"]
    path = os.pathsep.join(str(REPOSITORY / name) for name in ("plugins", "."))
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return float(json.loads(done.stdout)["growth"])


def _peak() -> float:
    # Not getrusage: it tells the parent's memory, too, from before this program was loaded.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _through_vault(parts: _Parts, store: ObjectStore, days: int | None) -> None:
    spool = Spool(parts.folder, 2**20)
    sealer, settings = AgeSealer([parts.keys.recipient]), VaultSettings(NAME, "clinic", days)
    vault = Vault(settings, parts.files, store, sealer, parts.ledger.packs, _Clock(), spool)
    (delivery,) = vault.deliver([parts.instance])
    assert delivery.outcome is Outcome.DELIVERED, delivery
    opener = AgeOpener(parts.keys.identity)
    result = restore(store, opener, FolderTarget(parts.folder / "restored"), spool=spool)
    assert (result.restored, result.failed) == (1, ())
    (restored,) = (parts.folder / "restored").rglob("*.dcm")
    with restored.open("rb") as file:
        assert hashlib.file_digest(file, "md5").hexdigest() == parts.instance.md5


def _directory(parts: _Parts) -> None:
    _through_vault(parts, DirectoryStore(NAME, parts.folder / "vault"), None)


def _s3(parts: _Parts) -> None:
    with large_s3(parts.folder / "vault") as (endpoint, bodies):
        store = S3Store(NAME, endpoint, "bucket", "us-east-1", lambda: Credentials("a", "b"))
        _through_vault(parts, store, 1)
        # A pack is one put, whatever its size: its ETag stays the MD5 of its bytes.
        assert len(bodies) == 2
        assert max(bodies) > parts.instance.size


def _send(parts: _Parts, receiver: Receiver) -> None:
    destination = DicomDestination(HolderKind.ROUTE, receiver, parts.files, _Clock())
    (delivery,) = destination.deliver([parts.instance])
    assert delivery.outcome is Outcome.DELIVERED, delivery


def _c_store(parts: _Parts) -> None:
    with _receiver() as (port, received):
        peer = DicomPeer(
            "archive", ae_title="A", host="127.0.0.1", port=port, calling_ae_title="B", timeout=60
        )
        _send(parts, peer)
    assert received.hexdigest() == parts.files.data_set_digest(parts.instance)


def _stow(parts: _Parts) -> None:
    with large_s3(parts.folder / "vault") as (endpoint, bodies):
        _send(parts, DicomWebServer("archive", f"{endpoint}/dicom-web", timeout=60))
        assert min(bodies) > parts.instance.size


WAYS: Mapping[str, Callable[[_Parts], None]] = {
    "directory": _directory,
    "s3": _s3,
    "c-store": _c_store,
    "stow-rs": _stow,
}


@contextmanager
def large_s3(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Serve one bucket from a folder, and STOW-RS; give the address and the size of each body."""
    bodies: list[int] = []
    etags: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            key = unquote(urlsplit(self.path).path).split("/", 2)[2].replace("/", "_")
            digest = self._body(folder / key)
            etags[key] = digest.hexdigest()
            self._answer(200, b"", {"ETag": f'"{etags[key]}"', "x-amz-version-id": "1"})

        def do_POST(self) -> None:
            self._body(Path(os.devnull))
            said = {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [SOP]}}]}}
            self._answer(200, json.dumps(said).encode(), {})

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = parse_qs(parts.query, keep_blank_values=True)
            if "versions" in query:
                told = "".join(
                    f"<Version><Key>{path.name.replace('_', '/')}</Key><VersionId>1</VersionId>"
                    f"<Size>{path.stat().st_size}</Size><ETag>&quot;{etags[path.name]}&quot;</ETag></Version>"
                    for path in sorted(folder.iterdir())
                    if path.name.startswith(query["prefix"][0].replace("/", "_"))
                )
                told = f"<ListVersionsResult><IsTruncated>false</IsTruncated>{told}</ListVersionsResult>"
                self._answer(200, told.encode(), {})
            elif "attributes" in query:
                self._answer(501, b"<Error><Code>NotImplemented</Code></Error>", {})
            else:
                path = folder / unquote(parts.path).split("/", 2)[2].replace("/", "_")
                self._answer(200, b"", {}, path)

        def _body(self, path: Path) -> Any:
            left = int(self.headers["Content-Length"])
            bodies.append(left)
            digest = hashlib.md5(usedforsecurity=False)
            with path.open("wb") as file:
                while left:
                    piece = self.rfile.read(min(left, 2**20))
                    left -= len(piece)
                    digest.update(piece)
                    file.write(piece)
            return digest

        def _answer(
            self, status: int, body: bytes, headers: Mapping[str, str], file: Path | None = None
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if file is None else file.stat().st_size))
            self.end_headers()
            self.wfile.write(body)
            if file is not None:
                with file.open("rb") as content:
                    while piece := content.read(2**20):
                        self.wfile.write(piece)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", bodies
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def _receiver() -> Iterator[tuple[int, Any]]:
    """Serve C-STORE for one association, and give the port and the digest of the data sets."""
    digest = hashlib.sha256()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while head := self.rfile.read(6):
                kind, length = struct.unpack(">BxI", head)
                if kind == 1:
                    self._accept(self.rfile.read(length))
                elif kind == 4:
                    self._take(length)
                else:
                    self.rfile.read(length)
                    self.wfile.write(struct.pack(">BxIxxxx", 6, 4))

        def _accept(self, request: bytes) -> None:
            context = bytes([1, 0, 0, 0]) + struct.pack(">BxH", 0x40, len(EXPLICIT)) + EXPLICIT.encode()
            largest = struct.pack(">BxHI", 0x51, 4, 2**17)
            items = struct.pack(">BxH", 0x21, len(context)) + context
            items += struct.pack(">BxH", 0x50, len(largest)) + largest
            body = request[:68] + items
            self.wfile.write(struct.pack(">BxI", 2, len(body)) + body)

        def _take(self, length: int) -> None:
            _, context, flags = struct.unpack(">IBB", self.rfile.read(6))
            content = self.rfile.read(length - 6)
            if flags & 1:
                return
            digest.update(content)
            if flags & 2:
                elements = [(0x0002, CT.encode() + b"\0"), (0x0100, b"\1\x80"), (0x0120, b"\2\0")]
                elements += [(0x0800, b"\1\1"), (0x0900, b"\0\0")]
                command = b"".join(struct.pack("<HHI", 0, tag, len(text)) + text for tag, text in elements)
                command = struct.pack("<HHII", 0, 0, 4, len(command)) + command
                value = struct.pack(">IBB", len(command) + 2, context, 3) + command
                self.wfile.write(struct.pack(">BxI", 4, len(value)) + value)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            yield server.server_address[1], digest
        finally:
            server.shutdown()


def main() -> None:
    """Run one way, as often at once as is asked for, and print how much memory it took."""
    way, megabytes, folder, at_once = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    # What every file takes is loaded by a small one.
    with _parts(folder / "first", 10) as first:
        WAYS[way](first)
    with ExitStack() as stack:
        large = [stack.enter_context(_parts(folder / str(one), megabytes)) for one in range(at_once)]
        before = _peak()
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(WAYS[way], large))
        print(json.dumps({"growth": _peak() - before, "peak": _peak()}))


if __name__ == "__main__":
    main()
