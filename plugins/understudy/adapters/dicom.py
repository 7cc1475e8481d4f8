"""An SCU for one DICOM peer: C-ECHO, C-FIND, C-MOVE, N-ACTION, and C-STORE with each instance's outcome."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from itertools import pairwise

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
from understudy.adapters.part10 import BrokenFileError, begin_data_set
from understudy.adapters.storage import PARSE_ERRORS
from understudy.adapters.tls import ClientTls
from understudy.core.commitment import CommitmentReport
from understudy.core.inventory import Image, ListedStudy, StudyList
from understudy.core.model import Outcome, SeriesInstanceUid, SopInstanceUid, StudyInstanceUid
from understudy.core.outcomes import Loss, Verdict, of_context, of_loss, of_rejection, of_status
from understudy.core.pace import ANSWER, Arrival
from understudy.core.ports import (
    BusyError,
    CappedError,
    CommitmentRefusedError,
    FileToSend,
    HolderUnavailableError,
    MoveResult,
    NoImagesError,
    RejectedError,
    UnansweredError,
    UnreadableFileError,
)
from understudy.core.text import counted

# pydicom's warning of an odd value quotes the value, and our logs must not hold it.
settings.reading_validation_mode = IGNORE

_MOVE_PATIENCE = 20.0
"""How many times longer a peer may be silent in C-MOVE: it need not report progress (PS3.4 C.4.2.3.1)."""

_VERIFICATION = Context("1.2.840.10008.1.1")
_FIND = Context("1.2.840.10008.5.1.4.1.2.2.1")
_MOVE = Context("1.2.840.10008.5.1.4.1.2.2.2")
_MEDIUM = 0x0000
_FILE_HINT = "compare it with the sender's copy; waive it, or store it here again"
_TITLES_HINT = "check our AE title, its AE title and our address in the configuration of that device"
_ABORTS = (Loss.ABORTED_BY_USER, Loss.ABORTED_BY_PROVIDER)
_BUSY_PAUSES = (0.1, 0.3, 0.6)
"""Seconds to wait before each further request for an association, if the peer rejects it as transient."""
_TOO_MUCH = (0xA7, 0xFE)
"""First byte of the C-FIND statuses of a peer that cannot send so many answers: out of resources, or it ended
the answers by itself."""
_MOST_RANGES = 1000
"""Maximum number of questions for ranges of dates after the list of all studies was cut."""
_MOST_CUT_DAYS = 3
"""If the lists of this many single days are cut, smaller questions do not help."""
_MOST_STUDIES = 1_000_000
"""Maximum number of answers to a question for all studies; a longer list counts as endless. A clinic with 150
studies a day has this many after 18 years; they take about 350 MB of memory."""
_MOST_OF_STUDY = 200_000
"""Maximum number of answers to all questions about one study. The largest studies have some 20,000 images,
and some peers list a series once for each of its images."""
_COUNTS_AS_ONE = 512
"""An answer counts once, and once more for every 512 bytes, so that long answers take no more memory."""


class DicomPeer:
    """One remote AE; each call uses one association.

    Every call raises HolderUnavailableError if the peer does not do its part, and the subclass
    UnansweredError if the peer is up.
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
        self.heard = 0
        """Number of answers to C-FIND, C-MOVE and C-STORE so far, as a sign of life."""

    def echo(self) -> None:
        """Ask whether the peer answers (C-ECHO, DICOM PS3.4 A)."""
        with self._association("C-ECHO", [_VERIFICATION]) as association:
            context = self._context(association, _VERIFICATION)
            elements = {dimse.SOP_CLASS: _VERIFICATION.sop_class_uid}
            for answer in dimse.ask(association, context, dimse.ECHO, elements, patience=self._timeout):
                self._expect_success(answer, "C-ECHO")

    def studies(self, study: StudyInstanceUid | None = None) -> StudyList:
        """Return every study, or only `study`; the newest first, those without a date last.

        A list that ends with a failure counts as cut, and the rest is asked for by date. Raises
        UnansweredError if the list does not end.
        """
        found: dict[StudyInstanceUid, ListedStudy] = {}
        try:
            tally = _Tally(_MOST_STUDIES if study is None else _MOST_OF_STUDY)
            with self._association("C-FIND", [_FIND]) as association:
                self._list_studies(association, found, tally, study=study or "")
        except _EndlessError:
            # Nothing of an endless list is used.
            raise
        except UnansweredError as error:
            if study is not None or not (found or _is_too_much(error)):
                raise
            listed = len(found)
            whole = self._list_by_date(found)
            if not found:
                raise
            words = f"asked by date it lists {len(found)}" + ("" if whole else " and ends early again")
            return _sorted(
                found, f"it ended after {counted(listed, 'study', 'studies')}, {error.reason}; {words}"
            )
        return _sorted(found, "")

    def studies_between(self, first: date, last: date) -> StudyList:
        """Return the studies of these dates, asked for once; `cut` is why the list ended early, if it did."""
        found: dict[StudyInstanceUid, ListedStudy] = {}
        cut = ""
        try:
            with self._association("C-FIND", [_FIND]) as association:
                dates = f"{first:%Y%m%d}-{last:%Y%m%d}"
                self._list_studies(association, found, _Tally(_MOST_STUDIES), dates=dates)
        except _EndlessError:
            raise
        except UnansweredError as error:
            if not found:
                raise
            cut = error.reason
        return _sorted(found, cut)

    def character_sets(self, study: StudyInstanceUid) -> Set[str]:
        """Return the values of Specific Character Set (0008,0005) in the answer to a question for names."""
        query = _query("STUDY", study)
        query.PatientName = ""
        found: set[str] = set()
        with self._association("C-FIND", [_FIND]) as association:
            for answer in self._find(association, query, _Tally(_MOST_OF_STUDY)):
                declared = answer.get("SpecificCharacterSet") or ()
                found |= {declared} if isinstance(declared, str) else {str(one) for one in declared}
        return found

    def _list_by_date(self, found: dict[StudyInstanceUid, ListedStudy]) -> bool:
        """Add the studies that the peer lists by study date; halve each range whose list it cuts.

        Returns whether all ranges were listed whole.
        """
        ranges = _date_ranges(datetime.now(UTC).date())
        cut_days = asked = 0
        tally = _Tally(_MOST_STUDIES)
        try:
            with self._association("C-FIND", [_FIND]) as association:
                while ranges and cut_days < _MOST_CUT_DAYS and asked < _MOST_RANGES:
                    first, last = ranges.pop()
                    asked += 1
                    try:
                        dates = f"{first:%Y%m%d}-{last:%Y%m%d}"
                        self._list_studies(association, found, tally, dates=dates)
                    except _StatusError:
                        if first == last:
                            cut_days += 1
                        else:
                            middle = first + (last - first) // 2
                            ranges += [(first, middle), (middle + timedelta(1), last)]
        except _EndlessError:
            raise
        except UnansweredError:
            return False
        return not (ranges or cut_days)

    def _list_studies(
        self,
        association: Association,
        found: dict[StudyInstanceUid, ListedStudy],
        tally: "_Tally",
        *,
        study: str = "",
        dates: str = "",
    ) -> None:
        """Add the answers to one question for studies; after a failure those before it stay added."""
        query = _query("STUDY", study)
        query.StudyDate = dates
        for answer in self._find(association, query, tally):
            if uid := answer.get("StudyInstanceUID"):
                found[StudyInstanceUid(str(uid))] = ListedStudy(
                    _count(answer), str(answer.get("StudyDate") or "")
                )

    def instances(self, study: StudyInstanceUid) -> Set[SopInstanceUid]:
        """Return the SOP Instance UIDs of a study; none if the peer lists only the study and gives no count.

        Raises CappedError, with the listed images, if the peer counts more; NoImagesError if it counts some
        and lists none.
        """
        try:
            return {uid for _, uid in self.images(study)}
        except NoImagesError as error:
            if error.counted:
                raise
            return set()

    def images(self, study: StudyInstanceUid) -> Set[Image]:
        """Return the images of a study, asked level by level (DICOM PS3.4 C.4.1.3.1.1).

        Raises CappedError, with the listed images, if the peer counts more; NoImagesError if it lists the
        study and no image.
        """
        answer = self._list(study)
        if answer.is_short:
            # Ask once more: an instance may have come or gone between two questions.
            answer = self._list(study)
        if not answer.is_short:
            return answer.images
        told = "does not count its images"
        if answer.counted is not None:
            told = f"counts {counted(answer.counted, 'image')}"
        if not answer.images:
            raise NoImagesError(
                self.name,
                f"it lists a study, {told}, and lists no image of it",
                "check at the PACS whether the study has images, and whether this standby may query them",
                answer.counted,
            )
        raise CappedError(
            self.name,
            f"it {told} in a study and lists {len(answer.images)}",
            "raise the limit of query results at the PACS, or let it count again",
            answer.images,
        )

    def _list(self, study: StudyInstanceUid) -> "_StudyAnswer":
        """Ask for a study, its series and their images."""
        images: set[Image] = set()
        tally = _Tally(_MOST_OF_STUDY)
        with self._association("C-FIND", [_FIND]) as association:
            counts = [_count(answer) for answer in self._find(association, _query("STUDY", study), tally)]
            series = [
                self._text(answer, "SeriesInstanceUID")
                for answer in self._find(association, _query("SERIES", study, ""), tally)
            ]
            # Some peers list a series once for each of its images.
            for uid in dict.fromkeys(series):
                for image in self._find(association, _query("IMAGE", study, uid, ""), tally):
                    images.add((SeriesInstanceUid(uid), SopInstanceUid(self._text(image, "SOPInstanceUID"))))
        counted = max((count for count in counts if count is not None), default=None)
        return _StudyAnswer(bool(counts or series), counted, frozenset(images))

    def move(self, study: StudyInstanceUid, destination: str) -> MoveResult:
        """Ask the peer to send a study to the AE title `destination` (C-MOVE) and wait for the end."""
        query = Dataset()
        query.QueryRetrieveLevel = "STUDY"
        query.StudyInstanceUID = study
        return self._move(query, destination)

    def move_instances(
        self, study: StudyInstanceUid, images: Collection[Image], destination: str
    ) -> MoveResult:
        """Ask the peer for images one by one (C-MOVE at IMAGE level, DICOM PS3.4 C.4.2); add up the results.

        Each image has its own association: some archives negotiate only the transfer syntax of the first
        instance, and then cannot send images of the same study in another one.
        """
        status, completed, failed = dimse.SUCCESS, 0, 0
        for series, instance in sorted(images):
            query = Dataset()
            query.QueryRetrieveLevel = "IMAGE"
            query.StudyInstanceUID = study
            query.SeriesInstanceUID = series
            query.SOPInstanceUID = instance
            result = self._move(query, destination)
            status = result.status if result.status != dimse.SUCCESS else status
            completed, failed = completed + result.completed, failed + result.failed
        return MoveResult(status, completed, failed)

    def commit(
        self, transaction_uid: str, references: Sequence[tuple[str, str]], linger: float
    ) -> CommitmentReport | None:
        """Ask the peer to commit to instances, as SOP class and SOP Instance UID (N-ACTION, PS3.4 J.3.2).

        Returns the report if it comes over this association within `linger` seconds after the answer,
        otherwise None. Also raises CommitmentRefusedError.
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
            answers = dimse.ask(association, context, dimse.MOVE, elements, data, patience=patience)
            tally = _Tally(_MOST_OF_STUDY)
            for answer in answers:
                self.heard += 1
                if not answer.is_pending:
                    break
                if not tally.takes(len(answer.data)):
                    words = f"it sent {tally.most} answers to C-MOVE, and no end of them"
                    raise _EndlessError(self.name, words, "look at the log of that system: a move has an end")
        return MoveResult(
            answer.status, answer.number(dimse.COMPLETED) or 0, answer.number(dimse.FAILED) or 0
        )

    @contextmanager
    def storing(self, pairs: Collection[tuple[str, str]]) -> Iterator["StoreAssociation"]:
        """Give an association for C-STORE for up to MAX_CONTEXTS pairs of SOP class and transfer syntax.

        The caller gets it even if the peer accepts none of the pairs, because each instance has its own
        outcome.
        """
        contexts = [Context(sop_class, (syntax,)) for sop_class, syntax in sorted(set(pairs))]
        with self._association("C-STORE", contexts) as association:
            yield StoreAssociation(association, self._timeout, self._hear)

    def _hear(self) -> None:
        self.heard += 1

    def _find(self, association: Association, query: Dataset, tally: "_Tally") -> Iterator[Dataset]:
        """Yield the answers to a question, as long as they come steadily and `tally` takes them.

        Each answer has the usual time-out; on the whole the answers must not be slower than one in two
        seconds.
        """
        context = self._context(association, _FIND)
        elements: dimse.Elements = {dimse.SOP_CLASS: _FIND.sop_class_uid, dimse.PRIORITY: _MEDIUM}
        data = encoded(query, context.transfer_syntax_uid)
        # Only the answers after the first have to be steady.
        progress: Arrival | None = None
        for answer in dimse.ask(association, context, dimse.FIND, elements, data, patience=self._timeout):
            self.heard += 1
            if not answer.is_pending:
                self._expect_success(answer, "C-FIND")
                return
            now = time.monotonic()
            progress = progress or Arrival(self._timeout, now)
            progress.took(max(ANSWER, len(answer.data)), now)
            if progress.left(now) <= 0:
                raise AssociationLostError(Loss.TIMED_OUT, "its answers come too slowly")
            if not tally.takes(len(answer.data)):
                words = f"it sent {tally.most} answers to C-FIND, and no end of them"
                raise _EndlessError(
                    self.name, words, "look at the log of that system: a whole list has an end"
                )
            try:
                yield decoded(answer.data, context.transfer_syntax_uid)
            except PARSE_ERRORS as error:
                raise self._unanswered(
                    "it sent an answer to C-FIND that cannot be read", "look at the log of that system"
                ) from error

    def _text(self, answer: Dataset, keyword: str) -> str:
        value = answer.get(keyword)
        if not value:
            raise self._unanswered(
                f"it sent an answer to C-FIND without {keyword}", "look at the log of that system"
            )
        return str(value)

    def _expect_success(self, answer: Message, what: str) -> None:
        if answer.status != dimse.SUCCESS:
            reason = f"it answered {what} with status 0x{answer.status:04X}"
            raise _StatusError(self.name, reason, "look at the log of that system", answer.status)

    def _context(self, association: Association, context: Context) -> Accepted:
        accepted = association.answers[context]
        if accepted.result != 0:
            verdict = of_context(accepted.result, context.sop_class_uid, "any that we offer")
            raise self._unanswered(f"it does not offer us this service: {verdict.reason}", _TITLES_HINT)
        return accepted

    @contextmanager
    def _association(self, what: str, contexts: Sequence[Context]) -> Iterator[Association]:
        """Give an association, and raise its errors as HolderUnavailableError."""
        address = Address(self.host, self.port, self._tls)
        established = False
        try:
            with self._requested(address, contexts, patient=what != "C-STORE") as association:
                established = True
                yield association
        except AssociationRejectedError as error:
            verdict = of_rejection(error.result, error.source, error.reason)
            kind = BusyError if error.is_transient else RejectedError
            raise kind(self.name, f"it rejects our association: {verdict.reason}", verdict.hint) from error
        except AssociationLostError as error:
            verdict = of_loss(error.loss, error.detail)
            if established and error.loss in _ABORTS and what != "C-ECHO":
                # A peer that does not know us also aborts, for example Orthanc.
                hint = _TITLES_HINT if what == "C-FIND" else verdict.hint
                raise self._unanswered(f"{what}: {verdict.reason}", hint) from error
            begin = f"{what}: " if established else f"no association with {self.host}:{self.port}: "
            raise self._unavailable(begin + verdict.reason, verdict.hint) from error

    def _requested(self, address: Address, contexts: Sequence[Context], *, patient: bool) -> Association:
        """Return an association; if `patient`, ask again a few times while the peer has none free.

        A peer that takes one association at a time may not have noticed yet that our last one has ended.
        """
        pauses = list(_BUSY_PAUSES) if patient else []
        while True:
            try:
                return Association.request(
                    address,
                    calling=self._calling,
                    called=self.ae_title,
                    contexts=contexts,
                    timeout=self._timeout,
                )
            except AssociationRejectedError as error:
                if not error.is_transient or not pauses:
                    raise
                time.sleep(pauses.pop(0))

    def _unavailable(self, reason: str, hint: str) -> HolderUnavailableError:
        return HolderUnavailableError(self.name, reason, hint)

    def _unanswered(self, reason: str, hint: str) -> UnansweredError:
        return UnansweredError(self.name, reason, hint)


class _StatusError(UnansweredError):
    """The peer ended its answers with a status other than success."""

    def __init__(self, holder: str, reason: str, hint: str, status: int) -> None:
        super().__init__(holder, reason, hint)
        self.status = status


class _EndlessError(UnansweredError):
    """The peer sent more answers to C-FIND or C-MOVE than the limit allows, without an end."""


class _Tally:
    """Limits the number of answers to one call, because a peer may send them for ever."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._left = most

    def takes(self, size: int) -> bool:
        """Count an answer of `size` bytes, and return whether it is within the limit."""
        self._left -= 1 + size // _COUNTS_AS_ONE
        return self._left >= 0


