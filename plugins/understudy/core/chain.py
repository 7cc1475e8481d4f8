"""The hash chain of the event log, and the check of mode changes against it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from understudy.core.model import Timestamp


def link(previous: str, at: float, who: str, kind: str, fields: str) -> str:
    """Return the hash of an event over itself and the hash of the event before it."""
    content = json.dumps([previous, at, who, kind, fields], separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def first_unattested(
    told: Sequence[tuple[Mapping[str, object], Timestamp]], changes: Sequence[tuple[str, int, Timestamp]]
) -> int | None:
    """Return the position, from 1, of the first mode change that differs from the event log, or None.

    `told` has the fields and the time of each mode event. `changes` has the mode, epoch and time of each
    change in the ledger's own table, which somebody may have altered.
    """
    attested = [(fields.get("to", fields.get("mode")), fields["epoch"], at) for fields, at in told]
    pairs = zip_longest(attested, changes)
    return next((place for place, (event, change) in enumerate(pairs, 1) if event != change), None)
