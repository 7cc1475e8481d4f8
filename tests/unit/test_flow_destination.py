"""A DICOM destination: what is sent, in what parts, and what the answers mean."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from understudy.adapters.storage import StorageArea
from understudy.core.model import HolderKind, Instance, Outcome, ProofKind
from understudy.core.ports import MAX_CONTEXTS, FileToSend, HolderUnavailableError
from understudy.flow.destination import DicomDestination

from tests.unit.fakes import Clock, FakePeer
from tests.vault_parts import Storage


@dataclass
class StoringPeer(FakePeer):
    """A peer that keeps the files it is sent and answers as told."""

    answers: list[int | str | None] = field(default_factory=list)
    sent: list[list[FileToSend]] = field(default_factory=list)

    def store(self, files: Sequence[FileToSend]) -> Iterator[int | str | None]:
        self._answer()
        self.sent.append(list(files))
        for _ in files:
            yield self.answers.pop(0) if self.answers else 0


class Bench:
    """A destination over a storage area."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.storage = Storage(root)
        self.peer = StoringPeer(name="archive", ae_title="ARCHIVE")
        self.destination = DicomDestination(HolderKind.ROUTE, self.peer, StorageArea(root), Clock())

    def keep(self, count: int, *, study: str = "1.2.3") -> list[Instance]:
        return [
            self.storage.keep(f"{study} {one}".encode(), sop=f"{study}.{one}", study=study)
            for one in range(count)
        ]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "storage")


def test_find_gives_an_inventory_proof_for_what_is_listed(bench: Bench) -> None:
    instances = [*bench.keep(2), *bench.keep(2, study="1.2.4")]
    bench.peer.keep("1.2.3", "1.2.3.0", "9.9")
    bench.peer.keep("1.2.4", "1.2.4.1")
    found = bench.destination.find(instances)
    assert set(found) == {instances[0].number, instances[3].number}
    proof = found[instances[0].number]
    assert proof.kind is ProofKind.INVENTORY
    assert proof.evidence == {"peer": "ARCHIVE", "level": "IMAGE", "study": "1.2.3", "listed": 2}
    assert bench.peer.asked == ["1.2.3", "1.2.4"]


def test_deliver_translates_every_answer(bench: Bench) -> None:
    bench.peer.answers = [0x0000, 0xB000, 0xA700, 0xC000, 0x0111, None, "no presentation context"]
    outcomes = [delivery.outcome for delivery in bench.destination.deliver(bench.keep(7))]
    assert outcomes == [
        Outcome.DELIVERED,
        Outcome.DELIVERED_ALTERED,
        Outcome.RETRY,
        Outcome.REFUSED,
        Outcome.CONFLICT,
        Outcome.UNKNOWN,
        Outcome.REFUSED,
    ]


def test_deliver_sends_at_most_as_many_files_as_an_association_has_contexts(bench: Bench) -> None:
    instances = bench.keep(MAX_CONTEXTS * 2 + 3)
    deliveries = list(bench.destination.deliver(instances))
    assert [delivery.number for delivery in deliveries] == [instance.number for instance in instances]
    assert [len(part) for part in bench.peer.sent] == [MAX_CONTEXTS, MAX_CONTEXTS, 3]


def test_deliver_refuses_a_spoilt_file_alone_and_never_sends_it(bench: Bench) -> None:
    instances = bench.keep(4)
    bench.storage.path(instances[1]).write_bytes(b"1.2.3 X")
    bench.storage.path(instances[2]).unlink()
    outcomes = {delivery.number: delivery.outcome for delivery in bench.destination.deliver(instances)}
    assert outcomes == {
        instances[0].number: Outcome.DELIVERED,
        instances[1].number: Outcome.REFUSED,
        instances[2].number: Outcome.REFUSED,
        instances[3].number: Outcome.DELIVERED,
    }
    assert len(bench.peer.sent[0]) == 2


def test_deliver_without_the_storage_volume_blames_no_instance(bench: Bench, tmp_path: Path) -> None:
    instances = bench.keep(2)
    (tmp_path / "storage").rename(tmp_path / "elsewhere")
    with pytest.raises(HolderUnavailableError, match="storage"):
        list(bench.destination.deliver(instances))


def test_deliver_to_a_silent_peer_is_unavailable(bench: Bench) -> None:
    bench.peer.silent = True
    with pytest.raises(HolderUnavailableError):
        list(bench.destination.deliver(bench.keep(1)))
