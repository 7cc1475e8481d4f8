"""`make test TEST_ARGUMENTS=...` makes only what the chosen tests need, and `make quick` makes nothing."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack import REPOSITORY

TESTS = REPOSITORY / "tests"
SIGNS = {
    "image": r"\b(Stack|Lab|Clinic|Demo|unpack_by_hand|understudy:local)\b|\bours\(|tests\.ansible\.conftest",
    "lab-image": r"\b(LAB_IMAGE|Demo)\b|\bstock\(|lab: Lab|tests\.ansible\.conftest",
    "s3-image": r"\b(s3_service|Demo)\b|lab: Lab",
    "browser": r"\bDemo\b|tests\.browser",
    "fuse": "bindfs",
    "tracer": "strace",
    "target-image": r"tests\.ansible\.conftest",
    "ssh": r"tests\.ansible\.conftest",
}
"""What a file of tests says where it needs that target."""
IMAGE = "understudy:local"


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Return what make would do. Its environment has no pytest, so that no test can start a container."""
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    (folder / "installed").touch()
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAKE", "MFLAGS", "PYTEST", "TEST_"))
    }
    return subprocess.run(
        ["make", "--dry-run", f"VENV={folder}", *arguments],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def made(output: str) -> set[str]:
    """Return the images that would be built and the programs that would be installed."""
    installed = re.findall(r"^tests/tools/packages\.sh (.+)$", output, re.MULTILINE)
    return {*re.findall(r"build\.sh (\S+)", output), *(word for words in installed for word in words.split())}


@pytest.mark.parametrize(
    ("target", "chosen", "needed"),
    [
        pytest.param("test", "tests/unit/test_modes.py", set(), marks=pytest.mark.long),
        (
            "test",
            "tests/integration/test_vault_stores.py tests/integration/test_viewer.py -k viewer",
            {IMAGE, "chromium"},
        ),
        pytest.param("ansible-test", "tests/ansible/test_disk.py", set(), marks=pytest.mark.long),
    ],
)
def test_make_makes_what_the_chosen_tests_need_and_nothing_else(
    tmp_path: Path, target: str, chosen: str, needed: set[str]
) -> None:
    done = make(tmp_path, target, f"TEST_ARGUMENTS={chosen}")
    assert done.returncode == 0, done.stderr
    assert made(done.stdout) == needed
    assert done.stdout.splitlines()[-1].startswith(f"{tmp_path}/bin/pytest {chosen}")


def test_make_says_that_no_test_is_chosen(tmp_path: Path) -> None:
    done = make(tmp_path, "test", "TEST_ARGUMENTS=tests/unit/test_modes.py -k nothing_of_this_name")
    assert done.returncode != 0
    assert "no test is chosen by tests/unit/test_modes.py -k nothing_of_this_name" in done.stderr


def test_quick_runs_its_three_gates_and_makes_nothing(tmp_path: Path) -> None:
    done = make(tmp_path, "quick")
    assert done.returncode == 0, done.stderr
    assert made(done.stdout) == set()
    for gate in ("ruff check", "ruff format --check", "mypy", "pytest"):
        assert f"{tmp_path}/bin/{gate}" in done.stdout


def test_environment_for_quick_is_made_without_debians_packages(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\ncase $2 in *ensurepip*) exit 1; esac\n", encoding="ascii")
    (tmp_path / "apt-get").write_text('#!/bin/sh\ntouch "$0.ran"\n', encoding="ascii")
    for name in ("python", "apt-get"):
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [str(TESTS / "tools/python.sh"), str(tmp_path / "python")],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "INSTALL_PACKAGES": "no"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    assert "python3-venv" in done.stderr
    assert not (tmp_path / "apt-get.ran").exists()


def named(text: str) -> set[str]:
    """Return what the marks of a file name."""
    marks = re.findall(r"mark\.needs\(([^)]*)\)", text)
    return {target for mark in marks for target in re.findall(r'"([^"]+)"', mark)}


def files_outside() -> Iterator[Path]:
    """Yield the files whose tests may need more than the environment."""
    for folder in ("adversary", "ansible", "drills", "integration", "story"):
        yield from (TESTS / folder).glob("test_*.py")


@pytest.mark.parametrize("file", sorted(files_outside()), ids=lambda file: str(file.relative_to(TESTS)))
def test_file_names_every_target_that_its_tests_use(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    used = {target for target, sign in SIGNS.items() if re.search(sign, text)}
    assert used <= named(text)
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named(text))
