"""Parts of the vault's tests: stored files as Orthanc keeps them, a still clock, a store that dies."""

import hashlib
import itertools
import json
import os
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pydicom
from understudy.adapters.directory import DirectoryStore
from understudy.adapters.encryption import AgeOpener, AgeSealer, KeyPair, new_key_pair
from understudy.adapters.signing import Ed25519Signer, new_signing_key
from understudy.adapters.storage import StorageArea
from understudy.core.model import (
    HolderName,
    Instance,
    InstanceNumber,
    SeriesInstanceUid,
    SopInstanceUid,
    StudyInstanceUid,
    Timestamp,
)
from understudy.core.packing import Digests, PackIntent
from understudy.core.ports import Clock, ObjectStore, Reads, StoredFiles, StoredObject
from understudy.engine.memory import Memory
from understudy.holders.vault import Vault, VaultSettings
from understudy.ledger import Ledger, PackBook
from understudy.system.spool import Spool

from tests.data import ct_series

REPOSITORY = Path(__file__).parent.parent
SPOOL = Spool(Path(tempfile.gettempdir()), 2**20)
NAME = HolderName("vault")
NOW = Timestamp(1_700_000_000.0)


class StillClock(Clock):
    """A clock at one moment."""

    def __init__(self, now: float | None = None) -> None:
        super().__init__(lambda: NOW if now is None else now, lambda: 0.0, threading.Lock())


