"""Contents: which manifests are in a vault, who wrote them, and which of them a restore trusts.

Rule 1: a recipient is public and a credential can be stolen, so anybody may have made a manifest. Only a
signature shows that this appliance wrote it, and only the time of a store that keeps versions shows when.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from math import inf

from understudy.adapters.signing import is_signed_by
from understudy.adapters.vault_index import VaultIndex
from understudy.core.packing import (
    MANIFEST_PREFIX,
    PACK_PREFIX,
    ManifestError,
    manifest_from_json,
    pack_key_of,
)
from understudy.core.ports import ObjectStore, Opener, SealError, StoredObject
from understudy.core.signature import split_signature
from understudy.core.text import counted


class RestoreError(Exception):
    """The vault as a whole cannot be read."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Failure:
    """One object that was not restored, and why; `what` is a key, a writer or a SOP Instance UID."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Trust:
    """Which manifests a restore trusts."""

    writers: frozenset[str] = frozenset()
    """Public keys whose signatures count: that of this appliance, and those from the safe."""
    unsigned: bool = False
    """Whether manifests without a signature count beside signed ones."""
    as_of: float | None = None
    """Leave out manifests that were stored after this time, in seconds since 1970."""


NOBODY = Trust()
"""Trusts no signature; trusts unsigned manifests only in a vault without signed ones."""


@dataclass(frozen=True, slots=True)
class VaultContents:
    """The content of a vault besides the trusted manifests, which are in the index."""

    failed: tuple[Failure, ...]
    unlisted_packs: tuple[str, ...]


class _WrongSignatureError(Exception):
    pass


def read_contents(
    store: ObjectStore,
    opener: Opener,
    trust: Trust,
    index: VaultIndex,
    studies: Collection[str] | None = None,
) -> VaultContents:
    """Read each manifest once and judge them all, or raise RestoreError if none can be decrypted.

    The index keeps the documents of the requested studies. If a key has several versions, the first that
    opens counts: later versions are not the appliance's.
    """
    failures: list[Failure] = []
    locked: SealError | None = None
    read = 0
    for key, same_key in groupby(store.list(MANIFEST_PREFIX), key=lambda item: item.key):
        index.describe(pack_key_of(key))
        reason = ""
        for stored in same_key:
            if trust.as_of is not None and (stored.stored_at or inf) > trust.as_of:
                continue
            try:
                _read(store, opener, stored, index, studies)
            except SealError as error:
                locked = error
                reason = reason or str(error)
            except ManifestError as error:
                reason = reason or str(error)
            except _WrongSignatureError:
                reason = reason or "its signature is wrong: it was changed, or made by another writer"
            except KeyError:
                reason = reason or "it is no longer in the store"
            else:
                read += 1
                reason = ""
                break
        if reason:
            failures.append(Failure(key, reason))
    if locked is not None and not read:
        raise RestoreError(f"none of {len(failures)} manifests can be decrypted", locked.hint)
    for stored in store.list(PACK_PREFIX):
        index.add_pack(stored)
    index.believe(trust.writers, inf if trust.unsigned else _unsigned_until(store, index))
    failures += _refused(index)
    return VaultContents(tuple(failures), tuple(index.undescribed()))


def _read(
    store: ObjectStore,
    opener: Opener,
    stored: StoredObject,
    index: VaultIndex,
    studies: Collection[str] | None,
) -> None:
    """Put one manifest into the index."""
    plain = opener.open(store.get(stored.key, stored.version))
    manifest = manifest_from_json(plain, stored.key)
    signed = split_signature(plain)
    if signed is None and manifest.writer:
        raise _WrongSignatureError
    if signed is not None and not is_signed_by(manifest.writer, signed.content, signed.signature):
        raise _WrongSignatureError
    stored_at = inf if stored.stored_at is None else stored.stored_at
    index.add_manifest(
        stored.key,
        manifest,
        "" if signed is None else manifest.writer,
        stored_at=stored_at,
        # The store's clock counts if the store keeps versions, otherwise the appliance's.
        counts_at=stored_at if store.retained else manifest.created,
        document=plain if studies is None or manifest.study_instance_uid in studies else None,
    )


def _unsigned_until(store: ObjectStore, index: VaultIndex) -> float:
    """Return until when the vault had no signed manifest.

    If the writer chooses the time, as in a directory, it is not known: one signed manifest gives `-inf`.
    """
    first = index.first_signed()
    if first is None:
        return inf
    return first if store.retained else -inf


@dataclass(slots=True)
class _Unknown:
    """The packs that one unknown key has signed."""

    pack_key: str
    packs: int = 0
    first: float = inf
    last: float = -inf


def _refused(index: VaultIndex) -> Iterator[Failure]:
    """Yield what is not trusted: each manifest without a signature, and each unknown writer."""
    unknown: dict[str, _Unknown] = {}
    for pack_key, writer, stored_at in index.not_believed():
        if writer:
            theirs = unknown.setdefault(writer, _Unknown(pack_key))
            theirs.packs += 1
            theirs.first, theirs.last = min(theirs.first, stored_at), max(theirs.last, stored_at)
        else:
            yield Failure(
                pack_key,
                f"its manifest of {_day(stored_at)} has no signature, and this vault has signed manifests: "
                "it may be forged. `--accept-unsigned` accepts packs without a signature",
            )
    for writer, theirs in unknown.items():
        yield Failure(
            writer,
            f"{counted(theirs.packs, 'pack')} of {_day(theirs.first)} to {_day(theirs.last)} signed by this "
            f"key, which is not known here (for example {theirs.pack_key}): compare it with the vault writer "
            f"in the safe. If it is the same, use `--writer {writer}`",
        )


def _day(at: float) -> str:
    return "an unknown day" if at == inf else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"
