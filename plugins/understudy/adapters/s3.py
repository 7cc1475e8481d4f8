"""A vault in an S3 bucket with Object Lock, by a user who can put and list and nothing else.

Rule 1: a key is written once. Of several versions the first is the one that counts, so that a stolen
credential can add versions and delete markers but change nothing of what is found.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from understudy.core.model import Timestamp
from understudy.core.ports import HolderUnavailableError, StoredObject

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_TAKEN = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict"})
_ABSENT = frozenset({"NoSuchKey", "NoSuchVersion", "404"})
_UNTOLD = frozenset({"AccessDenied", "MethodNotAllowed", "NotImplemented"})
"""Answers of stores that tell no checksum; the MD5 in their listing is the proof then."""
_HINTS = {
    "AccessDenied": "allow the appliance's user to put and list versions, the restore's to list and get them",
    "InvalidAccessKeyId": "the access key is not known there: check the credentials file",
    "SignatureDoesNotMatch": "the secret key does not fit the access key: check the credentials file",
    "RequestTimeTooSkewed": "this machine's clock is wrong, not the credentials: set its time",
    "NoSuchBucket": "make the bucket with Object Lock, or mend its name in the configuration",
    "InvalidRequest": "the bucket has to be made with Object Lock enabled",
    "QuotaExceeded": "the quota of the bucket or user is used up",
    "SlowDown": "the service asks for fewer requests; it is tried again later",
}


class CredentialsError(Exception):
    """The credentials file cannot be used."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.hint = 'it has to hold {"access_key": "...", "secret_key": "..."}'


@dataclass(frozen=True, slots=True)
class Credentials:
    """One S3 user's keys."""

    access_key: str
    secret_key: str

    def __repr__(self) -> str:
        return "Credentials(redacted)"


