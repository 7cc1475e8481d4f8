"""A vault with many instances is read in bounded memory, each manifest once."""

from pathlib import Path

from tests.many import peak


def test_restore_from_a_large_vault_takes_bounded_memory(tmp_path: Path) -> None:
    # `python -m tests.many 1000000 FOLDER` does the same with a million.
    growth, most = peak(40_000, tmp_path)
    # All manifests together would be 48 MB.
    assert growth < 24
    assert most < 300
    assert list(tmp_path.iterdir()) == []
