"""The clinic: what happens in it from one seed, and who turns the agent's workers."""

import random
from collections import Counter, deque
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from understudy.core.deletion import Deletion
from understudy.core.errors import RefusedError
from understudy.core.model import SopInstanceUid, StudyInstanceUid
from understudy.core.modes import WrongModeError
from understudy.core.obligations import Selection
from understudy.core.ports import HolderUnavailableError, OrthancUnavailableError

from tests.simulation.account import Auditor, Owed, new_file
from tests.simulation.agent import ARCHIVE, ARCHIVE_AE, PRIMARY, PRIMARY_AE, VAULT, Agent, Surroundings
from tests.simulation.contents import origin, study_of, uid_of
from tests.simulation.invariants import Truth, ViolationError, Watcher
from tests.simulation.machine import FullDiskError, KilledError, Machine
from tests.simulation.orthanc import Orthanc
from tests.simulation.pacs import Kept, Pacs, Ways
from tests.simulation.store import Store

BEGAN = 1_700_000_000.0
DAY = 86_400.0
REFUSALS = (RefusedError, WrongModeError)
FORESEEN = (HolderUnavailableError, OrthancUnavailableError, FullDiskError)
"""Errors with which a step or an act may end: the agent tries again."""
_TURNS = 12
"""Steps that a worker takes in a row while it says that there is more to do."""
_STUDIES, _REMEMBERED = 4, 400

Act = Callable[[], object]


@dataclass
class Figures:
    """What there was in the clinics of one process."""

    clinics: int = 0
    outages: int = 0
    """Times that the primary did not answer, or not as it should, for a while."""
    promotions: int = 0
    settled: int = 0
    kills: int = 0
    steps: int = 0
    days: float = 0.0

    def add(self, others: "Figures") -> None:
        """Add the figures of other clinics."""
        for name in self.__dataclass_fields__:
            setattr(self, name, getattr(self, name) + getattr(others, name))

    def __str__(self) -> str:
        return (
            f"{self.clinics} clinics, {self.days / 365:.0f} years, {self.outages} outages, "
            f"{self.promotions} promotions, {self.settled} settled, {self.kills} kills, {self.steps} steps"
        )


