"""The packs of the vaults: each is recorded before it is uploaded."""

import json
from collections.abc import Sequence

from sqlalchemy import bindparam, insert, select, update

from understudy.core.model import HolderName, InstanceNumber
from understudy.core.packing import Digests, PackIntent
from understudy.ledger.database import Book
from understudy.ledger.schema import pack_members, packs

_OPEN = (
    select(packs.c.key, packs.c.intent)
    .join_from(pack_members, packs, pack_members.c.key == packs.c.key)
    .where(
        packs.c.holder == bindparam("holder"),
        packs.c.open == 1,
        pack_members.c.instance.in_(bindparam("numbers", expanding=True)),
    )
    .distinct()
    .order_by(packs.c.key)
)


class PackBook(Book):
    """The packs that the vaults have or are about to get."""

    def plan(self, holder: HolderName, intent: PackIntent) -> None:
        """Record durably that a pack is about to be uploaded."""
        with self._database.writing() as connection:
            connection.execute(
                insert(packs).values(key=intent.key, holder=holder, intent=_encode(intent), open=1)
            )
            connection.execute(
                insert(pack_members), [{"instance": number, "key": intent.key} for number in intent.numbers]
            )

    def open(self, holder: HolderName, numbers: Sequence[InstanceNumber]) -> list[PackIntent]:
        """Return every open pack of this holder that has any of these instances, oldest first."""
        if not numbers:
            return []
        found: dict[str, bytes] = {}
        with self._database.reading() as connection:
            for start in range(0, len(numbers), 500):
                asked = {"holder": holder, "numbers": numbers[start : start + 500]}
                found.update((row.key, row.intent) for row in connection.execute(_OPEN, asked))
        return [_decode(intent) for intent in found.values()]

    def newest(self, holder: HolderName) -> PackIntent | None:
        """Return the open pack of this holder that was planned on the latest day, None if there is none."""
        query = select(packs.c.intent).where(packs.c.holder == holder, packs.c.open == 1)
        with self._database.reading() as connection:
            found = connection.scalar(query.order_by(packs.c.key.desc()).limit(1))
        return None if found is None else _decode(found)

    def close(self, holder: HolderName, key: str) -> None:
        """Close the pack, because the store does not have it."""
        with self._database.writing() as connection:
            connection.execute(
                update(packs).where(packs.c.holder == holder, packs.c.key == key).values(open=0)
            )


def _encode(intent: PackIntent) -> bytes:
    """Return a JSON line followed by the manifest's bytes."""
    head = {
        "key": intent.key,
        "manifest_key": intent.manifest_key,
        "numbers": intent.numbers,
        "file_sha256": intent.file_sha256,
        "pack": _digests(intent.pack),
        "manifest": _digests(intent.manifest_digests),
        "locked_until": intent.locked_until,
    }
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + intent.manifest


def _decode(content: bytes) -> PackIntent:
    line, manifest = content.split(b"\n", 1)
    head = json.loads(line)
    return PackIntent(
        key=head["key"],
        manifest_key=head["manifest_key"],
        numbers=tuple(InstanceNumber(number) for number in head["numbers"]),
        file_sha256=tuple(head["file_sha256"]),
        pack=Digests(**head["pack"]),
        manifest=manifest,
        manifest_digests=Digests(**head["manifest"]),
        # Packs of earlier versions lack it.
        locked_until=head.get("locked_until"),
    )


def _digests(digests: Digests) -> dict[str, str | int]:
    return {"size": digests.size, "sha256": digests.sha256, "md5": digests.md5}
