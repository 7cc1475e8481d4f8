"""A listed device gone bad, beside strangers: whatever it begins and never ends, others are served."""

import json
import time

import pytest

from tests.adversary.clinic import Clinic

pytestmark = pytest.mark.needs("image")

SECONDS = 20

_SIEGE = """
import json, socket, ssl, struct, sys, threading, time
from tests import hostile
from tests.adversary.upper_layer import CT, EXPLICIT, P_DATA, Request, message, pdu, value_item
end = time.monotonic() + float(sys.argv[1])
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
count = {"trickling": 0, "idle": 0, "silent": 0, "connections": 0, "slow": 0, "ended": 0}
lock = threading.Lock()

def note(what, change=1):
    with lock:
        count[what] += change

def association(calling):
    connection = socket.create_connection(("edge", 4242), 5)
    connection.settimeout(8)
    connection.sendall(Request(calling=calling, contexts=[(1, CT, [EXPLICIT])]).encoded())
    if connection.recv(65536)[:1] != b"\\2":
        connection.close()
        return None
    return connection

def whole(number):
    item = hostile.good(f"siege {number}", 200_000)
    return message(1, CT, item.data_set, uid=item.uid.encode())

def trickle(number):
    while time.monotonic() < end:
        try:
            connection = association(b"US1")
            if connection is None:
                time.sleep(0.5)
                continue
            note("trickling")
            for byte in whole(number):
                if time.monotonic() > end:
                    break
                connection.sendall(bytes([byte]))
                time.sleep(0.2)
            connection.close()
        except OSError:
            note("ended")

def idle(number):
    while time.monotonic() < end:
        try:
            connection = association(b"IDLE%d" % number)
            if connection is None:
                time.sleep(0.5)
                continue
            note("idle")
            connection.settimeout(max(0.1, end - time.monotonic()))
            connection.recv(1)
            connection.close()
        except OSError:
            note("ended")

def silent(number):
    while time.monotonic() < end:
        try:
            connection = association(b"US1")
            if connection is None:
                time.sleep(0.5)
                continue
            note("silent")
            connection.sendall(whole(number)[:100_000])
            connection.settimeout(max(0.1, end - time.monotonic()))
            connection.recv(1)
            connection.close()
        except OSError:
            note("ended")

def slow(number):
    while time.monotonic() < end:
        try:
            connection = context.wrap_socket(socket.create_connection(("edge", 8443), 5))
            note("slow")
            for byte in b"GET / HTTP/1.1\\r\\nHost: edge\\r\\nX-Slow: " + b"x" * 1000:
                if time.monotonic() > end:
                    break
                connection.sendall(bytes([byte]))
                time.sleep(0.5)
            connection.close()
        except OSError:
            note("ended")

def crowd():
    held = []
    while time.monotonic() < end:
        if len(held) < 700:
            try:
                held.append(socket.create_connection(("edge", 4242 if len(held) % 2 else 8443), 2))
                note("connections")
            except OSError:
                time.sleep(0.1)
        else:
            time.sleep(0.2)

threads = [threading.Thread(target=crowd)]
for kind, number in ((trickle, 32), (idle, 32), (silent, 8), (slow, 60)):
    threads += [threading.Thread(target=kind, args=(n,)) for n in range(number)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(count))
"""


