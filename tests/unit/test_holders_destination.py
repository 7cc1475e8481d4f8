"""A DICOM destination: what is sent, in what parts, and what the answers mean."""

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import pytest
from understudy.adapters.storage import StorageArea
from understudy.core.model import Delivery, HolderKind, Instance, Outcome, ProofKind
from understudy.core.outcomes import Loss, Verdict, of_context, of_loss, of_status
from understudy.core.ports import (
    MAX_CONTEXTS,
    CappedError,
    FileToSend,
    HolderUnavailableError,
    UnreadableFileError,
)
from understudy.holders.destination import PLAIN_SYNTAXES, DicomDestination, Transcode
from understudy.holders.readback import ContentCheck, ReadBack

from tests.unit.fakes import Clock, FakePeer, UnforeseenError
from tests.vault_parts import Storage


@dataclass
class StoringPeer(FakePeer):
    """A peer that keeps what it is sent and answers as told."""

    statuses: list[int] = field(default_factory=list)
    """In order; success where nothing is said."""
    aborts_at: set[str] = field(default_factory=set)
    """SOP Instance UIDs at which it ends the association."""
    poison: set[str] = field(default_factory=set)
    """SOP Instance UIDs at which our own code fails."""
    most: int = 99
    """Associations at a time; a further one is rejected."""
    sent: list[list[str]] = field(default_factory=list)
    """SOP Instance UIDs by association."""
    pairs: list[int] = field(default_factory=list)
    unknown_syntaxes: set[str] = field(default_factory=set)
    contents: dict[str, bytes] = field(default_factory=dict)
    """By SOP Instance UID, the file that it was sent."""
    at_once: int = 0
    seconds: float = 0.0
    """What it takes for one instance."""
    together: threading.Barrier | None = None
    """Where given, every association waits at its first instance for the others."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def storing(self, pairs: Collection[tuple[str, str]]) -> Iterator["Line"]:
        self._answer()
        with self._lock:
            if self.at_once >= self.most:
                raise HolderUnavailableError(self.name, "local limit exceeded", "fewer")
            self.at_once += 1
            self.pairs.append(len(set(pairs)))
            line = Line(self, [], frozenset(pairs))
            self.sent.append(line.sent)
        try:
            yield line
        finally:
            with self._lock:
                self.at_once -= 1

    def uids(self) -> list[str]:
        return sorted(uid for line in self.sent for uid in line)


@dataclass
class Line:
    """One association."""

    peer: StoringPeer
    sent: list[str]
    pairs: frozenset[tuple[str, str]]
    is_open: bool = True

    def accepts(self, sop_class_uid: str, transfer_syntax_uid: str) -> bool:
        assert (sop_class_uid, transfer_syntax_uid) in self.pairs
        return transfer_syntax_uid not in self.peer.unknown_syntaxes

    def store(self, file: FileToSend) -> Verdict:
        if self.peer.together is not None and not self.sent:
            self.peer.together.wait(60)
        if file.sop_instance_uid in self.peer.poison:
            raise UnforeseenError
        time.sleep(self.peer.seconds)
        if not self.accepts(file.sop_class_uid, file.transfer_syntax_uid):
            return of_context(4, file.sop_class_uid, file.transfer_syntax_uid)
        self.peer.contents[file.sop_instance_uid] = file.content.read()
        self.sent.append(file.sop_instance_uid)
        if file.sop_instance_uid in self.peer.aborts_at:
            self.is_open = False
            return of_loss(Loss.ABORTED_BY_USER, "")
        return of_status(self.peer.statuses.pop(0) if self.peer.statuses else 0)


class Bench:
    """A destination over a storage area."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.storage = Storage(root)
        self.peer = StoringPeer(name="archive", ae_title="ARCHIVE")
        self.destination = self.new_destination(1)

    def new_destination(self, associations: int, transcode: Transcode | None = None) -> DicomDestination:
        area = StorageArea(self.storage.root)
        return DicomDestination(
            HolderKind.ROUTE, self.peer, area, Clock(), associations=associations, transcode=transcode
        )

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


def test_find_believes_what_is_listed_of_a_study_that_is_counted_too_high(bench: Bench) -> None:
    instances = bench.keep(2)
    bench.peer.overcounted = {"1.2.3"}
    bench.peer.keep("1.2.3", "1.2.3.0", "1.2.3.1")
    assert set(bench.destination.find(instances)) == {one.number for one in instances}
    bench.peer.lose("1.2.3", "1.2.3.1")
    with pytest.raises(CappedError):
        bench.destination.find(instances)


