"""Recheck: fetches a sample of proven instances again, and looks whether the holder has their content still.

A listing names SOP Instance UIDs alone. A PACS that was restored from its own backup may list an instance and
have an older content of it, or a damaged file.

Rule 1: only a content that the holder itself has sent is compared. Any other may have been coerced there.
Rule 2: a difference changes nothing at the holder, because a person has to say which content is right.
Rule 3: number and time are limited, and a holder that gives nothing out is no fault: the report says so.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from understudy.core.model import HolderName, Instance, InstanceNumber, Proof, ProofKind
from understudy.core.obligations import ObligationState
from understudy.core.ports import Clock
from understudy.core.refusals import DIFFERENT, different
from understudy.core.report import ReportRow, ReportTable
from understudy.core.uids import can_be_asked_for, shown
from understudy.holders.readback import DIFFERS, UNCOMPARED, ContentCheck
from understudy.ledger import CustodyBook, FactBook, ObligationBook

_log = logging.getLogger(__name__)

_STUDIES, _CORRECTED = 20, 200
"""Most studies of which the newest instance is compared, and most conflicts whose later content is."""

_ANY_EPOCH = 2**31
"""An epoch after all others."""


class RecheckBooks(Protocol):
    """The books of the ledger that the recheck uses."""

    custody: CustodyBook
    facts: FactBook
    obligations: ObligationBook


@dataclass(frozen=True, slots=True)
class Rechecked:
    """The sample, divided by result; `why` is the holder's reason, if it gives nothing out."""

    same: Sequence[Instance] = ()
    different: Sequence[Instance] = ()
    uncompared: Sequence[Instance] = ()
    why: str = ""

    @property
    def rows(self) -> tuple[ReportRow, ...]:
        """The result as lines of a report's summary."""
        compared = len(self.same) + len(self.different)
        told = f"{compared} of {compared + len(self.uncompared)}"
        if self.uncompared:
            told += f"; not the others: {self.why or 'not given out in time, or not readable here'}"
        return (
            ReportRow("Images of the sample, fetched again and compared", told),
            ReportRow("Images of the sample with another content", str(len(self.different))),
        )

    @property
    def tables(self) -> tuple[ReportTable, ...]:
        """The instances that were not found to be the same, as a report's table if there are any."""
        rows = [
            (one.sop_instance_uid, one.study_instance_uid, result)
            for some, result in ((self.different, "another content"), (self.uncompared, "not compared"))
            for one in some
        ]
        columns = ("SOP Instance UID", "Study Instance UID", "Result")
        return (ReportTable("Sample: images without an equal content", columns, rows),) if rows else ()


class Recheck:
    """Compares a sample of one holder's instances by content."""

    def __init__(
        self, ledger: RecheckBooks, holder: HolderName, contents: ContentCheck, clock: Clock
    ) -> None:
        self._ledger = ledger
        self._holder = holder
        self._contents = contents
        self._clock = clock
        self._fact = f"different:{holder}"

    def look(self, *, before: int = _ANY_EPOCH) -> Rechecked:
        """Compare a sample of the instances that came before the epoch `before`, and change nothing.

        An instance that differed before is always in it, until it is the same again.
        """
        known = self._ledger.obligations.in_state(self._holder, ObligationState.PROVEN, self._known())
        sample = self._ledger.obligations.seen(
            self._holder, before=before, studies=_STUDIES, corrected=_CORRECTED
        )
        chosen = {one.number: one for one in (*known, *sample) if _can_be_fetched(one)}
        believed = Proof(ProofKind.INVENTORY, self._clock.now(), {})
        answers = self._contents.judge(list(chosen.values()), dict.fromkeys(chosen, believed))
        same = [one for number, one in chosen.items() if _is_equal(answers.found.get(number))]
        differing = [one for number, one in chosen.items() if answers.denied.get(number) == DIFFERS]
        rest = [one for one in chosen.values() if one not in same and one not in differing]
        reasons = (
            *(str(proof.evidence[UNCOMPARED]) for proof in answers.found.values() if not _is_equal(proof)),
            *(why for why in answers.denied.values() if why != DIFFERS),
        )
        return Rechecked(same, differing, rest, next(iter(reasons), ""))

    def doubt(self, *, before: int) -> Rechecked:
        """Compare as `look` does, and make dead letters of the instances that differ."""
        found = self.look(before=before)
        numbers = [one.number for one in found.different]
        before_this = self._known()
        decided = self._ledger.obligations.in_state(self._holder, ObligationState.WAIVED, before_this)
        known = before_this - {one.number for one in (*found.same, *decided)} | set(numbers)
        if known != before_this:
            # Written first: after a crash, an instance that differed is compared again.
            self._ledger.facts.write(self._fact, json.dumps(sorted(known)))
        self._ledger.custody.differ(self._holder, numbers, why=different(), now=self._clock.now())
        for one in found.different:
            _log.warning(
                "recheck different holder=%s sop_instance_uid=%s", self._holder, shown(one.sop_instance_uid)
            )
        return found

    def undecided(self) -> Sequence[Instance]:
        """Return the instances that differed, and of which no person has said which content is right."""
        return self._ledger.obligations.in_state(
            self._holder, ObligationState.REFUSED, self._known(), reason=DIFFERENT
        )

    def _known(self) -> set[InstanceNumber]:
        return {InstanceNumber(one) for one in json.loads(self._ledger.facts.read(self._fact) or "[]")}


def _is_equal(proof: Proof | None) -> bool:
    return proof is not None and proof.kind is ProofKind.READBACK


def _can_be_fetched(one: Instance) -> bool:
    """Say whether a query names this instance alone."""
    return all(map(can_be_asked_for, (one.study_instance_uid, one.series_instance_uid, one.sop_instance_uid)))
