"""The story of the demo: history, mirror, outage, promotion, return, failback and proof, in the lab.

Rule 1: nothing is told that was not checked: what holders have is asked of them by dcmtk, read from their
disks and unpacked from their packs.
Rule 2: `acknowledged` is the measure of everything: what a sender was told is safe has to be everywhere at
the end.
"""

import io
import json
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pydicom

from tests import data
from tests.demo.narrator import Narrator
from tests.lab import PRIMARY, STANDBY, Copy, Lab, Sent, VaultContents, copy_of, same_content, transcoded
from tests.stack import RefusedError, State, wait_until

LAB_SERVICES = ("primary", "s3", "archive", "modality", "reader")
VAULTS = ("local", "cloud")
HOLDER_COLUMNS = ("holder", "instances", "missing", "extra", "twice", "unaltered (SHA-256)")
FIRST_STORE_DEADLINE = 60.0


class StoryError(Exception):
    """A check of the story failed: what was claimed is not so."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Instances of each generated series; the test of a broken settle plays with small ones."""

    history: int = 30
    ct: int = 200
    emergency: int = 60
    alone: int = 12
    samples: bool = True
    """Whether pydicom's own files are sent."""


@dataclass(frozen=True, slots=True)
class Material:
    """The files that are sent, below the folder that the modality sees."""

    history: Path
    samples: Path
    ct: data.Series
    first: Path
    """One more instance of the emergency's study: the first that the promoted standby is asked to take."""
    emergency: data.Series
    alone: data.Series


@dataclass(slots=True)
class Figures:
    """What was measured."""

    promote_to_store: float = 0.0
    noticed: float = 0.0
    vault_lag: float = 0.0
    rpo_at_kill: float = 0.0
    lost_at_kill: int = 0
    ct_rate: float = 0.0
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def named(self, total: float) -> list[tuple[str, str]]:
        """Return the figures in words."""
        return [
            ("promote to first accepted C-STORE", f"{self.promote_to_store:.2f} s"),
            ("RPO when the primary was killed (oldest that a vault lacks)", f"{self.rpo_at_kill:.1f} s"),
            ("instances acknowledged by the primary and lost with it", str(self.lost_at_kill)),
            ("primary killed to standby knowing it by evidence", f"{self.noticed:.1f} s"),
            ("last instance at the primary to proven in every vault", f"{self.vault_lag:.1f} s"),
            ("modality to primary", f"{self.ct_rate:.0f} instances/s"),
            ("the whole story", f"{total:.0f} s"),
        ]


