"""The containers' health check: what a modality would be answered decides, and a slow answer is none."""

import importlib.util
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from understudy.plugin import probe
from understudy.plugin.volumes import FLAG

SCRIPT = Path(__file__).parents[2] / "docker" / "healthy.py"


@pytest.fixture(scope="module")
def healthy() -> ModuleType:
    spec = importlib.util.spec_from_file_location("healthy", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[tuple[str, int]]:
    """Answer one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            connection, _ = listening.accept()
            with connection:
                try:
                    answer(connection)
                except (OSError, struct.error):
                    return

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listening.getsockname()[:2]
        finally:
            thread.join()


def _pdu(connection: socket.socket) -> bytes:
    head = connection.recv(6, socket.MSG_WAITALL)
    return head + connection.recv(struct.unpack(">I", head[2:])[0], socket.MSG_WAITALL)


def _status(context: int, status: int) -> bytes:
    group = struct.pack("<HHIH", 0, 0x0100, 2, 0x8030) + struct.pack("<HHIH", 0, 0x0900, 2, status)
    value = bytes([context, 3]) + group
    return struct.pack(">BBII", 4, 0, len(value) + 4, len(value)) + value


def scp(echo: int, store: int | None) -> Callable[[socket.socket], None]:
    """Return a DICOM server that answers with these statuses."""

    def answer(connection: socket.socket) -> None:
        _pdu(connection)
        connection.sendall(struct.pack(">BBI", 2, 0, 4) + bytes(4))
        _pdu(connection)
        connection.sendall(_status(1, echo))
        if store is not None:
            _pdu(connection)
            _pdu(connection)
            connection.sendall(_status(3, store))
        _pdu(connection)
        connection.sendall(struct.pack(">BBII", 6, 0, 4, 0))

    return answer


def check(
    healthy: ModuleType, answer: Callable[[socket.socket], None], *, stores: bool, within: float = 60
) -> None:
    with server(answer) as address:
        healthy._dicom(address, time.monotonic() + within, stores=stores)


def test_green_means_that_a_modality_can_store(healthy: ModuleType) -> None:
    check(healthy, scp(0, probe.PROBED), stores=True)
    check(healthy, scp(0, None), stores=False)


@pytest.mark.parametrize("status", [0x0000, 0xA700, 0xC000, 0xB000])
def test_any_other_answer_to_a_store_is_red(healthy: ModuleType, status: int) -> None:
    """Success as well: somebody has kept the probe, so it was not the plugin that answered."""
    with pytest.raises(healthy.UnhealthyError, match=f"0x{status:04X}"):
        check(healthy, scp(0, status), stores=True)


def test_a_refused_echo_is_red(healthy: ModuleType) -> None:
    with pytest.raises(healthy.UnhealthyError, match="C-ECHO"):
        check(healthy, scp(0x0122, None), stores=True)


def test_a_rejected_association_is_red(healthy: ModuleType) -> None:
    def reject(connection: socket.socket) -> None:
        _pdu(connection)
        connection.sendall(struct.pack(">BBI", 3, 0, 4) + bytes([0, 2, 3, 2]))

    with pytest.raises(healthy.UnhealthyError, match="refused"):
        check(healthy, reject, stores=True)


def test_an_accept_thread_that_is_held_is_red(healthy: ModuleType) -> None:
    def silent(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass

    with pytest.raises(TimeoutError):
        check(healthy, silent, stores=True, within=0.3)


def test_an_answer_that_comes_drop_by_drop_is_red(healthy: ModuleType) -> None:
    ended = threading.Event()

    def trickle(connection: socket.socket) -> None:
        while not ended.wait(0.05):
            connection.sendall(b"\2")

    began = time.monotonic()
    with server(trickle) as address:
        try:
            with pytest.raises((TimeoutError, healthy.UnhealthyError)):
                healthy._dicom(address, began + 0.6, stores=True)
        finally:
            ended.set()
    assert time.monotonic() - began < 30


def test_it_and_the_plugin_mean_the_same_probe(healthy: ModuleType) -> None:
    assert (healthy.CHECK_TITLE, healthy.PROBE_UID, healthy.PROBED) == (
        probe.CHECK_TITLE,
        probe.PROBE_UID,
        probe.PROBED,
    )
    assert healthy.FULL == FLAG
    edge = (SCRIPT.parents[1] / "plugins" / "understudy" / "edge" / "haproxy.cfg").read_text()
    assert f"-m str {probe.CHECK_TITLE}" in edge


def test_it_gives_up_before_compose_does(healthy: ModuleType) -> None:
    compose = (SCRIPT.parent / "compose.yml").read_text()
    assert compose.count(f"timeout: {healthy.TIMEOUT_SECONDS + 1}s") == 3
