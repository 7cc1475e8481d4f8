"""A modality under load that writes down what it was told about each instance, and when.

pynetdicom, because it tells the status and the moment of each answer; dcmsend's report has no times.
"""

import hashlib
import itertools
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.dsutils import encode

from tests.data import ct_series

Address = tuple[str, int]

FRAME = 128
"""Rows and columns: 32 KB an instance, so that the number of answers is what loads the server."""
RECONNECT_SECONDS = 0.1
FORGOTTEN_SOCKETS = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
"""For tests that break connections: pynetdicom forgets the socket of a refused one without closing it."""
RESEND_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said about one attempt to store an instance; times are of the monotonic clock."""

    sop_instance_uid: str
    dataset_sha256: str
    status: int | None
    """None where no answer came: then it is unknown what became of it."""
    sent: float
    answered: float

    @property
    def stored(self) -> bool:
        """Whether this is a success, or a warning that means stored (DICOM PS3.4 B.2.3)."""
        return self.status is not None and (self.status == 0 or self.status >> 12 == 0xB)


@dataclass(frozen=True, slots=True)
class Instance:
    """What is sent, and the digest of its dataset in Explicit VR Little Endian."""

    dataset: Dataset
    dataset_sha256: str

    @property
    def sop_instance_uid(self) -> str:
        return str(self.dataset.SOPInstanceUID)


def instances(folder: Path, name: str) -> Iterator[Instance]:
    """Yield instances without end; the same name gives the same ones."""
    (path,) = ct_series(folder, seed=name, instances=1, rows=FRAME, columns=FRAME).paths
    template = pydicom.dcmread(path)
    for number in itertools.count(1):
        dataset = deepcopy(template)
        uid = generate_uid(entropy_srcs=[name, str(number)])
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
        dataset.InstanceNumber = number
        dataset.PixelData = random.Random(f"{name} {number}").randbytes(2 * FRAME * FRAME)
        encoded = encode(dataset, is_implicit_vr=False, is_little_endian=True)
        if encoded is None:
            raise ValueError(f"{uid} cannot be encoded")
        yield Instance(dataset, hashlib.sha256(encoded).hexdigest())


class Sender:
    """Sends instances over several associations until it is told to stop, each one until it is taken.

    Use as a context manager. A refused or unknown instance is sent again, as modalities do. `address` is
    asked before each association. Where the supply has an end, so has the sending.
    """

    def __init__(
        self,
        address: Callable[[], Address],
        supply: Iterator[Instance],
        *,
        associations: int = 3,
        timeout: float = 10,
    ) -> None:
        self._address = address
        self._supply = supply
        self._timeout = timeout
        self._lock = threading.Lock()
        self._answers: list[Answer] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._send_until_stopped, name=f"modality {number}", daemon=True)
            for number in range(associations)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def finish(self) -> None:
        """Let each association end with the answer that it waits for; nobody connects again."""
        self._stop.set()

    def stop(self) -> None:
        """Send nothing more, and wait for the answers that are under way."""
        self.finish()
        for thread in self._threads:
            thread.join()

    def all_taken(self, deadline: float) -> bool:
        """Wait until everything that the supply has was taken; return whether it was within the deadline."""
        end = time.monotonic() + deadline
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def answers(self) -> list[Answer]:
        """Everything that was answered so far."""
        with self._lock:
            return list(self._answers)

    @property
    def stored(self) -> int:
        """How many attempts were answered with success so far."""
        return sum(answer.stored for answer in self.answers)

    def _next(self) -> Instance | None:
        with self._lock:
            return next(self._supply, None)

    def _send_until_stopped(self) -> None:
        pending = self._next()
        while pending is not None and not self._stop.is_set():
            with association(self._address(), self._timeout) as store:
                while store is not None and pending is not None and not self._stop.is_set():
                    begin = time.monotonic()
                    status = store(pending)
                    answer = Answer(
                        pending.sop_instance_uid, pending.dataset_sha256, status, begin, time.monotonic()
                    )
                    with self._lock:
                        self._answers.append(answer)
                    if status is None:
                        break
                    if answer.stored:
                        pending = self._next()
                    else:
                        self._stop.wait(RESEND_SECONDS)
            self._stop.wait(RECONNECT_SECONDS)


@contextmanager
def association(
    address: Address, timeout: float, calling: str = "CT1"
) -> Iterator[Callable[[Instance], int | None] | None]:
    """Open an association for CT images and give a function that stores, or None where it was refused.

    The function returns the DIMSE status, None where no answer came.
    """
    entity = AE(calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = timeout
    entity.connection_timeout = timeout
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    sockets: list[socket.socket] = []

    def connected(event: evt.Event) -> None:
        connection: Any = event.assoc.dul.socket
        sockets.append(connection.socket)
        # pynetdicom writes small PDUs; with Nagle's algorithm each waits for an acknowledgement of TCP.
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    opened = entity.associate(*address, ae_title="UNDERSTUDY", evt_handlers=[(evt.EVT_CONN_OPEN, connected)])

    def store(instance: Instance) -> int | None:
        if not opened.is_established:
            return None
        try:
            status = opened.send_c_store(instance.dataset).get("Status")
        except RuntimeError:
            # pynetdicom's word for an association that has ended by now.
            return None
        return None if status is None else int(status)

    try:
        yield store if opened.is_established else None
    finally:
        if opened.is_established:
            opened.release()
        # pynetdicom forgets the socket of a connection that the peer has broken.
        for connection in sockets:
            connection.close()


def first_stored_after(answers: list[Answer], moment: float) -> float | None:
    """Return how many seconds after the moment the first store that began after it was acknowledged."""
    answered = [answer.answered for answer in answers if answer.stored and answer.sent >= moment]
    return min(answered) - moment if answered else None


def longest_gap(answers: list[Answer], begin: float, end: float) -> float:
    """Return the longest time without an acknowledged store between two moments."""
    moments = sorted(a.answered for a in answers if a.stored and begin <= a.answered <= end)
    return max(later - earlier for earlier, later in itertools.pairwise([begin, *moments, end]))
