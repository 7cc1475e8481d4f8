"""The ledger against a plain model, in whatever order things happen: more than 10,000 steps in all."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from understudy.core import modes
from understudy.core.errors import NotFoundError
from understudy.core.model import HolderName, InstanceNumber, Outcome
from understudy.core.modes import Mode, ModeEvent, WrongModeError
from understudy.core.obligations import REACHED, TRANSITIONS, UNSETTLED, ObligationEvent, ObligationState
from understudy.core.proving import Absence
from understudy.ledger import IllegalTransitionError, Ledger

from tests.unit.fakes import (
    NOW,
    PRIMARY,
    PROOF,
    ROUTE,
    VAULT,
    deliver,
    miscounted,
    new_instance,
    note,
    shares,
    unproven,
)

SHARES, STEPS = 25, 400
"""Every share explores for itself, with at least so many steps."""
HOLDERS = [PRIMARY, ROUTE, VAULT]
NAMES = range(1, 6)
"""Instances; each may come in contents A and B."""

holders = st.sampled_from(HOLDERS)
picks = st.integers(0, 9)

OUTCOMES = {
    Outcome.DELIVERED: ObligationEvent.ACKNOWLEDGE,
    Outcome.DELIVERED_ALTERED: ObligationEvent.ACKNOWLEDGE,
    Outcome.CONFLICT: ObligationEvent.FAIL,
    Outcome.RETRY: ObligationEvent.FAIL,
    Outcome.UNKNOWN: ObligationEvent.FAIL,
    Outcome.REFUSED: ObligationEvent.REFUSE,
}

FAILURES = {
    ObligationEvent.FAIL,
    ObligationEvent.DISPROVE,
    ObligationEvent.GIVE_UP,
    ObligationEvent.DIFFER,
}


class Custody(RuleBasedStateMachine):
    """The ledger; the model is a dictionary of states, one of versions, and a mode."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        # In memory where there is such a folder: what a disk does is tested elsewhere.
        memory = Path("/dev/shm")
        self.folder = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
        self.path = Path(self.folder.name) / "ledger.sqlite"
        self.states: dict[tuple[InstanceNumber, HolderName], ObligationState] = {}
        self.versions: dict[tuple[int, str], InstanceNumber] = {}
        self.present: dict[int, str] = {}
        """The content that each instance has now."""
        self.took_place: set[InstanceNumber] = set()
        """Versions that another one of the same instance gave way to."""
        self.failed: set[tuple[InstanceNumber, HolderName]] = set()
        """What was sent in vain, as far as anybody knows."""
        self.mode, self.epoch = Mode.STANDBY, 0

    @initialize()
    def begin(self) -> None:
        self.ledger = Ledger(self.path)
        self.ledger.modes.start(NOW)

    def _step(self, number: InstanceNumber, holder: HolderName, event: ObligationEvent) -> bool:
        """Let the event happen in the model and say whether it may."""
        before = self.states[number, holder]
        if (before, event) not in TRANSITIONS:
            return False
        self.states[number, holder] = TRANSITIONS[before, event]
        if event in FAILURES:
            self.failed.add((number, holder))
        return True

    def _steps(
        self, numbers: Iterable[InstanceNumber], holder: HolderName, event: ObligationEvent
    ) -> list[InstanceNumber]:
        return [number for number in numbers if self._step(number, holder, event)]

    def _pick(self, pick: int) -> InstanceNumber:
        numbers = sorted(self.versions.values())
        return numbers[pick % len(numbers)]

    @rule(name=st.sampled_from(NAMES), content=st.sampled_from("AB"))
    def note(self, name: int, content: str) -> None:
        """Something is stored: new, known, another content, or one that was there before."""
        before = self.present.get(name)
        is_new = (name, content) not in self.versions
        # A file that comes back has a name of its own.
        instance = new_instance(name, content=content, attachment=f"{name}-{content}-{before}")
        assert note(self.ledger, instance, owed=HOLDERS) == is_new
        if before == content:
            return
        number = self.versions.setdefault((name, content), InstanceNumber(len(self.versions) + 1))
        for holder in HOLDERS:
            if is_new:
                self.states[number, holder] = ObligationState.OWED
            else:
                self._step(number, holder, ObligationEvent.RETURN)
        if before is not None:
            earlier = self.versions[name, before]
            for holder in (PRIMARY, ROUTE):
                self._step(earlier, holder, ObligationEvent.WAIVE)
                if not is_new and self._may_have(name, content, holder):
                    self._step(number, holder, ObligationEvent.DISPROVE)
            self.took_place.add(number)
            self.took_place.discard(earlier)
        self.present[name] = content

    def _may_have(self, name: int, content: str, holder: HolderName) -> bool:
        """Say whether the other content of the instance may have come to the holder."""
        other = self.versions[name, "B" if content == "A" else "A"], holder
        return self.states[other] in REACHED or other in self.failed

    @precondition(lambda self: self.versions)
    @rule(some=st.sets(picks, min_size=1, max_size=4), holder=holders)
    def claim(self, some: set[int], holder: HolderName) -> None:
        numbers = sorted({self._pick(pick) for pick in some})
        claimed = self.ledger.custody.claim(holder, numbers, now=NOW, keeps_versions=holder == VAULT)
        wanted = [number for number in numbers if holder == VAULT or self._is_present(number)]
        assert claimed == self._steps(wanted, holder, ObligationEvent.CLAIM)
        for number in set(numbers) - set(wanted):
            if self.states[number, holder] is ObligationState.OWED:
                self._step(number, holder, ObligationEvent.WAIVE)

    def _is_present(self, number: InstanceNumber) -> bool:
        return number in [self.versions[version] for version in self.present.items()]

    @precondition(lambda self: self.versions)
    @rule(pick=picks, holder=holders, outcome=st.sampled_from(list(Outcome)))
    def record(self, pick: int, holder: HolderName, outcome: Outcome) -> None:
        number = self._pick(pick)
        refused = outcome is Outcome.CONFLICT and number in self.took_place
        event = ObligationEvent.REFUSE if refused else OUTCOMES[outcome]
        allowed = self._step(number, holder, event)
        try:
            deliver(self.ledger, number, outcome, holder)
        except IllegalTransitionError:
            assert not allowed
        else:
            assert allowed

    @precondition(lambda self: self.versions)
    @rule(pick=picks, holder=holders)
    def give_back(self, pick: int, holder: HolderName) -> None:
        number = self._pick(pick)
        allowed = self._step(number, holder, ObligationEvent.RELEASE)
        try:
            self.ledger.custody.give_back(holder, [number], now=NOW)
        except IllegalTransitionError:
            assert not allowed
        else:
            assert allowed

    @precondition(lambda self: self.versions)
    @rule(some=st.sets(picks, min_size=1, max_size=4), holder=holders)
    def prove(self, some: set[int], holder: HolderName) -> None:
        numbers = sorted({self._pick(pick) for pick in some})
        proven = self.ledger.custody.prove(holder, dict.fromkeys(numbers, PROOF), now=NOW)
        # What is not acknowledged any more stays as it is: the answer was under way while others looked.
        assert proven == len(self._steps(numbers, holder, ObligationEvent.PROVE))

    @precondition(lambda self: self.versions)
    @rule(some=st.sets(picks, min_size=1, max_size=4), holder=holders)
    def find(self, some: set[int], holder: HolderName) -> None:
        numbers = {self._pick(pick) for pick in some}
        found = self.ledger.custody.find(holder, dict.fromkeys(sorted(numbers), PROOF), now=NOW)
        # An inventory cannot tell a content from the one that it took the place of, or that took its place.
        alone = {number for number in numbers - self.took_place if self._is_present(number)}
        assert found == set(self._steps(alone, holder, ObligationEvent.FIND))

    @precondition(lambda self: self.versions)
    @rule(some=st.sets(picks, min_size=1, max_size=4), holder=holders)
    def disprove(self, some: set[int], holder: HolderName) -> None:
        numbers = sorted({self._pick(pick) for pick in some})
        lost = self.ledger.custody.disprove(holder, numbers, reason="gone", now=NOW, due=NOW)
        assert lost == len(self._steps(numbers, holder, ObligationEvent.DISPROVE))

    @precondition(lambda self: self.versions)
    @rule(pick=picks, holder=holders, absence=st.sampled_from(Absence))
    def absent(self, pick: int, holder: HolderName, absence: Absence) -> None:
        number = self._pick(pick)
        taken_for = self.ledger.custody.absent(
            holder,
            [number],
            now=NOW,
            judge=lambda _waited, _losses: absence,
            ask_again=lambda _waited: NOW,
            retry_at=lambda _attempt: NOW,
        )
        sent = self.states[number, holder] is ObligationState.SENT
        assert taken_for.get(absence, 0) == int(sent)
        if sent and absence is Absence.LOST:
            self._step(number, holder, ObligationEvent.DISPROVE)
        if absence is Absence.UNPROVABLE:
            self._step(number, holder, ObligationEvent.GIVE_UP)

    @precondition(lambda self: self.versions)
    @rule(pick=picks, holder=st.sampled_from([PRIMARY, ROUTE]))
    def give_up(self, pick: int, holder: HolderName) -> None:
        number = self._pick(pick)
        self.ledger.custody.give_up(holder, {number: "it differs"}, now=NOW)
        if self._step(number, holder, ObligationEvent.GIVE_UP) and not self._is_present(number):
            self._step(number, holder, ObligationEvent.WAIVE)

    @precondition(lambda self: self.versions)
    @rule(pick=picks, holder=st.sampled_from([PRIMARY, ROUTE]))
    def differ(self, pick: int, holder: HolderName) -> None:
        number = self._pick(pick)
        believed = self.ledger.custody.differ(holder, [number], why="it differs", now=NOW)
        assert believed == int(self._step(number, holder, ObligationEvent.DIFFER))
        if believed and not self._is_present(number):
            self._step(number, holder, ObligationEvent.WAIVE)

    @rule(name=st.sampled_from(NAMES), holder=holders)
    def waive(self, name: int, holder: HolderName) -> None:
        versions = [number for (whose, _), number in self.versions.items() if whose == name]
        waived = self._steps(versions, holder, ObligationEvent.WAIVE)
        try:
            given_up = self.ledger.dead_letters.waive(holder, [f"1.2.3.4.{name}"], "not wanted", "ann", NOW)
            assert given_up == len(waived)
        except NotFoundError:
            assert not versions

    @rule(holder=holders)
    def replay_all(self, holder: HolderName) -> None:
        refused = self._steps(self.versions.values(), holder, ObligationEvent.REPLAY)
        try:
            assert self.ledger.dead_letters.replay(holder, None, "ann", NOW) == len(refused)
        except NotFoundError:
            assert not self.versions

    @rule()
    def release(self) -> None:
        flying = [key for key, state in self.states.items() if state is ObligationState.IN_FLIGHT]
        assert self.ledger.custody.release(now=NOW) == len(flying)
        for key in flying:
            self._step(*key, ObligationEvent.FAIL)

    @rule(event=st.sampled_from(list(ModeEvent)))
    def change_mode(self, event: ModeEvent) -> None:
        allowed = (self.mode, event) in modes.TRANSITIONS
        try:
            after = self.ledger.modes.change(event, epoch=self.epoch, who="ann", fields={}, now=NOW)
        except WrongModeError:
            assert not allowed
        else:
            assert allowed
            self.mode = modes.TRANSITIONS[self.mode, event]
            self.epoch += event is ModeEvent.PROMOTE
            assert (after.mode, after.epoch) == (self.mode, self.epoch)

    @rule()
    def open_again(self) -> None:
        self.ledger.close()
        self.ledger = Ledger(self.path)
        self.ledger.modes.start(NOW)

    @invariant()
    def all_is_as_the_model_has_it(self) -> None:
        type(self).steps += 1
        with self.ledger.database.reading() as connection:
            rows = connection.exec_driver_sql("SELECT instance, holder, state FROM obligations").all()
        assert {(number, holder): state for number, holder, state in rows} == {
            key: state.value for key, state in self.states.items()
        }
        tallied = {
            holder: sum(
                self.states[number, holder] in UNSETTLED or content == self.present[name]
                for (name, content), number in self.versions.items()
            )
            for holder in HOLDERS
        }
        found = self.ledger.obligations.tally()
        assert {holder: sum(found.get(holder, {}).values()) for holder in HOLDERS} == tallied
        assert self.ledger.instances.counts()[0] == len(self.present)
        assert self.ledger.modes.current().mode is self.mode

    def teardown(self) -> None:
        assert miscounted(self.ledger) == {}
        assert unproven(self.ledger) == []
        assert self.ledger.events.broken() is None
        self.ledger.close()
        self.folder.cleanup()


@shares(SHARES)
def test_ledger_follows_its_model_in_whatever_order_things_happen(share: int) -> None:
    Custody.steps = 0
    # A run ends now and then a little sooner than it may.
    while Custody.steps < STEPS:
        run_state_machine_as_test(
            Custody,
            settings=settings(
                max_examples=5,
                stateful_step_count=100,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
    print(f"share {share + 1} of {SHARES}: {Custody.steps} steps")
