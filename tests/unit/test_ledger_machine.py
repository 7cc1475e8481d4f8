"""Three holders' obligations against a plain model, in whatever order things happen."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from understudy.adapters.ledger import IllegalTransitionError, Ledger
from understudy.core.errors import NotFoundError
from understudy.core.model import HolderName, InstanceNumber, Outcome, Timestamp
from understudy.core.obligations import TRANSITIONS, ObligationEvent, ObligationState

from tests.unit.fakes import NOW, PRIMARY, PROOF, ROUTE, VAULT, deliver, dump, new_instance, note, unproven

HOLDERS = [PRIMARY, ROUTE, VAULT]
holders = st.sampled_from(HOLDERS)
picks = st.integers(0, 5)

OUTCOMES = {
    Outcome.DELIVERED: ObligationEvent.ACKNOWLEDGE,
    Outcome.DELIVERED_ALTERED: ObligationEvent.ACKNOWLEDGE,
    Outcome.RETRY: ObligationEvent.FAIL,
    Outcome.UNKNOWN: ObligationEvent.FAIL,
    Outcome.REFUSED: ObligationEvent.REFUSE,
}


class Obligations(RuleBasedStateMachine):
    """The ledger's obligations; the model is a dictionary of states."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger(Path(self.folder.name) / "ledger.sqlite")
        self.model: dict[tuple[InstanceNumber, HolderName], ObligationState] = {}
        self.noted = 0

    @initialize()
    def begin(self) -> None:
        self.ledger.start(NOW)

    def _step(self, number: InstanceNumber, holder: HolderName, event: ObligationEvent) -> bool:
        """Let the event happen in the model and say whether it may."""
        before = self.model[number, holder]
        if (before, event) not in TRANSITIONS:
            return False
        self.model[number, holder] = TRANSITIONS[before, event]
        return True

    def _pick(self, pick: int) -> InstanceNumber:
        return InstanceNumber(pick % self.noted + 1)

    @precondition(lambda self: self.noted < 6)
    @rule(owed=st.sets(holders))
    def note(self, owed: set[HolderName]) -> None:
        self.noted += 1
        owing = [holder for holder in HOLDERS if holder in owed]
        assert note(self.ledger, new_instance(self.noted), owed=HOLDERS, cursor=self.noted) == 1
        for holder in HOLDERS:
            self.model[InstanceNumber(self.noted), holder] = ObligationState.OWED
        # What is noted again, whoever it is owed to by now, changes nothing.
        assert note(self.ledger, new_instance(self.noted), owed=owing, cursor=self.noted) == 0

    @precondition(lambda self: self.noted)
    @rule(pick=picks, holder=holders)
    def claim(self, pick: int, holder: HolderName) -> None:
        number = self._pick(pick)
        claimed = self.ledger.claim(holder, [number], now=NOW, lease=60)
        assert bool(claimed) is self._step(number, holder, ObligationEvent.CLAIM)

    @precondition(lambda self: self.noted)
    @rule(pick=picks, holder=holders, outcome=st.sampled_from(list(OUTCOMES)))
    def record(self, pick: int, holder: HolderName, outcome: Outcome) -> None:
        number = self._pick(pick)
        allowed = self._step(number, holder, OUTCOMES[outcome])
        try:
            deliver(self.ledger, number, outcome, holder)
        except IllegalTransitionError:
            assert not allowed
        else:
            assert allowed

    @precondition(lambda self: self.noted)
    @rule(pick=picks, holder=holders)
    def give_back(self, pick: int, holder: HolderName) -> None:
        number = self._pick(pick)
        allowed = self._step(number, holder, ObligationEvent.RELEASE)
        try:
            self.ledger.give_back(holder, [number], now=NOW)
        except IllegalTransitionError:
            assert not allowed
        else:
            assert allowed

    @precondition(lambda self: self.noted)
    @rule(pick=picks, holder=holders)
    def prove(self, pick: int, holder: HolderName) -> None:
        number = self._pick(pick)
        allowed = self._step(number, holder, ObligationEvent.PROVE)
        try:
            self.ledger.prove(holder, {number: PROOF}, now=NOW)
        except IllegalTransitionError:
            assert not allowed
        else:
            assert allowed

    @precondition(lambda self: self.noted)
    @rule(pick=picks, holder=holders)
    def find(self, pick: int, holder: HolderName) -> None:
        number = self._pick(pick)
        found = self.ledger.find(holder, {number: PROOF}, now=NOW)
        assert bool(found) is self._step(number, holder, ObligationEvent.FIND)

    @precondition(lambda self: self.noted)
    @rule(pick=picks, holder=holders)
    def disprove(self, pick: int, holder: HolderName) -> None:
        number = self._pick(pick)
        lost = self.ledger.disprove(holder, [number], reason="gone", now=NOW, due=NOW)
        assert bool(lost) is self._step(number, holder, ObligationEvent.DISPROVE)

    @precondition(lambda self: self.noted)
    @rule(pick=picks, holder=holders)
    def waive(self, pick: int, holder: HolderName) -> None:
        number = self._pick(pick)
        allowed = self._step(number, holder, ObligationEvent.WAIVE)
        try:
            waived = self.ledger.waive(holder, [f"1.2.3.4.{number}"], "not wanted", "ann", NOW)
        except NotFoundError:
            waived = 0
        assert waived == allowed

    @precondition(lambda self: self.noted)
    @rule(holder=holders)
    def replay_all(self, holder: HolderName) -> None:
        refused = [
            number
            for (number, whose), state in self.model.items()
            if whose == holder and state is ObligationState.REFUSED
        ]
        for number in refused:
            self._step(number, holder, ObligationEvent.REPLAY)
        try:
            assert self.ledger.replay(holder, None, "ann", NOW) == len(refused)
        except NotFoundError:
            assert not refused

    @rule(everything=st.booleans())
    def release(self, everything: bool) -> None:
        flying = [key for key, state in self.model.items() if state is ObligationState.IN_FLIGHT]
        released = self.ledger.release(now=Timestamp(NOW + 59), everything=everything)
        assert released == (len(flying) if everything else 0)
        if everything:
            for key in flying:
                self.model[key] = ObligationState.OWED

    @invariant()
    def states_are_the_models(self) -> None:
        rows = dump(self.ledger)["obligations"]
        assert {(row[0], row[1]): row[2] for row in rows} == {
            key: state.value for key, state in self.model.items()
        }

    @invariant()
    def nothing_is_proven_without_a_proof(self) -> None:
        assert unproven(self.ledger) == []

    @invariant()
    def chain_of_events_is_whole(self) -> None:
        assert self.ledger.broken_event() is None

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()


TestObligations = Obligations.TestCase
TestObligations.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