class Storage:
    """A storage area with files in it, and the instances that Orthanc would tell of."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._numbers = itertools.count(1)

    def keep(
        self, content: bytes, *, sop: str, study: str, series: str = "1.2.3", received_at: float = NOW
    ) -> Instance:
        """Put the bytes where Orthanc would and return the instance."""
        name = str(uuid.uuid4())
        path = self.root / name[0:2] / name[2:4] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        number = next(self._numbers)
        return Instance(
            orthanc_id=f"orthanc-{number}",
            attachment_uuid=name,
            sop_instance_uid=SopInstanceUid(sop),
            sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
            series_instance_uid=SeriesInstanceUid(series),
            study_instance_uid=StudyInstanceUid(study),
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            modality="CT",
            size=len(content),
            md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
            calling_ae_title="CT1",
            called_ae_title="STANDBY",
            remote_address="192.0.2.1",
            received_at=Timestamp(received_at),
            number=InstanceNumber(number),
        )

    def series(
        self, seed: str, count: int = 3, *, size: int = 32, received_at: float = NOW
    ) -> list[Instance]:
        """Keep a generated CT series; `size` is rows and columns."""
        with tempfile.TemporaryDirectory() as folder:
            made = ct_series(Path(folder), seed=seed, instances=count, rows=size, columns=size)
            return [
                self.keep(
                    path.read_bytes(),
                    sop=sop,
                    study=made.study_instance_uid,
                    series=made.series_instance_uid,
                    received_at=received_at,
                )
                for sop, path in zip(made.sop_instance_uids, made.paths, strict=True)
            ]

    def content(self, instance: Instance) -> bytes:
        return self.path(instance).read_bytes()

    def path(self, instance: Instance) -> Path:
        name = instance.attachment_uuid
        return self.root / name[0:2] / name[2:4] / name


@dataclass
class Bench:
    """A vault in a directory with all its parts."""

    folder: Path
    storage: Storage
    keys: KeyPair
    store: DirectoryStore
    ledger: Ledger
    opener: AgeOpener
    signer: Ed25519Signer

    def vault(
        self,
        store: ObjectStore | None = None,
        book: PackBook | None = None,
        *,
        signer: Ed25519Signer | None = None,
        now: float | None = None,
        memory: Memory | None = None,
        spool: Spool | None = None,
        files: StoredFiles | None = None,
    ) -> Vault:
        return Vault(
            VaultSettings(NAME, "clinic", None),
            files or StorageArea(self.storage.root),
            store or self.store,
            AgeSealer([self.keys.recipient]),
            book or self.ledger.packs,
            StillClock(now),
            spool or Spool(self.folder, 2**20),
            signer=signer,
            memory=memory,
        )

    def stored(self, prefix: str) -> list[str]:
        return [item.key for item in self.store.list(prefix)]


@contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """Give a bench below the folder."""
    for name in ("storage", "vault"):
        (folder / name).mkdir(parents=True)
    keys = new_key_pair()
    ledger = Ledger(folder / "ledger.sqlite")
    try:
        yield Bench(
            folder,
            Storage(folder / "storage"),
            keys,
            DirectoryStore(NAME, folder / "vault"),
            ledger,
            AgeOpener(keys.identity),
            Ed25519Signer(new_signing_key()),
        )
    finally:
        ledger.close()


class Killed(BaseException):
    """Stands for kill -9: nothing of ours catches it."""


class Death:
    """Counts calls and dies at one of them: before its effect, or after it and before its answer."""

    def __init__(self, at: int, *, after: bool) -> None:
        self._at = at
        self._after = after
        self._calls = 0

    @contextmanager
    def call(self) -> Iterator[None]:
        self._calls += 1
        if self._calls == self._at and not self._after:
            raise Killed
        yield
        if self._calls == self._at:
            raise Killed


class DyingStore:
    """A store that counts its calls towards a death."""

    def __init__(self, store: ObjectStore, death: Death) -> None:
        self._store = store
        self._death = death

    @property
    def retained(self) -> bool:
        return self._store.retained

    @property
    def largest(self) -> int:
        return self._store.largest

    def put_file(
        self, key: str, file: BinaryIO, digests: Digests, retain_until: Timestamp | None
    ) -> StoredObject:
        with self._death.call():
            return self._store.put_file(key, file, digests, retain_until)

    def put(self, key: str, content: bytes, retain_until: Timestamp | None) -> StoredObject:
        with self._death.call():
            return self._store.put(key, content, retain_until)

    def stat(self, key: str) -> StoredObject | None:
        with self._death.call():
            return self._store.stat(key)

    def open(self, key: str, version: str = "") -> AbstractContextManager[Reads]:
        return self._store.open(key, version)

    def get(self, key: str, version: str = "") -> bytes:
        return self._store.get(key, version)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        return self._store.list(prefix)


class DyingBook(PackBook):
    """A pack book that counts its calls towards a death."""

    def __init__(self, ledger: Ledger, death: Death) -> None:
        super().__init__(ledger.database)
        self._death = death

    def plan(self, holder: HolderName, intent: PackIntent) -> None:
        with self._death.call():
            super().plan(holder, intent)

    def open(self, holder: HolderName, numbers: Sequence[InstanceNumber]) -> list[PackIntent]:
        with self._death.call():
            return super().open(holder, numbers)

    def close(self, holder: HolderName, key: str) -> None:
        with self._death.call():
            super().close(holder, key)


@dataclass(frozen=True)
class S3Service:
    """The lab's S3 and the keys of its two users, as (access key, secret key)."""

    endpoint: str
    bucket: str
    writer: tuple[str, str]
    reader: tuple[str, str]