@dataclass(frozen=True, slots=True)
class _StudyAnswer:
    """The peer's answers about one study: whether it is known, the count of images, and the listed images."""

    known: bool
    counted: int | None
    images: frozenset[Image]

    @property
    def is_short(self) -> bool:
        """Whether the peer lists fewer images than it counts, or none of a study that it knows."""
        return len(self.images) < (self.counted or (1 if self.known else 0))


class StoreAssociation:
    """An association for C-STORE."""

    def __init__(self, association: Association, timeout: float, hear: Callable[[], None]) -> None:
        self._association = association
        self._timeout = timeout
        self._hear = hear
        self._sent = 0

    @property
    def is_open(self) -> bool:
        """Whether more files can be sent over it."""
        return self._association.is_open

    def accepts(self, sop_class_uid: str, transfer_syntax_uid: str) -> bool:
        """Return whether the peer accepts this pair; it has to be one that the association proposed."""
        return self._association.answers[Context(sop_class_uid, (transfer_syntax_uid,))].result == 0

    def store(self, file: FileToSend) -> Verdict:
        """Send one file's data set byte for byte and return the outcome."""
        wanted = Context(file.sop_class_uid, (file.transfer_syntax_uid,))
        accepted = self._association.answers[wanted]
        if accepted.result != 0:
            return of_context(accepted.result, file.sop_class_uid, file.transfer_syntax_uid)
        try:
            start = begin_data_set(file.content, file.size)
        except BrokenFileError as error:
            return Verdict(Outcome.REFUSED, f"the file cannot be sent: {error}", _FILE_HINT)
        if start == file.size:
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
                dimse.DataSet(file.content, file.size - start),
                message=self._sent % 0xFFFF + 1,
                patience=self._timeout,
            )
            status = next(answers).status
            self._hear()
            return of_status(status)
        except AssociationLostError as error:
            return of_loss(error.loss, error.detail)
        except UnreadableFileError:
            # Only a part of the data set was sent, so no other message can follow.
            self._association.abort()
            raise


def _sorted(found: Mapping[StudyInstanceUid, ListedStudy], cut: str) -> StudyList:
    newest_first = sorted(found.items(), key=lambda one: one[1].date, reverse=True)
    return StudyList(dict(newest_first), cut)


def _is_too_much(failure: UnansweredError) -> bool:
    """Return whether the peer may answer a smaller question."""
    return isinstance(failure, _StatusError) and failure.status >> 8 in _TOO_MUCH


def _date_ranges(today: date) -> list[tuple[date, date]]:
    """Return ranges that cover all dates, to be asked from the end: newest last, future dates first."""
    ends = [today + timedelta(days) for days in (1, -7, -31, -366, -1500, -5000)]
    ranges = [(older + timedelta(1), newer) for newer, older in pairwise([*ends, date(1800, 1, 1)])]
    return [(ends[0] + timedelta(1), date.max), *reversed(ranges)]


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
        number = int(answer.NumberOfStudyRelatedInstances)
    except (AttributeError, TypeError, ValueError):
        # The attribute is absent, empty, or no number; it is optional (DICOM PS3.4 table C.6-1).
        return None
    # There is no study without images, and some PACS answer 0 for every study.
    return number if number > 0 else None
