"""A vault with many instances is read in bounded memory, each manifest once."""

from pathlib import Path

import pytest

from tests.many import peak


def test_restore_from_a_large_vault_takes_bounded_memory(tmp_path: Path) -> None:
    growth, most = peak(40_000, tmp_path)
    # All manifests together would be 48 MB.
    assert growth < 24
    assert most < 300
    assert list(tmp_path.iterdir()) == []


@pytest.mark.longer
def test_restore_of_a_million_instances_stays_below_300_mb(tmp_path: Path) -> None:
    _, most = peak(1_000_000, tmp_path)
    print(f"peak memory of a restore of 1,000,000 instances: {most:.0f} MB")
    assert most < 300
    assert list(tmp_path.iterdir()) == []
