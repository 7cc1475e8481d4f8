"""Fills a vault from the files below /bench by the appliance's own lane, and by plain tools beside it."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from understudy.adapters.encryption import new_key_pair

from tests.bench.inside.common import (
    DATA,
    VAULT,
    answer,
    arguments,
    delivered,
    files_of,
    note,
    stored,
    wired,
)

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_CREDENTIALS = Path("/run/secrets/s3/writer.json")
_PUTS_AT_ONCE = 16


def main() -> None:
    """Measure seconds a way and round; the ways take turns."""
    asked = arguments()
    bucket: str | None = asked.get("endpoint")
    ways: dict[str, Callable[[Path, str], float]] = {
        "ours": lambda folder, name: _ours(folder, name, bucket),
        "pipe": _pipe if bucket is None else lambda folder, name: _pipe_to_s3(folder, name, bucket),
    }
    if bucket is not None:
        ways["put"] = lambda folder, name: _put_each(folder, name, bucket)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    sizes: list[int] = []
    for folder in sorted(DATA.iterdir()):
        # Read once: none of the ways pays for the disk.
        sizes.append(sum(len(file.read_bytes()) for file in files_of(folder)))
        for way, call in ways.items():
            os.sync()
            seconds[way].append(call(folder, f"{way}-{folder.name}"))
    answer({"seconds": seconds, "bytes": sizes})


def _ours(folder: Path, name: str, bucket: str | None) -> float:
    vault: Mapping[str, Any] = {"Name": "vault", "Directory": str(VAULT / name)}
    if bucket is None:
        (VAULT / name).mkdir()
    else:
        vault = {
            "Name": "vault",
            "Endpoint": bucket,
            "Bucket": "vault",
            "CredentialsFile": str(_CREDENTIALS),
            "RetentionDays": 1,
        }
    appliance, workers = wired({"Vaults": [vault]}, name)
    instances = stored(files_of(folder))
    note(appliance, instances, ["vault"], cursor=1)
    return delivered(appliance, workers, "vault", len(instances), deadline=300)


def _pipe(folder: Path, name: str) -> float:
    target = VAULT / f"{name}.tar.zst.age"
    began = time.monotonic()
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{_pipeline(folder)} > {target}; sync {target}"], check=True
    )
    return time.monotonic() - began


def _pipe_to_s3(folder: Path, name: str, endpoint: str) -> float:
    client = _client(endpoint)
    began = time.monotonic()
    # Collected first: a put with a known length is what every S3 client does best with a file of this size.
    command = ["bash", "-euo", "pipefail", "-c", _pipeline(folder)]
    packed = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    client.put_object(Bucket="vault", Key=f"bench/{name}.tar.zst.age", Body=packed)
    return time.monotonic() - began


def _put_each(folder: Path, name: str, endpoint: str) -> float:
    client = _client(endpoint)

    def put(file: Path) -> None:
        client.put_object(Bucket="vault", Key=f"bench/{name}/{file.name}", Body=file.read_bytes())

    began = time.monotonic()
    with ThreadPoolExecutor(_PUTS_AT_ONCE) as pool:
        for done in [pool.submit(put, file) for file in files_of(folder)]:
            done.result()
    return time.monotonic() - began


def _pipeline(folder: Path) -> str:
    return f"tar -C {folder} -c . | zstd -1 --quiet | age --recipient {new_key_pair().recipient}"


def _client(endpoint: str) -> "S3Client":
    keys = json.loads(_CREDENTIALS.read_text(encoding="utf-8"))
    client: S3Client = boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=keys["access_key"],
        aws_secret_access_key=keys["secret_key"],
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=_PUTS_AT_ONCE),
    )
    return client


if __name__ == "__main__":
    main()
