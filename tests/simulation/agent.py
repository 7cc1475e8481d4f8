"""The agent of the simulated clinic: the product's parts, joined as `understudy.wiring` joins them.

No part runs in a thread. What a lane asks beside its step waits until the clinic lets it go on (Aside), what
it sends over several associations is sent in turn (InTurn).
"""

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from understudy.config import parse
from understudy.core.model import HolderKind, HolderName, Instance, NewInstance, StudyInstanceUid
from understudy.core.modes import Mode, delivers_to_primary
from understudy.core.ports import Clock, HolderUnavailableError
from understudy.core.report import Report
from understudy.core.rules import RouteDestination, RoutingRule, Rules
from understudy.core.views import PrimaryCondition
from understudy.engine.beside import Beside, in_turn
from understudy.engine.memory import BOUNDLESS, Memory
from understudy.flow.appliance import Appliance, PrimaryParts
from understudy.flow.conflicts import Conflicts
from understudy.flow.courier import Lane, LanePolicy
from understudy.flow.delete import Deleter
from understudy.flow.failback import Failback, FailbackPolicy
from understudy.flow.letters import Letters
from understudy.flow.mirror import Mirror
from understudy.flow.note import Noter, Reconciling
from understudy.flow.plan import Planner
from understudy.flow.probe import Prober
from understudy.flow.recheck import Recheck, Rechecked
from understudy.flow.rescan import Rescanner
from understudy.flow.route import Router
from understudy.flow.suspects import Suspects
from understudy.flow.verify import Verifier
from understudy.holders.commitment import Commitment, CommitmentPolicy
from understudy.holders.destination import DicomDestination
from understudy.holders.readback import ContentCheck, ReadBack
from understudy.holders.vault import Vault, VaultSettings
from understudy.system.spool import Spool

from tests.simulation.account import open_ledger
from tests.simulation.machine import Machine
from tests.simulation.orthanc import Orthanc
from tests.simulation.pacs import Pacs
from tests.simulation.store import PlainSealer, Store

T = TypeVar("T")

PRIMARY, ARCHIVE, VAULT = HolderName("primary"), HolderName("archive"), HolderName("vault")
PRIMARY_AE, ARCHIVE_AE = "PACS", "ARCHIVE"
CONFIGURATION = parse(
    {
        "Primary": {"AeTitle": PRIMARY_AE, "Host": "192.0.2.10", "Port": 104},
        "Destinations": [{"Name": ARCHIVE, "AeTitle": ARCHIVE_AE, "Host": "192.0.2.20", "Port": 104}],
        "Vaults": [{"Name": VAULT, "Directory": "/vault"}],
    }
)
POLICY = CONFIGURATION.policy
_BATCH = 4
"""Instances of a batch: several batches of a few images find more than one large one."""


class InTurn(threading.Thread):
    """A thread that has ended when its start returns."""

    def start(self) -> None:
        self.run()

    def join(self, timeout: float | None = None) -> None:
        """It has ended."""


class Aside(Beside):
    """Keeps what a lane asks beside its step, until the clinic lets it go on."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.waiting: list[Callable[[], None]] = []

    def __call__(self, call: Callable[[], T]) -> Future[T]:
        if self.in_turn:
            return in_turn(call)
        future: Future[T] = Future()

        def fulfil() -> None:
            try:
                found = call()
            except Exception as error:  # noqa: BLE001 - raised again for whoever asks for the result
                future.set_exception(error)
            else:
                future.set_result(found)

        self.waiting.append(fulfil)
        return future

    def take_turns(self) -> bool:
        while self.waiting:
            self.step()
        return super().take_turns()

    def step(self) -> bool:
        """Let the oldest call end."""
        if self.waiting:
            self.waiting.pop(0)()
        return False


class Nothing:
    """Volumes, reports and watches that have nothing to tell."""

    refused_because = ""

    def view(self) -> None: ...

    def alarms(self, *_: object) -> list[Any]:
        return []


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What outlives the agent."""

    machine: Machine
    orthanc: Orthanc
    primary: Pacs
    archive: Pacs
    store: Store
    chance: random.Random
    folder: Path
    boot: list[str]
    """The name of the present run of the host's kernel, in one element."""
    holders: Sequence[HolderName]
    """Who is configured, the primary among them."""
    rechecks: bool = False
    """Whether the agent compares a sample by content; without it, the clinics of old seeds stay the same."""