@pytest.mark.parametrize("study", ["1.2.*", "1.2\\1.3", "1.2.\u0416", "", "1" * 65, "1.2\n"])
def test_study_that_cannot_be_asked_for_is_refused_and_never_asked_for(bench: Bench, study: str) -> None:
    good, odd = bench.keep(1), bench.keep(1, study=study)
    assert bench.destination.find(odd) == {}
    assert bench.peer.asked == []
    found = outcomes(list(bench.destination.deliver([*odd, *good])))
    assert found == {odd[0].number: Outcome.REFUSED, good[0].number: Outcome.DELIVERED}
    assert bench.peer.uids() == [good[0].sop_instance_uid]


@pytest.mark.parametrize("kept", [b"later", b"earlier"])
def test_what_a_uid_does_not_tell_apart_is_read_back_whatever_proves_the_others(
    bench: Bench, kept: bytes
) -> None:
    """The peer lists both, and would commit to both."""

    class Source:
        ae_title = "ARCHIVE"

        def fetch(self, _instance: Instance) -> bytes:
            return kept

    plain = bench.keep(1)[0]
    later = bench.storage.keep(b"later", sop="1.2.3.7", study="1.2.3")
    bench.peer.keep("1.2.3", plain.sop_instance_uid, later.sop_instance_uid)
    contents = ContentCheck(
        ReadBack(Source(), lambda _one: sha256(b"later").hexdigest(), Clock()),
        lambda _numbers: {later.number},
    )
    destination = DicomDestination(
        HolderKind.ROUTE, bench.peer, StorageArea(bench.storage.root), Clock(), contents=contents
    )
    answers = destination.prove([plain, later])
    assert answers.found[plain.number].kind is ProofKind.INVENTORY
    if kept == b"later":
        assert answers.found[later.number].kind is ProofKind.READBACK
    else:
        assert list(answers.denied) == [later.number]


def test_two_contents_of_one_uid_go_one_after_the_other(bench: Bench) -> None:
    first, second = (
        bench.storage.keep(content, sop="1.2.3.7", study="1.2.3") for content in (b"first", b"second")
    )
    destination = bench.new_destination(4)
    found = outcomes(list(destination.deliver([first, *bench.keep(12), second])))
    assert set(found.values()) == {Outcome.DELIVERED}
    assert bench.peer.contents["1.2.3.7"] == b"second"


def outcomes(deliveries: list[Delivery]) -> dict[int, Outcome]:
    return {delivery.number: delivery.outcome for delivery in deliveries}


def test_deliver_translates_every_answer(bench: Bench) -> None:
    bench.peer.statuses = [0x0000, 0xB000, 0xA700, 0xA900, 0x0111]
    deliveries = list(bench.destination.deliver(bench.keep(5)))
    assert [delivery.outcome for delivery in deliveries] == [
        Outcome.DELIVERED,
        Outcome.DELIVERED_ALTERED,
        Outcome.RETRY,
        Outcome.REFUSED,
        Outcome.CONFLICT,
    ]


@pytest.mark.parametrize(("again", "outcome"), [(0xC000, Outcome.REFUSED), (0x0000, Outcome.DELIVERED)])
def test_doubted_refusal_is_what_the_instance_gets_alone(bench: Bench, again: int, outcome: Outcome) -> None:
    instances = bench.keep(3)
    bench.peer.statuses = [0x0000, 0xC001, 0x0000, again]
    found = outcomes(list(bench.destination.deliver(instances)))
    first, second, third = (instance.sop_instance_uid for instance in instances)
    assert bench.peer.sent == [[first, second, third], [second]]
    assert found[instances[1].number] is outcome
    assert len(found) == 3


def test_doubted_instance_that_cannot_be_sent_alone_now_was_not_sent(bench: Bench) -> None:
    instances = bench.keep(3)
    bench.peer.statuses = [0xC000]
    bench.peer.most = 1
    deliveries = bench.destination.deliver(instances)
    told = [next(deliveries), next(deliveries)]
    bench.peer.most = 0
    with pytest.raises(HolderUnavailableError):
        next(deliveries)
    assert set(outcomes(told)) == {instance.number for instance in instances[1:]}


