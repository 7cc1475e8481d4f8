"""The ledger of a simulated agent, and what the simulation asks of its file behind the agent's back.

Whoever changes how the ledger is built or what its tables are called changes this module alone.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import event
from understudy.core.model import HolderName, InstanceNumber, SopInstanceUid, StudyInstanceUid, Timestamp
from understudy.ledger import Ledger

from tests.ledgers import share_compiled
from tests.simulation.machine import Machine

_WRITES = ("INSERT", "UPDATE", "DELETE")

# Every start of the agent makes a new engine.
share_compiled()


@dataclass(frozen=True, slots=True)
class NotedProof:
    """A proof that was written down, with the version that it is of."""

    number: InstanceNumber
    holder: HolderName
    kind: str
    evidence: str
    study: StudyInstanceUid
    uid: SopInstanceUid
    md5: str


@dataclass(frozen=True, slots=True)
class Owed:
    """One obligation, with the version that it is of."""

    number: InstanceNumber
    holder: HolderName
    state: str
    reason: str
    since: float
    study: StudyInstanceUid
    uid: SopInstanceUid
    md5: str
    epoch: int
    is_replaced: bool
    is_gone: bool
    """Whether it was deleted here."""
    is_proven: bool
    """Whether it ever was proven."""


class _Cursor(sqlite3.Cursor):
    """Counts each statement before the driver sees it."""

    connection: "_Connection"

    def execute(self, statement: str, *values: Any) -> "_Cursor":
        self.connection.called(statement)
        return super().execute(statement, *values)

    def executemany(self, statement: str, *values: Any) -> "_Cursor":
        self.connection.called(statement)
        return super().executemany(statement, *values)


class _Connection(sqlite3.Connection):
    """A connection whose statements are calls by the agent, once it has a machine."""

    machine: Machine | None = None

    def called(self, statement: str) -> None:
        if self.machine is not None:
            self.machine.call()
            if statement.lstrip().startswith(_WRITES):
                self.machine.write()

    def cursor(self, *_: Any) -> _Cursor:  # type: ignore[override]
        return super().cursor(_Cursor)

    def commit(self) -> None:
        if self.machine is not None:
            self.machine.call()
        super().commit()


def open_ledger(path: Path, machine: Machine) -> Ledger:
    """Return the ledger as the agent opens it; each of its statements is a call that may be the last."""
    ledger = Ledger(path)
    # What follows is for connections that are made from now on. Listeners of SQLAlchemy would take longer.
    ledger.close()

    def count(connection: _Connection, _record: object) -> None:
        connection.machine = machine

    event.listen(ledger.database.engine, "do_connect", _with_counts)
    event.listen(ledger.database.engine, "connect", count)
    ledger.modes.start(machine.now())
    return ledger


def _with_counts(_dialect: object, _record: object, _arguments: object, options: dict[str, Any]) -> None:
    options["factory"] = _Connection


def new_file(template: Path, path: Path) -> None:
    """Begin with an empty ledger at this path; making a new one takes longer than copying it."""
    if not template.exists():
        ledger = Ledger(template)
        ledger.close()
    shutil.copyfile(template, path)


class Auditor:
    """Reads the file of the ledger, through no code of the product."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
        self._seen_proof = 0

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _rows(self, query: str, *values: object) -> list[Any]:
        return self._connection.execute(query, values).fetchall()

    def mode(self) -> tuple[str, int]:
        """Return mode and epoch."""
        ((mode, epoch),) = self._rows("SELECT mode, epoch FROM modes ORDER BY change DESC LIMIT 1")
        return str(mode), int(epoch)

    def new_proofs(self) -> Iterator[NotedProof]:
        """Yield the proofs that were written since this was asked last."""
        for proof, *rest in self._rows(
            """SELECT proof, number, proofs.holder, kind, evidence, study_instance_uid, sop_instance_uid,
            lower(hex(md5)) FROM proofs JOIN instances ON number = instance WHERE proof > ? ORDER BY proof""",
            self._seen_proof,
        ):
            self._seen_proof = proof
            yield NotedProof(*rest)

    def owed(self, *, state: str = "%", holder: str = "%") -> list[Owed]:
        """Return obligations."""
        rows = self._rows(
            """SELECT number, obligations.holder, obligations.state, obligations.reason, obligations.since,
            study_instance_uid, sop_instance_uid, lower(hex(md5)), epoch, superseded_by IS NOT NULL,
            EXISTS (SELECT 1 FROM damages WHERE damages.instance = number AND damages.state = 'gone'
                AND damages.attachment_uuid = instances.attachment_uuid),
            EXISTS (SELECT 1 FROM proofs WHERE proofs.instance = number
                AND proofs.holder = obligations.holder)
            FROM obligations JOIN instances ON number = obligations.instance
            WHERE obligations.state LIKE ? AND obligations.holder LIKE ? ORDER BY number""",
            state,
            holder,
        )
        return [Owed(*row[:9], *map(bool, row[9:])) for row in rows]

    def corrected_and_seen(self, holder: str) -> list[NotedProof]:
        """Return the last proof of each content that replaced another one, if it is of the content itself."""
        rows = self._rows(
            """SELECT number, proofs.holder, kind, evidence, study_instance_uid, sop_instance_uid,
            lower(hex(md5)) FROM proofs JOIN instances ON number = proofs.instance
            JOIN obligations ON obligations.instance = number AND obligations.holder = proofs.holder
            WHERE proofs.holder = ? AND state = 'proven' AND superseded_by IS NULL
            AND kind IN ('received', 'readback') AND proof = (SELECT max(proof) FROM proofs AS others
                WHERE others.instance = number AND others.holder = proofs.holder)
            AND EXISTS (SELECT 1 FROM instances AS earlier WHERE earlier.superseded_by = instances.number)""",
            holder,
        )
        return [NotedProof(*row) for row in rows]

    def unsettled(self) -> dict[tuple[str, str], int]:
        """Return how many obligations are in each state that is not the last, by holder and state."""
        rows = self._rows(
            """SELECT holder, state, count(*) FROM obligations
            WHERE state NOT IN ('proven', 'waived') GROUP BY holder, state"""
        )
        return {(str(holder), str(state)): int(number) for holder, state, number in rows}

    def noted(self) -> set[tuple[str, str]]:
        """Return identifier and MD5 of every version that the ledger knows."""
        return {
            (str(one), str(md5))
            for one, md5 in self._rows("SELECT orthanc_id, lower(hex(md5)) FROM instances")
        }

    def versions(self, study: StudyInstanceUid, uid: SopInstanceUid) -> set[str]:
        """Return the MD5 of every version of an image."""
        query = "SELECT lower(hex(md5)) FROM instances WHERE study_instance_uid = ? AND sop_instance_uid = ?"
        return {str(md5) for (md5,) in self._rows(query, study, uid)}

    def gaps(self) -> int:
        """Return how many images are known to be missing here."""
        ((number,),) = self._rows("SELECT coalesce(sum(instances), 0) FROM gaps")
        return int(number)

    def horizon(self) -> Timestamp | None:
        """Return the horizon that was written down."""
        rows = self._rows("SELECT value FROM ledger_facts WHERE name = 'fact:horizon'")
        return Timestamp(float(rows[0][0])) if rows else None

    def conflicts(self) -> list[int]:
        """Return the conflicts that nobody has acknowledged."""
        return [
            int(one) for (one,) in self._rows("SELECT conflict FROM conflicts WHERE acknowledged IS NULL")
        ]
