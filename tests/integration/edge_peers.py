"""Speaks to the edge as its peers do: good modalities, idle and broken connections, services of the stack."""

import base64
import hashlib
import hmac
import json
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, generate_uid
from pynetdicom import AE
from pynetdicom.association import Association

from tests.stack import Stack

Address = tuple[str, int]

VERIFICATION = UID("1.2.840.10008.1.1")
STUDY_ROOT_FIND = UID("1.2.840.10008.5.1.4.1.2.2.1")


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of one C-STORE: its status (None where nothing was answered) and how long it took."""

    status: int | None
    seconds: float


def fresh_instance(path: Path) -> Dataset:
    """Return the file's instance under a SOP Instance UID that nobody has seen."""
    instance = pydicom.dcmread(path)
    instance.SOPInstanceUID = instance.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    return instance


def associated(
    entity: AE, address: Address, called: str = "UNDERSTUDY", *, tls: tuple[ssl.SSLContext, str] | None = None
) -> Association:
    """Ask for an association on which no answer is lost.

    pynetdicom's own thread looks for requests of the peer. It can take an answer off the queue before the
    sender looks for it. Our peers request nothing, so it finds nothing here.
    """
    association = entity.associate(*address, ae_title=called, tls_args=tls)
    take = association.dimse.get_msg
    vars(association.dimse)["get_msg"] = lambda block=False: take(block=True) if block else (None, None)
    return association


def store(address: Address, instance: Dataset, calling: str = "CT1", called: str = "UNDERSTUDY") -> Stored:
    """Open an association, send the instance and release."""
    begin = time.monotonic()
    entity = AE(calling)
    entity.add_requested_context(instance.SOPClassUID, instance.file_meta.TransferSyntaxUID)
    association = associated(entity, address, called)
    status: int | None = None
    if association.is_established:
        # It raises where the association has ended meanwhile.
        with suppress(RuntimeError):
            status = association.send_c_store(instance).get("Status")
        association.release()
    return Stored(status, time.monotonic() - begin)


def echo(address: Address, calling: str, called: str) -> int | None:
    """Return the status of a C-ECHO, or None where nothing was answered."""
    entity = AE(calling)
    entity.add_requested_context(VERIFICATION)
    association = associated(entity, address, called)
    status: int | None = None
    if association.is_established:
        with suppress(RuntimeError):
            status = association.send_c_echo().get("Status")
        association.release()
    return status


def find_statuses(address: Address, calling: str) -> list[int]:
    """Return the statuses that answer a STUDY-level C-FIND; none where the association was refused."""
    entity = AE(calling)
    entity.add_requested_context(STUDY_ROOT_FIND)
    association = associated(entity, address)
    if not association.is_established:
        return []
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    query.StudyInstanceUID = ""
    answers = association.send_c_find(query, STUDY_ROOT_FIND)
    statuses = [int(status.Status) for status, _ in answers if "Status" in status]
    association.release()
    return statuses


def half_an_association_request() -> bytes:
    """Return the beginning of an A-ASSOCIATE-RQ whose length promises more (DICOM PS3.8 9.3.2)."""
    header = struct.pack(">BBI", 1, 0, 5000) + b"\0\1\0\0"
    return header + b"UNDERSTUDY".ljust(16) + b"SLOW".ljust(16) + bytes(32)


@contextmanager
def connections(address: Address, count: int, first_bytes: bytes = b"") -> Iterator[list[socket.socket]]:
    """Hold open this many connections, each of which has sent these bytes and nothing else."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(address, 5)) for _ in range(count)]
        for connection in held:
            connection.sendall(first_bytes)
        yield held


@contextmanager
def untaken_answers(
    stack: Stack, login: tuple[str, str], path: str, count: int
) -> Iterator[list[ssl.SSLSocket]]:
    """Ask so often for a large file, over a connection for each request, and take none of the answers."""
    host, port = stack.port("edge", 8443)
    basic = base64.b64encode(":".join(login).encode()).decode()
    asked = f"GET {path} HTTP/1.1\r\nHost: edge\r\nAuthorization: Basic {basic}\r\n\r\n".encode()
    context = ssl._create_unverified_context()
    with ExitStack() as opened:
        held = []
        for _ in range(count):
            plain = socket.socket()
            # A small buffer: the system itself would take much of the answer.
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            plain.settimeout(10)
            plain.connect((host, port))
            held.append(opened.enter_context(context.wrap_socket(plain)))
        for connection in held:
            connection.sendall(asked)
        yield held


_CALL = """
import base64, json, sys, urllib.error, urllib.request
account, method, path, headers, body = json.loads(sys.argv[1])
known = account in ("edge", "agent")
secret = open(f"/var/lib/understudy-keys/service/{account}").read().strip() if known else "wrong"
login = base64.b64encode(f"{account}:{secret}".encode()).decode()
headers["Authorization"] = "Basic " + login
url = "http://127.0.0.1:8042" + path
request = urllib.request.Request(url, method=method, headers=headers, data=body and body.encode())
try:
    with urllib.request.urlopen(request, timeout=30) as answer:
        print(json.dumps([answer.status, answer.read().decode("utf-8", "replace")]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, error.read().decode("utf-8", "replace")]))
"""


def call_orthanc(
    stack: Stack,
    account: str,
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    body: str | None = None,
) -> tuple[int, str]:
    """Call Orthanc's REST from within its container, past the edge, and return status and body."""
    argument = json.dumps([account, method, path, headers or {}, body])
    status, text = json.loads(stack.execute("orthanc", "/usr/bin/python3", "-c", _CALL, argument))
    return int(status), str(text)


def signed_person(stack: Stack, role: str, method: str, target: str) -> dict[str, str]:
    """Return the headers with which the edge speaks for a person to the agent, for this one request."""
    key = base64.b64decode(stack.execute("edge", "cat", "/var/lib/understudy-keys/service/signing"))
    user, moment, nonce = "somebody", f"{time.time():.0f}", str(uuid4())
    said = f"{moment} {nonce} {role} {user} {method} {target}"
    return as_person(role) | {
        "X-Understudy-Time": moment,
        "X-Understudy-Nonce": nonce,
        "X-Understudy-Signature": hmac.new(key, said.encode(), hashlib.sha256).hexdigest(),
    }


def as_person(role: str) -> dict[str, str]:
    """Return the headers with which the edge speaks for a person of this role to Orthanc."""
    return {"X-Understudy-User": "somebody", "X-Understudy-Role": role}


def document(text: str) -> dict[str, Any]:
    """Return a JSON object."""
    content = json.loads(text)
    assert isinstance(content, dict)
    return content
