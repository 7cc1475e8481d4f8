"""A DICOM peer as SCU: C-ECHO, C-FIND, C-MOVE and C-STORE with the status of every instance (pynetdicom)."""

import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydicom.config import IGNORE, settings
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from understudy.core.model import SopInstanceUid, StudyInstanceUid
from understudy.core.ports import FileToSend, HolderUnavailableError, MoveResult

# A file's data set goes out byte for byte, never decoded and encoded again.
_config.STORE_SEND_CHUNKED_DATASET = True
# UIDs of real archives break the rules; the peer decides whether it takes them.
_config.ENFORCE_UID_CONFORMANCE = False
# pydicom would warn of odd values, with the value in its text, which no log of ours may hold.
settings.reading_validation_mode = IGNORE

_SUCCESS = 0x0000
_PENDING = (0xFF00, 0xFF01)

_MOVE_PATIENCE = 20.0
"""How many times longer a peer may be silent in C-MOVE: it need not tell of progress (PS3.4 C.4.2.3.1)."""


class DicomPeer:
    """One remote AE; each call is one association.

    All raise HolderUnavailableError where the peer does not play along.
    """

    def __init__(
        self, name: str, *, ae_title: str, host: str, port: int, calling_ae_title: str, timeout: float
    ) -> None:
        self.name = name
        self.ae_title = ae_title
        self.host = host
        self.port = port
        self._calling = calling_ae_title
        self._timeout = timeout

    def echo(self) -> None:
        """Ask whether it answers (C-ECHO, DICOM PS3.4 A)."""
        with self._association([build_context(Verification)]) as association:
            self._expect_success(association.send_c_echo(), "C-ECHO")

    def studies(self, study: StudyInstanceUid | None = None) -> dict[StudyInstanceUid, int | None]:
        """Return every study, or the one asked for, with its count of instances, None if it has none."""
        query = _query("STUDY", study or "")
        with self._finding() as association:
            return {
                StudyInstanceUid(str(answer.StudyInstanceUID)): _count(answer)
                for answer in self._find(association, query)
                if answer.get("StudyInstanceUID")
            }

    def instances(self, study: StudyInstanceUid) -> set[SopInstanceUid]:
        """Return the SOP Instance UIDs of a study, asked level by level (DICOM PS3.4 C.4.1.3.1.1)."""
        return set(self._series_of(study))

    def _series_of(self, study: StudyInstanceUid) -> dict[SopInstanceUid, str]:
        """Return the Series Instance UID of every instance of a study."""
        told, found = self._list(study)
        if len(found) < told:
            # Once more: between two questions an instance may have come or gone.
            told, found = self._list(study)
        if len(found) < told:
            raise self._unavailable(
                f"it counts {told} instances in a study and lists {len(found)}: its answers are capped",
                "raise the limit of query results at this PACS",
            )
        return found

    def _list(self, study: StudyInstanceUid) -> tuple[int, dict[SopInstanceUid, str]]:
        """Return how many instances the peer counts in a study, 0 if it does not say, and what it lists."""
        found: dict[SopInstanceUid, str] = {}
        with self._finding() as association:
            counts = [_count(answer) for answer in self._find(association, _query("STUDY", study))]
            for series in list(self._find(association, _query("SERIES", study, ""))):
                series_instance_uid = self._text(series, "SeriesInstanceUID")
                for image in self._find(association, _query("IMAGE", study, series_instance_uid, "")):
                    found[SopInstanceUid(self._text(image, "SOPInstanceUID"))] = series_instance_uid
        return max((count for count in counts if count is not None), default=0), found

    def move(self, study: StudyInstanceUid, destination: str) -> MoveResult:
        """Ask it to send a study to the AE title `destination` (C-MOVE) and wait for the end."""
        query = Dataset()
        query.QueryRetrieveLevel = "STUDY"
        query.StudyInstanceUID = study
        return self._move(query, destination)

    def move_instances(
        self, study: StudyInstanceUid, instances: Collection[SopInstanceUid], destination: str
    ) -> MoveResult:
        """Ask it for instances one by one (C-MOVE at IMAGE level, DICOM PS3.4 C.4.2) and add up the results.

        Each has an association of its own: some archives negotiate the transfer syntax of the first instance
        only, and cannot send the others of a study with several.
        """
        series = self._series_of(study)
        status, completed, failed = _SUCCESS, 0, 0
        for instance in sorted(set(instances) & series.keys()):
            query = Dataset()
            query.QueryRetrieveLevel = "IMAGE"
            query.StudyInstanceUID = study
            query.SeriesInstanceUID = series[instance]
            query.SOPInstanceUID = instance
            result = self._move(query, destination)
            status = result.status if result.status != _SUCCESS else status
            completed, failed = completed + result.completed, failed + result.failed
        return MoveResult(status, completed, failed)

    def _move(self, query: Dataset, destination: str) -> MoveResult:
        last = Dataset()
        contexts = [build_context(StudyRootQueryRetrieveInformationModelMove)]
        with self._association(contexts, patience=_MOVE_PATIENCE) as association:
            for status, _ in association.send_c_move(
                query, destination, StudyRootQueryRetrieveInformationModelMove
            ):
                last = status
                if status.get("Status") not in _PENDING:
                    break
        if "Status" not in last:
            raise self._unavailable("it stopped answering during C-MOVE", "look at its log")
        return MoveResult(
            int(last.Status),
            int(last.get("NumberOfCompletedSuboperations", 0) or 0),
            int(last.get("NumberOfFailedSuboperations", 0) or 0),
        )

    def store(self, files: Sequence[FileToSend]) -> Iterator[int | str | None]:
        """Send files over one association, yielding for each, in order, the DIMSE status of the answer.

        A text instead tells why the file was not sent at all, None that no answer came: the peer may have it.
        The files hold at most MAX_CONTEXTS different pairs of SOP class and transfer syntax.
        """
        pairs = sorted({(file.sop_class_uid, file.transfer_syntax_uid) for file in files})
        contexts = [build_context(sop_class, syntax) for sop_class, syntax in pairs]
        with self._association(contexts, needs_context=False) as association:
            accepted = {
                (context.abstract_syntax, context.transfer_syntax[0])
                for context in association.accepted_contexts
            }
            lost = False
            for number, file in enumerate(files):
                if (file.sop_class_uid, file.transfer_syntax_uid) not in accepted:
                    yield (
                        f"no presentation context was accepted for SOP class {file.sop_class_uid} in "
                        f"transfer syntax {file.transfer_syntax_uid} (DICOM PS3.8 9.3.3.2)"
                    )
                    continue
                if lost or not association.is_established:
                    raise self._unavailable("it ended the association", "look at its log")
                answer = _status(association, file.path, number)
                lost = answer is None
                yield answer

    @contextmanager
    def _finding(self) -> Iterator[Association]:
        with self._association([build_context(StudyRootQueryRetrieveInformationModelFind)]) as association:
            yield association

    def _find(self, association: Association, query: Dataset) -> Iterable[Dataset]:
        for status, identifier in association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind):
            if status.get("Status") in _PENDING:
                if identifier is None:
                    raise self._unavailable(
                        "it sent an answer to C-FIND that cannot be read", "look at its log"
                    )
                yield identifier
            else:
                self._expect_success(status, "C-FIND")

    def _text(self, answer: Dataset, keyword: str) -> str:
        value = answer.get(keyword)
        if not value:
            raise self._unavailable(f"it sent an answer to C-FIND without {keyword}", "look at its log")
        return str(value)

    def _expect_success(self, status: Dataset, what: str) -> None:
        if "Status" not in status:
            raise self._unavailable(f"it did not answer {what} within {self._timeout:g} s", "look at its log")
        if status.Status != _SUCCESS:
            raise self._unavailable(
                f"it answered {what} with status 0x{status.Status:04X}", "look at its log"
            )

    @contextmanager
    def _association(
        self, contexts: Sequence[PresentationContext], *, needs_context: bool = True, patience: float = 1.0
    ) -> Iterator[Association]:
        rejections: list[Any] = []
        association = self._associate(contexts, patience, rejections)
        try:
            self._expect_association(association, rejections, needs_context=needs_context)
            yield association
        except RuntimeError as error:
            # pynetdicom's word for an association that ended between two of our requests.
            if association.is_established:
                raise
            raise self._unavailable("it ended the association", "look at its log") from error
        except HolderUnavailableError:
            # Answers that nobody waits for any more may be under way: a release would wait behind them.
            if association.is_established:
                association.abort()
            raise
        finally:
            if association.is_established:
                association.release()

    def _associate(
        self, contexts: Sequence[PresentationContext], patience: float, rejections: list[Any]
    ) -> Association:
        """Ask for an association; a rejection is added to `rejections` as it arrives."""

        def keep_rejection(event: evt.Event) -> None:
            # A rejection that comes at once closes the connection before pynetdicom has seen it open, and is
            # then taken for a failure to connect.
            if isinstance(event.pdu, A_ASSOCIATE_RJ):
                rejections.append(event.pdu.to_primitive())

        entity = AE(ae_title=self._calling)
        entity.connection_timeout = self._timeout
        entity.acse_timeout = self._timeout
        entity.dimse_timeout = self._timeout * patience
        entity.network_timeout = self._timeout
        try:
            return entity.associate(
                self.host,
                self.port,
                contexts=list(contexts),
                ae_title=self.ae_title,
                evt_handlers=[(evt.EVT_CONN_OPEN, _turn_off_nagle), (evt.EVT_PDU_RECV, keep_rejection)],
            )
        except OSError as error:
            raise self._unavailable(
                f"{self.host}: {error.strerror}", "check its host name in the configuration"
            ) from error

    def _expect_association(
        self, association: Association, rejections: Sequence[Any], *, needs_context: bool
    ) -> None:
        if association.is_established:
            return
        if rejections:
            # Result, source and reason in words (DICOM PS3.8 9.3.4).
            told = rejections[0]
            words = f"{told.result_str}, {told.source_str}, {told.reason_str}"
            raise self._unavailable(f"it rejects our association: {words}", _REJECTION_HINT)
        if association.rejected_contexts:
            # It accepted the association and nothing in it, whereupon pynetdicom has aborted it.
            if needs_context:
                raise self._unavailable("it accepts none of our presentation contexts", _REJECTION_HINT)
            return
        raise self._unavailable(
            f"no association with {self.host}:{self.port}",
            "check that it runs and that this address is right",
        )

    def _unavailable(self, reason: str, hint: str) -> HolderUnavailableError:
        return HolderUnavailableError(self.name, reason, hint)


