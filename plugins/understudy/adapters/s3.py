"""A vault in an S3 bucket with Object Lock, used by an S3 user who may only put and list.

Rule 1: a key is written once. If it has several versions, only the first counts. So a thief of the
credentials can add versions and delete markers, but cannot change what is found under a key.
"""

import base64
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.response import StreamingBody

from understudy.adapters.pieces import beginning
from understudy.core.model import Timestamp
from understudy.core.pace import Arrival
from understudy.core.packing import Digests, digests
from understudy.core.ports import (
    LARGEST_SMALL,
    HolderUnavailableError,
    Reads,
    StoredObject,
    UntoldError,
)

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_log = logging.getLogger(__name__)

_TAKEN = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict"})
_ABSENT = frozenset({"NoSuchKey", "NoSuchVersion", "404"})
_UNLOCKED = _ABSENT | {
    "NoSuchObjectLockConfiguration",
    "ObjectLockConfigurationNotFoundError",
    "InvalidRequest",
    "MethodNotAllowed",
    "NotImplemented",
}
"""Error codes of stores that have no lock for an object, or do not support locks."""
_DIGEST_CODES = frozenset(
    {"BadDigest", "InvalidDigest", "ContentSHA256Mismatch", "XAmzContentSHA256Mismatch", "IncompleteBody"}
)
"""Error codes with HTTP status 400 that are about the bytes and not about a header."""
_UNTOLD = frozenset({"AccessDenied", "MethodNotAllowed", "NotImplemented"})
"""Error codes of stores that tell no checksum; then the MD5 in their listing is the proof."""
_AT_ONCE = 2**23
"""Up to this many bytes an object is sent without asking first (Expect: 100-continue)."""
_HINTS = {
    "AccessDenied": "allow the appliance's user to put and list versions, the restore's to list and get them",
    "InvalidAccessKeyId": "the access key is not known there: check the credentials file",
    "SignatureDoesNotMatch": "the secret key does not fit the access key: check the credentials file",
    "RequestTimeTooSkewed": "this machine's clock is wrong, not the credentials: set its time",
    "NoSuchBucket": "make the bucket with Object Lock, or fix its name in the configuration",
    "InvalidRequest": "the bucket has to be made with Object Lock enabled",
    "QuotaExceeded": "the quota of the bucket or user is used up",
    "SlowDown": "the service asks for fewer requests; it is tried again later",
}


class _SlowError(BotoCoreError):
    """The bytes of an answer arrive too slowly."""

    fmt = "the bytes arrive too slowly"


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


@dataclass(frozen=True, slots=True)
class _Form:
    """Which optional headers a put has; not every service knows them."""

    checksum: bool
    once: bool

    @property
    def left_out(self) -> str:
        names = () if self.checksum else ("x-amz-checksum-sha256",)
        return " and ".join(names if self.once else (*names, "If-None-Match"))


_FORMS = (_Form(True, True), _Form(False, True), _Form(True, False), _Form(False, False))
"""The forms in the order in which they are tried. Each has the signed SHA-256 and Content-MD5."""


