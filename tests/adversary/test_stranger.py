"""A stranger on the network, who knows what anybody can see: addresses, ports and AE titles."""

import base64
import json
import os
import zlib

import pytest

from tests.adversary import upper_layer
from tests.adversary.clinic import IMPOSTORS, Clinic, seconds_of_a_case
from tests.stack import wait_until

pytestmark = pytest.mark.needs("image")

HELD_SECONDS = float(os.environ.get("ADVERSARY_HELD", "6"))
"""`make adversary` holds them for five minutes."""

_HOLD = """
import base64, json, os, socket, sys, time, zlib
shapes = json.loads(zlib.decompress(base64.b64decode(sys.argv[1])))
copies, seconds = int(sys.argv[2]), float(sys.argv[3])
held, ends = [], {}
address = (socket.gethostbyname("edge"), 4242)
for name, content in shapes:
    for number in range(copies):
        connection = socket.create_connection(address, 5)
        try:
            connection.sendall(bytes.fromhex(content))
        except ConnectionError:
            # It is closed already, which is what is read below.
            pass
        held.append((name, connection))
time.sleep(seconds)
for name, connection in held:
    connection.setblocking(False)
    try:
        answer = connection.recv(1)
    except BlockingIOError:
        answer = None
    except OSError:
        answer = b""
    words = {None: "silence", b"": "closed", b"\\2": "accepted", b"\\3": "rejected", b"\\7": "aborted"}
    ends.setdefault(name, set()).add(words.get(answer, "other"))
    connection.close()
print(json.dumps({name: sorted(seen) for name, seen in ends.items()}))
"""


def _held(clinic: Clinic, calling: bytes, copies: int, only: str | None = None) -> dict[str, list[str]]:
    shapes = [
        (shape.name, shape.content.hex())
        for shape in upper_layer.faulty_requests(calling)
        if only is None or shape.name == only
    ]
    # An argument has at most 128 kB, and some of them are long.
    told_short = base64.b64encode(zlib.compress(json.dumps(shapes).encode())).decode()
    arguments = (told_short, str(copies), str(HELD_SECONDS))
    told = clinic.script(_HOLD, *arguments, timeout=HELD_SECONDS + 120)
    ends: dict[str, list[str]] = json.loads(told.splitlines()[-1])
    return ends


def _refused_requests(clinic: Clinic) -> int:
    seen = clinic.stack.get("/understudy/modalities")
    assert all(one["reason"] for one in seen if one["outcome"] == "refused_request")
    return sum(one["refused"] for one in seen)


@pytest.mark.parametrize("calling", [b"STRANGER", b"CT1"])
def test_every_faulty_request_is_answered_though_held_and_keeps_nobody_waiting(
    clinic: Clinic, calling: bytes
) -> None:
    before = _refused_requests(clinic)
    with clinic.unharmed(), clinic.witnessed() as testimony:
        ends = _held(clinic, calling, copies=1)
    # Those that are no request at all are counted by another name.
    wait_until(
        lambda: _refused_requests(clinic) - before,
        lambda more: more >= len(ends) * 3 // 4,
        deadline=60,
        what="the faulty requests counted and named",
    )
    assert {name: seen for name, seen in ends.items() if "silence" in seen or "accepted" in seen} == {}
    testimony.assert_never_kept_waiting()


@pytest.mark.parametrize(
    "shape", ["called title blank", "no context", "implementation class of 81 characters"]
)
def test_thirty_two_held_at_a_time_keep_nobody_waiting(clinic: Clinic, shape: str) -> None:
    with clinic.unharmed(), clinic.witnessed() as testimony:
        ends = _held(clinic, b"STRANGER", copies=32, only=shape)
    assert "silence" not in ends[shape]
    assert "accepted" not in ends[shape]
    testimony.assert_never_kept_waiting()


_LARGE = """
import json, socket, sys, threading, time
from tests.adversary.upper_layer import CT, EXPLICIT, Request
contexts, syntaxes, uid, seconds = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
offered = [f"{uid}.{number}".encode() if number else EXPLICIT for number in range(syntaxes)]
if uid == "1":
    offered = [b"1"] * syntaxes
end, answers, lock = time.monotonic() + seconds, {}, threading.Lock()

def ask(number):
    whole = Request(calling=b"LARGE%d" % number, contexts=[(2 * n + 1, CT, offered) for n in range(contexts)])
    content = whole.encoded()
    while time.monotonic() < end:
        try:
            with socket.create_connection(("edge", 4242), 5) as connection:
                connection.settimeout(10)
                connection.sendall(content)
                answer = connection.recv(10).hex()
        except OSError as error:
            answer = type(error).__name__
        with lock:
            answers[answer] = answers.get(answer, 0) + 1

threads = [threading.Thread(target=ask, args=(number,)) for number in range(150)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(answers))
"""
NO_REASON = "03000000000400010101"


