"""The format of a vault pack: names of its members, keys in the store, manifest, and record of intent.

Rule 1: no path or key is built from the content of a DICOM object, unless it is a UID in standard form.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from pydantic import TypeAdapter, ValidationError

from understudy.core.model import InstanceNumber, NewInstance, Timestamp

FORMAT = "understudy-pack-1"
PACK_PREFIX, PACK_SUFFIX = "packs/", ".tar.zst.age"
MANIFEST_PREFIX, MANIFEST_SUFFIX = "manifests/", ".json.age"

_UID = re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*")
_NAME_PART = r"(?:[0-9][0-9.]{0,63}|sha256-[0-9a-f]{64})"
_NAME = re.compile(rf"{_NAME_PART}/{_NAME_PART}/{_NAME_PART}(-[1-9][0-9]*)?\.dcm")
_TOKEN = re.compile(r"[0-9a-f]{32}")


class ManifestError(Exception):
    """A manifest is not valid: it is not JSON of this format, or it contradicts itself."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.hint = "the pack itself can be read without it: age -d | zstd -d | tar x"


@dataclass(frozen=True, slots=True)
class Digests:
    """The size in bytes and the digests (lower-case hex) of one object of the store."""

    size: int
    sha256: str
    md5: str


def digests(content: bytes) -> Digests:
    """Return size and digests of the content."""
    return Digests(
        len(content),
        hashlib.sha256(content).hexdigest(),
        hashlib.md5(content, usedforsecurity=False).hexdigest(),
    )


@dataclass(frozen=True, slots=True)
class PackIntent:
    """A pack that is about to be stored. It is recorded first, so that a crash causes no second upload."""

    key: str
    manifest_key: str
    numbers: tuple[InstanceNumber, ...]
    file_sha256: tuple[str, ...]
    """SHA-256 of each member's file, in the order of `numbers`."""
    pack: Digests
    manifest: bytes
    """The encrypted manifest. It is kept because each encryption gives other bytes."""
    manifest_digests: Digests
    locked_until: Timestamp | None = None
    """The end of the lock that the store is asked for, None if no lock is asked for."""


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """Attributes by which a person finds a study, empty if the file does not have them."""

    patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    study_date: str = ""
    study_description: str = ""
    accession_number: str = ""
    modality: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """One DICOM Part 10 file of a pack."""

    name: str
    """Its name in the tar."""
    sop_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    size: int
    sha256: str
    md5: str
    received_at: float
    """Seconds since 1970-01-01T00:00:00Z."""
    orthanc_id: str = ""
    """Distinguishes instances of different patients that have the same SOP Instance UID."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of one pack, stored encrypted beside the pack."""

    format: str
    site: str
    pack_key: str
    created: float
    recipients: tuple[str, ...]
    pack_size: int
    pack_sha256: str
    study_instance_uid: str
    study: StudyFacts
    members: tuple[Member, ...]
    names: str = (
        "STUDY/SERIES/SOP.dcm by UID; a UID that is not in standard form (DICOM PS3.5 9.1) is replaced by "
        "sha256- and the SHA-256 of its UTF-8; a hyphen and a number tell versions of an instance apart"
    )
    writer: str = ""
    """The public key for checking the manifest's signature, empty if it has no signature."""


_MANIFEST = TypeAdapter(Manifest)


def is_standard_uid(uid: str) -> bool:
    """Say whether the UID has the form of DICOM PS3.5 9.1: up to 64 digits and dots, no leading zeros."""
    return len(uid) <= 64 and _UID.fullmatch(uid) is not None


def name_part(uid: str) -> str:
    """Return the UID if it is in standard form, otherwise a digest of it."""
    if is_standard_uid(uid):
        return uid
    return "sha256-" + hashlib.sha256(uid.encode("utf-8", "surrogatepass")).hexdigest()


def member_names(instances: Sequence[NewInstance]) -> list[str]:
    """Return the name in the tar for each instance; no two are equal."""
    taken: dict[str, int] = {}
    names = []
    for instance in instances:
        stem = "/".join(
            name_part(uid)
            for uid in (instance.study_instance_uid, instance.series_instance_uid, instance.sop_instance_uid)
        )
        taken[stem] = version = taken.get(stem, 0) + 1
        names.append(f"{stem}.dcm" if version == 1 else f"{stem}-{version}.dcm")
    return names


def is_member_name(name: str) -> bool:
    """Say whether the name has the form that `member_names` gives, so that it is safe as a relative path.

    The recipient key is public, so anybody can make a manifest: age does not tell who encrypted a file.
    """
    return _NAME.fullmatch(name) is not None


def keys_for(created: Timestamp, token: str) -> tuple[str, str]:
    """Return the keys of a pack and of its manifest; `token` is 128 random bits as hex.

    A key contains no UID, so a person who may list the bucket learns nothing about patients or studies.
    """
    if _TOKEN.fullmatch(token) is None:
        raise ValueError("the token has to be 32 lower-case hex digits")
    place = f"{datetime.fromtimestamp(created, UTC):%Y/%m/%d}/{token}"
    return f"{PACK_PREFIX}{place}{PACK_SUFFIX}", f"{MANIFEST_PREFIX}{place}{MANIFEST_SUFFIX}"


def pack_key_of(manifest_key: str) -> str:
    """Return the key of the pack that the manifest of this key describes."""
    return (
        PACK_PREFIX + manifest_key.removeprefix(MANIFEST_PREFIX).removesuffix(MANIFEST_SUFFIX) + PACK_SUFFIX
    )


def manifest_to_json(manifest: Manifest) -> bytes:
    """Return the manifest as ASCII JSON, which can represent any patient's name."""
    return json.dumps(asdict(manifest), indent=1).encode("ascii")


def manifest_from_json(content: bytes, manifest_key: str) -> Manifest:
    """Return the manifest that was found under the key, or raise ManifestError."""
    try:
        manifest = _MANIFEST.validate_python(json.loads(content))
    except ValidationError as error:
        first = error.errors()[0]
        raise ManifestError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except ValueError:
        raise ManifestError("it is no JSON") from None
    if manifest.format != FORMAT:
        raise ManifestError(f"its format is {manifest.format!r}, not {FORMAT!r}")
    if manifest.pack_key != pack_key_of(manifest_key):
        raise ManifestError("it describes another pack than the one beside it")
    names = [member.name for member in manifest.members]
    if len(set(names)) != len(names) or not all(map(is_member_name, names)):
        raise ManifestError("a name in it is no name of a member, or is there twice")
    return manifest
