"""The vault: packing, encrypting and keeping, beside tar, zstd and age in a pipe, and beside plain puts."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.bench.intake import make_series
from tests.bench.measured import Figure, medians
from tests.bench.parts import FOLDER, address_of, container, inside, network, volume
from tests.stack import wait_until

_S3_IMAGE = os.environ.get("UNDERSTUDY_S3_IMAGE", "understudy-s3:local")
_PIPE = "tar | zstd -1 | age"


def vault(instances: int, rounds: int) -> list[Figure]:
    """Measure MB of DICOM a second until a vault in a directory, and one in S3, is proven to have all."""
    with _files(instances, rounds) as (folder, attached):
        in_directory = _in_directory(folder, attached)
        with volume("secrets") as secrets, _s3(attached, secrets) as endpoint:
            s3 = _rates(
                inside("vault", {"endpoint": endpoint}, attached=attached, data=folder, secrets=secrets)
            )
    against_puts = "one plain put a file, 16 at once, neither packed nor encrypted"
    return [
        in_directory,
        medians("vault_s3", s3["ours"], s3["pipe"], "MB/s", f"{_PIPE}, then one put"),
        medians("vault_s3_puts", s3["ours"], s3["put"], "MB/s", against_puts),
    ]


def directory(instances: int, rounds: int) -> list[Figure]:
    """Measure the vault in a directory alone."""
    with _files(instances, rounds) as (folder, attached):
        return [_in_directory(folder, attached)]


@contextmanager
def _files(instances: int, rounds: int) -> Iterator[tuple[Path, str]]:
    """Give a folder with the files of each round, and a network."""
    folder = FOLDER / "vault"
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        make_series([folder / str(turn) for turn in range(rounds)], instances)
        yield folder, stack.enter_context(network())


def _in_directory(folder: Path, attached: str) -> Figure:
    rates = _rates(inside("vault", {}, attached=attached, data=folder))
    return medians("vault_directory", rates["ours"], rates["pipe"], "MB/s", f"{_PIPE} > file")


def _rates(measured: dict[str, Any]) -> dict[str, list[float]]:
    return {
        way: [size / second / 1e6 for size, second in zip(measured["bytes"], seconds, strict=True)]
        for way, seconds in measured["seconds"].items()
    }


@contextmanager
def _s3(attached: str, secrets: str) -> Iterator[str]:
    """Give the address of the lab's S3; the writer's keys are in the volume."""
    # As in the lab's compose file: a start that fails is tried again, with an empty /tmp.
    options = ["--restart", "on-failure:5", "--tmpfs", "/tmp:mode=1777", "--network", attached]
    with container("s3", _S3_IMAGE, [], *options, "--volume", f"{secrets}:/run/secrets/s3") as full:
        probe = ["docker", "exec", full, "healthy.sh"]
        wait_until(
            lambda: subprocess.run(probe, capture_output=True, check=False).returncode == 0,
            bool,
            deadline=120,
            what="the S3 gateway",
        )
        yield f"http://{address_of(full, attached)}:7480"