_REJECTION_HINT = "check our AE title, its AE title and our address in the configuration of that device"


def _turn_off_nagle(event: evt.Event) -> None:
    # A PDU's header and body are written apart: with Nagle's algorithm each answer would wait for the peer's
    # delayed ACK.
    connection = event.assoc.dul.socket
    if connection is not None and connection.socket is not None:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


_UNSENDABLE = (
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    NotImplementedError,
    ValueError,
    struct.error,
)
"""What pynetdicom and pydicom raise, before anything is sent, on a file without a usable meta header."""


def _status(association: Association, path: str, number: int) -> int | str | None:
    try:
        answer = association.send_c_store(path, msg_id=number % 0xFFFF + 1)
    except _UNSENDABLE as error:
        return f"the file cannot be sent: {type(error).__name__}"
    except RuntimeError:
        # pynetdicom's word for an association that has just ended.
        if association.is_established:
            raise
        return None
    except OSError:
        # The file went away while it was read: what is half sent cannot be taken back but by an abort.
        association.abort()
        return None
    return int(answer.Status) if "Status" in answer else None


def _query(level: str, study: str, series: str | None = None, sop_instance: str | None = None) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = level
    query.StudyInstanceUID = study
    if level == "STUDY":
        query.NumberOfStudyRelatedInstances = None
    if series is not None:
        query.SeriesInstanceUID = series
    if sop_instance is not None:
        query.SOPInstanceUID = sop_instance
    return query


def _count(answer: Dataset) -> int | None:
    try:
        return int(answer.NumberOfStudyRelatedInstances)
    except (AttributeError, TypeError, ValueError):
        # Absent, empty, or no number: the attribute is optional (DICOM PS3.4 table C.6-5).
        return None
