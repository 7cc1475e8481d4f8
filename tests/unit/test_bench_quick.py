"""A ratio below half of what docs/performance.md says, measured twice, fails `make bench-quick`."""

import pytest

from tests.bench.measured import Figure
from tests.bench.quick import PAGE, check, said

RATIOS = {"deliver": 8.0, "intake": 2.5}


class Benches:
    """Two benches whose ratios are given by run."""

    def __init__(self, deliver: list[float], intake: float = 2.5) -> None:
        self.deliver = list(deliver)
        self.intake = intake
        self.told: list[str] = []

    def run(self) -> dict[str, tuple[float, float]]:
        def delivery() -> list[Figure]:
            return [Figure("deliver", self.deliver.pop(0), 1, "instances/s", "a peer")]

        def intake() -> list[Figure]:
            # Less is better: half the time is twice as good.
            return [Figure("intake", 1, self.intake, "s", "a peer", less_is_better=True)]

        return check(
            [delivery, intake], RATIOS, lambda figures: self.told.extend(figure.name for figure in figures)
        )


@pytest.mark.parametrize("ratio", [4.0, 7.9, 20.0])
def test_figure_that_is_half_or_more_passes_and_is_measured_once(ratio: float) -> None:
    benches = Benches([ratio])
    assert benches.run() == {}
    assert benches.told == ["deliver", "intake"]


def test_figure_that_is_low_twice_is_told_with_both_ratios() -> None:
    # Delivery with the wait for a report in it.
    assert Benches([1.1, 1.2]).run() == {"deliver": (1.1, 1.2)}


def test_figure_that_is_low_once_passes() -> None:
    benches = Benches([3.9, 8.1])
    assert benches.run() == {}
    assert benches.told == ["deliver", "deliver", "intake"]


def test_time_that_doubled_is_low() -> None:
    assert Benches([8.0], intake=1.2).run() == {"intake": (1.2, 1.2)}


def test_figure_that_nobody_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="nobody measured"):
        check([], RATIOS, lambda _figures: None)


def test_figure_that_the_page_has_not_is_an_error() -> None:
    other = Figure("other", 1, 1, "s", "a peer")
    with pytest.raises(ValueError, match="no ratio of"):
        check([lambda: [other]], RATIOS, lambda _figures: None)


def test_page_says_a_ratio_and_a_commit_for_every_quick_figure() -> None:
    ratios = said(PAGE.read_text(encoding="utf-8"))
    assert {name.split("_")[0] for name in ratios} == {"intake", "deliver", "vault", "ledger"}
    assert all(ratio > 0 for ratio in ratios.values())


@pytest.mark.parametrize(
    "page",
    [
        "",
        "| `intake_1` | 1 | 2 | s | 2 | `abcdef0` |\n",
        "<!-- begin quick -->\n| `intake_1` | 1 | 2 | s | 2 | |\n<!-- end quick -->",
    ],
    ids=["empty", "outside the table", "without its commit"],
)
def test_page_without_a_figure_is_an_error(page: str) -> None:
    with pytest.raises(ValueError, match="no table"):
        said(page)