class _NoRecheck(Recheck):
    """Compares nothing, and makes no call to the outside."""

    def look(self, *, before: int = 0) -> Rechecked:
        return Rechecked()

    doubt = look

    def undecided(self) -> Sequence[Instance]:
        return ()


class _Kept:
    """The versions that the plugin kept (flow.conflicts.Kept)."""

    def __init__(self, orthanc: Orthanc) -> None:
        self.names = orthanc.names
        self._note_of = orthanc.note_of

    def read(self, name: str) -> NewInstance | None:
        return self._note_of(name)


class Agent:
    """One run of the agent, from its start to its end; `steps` are what its workers do."""

    def __init__(self, around: Surroundings) -> None:
        machine, orthanc = around.machine, around.orthanc
        clock = self._clock = machine.clock()
        self._around = around
        self.ledger = open_ledger(around.folder / "ledger.sqlite", machine)
        self._suspects = Suspects(self.ledger, clock.now(), boot=around.boot[0])
        self.ledger.custody.release(now=clock.now())
        rules = Rules(
            PRIMARY,
            frozenset({PRIMARY_AE}),
            [VAULT] if VAULT in around.holders else [],
            routes=[RoutingRule("all", [], [ARCHIVE])] if ARCHIVE in around.holders else [],
            destinations={ARCHIVE: RouteDestination(ARCHIVE, ARCHIVE_AE)},
        )
        router = Router(rules, self.ledger, orthanc, zone=UTC, names_patient=lambda _: False)
        self.noter = Noter(
            orthanc, self.ledger, router, clock, primary_grace=POLICY.primary_grace, stable_age=60.0
        )
        self.reconciling = Reconciling(self.noter)
        primary = around.primary
        self.prober = Prober(
            primary,
            clock,
            failures_for_down=POLICY.probe_failures,
            own_work=lambda: (primary.heard, self.ledger.intake.number_from(frozenset({PRIMARY_AE}))),
        )
        self.mirror = Mirror(
            primary, self.ledger, self.noter, clock, holder=PRIMARY, destination="UNDERSTUDY"
        )
        recheck = (Recheck if around.rechecks else _NoRecheck)(
            self.ledger, PRIMARY, self._contents(primary), clock
        )
        self.failback = Failback(
            self.ledger,
            self.mirror,
            self.prober,
            recheck,
            clock,
            FailbackPolicy(POLICY.quiet_period, frozenset({PRIMARY_AE}), "clinic"),
            holder=PRIMARY,
            write_report=_write_report,
        )
        self.planner = Planner(self.failback, self.ledger, clock)
        self.asides = {PRIMARY: Aside(clock), ARCHIVE: Aside(clock)}
        parties: list[DicomDestination | Vault] = [
            self._party(HolderKind.PRIMARY, primary, self.asides[PRIMARY]),
            self._party(HolderKind.ROUTE, around.archive, self.asides[ARCHIVE]),
            Vault(
                VaultSettings(VAULT, "clinic", None),
                orthanc,
                around.store,
                PlainSealer(),
                self.ledger.packs,
                clock,
                Spool(around.folder, 2**30),
                lambda: f"{around.chance.getrandbits(128):032x}",
            ),
        ]
        holders = [party for party in parties if party.name in around.holders]
        for holder in holders:
            if holder.kind is not HolderKind.ROUTE:
                self.ledger.intake.owe_all(holder.name, now=clock.now())
        self.lanes = {holder.name: self._lane(holder) for holder in holders}
        self.verifier = Verifier(
            self.ledger, holders, clock, site="clinic", write_report=_write_report, recheck=recheck
        )
        doubts: dict[HolderName, Callable[[StudyInstanceUid], str]] = {
            holder.name: lambda _study: "" for holder in holders
        }
        doubts[PRIMARY] = self.mirror.doubt
        self.deleter = Deleter(self.ledger, orthanc, self.noter, clock, doubts)
        self.rescanner = Rescanner(
            self.ledger,
            self.noter,
            clock,
            is_read_in=lambda: True,
            wait=machine.wait,
            site="clinic",
            write_report=_write_report,
        )
        self.conflicts = Conflicts(
            _Kept(orthanc),
            orthanc,
            orthanc,
            self.ledger.conflicts,
            clock,
            lambda: rules.vaults,
        )
        nothing, unused = cast(Any, Nothing()), cast(Any, None)
        self.appliance = Appliance(
            configuration=CONFIGURATION,
            ledger=self.ledger,
            clock=clock,
            lanes=list(self.lanes.values()),
            primary=PrimaryParts(
                self.prober, self.mirror, self.failback, self.planner, recheck, cast(Any, None)
            ),
            verifier=self.verifier,
            router=router,
            devices=unused,
            letters=Letters(self.ledger, clock, lambda: None),
            reception=nothing,
            healer=unused,
            scrubber=unused,
            deleter=self.deleter,
            recovery=nothing,
            disk=nothing,
            intake=nothing,
            reports=around.folder,
            faults=list,
            upkeep=list,
            conflicts=self.conflicts,
            recipients={},
            suspects=self._suspects,
            memory=Memory(BOUNDLESS),
            look_for_new=lambda: None,
            wake_all=lambda: None,
        )
        self.steps = self._steps()
        """What each worker does when it has its turn; it returns whether there is more to do now."""

    def close(self) -> None:
        """Let go of the ledger's file, as the end of a process does."""
        self.ledger.close()

    def stop(self) -> None:
        """End in order."""
        self._suspects.stopped()
        self.close()

    def _steps(self) -> Mapping[str, Callable[[], bool]]:
        lanes = {f"lane-{name}": lane.step for name, lane in self.lanes.items()}
        asides = {f"aside-{name}": aside.step for name, aside in self.asides.items()}
        return (
            lanes
            | asides
            | {
                "note": lambda: not self.noter.step()[1],
                "conflicts": self.conflicts.step,
                "probe": self._probe,
                "mirror": self._mirror,
                "failback": self.failback.step,
                "plan": self.planner.step,
                "verify": self.verifier.step,
                "delete": self.deleter.step,
                "rescan": self.rescanner.step,
                "reconcile": lambda: not self.reconciling.step()[1],
            }
        )

    def _party(self, kind: HolderKind, pacs: Pacs, aside: Aside) -> DicomDestination:
        around, clock = self._around, self._clock
        commitment = Commitment(
            pacs,
            around.orthanc,
            self.ledger.commitments,
            clock,
            CommitmentPolicy(False, POLICY.commitment_patience),
            new_uid=lambda: f"2.25.{around.chance.getrandbits(64)}",
            beside=aside,
        )
        return DicomDestination(
            kind,
            pacs,
            around.orthanc,
            clock,
            associations=2,
            commitment=commitment,
            contents=self._contents(pacs),
            beside=aside,
            thread=InTurn,
        )

    def _contents(self, pacs: Pacs) -> ContentCheck:
        ambiguous = partial(self.ledger.custody.ambiguous, HolderName(pacs.name))
        return ContentCheck(ReadBack(pacs, self._around.orthanc.digest, self._clock), ambiguous)

    def _lane(self, holder: DicomDestination | Vault) -> Lane:
        is_primary = holder.kind is HolderKind.PRIMARY
        policy = LanePolicy(
            batch_instances=_BATCH,
            batch_bytes=2**20,
            linger=POLICY.pack_linger if isinstance(holder, Vault) else 0.0,
            retry_base=POLICY.retry_base,
            retry_cap=POLICY.retry_cap,
            longest_wait=max(POLICY.retry_cap, POLICY.primary_grace, POLICY.stable_age),
            record_every=2,
        )
        return Lane(
            holder,
            self.ledger,
            self._clock,
            policy,
            is_open=lambda: not is_primary or delivers_to_primary(self.ledger.modes.current().mode),
            fraction=self._around.chance.random,
            suspects=self._suspects,
            beside=holder.beside if isinstance(holder, DicomDestination) else None,
        )

    # As in understudy.wiring.primary

    def _probe(self) -> bool:
        if self.ledger.modes.current().mode is not Mode.MAINTENANCE:
            self.prober.step()
        return False

    def _mirror(self) -> bool:
        mode = self.ledger.modes.current().mode
        if mode is Mode.MAINTENANCE or self.prober.health.condition not in (
            PrimaryCondition.UP,
            PrimaryCondition.BUSY,
        ):
            self.mirror.forget_look()
            return False
        patience = POLICY.primary_grace
        wanted = mode in (Mode.STANDBY, Mode.ACTIVE)
        if wanted and self.mirror.is_due(interval=POLICY.inventory_interval, patience=patience):
            with suppress(HolderUnavailableError):
                self.mirror.step(patience=patience, believe_departures=True)
        return False


def _write_report(operation: int, report: Report) -> str:
    return f"/understudy/reports/{operation}"