def test_deliver_proposes_at_most_as_many_contexts_as_an_association_has(bench: Bench) -> None:
    instances = [
        replace(instance, sop_class_uid=f"1.2.{number % (2 * MAX_CONTEXTS + 3)}")
        for number, instance in enumerate(bench.keep(2 * MAX_CONTEXTS + 10))
    ]
    deliveries = list(bench.destination.deliver(instances))
    assert [delivery.number for delivery in deliveries] == [instance.number for instance in instances]
    assert bench.peer.pairs == [MAX_CONTEXTS, MAX_CONTEXTS, 10]


def test_deliver_shares_the_instances_among_associations(bench: Bench) -> None:
    bench.peer.together = threading.Barrier(4)
    instances = bench.keep(16)
    deliveries = list(bench.new_destination(4).deliver(instances))
    assert outcomes(deliveries) == {instance.number: Outcome.DELIVERED for instance in instances}
    assert len(bench.peer.sent) == 4
    assert bench.peer.uids() == sorted(instance.sop_instance_uid for instance in instances)


def test_deliver_makes_no_more_associations_than_are_worth_it(bench: Bench) -> None:
    bench.peer.together = threading.Barrier(2)
    list(bench.new_destination(4).deliver(bench.keep(5)))
    assert len(bench.peer.sent) == 2


def test_deliver_to_a_peer_that_takes_fewer_associations_goes_on_with_those(bench: Bench) -> None:
    bench.peer.most = 1
    instances = bench.keep(16)
    deliveries = list(bench.new_destination(4).deliver(instances))
    assert len(deliveries) == 16


@pytest.mark.parametrize("associations", [1, 3])
@pytest.mark.parametrize("bad", [[0], [7], [0, 3, 15]])
def test_association_that_ends_blames_one_instance_and_the_rest_is_sent(
    bench: Bench, associations: int, bad: list[int]
) -> None:
    instances = bench.keep(16)
    bench.peer.aborts_at = {instances[number].sop_instance_uid for number in bad}
    deliveries = list(bench.new_destination(associations).deliver(instances))
    unknown = [number for number, delivery in outcomes(deliveries).items() if delivery is Outcome.UNKNOWN]
    assert sorted(unknown) == [instances[number].number for number in bad]
    assert bench.peer.uids() == sorted(instance.sop_instance_uid for instance in instances)


def test_peer_that_ends_every_association_is_left_alone_soon(bench: Bench) -> None:
    instances = bench.keep(16)
    bench.peer.aborts_at = {instance.sop_instance_uid for instance in instances}
    deliveries = bench.destination.deliver(instances)
    assert [next(deliveries).outcome for _ in range(3)] == [Outcome.UNKNOWN] * 3
    with pytest.raises(HolderUnavailableError, match="3 associations in a row"):
        next(deliveries)


def test_fault_of_ours_is_raised_and_ends_the_other_associations(bench: Bench) -> None:
    instances = bench.keep(400)
    bench.peer.poison, bench.peer.seconds = {instances[0].sop_instance_uid}, 0.05
    with pytest.raises(UnforeseenError):
        list(bench.new_destination(4).deliver(instances))
    assert len(bench.peer.uids()) < 399
    assert bench.peer.at_once == 0


def test_deliver_that_nobody_reads_to_the_end_ends_its_associations(bench: Bench) -> None:
    bench.peer.seconds = 0.05
    deliveries = bench.new_destination(4).deliver(bench.keep(400))
    next(deliveries)
    deliveries.close()  # type: ignore[attr-defined]
    assert bench.peer.at_once == 0
    assert len(bench.peer.uids()) < 400


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
    assert len(bench.peer.uids()) == 2


def test_deliver_without_the_storage_volume_blames_no_instance(bench: Bench, tmp_path: Path) -> None:
    instances = bench.keep(2)
    (tmp_path / "storage").rename(tmp_path / "elsewhere")
    with pytest.raises(HolderUnavailableError, match="storage"):
        list(bench.destination.deliver(instances))


def test_deliver_to_a_silent_peer_is_unavailable(bench: Bench) -> None:
    bench.peer.silent = True
    with pytest.raises(HolderUnavailableError):
        list(bench.destination.deliver(bench.keep(1)))


def test_deliver_sends_nothing_more_when_all_is_to_stop(bench: Bench) -> None:
    instances = bench.keep(8)
    asked: list[int] = []

    def pace(size: int) -> bool:
        asked.append(size)
        return len(asked) <= 3

    area = StorageArea(bench.storage.root)
    destination = DicomDestination(HolderKind.ROUTE, bench.peer, area, Clock(), pace=pace)
    deliveries = list(destination.deliver(instances))
    assert [delivery.number for delivery in deliveries] == [one.number for one in instances[:3]]
    assert asked == [one.size for one in instances[:4]]
    assert bench.peer.at_once == 0


