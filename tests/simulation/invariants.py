"""What must never happen, checked against what the simulated holders truly have (docs/architecture.md).

Rule 1: nothing here asks the product: the ledger's file is read behind its back, the truth is the clinic's.
Rule 2: what the product documents that it cannot tell is excused by name, in `_is_excused` and `Truth`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from understudy.core.model import InstanceNumber, SopInstanceUid, StudyInstanceUid

from tests.simulation.account import Auditor, NotedProof, Owed
from tests.simulation.agent import PRIMARY, VAULT, Surroundings
from tests.simulation.contents import digest_of, origin, study_of_id
from tests.simulation.pacs import Pacs, Ways

_FRESH = 900.0
"""Seconds for which an answer of a holder may be on its way into the ledger."""


class ViolationError(Exception):
    """An invariant does not hold."""


@dataclass
class Truth:
    """What happened in the clinic that the holders' contents alone do not tell."""

    waived: set[tuple[str, int]] = field(default_factory=set)
    """By holder and instance, what a person gave up."""
    deleted: set[str] = field(default_factory=set)
    """What a person deleted here, by Orthanc's identifier."""
    deleted_by_force: set[tuple[str, str]] = field(default_factory=set)
    """What a person deleted here though it was owed, by Orthanc's identifier and MD5."""
    diverged: set[tuple[StudyInstanceUid, SopInstanceUid]] = field(default_factory=set)
    """Images of which the primary changed the content without telling: its lists name UIDs alone."""
    misled_until: float = 0.0
    """Until when the horizon may be wrong: the primary's lists were, or the clock was set back."""


