"""What every holder promises (core.ports.Holder), as tests that each kind of holder inherits.

A new kind of holder gives a `Held`, and inherits `HolderContract`.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from understudy.adapters.encryption import AgeSealer, new_key_pair
from understudy.adapters.storage import StorageArea
from understudy.core.model import Instance, Outcome, Proof
from understudy.core.ports import Holder, HolderUnavailableError, ObjectStore
from understudy.holders.vault import Vault, VaultSettings
from understudy.ledger import Ledger

from tests.unit.fakes import VAULT, Clock, dump, note
from tests.vault_parts import SPOOL, Storage

_OF_HOLDERS = frozenset({"commitments", "commitment_members", "packs", "pack_members"})
"""The tables in which holders keep what they themselves are about to do."""


@dataclass(frozen=True)
class Held:
    """A holder with its other side, and what the appliance has stored and noted."""

    holder: Holder
    away: Holder
    """The same kind of holder, whose other side does not answer."""
    lose: Callable[[Instance], None] | None
    """Takes an instance away at the other side, unless that is locked."""
    storage: Storage
    ledger: Ledger

    def owed(self, count: int) -> list[Instance]:
        """Return so many new instances of one study, noted and owed to this holder."""
        instances = self.storage.series("owed", count)
        note(self.ledger, *instances, owed=(self.holder.name,))
        return instances

    def delivered(self, count: int) -> list[Instance]:
        """Return so many instances that were delivered."""
        instances = self.owed(count)
        assert outcomes(self.holder, instances) == {one.number: Outcome.DELIVERED for one in instances}
        return instances

    def account(self) -> Mapping[str, list[tuple[Any, ...]]]:
        """Return every row of the ledger that a holder has to leave alone."""
        return {table: rows for table, rows in dump(self.ledger).items() if table not in _OF_HOLDERS}


def outcomes(holder: Holder, instances: Sequence[Instance]) -> dict[int, Outcome]:
    """Deliver the instances and return the outcome of each, of which there has to be one at most."""
    told = list(holder.deliver(instances))
    assert len({delivery.number for delivery in told}) == len(told), told
    return {delivery.number: delivery.outcome for delivery in told}


def expect_evidence(holder: Holder, proofs: Mapping[Any, Proof]) -> None:
    """Expect that each proof is of the kind that the holder names, has a time, and says what was seen."""
    assert proofs
    for proof in proofs.values():
        assert proof.kind is holder.proof.kind
        assert proof.at > 0
        assert json.loads(json.dumps(dict(proof.evidence)))


def in_vault(
    store: ObjectStore,
    away: ObjectStore,
    storage: Storage,
    ledger: Ledger,
    *,
    retention_days: int | None = None,
    lose: Callable[[Instance], None] | None = None,
) -> Held:
    """Return a vault in the store as holder, and one in a store that does not answer."""
    keys = new_key_pair()

    def vault(one: ObjectStore) -> Vault:
        return Vault(
            VaultSettings(VAULT, "clinic", retention_days),
            StorageArea(storage.root),
            one,
            AgeSealer([keys.recipient]),
            ledger.packs,
            Clock(time.time()),
            SPOOL,
        )

    return Held(vault(store), vault(away), lose, storage, ledger)


class HolderContract:
    """Inherited by a class of tests whose fixture `held` gives the holder."""

    def test_what_was_not_delivered_is_neither_found_nor_proven(self, held: Held) -> None:
        instances = held.owed(3)
        assert held.holder.find(instances) == {}
        answers = held.holder.prove(instances)
        assert (answers.found, answers.pending) == ({}, frozenset())

    def test_what_was_delivered_is_found_and_proven_with_evidence(self, held: Held) -> None:
        instances = held.delivered(3)
        numbers = {instance.number for instance in instances}
        found, proven = held.holder.find(instances), held.holder.prove(instances).found
        assert set(found) == set(proven) == numbers
        expect_evidence(held.holder, found)
        expect_evidence(held.holder, proven)

    def test_only_what_was_asked_for_is_answered(self, held: Held) -> None:
        first, *others = held.delivered(3)
        assert set(held.holder.find(others)) == {instance.number for instance in others}
        assert set(held.holder.prove([first]).found) == {first.number}

    def test_what_is_delivered_again_is_there_once_more(self, held: Held) -> None:
        instances = held.delivered(2)
        assert outcomes(held.holder, instances) == {one.number: Outcome.DELIVERED for one in instances}
        assert set(held.holder.find(instances)) == {instance.number for instance in instances}

    def test_nothing_to_do_is_nothing(self, held: Held) -> None:
        assert held.holder.find([]) == {}
        assert list(held.holder.deliver([])) == []
        answers = held.holder.prove([])
        assert (answers.found, answers.pending, answers.denied) == ({}, frozenset(), {})

    @pytest.mark.parametrize("damage", ["gone", "changed", "cut"])
    def test_a_file_that_is_not_as_stored_is_not_delivered_and_hinders_no_other(
        self, held: Held, damage: str
    ) -> None:
        instances = held.owed(3)
        path = held.storage.path(instances[1])
        content = path.read_bytes()
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
        told = {delivery.number: delivery for delivery in held.holder.deliver(instances)}
        damaged = told.pop(instances[1].number)
        assert damaged.outcome in (Outcome.REFUSED, Outcome.RETRY)
        assert damaged.reason
        assert {delivery.outcome for delivery in told.values()} == {Outcome.DELIVERED}
        others = {instances[0].number, instances[2].number}
        assert set(told) == set(held.holder.find(instances)) == others

    def test_a_holder_that_does_not_answer_says_so_and_nothing_is_delivered(self, held: Held) -> None:
        instances = held.delivered(2)
        for call in (held.away.find, held.away.prove, lambda owed: outcomes(held.away, owed)):
            with pytest.raises(HolderUnavailableError) as unavailable:
                call(instances)
            assert unavailable.value.hint

    def test_a_holder_writes_nothing_into_the_account(self, held: Held) -> None:
        instances = held.owed(2)
        before = held.account()
        outcomes(held.holder, instances)
        held.holder.prove(instances)
        held.holder.find(instances)
        assert held.account() == before


class LosingHolderContract(HolderContract):
    """For a holder that does not lock what it has."""

    def test_what_the_holder_lost_is_not_found_and_can_be_delivered_again(self, held: Held) -> None:
        assert held.lose is not None
        instances = held.delivered(1)
        held.lose(instances[0])
        assert held.holder.find(instances) == {}
        assert held.holder.prove(instances).found == {}
        assert outcomes(held.holder, instances) == {instances[0].number: Outcome.DELIVERED}
        assert set(held.holder.find(instances)) == {instances[0].number}