_QUESTIONS = """
import json, socket, struct, sys, threading, time
from tests.adversary.upper_layer import CT, EXPLICIT, FIND, GET, IMPLICIT, MOVE, P_DATA, Request
from tests.adversary.upper_layer import command, item, pdu, value_item
seconds = float(sys.argv[1])
end = time.monotonic() + seconds
names = {FIND: "found", GET: "got", MOVE: "moved"}
count = {"asked": 0, "refused": 0, "ended": 0, **dict.fromkeys(names.values(), 0)}
lock = threading.Lock()

def note(what):
    with lock:
        count[what] += 1

def element(group, number, value):
    value += b" " * (len(value) % 2)
    return struct.pack("<HHI", group, number, len(value)) + value

# Everything: no name, no date, no UID.
everything = {
    FIND: element(8, 0x52, b"STUDY") + element(0x10, 0x10, b"*") + element(0x20, 0x0D, b""),
    GET: element(8, 0x52, b"PATIENT") + element(0x10, 0x20, b"*"),
    MOVE: element(8, 0x52, b"PATIENT") + element(0x10, 0x20, b"*"),
}
kinds = {FIND: 0x20, GET: 0x10, MOVE: 0x21}
role = item(0x54, struct.pack(">H", len(CT)) + CT + bytes([0, 1]))
usual = [item(0x51, struct.pack(">I", 16384)), item(0x52, b"2.25.1")]

def question(sop_class, number):
    fields = {2: sop_class, 0x100: struct.pack("<H", kinds[sop_class]), 0x110: struct.pack("<H", number)}
    if sop_class == MOVE:
        fields[0x600] = b"WS1"
    fields |= {0x700: struct.pack("<H", 0), 0x800: struct.pack("<H", 1)}
    data = value_item(1, 2, everything[sop_class])
    return pdu(P_DATA, value_item(1, 3, command(fields))) + pdu(P_DATA, data)

def cancel(number):
    fields = {0x100: struct.pack("<H", 0xFFF), 0x120: struct.pack("<H", number)}
    return pdu(P_DATA, value_item(1, 3, command(fields | {0x800: struct.pack("<H", 0x101)})))

def ask(thread):
    sop_class = (FIND, GET, MOVE)[thread % 3]
    while time.monotonic() < end:
        try:
            with socket.socket() as connection:
                # Half of them take nothing.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.settimeout(10)
                connection.connect(("edge", 4242))
                contexts = [(1, sop_class, [IMPLICIT]), (3, CT, [EXPLICIT])]
                connection.sendall(
                    Request(calling=b"WS1", contexts=contexts, user_items=[*usual, role]).encoded()
                )
                head = connection.recv(6, socket.MSG_WAITALL)
                if head[:1] != b"\\2":
                    note("refused")
                    time.sleep(0.2)
                    continue
                connection.recv(struct.unpack(">I", head[2:])[0], socket.MSG_WAITALL)
                for number in range(1, 20):
                    connection.sendall(question(sop_class, number))
                    note("asked")
                    if thread % 2:
                        connection.sendall(cancel(number))
                if thread % 4 < 2:
                    time.sleep(max(0, min(5, end - time.monotonic())))
                elif connection.recv(1) == bytes([P_DATA]):
                    note(names[sop_class])
        except OSError:
            note("ended")

threads = [threading.Thread(target=ask, args=(thread,)) for thread in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(count))
"""


def test_reader_that_asks_for_everything_and_takes_nothing_delays_no_store_and_no_page(
    clinic: Clinic,
) -> None:
    """Sixteen associations of a listed reader: C-FIND, C-GET and C-MOVE, cancelled or never taken."""
    clinic.fill("many", 40, 1_000_000)
    pages: list[float] = []
    with clinic.unharmed(), clinic.witnessed() as testimony:
        reader = clinic.begun(_QUESTIONS, str(SECONDS))
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            answer = clinic.stack.client().get("/understudy/console/")
            assert answer.status_code == 200
            pages.append(answer.elapsed.total_seconds())
        count = json.loads(reader().splitlines()[-1])
    print(json.dumps({"questions": count, "store": testimony.slowest_seconds, "page": max(pages)}))
    # Otherwise nobody asked anything.
    assert count["asked"] >= 100, count
    assert min(count["found"], count["got"], count["moved"]) > 0, count
    assert max(pages) < 2 + testimony.allowance
    testimony.assert_never_kept_waiting()


def test_siege_by_devices_strangers_and_browsers_at_once_delays_no_store_and_no_page(clinic: Clinic) -> None:
    pages: list[float] = []
    with clinic.unharmed(), clinic.witnessed() as testimony:
        besieger = clinic.begun(_SIEGE, str(SECONDS))
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            answer = clinic.stack.client().get("/understudy/console/")
            assert answer.status_code == 200
            pages.append(answer.elapsed.total_seconds())
        count = json.loads(besieger().splitlines()[-1])
    # Otherwise nobody besieged anything.
    assert count["trickling"] >= 8, count
    assert count["idle"] >= 8, count
    assert count["connections"] >= 300, count
    assert count["slow"] >= 60, count
    print(json.dumps({"siege": count, "store": testimony.slowest_seconds, "page": max(pages)}))
    assert max(pages) < 2 + testimony.allowance
    testimony.assert_never_kept_waiting()
