"""Each kind of holder keeps the contract of all: C-STORE, with reading back too, STOW-RS, a vault.

The vault in S3 keeps it in tests/integration/test_vault_stores.py.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from understudy.adapters.directory import DirectoryStore
from understudy.core.model import Delivery, Instance, InstanceNumber, Outcome, Proof
from understudy.core.ports import Answers
from understudy.ledger import Ledger

from tests.contract.holder import Held, HolderContract, LosingHolderContract, in_vault
from tests.contract.route import destination
from tests.peer.archive import Archive
from tests.peer.web import WebArchive
from tests.unit.fakes import NOW, VAULT, Clock
from tests.vault_parts import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    (tmp_path / "storage").mkdir()
    return Storage(tmp_path / "storage")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.modes.start(NOW)
    yield ledger
    ledger.close()


def at_archive(
    archive: Archive | WebArchive,
    gone: Archive | WebArchive,
    storage: Storage,
    ledger: Ledger,
    *,
    reads_back: bool = False,
) -> Held:
    """Return an archive as holder, and one that has ended."""
    clock = Clock()
    with gone:
        pass

    def lose(instance: Instance) -> None:
        archive.record.lose(instance.sop_instance_uid)

    return Held(
        destination(archive, storage, clock, reads_back=reads_back),
        destination(gone, storage, clock, reads_back=reads_back),
        lose,
        storage,
        ledger,
    )


class TestByCStore(LosingHolderContract):
    @pytest.fixture(params=[False, True], ids=["inventory", "readback"])
    def held(self, request: pytest.FixtureRequest, storage: Storage, ledger: Ledger) -> Iterator[Held]:
        with Archive() as archive:
            yield at_archive(archive, Archive(), storage, ledger, reads_back=request.param)


class TestByStow(LosingHolderContract):
    @pytest.fixture(params=[False, True], ids=["inventory", "readback"])
    def held(self, request: pytest.FixtureRequest, storage: Storage, ledger: Ledger) -> Iterator[Held]:
        with WebArchive() as archive:
            yield at_archive(archive, WebArchive(), storage, ledger, reads_back=request.param)


class TestVaultInDirectory(LosingHolderContract):
    @pytest.fixture
    def held(self, tmp_path: Path, storage: Storage, ledger: Ledger) -> Held:
        folder = tmp_path / "vault"
        folder.mkdir()

        def lose(_instance: Instance) -> None:
            for file in [path for path in folder.rglob("*") if path.is_file()]:
                file.unlink()

        stores = DirectoryStore(VAULT, folder), DirectoryStore(VAULT, tmp_path / "absent")
        return in_vault(*stores, storage, ledger, lose=lose)


class _Liar:
    """A holder that tells of more than it has."""

    def __init__(self, held: Held, lie: str) -> None:
        self._inner = held.holder
        self._lie = lie
        self.name, self.kind, self.proof = self._inner.name, self._inner.kind, self._inner.proof

    def find(self, instances: Sequence[Instance]) -> Mapping[InstanceNumber, Proof]:
        if self._lie == "finds everything":
            return {one.number: Proof(self.proof.kind, NOW, {"said": "so"}) for one in instances}
        return self._inner.find(instances)

    def prove(self, instances: Sequence[Instance]) -> Answers:
        if self._lie == "proves everything":
            return Answers({one.number: Proof(self.proof.kind, NOW, {"said": "so"}) for one in instances})
        return self._inner.prove(instances)

    def deliver(self, instances: Sequence[Instance]) -> Iterator[Delivery]:
        if self._lie == "delivers nothing":
            return iter([Delivery(one.number, Outcome.DELIVERED, "") for one in instances])
        if self._lie == "tells twice":
            told = list(self._inner.deliver(instances))
            return iter(told + told)
        return self._inner.deliver(instances)


@pytest.mark.parametrize(
    ("lie", "found_by"),
    [
        ("finds everything", HolderContract.test_what_was_not_delivered_is_neither_found_nor_proven),
        ("proves everything", HolderContract.test_what_was_not_delivered_is_neither_found_nor_proven),
        ("delivers nothing", HolderContract.test_what_was_delivered_is_found_and_proven_with_evidence),
        ("tells twice", HolderContract.test_what_was_delivered_is_found_and_proven_with_evidence),
        (
            "is there when away",
            HolderContract.test_a_holder_that_does_not_answer_says_so_and_nothing_is_delivered,
        ),
    ],
)
def test_contract_finds_a_holder_that_breaks_it(
    storage: Storage, ledger: Ledger, lie: str, found_by: Callable[[HolderContract, Held], None]
) -> None:
    with Archive() as archive:
        held = at_archive(archive, Archive(), storage, ledger)
        away = held.holder if lie == "is there when away" else held.away
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            found_by(HolderContract(), replace(held, holder=_Liar(held, lie), away=away))
