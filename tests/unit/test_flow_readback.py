"""What a UID does not tell apart is fetched: proven, denied, or proven with the doubt in the evidence."""

from dataclasses import asdict, dataclass, field

import pytest
from understudy.core.model import Instance, InstanceNumber, Proof, ProofKind
from understudy.core.ports import Answers, HolderUnavailableError
from understudy.flow.readback import UNCOMPARED, Contents, ReadBack

from tests.unit.fakes import NOW, PRIMARY_AE, Clock, new_instance

LISTED = Proof(ProofKind.INVENTORY, NOW, {"peer": PRIMARY_AE})


@dataclass
class Source:
    """A peer that gives back what it has; None where it gives nothing out at all."""

    has: dict[str, bytes] | None = field(default_factory=dict)
    ae_title: str = PRIMARY_AE
    asked: list[str] = field(default_factory=list)

    def fetch(self, instance: Instance) -> bytes | None:
        if self.has is None:
            raise HolderUnavailableError("primary", "no C-GET", "allow it")
        self.asked.append(instance.sop_instance_uid)
        return self.has.get(instance.sop_instance_uid)


def instances(count: int) -> list[Instance]:
    return [
        Instance(**asdict(new_instance(number)), number=InstanceNumber(number))
        for number in range(1, count + 1)
    ]


def judged(source: Source, *listed: Instance) -> Answers:
    contents = Contents(ReadBack(source, lambda one: one.md5.encode(), Clock()), lambda _numbers: set())
    return contents.judge(listed, {one.number: LISTED for one in listed})


def test_content_that_comes_back_is_proven_and_one_that_does_not_is_denied() -> None:
    one, two = instances(2)
    source = Source({one.sop_instance_uid: one.md5.encode(), two.sop_instance_uid: b"what was there before"})
    answers = judged(source, one, two)
    assert {number: proof.kind for number, proof in answers.found.items()} == {one.number: ProofKind.READBACK}
    assert list(answers.denied) == [two.number]
    assert "differs" in answers.denied[two.number]


@pytest.mark.parametrize(
    ("source", "why"), [(Source({}), "it does not give the instance out"), (Source(None), "no C-GET")]
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


def test_what_is_not_listed_is_not_asked_for() -> None:
    (one,) = instances(1)
    source = Source({})
    contents = Contents(ReadBack(source, lambda _one: b"", Clock()), lambda _numbers: set())
    assert contents.judge([one], {}) == Answers({})
    assert source.asked == []
