"""The reasons for refused and waived obligations, and what a person can do about each."""

from understudy.core import outcomes
from understudy.core.obligations import ObligationState

FILE = "its stored file "
"""Beginning of every reason about the stored file. Once the file can be read, the instance is owed again."""

DELETED = "it was deleted here"
"""Beginning of the reason if Orthanc no longer has the instance. Stored again, the instance is owed again."""

TOO_LARGE = "it is too large: "
"""Beginning of the reason if the agent has too little memory for the instance."""

PACK_TOO_LARGE = "its pack is too large: "
"""Beginning of the reason if the store accepts no object of this size."""

NO_ROOM = "the volume `state` has no room for its pack, which may take half of what is free"
"""Reason for a later attempt: a large pack is written to this volume before it is sent."""

ENDED_US = "the agent ended twice while it held it"
"""Reason if the agent was killed for the second time while it worked on this instance alone."""

UNPROVEN = "unproven: "
"""Beginning of the reason if the holder acknowledged the instance repeatedly and never showed it."""

DIFFERENT = "other content there: "
"""Beginning of the reason if the holder gives back another content than it was proven to have."""

UNASKABLE = "its Study Instance UID is no UID: nobody can be asked whether they have it"
"""Reason for an instance that could be sent but never proven."""

_MORE_MEMORY = "raise UNDERSTUDY_AGENT_MEMORY in docker/.env and restart the agent, then replay; or waive it"

_HINTS = {
    TOO_LARGE: _MORE_MEMORY,
    PACK_TOO_LARGE: "keep it in a vault in a directory as well; or waive it",
    ENDED_US: _MORE_MEMORY,
    UNASKABLE: "fix the UID at its device and send it again; waive this one, which stays here and in vaults",
    FILE: "send it here again, or heal it from a vault: it is owed again by itself; or waive it",
    DELETED: "send it here again, or restore it from a vault: it is owed again by itself; or waive it",
    DIFFERENT: "compare it with the image there, which may be damaged or come from an older backup: if that "
    "one is right, waive this one; otherwise delete that one there, then replay",
    UNPROVEN: "look for its study at the receiver, which may have changed its SOP Instance UID or put it "
    "aside; fix that, then replay; or waive it",
}


def deleted(held_by: list[str]) -> str:
    """Return the reason for an instance that was deleted in Orthanc, with the holders where it is proven."""
    return f"{DELETED}; " + (f"{', '.join(held_by)} has it" if held_by else "nobody is proven to have it")


def too_large(size: int, largest: int, limit: int, needed: int) -> str:
    """Return the reason for an instance that does not fit into memory; all arguments are in bytes."""
    mega = 2**20
    return (
        f"{TOO_LARGE}{-(-size // mega)} MiB, and the agent holds {largest // mega} MiB at most within its "
        f"limit of {limit // mega} MiB; it needs a limit of {-(-needed // mega)} MiB"
    )


def pack_too_large(size: int, largest: int) -> str:
    """Return the reason for an instance whose pack is too large for the store; both in bytes."""
    mega = 2**20
    return f"{PACK_TOO_LARGE}{-(-size // mega)} MiB, and the store takes {largest // mega} MiB in one put"


def replaced(successor: int) -> str:
    """Return the reason for waiving a content that another instance of the ledger has replaced."""
    return f"its content was replaced: instance {successor} is owed in its place"


def unproven(times: int, why: str) -> str:
    """Return the reason for an instance that was acknowledged `times` times and never proven."""
    return f"{UNPROVEN}acknowledged {'once' if times == 1 else f'{times} times'}, and {why}"


def different() -> str:
    """Return the reason for a proven instance of which the holder gives back another content now."""
    return f"{DIFFERENT}the data set that it gives back differs from the one that it was proven to have"


def hint_of(reason: str) -> str:
    """Return what a person can do about a refusal."""
    for beginning, hint in _HINTS.items():
        if reason.startswith(beginning):
            return hint
    return outcomes.hint_of(reason) or "fix the cause, then replay; or waive it with a reason"


_NOTHING_TO_DO = {
    ObligationState.OWED: "nothing to do: it is tried again by itself",
    ObligationState.IN_FLIGHT: "nothing to do: it is being sent",
    ObligationState.SENT: "nothing to do: its proof is awaited",
}


def advice(state: ObligationState, reason: str) -> str:
    """Return what a person can do about an obligation, empty if it is proven or waived."""
    return hint_of(reason) if state is ObligationState.REFUSED else _NOTHING_TO_DO.get(state, "")
