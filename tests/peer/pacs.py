"""A primary of another make: C-ECHO, C-FIND and C-MOVE over what it keeps, by its habits (pynetdicom)."""

import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from socketserver import BaseServer
from types import TracebackType
from typing import Any, Self

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)
from pynetdicom.transport import ThreadedAssociationServer

_PENDING = 0xFF00
_POLL = 0.01


@dataclass(frozen=True, slots=True)
class Kept:
    """One image."""

    study: str
    series: str
    sop_instance_uid: str
    date: str = "20200101"

    @property
    def data_set(self) -> Dataset:
        """A small image of these UIDs."""
        found = Dataset()
        found.SOPClassUID, found.SOPInstanceUID = CTImageStorage, UID(self.sop_instance_uid)
        found.StudyInstanceUID, found.SeriesInstanceUID = self.study, self.series
        found.file_meta = FileMetaDataset()
        found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        return found


@dataclass(frozen=True, slots=True)
class Habits:
    """How it differs from a faultless primary."""

    count: str = "true"
    """What it says of a study's images: true, none or zero."""
    lists_images: bool = True
    most_studies: int | None = None
    """Studies of one answer; where there are more it ends with `cut_status`."""
    cut_status: int = 0xA700
    find_status: int = 0x0000
    """What it ends every query with, without an answer."""
    queries: bool = True
    """Whether it accepts the context for queries."""
    associations: int | None = None
    """How many it takes at a time; others are rejected for now."""
    rejects: bool = False
    """Whether it rejects every association for good."""
    takes: tuple[str, ...] = ()
    """SOP classes for which it accepts C-STORE, uncompressed alone."""
    moves: bool = True
    """Whether the images of a C-MOVE leave it; it answers success in any case."""
    calls_as: str = ""
    """Calling AE title of its associations, as of its start; its own AE title if empty."""
    late: float | None = None
    """Seconds before each image of a C-MOVE, if it sends them after its answer."""


@dataclass
class ForeignPacs:
    """Listens while it is entered; `habits` and `kept` may be changed at any moment."""

    habits: Habits = field(default_factory=Habits)
    kept: list[Kept] = field(default_factory=list)
    destination: tuple[str, int] = ("127.0.0.1", 0)
    ae_title: str = "PACS"
    port: int = 0
    asked: list[str] = field(default_factory=list)
    """Levels of the queries that it answered."""
    moved: list[str] = field(default_factory=list)
    """Levels of the moves that it did."""

    def __post_init__(self) -> None:
        self._open = 0
        self._lock = threading.Lock()
        self._server: Any = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Listen, on the port that it had before."""
        entity = AE(ae_title=self.habits.calls_as or self.ae_title)
        entity.supported_contexts = [build_context(Verification)]
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._on_requested),
            (evt.EVT_CONN_CLOSE, self._on_closed),
            (evt.EVT_C_ECHO, lambda _event: 0x0000),
            (evt.EVT_C_FIND, self._on_find),
            (evt.EVT_C_MOVE, self._on_move),
        ]
        self._server = entity.make_server(
            ("127.0.0.1", self.port), evt_handlers=handlers, server_class=ThreadedAssociationServer
        )
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Listen no more: connections are refused."""
        BaseServer.shutdown(self._server)
        self._server.server_close()
        self._thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def behaves(self, **habits: Any) -> None:
        """Change some of its habits."""
        self.habits = replace(self.habits, **habits)

    def _on_requested(self, event: evt.Event) -> None:
        association = event.assoc
        with self._lock:
            self._open += 1
            full = self.habits.associations is not None and self._open > self.habits.associations
        if self.habits.rejects or full:
            # Said here: pynetdicom closes the connection before its own answer has left.
            rejection = (1, 1, 3) if self.habits.rejects else (2, 3, 2)
            connection: Any = association.dul.socket
            connection.socket.sendall(struct.pack(">BBLBBBB", 0x03, 0, 4, 0, *rejection))
            association.is_rejected = True
            return
        contexts = [build_context(Verification), build_context(StudyRootQueryRetrieveInformationModelMove)]
        if self.habits.queries:
            contexts.append(build_context(StudyRootQueryRetrieveInformationModelFind))
        contexts += [build_context(sop_class) for sop_class in self.habits.takes]
        association.acceptor.supported_contexts = contexts

    def _on_closed(self, _event: evt.Event) -> None:
        with self._lock:
            self._open = max(0, self._open - 1)

    def _on_find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        habits, query = self.habits, event.identifier
        self.asked.append(query.QueryRetrieveLevel)
        if habits.find_status:
            yield habits.find_status, None
            return
        answers = list(self._answers(query))
        most = habits.most_studies if query.QueryRetrieveLevel == "STUDY" else None
        for values in answers[:most]:
            answer = Dataset()
            answer.QueryRetrieveLevel = query.QueryRetrieveLevel
            for keyword, value in values.items():
                setattr(answer, keyword, value)
            yield _PENDING, answer
        yield (habits.cut_status if most is not None and len(answers) > most else 0x0000), None

    def _answers(self, query: Dataset) -> Iterator[dict[str, object]]:
        """Yield the answers of a hierarchical query (DICOM PS3.4 C.4.1.3.1.1)."""
        study, series = query.get("StudyInstanceUID", ""), query.get("SeriesInstanceUID", "")
        wanted = [one for one in self.kept if study in ("", one.study)]
        if query.QueryRetrieveLevel == "STUDY":
            first, _, last = str(query.get("StudyDate") or "00000000-99999999").partition("-")
            for uid in dict.fromkeys(one.study for one in wanted if first <= one.date <= last):
                images = [one for one in self.kept if one.study == uid]
                answer: dict[str, object] = {"StudyInstanceUID": uid, "StudyDate": images[0].date}
                if self.habits.count != "none":
                    number = len(images) if self.habits.count == "true" else 0
                    answer["NumberOfStudyRelatedInstances"] = number
                yield answer
        elif query.QueryRetrieveLevel == "SERIES":
            for uid in dict.fromkeys(one.series for one in wanted):
                yield {"SeriesInstanceUID": uid}
        elif self.habits.lists_images:
            for one in wanted:
                if series in ("", one.series):
                    yield {"SOPInstanceUID": one.sop_instance_uid}

    def _on_move(self, event: evt.Event) -> Iterator[Any]:
        query = event.identifier
        self.moved.append(query.QueryRetrieveLevel)
        wanted = [
            one
            for one in self.kept
            if one.study == query.StudyInstanceUID
            and query.get("SeriesInstanceUID", "") in ("", one.series)
            and query.get("SOPInstanceUID", "") in ("", one.sop_instance_uid)
        ]
        late = self.habits.late
        if late is not None and self.habits.moves:
            threading.Thread(target=self._send_later, args=(wanted, late), daemon=True).start()
        if late is not None or not self.habits.moves:
            wanted = []
        contexts = [build_context(CTImageStorage, ExplicitVRLittleEndian)]
        yield *self.destination, {"contexts": contexts}
        yield len(wanted)
        for one in wanted:
            yield _PENDING, one.data_set

    def _send_later(self, images: list[Kept], pause: float) -> None:
        entity = AE(ae_title=self.ae_title)
        entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        for image in images:
            time.sleep(pause)
            association = entity.associate(*self.destination)
            association.send_c_store(image.data_set)
            association.release()