class Story:
    """Plays the steps in their order on one lab."""

    def __init__(
        self,
        lab: Lab,
        narrator: Narrator,
        sizes: Sizes,
        *,
        break_settle: bool = False,
        started: Callable[[], None] = lambda: None,
    ) -> None:
        self.lab = lab
        self.narrator = narrator
        self.sizes = sizes
        self.break_settle = break_settle
        self.started = started
        self.acknowledged: set[str] = set()
        self.alone: frozenset[str] = frozenset()
        self.figures = Figures()
        self.report_address = ""
        self._killed = 0.0
        self._vaults: Mapping[str, VaultContents] = {}
        self._at_standby: Sequence[Copy] = ()

    def play(self) -> None:
        """Play everything; raise StoryError, or StackError where a part did not answer as it should."""
        material = self._clinic()
        self._history(material)
        self._appliance()
        self._mirrored()
        if self.sizes.samples:
            self._samples(material)
        self._ct(material)
        self._everywhere()
        self._probe()
        self._outage()
        self._promote(material)
        self._emergency(material)
        self._read(material)
        self._return_alone(material)
        self._return()
        self._failback()
        if self.break_settle:
            self._broken_settle(material)
        self._settle()
        self._compare()
        self._by_hand(material)

    # --- Before the outage ----------------------------------------------------------------------------------

    def _clinic(self) -> Material:
        with self.narrator.step(
            "a clinic starts: PACS (stock Orthanc), archive, modality, S3 (Ceph)"
        ) as step:
            self.lab.down()
            with ThreadPoolExecutor(1) as pool:
                making = pool.submit(self._material)
                self.lab.up(*LAB_SERVICES)
                material = making.result()
            _check(not self.lab.uids_at_primary(), "the primary is empty at first")
            step.say("nothing of Understudy runs yet")
        return material

    def _material(self) -> Material:
        folder, sizes = self.lab.data, self.sizes
        samples = data.pydicom_test_files(folder / "samples")
        data.ct_series(folder / "history", seed="history", instances=sizes.history)
        ct = data.ct_series(folder / "ct", seed="ct", instances=sizes.ct)
        first = data.ct_series(folder / "first", seed="first", instances=1, study_seed="emergency")
        emergency = data.ct_series(folder / "emergency", seed="emergency", instances=sizes.emergency)
        alone = data.ct_series(folder / "alone", seed="alone", instances=sizes.alone, station="MR1")
        _check(len(samples.paths) > 50, "pydicom brings its test files")
        return Material(folder / "history", folder / "samples", ct, first.paths[0], emergency, alone)

    def _history(self, material: Material) -> None:
        with self.narrator.step("history is at the primary before there is a standby") as step:
            accepted = self.lab.send_all(material.history, calling="CT1", to=PRIMARY)
            self.acknowledged |= accepted
            _equal("primary", self.lab.uids_at_primary(), self.acknowledged)
            step.say(f"{len(accepted)} instances; its forwarding finds nobody and never tries again")

    def _appliance(self) -> None:
        with self.narrator.step("Understudy starts beside it: edge, orthanc, agent") as step:
            self.lab.up()
            self.lab.first_start()
            state = self.lab.status()
            _check(state.mode == "standby", f"it starts as standby: {state}")
            self.started()
            step.say(f"healthy, certificate pinned, mode {state.mode}, epoch {state.epoch}")

    def _mirrored(self) -> None:
        with self.narrator.step("history is mirrored: inventory compared, gaps pulled by C-MOVE") as step:
            wait_until(
                self.lab.uids_at_standby,
                self.acknowledged.issubset,
                deadline=300,
                what="history at the standby",
                pause=1,
            )
            step.say(f"all {len(self.acknowledged)} at the standby, counted by findscu")

    def _samples(self, material: Material) -> None:
        with self.narrator.step("a modality sends pydicom's own test files to the primary") as step:
            sent = self.lab.send(material.samples, calling="MR1", to=PRIMARY)
            self._count(sent, step_minimum=100)
            step.say(f"{len(sent.accepted)} instances accepted" + _not_sent(sent))

    def _ct(self, material: Material) -> None:
        with self.narrator.step(f"a modality sends a CT series of {self.sizes.ct} to the primary") as step:
            began = time.monotonic()
            accepted = self.lab.send_all(material.ct.paths[0].parent, calling="CT1", to=PRIMARY)
            seconds = time.monotonic() - began
            self.figures.ct_rate = len(accepted) / seconds
            self.acknowledged |= accepted
            _equal("the CT series", accepted, set(material.ct.sop_instance_uids))
            step.say(f"{len(accepted)} accepted in {seconds:.1f} s")

    def _everywhere(self) -> None:
        with self.narrator.step("all of it is at standby, archive and both vaults") as step:
            began = time.monotonic()
            state = self._proven(400)
            self.figures.vault_lag = time.monotonic() - began
            _equal("standby", self.lab.uids_at_standby(), self.acknowledged)
            step.say(", ".join(f"{name} {counts.proven} proven" for name, counts in state.holders.items()))

    # --- The outage -----------------------------------------------------------------------------------------

    def _probe(self) -> None:
        with self.narrator.step("the primary is asked what it can do: understudy probe") as step:
            found = self.lab.probe()
            works = [one["name"] for one in found["capabilities"] if one["ability"] == "works"]
            step.say(f"{found['verdict']} {', '.join(works)} work; {found['seconds']} s")

    def _outage(self) -> None:
        with self.narrator.step("the primary is killed (SIGKILL)") as step:
            state = self.lab.status()
            self.figures.rpo_at_kill = state.rpo_seconds
            self.lab.kill("primary")
            self._killed = time.monotonic()
            self.figures.lost_at_kill = len(self.acknowledged - self.lab.uids_at_standby())
            lost = self.figures.lost_at_kill
            _check(lost == 0, f"{lost} instances are lost with the primary")
            step.say(f"RPO {state.rpo_seconds:.1f} s, {lost} acknowledged instances lost with it")

        with self.narrator.step("the standby notices, by its own C-ECHO and C-FIND") as step:
            state = wait_until(
                self.lab.status,
                lambda seen: seen.condition == "down",
                deadline=180,
                what="the primary known to be down",
            )
            self.figures.noticed = time.monotonic() - self._killed
            probe = state.raw["primary"]["evidence"][0]
            _check(state.mode == "standby", "noticing alone promotes nothing")
            step.say(f"down after {self.figures.noticed:.1f} s: {probe['echo']}")

    def _promote(self, material: Material) -> None:
        with self.narrator.step("promote over REST; the modality is repointed and sends") as step:
            epoch = self.lab.status().epoch
            began = time.monotonic()
            state = self.lab.promote("the demo killed the primary")
            answered = time.monotonic() - began
            wait_until(
                lambda: self._stored(material.first),
                lambda stored: stored,
                deadline=FIRST_STORE_DEADLINE,
                what="the first C-STORE accepted",
            )
            self.figures.promote_to_store = time.monotonic() - began
            self.acknowledged.add(str(_header(material.first).SOPInstanceUID))
            _check(state.mode == "active" and state.epoch == epoch + 1, f"active in the next epoch: {state}")
            step.say(
                f"mode {state.mode}, epoch {state.epoch}, answered in {answered:.2f} s; "
                f"first C-STORE accepted after {self.figures.promote_to_store:.2f} s"
            )

    def _stored(self, path: Path) -> bool:
        self.lab.store(path, calling="CT1", to=STANDBY)
        return True

    def _emergency(self, material: Material) -> None:
        with self.narrator.step("the modality works with the standby: a CT series") as step:
            accepted = self.lab.send_all(material.emergency.paths[0].parent, calling="CT1", to=STANDBY)
            self.acknowledged |= accepted
            step.say(f"{len(accepted)} accepted")

    def _read(self, material: Material) -> None:
        with self.narrator.step("a reader queries and retrieves: C-FIND, C-MOVE, C-GET, QIDO-RS") as step:
            study = material.emergency.study_instance_uid
            wanted = set(material.emergency.sop_instance_uids) | {str(_header(material.first).SOPInstanceUID)}
            (found,) = self.lab.find(
                STANDBY,
                [
                    {
                        "QueryRetrieveLevel": "STUDY",
                        "StudyInstanceUID": study,
                        "NumberOfStudyRelatedInstances": "",
                    }
                ],
            )
            _check(int(found["NumberOfStudyRelatedInstances"]) == len(wanted), f"C-FIND counts {found}")
            self.lab.move_to_reader(study)
            _equal(
                "the reader after C-MOVE",
                {copy.sop_instance_uid for copy in self.lab.copies_at_reader()},
                wanted,
            )
            _equal(
                "the answer to C-GET", {copy.sop_instance_uid for copy in self.lab.get_study(study)}, wanted
            )
            listed = self.lab.get(f"/dicom-web/studies/{study}/instances")
            _equal("QIDO-RS", {instance["00080018"]["Value"][0] for instance in listed}, wanted)
            step.say(f"{len(wanted)} instances each way")

    # --- The return -----------------------------------------------------------------------------------------

    def _return_alone(self, material: Material) -> None:
        with self.narrator.step(
            "the primary is repaired, its cable still pulled, and receives data alone"
        ) as step:
            self.lab.unplug("primary")
            self.lab.start("primary")
            sent = self.lab.send_inside("primary", material.alone.paths, calling="MR1", called="PRIMARY")
            self.alone = sent.accepted
            _equal("what the primary accepted", self.alone, set(material.alone.sop_instance_uids))
            self.acknowledged |= self.alone
            _check(not self.alone & self.lab.uids_at_standby(), "the standby has none of them")
            step.say(f"{len(self.alone)} instances that nobody else has; its forwarding failed for good")

    def _return(self) -> None:
        with self.narrator.step(
            "its cable is plugged in: the standby sees it, stays active and says so"
        ) as step:
            self.lab.plug("primary")
            state = wait_until(
                self.lab.status,
                lambda seen: seen.condition == "up",
                deadline=180,
                what="the primary known to be up",
            )
            _check(state.mode == "active", f"a primary that reappears changes no mode: {state}")
            _check(bool(state.alarms), "two archives at work raise an alarm")
            step.say(f"alarm: {state.alarms[0]}")

    def _failback(self) -> None:
        with self.narrator.step("failback, dry run: the plan") as step:
            plan = self.lab.plan()
            to_send, to_pull = sum(plan["to_send"].values()), sum(plan["to_pull"].values())
            _check(self.lab.status().mode == "active", "a plan changes nothing")
            step.say(f"{to_send} instances of {len(plan['to_send'])} studies to send, {to_pull} to pull")
        missing = self.acknowledged - self.lab.uids_at_primary()
        _check(
            to_send == len(missing),
            f"the plan sends {to_send}, and findscu misses {len(missing)} at the primary",
        )

        with self.narrator.step("failback by REST: deliver what is owed, prove each instance") as step:
            number = self.lab.failback()
            done = self.lab.finished(
                number,
                deadline=600,
                look=lambda seen: step.show(f"{seen['done']} of {seen['total']} {seen['unit']}"),
            )
            _check(bool(done["report"]), f"the failback has its report: {done}")
            self.report_address = f"{self.lab.https}/understudy/reports/{number}.html"
            _equal("primary", self.lab.uids_at_primary(), self.acknowledged)
            step.say(f"operation {number} done, {done['done']} of {done['total']} {done['unit']}")

    def _broken_settle(self, material: Material) -> None:
        lost = material.emergency.sop_instance_uids[0]
        with self.narrator.step("broken on purpose: one instance is deleted at the primary, then settle"):
            self.lab.delete_at_primary(lost)
            try:
                state = self.lab.settle(override_quiet="the demo breaks the proof on purpose")
            except RefusedError as refusal:
                raise StoryError(
                    f"settle is refused: {'; '.join(refusal.details) or refusal.message}"
                ) from refusal
            raise StoryError(f"settle was accepted although {lost} is not at the primary: {state}")

    def _settle(self) -> None:
        with self.narrator.step("the modality is pointed back; settle, after the quiet period") as step:
            state = self.lab.settled(deadline=180)
            step.say(
                f"mode {state.mode}, epoch {state.epoch}; every instance of the epoch was asked for once more"
            )

    # --- The proof ------------------------------------------------------------------------------------------

    def _compare(self) -> None:
        with self.narrator.step("the holders are compared by SOP Instance UID") as step:
            self._proven(300)
            identity = self.lab.first_start().identity
            primary, standby = self.lab.instances_at(PRIMARY), self.lab.instances_at(STANDBY)
            self._vaults = {"local": self.lab.local_vault(identity), "cloud": self.lab.cloud_vault(identity)}
            found = {"primary": primary, "standby": standby} | {
                f"vault {name}": Counter(copy.sop_instance_uid for copy in vault.copies())
                for name, vault in self._vaults.items()
            }
            step.say(f"{len(self.acknowledged)} acknowledged instances, {len(found)} holders")
        rows: list[tuple[str, ...]] = []
        problems: list[str] = []
        for name, instances in found.items():
            missing, extra = self.acknowledged - instances.keys(), instances.keys() - self.acknowledged
            twice = [uid for uid, times in instances.items() if times > 1]
            counts = (str(len(part)) for part in (instances, missing, extra, twice))
            rows.append((name, *counts, "not compared"))
            problems += [f"{name} misses {uid}" for uid in sorted(missing)]
            problems += [f"{name} has {uid}, which nobody sent" for uid in sorted(extra)]
            problems += [f"{name} has {uid} more than once" for uid in twice]
        # Shown whatever becomes of what follows.
        self.figures.rows = rows
        _check(not problems, "; ".join(problems[:20]))
        same = self._digests()
        self.figures.rows = [*((*row[:-1], same[row[0]]) for row in rows), self._archive()]

    def _archive(self) -> tuple[str, ...]:
        """Compare the route's destination with the CT instances that the route wants."""
        wanted = {copy.sop_instance_uid for copy in self._at_standby if _modality(copy) == "CT"}
        found = self.lab.uids_at_archive()
        missing, extra = wanted - found, found - wanted
        _equal("archive", found, wanted)
        return ("archive (route: CT)", str(len(found)), str(len(missing)), str(len(extra)), "0", "")

    def _digests(self) -> Mapping[str, str]:
        """Compare the bytes: packs with the standby's files, the primary's data sets with the standby's."""
        with self.narrator.step("bytes are compared by SHA-256: vaults, standby, primary") as step:
            self._at_standby = self.lab.copies_at_standby()
            stored = {copy.sop_instance_uid: copy for copy in self._at_standby}
            told = {"standby": f"{len(stored)} files"}
            for name, vault in self._vaults.items():
                for copy in vault.copies():
                    same_file = copy.file_sha256 == stored[copy.sop_instance_uid].file_sha256
                    _check(same_file, f"vault {name} holds other bytes of {copy} than the standby")
                told[f"vault {name}"] = f"{len(vault.copies())} of {len(stored)} files"
            same = encoded = changed = 0
            for copy in self.lab.copies_at_primary():
                if copy.dataset_sha256 == stored[copy.sop_instance_uid].dataset_sha256:
                    same += 1
                elif same_content(copy, stored[copy.sop_instance_uid]):
                    encoded += 1
                else:
                    only_pixels = transcoded(copy, stored[copy.sop_instance_uid])
                    _check(only_pixels, f"{copy} has another content at the primary")
                    changed += 1
            _check(same > 0, "unaltered instances exist")
            told["primary"] = f"{same} of {len(stored)} data sets"
            step.say(f"vaults: every file; primary: {same} data sets" + _told(encoded, changed))
        return told

    def _by_hand(self, material: Material) -> None:
        with self.narrator.step("a study is restored from the S3 vault by age, zstd and tar alone") as step:
            paths = (material.first, *material.emergency.paths)
            sent = {copy.sop_instance_uid: copy for copy in map(_read_file, paths)}
            study = material.emergency.study_instance_uid
            packs = [
                manifest["pack_key"]
                for manifest in map(json.loads, self._vaults["cloud"].manifests.values())
                if manifest["study_instance_uid"] == study
            ]
            restored = self.lab.cloud_vault(self.lab.first_start().identity, only=packs).copies()
            _equal("the restored study", {copy.sop_instance_uid for copy in restored}, set(sent))
            for copy in restored:
                _check(
                    copy.dataset_sha256 == sent[copy.sop_instance_uid].dataset_sha256,
                    f"{copy} is not what the modality sent",
                )
            step.say(
                f"{len(restored)} files of {len(packs)} packs, every data set the modality's own by SHA-256"
            )

    # --- Checks ---------------------------------------------------------------------------------------------

    def _proven(self, deadline: float) -> State:
        """Wait until the appliance says that every holder is proven to have everything; return the status."""
        expected = len(self.acknowledged)

        def good(state: State) -> bool:
            return (
                state.instances == expected
                and state.gaps == 0
                and all(counts.unproven == 0 for counts in state.holders.values())
                and all(state.holders[vault].proven == expected for vault in VAULTS)
            )

        return wait_until(
            self.lab.status,
            good,
            deadline=deadline,
            what=f"all {expected} instances proven everywhere",
            pause=0.5,
        )

    def _count(self, sent: Sent, *, step_minimum: int) -> None:
        _check(len(sent.accepted) >= step_minimum, f"accepted {len(sent.accepted)}, not {dict(sent.refused)}")
        self.acknowledged |= sent.accepted


