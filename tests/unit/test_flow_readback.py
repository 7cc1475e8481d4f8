"""What a UID does not tell apart is fetched again: kept, denied, or proven with the doubt in its evidence."""

from collections.abc import Sequence
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


def judged(source: Source, asked: Sequence[Instance], *doubtful: int) -> Answers:
    read_back = ReadBack(source, lambda one: one.md5.encode(), Clock())
    contents = Contents(read_back, lambda numbers: {InstanceNumber(one) for one in doubtful} & set(numbers))
    return contents.judge(asked, Answers({one.number: LISTED for one in asked}))


def test_what_no_other_content_is_beside_is_not_fetched() -> None:
    source = Source()
    assert judged(source, instances(2)).found == dict.fromkeys((1, 2), LISTED)
    assert source.asked == []


def test_content_that_comes_back_is_proven_and_one_that_does_not_is_denied() -> None:
    one, two, three = instances(3)
    source = Source({one.sop_instance_uid: one.md5.encode(), two.sop_instance_uid: b"what was there before"})
    answers = judged(source, [one, two, three], 1, 2)
    assert answers.found[one.number].kind is ProofKind.READBACK
    assert answers.found[three.number] is LISTED
    assert two.number not in answers.found
    assert "differs" in answers.denied[two.number]
    assert source.asked == [one.sop_instance_uid, two.sop_instance_uid]


@pytest.mark.parametrize(
    ("source", "why"), [(Source({}), "it does not give the instance out"), (Source(None), "no C-GET")]
)
def test_content_that_cannot_be_fetched_is_proven_with_the_doubt_in_the_evidence(
    source: Source, why: str
) -> None:
    (one,) = instances(1)
    answers = judged(source, [one], 1)
    proof = answers.found[one.number]
    assert (proof.kind, proof.evidence) == (
        ProofKind.INVENTORY,
        {"peer": PRIMARY_AE, UNCOMPARED: why},
    )
    assert answers.denied == {}
