"""The transitions of obligations inside a transaction of the ledger.

Rule 1: the state of an obligation changes in `advance` alone, guarded by the table in core/obligations.py.
Rule 2: no row is proven without a proof row written in the same transaction.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, delete, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from understudy.core.model import HolderName, InstanceNumber, Proof, Timestamp
from understudy.core.obligations import ObligationEvent, ObligationState, origins, target
from understudy.core.refusals import unproven
from understudy.ledger.columns import insert_rows
from understudy.ledger.events import append_event
from understudy.ledger.schema import commitment_members, commitments, obligations, proofs

SYSTEM = "understudy"
"""The `who` of events that no person asked for."""

CHUNK = 500
"""Numbers in one statement at most, because SQLite limits the variables of a statement."""

_FAILURES = (
    ObligationEvent.FAIL,
    ObligationEvent.DISPROVE,
    ObligationEvent.GIVE_UP,
    ObligationEvent.DIFFER,
)

_ABLE = select(obligations.c.instance).where(
    obligations.c.holder == bindparam("holder"),
    obligations.c.instance.in_(bindparam("numbers", expanding=True)),
    obligations.c.state.in_(bindparam("states", expanding=True)),
)
_ADVANCE = update(obligations).where(
    # The value of each column comes under the column's name.
    obligations.c.holder == bindparam("at"),
    obligations.c.instance.in_(bindparam("numbers", expanding=True)),
    obligations.c.state.in_(bindparam("states", expanding=True)),
)
_ADVANCE_FAILED = _ADVANCE.values(attempts=obligations.c.attempts + 1)

_Item = TypeVar("_Item")


class IllegalTransitionError(Exception):
    """An obligation was in a state that does not allow the event: a fault in our code, never ignored."""

    def __init__(self, event: ObligationEvent, holder: str, asked: int, changed: int) -> None:
        super().__init__(
            f"{event.value} at {holder}: {changed} of {asked} obligations were in a state that allows it"
        )


def advance(
    connection: Connection,
    event: ObligationEvent,
    holder: HolderName,
    numbers: Sequence[int],
    now: Timestamp,
    *,
    due: float | None = None,
    reason: str | None = None,
) -> None:
    """Apply the event to all obligations, or raise IllegalTransitionError, which ends the transaction."""
    values: dict[str, object] = {"state": target(event).value, "changed": now}
    if due is not None:
        values["due"] = due
    if reason is not None:
        values["reason"] = reason
    if event in (ObligationEvent.DISPROVE, ObligationEvent.DIFFER, ObligationEvent.RETURN):
        values["since"] = now
    if event in (ObligationEvent.PROVE, ObligationEvent.FIND, ObligationEvent.REPLAY):
        values["losses"] = 0
    states = [state.value for state in origins(event)]
    statement = _ADVANCE_FAILED if event in _FAILURES else _ADVANCE
    wanted = set(numbers)
    changed = 0
    for chunk in chunks(sorted(wanted)):
        asked = {"at": holder, "numbers": chunk, "states": states, **values}
        changed += connection.execute(statement, asked).rowcount
    if changed != len(wanted):
        raise IllegalTransitionError(event, holder, len(wanted), changed)


def able(
    connection: Connection, event: ObligationEvent, holder: HolderName, numbers: Sequence[InstanceNumber]
) -> list[InstanceNumber]:
    """Return the numbers, in their order, of the obligations that are in a state that allows the event."""
    states = [state.value for state in origins(event)]
    found: set[int] = set()
    for chunk in chunks(numbers):
        found |= set(connection.scalars(_ABLE, {"holder": holder, "numbers": chunk, "states": states}))
    return [number for number in dict.fromkeys(numbers) if number in found]


def owe(
    connection: Connection,
    number: int,
    holder: HolderName,
    state: ObligationState,
    due: float,
    now: Timestamp,
) -> bool:
    """Begin an obligation if there is none yet; return whether it is new."""
    row = obligation(number, holder, state, due, now)
    statement = upsert(obligations).values(dict(zip(OBLIGATION, row, strict=True)))
    return connection.execute(statement.on_conflict_do_nothing()).rowcount == 1


OBLIGATION = ("instance", "holder", "state", "attempts", "since", "due", "changed", "reason")


def obligation(
    number: int, holder: HolderName, state: ObligationState, due: float, now: Timestamp
) -> tuple[object, ...]:
    """Return the values, in the order of OBLIGATION, of an obligation that begins now."""
    return number, holder, state.value, 0, now, due, now, ""


def prove(
    connection: Connection,
    event: ObligationEvent,
    holder: HolderName,
    found: Mapping[InstanceNumber, Proof],
    now: Timestamp,
) -> None:
    """Write the proofs and apply the event, PROVE or FIND."""
    rows = [proof_row(number, holder, proof) for number, proof in sorted(found.items(), key=itemgetter(0))]
    insert_rows(connection, proofs, PROOF, rows)
    # FIND may follow a failure, whose reason is no longer true. PROVE keeps the acknowledgement's reason.
    reason = "" if event is ObligationEvent.FIND else None
    advance(connection, event, holder, list(found), now, reason=reason)


def disprove(
    connection: Connection,
    holder: HolderName,
    numbers: Sequence[InstanceNumber],
    *,
    reason: str,
    now: Timestamp,
    due: Timestamp,
) -> None:
    """Owe again instances that the holder was believed to have, with an event."""
    _void_commitments(connection, holder, numbers)
    advance(connection, ObligationEvent.DISPROVE, holder, numbers, now, due=due, reason=reason)
    append_event(
        connection, now, SYSTEM, "disprove", {"holder": holder, "instances": len(numbers), "reason": reason}
    )


def lose(
    connection: Connection,
    holder: HolderName,
    rows: Sequence[Any],
    *,
    reason: str,
    now: Timestamp,
    retry_at: Callable[[int], Timestamp],
) -> None:
    """Owe again acknowledged instances that the holder does not have. `rows` are obligations."""
    lost: dict[int, list[InstanceNumber]] = {}
    for row in rows:
        lost.setdefault(row.attempts + 1, []).append(InstanceNumber(row.instance))
    for attempt, numbers in sorted(lost.items()):
        mine = (obligations.c.holder == holder, obligations.c.instance.in_(numbers))
        connection.execute(update(obligations).where(*mine).values(losses=obligations.c.losses + 1))
        disprove(connection, holder, numbers, reason=reason, now=now, due=retry_at(attempt))


def give_up(
    connection: Connection, holder: HolderName, rows: Sequence[Any], *, why: str, now: Timestamp
) -> None:
    """Make dead letters of acknowledged instances that were lost too often. `rows` are obligations."""
    _void_commitments(connection, holder, [row.instance for row in rows])
    for row in rows:
        reason = unproven(row.losses + 1, why)
        advance(connection, ObligationEvent.GIVE_UP, holder, [row.instance], now, reason=reason)
        fields = {"holder": holder, "instance": row.instance, "reason": reason}
        append_event(connection, now, SYSTEM, ObligationEvent.GIVE_UP.value, fields)


def differ(
    connection: Connection, holder: HolderName, numbers: Sequence[InstanceNumber], *, why: str, now: Timestamp
) -> None:
    """Make dead letters of proven instances of which the holder gives back another content."""
    _void_commitments(connection, holder, numbers)
    for number in numbers:
        advance(connection, ObligationEvent.DIFFER, holder, [number], now, reason=why)
        fields = {"holder": holder, "instance": number, "reason": why}
        append_event(connection, now, SYSTEM, ObligationEvent.DIFFER.value, fields)


def _void_commitments(connection: Connection, holder: HolderName, numbers: Sequence[int]) -> None:
    """Remove instances that have to be sent again from open requests, so that no late report proves them."""
    mine = select(commitments.c.transaction_uid).where(commitments.c.holder == holder)
    for chunk in chunks(numbers):
        connection.execute(
            delete(commitment_members).where(
                commitment_members.c.instance.in_(chunk), commitment_members.c.transaction_uid.in_(mine)
            )
        )


def write_proof(connection: Connection, number: int, holder: HolderName, proof: Proof) -> None:
    """Write one proof."""
    insert_rows(connection, proofs, PROOF, [proof_row(number, holder, proof)])


PROOF = ("instance", "holder", "kind", "at", "evidence")


def proof_row(number: int, holder: HolderName, proof: Proof) -> tuple[object, ...]:
    """Return the values of a proof in the order of PROOF."""
    evidence = json.dumps(dict(proof.evidence), sort_keys=True, separators=(",", ":"))
    return number, holder, proof.kind.value, proof.at, evidence


def chunks(numbers: Sequence[_Item]) -> list[Sequence[_Item]]:
    """Return the numbers in parts of at most CHUNK."""
    return [numbers[start : start + CHUNK] for start in range(0, len(numbers), CHUNK)]