def read_credentials(path: Path) -> Credentials:
    """Return the keys in a JSON file {"access_key", "secret_key"}, or raise CredentialsError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CredentialsError(path, str(error.strerror)) from error
    except ValueError:
        # The parser's message could quote a secret.
        raise CredentialsError(path, "it is no JSON") from None
    if not isinstance(content, dict):
        raise CredentialsError(path, "it holds no JSON object")
    access_key, secret_key = content.get("access_key"), content.get("secret_key")
    if not isinstance(access_key, str) or not isinstance(secret_key, str) or not access_key or not secret_key:
        raise CredentialsError(path, "access_key or secret_key is missing")
    return Credentials(access_key, secret_key)


class S3Store:
    """Objects in one bucket; every version is locked in compliance mode until its retention ends."""

    retained = True

    def __init__(
        self,
        name: str,
        endpoint: str,
        bucket: str,
        region: str,
        credentials: Callable[[], Credentials],
        timeout: float = 30,
    ) -> None:
        """Ask nothing yet; `timeout` is in seconds, for connecting and for silence.

        The credentials are read at the first call, so that a vault that is not ready yet stops nothing else.
        """
        self._name = name
        self._bucket = bucket
        self._endpoint = endpoint
        self._region = region
        self._credentials = credentials
        self._timeout = timeout

    @cached_property
    def _client(self) -> "S3Client":
        try:
            credentials = self._credentials()
        except CredentialsError as error:
            raise HolderUnavailableError(self._name, str(error), error.hint) from error
        session = boto3.session.Session()
        client: S3Client = session.client(
            "s3",
            endpoint_url=self._endpoint,
            region_name=self._region,
            aws_access_key_id=credentials.access_key,
            aws_secret_access_key=credentials.secret_key,
            config=Config(
                connect_timeout=self._timeout,
                read_timeout=self._timeout,
                # Standard mode backs off with jitter; few attempts bound one call, the lane does the rest.
                retries={"mode": "standard", "total_max_attempts": 3},
                # The payload's SHA-256 is signed, over TLS too: the store itself refuses changed bytes.
                s3={"payload_signing_enabled": True, "addressing_style": "path"},
                # Not every S3 understands the newer checksum trailers; Object Lock asks for Content-MD5.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        return client

    def put(self, key: str, content: bytes, retain_until: Timestamp | None) -> StoredObject:
        """Store the content durably; a key that holds the same bytes already is left as it is."""
        md5, sha256 = hashlib.md5(content, usedforsecurity=False), hashlib.sha256(content)
        if retain_until is None:
            raise ValueError("an object in S3 is stored with a retention")
        with self._available(f"put {key}"):
            try:
                answer = self._client.put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=content,
                    ContentMD5=base64.b64encode(md5.digest()).decode("ascii"),
                    # Without the algorithm's name Ceph ignores the checksum, wrong or not.
                    ChecksumAlgorithm="SHA256",
                    ChecksumSHA256=base64.b64encode(sha256.digest()).decode("ascii"),
                    ContentType="application/octet-stream",
                    IfNoneMatch="*",
                    ObjectLockMode="COMPLIANCE",
                    ObjectLockRetainUntilDate=datetime.fromtimestamp(retain_until, UTC),
                )
            except ClientError as error:
                if _code(error) not in _TAKEN:
                    raise
                # A put whose answer was lost, tried again: it is done if the bytes there are these.
                shown = self.stat(key)
                # Where its SHA-256 is told it counts alone: the ETag may be no MD5.
                ours = (sha256.hexdigest(), md5.hexdigest())
                if shown is not None and (shown.sha256 or shown.md5) in ours:
                    return shown
                raise HolderUnavailableError(
                    self._name,
                    f"{key} holds other bytes already",
                    "somebody else writes to this bucket: find out who",
                ) from error
        return StoredObject(key, answer.get("VersionId", ""), len(content), answer["ETag"].strip('"'))

    def stat(self, key: str) -> StoredObject | None:
        """Return the first version under the key as the store's own listing shows it, or None.

        Its SHA-256 is told by stores that keep it and tell it to who may not read the object.
        """
        shown = next((item for item in self.list(key) if item.key == key), None)
        return None if shown is None else replace(shown, sha256=self._sha256(shown))

    def get(self, key: str, version: str = "") -> bytes:
        """Return the bytes of the version, or of the first one; raises KeyError where it is absent."""
        if not version:
            shown = self.stat(key)
            if shown is None:
                raise KeyError(key)
            version = shown.version
        with self._available(f"get {key}"):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=key, VersionId=version)
            except ClientError as error:
                if _code(error) in _ABSENT:
                    raise KeyError(key) from None
                raise
            return answer["Body"].read()

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield every version of every object below the prefix, deleted or not, the oldest of a key first."""
        pages = self._client.get_paginator("list_object_versions").paginate(
            Bucket=self._bucket, Prefix=prefix
        )
        same_key: list[StoredObject] = []
        with self._available(f"list {prefix}"):
            for page in pages:
                # Keys come in order and of one key the newest version first. A delete marker hides an
                # object from ordinary readers and stands in another list, which is not read.
                for item in page.get("Versions", []):
                    if same_key and same_key[0].key != item["Key"]:
                        yield from reversed(same_key)
                        same_key = []
                    same_key.append(
                        StoredObject(item["Key"], item["VersionId"], item["Size"], item["ETag"].strip('"'))
                    )
        yield from reversed(same_key)

    def _sha256(self, shown: StoredObject) -> str | None:
        with self._available(f"ask for the checksum of {shown.key}"):
            try:
                answer = self._client.get_object_attributes(
                    Bucket=self._bucket,
                    Key=shown.key,
                    VersionId=shown.version,
                    ObjectAttributes=["Checksum"],
                )
            except ClientError as error:
                if _code(error) in _UNTOLD:
                    return None
                raise
        checksum = answer.get("Checksum", {}).get("ChecksumSHA256", "")
        return base64.b64decode(checksum).hex() or None

    @contextmanager
    def _available(self, what: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code = _code(error)
            raise HolderUnavailableError(
                self._name, f"{what}: {code}", _HINTS.get(code, "look the code up in the service's manual")
            ) from error
        except BotoCoreError as error:
            # The class says it; the message would repeat addresses and more.
            raise HolderUnavailableError(
                self._name,
                f"{what}: {type(error).__name__}",
                "check that the S3 service runs and can be reached",
            ) from error


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "unknown")