class Watcher:
    """Looks after each step of the clinic, and at its end."""

    def __init__(self, around: Surroundings, auditor: Auditor, truth: Truth) -> None:
        self._around = around
        self._auditor = auditor
        self._truth = truth
        self._epoch = 0
        self._horizon: float | None = None
        self._excused: set[tuple[str, int]] = set()
        self._received: set[tuple[StudyInstanceUid, SopInstanceUid]] = set()
        """Images that the primary itself sent here."""
        self._modes = ["standby", "standby"]
        self.settled = 0
        """Failbacks that came to their end."""

    def look(self, began: float, *, promoted: bool = False) -> None:
        """Check all that a single step can break, which began at this moment.

        `promoted` says that a person has just asked for a promotion.
        """
        mode, epoch = self._auditor.mode()
        if epoch < self._epoch or (epoch > self._epoch and not promoted):
            raise ViolationError(f"the epoch went from {self._epoch} to {epoch}")
        self._epoch = epoch
        self._modes = [self._modes[-1], mode]
        for proof in self._auditor.new_proofs():
            self._check_proof(proof)
        self._check_horizon()
        if self._modes == ["returning", "standby"]:
            self.settled += 1
            self._check_settled(epoch, began)

    # Proofs

    def _check_proof(self, proof: NotedProof) -> None:
        around = self._around
        content = origin(around.orthanc.contents[proof.md5])
        now = around.machine.true
        if proof.kind == "received":
            self._received.add((proof.study, proof.uid))
        if proof.holder == VAULT:
            is_there = proof.md5 in around.store.members(json.loads(proof.evidence)["pack"])
        else:
            pacs = self._pacs(proof.holder)
            of_study = pacs.shown.get((proof.study, proof.uid), {})
            match proof.kind:
                case "received":
                    is_there = content in of_study
                case "commitment":
                    # A report names the UID alone, and waits in Orthanc until it is read.
                    is_there = any(content in at for (_, uid), at in pacs.shown.items() if uid == proof.uid)
                case _:
                    shown = of_study.get(content, 0.0) > now - _FRESH
                    is_there = shown or pacs.has(proof.study, proof.uid, content)
        if not is_there and self._is_excused(proof):
            self._excused.add((proof.holder, proof.number))
        elif not is_there:
            raise ViolationError(
                f"instance {proof.number} (content {content}) was called proven at {proof.holder} by "
                f"{proof.kind}, and {proof.holder} did not have it: {proof.evidence}"
            )

    def _is_excused(self, proof: NotedProof) -> bool:
        """Whether the product cannot know better, and says so or documents it.

        It says of a proof that it compared UIDs alone. In mode standby what the primary itself had sent is
        not overwritten by what came here late (docs/decisions.md). That a holder has another content is not
        known where that content never was here.
        """
        if "uncompared" in json.loads(proof.evidence):
            return True
        if proof.holder == PRIMARY and (proof.study, proof.uid) in self._received:
            return bool({"standby", "maintenance"} & set(self._modes))
        contents = self._around.orthanc.contents
        known = {origin(contents[md5]) for md5 in self._auditor.versions(proof.study, proof.uid)}
        since = self._around.machine.true - _FRESH
        of_image = self._pacs(proof.holder).shown.get((proof.study, proof.uid), {})
        shown = {content for content, at in of_image.items() if at > since}
        return bool(shown) and not shown & known

    def _pacs(self, holder: str) -> Pacs:
        return self._around.primary if holder == PRIMARY else self._around.archive

    # The copy

    def _check_horizon(self) -> None:
        horizon = self._auditor.horizon()
        if horizon is None or horizon == self._horizon:
            return
        self._horizon = horizon
        machine = self._around.machine
        if machine.true < self._truth.misled_until:
            return
        moment = machine.true - (machine.now() - horizon)
        primary = self._around.primary
        missing = [
            image
            for image in self._missing_here()
            if primary.since.get(image, moment) < moment and not self._is_deleted(image)
        ]
        if missing:
            raise ViolationError(f"the horizon moved, and {missing[0]} of the primary is not here")

    def _missing_here(self) -> list[tuple[StudyInstanceUid, SopInstanceUid]]:
        here = self._around.orthanc.here
        return [
            (study, uid)
            for study, images in self._around.primary.kept.items()
            for uid in images
            if f"{study}|{uid}" not in here
        ]

    def _is_deleted(self, image: tuple[StudyInstanceUid, SopInstanceUid]) -> bool:
        return f"{image[0]}|{image[1]}" in self._truth.deleted

    # What people do

    def _check_settled(self, epoch: int, asked: float) -> None:
        """Check what has to hold where a step, which began at this moment, has settled a failback."""
        for one in self._auditor.owed(holder=PRIMARY):
            if one.state not in ("proven", "waived"):
                raise ViolationError(f"settled while instance {one.number} is {one.state} to the primary")
            wanted = one.epoch == epoch and one.state == "proven" and not one.is_replaced
            shown = self._around.primary.shown.get((one.study, one.uid), {})
            if wanted and max(shown.values(), default=0.0) < asked:
                raise ViolationError(f"settled, and the primary was not seen to have instance {one.number}")

        if self._around.rechecks and self._around.primary.ways == Ways():
            self._check_contents()

    def _check_contents(self) -> None:
        """Check that no corrected content that the primary was seen to have was settled over an older one."""
        for one in self._auditor.corrected_and_seen(PRIMARY):
            kept = self._around.primary.kept.get(one.study, {}).get(one.uid)
            content = self._around.orthanc.contents[one.md5]
            if kept is not None and origin(kept) != origin(content):
                raise ViolationError(
                    f"settled, and the primary has {kept} in place of instance {one.number}, {content}"
                )

    def deleted(self, gone: Sequence[Owed]) -> None:
        """Check that of what was deleted without force another holder was known to have each."""
        safe = {one.number for one in gone if one.state == "proven" and self._is_believed(one)}
        for one in gone:
            if one.number not in safe:
                raise ViolationError(f"deleted instance {one.number} without force, which nobody else has")

    def _is_believed(self, one: Owed) -> bool:
        # What the primary was last heard to have; the others are not asked before a deletion.
        return one.holder != PRIMARY or one.uid in self._around.primary.last_answer.get(one.study, ())

    # The end

    def at_rest(self) -> None:
        """Check that nothing acknowledged is missing anywhere it is owed, once everything is at rest."""
        rows = self._auditor.owed()
        self._check_noted(rows)
        for one in rows:
            self._check_owed(one)
        if missing := [image for image in self._missing_here() if not self._is_deleted(image)]:
            raise ViolationError(f"{missing[0]} of the primary is not here at the end")

    def _check_noted(self, rows: Sequence[Owed]) -> None:
        noted = self._auditor.noted()
        for one in self._around.orthanc.acknowledged:
            md5 = digest_of(study_of_id(one.orthanc_id), one.content)
            if (one.orthanc_id, md5) not in noted and one.orthanc_id not in self._truth.deleted:
                raise ViolationError(f"{one.orthanc_id} was acknowledged, and the ledger does not know it")
        owed_to: dict[InstanceNumber, set[str]] = {}
        for row in rows:
            wanted = {VAULT} & set(self._around.holders) if row.is_replaced else set(self._around.holders)
            owed_to.setdefault(row.number, set(wanted)).discard(row.holder)
        for number, holders in owed_to.items():
            if holders:
                raise ViolationError(f"instance {number} was never owed to {sorted(holders)}")

    def _check_owed(self, one: Owed) -> None:
        around, content = self._around, self._around.orthanc.contents[one.md5]
        if one.state == "waived":
            by_force = (f"{one.study}|{one.uid}", one.md5) in self._truth.deleted_by_force
            if (one.holder, one.number) not in self._truth.waived and not one.is_replaced and not by_force:
                raise ViolationError(f"instance {one.number} is waived at {one.holder}, and nobody did that")
            return
        if one.is_replaced and one.holder != VAULT:
            return
        if one.state != "proven":
            raise ViolationError(f"instance {one.number} is {one.state} to {one.holder} at the end")
        if not one.is_proven:
            raise ViolationError(f"instance {one.number} is proven at {one.holder} without a proof")
        if (one.holder, one.number) in self._excused:
            return
        if one.holder == VAULT:
            packs = around.store.objects
            if one.is_replaced and one.md5 in around.store.ever_lost:
                # A verification asks for what is present.
                return
            is_there = any(one.md5 in around.store.members(key) for key in packs if key.startswith("packs/"))
        elif one.holder == PRIMARY and (one.study, one.uid) in self._truth.diverged:
            return
        elif one.holder == PRIMARY and self._is_deleted((one.study, one.uid)):
            # A person deleted it here when the primary had it; there is nothing left to give back.
            return
        else:
            is_there = self._pacs(one.holder).has(one.study, one.uid, content)
        if not is_there:
            raise ViolationError(f"{one.holder} does not have instance {one.number}, which it was owed")