class S3Store:
    """Objects in one bucket; every version is locked in compliance mode until its retention ends."""

    retained = True
    largest = 5 * 2**30
    """Largest object for one put, in bytes, at AWS and Ceph. The ETag is the MD5 only after a single put."""

    def __init__(
        self,
        name: str,
        endpoint: str,
        bucket: str,
        region: str,
        credentials: Callable[[], Credentials],
        timeout: float = 30,
    ) -> None:
        """Make no request yet; `timeout` is in seconds, for connecting and for silence.

        The first call reads the credentials, so that a vault that is not ready yet stops nothing else.
        """
        self._name = name
        self._bucket = bucket
        self._endpoint = endpoint
        self._region = region
        self._credentials = credentials
        self._timeout = timeout
        self._forms: Sequence[_Form] = _FORMS
        """The form that the service accepted last, and the forms after it."""

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
                # Standard mode backs off with jitter. Few attempts limit one call; the lane tries again
                # later.
                retries={"mode": "standard", "total_max_attempts": 3},
                # The payload's SHA-256 is signed, over TLS too: the store itself refuses changed bytes.
                s3={"payload_signing_enabled": True, "addressing_style": "path"},
                # Not every S3 service knows the newer checksum trailers; Object Lock requires Content-MD5.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        return client

    def put_file(
        self, key: str, file: BinaryIO, digests: Digests, retain_until: Timestamp | None
    ) -> StoredObject:
        """Store the whole file durably; if the key already has the same bytes, leave it as it is."""
        if retain_until is None:
            raise ValueError("an object in S3 is stored with a retention")
        refused: ClientError | None = None
        with self._available(f"put {key}"):
            for number, form in enumerate(self._forms):
                if not form.once and (present := self._taken(key, digests)) is not None:
                    return present
                file.seek(0)
                try:
                    stored = self._put(key, file, digests, retain_until, form)
                except ClientError as error:
                    if not _refuses_a_header(error):
                        raise
                    refused = refused or error
                    continue
                if number:
                    _log.warning("s3 refuses vault=%s headers=%s", self._name, form.left_out)
                    self._forms = self._forms[number:]
                return stored
            assert refused is not None, "there is a form at least"
            raise refused

    def put(self, key: str, content: bytes, retain_until: Timestamp | None) -> StoredObject:
        """Store small content as `put_file` does."""
        return self.put_file(key, BytesIO(content), digests(content), retain_until)

    def _put(
        self, key: str, file: BinaryIO, digests: Digests, retain_until: Timestamp, form: _Form
    ) -> StoredObject:
        optional: dict[str, Any] = {}
        if form.checksum:
            # Without the algorithm's name Ceph ignores the checksum, wrong or not.
            optional |= {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": _base64(digests.sha256)}
        if form.once:
            optional |= {"IfNoneMatch": "*"}
        try:
            answer = self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                # For a file, boto first asks the store whether it accepts the body.
                Body=file.read() if digests.size <= _AT_ONCE else file,
                ContentMD5=_base64(digests.md5),
                ContentType="application/octet-stream",
                ObjectLockMode="COMPLIANCE",
                ObjectLockRetainUntilDate=datetime.fromtimestamp(retain_until, UTC),
                **optional,
            )
        except ClientError as error:
            if _code(error) not in _TAKEN:
                raise
            # The answer to an earlier put may have been lost; then the key has these bytes, and the put is
            # done.
            present = self._taken(key, digests)
            if present is None:
                raise
            return present
        return StoredObject(key, answer.get("VersionId", ""), digests.size, answer["ETag"].strip('"'))

    def _taken(self, key: str, digests: Digests) -> StoredObject | None:
        """Return the object under the key if it has these bytes, None if there is no object.

        Raises HolderUnavailableError if it has other bytes.
        """
        shown = self.stat(key)
        # If the store tells the SHA-256, only that counts, because the ETag may be no MD5.
        if shown is None or (shown.sha256 or shown.md5) in (digests.sha256, digests.md5):
            return shown
        raise HolderUnavailableError(
            self._name,
            f"{key} already exists with other bytes",
            "another program writes to this bucket: find out which",
        )

    def locked_until(self, key: str, version: str) -> Timestamp | None:
        """Return until when the version is locked in compliance mode, None if it has no such lock.

        Raises UntoldError if the store does not tell this user.
        """
        with self._available(f"ask for the lock of {key}"):
            try:
                answer = self._client.get_object_retention(Bucket=self._bucket, Key=key, VersionId=version)
            except ClientError as error:
                if _code(error) in _UNLOCKED:
                    return None
                if _code(error) == "AccessDenied":
                    raise UntoldError from None
                raise
        retention = answer.get("Retention", {})
        until = retention.get("RetainUntilDate")
        if retention.get("Mode") != "COMPLIANCE" or until is None:
            return None
        return Timestamp(until.timestamp())

    def stat(self, key: str) -> StoredObject | None:
        """Return the first version under the key as the store's listing shows it, or None.

        The SHA-256 is present only if the store keeps it, and tells it to a user who may not read the object.
        """
        shown = next((item for item in self.list(key) if item.key == key), None)
        return None if shown is None else replace(shown, sha256=self._sha256(shown))

    @contextmanager
    def open(self, key: str, version: str = "") -> Iterator[Reads]:
        """Give the bytes of the version, or of the first version; raises KeyError if it does not exist."""
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
        with answer["Body"] as stream:
            body = StreamingBody(cast(Any, _AsItComes(stream)), answer["ContentLength"])
            yield _Reading(body, partial(self._available, f"get {key}"), self._timeout)

    def get(self, key: str, version: str = "") -> bytes:
        """Return the bytes of a small object; otherwise like `open`."""
        with self.open(key, version) as body:
            return beginning(body, LARGEST_SMALL)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield every version of every object with the prefix, deleted or not, the oldest of a key first."""
        pages = self._client.get_paginator("list_object_versions").paginate(
            Bucket=self._bucket, Prefix=prefix
        )
        same_key: list[StoredObject] = []
        with self._available(f"list {prefix}"):
            for page in pages:
                # Keys come in order, and the newest version of a key first. A delete marker hides an object
                # from ordinary readers, but is in another list, which is not read here.
                for item in page.get("Versions", []):
                    if same_key and same_key[0].key != item["Key"]:
                        yield from reversed(same_key)
                        same_key = []
                    same_key.append(
                        StoredObject(
                            item["Key"],
                            item["VersionId"],
                            item["Size"],
                            item["ETag"].strip('"'),
                            stored_at=item["LastModified"].timestamp() if "LastModified" in item else None,
                        )
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
                self._name, f"{what}: {code}", _HINTS.get(code) or _hint(error)
            ) from error
        except BotoCoreError as error:
            # The name of the class suffices; the message could repeat addresses and other details.
            raise HolderUnavailableError(
                self._name,
                f"{what}: {type(error).__name__}",
                "check that the S3 service runs and can be reached",
            ) from error


class _AsItComes:
    """The stream of an answer; a read waits for some bytes, and not for all that it asks for."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        part: bytes = self._stream.read1(size)
        return part


