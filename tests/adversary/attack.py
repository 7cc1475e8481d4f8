"""Attacks the edge from a container of its own for a fixed time; prints what it saw as one line of JSON.

Usage: python -m tests.adversary.attack KIND --host edge --seconds 30 --seed 1 [--only N]
KIND is association, data, identifier, object or http. The last needs USER:PASSWORD in ADVERSARY_LOGIN.
"""

import argparse
import base64
import json
import os
import random
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests import hostile
from tests.adversary import data_sets, requests, upper_layer
from tests.adversary.upper_layer import CT, EXPLICIT, FIND, GET, IMPLICIT, MOVE, VERIFICATION, Request

DICOM_PORT, HTTPS_PORT = 4242, 8443
WORKERS = 6
ANSWER_WITHIN = 6.0
"""Seconds after which a faulty request has to be answered or closed, however long the caller holds on."""
PATIENCE = 8.0
MOST_FINDINGS = 20

Case = Callable[["Attack", random.Random], str]


@dataclass(slots=True)
class Attack:
    """What one attack knows and what it saw."""

    host: str
    login: str
    instances: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, object]] = field(default_factory=list)
    cases: int = 0
    slowest: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def connect(self, port: int) -> socket.socket:
        connection = socket.create_connection((self.host, port), 5)
        connection.settimeout(PATIENCE)
        return connection

    def note(self, number: int, answer: str, seconds: float) -> None:
        with self.lock:
            self.cases += 1
            self.answers[answer.partition(":")[0]] += 1
            self.slowest = max(self.slowest, seconds)
            if answer.startswith("finding:") and len(self.findings) < MOST_FINDINGS:
                self.findings.append({"case": number, "what": answer.partition(":")[2].strip()})


def _answered(connection: socket.socket) -> str:
    """Return which PDU came first, or that the connection was closed or held without a word."""
    connection.settimeout(ANSWER_WITHIN)
    try:
        first = connection.recv(1)
    except TimeoutError:
        return "silence"
    except OSError:
        return "closed"
    return {b"": "closed", b"\2": "accepted", b"\3": "rejected", b"\7": "aborted"}.get(
        first, f"PDU {first.hex()}"
    )