@contextmanager
def s3_service() -> Iterator[S3Service]:
    """Start the lab's Ceph with its S3 gateway on a free port of this machine and remove it afterwards."""
    tag = os.environ.get("UNDERSTUDY_S3_IMAGE", "understudy-s3:local")
    if subprocess.run(["docker", "image", "inspect", tag], capture_output=True, check=False).returncode != 0:
        folder = REPOSITORY / "docker/lab/s3"
        _run([str(REPOSITORY / "docker/build.sh"), tag, str(folder / "Dockerfile"), str(folder)])
    # As in the lab's compose file: a start that fails is tried again, with an empty /tmp.
    options = ["--restart", "on-failure:5", "--tmpfs", "/tmp:mode=1777", "--publish", "127.0.0.1::7480"]
    container = _run(["docker", "run", "--detach", *options, tag])
    try:
        deadline = time.monotonic() + 300
        probe = ["docker", "exec", container, "healthy.sh"]
        while subprocess.run(probe, capture_output=True, check=False).returncode != 0:
            if time.monotonic() > deadline:
                raise TimeoutError("the S3 gateway was not ready in 300 s:\n" + _logs(container))
            time.sleep(0.5)
        # Asked now, since each start gets another port.
        port = _run(["docker", "port", container, "7480"]).splitlines()[0].rsplit(":", 1)[1]
        yield S3Service(
            f"http://127.0.0.1:{port}", "vault", _keys(container, "writer"), _keys(container, "reader")
        )
    finally:
        _run(["docker", "rm", "--force", "--volumes", container])


@contextmanager
def deaf_proxy(endpoint: str) -> Iterator[str]:
    """Give an address that passes everything on, but loses the first answer of success."""
    lost = threading.Event()

    def answer(block: bytes) -> bytes | None:
        if block.startswith(b"HTTP/1.1 200") and not lost.is_set():
            lost.set()
            return None
        return block

    with _proxy(endpoint, request=lambda block: block, answer=answer) as address:
        yield address
    assert lost.is_set(), "no answer of success came by"


@contextmanager
def changing_proxy(endpoint: str, old: bytes, new: bytes) -> Iterator[str]:
    """Give an address that passes everything on with some bytes changed."""
    with _proxy(
        endpoint, request=lambda block: block.replace(old, new), answer=lambda block: block
    ) as address:
        yield address


@contextmanager
def _proxy(
    endpoint: str, request: Callable[[bytes], bytes], answer: Callable[[bytes], bytes | None]
) -> Iterator[str]:
    host, port = endpoint.removeprefix("http://").split(":")

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((host, int(port))) as upstream:
                pump = threading.Thread(target=self._requests, args=(upstream,), daemon=True)
                pump.start()
                while block := upstream.recv(65536):
                    passed = answer(block)
                    if passed is None:
                        break
                    self.request.sendall(passed)
                # Ends the other direction too.
                self.request.shutdown(socket.SHUT_RDWR)
                pump.join()

        def _requests(self, upstream: socket.socket) -> None:
            with suppress(OSError):
                while block := self.request.recv(65536):
                    upstream.sendall(request(block))
                upstream.shutdown(socket.SHUT_WR)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Say nothing: a client that goes away is what these proxies are for."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def unpack_by_hand(packs: Sequence[Path], identity: str, target: Path) -> None:
    """Unpack by age and zstd of the appliance's image and by this machine's tar, and by nothing of ours."""
    target.mkdir(parents=True)
    # The key is the first line of the standard input and the pack is the rest of it.
    script = (
        'set -o pipefail; read -r key; age --decrypt --identity <(printf "%s\\n" "$key") | zstd --decompress'
    )
    command = ["docker", "run", "--rm", "--interactive", "--network", "none", "--entrypoint", "bash"]
    for pack in packs:
        plain = subprocess.run(
            [*command, "understudy:local", "-c", script],
            input=identity.encode("ascii") + b"\n" + pack.read_bytes(),
            capture_output=True,
            check=True,
        )
        subprocess.run(["tar", "--extract", "--directory", str(target)], input=plain.stdout, check=True)


def sop_instance_uid(path: Path) -> str:
    """Return the SOP Instance UID that a restored file has."""
    return str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)


def _logs(container: str) -> str:
    command = ["docker", "logs", "--tail", "50", container]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout


def _keys(container: str, user: str) -> tuple[str, str]:
    keys = json.loads(_run(["docker", "exec", container, "cat", f"/var/lib/s3/{user}.json"]))
    return keys["access_key"], keys["secret_key"]


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed: {done.stderr[-2000:]}")
    return done.stdout.strip()