class _Reading:
    """Reads an answer's body, and raises HolderUnavailableError for its errors, silence and a low rate."""

    def __init__(
        self, body: Reads, available: Callable[[], AbstractContextManager[None]], timeout: float
    ) -> None:
        self._body = body
        self._available = available
        self._progress = Arrival(timeout, 0.0)
        self._waited = 0.0
        """Seconds spent in reading: the time between two calls is the caller's."""

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only at the end."""
        found = bytearray()
        while len(found) < size and (part := self._next(size - len(found))):
            found += part
        return bytes(found)

    def _next(self, most: int) -> bytes:
        with self._available():
            began = time.monotonic()
            part = self._body.read(most)
            self._waited += time.monotonic() - began
            self._progress.took(len(part), self._waited)
            if part and self._progress.left(self._waited) <= 0:
                raise _SlowError
        return part


def _base64(digest: str) -> str:
    return base64.b64encode(bytes.fromhex(digest)).decode("ascii")


def _refuses_a_header(error: ClientError) -> bool:
    """Return whether the service may not know one of the headers; an error about the bytes does not count."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status == 501 or (status == 400 and _code(error) not in _DIGEST_CODES)


def _hint(error: ClientError) -> str:
    """Return the hint for an error code that is not in `_HINTS`."""
    if _refuses_a_header(error):
        return (
            "the service refuses the put with and without x-amz-checksum-sha256 and If-None-Match: it may "
            "not know x-amz-object-lock-mode and x-amz-object-lock-retain-until-date, without which no "
            "vault is immutable"
        )
    return "look the code up in the service's manual"


def _code(error: ClientError) -> str:
    return error.response.get("Error", {}).get("Code", "unknown")
