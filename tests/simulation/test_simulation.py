"""Clinics of many seeds violate nothing, nor do those that once found something; old faults are found.

The seeds here are the same at every run, so that a failure is the change's and not chance's. `make simulate`
plays new ones.
"""

import pytest

from tests.simulation.clinic import Figures
from tests.simulation.old_faults import OLD_FAULTS, OldFault
from tests.simulation.run import in_memory, play, play_some

SEEDS = range(20_000, 20_036)
"""So many and no more on a faster machine. They take a processor for about a minute."""
_SHARE = 9
"""Clinics of one test: several tests can run side by side."""

AGING = range(40_000, 40_008)

FOUND_SOMETHING = {
    0: "a failback that was settled while something was sent, when its guard was taken away",
    30022: "a settle that waited for days, since an instance sent weeks ago was not asked for again",
    20039: "a replaced content that was called proven by a listing of its UID",
}
"""Seeds, and what they found."""


@pytest.mark.long
@pytest.mark.parametrize("first", SEEDS[::_SHARE])
def test_clinics_of_many_seeds_violate_nothing(first: int) -> None:
    figures = Figures()
    failure = play_some(range(first, first + _SHARE), figures)
    print(f"seeds from {first}: {figures}")
    assert failure is None, failure.told()


@pytest.mark.parametrize("seed", FOUND_SOMETHING)
def test_clinic_that_once_found_something_violates_nothing(seed: int) -> None:
    with in_memory() as folder:
        failure = play(seed, folder, Figures())
    assert failure is None, failure.told()


@pytest.mark.long
def test_clinics_whose_primary_comes_back_with_older_contents_violate_nothing() -> None:
    figures = Figures()
    with in_memory() as folder:
        found = next(filter(None, (play(seed, folder, figures, ages=True) for seed in AGING)), None)
    assert found is None, found.told()


@pytest.mark.long
@pytest.mark.parametrize("fault", OLD_FAULTS, ids=lambda fault: fault.name)
def test_old_fault_is_found_within_its_budget(fault: OldFault) -> None:
    figures = Figures()
    with in_memory() as folder, fault.put_back():
        found = next(
            filter(None, (play(seed, folder, figures, ages=fault.ages) for seed in range(fault.clinics))),
            None,
        )
    assert found is not None, f"not found in {figures}"
    # A replacement that no longer fits the product's calls proves nothing.
    assert "TypeError" not in found.what, found.what
    print(f"{fault.name}: found after {figures.outages} outages by seed {found.seed}: {found.what}")