def _association(attack: Attack, chance: random.Random) -> str:
    """A request by the grammar; whatever it is, there is an answer or an end, though the caller holds on."""
    shapes = upper_layer.faulty_requests(chance.choice([b"CT1", b"STRANGER"]))
    content = chance.choice(shapes).content if chance.random() < 0.3 else upper_layer.random_request(chance)
    with attack.connect(DICOM_PORT) as connection:
        pieces = chance.choice([1, 1, 1, 3])
        size = max(1, len(content) // pieces)
        try:
            for start in range(0, len(content), size):
                connection.sendall(content[start : start + size])
        except OSError:
            return "closed"
        answer = _answered(connection)
    return f"finding: no answer and no end within {ANSWER_WITHIN:g} s" if answer == "silence" else answer


def _associate(
    attack: Attack, calling: bytes, contexts: list[tuple[int, bytes, list[bytes]]]
) -> socket.socket | None:
    connection = attack.connect(DICOM_PORT)
    connection.sendall(Request(calling=calling, contexts=contexts).encoded())
    try:
        head = b""
        while len(head) < 6:
            more = connection.recv(6 - len(head))
            if not more:
                break
            head += more
        left = int.from_bytes(head[2:6], "big") if len(head) == 6 else 0
        while left > 0:
            more = connection.recv(min(left, 65536))
            if not more:
                break
            left -= len(more)
    except OSError:
        head = b""
    if head[:1] != b"\2":
        connection.close()
        return None
    return connection


def _data(attack: Attack, chance: random.Random) -> str:
    """A damaged message over a good association, from a listed device and from a stranger."""
    calling = chance.choice([b"CT1", b"WS1", b"STRANGER"])
    kind, sop_class = chance.choice(
        [(0x30, VERIFICATION), (0x01, CT), (0x20, FIND), (0x10, GET), (0x21, MOVE)]
    )
    connection = _associate(attack, calling, [(1, sop_class, [EXPLICIT, IMPLICIT])])
    if connection is None:
        return "no association"

    def valid() -> bytes:
        if kind == 0x30:
            return upper_layer.message(kind, sop_class, b"")
        item = hostile.good(str(chance.random()))
        data = item.data_set if kind == 0x01 else data_sets.identifier(chance)
        return upper_layer.message(kind, sop_class, data, uid=item.uid.encode() if kind == 0x01 else b"")

    with connection:
        try:
            connection.sendall(upper_layer.random_data(chance, valid))
            if chance.random() < 0.5:
                connection.shutdown(socket.SHUT_WR)
            connection.settimeout(1.0)
            return f"PDU {connection.recv(1).hex() or 'none'}"
        except TimeoutError:
            return "waits"
        except OSError:
            return "closed"


def _identifier(attack: Attack, chance: random.Random) -> str:
    """A query by the grammar from a listed reader."""
    sop_class, kind = chance.choice([(FIND, 0x20), (FIND, 0x20), (GET, 0x10), (MOVE, 0x21)])
    connection = _associate(attack, b"WS1", [(1, sop_class, [EXPLICIT])])
    if connection is None:
        return "no association"
    with connection:
        try:
            connection.sendall(upper_layer.message(kind, sop_class, data_sets.identifier(chance)))
            connection.settimeout(PATIENCE)
            return f"PDU {connection.recv(1).hex() or 'none'}"
        except TimeoutError:
            return "waits"
        except OSError:
            return "closed"


def _object(attack: Attack, chance: random.Random) -> str:
    """A damaged object by C-STORE from a stranger."""
    item = hostile.good(f"{chance.random()}")
    data = data_sets.damaged(chance, item.data_set) if chance.random() < 0.9 else item.data_set
    connection = _associate(attack, b"STRANGER", [(1, CT, [EXPLICIT])])
    if connection is None:
        return "no association"
    with connection:
        try:
            connection.sendall(upper_layer.message(0x01, CT, data, uid=item.uid.encode()))
            connection.settimeout(PATIENCE)
            return f"PDU {connection.recv(1).hex() or 'none'}"
        except TimeoutError:
            return "finding: a store that was sent whole has no answer"
        except OSError:
            return "closed"


def _context() -> ssl.SSLContext:
    # Whose certificate it is does not matter to an attacker.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _http(attack: Attack, chance: random.Random) -> str:
    """A request by the grammar from a reader or an operator, or from nobody."""
    login = chance.choice([attack.login, attack.login, "", "nobody:wrong"])
    authorization = base64.b64encode(login.encode()).decode() if login else ""
    request = requests.random_request(chance, attack.instances)
    with attack.connect(HTTPS_PORT) as plain, _context().wrap_socket(plain) as connection:
        try:
            connection.sendall(request.encoded(authorization))
            line = connection.recv(64)
        except TimeoutError:
            return "waits"
        except OSError:
            return "closed"
    status = line[9:12].decode("latin-1")
    own = request.target.startswith("/understudy/")
    if own and status == "500":
        return f"finding: the agent failed at {request.method} {request.target[:120]}"
    if not login and status.startswith("2") and not request.target.startswith("/understudy/health"):
        return f"finding: {status} without a password for {request.method} {request.target[:120]}"
    if login and request.method in ("PUT", "DELETE", "PATCH") and status.startswith("2"):
        return f"finding: {status} for {request.method} {request.target[:120]} by {login.partition(':')[0]}"
    return f"HTTP {status}"


KINDS: dict[str, Case] = {
    "association": _association,
    "data": _data,
    "identifier": _identifier,
    "object": _object,
    "http": _http,
}


def _work(attack: Attack, case: Case, seed: int, numbers: Callable[[], int | None]) -> None:
    while (number := numbers()) is not None:
        began = time.monotonic()
        try:
            answer = case(attack, random.Random(f"{seed}/{number}"))
        except OSError as error:
            # The edge refused the connection itself, which is its right.
            answer = f"refused ({type(error).__name__})"
            time.sleep(0.05)
        attack.note(number, answer, time.monotonic() - began)


def main() -> int:
    """Attack and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--host", default="edge")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int)
    parser.add_argument("--instances", default="")
    arguments = parser.parse_args()
    attack = Attack(arguments.host, os.environ.get("ADVERSARY_LOGIN", ""), arguments.instances.split())
    end = time.monotonic() + arguments.seconds
    lock = threading.Lock()
    next_number = 0

    def numbers() -> int | None:
        nonlocal next_number
        with lock:
            if arguments.only is not None:
                next_number += 1
                return arguments.only if next_number == 1 else None
            if time.monotonic() >= end:
                return None
            next_number += 1
            return next_number

    case = KINDS[arguments.kind]
    threads = [
        threading.Thread(target=_work, args=(attack, case, arguments.seed, numbers)) for _ in range(WORKERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(
        json.dumps(
            {
                "kind": arguments.kind,
                "seed": arguments.seed,
                "cases": attack.cases,
                "slowest_seconds": round(attack.slowest, 2),
                "answers": dict(attack.answers),
                "findings": attack.findings,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
