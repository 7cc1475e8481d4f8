"""A DICOM peer as SCU: C-ECHO, C-FIND, C-MOVE and C-STORE with the outcome of every instance."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO

from pydicom.config import IGNORE, settings
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from understudy.adapters import commitment, dimse
from understudy.adapters.association import (
    IMPLICIT_LITTLE_ENDIAN,
    Accepted,
    Address,
    Association,
    AssociationLostError,
    AssociationRejectedError,
    Context,
)
from understudy.adapters.dimse import Message
from understudy.adapters.part10 import BrokenFileError, head_length
from understudy.adapters.storage import PARSE_ERRORS
from understudy.adapters.tls import ClientTls
from understudy.core.commitment import Report
from understudy.core.model import Outcome, SopInstanceUid, StudyInstanceUid
from understudy.core.outcomes import Loss, Verdict, of_context, of_loss, of_rejection, of_status
from understudy.core.ports import (
    CappedError,
    CommitmentRefusedError,
    FileToSend,
    HolderUnavailableError,
    MoveResult,
    UnansweredError,
)

# pydicom would warn of odd values, with the value in its text, which no log of ours may hold.
settings.reading_validation_mode = IGNORE

_MOVE_PATIENCE = 20.0
"""How many times longer a peer may be silent in C-MOVE: it need not tell of progress (PS3.4 C.4.2.3.1)."""

_VERIFICATION = Context("1.2.840.10008.1.1")
_FIND = Context("1.2.840.10008.5.1.4.1.2.2.1")
_MOVE = Context("1.2.840.10008.5.1.4.1.2.2.2")
_MEDIUM = 0x0000
_FILE_HINT = "compare it with what its sender has; waive it, or store it here once more"
_TITLES_HINT = "check our AE title, its AE title and our address in the configuration of that device"
_ABORTS = (Loss.ABORTED_BY_USER, Loss.ABORTED_BY_PROVIDER)


class DicomPeer:
    """One remote AE; each call is one association.

    All raise HolderUnavailableError where the peer does not play along, UnansweredError where it is there.
    """

    def __init__(
        self,
        name: str,
        *,
        ae_title: str,
        host: str,
        port: int,
        calling_ae_title: str,
        timeout: float,
        tls: ClientTls | None = None,
    ) -> None:
        self.name = name
        self.ae_title = ae_title
        self.host = host
        self.port = port
        self._calling = calling_ae_title
        self._timeout = timeout
        self._tls = tls

    def echo(self) -> None:
        """Ask whether it answers (C-ECHO, DICOM PS3.4 A)."""
        with self._association("C-ECHO", [_VERIFICATION]) as association:
            context = self._context(association, _VERIFICATION)
            elements = {dimse.SOP_CLASS: _VERIFICATION.sop_class_uid}
            for answer in dimse.ask(association, context, dimse.ECHO, elements, patience=self._timeout):
                self._expect_success(answer, "C-ECHO")

    def studies(self, study: StudyInstanceUid | None = None) -> dict[StudyInstanceUid, int | None]:
        """Return every study, or the one asked for, with its count of instances, None if it has none.

        The newest come first, by the date of the study; those without a date last.
        """
        query = _query("STUDY", study or "")
        query.StudyDate = ""
        with self._association("C-FIND", [_FIND]) as association:
            found = [
                (str(answer.get("StudyDate") or ""), str(answer.StudyInstanceUID), _count(answer))
                for answer in self._find(association, query)
                if answer.get("StudyInstanceUID")
            ]
        found.sort(key=lambda one: one[0], reverse=True)
        return {StudyInstanceUid(uid): count for _, uid, count in found}

    def instances(self, study: StudyInstanceUid) -> set[SopInstanceUid]:
        """Return the SOP Instance UIDs of a study, asked level by level (DICOM PS3.4 C.4.1.3.1.1).

        Raises CappedError, with those that it lists, where it counts more.
        """
        return set(self._series_of(study))

    def _series_of(self, study: StudyInstanceUid) -> dict[SopInstanceUid, str]:
        """Return the Series Instance UID of every instance of a study."""
        told, found = self._list(study)
        if len(found) < told:
            # Once more: between two questions an instance may have come or gone.
            told, found = self._list(study)
        if len(found) < told:
            raise CappedError(
                self.name,
                f"it counts {told} instances in a study and lists {len(found)}: its answers are capped",
                "raise the limit of query results at this PACS",
                found.keys(),
            )
        return found

    def _list(self, study: StudyInstanceUid) -> tuple[int, dict[SopInstanceUid, str]]:
        """Return how many instances the peer counts in a study, 0 if it does not say, and what it lists."""
        found: dict[SopInstanceUid, str] = {}
        with self._association("C-FIND", [_FIND]) as association:
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
        # Those that it lists can be asked for, though it leave out others.
        _, series = self._list(study)
        status, completed, failed = dimse.SUCCESS, 0, 0
        for instance in sorted(set(instances) & series.keys()):
            query = Dataset()
            query.QueryRetrieveLevel = "IMAGE"
            query.StudyInstanceUID = study
            query.SeriesInstanceUID = series[instance]
            query.SOPInstanceUID = instance
            result = self._move(query, destination)
            status = result.status if result.status != dimse.SUCCESS else status
            completed, failed = completed + result.completed, failed + result.failed
        return MoveResult(status, completed, failed)

    def commit(
        self, transaction_uid: str, references: Sequence[tuple[str, str]], linger: float
    ) -> Report | None:
        """Ask it to commit to instances, each by SOP class and SOP Instance UID (N-ACTION, PS3.4 J.3.2).

        Returns its report where that comes over this association within `linger` seconds after its answer.
        Raises CommitmentRefusedError too.
        """
        with self._association("N-ACTION", [commitment.CONTEXT]) as association:
            accepted = association.answers[commitment.CONTEXT]
            if accepted.result != 0:
                name = commitment.CONTEXT.sop_class_uid
                raise CommitmentRefusedError(of_context(accepted.result, name, "any that we offer").reason)
            data = encoded(commitment.request(transaction_uid, references), accepted.transfer_syntax_uid)
            answer, report = commitment.ask(association, accepted, data, self._timeout, linger)
            if answer.status != dimse.SUCCESS:
                raise CommitmentRefusedError(f"it answered N-ACTION with status 0x{answer.status:04X}")
        if report is None:
            return None
        try:
            return commitment.read(decoded(report, accepted.transfer_syntax_uid), self.ae_title)
        except PARSE_ERRORS:
            return None

    def _move(self, query: Dataset, destination: str) -> MoveResult:
        elements: dimse.Elements = {
            dimse.SOP_CLASS: _MOVE.sop_class_uid,
            dimse.PRIORITY: _MEDIUM,
            dimse.DESTINATION: destination,
        }
        with self._association("C-MOVE", [_MOVE]) as association:
            context = self._context(association, _MOVE)
            data = encoded(query, context.transfer_syntax_uid)
            patience = self._timeout * _MOVE_PATIENCE
            *_, last = dimse.ask(association, context, dimse.MOVE, elements, data, patience=patience)
        return MoveResult(last.status, last.number(dimse.COMPLETED) or 0, last.number(dimse.FAILED) or 0)

    @contextmanager
    def storing(self, pairs: Collection[tuple[str, str]]) -> Iterator["StoreAssociation"]:
        """Give an association for C-STORE of at most MAX_CONTEXTS pairs of SOP class and transfer syntax.

        It is given also where the peer accepts none of them, since that is said of each instance.
        """
        contexts = [Context(sop_class, (syntax,)) for sop_class, syntax in sorted(set(pairs))]
        with self._association("C-STORE", contexts) as association:
            yield StoreAssociation(association, self._timeout)

    def _find(self, association: Association, query: Dataset) -> Iterator[Dataset]:
        context = self._context(association, _FIND)
        elements: dimse.Elements = {dimse.SOP_CLASS: _FIND.sop_class_uid, dimse.PRIORITY: _MEDIUM}
        data = encoded(query, context.transfer_syntax_uid)
        for answer in dimse.ask(association, context, dimse.FIND, elements, data, patience=self._timeout):
            if not answer.is_pending:
                self._expect_success(answer, "C-FIND")
                return
            try:
                yield decoded(answer.data, context.transfer_syntax_uid)
            except PARSE_ERRORS as error:
                raise self._unanswered(
                    "it sent an answer to C-FIND that cannot be read", "look at its log"
                ) from error

    def _text(self, answer: Dataset, keyword: str) -> str:
        value = answer.get(keyword)
        if not value:
            raise self._unanswered(f"it sent an answer to C-FIND without {keyword}", "look at its log")
        return str(value)

    def _expect_success(self, answer: Message, what: str) -> None:
        if answer.status != dimse.SUCCESS:
            raise self._unanswered(f"it answered {what} with status 0x{answer.status:04X}", "look at its log")

    def _context(self, association: Association, context: Context) -> Accepted:
        accepted = association.answers[context]
        if accepted.result != 0:
            verdict = of_context(accepted.result, context.sop_class_uid, "any that we offer")
            raise self._unanswered(f"it does not offer us this service: {verdict.reason}", _TITLES_HINT)
        return accepted

    @contextmanager
    def _association(self, what: str, contexts: Sequence[Context]) -> Iterator[Association]:
        """Give an association; what goes wrong in it is told as HolderUnavailableError."""
        address = Address(self.host, self.port, self._tls)
        established = False
        try:
            with Association.request(
                address,
                calling=self._calling,
                called=self.ae_title,
                contexts=contexts,
                timeout=self._timeout,
            ) as association:
                established = True
                yield association
        except AssociationRejectedError as error:
            verdict = of_rejection(error.result, error.source, error.reason)
            raise self._unavailable(f"it rejects our association: {verdict.reason}", verdict.hint) from error
        except AssociationLostError as error:
            verdict = of_loss(error.loss, error.detail)
            if established and error.loss in _ABORTS:
                # So does who does not know us, Orthanc for one.
                hint = _TITLES_HINT if what == "C-FIND" else verdict.hint
                raise self._unanswered(f"{what}: {verdict.reason}", hint) from error
            begin = f"{what}: " if established else f"no association with {self.host}:{self.port}: "
            raise self._unavailable(begin + verdict.reason, verdict.hint) from error

    def _unavailable(self, reason: str, hint: str) -> HolderUnavailableError:
        return HolderUnavailableError(self.name, reason, hint)

    def _unanswered(self, reason: str, hint: str) -> UnansweredError:
        return UnansweredError(self.name, reason, hint)


class StoreAssociation:
    """An association for C-STORE."""

    def __init__(self, association: Association, timeout: float) -> None:
        self._association = association
        self._timeout = timeout
        self._sent = 0

    @property
    def is_open(self) -> bool:
        """Whether further files can be sent over it."""
        return self._association.is_open

    def accepts(self, sop_class_uid: str, transfer_syntax_uid: str) -> bool:
        """Say whether the peer takes this pair, which has to be one that the association was made for."""
        return self._association.answers[Context(sop_class_uid, (transfer_syntax_uid,))].result == 0

    def store(self, file: FileToSend) -> Verdict:
        """Send one file's data set byte for byte and return what became of it."""
        wanted = Context(file.sop_class_uid, (file.transfer_syntax_uid,))
        accepted = self._association.answers[wanted]
        if accepted.result != 0:
            return of_context(accepted.result, file.sop_class_uid, file.transfer_syntax_uid)
        try:
            start = head_length(BytesIO(file.content), len(file.content))
        except BrokenFileError as error:
            return Verdict(Outcome.REFUSED, f"the file cannot be sent: {error}", _FILE_HINT)
        if start == len(file.content):
            return Verdict(Outcome.REFUSED, "the file cannot be sent: it has no data set", _FILE_HINT)
        self._sent += 1
        elements: dimse.Elements = {
            dimse.SOP_CLASS: file.sop_class_uid,
            dimse.SOP_INSTANCE: file.sop_instance_uid,
            dimse.PRIORITY: _MEDIUM,
        }
        try:
            answers = dimse.ask(
                self._association,
                accepted,
                dimse.STORE,
                elements,
                memoryview(file.content)[start:],
                message=self._sent % 0xFFFF + 1,
                patience=self._timeout,
            )
            return of_status(next(answers).status)
        except AssociationLostError as error:
            return of_loss(error.loss, error.detail)


def encoded(query: Dataset, syntax: str) -> bytes:
    """Return a data set's bytes in a transfer syntax without compression."""
    stream = DicomBytesIO()
    stream.is_implicit_VR = syntax == IMPLICIT_LITTLE_ENDIAN
    stream.is_little_endian = True
    write_dataset(stream, query)
    return stream.getvalue()


def decoded(answer: bytes, syntax: str) -> Dataset:
    """Return a data set from its bytes, or raise one of PARSE_ERRORS."""
    return read_dataset(BytesIO(answer), syntax == IMPLICIT_LITTLE_ENDIAN, True)


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