def _check(holds: bool, claim: str) -> None:
    if not holds:
        raise StoryError(claim)


def _equal(what: str, found: set[str] | frozenset[str], wanted: set[str] | frozenset[str]) -> None:
    missing, extra = sorted(wanted - found), sorted(found - wanted)
    told = f"missing {missing[:10]} ({len(missing)}), extra {extra[:10]} ({len(extra)})"
    _check(not missing and not extra, f"{what}: {told}")


def _not_sent(sent: Sent) -> str:
    return f", {len(sent.refused)} that dcmtk cannot send" if sent.refused else ""


def _told(encoded: int, changed: int) -> str:
    """Name what a sender altered: stock Orthanc decompresses some images when it forwards them."""
    parts = []
    if encoded:
        parts.append(f"{encoded} equal in every element that a sender encoded again")
    if changed:
        parts.append(
            f"{changed} that the primary decompressed on the way, equal but for their pixels' encoding"
        )
    return "".join(f", {part}" for part in parts)


def _header(path: Path) -> pydicom.Dataset:
    return pydicom.dcmread(path, stop_before_pixels=True)


def _read_file(path: Path) -> Copy:
    return copy_of(path.read_bytes())


def _modality(copy: Copy) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return str(pydicom.dcmread(io.BytesIO(copy.content), stop_before_pixels=True).get("Modality", ""))
