"""What a UID does not tell apart is fetched: proven, denied, or proven with the doubt in the evidence."""

from dataclasses import asdict, dataclass, field
from hashlib import sha256

import pytest
from understudy.core.model import Instance, InstanceNumber, Proof, ProofKind
from understudy.core.ports import Answers, HolderUnavailableError, UnansweredError, UnreadableFileError
from understudy.holders.readback import UNCOMPARED, ContentCheck, ReadBack

from tests.unit.fakes import NOW, PRIMARY_AE, Clock, new_instance

AWAY = b"away"
LISTED = Proof(ProofKind.INVENTORY, NOW, {"peer": PRIMARY_AE})


@dataclass
class Source:
    """A peer that gives back what it has, or fails so."""

    has: dict[str, bytes] | HolderUnavailableError = field(default_factory=dict)
    ae_title: str = PRIMARY_AE
    asked: list[str] = field(default_factory=list)

    def fetch(self, instance: Instance) -> bytes | None:
        self.asked.append(instance.sop_instance_uid)
        if isinstance(self.has, HolderUnavailableError):
            raise self.has
        if self.has.get(instance.sop_instance_uid) == AWAY:
            raise HolderUnavailableError("primary", "it is away", "wait")
        return self.has.get(instance.sop_instance_uid)


def instances(count: int) -> list[Instance]:
    return [
        Instance(**asdict(new_instance(number)), number=InstanceNumber(number))
        for number in range(1, count + 1)
    ]


def judged(source: Source, *listed: Instance) -> Answers:
    contents = ContentCheck(
        ReadBack(source, lambda one: sha256(one.md5.encode()).hexdigest(), Clock()), lambda _numbers: set()
    )
    return contents.judge(listed, {one.number: LISTED for one in listed})


def test_content_that_comes_back_is_proven_and_one_that_does_not_is_denied() -> None:
    one, two = instances(2)
    source = Source({one.sop_instance_uid: one.md5.encode(), two.sop_instance_uid: b"what was there before"})
    answers = judged(source, one, two)
    assert {number: proof.kind for number, proof in answers.found.items()} == {one.number: ProofKind.READBACK}
    assert list(answers.denied) == [two.number]
    assert "differs" in answers.denied[two.number]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (Source({}), "it does not give this instance back"),
        (Source(UnansweredError("primary", "it offers no C-GET", "allow it")), "it offers no C-GET"),
    ],
)
def test_content_that_cannot_be_fetched_is_proven_with_the_doubt_in_the_evidence(
    source: Source, why: str
) -> None:
    (one,) = instances(1)
    answers = judged(source, one)
    proof = answers.found[one.number]
    assert (proof.kind, proof.evidence) == (
        ProofKind.INVENTORY,
        {"peer": PRIMARY_AE, UNCOMPARED: why},
    )
    assert answers.denied == {}


def test_peer_that_offers_no_c_get_is_asked_once() -> None:
    source = Source(UnansweredError("primary", "it offers no C-GET", "allow it"))
    assert len(judged(source, *instances(3)).found) == 3
    assert len(source.asked) == 1


def test_failure_of_one_neither_proves_it_nor_takes_back_what_is_known_of_another() -> None:
    one, two, three = instances(3)
    source = Source(
        {
            one.sop_instance_uid: b"what was there before",
            two.sop_instance_uid: AWAY,
            three.sop_instance_uid: three.md5.encode(),
        }
    )
    answers = judged(source, one, two, three)
    assert list(answers.denied) == [one.number]
    assert answers.pending == {two.number}
    assert list(answers.found) == [three.number]


@pytest.mark.parametrize("permanent", [True, False])
def test_what_cannot_be_read_here_is_proven_by_nothing(permanent: bool) -> None:
    def gone(_one: Instance) -> str:
        raise UnreadableFileError("its stored file is gone", permanent=permanent)

    (one,) = instances(1)
    contents = ContentCheck(ReadBack(Source({}), gone, Clock()), lambda _numbers: set())
    # What is gone for good counts as absent: it is owed again, and who sends it says that it is gone.
    assert contents.judge([one], {one.number: LISTED}) == Answers({}, set() if permanent else {one.number})


def test_what_cannot_be_fetched_for_long_waits_for_a_person_and_a_passing_failure_does_not() -> None:
    one, two = instances(2)
    clock, source = Clock(), Source({one.sop_instance_uid: AWAY, two.sop_instance_uid: AWAY})
    contents = ContentCheck(
        ReadBack(source, lambda one: sha256(one.md5.encode()).hexdigest(), clock), lambda _numbers: set()
    )
    listed = {one.number: LISTED, two.number: LISTED}
    assert contents.judge([one, two], listed).pending == {one.number, two.number}
    clock.advance(400)
    source.has = {one.sop_instance_uid: AWAY, two.sop_instance_uid: two.md5.encode()}
    answers = contents.judge([one, two], listed)
    assert (set(answers.found), answers.pending) == ({two.number}, {one.number})
    clock.advance(400)
    source.has = {one.sop_instance_uid: AWAY, two.sop_instance_uid: AWAY}
    answers = contents.judge([one, two], listed)
    assert answers.denied == {one.number: "it cannot be fetched for comparison: it is away"}
    assert answers.pending == {two.number}
    # Replayed by a person, it is asked for again as long.
    assert contents.judge([one], listed).pending == {one.number}


def test_what_everything_is_read_back_from_and_gives_no_answer_for_long_waits_for_a_person() -> None:
    """It would stay acknowledged for ever, which nobody can waive."""
    one, two = instances(2)
    clock = Clock()
    source = Source({one.sop_instance_uid: AWAY, two.sop_instance_uid: two.md5.encode()})
    read_back = ReadBack(source, lambda own: sha256(own.md5.encode()).hexdigest(), clock)
    for _ in range(2):
        with pytest.raises(HolderUnavailableError, match="it is away"):
            read_back.compare([one, two])
        clock.set_by(30 * 86_400)
    clock.advance(600)
    answers = read_back.compare([one, two])
    assert answers.denied == {one.number: "it cannot be fetched for comparison: it is away"}
    assert set(answers.found) == {two.number}


def test_what_takes_longer_than_a_lane_has_time_for_is_pending() -> None:
    clock = Clock()
    some = instances(3)

    class Slow(Source):
        def fetch(self, instance: Instance) -> bytes | None:
            clock.advance(20)
            return instance.md5.encode()

    contents = ContentCheck(
        ReadBack(Slow(), lambda one: sha256(one.md5.encode()).hexdigest(), clock), lambda _numbers: set()
    )
    answers = contents.judge(some, {one.number: LISTED for one in some})
    assert (len(answers.found), answers.pending) == (2, {some[2].number})


def test_what_is_not_listed_is_not_asked_for() -> None:
    (one,) = instances(1)
    source = Source({})
    contents = ContentCheck(ReadBack(source, lambda _one: "", Clock()), lambda _numbers: set())
    assert contents.judge([one], {}) == Answers({})
    assert source.asked == []