class Clinic:
    """One clinic; `play` lets it live."""

    def __init__(
        self, seed: int, folder: Path, figures: Figures | None = None, *, ages: bool = False
    ) -> None:
        """With `ages`, the primary may come back with older contents, and the agent compares a sample."""
        self.chance = chance = random.Random(seed)
        self.figures = figures or Figures()
        self.history: deque[str] = deque(maxlen=_REMEMBERED)
        machine = self.machine = Machine(BEGAN)
        holders = [PRIMARY]
        holders += [name for name, share in ((ARCHIVE, 0.35), (VAULT, 0.5)) if chance.random() < share]
        self.around = Surroundings(
            machine,
            Orthanc(machine),
            Pacs(PRIMARY, PRIMARY_AE, machine, chance, keeps_first=chance.random() < 0.2),
            Pacs(ARCHIVE, ARCHIVE_AE, machine, chance, keeps_first=chance.random() < 0.2),
            Store(machine),
            chance,
            folder,
            ["boot 0"],
            holders,
            ages,
        )
        self.primary, self.orthanc, self.store = self.around.primary, self.around.orthanc, self.around.store
        self.primary.coerces = chance.random() < 0.2
        self.primary.sends = lambda study, uid, content: self.orthanc.receive(study, uid, content, PRIMARY_AE)
        self.primary.reports_to = self.around.archive.reports_to = self.orthanc.reports
        path = folder / "ledger.sqlite"
        new_file(folder.parent / "template.sqlite", path)
        self.auditor = Auditor(path)
        self.truth = Truth()
        self._contents: dict[tuple[StudyInstanceUid, SopInstanceUid], str] = {}
        """What the primary had of each image before it came back last."""
        self.watcher = Watcher(self.around, self.auditor, self.truth)
        self.agent = Agent(self.around)
        self._images: dict[SopInstanceUid, tuple[StudyInstanceUid, int]] = {}
        """Every image that was ever made: its study, and how many contents it had."""
        self._studies = [study_of(number) for number in range(_STUDIES)]
        self._backup: Kept = {}
        self._refusals: Counter[tuple[str, int]] = Counter()
        """How often each instance was refused by each holder and given another try."""
        self._verifying = False
        self._is_calm = False

    def close(self) -> None:
        """Let go of all files."""
        self.agent.close()
        self.auditor.close()

    def tell(self, what: str) -> None:
        """Write down what happened."""
        day = (self.machine.true - BEGAN) / DAY
        self.history.append(f"{day:10.5f} {what}")

    # How time passes

    def play(self, outages: int) -> None:
        """Let so many outages pass, let all faults end, and check that nothing is missing."""
        self.figures.clinics += 1
        for _ in range(outages):
            self._outage()
        self._rest()
        self.figures.settled += self.watcher.settled
        self.figures.days += (self.machine.true - BEGAN) / DAY

    def _outage(self) -> None:
        """Let an outage pass: mostly a short one that ends by itself, now and then one with a promotion."""
        chance = self.chance
        self.figures.outages += 1
        if chance.random() < 0.7:
            self._short_outage()
            return
        for _ in range(chance.randint(1, 2)):
            chance.choice(self._outside_outages)()
            self._work(1)
        self._pass(chance.choice([0.0, 600.0, 7200.0, DAY, 20 * DAY]))
        self._fail()
        if chance.random() < 0.8:
            self._probe(3)
        self._promote()
        for _ in range(chance.randint(0, 2)):
            chance.choice(self._while_away)()
            self._work(1)
        self._pass(chance.choice([0.0, 60.0, 3600.0, 3 * DAY]))
        self._return()
        for _ in range(chance.randint(0, 3)):
            if self.auditor.mode()[0] in ("standby", "maintenance"):
                break
            chance.choice(self._on_the_way_back)()
            self._work(1)
        self._come_home()

    def _short_outage(self) -> None:
        """Let something happen, the primary fail before, in or after it, and come back."""
        chance = self.chance
        if chance.random() < 0.5:
            chance.choice(self._outside_outages)()
        self._fail()
        self._probe(chance.choice([0, 0, 1, 3]))
        chance.choice((self._work, self._work, *self._while_away))()
        self._return()
        if chance.random() < 0.7:
            self._pass(chance.choice([1.0, 60.0, 600.0, DAY, 9 * DAY]))
        if self.auditor.mode()[0] != "standby":
            self._come_home()

    def _fail(self) -> None:
        self.tell("the primary fails")
        self.primary.ways = Ways(silent=True)

    def _come_home(self) -> None:
        """Let people fail back and settle, until they may."""
        for attempt in range(40):
            mode, _ = self.auditor.mode()
            if mode == "maintenance":
                self._release()
            elif mode == "active":
                self._fail_back()
            elif mode == "returning":
                self._settle()
            else:
                return
            if attempt == 3:
                self._calm_down()
            if attempt % 3 == 0:
                self._probe(2)
            if attempt > 5 and attempt % 3 == 0:
                self._resolve()
            self._work(2, 30.0 if attempt < 10 else 300.0)
        raise ViolationError(f"a failback does not come to its end: {self.auditor.unsettled()}")

    def _rest(self) -> None:
        """End all faults, let everything come to rest, verify, and check the whole.

        At first another holder than the primary may be away: that is to hold up no other.
        """
        if self.chance.random() < 0.3:
            self._to_us()
            self.machine.fill_disk_after(self.chance.randint(0, 12))
            self._work(2)
        self.tell("all faults end")
        self._calm_down()
        if self.chance.random() < 0.3:
            self._step_clock()
        away = self.chance.choice([PRIMARY, *self.around.holders])
        if away != PRIMARY:
            self.tell(f"but {away} is away")
            self.store.is_away = self.around.archive.ways.silent = True
            self._come_to_rest(besides={ARCHIVE, VAULT})
            self._calm_down()
        self._come_to_rest()
        # The first one may have begun long ago, with answers of that time.
        for _ in range(2):
            self._verify()
            self._work()
            self._come_to_rest()
        self.watcher.at_rest()

    def _come_to_rest(self, *, besides: Set[str] = frozenset()) -> None:
        began = self.machine.true
        for attempt in range(60):
            if attempt % 3 == 0:
                self._probe(2)
            self._work(1, 120.0)
            if self.auditor.mode()[0] != "standby":
                self._come_home()
            if attempt % 4 == 3:
                self._resolve()
            if self._is_at_rest(began, besides):
                return
        raise ViolationError(
            f"it does not come to rest: {self.auditor.unsettled()}, gaps {self.auditor.gaps()}, "
            f"horizon {self.auditor.horizon()} of {self.machine.now()}"
        )

    def _is_at_rest(self, began: float, besides: Set[str]) -> bool:
        unsettled = {holder for holder, _ in self.auditor.unsettled()}
        if unsettled - besides or self.auditor.gaps() or self.auditor.mode()[0] != "standby":
            return False
        if self._verifying or self.orthanc.kept.keys() - self._noted_files():
            return False
        horizon = self.agent.mirror.horizon
        return horizon is not None and self.machine.now() - horizon < self.machine.true - began

    def _noted_files(self) -> set[str]:
        noted = self.auditor.noted()
        return {name for name, one in self.orthanc.kept.items() if (one.orthanc_id, one.md5) in noted}

    def _calm_down(self) -> None:
        """End every fault but those of the clock."""
        self._is_calm = True
        self.machine.kill_after(None)
        self.machine.fill_disk_after(None)
        self.orthanc.is_down = self.orthanc.is_full = False
        self.store.is_away = self.store.is_full = False
        self.store.lists_after = 0.0
        self.around.archive.ways = Ways()
        self.primary.ways = Ways()

    def _pass(self, seconds: float) -> None:
        if seconds:
            self.machine.wait(seconds)
            self._work(1)

    def _work(self, rounds: int = 1, gap: float = 8.0) -> None:
        """Let every worker that may have something to do take its turn, in any order."""
        for _ in range(rounds):
            names = self._with_work()
            self.chance.shuffle(names)
            for name in names:
                self._turn(name)
                if name.startswith("aside-") and self.chance.random() < 0.9:
                    # An answer wakes its lane.
                    self._turn(name.replace("aside", "lane"))
                self.machine.wait(self.chance.uniform(0.0, gap))

    def _with_work(self) -> list[str]:
        """Return the workers that have something to do, and now and then one that seems to have nothing."""
        unsettled = {holder for holder, _ in self.auditor.unsettled()}
        mode, _ = self.auditor.mode()
        likely = {
            "note": 0.9 if self.orthanc.has_news else 0.1,
            "conflicts": 0.5 if self.orthanc.has_news else 0.05,
            "probe": 0.4,
            "mirror": 0.6 if mode == "standby" else 0.3,
            "failback": 0.9 if mode == "returning" else 0.01,
            "plan": 0.1,
            "verify": 1.0 if self._verifying else 0.01,
            "delete": 0.1,
            "rescan": 0.05,
            "reconcile": 0.02,
            **{f"lane-{holder}": 0.95 if holder in unsettled else 0.02 for holder in self.around.holders},
            **{f"aside-{name}": 0.7 * bool(aside.waiting) for name, aside in self.agent.asides.items()},
        }
        return [name for name in self.agent.steps if self.chance.random() < likely[name]]

    def _probe(self, times: int) -> None:
        for _ in range(times):
            self._turn("probe")
            self.machine.wait(10.0)

    def _turn(self, name: str) -> None:
        """Let a worker step until it has nothing to do."""
        for _ in range(_TURNS):
            self.figures.steps += 1
            began, more = self.machine.true, False
            try:
                more = self.agent.steps[name]()
            except FORESEEN as error:
                self.tell(f"{name}: {error}")
            except KilledError:
                self._start_again(name)
            except Exception as error:
                raise ViolationError(f"{name} raised {type(error).__name__}: {error}") from error
            if name == "verify":
                self._verifying = False
            self.watcher.look(began)
            if not more:
                return

    def _start_again(self, where: str) -> None:
        """Start the agent again after it was killed, until a start comes to its end."""
        self.tell(f"the agent is killed in {where}")
        self.figures.kills += 1
        while True:
            self.agent.close()
            self.machine.start()
            self.machine.wait(self.chance.choice([1.0, 20.0, 600.0]))
            if self.chance.random() < 0.5:
                self.around.boot[0] = f"boot {self.figures.kills}"
            if self.chance.random() < 0.1 and not self._is_calm:
                self.machine.kill_after(self.chance.randint(0, 40))
            self.machine.fill_disk_after(None)
            try:
                self.agent = Agent(self.around)
            except KilledError:
                self.figures.kills += 1
            else:
                return

    def _act(self, what: str, act: Act, *, promotes: bool = False) -> bool:
        """Let a person ask for something, and say whether it was done."""
        began, done = self.machine.true, False
        try:
            act()
            done = True
            self.tell(what)
        except REFUSALS as error:
            self.tell(f"{what}: refused, {error} {getattr(error, 'details', '')}")
        except FORESEEN as error:
            self.tell(f"{what}: {error}")
        except KilledError:
            self._start_again(what)
        self.watcher.look(began, promoted=promotes)
        return done

    # Images

    def _new_images(self) -> Sequence[tuple[StudyInstanceUid, SopInstanceUid, str]]:
        """Return an examination: a few images of one study."""
        if self.chance.random() < 0.3:
            self._studies.append(study_of(len(self._studies)))
        study = self.chance.choice(self._studies[-_STUDIES:])
        images = []
        for _ in range(self.chance.randint(1, 3)):
            number = len(self._images)
            self._images[uid_of(number)] = (study, 1)
            images.append((study, uid_of(number), f"{number}.1"))
        return images

    def _to_primary(self, *, forwards: bool) -> None:
        for study, uid, content in self._new_images():
            if not self.primary.ways.silent:
                self.primary.keep(study, uid, content)
                done = forwards and self.primary.forward(study, uid)
                self.tell(f"the primary gets {content} of {study}{' and forwards it' if done else ''}")

    def _to_us(self) -> None:
        for study, uid, content in self._new_images():
            if self.orthanc.receive(study, uid, content, "CT1"):
                self.tell(f"a modality stores {content} of {study} here")

    def _to_both(self) -> None:
        for study, uid, content in self._new_images():
            done = self.orthanc.receive(study, uid, content, "CT1")
            if not self.primary.ways.silent:
                self.primary.keep(study, uid, content)
            self.tell(f"a modality stores {content} of {study} at both" if done else f"{content} is refused")

    def _correct_here(self) -> None:
        """Send another content under the UID of an image, or one that it had before."""
        if not self._images:
            return
        uid = self.chance.choice(list(self._images)[-4:])
        study, contents = self._images[uid]
        version = self.chance.randint(1, contents + 1)
        self._images[uid] = (study, max(version, contents))
        content = f"{uid.rpartition('.')[2]}.{version}"
        if self.orthanc.receive(study, uid, content, "CT1"):
            self.tell(f"a modality stores {content} of {study} here, in place of what there was")

    # The primary

    def _behave(self) -> None:
        """Let the primary, the archive and the store behave in one of their ways from now on."""
        self._is_calm = False
        for pacs in (self.primary, self.around.archive):
            pacs.ways = self._ways()
        self.store.is_away = self.chance.random() < 0.1
        self.store.is_full = self.chance.random() < 0.05
        self.store.lists_after = self.chance.choice([0.0, 0.0, 0.0, 30.0])
        self.orthanc.is_full = self.chance.random() < 0.05

    def _ways(self) -> Ways:
        chance = self.chance
        ways = Ways(
            commits=chance.choice(["refuses", "refuses", "at once", "later", "never"]),
            report_after=chance.choice([5.0, 400.0]),
            gives=chance.choice(["all", "all", "all", "nothing", "unanswered", "fails"]),
            counts=chance.random() < 0.8,
        )
        for fault, value in (
            ("forgetful", 0.3),
            ("breaks", 0.3),
            ("refuses", 0.2),
            ("short_of_room", 0.3),
            ("falls_silent", 0.05),
            ("lists_after", chance.choice([20.0, 300.0])),
            ("omits", 0.2),
            ("slow", 20.0),
            ("busy", True),
            ("rejects", True),
            ("finds", False),
            ("counts_zero", True),
            ("cut", True),
            ("moves", False),
        ):
            if chance.random() < 0.06:
                setattr(ways, fault, value)
        for studies in (ways.overcounts, ways.imageless, ways.unlisted):
            if chance.random() < 0.06:
                studies.add(chance.choice(self._studies))
        if ways.omits or ways.unlisted or ways.lists_after:
            self.truth.misled_until = float("inf")
        elif self.truth.misled_until == float("inf"):
            self.truth.misled_until = self.machine.true + 2 * DAY
        self.tell(f"from now on: {_told(ways)}")
        return ways

    def _return(self) -> None:
        """Let the primary come back: as it was, or not quite."""
        self.primary.ways = Ways()
        self._contents |= self._present_contents()
        match self.chance.choice(["whole", "whole", "backup", "merged", "lost", "behaves", "coerces"]):
            case "backup":
                self.tell("the primary comes back from a backup")
                self.primary.restore(self._backup)
            case "merged":
                self._merge()
            case "lost":
                self._lose()
            case "behaves":
                self._behave()
            case "coerces":
                self.primary.coerces = not self.primary.coerces
        if self.around.rechecks and self.chance.random() < 0.5:
            self._age()
        for image, content in self._present_contents().items():
            if self._contents.get(image, content) != content:
                self.truth.diverged.add(image)
        self.tell("the primary is back")

    def _present_contents(self) -> dict[tuple[StudyInstanceUid, SopInstanceUid], str]:
        """Return the content, as a modality sent it, of each image that the primary has."""
        return {
            (study, uid): origin(content)
            for study, images in self.primary.kept.items()
            for uid, content in images.items()
        }

    def _merge(self) -> None:
        if self.primary.kept:
            study, into = (self.chance.choice(self._studies) for _ in range(2))
            if study != into:
                self.tell(f"the primary merges {study} into {into}")
                self.primary.merge(study, into)

    def _lose(self) -> None:
        if self.primary.kept:
            study = self.chance.choice(list(self.primary.kept))
            self.tell(f"the primary loses of {study}")
            images = list(self.primary.kept[study])
            self.primary.lose(study, None if self.chance.random() < 0.3 else images[: len(images) // 2 + 1])

    def _age(self) -> None:
        """Let the primary have the first content of some images again, and list them as before."""
        for study, images in self.primary.kept.items():
            for uid, content in images.items():
                number, _, version = origin(content).partition(".")
                if version != "1" and self.chance.random() < 0.5:
                    self.tell(f"the primary has {number}.1 of {study} again, in place of {content}")
                    images[uid] = f"{number}.1"

    def _back_up(self) -> None:
        self._backup = self.primary.snapshot()

    # People

    def _promote(self) -> None:
        """Promote, now and then after another who saw an epoch of before."""
        epoch = self.auditor.mode()[1]
        if self.chance.random() < 0.2 and self._promote_in(epoch - 1):
            raise ViolationError("an epoch of before was taken for the present one")
        self._promote_in(epoch)

    def _promote_in(self, epoch: int) -> bool:
        force, accept_loss = (self.chance.random() < 0.9 for _ in range(2))
        done = self._act(
            "promote",
            lambda: self.agent.appliance.promote(
                "ann", reason="it is down", force=force, accept_loss=accept_loss, epoch=epoch
            ),
            promotes=True,
        )
        self.figures.promotions += done
        return done

    def _fail_back(self) -> None:
        epoch = self.auditor.mode()[1]
        self._act("failback", lambda: self.agent.appliance.failback("ann", epoch=epoch))

    def _settle(self) -> None:
        epoch = self.auditor.mode()[1]
        override = "we know" if self.chance.random() < 0.7 else None
        self._act("settle", lambda: self.agent.appliance.settle("ann", epoch=epoch, override_quiet=override))

    def _interrupt(self) -> None:
        epoch = self.auditor.mode()[1]
        self._act("interrupt", lambda: self.agent.appliance.interrupt("ann", reason="not now", epoch=epoch))

    def _hold(self) -> None:
        epoch = self.auditor.mode()[1]
        self._act("hold", lambda: self.agent.appliance.hold("ann", reason="an update", epoch=epoch))

    def _release(self) -> None:
        epoch = self.auditor.mode()[1]
        self._act("release", lambda: self.agent.appliance.release("ann", reason="done", epoch=epoch))

    def _verify(self) -> None:
        self._verifying = self._act("verify", lambda: self.agent.appliance.verify("ann"))

    def _plan(self) -> None:
        self._act("plan", lambda: self.agent.appliance.plan("ann"))

    def _waive(self) -> None:
        """Give up a study, or some images, at one holder."""
        holder = self.chance.choice(self.around.holders)
        study = self.chance.choice(self._studies)
        rows = [row for row in self.auditor.owed(holder=holder) if row.study == study]
        uids = sorted({row.uid for row in rows})[:2] if self.chance.random() < 0.5 else None
        self.truth.waived |= {
            (row.holder, row.number)
            for row in rows
            if row.state in ("owed", "refused") and (uids is None or row.uid in uids)
        }
        selection = Selection(holder, uids, study)
        self._act(
            f"waive at {holder} {study} {uids or ''}",
            lambda: self.agent.appliance.letters.waive(
                "ann", holder, selection, reason="not wanted", epoch=None
            ),
        )

    def _replay(self) -> None:
        self._act(
            "replay",
            lambda: self.agent.appliance.letters.replay("ann", Selection(), reason="again", epoch=None),
        )

    def _resolve(self) -> None:
        """Do what a person has to do: look at conflicts, fix what is refused, or give it up."""
        for conflict in self.auditor.conflicts():
            self._acknowledge(conflict)
        refused = self.auditor.owed(state="refused")
        for row in refused:
            self.tell(f"instance {row.number} is refused at {row.holder}: {row.reason}")
            self._refusals[row.holder, row.number] += 1
            if row.is_gone or self._refusals[row.holder, row.number] > 2:
                self._waive_one(row)
            elif row.holder != VAULT:
                # The other content there is deleted, as the hint says.
                pacs = self.primary if row.holder == PRIMARY else self.around.archive
                pacs.lose(row.study, [row.uid])
        if refused:
            self._replay()

    def _acknowledge(self, conflict: int) -> None:
        self._act(
            f"acknowledge {conflict}", lambda: self.agent.conflicts.acknowledge("ann", conflict, "seen")
        )

    def _waive_one(self, row: Owed) -> None:
        rows = self.auditor.owed(holder=row.holder)
        self.truth.waived |= {(one.holder, one.number) for one in rows if one.uid == row.uid}
        selection = Selection(row.holder, [row.uid])
        self._act(
            f"waive {row.number} at {row.holder}",
            lambda: self.agent.appliance.letters.waive(
                "ann", row.holder, selection, reason="it cannot be", epoch=None
            ),
        )

    def _delete(self) -> None:
        study = self.chance.choice(self._studies)
        force = self.chance.random() < 0.3
        held = {name for name in self.orthanc.here if name.startswith(f"{study}|")}
        self.truth.deleted |= held
        if force:
            # Some may be in Orthanc alone, and be noted in the middle of the deletion.
            self.truth.deleted_by_force |= {(name, self.orthanc.here[name].md5) for name in held}
            self.truth.waived |= {
                (row.holder, row.number) for row in self.auditor.owed() if row.study == study
            }
        if not self._act(
            f"delete {study}{' by force' if force else ''}",
            lambda: self.agent.appliance.delete("ann", Deletion(study), reason="room", force=force),
        ):
            self.truth.deleted -= self.orthanc.here.keys()
            return
        if not force:
            gone = [row for row in self.auditor.owed() if row.study == study and not row.is_replaced]
            self.watcher.deleted([row for row in gone if f"{study}|{row.uid}" in held])

    # The machine

    def _step_clock(self) -> None:
        seconds = self.chance.choice([-1, 1]) * self.chance.choice([120.0, 3600.0, DAY, 30 * DAY])
        self.tell(f"the clock is set by {seconds:.0f} s")
        self.machine.step_clock(seconds)
        self.truth.misled_until = max(self.truth.misled_until, self.machine.true + 2 * DAY)

    def _kill_soon(self) -> None:
        if not self._is_calm:
            self.machine.kill_after(
                self.chance.choice([self.chance.randint(0, 60), self.chance.randint(0, 600)])
            )

    def _stop(self) -> None:
        self.tell("the agent is stopped and started")
        try:
            self.agent.stop()
            self.agent = Agent(self.around)
        except (KilledError, FullDiskError):
            self._start_again("an orderly stop")

    def _fill_disk(self) -> None:
        """Let the ledger's disk be full soon, or make room."""
        writes = None if self._is_calm else self.chance.choice([None, self.chance.randint(0, 20)])
        self.machine.fill_disk_after(writes)
        self.tell("the ledger's disk has room" if writes is None else "the ledger's disk will be full")

    def _orthanc_ends(self) -> None:
        self.orthanc.is_down = not self.orthanc.is_down

    def _lose_a_pack(self) -> None:
        """Let the vault lose something, as no store may."""
        packs = sorted(key for key in self.store.objects if key.startswith("packs/"))
        if packs:
            key = self.chance.choice(packs)
            self.tell(f"the vault loses {key}")
            self.store.lose(key)

    # What may happen when

    @property
    def _outside_outages(self) -> Sequence[Act]:
        return (
            lambda: self._to_primary(forwards=True),
            lambda: self._to_primary(forwards=False),
            self._to_both,
            self._to_us,
            self._correct_here,
            self._lose,
            self._merge,
            self._back_up,
            self._behave,
            self._verify,
            self._delete,
            self._hold,
            self._replay,
            self._waive,
            self._plan,
            *self._any_time,
        )

    @property
    def _while_away(self) -> Sequence[Act]:
        return (
            self._to_us,
            self._to_us,
            self._correct_here,
            self._promote,
            self._waive,
            self._delete,
            self._verify,
            self._fail_back,
            *self._any_time,
        )

    @property
    def _on_the_way_back(self) -> Sequence[Act]:
        return (
            self._fail_back,
            self._fail_back,
            self._settle,
            self._settle,
            self._interrupt,
            self._to_us,
            self._to_both,
            self._correct_here,
            self._waive,
            self._replay,
            self._lose,
            self._merge,
            self._plan,
            self._behave,
            *self._any_time,
        )

    @property
    def _any_time(self) -> Sequence[Act]:
        return (
            self._step_clock,
            self._kill_soon,
            self._kill_soon,
            self._stop,
            self._fill_disk,
            self._orthanc_ends,
        )


def _told(ways: Ways) -> str:
    usual = Ways()
    return (
        ", ".join(
            f"{name}={value}"
            for name, value in ((name, getattr(ways, name)) for name in Ways.__dataclass_fields__)
            if value != getattr(usual, name)
        )
        or "well"
    )