EXPLICIT, IMPLICIT = PLAIN_SYNTAXES
COMPRESSED = "1.2.840.10008.1.2.4.70"


def transcode(instance: Instance, syntax: str) -> bytes:
    return f"{instance.sop_instance_uid} in {syntax}".encode()


def compressed(bench: Bench, count: int = 2) -> list[Instance]:
    return [replace(instance, transfer_syntax_uid=COMPRESSED) for instance in bench.keep(count)]


def test_stored_bytes_are_sent_wherever_the_peer_takes_them(bench: Bench) -> None:
    instances = compressed(bench)
    found = list(bench.new_destination(1, transcode).deliver(instances))
    assert {delivery.outcome for delivery in found} == {Outcome.DELIVERED}
    assert bench.peer.contents["1.2.3.0"] == b"1.2.3 0"


@pytest.mark.parametrize(("unknown", "sent"), [([COMPRESSED], EXPLICIT), ([COMPRESSED, EXPLICIT], IMPLICIT)])
def test_copy_is_sent_where_the_peer_does_not_take_the_stored_syntax(
    bench: Bench, unknown: list[str], sent: str
) -> None:
    bench.peer.unknown_syntaxes = set(unknown)
    instances = [*compressed(bench), *bench.keep(1, study="1.2.4")]
    found = {one.number: one for one in bench.new_destination(2, transcode).deliver(instances)}
    assert bench.peer.contents["1.2.3.0"] == f"1.2.3.0 in {sent}".encode()
    first = found[instances[0].number]
    assert (first.outcome, first.reason) == (
        Outcome.DELIVERED_ALTERED,
        f"transcoded from {COMPRESSED} to {sent}",
    )
    as_it_is = instances[2].transfer_syntax_uid not in unknown
    assert (found[instances[2].number].outcome is Outcome.DELIVERED) is as_it_is


def test_without_leave_to_transcode_the_instance_is_refused(bench: Bench) -> None:
    bench.peer.unknown_syntaxes = {COMPRESSED}
    found = list(bench.destination.deliver(compressed(bench)))
    assert {delivery.outcome for delivery in found} == {Outcome.REFUSED}
    assert bench.peer.contents == {}


def test_peer_that_takes_no_syntax_at_all_refuses_and_is_sent_nothing(bench: Bench) -> None:
    bench.peer.unknown_syntaxes = {COMPRESSED, EXPLICIT, IMPLICIT}
    found = list(bench.new_destination(1, transcode).deliver(compressed(bench)))
    assert {delivery.outcome for delivery in found} == {Outcome.REFUSED}
    assert all("transfer syntax not supported" in delivery.reason for delivery in found)


@pytest.mark.parametrize(("permanent", "outcome"), [(True, Outcome.REFUSED), (False, Outcome.RETRY)])
def test_copy_that_cannot_be_made_is_told(bench: Bench, permanent: bool, outcome: Outcome) -> None:
    def failing(instance: Instance, syntax: str) -> bytes:
        raise UnreadableFileError("it cannot be transcoded", permanent=permanent)

    bench.peer.unknown_syntaxes = {COMPRESSED}
    found = list(bench.new_destination(1, failing).deliver(compressed(bench)))
    assert {(one.outcome, one.reason) for one in found} == {(outcome, "it cannot be transcoded")}


def test_damaged_file_is_told_though_orthanc_might_still_give_a_copy(bench: Bench) -> None:
    bench.peer.unknown_syntaxes = {COMPRESSED}
    instances = [replace(instance, md5="0" * 32) for instance in compressed(bench)]
    found = list(bench.new_destination(1, transcode).deliver(instances))
    assert all("differs from its MD5" in delivery.reason for delivery in found)


def test_contexts_of_the_copies_count_as_well(bench: Bench) -> None:
    instances = [
        replace(instance, sop_class_uid=f"1.2.840.{number}", transfer_syntax_uid=COMPRESSED)
        for number, instance in enumerate(bench.keep(100))
    ]
    assert len(list(bench.new_destination(1, transcode).deliver(instances))) == 100
    # Three contexts a SOP class: its own syntax and the two that a copy can have.
    assert bench.peer.pairs == [126, 126, 48]
    assert max(bench.peer.pairs) <= MAX_CONTEXTS
