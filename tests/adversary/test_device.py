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
    assert max(pages) < 2
    testimony.assert_never_kept_waiting()
