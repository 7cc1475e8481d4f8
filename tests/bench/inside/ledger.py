"""Measures the ledger with many instances and three holders, beside the same rows in plain sqlite3."""

import hashlib
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from understudy.core.model import (
    HolderName,
    NewInstance,
    SeriesInstanceUid,
    SopInstanceUid,
    StudyInstanceUid,
    Timestamp,
)
from understudy.flow.appliance import Appliance

from tests.bench.inside.common import STATE, answer, arguments, note, wired

_PAGE = 500
"""Instances of one transaction, as the note writes them."""
_BATCH = 100
_CLAIMS = 200
_LOOKS = 7
_STUDY = 400
"""Instances of a study."""
_HOLDERS = ("archive", "research", "teaching")


def main() -> None:
    """Measure our ledger, then the peer."""
    instances = int(arguments()["instances"])
    holders = [{"Name": name, "AeTitle": name.upper(), "Host": "192.0.2.1", "Port": 104} for name in _HOLDERS]
    appliance, _ = wired({"Destinations": holders, "Vaults": []}, "ledger")
    ours = _ours(appliance, instances)
    answer({"ours": ours, "peer": _peer(STATE / "plain.sqlite", instances)})


def _ours(appliance: Appliance, instances: int) -> dict[str, float]:
    seconds = 0.0
    for cursor, page in enumerate(_pages(instances)):
        seconds += _seconds(partial(note, appliance, page, _HOLDERS, cursor))
    with closing(sqlite3.connect(STATE / "ledger" / "ledger.sqlite")) as connection:
        size = _checkpointed(connection, STATE / "ledger" / "ledger.sqlite")
    holder = HolderName(_HOLDERS[0])
    looks: list[float] = []
    claims: list[float] = []
    for _ in range(min(_CLAIMS, instances // _BATCH)):
        now = Timestamp(time.time())
        began = time.monotonic()
        batch = appliance.ledger.queue.due(holder, now=now, limit=_BATCH, max_bytes=2**40)
        between = time.monotonic()
        claimed = appliance.ledger.custody.claim(holder, [item.number for item in batch], now=now)
        claims.append(time.monotonic() - between)
        looks.append(between - began)
        if len(claimed) != _BATCH:
            raise ValueError(f"claimed {len(claimed)} of {_BATCH}")
    return {
        "note": instances / seconds,
        "claim_p99": 1000 * _p99(claims),
        "due_p99": 1000 * _p99(looks),
        "status": 1000 * statistics.median(_seconds(appliance.status) for _ in range(_LOOKS)),
        "bytes": size / (instances * len(_HOLDERS)),
    }


def _peer(path: Path, instances: int) -> dict[str, float]:
    """Write the same rows with nothing but their primary keys, as durably."""
    seconds = 0.0
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(_PLAIN)
        first = 1
        for page in _pages(instances):
            rows, owed = _rows(page, first), _owed(page, first)
            first += len(page)
            seconds += _seconds(partial(_write, connection, rows, owed))
        size = _checkpointed(connection, path)
        claims = [
            _seconds(partial(_claim, connection, turn * _BATCH))
            for turn in range(min(_CLAIMS, instances // _BATCH))
        ]
        count = "SELECT holder, state, count(*) FROM obligations GROUP BY holder, state"
        looks = [_seconds(lambda: connection.execute(count).fetchall()) for _ in range(_LOOKS)]
    return {
        "note": instances / seconds,
        "claim_p99": 1000 * _p99(claims),
        "status": 1000 * statistics.median(looks),
        "bytes": size / (instances * len(_HOLDERS)),
    }


_PLAIN = """
PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
CREATE TABLE instances (number INTEGER PRIMARY KEY, orthanc_id, attachment_uuid, sop_instance_uid,
 sop_class_uid, series_instance_uid, study_instance_uid, transfer_syntax_uid, modality, size, md5,
 calling_ae_title, called_ae_title, remote_address, received_at, epoch, superseded_by);
CREATE TABLE obligations (instance, holder, state, attempts, since, due, changed, reason, losses,
 PRIMARY KEY (instance, holder)) WITHOUT ROWID;
"""


def _rows(page: Sequence[NewInstance], first: int) -> list[tuple[object, ...]]:
    names = NewInstance.__dataclass_fields__
    return [
        (number, *(getattr(instance, name) for name in names), 1, None)
        for number, instance in enumerate(page, first)
    ]


def _owed(page: Sequence[NewInstance], first: int) -> list[tuple[object, ...]]:
    return [
        (
            number,
            holder,
            "owed",
            0,
            instance.received_at,
            instance.received_at,
            instance.received_at,
            "",
        )
        for number, instance in enumerate(page, first)
        for holder in _HOLDERS
    ]


def _write(
    connection: sqlite3.Connection, rows: Sequence[tuple[object, ...]], owed: Sequence[tuple[object, ...]]
) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(f"INSERT INTO instances VALUES ({','.join('?' * 17)})", rows)
    connection.executemany("INSERT INTO obligations VALUES (?,?,?,?,?,?,?,?,0)", owed)
    connection.execute("COMMIT")


def _claim(connection: sqlite3.Connection, start: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(
        "UPDATE obligations SET state = 'in_flight' WHERE instance = ? AND holder = ?",
        [(number, _HOLDERS[0]) for number in range(start + 1, start + 1 + _BATCH)],
    )
    connection.execute("COMMIT")


def _pages(instances: int) -> Iterator[list[NewInstance]]:
    for start in range(0, instances, _PAGE):
        yield [_instance(number) for number in range(start, min(start + _PAGE, instances))]


def _instance(number: int) -> NewInstance:
    digest = hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()
    study = number // _STUDY
    return NewInstance(
        orthanc_id="-".join(digest[part : part + 8] for part in (0, 8, 16, 24, 0)),
        attachment_uuid=f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}",
        sop_instance_uid=SopInstanceUid(f"1.2.826.0.1.3680043.8.498.{10**30 + number}"),
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        series_instance_uid=SeriesInstanceUid(f"1.2.826.0.1.3680043.8.498.{2 * 10**30 + number // 200}"),
        study_instance_uid=StudyInstanceUid(f"1.2.826.0.1.3680043.8.498.{3 * 10**30 + study}"),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        modality="CT",
        size=525_000,
        md5=digest,
        calling_ae_title="CT1",
        called_ae_title="UNDERSTUDY",
        remote_address="192.0.2.1",
        received_at=Timestamp(1_700_000_000.0 + number),
    )


def _checkpointed(connection: sqlite3.Connection, path: Path) -> int:
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return path.stat().st_size


def _seconds(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(0.99 * (len(values) - 1))]


if __name__ == "__main__":
    main()
