"""An image is built from an expired package mirror on request alone, and its label tells the mirror's age."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.stack import REPOSITORY

SAID = "the Release file of forky at the mirror expired on Fri, 06 Nov 2026 08:08:01 UTC"
DOCKER = """\
#!/bin/sh
echo "$@" >> "$0.log"
for argument; do
    case $argument in
        type=local,dest=*) mkdir -p "${argument#type=local,dest=}"
            echo 'Fri, 30 Oct 2026' > "${argument#type=local,dest=}/debian-release-date" ;;
    esac
done
[ "$1" != image ] || echo 1
"""


def built(
    folder: Path, *, expired: bool, differing: str = "", **environment: str
) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run build.sh with a mirror that is in this state and a docker that notes what it is told."""
    scripts = {
        "mirror-expired.sh": f"#!/bin/sh\necho '{SAID}' >&2; exit {0 if expired else 1}\n",
        "base.sh": f"#!/bin/sh\necho '{differing}'\n",
        "docker": DOCKER,
    }
    for name, text in scripts.items():
        (folder / name).write_text(text, encoding="ascii")
        (folder / name).chmod(0o755)
    shutil.copy(REPOSITORY / "docker/build.sh", folder)
    inherited = {name: value for name, value in os.environ.items() if name != "ACCEPT_EXPIRED_MIRROR"}
    done = subprocess.run(
        [str(folder / "build.sh"), "tag", str(REPOSITORY / "docker/Dockerfile"), "."],
        env={**inherited, "PATH": f"{folder}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    log = folder / "docker.log"
    return done, log.read_text(encoding="utf-8") if log.exists() else ""


@pytest.mark.parametrize("environment", [{}, {"ACCEPT_EXPIRED_MIRROR": "0"}])
def test_build_from_an_expired_mirror_fails_with_one_line_and_its_fix(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    done, told = built(tmp_path, expired=True, **environment)
    assert (done.returncode, told) == (1, "")
    (line,) = done.stderr.splitlines()
    assert SAID in line
    assert "ACCEPT_EXPIRED_MIRROR=1 make image" in line


@pytest.mark.parametrize(("expired", "accepted"), [(True, "1"), (False, "0")])
def test_build_passes_on_what_was_accepted_and_labels_the_image_with_the_release_it_is_of(
    tmp_path: Path, expired: bool, accepted: str
) -> None:
    done, told = built(tmp_path, expired=expired, **({"ACCEPT_EXPIRED_MIRROR": "1"} if expired else {}))
    assert done.returncode == 0, done.stderr
    last = told.splitlines()[-2]
    assert f"ACCEPT_EXPIRED_MIRROR={accepted}" in last
    assert "DEBIAN_RELEASE_DATE=Fri, 30 Oct 2026" in last


def test_only_the_pipeline_accepts_an_expired_mirror() -> None:
    grep = ["git", "grep", "-l", "--", "export ACCEPT_EXPIRED_MIRROR", ":!tests/unit/test_build.py"]
    found = subprocess.run(grep, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=30)
    assert found.stdout.split() == [".ci/run"]


FOUND = "apt 3.3.3\nbash 5.3-4\n"
BASE_DOCKER = """\
#!/bin/sh
echo "$@" >> "$0.log"
case "$1 $2" in
    "image inspect") exit "$ABSENT" ;;
    "run --rm") printf 'bash 5.3-4\\napt 3.3.3\\n' ;;
esac
"""


def based(
    folder: Path, lock: str | None, *, present: bool, **environment: str
) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run base.sh where the image is here or a registry has it, and its packages are those of FOUND."""
    (folder / "docker").write_text(BASE_DOCKER, encoding="ascii")
    (folder / "docker").chmod(0o755)
    shutil.copy(REPOSITORY / "docker/base.sh", folder)
    if lock is not None:
        (folder / "base-forky.lock").write_text(lock, encoding="ascii")
    asked = {"LOCK_BASE", "REQUIRE_LOCKED_BASE"}
    inherited = {name: value for name, value in os.environ.items() if name not in asked}
    done = subprocess.run(
        [str(folder / "base.sh"), "forky"],
        env={
            **inherited,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "ABSENT": str(int(not present)),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done, (folder / "docker.log").read_text(encoding="ascii")


@pytest.mark.parametrize("lock", [FOUND, None])
@pytest.mark.parametrize("present", [False, True])
def test_base_with_the_pinned_packages_is_taken_without_a_word(
    tmp_path: Path, lock: str | None, present: bool
) -> None:
    done, told = based(tmp_path, lock, present=present, REQUIRE_LOCKED_BASE="1")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "WARNING" not in done.stderr
    assert ("pull --quiet debian:forky-slim" in told) != present


@pytest.mark.parametrize(
    ("lock", "differing"),
    [("apt 3.3.2\nbash 5.3-4\n", "apt"), ("apt 3.3.2\n", "apt bash"), (FOUND + "zlib 1\n", "zlib")],
)
@pytest.mark.parametrize("present", [False, True])
def test_base_with_other_packages_is_named_and_refused_only_on_request(
    tmp_path: Path, lock: str, differing: str, present: bool
) -> None:
    done, _ = based(tmp_path, lock, present=present)
    assert (done.returncode, done.stdout) == (0, f"{differing}\n")
    warning = done.stderr.splitlines()[-1]
    assert "WARNING" in warning
    assert warning.endswith(f"than base-forky.lock pins: {differing}")
    done, _ = based(tmp_path, lock, present=present, REQUIRE_LOCKED_BASE="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"pins: {differing}." in done.stderr.splitlines()[-1]
    assert (tmp_path / "base-forky.lock").read_text(encoding="ascii") == lock
    done, _ = based(tmp_path, lock, present=present, LOCK_BASE="1", REQUIRE_LOCKED_BASE="1")
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "base-forky.lock").read_text(encoding="ascii") == FOUND


@pytest.mark.parametrize(("differing", "label"), [("apt bash", "apt bash"), ("", "no")])
def test_image_is_labelled_with_the_packages_that_differ(tmp_path: Path, differing: str, label: str) -> None:
    done, told = built(tmp_path, expired=False, differing=differing)
    assert done.returncode == 0, done.stderr
    assert f"--build-arg BASE_DIFFERS={label} --" in told.splitlines()[-2]
    assert 'org.understudy.base.differs="$BASE_DIFFERS"' in (REPOSITORY / "docker/Dockerfile").read_text(
        encoding="utf-8"
    )


def test_nothing_but_a_release_asks_for_the_locked_base() -> None:
    grep = [
        "git",
        "grep",
        "-l",
        "REQUIRE_LOCKED_BASE=1",
        "--",
        ".ci",
        "Makefile",
        "docker/*.yml",
        "ansible",
        "tests/tools",
    ]
    found = subprocess.run(grep, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=30)
    assert (found.returncode, found.stdout) == (1, "")


def test_base_of_each_image_that_is_delivered_is_pinned() -> None:
    found = (REPOSITORY / "docker/base-forky.lock").read_text(encoding="ascii").splitlines()
    assert found == sorted(found)
    assert {"apt", "bash", "libc6"} <= {line.split(" ")[0] for line in found}
    assert "FROM debian:forky-slim AS base" in (REPOSITORY / "docker/Dockerfile").read_text(encoding="utf-8")
