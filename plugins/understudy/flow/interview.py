"""Interview: the questions of `understudy probe` to the primary, and what each answer shows.

Rule 1: every answer has its evidence. What was not asked for is not known.
Rule 2: nothing at the primary is changed. At most one study is fetched, and only if none of it is here.
Rule 3: one question follows another, and each has an end.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Protocol

from understudy.core.capabilities import Ability, Suggestion, is_round, left_out
from understudy.core.commitment import CommitmentReport, is_committed
from understudy.core.inventory import Image, StudyList
from understudy.core.model import Instance, StudyInstanceUid
from understudy.core.ports import (
    MAX_CONTEXTS,
    BusyError,
    CappedError,
    Clock,
    CommitmentRefusedError,
    CommitmentReports,
    Committer,
    HolderUnavailableError,
    InstanceSource,
    NoImagesError,
    OrthancUnavailableError,
    Peer,
)
from understudy.core.text import counted
from understudy.engine.operations import StoppedError
from understudy.flow.note import Noter
from understudy.ledger import DeviceBook, InstanceBook, IntakeBook

_IMPLICIT, _EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_VERIFICATION = "1.2.840.10008.1.1"
_FIND, _MOVE = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.2"
_SERVICES = (
    _FIND,
    _MOVE,
    "1.2.840.10008.5.1.4.1.2.2.3",
    "1.2.840.10008.5.1.4.1.2.1.1",
    "1.2.840.10008.5.1.4.1.2.1.2",
    "1.2.840.10008.5.1.4.1.2.1.3",
    "1.2.840.10008.1.20.1",
)
"""Study Root and Patient Root C-FIND, C-MOVE and C-GET, and Storage Commitment Push Model."""
_USUAL_CLASSES = tuple(
    f"1.2.840.10008.5.1.4.1.1.{end}"
    for end in ("1", "1.1", "1.2", "2", "2.1", "3.1", "4", "4.1", "6.1", "7", "12.1", "20", "88.59", "88.67")
)
"""Radiography, mammography, CT, MR, ultrasound, secondary capture, angiography, PET and SPECT, documents."""
_USUAL_SYNTAXES = (_IMPLICIT, _EXPLICIT, "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90")
"""Uncompressed, JPEG lossless and JPEG 2000 lossless."""

_DAYS = (7, 31, 366)
"""Days of the list of studies; more if the shorter list has few studies."""
_ENOUGH = 20
_FIRST_DATE = date(1800, 1, 1)
_TRIES = 3
"""Studies that are asked for their images, until one answers."""
_LARGEST = 1000
"""Most images of a study that the probe fetches."""
_MOST_SHARED = 10
"""Most images that the probe asks storage commitment for."""
_ARRIVAL = 20.0
"""Seconds in which the images of a C-MOVE have to come after its end."""
_LINGER, _REPORT = 3.0, 10.0
"""Seconds for a report of storage commitment over the same association, and in all."""
_LOOK = 0.2
_BUSY_PAUSES = (0.2, 0.5, 1.0, 2.0)
"""Seconds until the same question is asked again of a primary that has no association free."""
_MOST_ASSOCIATIONS = 8
_MOST_NAMED = 5


class Interviewed(Peer, Committer, Protocol):
    """The primary, and the questions that only a probe asks."""

    def studies_between(self, first: date, last: date) -> StudyList:
        """Return the studies of these dates, asked for once."""
        ...

    def character_sets(self, study: StudyInstanceUid) -> Set[str]:
        """Return the character sets that an answer with names declares."""
        ...


class InterviewBooks(Protocol):
    """The books of the ledger that an interview uses."""

    devices: DeviceBook
    instances: InstanceBook
    intake: IntakeBook


@dataclass(frozen=True, slots=True)
class Reply:
    """What an answer of the primary shows."""

    ability: Ability
    finding: str
    evidence: str
    meaning: str = ""


@dataclass(slots=True)
class Known:
    """What earlier questions have shown."""

    listed: StudyList = field(default_factory=lambda: StudyList({}))
    study: StudyInstanceUid | None = None
    """A study whose images the primary lists."""
    images: Set[Image] = frozenset()
    suggestions: list[Suggestion] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Question:
    """One question; `needed` says whether the standby is of no use without a good answer."""

    name: str
    needed: bool
    ask: Callable[[Known], Reply]


class Interview:
    """Asks the primary; `questions` have to be asked in their order."""

    def __init__(
        self,
        peer: Interviewed,
        source: InstanceSource,
        reports: CommitmentReports,
        ledger: InterviewBooks,
        noter: Noter,
        clock: Clock,
        *,
        destination: str,
        titles: frozenset[str],
        associations: int,
        name_of: Callable[[str], str],
        new_uid: Callable[[], str],
        wait: Callable[[float], bool],
    ) -> None:
        self.peer = peer
        self._source = source
        self._reports = reports
        self._ledger = ledger
        self._noter = noter
        self._clock = clock
        self._destination = destination
        """AE title to which the primary sends by C-MOVE."""
        self._titles = titles
        """AE titles with which the primary calls."""
        self._associations = associations
        """Associations at a time that the configuration allows us."""
        self._name_of = name_of
        """Returns DICOM's name of a UID."""
        self._new_uid = new_uid
        self._wait = wait
        """Waits for the given seconds and returns False if the appliance stops."""
        self.questions = (
            Question("association", True, self._associates),
            Question("services", True, self._offers),
            Question("list of studies", True, self._lists_studies),
            Question("list of images", True, self._lists_images),
            Question("counts of images", False, self._counts),
            Question("character set", False, self._declares),
            Question("C-MOVE to this standby", True, self._moves),
            Question("C-GET", False, self._gives),
            Question("storage commitment", False, self._commits),
            Question("images that it takes", True, self._takes),
            Question("associations at a time", False, self._associates_often),
        )

    def answer(self, question: Question, known: Known) -> Reply:
        """Ask, and return an answer in any case.

        A primary with few associations may not have noticed yet that our last one has ended.
        """
        for pause in (*_BUSY_PAUSES, None):
            try:
                return question.ask(known)
            except BusyError as error:
                reply = Reply(Ability.UNKNOWN, "it is busy", error.reason, "probe again when it has time")
            except HolderUnavailableError as error:
                return Reply(Ability.MISSING, "it fails", error.reason, error.hint)
            except OrthancUnavailableError as error:
                return Reply(Ability.UNKNOWN, "not known", str(error), error.hint)
            if pause is not None and not self._wait(pause):
                raise StoppedError
        return reply

    def _associates(self, _known: Known) -> Reply:
        began = self._clock.monotonic()
        self.peer.echo()
        took = self._clock.monotonic() - began
        return Reply(Ability.WORKS, "it answers C-ECHO", f"C-ECHO was answered in {took:.2f} s")

    def _offers(self, _known: Known) -> Reply:
        accepted = {sop_class for sop_class, _ in self._accepted({(one, _IMPLICIT) for one in _SERVICES})}
        names = [self._name_of(one) for one in _SERVICES if one in accepted]
        absent = [self._name_of(one) for one in (_FIND, _MOVE) if one not in accepted]
        finding = "; ".join(names) or "none"
        evidence = f"of {len(_SERVICES)} services it accepts {len(names)}: {finding}"
        if absent:
            meaning = f"allow {', '.join(absent)} to the AE title of this standby at the PACS"
            return Reply(Ability.MISSING, finding, evidence, meaning)
        return Reply(Ability.WORKS, finding, evidence)

    def _accepted(self, pairs: Collection[tuple[str, str]]) -> Set[tuple[str, str]]:
        """Return which pairs of SOP class and transfer syntax the primary accepts."""
        found: set[tuple[str, str]] = set()
        ordered = sorted(pairs)
        for start in range(0, len(ordered), MAX_CONTEXTS):
            batch = ordered[start : start + MAX_CONTEXTS]
            with self.peer.storing(batch) as association:
                found |= {pair for pair in batch if association.accepts(*pair)}
        return found

    def _lists_studies(self, known: Known) -> Reply:
        began = self._clock.monotonic()
        known.listed, dates, period = self._recent()
        took = self._clock.monotonic() - began
        studies = known.listed.studies
        evidence = f"it lists {counted(len(studies), 'study', 'studies')} of {period} in {took:.2f} s"
        if known.listed.cut:
            return Reply(
                Ability.LIMITED,
                "its list ends early",
                f"{evidence}; {known.listed.cut}",
                "raise the limit of query results at the PACS: this standby asks again by smaller ranges of "
                "dates, which takes longer",
            )
        if not studies:
            return Reply(
                Ability.UNKNOWN,
                "it lists no study",
                evidence,
                "probe again once the PACS has images; if it has some, allow this standby to query them",
            )
        if lost := left_out(set(studies), self._in_two_parts(known.listed, dates)):
            return Reply(
                Ability.LIMITED,
                "its list is cut, and its answer does not say so",
                f"{evidence}; asked in two parts it lists {counted(lost, 'study', 'studies')} more",
                "raise the limit of query results at the PACS: images that it does not list are not copied",
            )
        if is_round(len(studies)):
            return Reply(
                Ability.LIMITED,
                "its list may be cut",
                f"{evidence}, which is a round number",
                "look for a limit of query results at the PACS",
            )
        return Reply(Ability.WORKS, "it lists studies by date", evidence)

    def _recent(self) -> tuple[StudyList, tuple[date, date], str]:
        """Return the studies of the last days, the dates that were asked for, and the same in words."""
        today = datetime.fromtimestamp(self._clock.now(), UTC).date()
        last = today + timedelta(1)
        for days in _DAYS:
            first = today - timedelta(days)
            found = self.peer.studies_between(first, last)
            if found.cut or len(found.studies) >= _ENOUGH:
                return found, (first, last), f"the last {days} days"
        return self.peer.studies_between(_FIRST_DATE, last), (_FIRST_DATE, last), "all dates"

    def _in_two_parts(self, listed: StudyList, dates: tuple[date, date]) -> Set[StudyInstanceUid]:
        """Return the studies that the primary lists in two questions for the same dates."""
        first, last = dates
        known = sorted(one for one in _dates(listed) if first <= one < last)
        middle = known[len(known) // 2] if known else first
        parts = (
            self.peer.studies_between(first, middle),
            self.peer.studies_between(middle + timedelta(1), last),
        )
        return {study for part in parts for study in part.studies}

    def _lists_images(self, known: Known) -> Reply:
        small = _smallest_first(known.listed)
        if not small:
            return Reply(Ability.UNKNOWN, "not asked", "it lists no study")
        problem: Reply | None = None
        for study in small[:_TRIES]:
            began = self._clock.monotonic()
            try:
                images = self.peer.images(study)
            except CappedError as error:
                problem = Reply(
                    Ability.LIMITED, "it lists fewer images than it counts", error.reason, error.hint
                )
                continue
            except NoImagesError as error:
                problem = Reply(
                    Ability.MISSING,
                    "it lists no images",
                    error.reason,
                    "allow queries at the levels SERIES and IMAGE: without them nobody knows which images "
                    "are missing here, and no failback can be proven",
                )
                continue
            took = self._clock.monotonic() - began
            if images:
                known.study, known.images = study, images
                series = len({one for one, _ in images})
                evidence = f"{counted(len(images), 'image')} in {series} series of a study, in {took:.2f} s"
                return Reply(Ability.WORKS, "it lists series and images", evidence)
        return problem or Reply(Ability.UNKNOWN, "it lists no image", "the studies that were asked are gone")

    def _counts(self, known: Known) -> Reply:
        studies = known.listed.studies
        if not studies:
            return Reply(Ability.UNKNOWN, "not asked", "it lists no study")
        number = sum(one.count is not None for one in studies.values())
        evidence = f"{number} of {counted(len(studies), 'study', 'studies')} have a number of images"
        if number < len(studies):
            return Reply(
                Ability.LIMITED if number else Ability.MISSING,
                "it counts some" if number else "it counts none",
                evidence,
                "every recent study is compared image by image, and older ones in turn; let the PACS answer "
                "Number of Study Related Instances (0020,1208), if it can",
            )
        if known.study is not None and studies[known.study].count != len(known.images):
            return Reply(
                Ability.LIMITED,
                "its count is wrong",
                f"{evidence}; it counts {studies[known.study].count} in one and lists {len(known.images)}",
                "studies with such counts are compared image by image",
            )
        return Reply(Ability.WORKS, "it counts the images of a study", evidence)

    def _declares(self, known: Known) -> Reply:
        if known.study is None:
            return Reply(Ability.UNKNOWN, "not asked", "no study is known")
        declared = sorted(self.peer.character_sets(known.study) - {""})
        finding = f"it answers in {', '.join(declared)}" if declared else "it declares none"
        return Reply(Ability.WORKS, finding, f"the answer about a study: {finding}")

    def _moves(self, known: Known) -> Reply:
        to = self._destination
        missing = next(self._missing(known), None)
        if missing is None:
            came = self._ledger.intake.number_from(self._titles)
            evidence = f"no small study is missing here; {counted(came, 'image')} came from it so far"
            if came:
                return Reply(Ability.WORKS, "its images come here", evidence)
            return Reply(Ability.UNKNOWN, "not asked", evidence, "probe again once it has a new study")
        study, images = missing
        known.study, known.images = study, images
        senders = self._senders()
        began = self._clock.monotonic()
        result = self.peer.move(study, to)
        said = self._clock.monotonic() - began
        deadline = self._clock.monotonic() + _ARRIVAL
        while (left := self._not_here(study, images)) and self._clock.monotonic() < deadline:
            if not self._wait(_LOOK):
                raise StoppedError
        took = max(self._clock.monotonic() - began, 0.001)
        came = len(images) - left
        evidence = (
            f"asked for a study of {counted(len(images), 'image')}: its answer was status "
            f"0x{result.status:04X} after {said:.1f} s, and {came} came within {took:.1f} s "
            f"({came / took:.0f} images/s)"
        )
        title = self._unknown_sender(senders, came)
        if title is not None:
            because = "the images that it sent for a C-MOVE came with this calling AE title"
            known.suggestions.append(Suggestion("Primary.CallingAeTitles", title, because))
            evidence += f"; they came with the calling AE title {title}"
        if not left and title is not None:
            meaning = f"name {title} in Primary.CallingAeTitles: otherwise its images are owed to it again"
            return Reply(Ability.LIMITED, "its images come here with another AE title", evidence, meaning)
        if not left:
            return Reply(Ability.WORKS, "its images come here", evidence)
        meaning = (
            f"check that the PACS knows the AE title {to} with this host's address and port, and that no "
            "firewall stops its connection"
        )
        ability = Ability.LIMITED if came else Ability.MISSING
        return Reply(ability, "some images came" if came else "no image came", evidence, meaning)

    def _missing(self, known: Known) -> Iterator[tuple[StudyInstanceUid, Set[Image]]]:
        """Yield small studies of which no image is here: moving a study again could replace images."""
        absent = (one for one in _smallest_first(known.listed) if not self._ledger.instances.of_study(one))
        for study in islice(absent, _TRIES):
            try:
                images = known.images if study == known.study else self.peer.images(study)
            except (CappedError, NoImagesError):
                continue
            if 0 < len(images) <= _LARGEST:
                yield study, images

    def _senders(self) -> Counter[str]:
        """Return how many images came with each calling AE title so far."""
        found: Counter[str] = Counter()
        for view in self._ledger.devices.modalities(lambda *_: False):
            found[view.calling_ae_title] += view.instances
        return found

    def _unknown_sender(self, before: Counter[str], came: int) -> str | None:
        """Return the AE title with which that many images came, if it is not one of the primary's."""
        grown = self._senders() - before
        if not came or sum(grown[title] for title in self._titles) >= came:
            return None
        others = [title for title, number in grown.items() if title not in self._titles and number >= came]
        return others[0] if len(others) == 1 else None

    def _not_here(self, study: StudyInstanceUid, images: Set[Image]) -> int:
        self._noter.catch_up()
        here = {
            (one.series_instance_uid, one.sop_instance_uid) for one in self._ledger.instances.of_study(study)
        }
        return len(images - here)

    def _shared(self, known: Known) -> list[Instance]:
        """Return some instances of a study that are here and that the primary lists."""
        if known.study is None:
            return []
        listed = {uid for _, uid in known.images}
        here = self._ledger.instances.of_study(known.study)
        return [instance for instance in here if instance.sop_instance_uid in listed][:_MOST_SHARED]

    def _gives(self, known: Known) -> Reply:
        shared = self._shared(known)
        if not shared:
            return Reply(Ability.UNKNOWN, "not asked", "no image is known that both sides have")
        began = self._clock.monotonic()
        meaning = (
            "damaged files here are healed from a vault instead, and no sample is compared by content; allow "
            "C-GET to this standby, if the PACS can"
        )
        try:
            content = self._source.fetch(shared[0])
        except BusyError:
            raise
        except HolderUnavailableError as error:
            return Reply(Ability.MISSING, "it gives no image", error.reason, meaning)
        if content is None:
            evidence = "it ended C-GET for an image that it lists without giving it"
            return Reply(Ability.MISSING, "it gives no image", evidence, meaning)
        took = self._clock.monotonic() - began
        return Reply(Ability.WORKS, "it gives images", f"{len(content)} bytes came in {took:.2f} s")

    def _commits(self, known: Known) -> Reply:
        shared = self._shared(known)
        if not shared:
            return Reply(Ability.UNKNOWN, "not asked", "no image is known that both sides have")
        references = [(one.sop_class_uid, one.sop_instance_uid) for one in shared]
        meaning = "deliveries are proven by its list of images instead"
        began = self._clock.monotonic()
        try:
            report, how = self._committed(references)
        except CommitmentRefusedError as error:
            return Reply(Ability.MISSING, "it refuses", str(error), meaning)
        if report is None:
            evidence = f"it took the request, and no report came within {_REPORT:.0f} s"
            meaning = f"{meaning}; check that it knows where to send reports to {self._destination}"
            return Reply(Ability.LIMITED, "it does not report", evidence, meaning)
        took = self._clock.monotonic() - began
        yes = sum(is_committed(report, uid) for _, uid in references)
        evidence = (
            f"it reported after {took:.1f} s {how}: {yes} of {counted(len(references), 'image')} committed"
        )
        if yes < len(references):
            return Reply(Ability.LIMITED, "it commits to some", evidence, meaning)
        return Reply(Ability.WORKS, f"it reports {how}", evidence)

    def _committed(self, references: Sequence[tuple[str, str]]) -> tuple[CommitmentReport | None, str]:
        """Return the report on a request for these, and the association over which it came."""
        transaction, began = self._new_uid(), self._clock.monotonic()
        report = self.peer.commit(transaction, references, _LINGER)
        if report is not None:
            return report, "over the same association"
        while self._clock.monotonic() - began < _REPORT:
            if (report := self._reports.commitment_report(transaction)) is not None:
                return report, "over an association of its own"
            if not self._wait(_LOOK):
                raise StoppedError
        return None, ""

    def _takes(self, _known: Known) -> Reply:
        held = self._ledger.instances.kinds()
        usual = {(one, syntax) for one in _USUAL_CLASSES for syntax in _USUAL_SYNTAXES}
        accepted = self._accepted(usual | held.keys())
        refused = {kind: number for kind, number in held.items() if kind not in accepted}
        evidence = (
            f"it accepts {len(usual & accepted)} of {len(usual)} usual pairs of SOP class and transfer "
            f"syntax, and {len(held) - len(refused)} of {len(held)} that images here have"
        )
        if not usual & accepted:
            meaning = "allow C-STORE to the AE title of this standby at the PACS: no failback is possible"
            return Reply(Ability.MISSING, "it takes no image", evidence, meaning)
        if refused:
            return Reply(
                Ability.LIMITED,
                f"it refuses {self._named(refused)}",
                evidence,
                f"a failback could not give these back: {counted(sum(refused.values()), 'image')} here. "
                "Allow them at the PACS",
            )
        return Reply(Ability.WORKS, "it takes all kinds of images that are here", evidence)

    def _named(self, kinds: Mapping[tuple[str, str], int]) -> str:
        most = sorted(kinds, key=lambda kind: kinds[kind], reverse=True)
        names = [f"{self._name_of(sop_class)} in {self._name_of(syntax)}" for sop_class, syntax in most]
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        return "; ".join(names[:_MOST_NAMED]) + more

    def _associates_often(self, known: Known) -> Reply:
        number, why = self._opened()
        if number == _MOST_ASSOCIATIONS:
            return Reply(Ability.WORKS, f"{number} or more", f"{number} were open at a time")
        # One place stays free for the probes of its health.
        fits, wanted = max(1, number - 1), self._associations
        if fits < wanted:
            because = f"it takes {counted(number, 'association')} at a time, and one is for the health probe"
            known.suggestions.append(Suggestion("Primary.Associations", fits, because))
        return Reply(
            Ability.LIMITED if number < wanted + 1 else Ability.WORKS,
            str(number),
            f"{number} were open at a time beside our other work; the next one: {why}",
            f"a failback sends over {fits} at a time" if fits < wanted else "",
        )

    def _opened(self) -> tuple[int, str]:
        """Return how many associations were open at a time, and why there was no further one."""
        with ExitStack() as stack:
            for number in range(_MOST_ASSOCIATIONS):
                association: AbstractContextManager[object] = self.peer.storing([(_VERIFICATION, _IMPLICIT)])
                try:
                    stack.enter_context(association)
                except HolderUnavailableError as error:
                    if not number:
                        raise
                    return number, error.reason
        return _MOST_ASSOCIATIONS, ""


def _smallest_first(listed: StudyList) -> list[StudyInstanceUid]:
    """Return the studies by their number of images, the newest of a number first, those without one last."""

    def size(study: StudyInstanceUid) -> float:
        count = listed.studies[study].count
        return math.inf if count is None else count

    return sorted(listed.studies, key=size)


def _dates(listed: StudyList) -> Iterator[date]:
    for study in listed.studies.values():
        try:
            yield datetime.strptime(study.date, "%Y%m%d").replace(tzinfo=UTC).date()
        except ValueError:
            continue