@pytest.mark.parametrize(
    ("syntaxes", "uid", "accepted"),
    [(94, "1", False), (16, "1.2.840.10008.1.2.4", True)],
    ids=["short names", "names of DICOM"],
)
def test_large_requests_at_a_time_keep_nobody_waiting(
    clinic: Clinic, syntaxes: int, uid: str, accepted: bool
) -> None:
    seconds = seconds_of_a_case()
    with clinic.unharmed(), clinic.witnessed() as testimony:
        told = clinic.script(_LARGE, "128", str(syntaxes), uid, str(seconds), timeout=seconds + 120)
    answers = json.loads(told.splitlines()[-1])
    print(json.dumps({"answers": answers, "store": testimony.slowest_seconds}))
    testimony.assert_never_kept_waiting()
    assert any(answer.startswith("02") for answer in answers) == accepted, answers
    assert (NO_REASON in answers) != accepted, answers


_ASK = """
import json, socket, sys
from tests.adversary.upper_layer import CT, EXPLICIT, FIND, GET, MOVE, Request
title = bytes.fromhex(sys.argv[1])
got = {}
for name, sop_class in (("find", FIND), ("get", GET), ("move", MOVE), ("store", CT)):
    with socket.create_connection(("edge", 4242), 5) as connection:
        connection.settimeout(10)
        connection.sendall(Request(calling=title, contexts=[(1, sop_class, [EXPLICIT])]).encoded())
        got[name] = connection.recv(10).hex()
print(json.dumps(got))
"""
CALLING_NOT_RECOGNISED = "03000000000400010103"


@pytest.mark.parametrize("title", [*IMPOSTORS, "ws2", "WS2\0", " WS2"])
def test_listed_title_from_another_address_gets_nothing_and_is_named(clinic: Clinic, title: str) -> None:
    got = json.loads(clinic.script(_ASK, title.encode().hex()).splitlines()[-1])
    strict = title in IMPOSTORS
    if strict:
        assert set(got.values()) == {CALLING_NOT_RECOGNISED}, got

        def look() -> list[str]:
            return [
                one["outcome"]
                for one in clinic.stack.get("/understudy/modalities")
                if one["calling_ae_title"] == title
            ]

        wait_until(look, lambda seen: "refused_address" in seen, deadline=60, what=f"{title} named")
    else:
        # Another spelling of a listed title is either the same device, or a stranger who may not ask.
        assert all(
            answer.startswith("03") or name == "store" or _no_context(answer) for name, answer in got.items()
        ), got


def _no_context(answer: str) -> bool:
    # The whole acceptance would have to be read; that no query is answered is shown by the reader's tests.
    return answer.startswith("02")


_FLOOD = """
import json, resource, socket, sys, time
held = []
refused = 0
for _ in range(700):
    try:
        connection = socket.create_connection(("edge", int(sys.argv[1])), 2)
        held.append(connection)
    except OSError:
        refused += 1
time.sleep(4)
print(json.dumps({"held": len(held), "refused": refused}))
"""


@pytest.mark.parametrize("port", [4242, 8443])
def test_seven_hundred_silent_connections_of_one_address_close_nothing_for_others(
    clinic: Clinic, port: int
) -> None:
    with clinic.unharmed(), clinic.witnessed() as testimony:
        told = json.loads(clinic.script(_FLOOD, str(port)).splitlines()[-1])
        assert clinic.stack.get("/understudy/health")
    assert told["held"] + told["refused"] == 700
    testimony.assert_never_kept_waiting()


_UNTAKEN = """
import socket, ssl, struct, time
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
context.set_alpn_protocols(["h2"])

def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

# An initial window of nothing (RFC 9113 6.5.2), and GET / so often.
opening = b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + frame(4, 0, 0, struct.pack(">HI", 4, 0))
asked = b"".join(frame(1, 5, stream, b"\\x82\\x87\\x84\\x01\\x04edge") for stream in range(1, 200, 2))
held, begun = [], time.monotonic()
while len(held) < 100:
    try:
        connection = context.wrap_socket(socket.create_connection(("edge", 8443), 5))
        connection.sendall(opening + asked)
        held.append(connection)
    except OSError:
        # The connections of the test before may be counted still.
        if time.monotonic() > begun + 60:
            raise
        time.sleep(0.2)
time.sleep(5)
print(len(held))
"""


def test_ten_thousand_answers_that_nobody_takes_end_nothing(clinic: Clinic) -> None:
    with clinic.unharmed(), clinic.witnessed() as testimony:
        assert clinic.script(_UNTAKEN).split()[-1] == "100"
    testimony.assert_never_kept_waiting()
