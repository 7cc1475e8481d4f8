"""Why an obligation is refused or given up, and what a person can do about it."""

from understudy.core import outcomes

FILE = "its stored file "
"""How every reason begins that blames the stored file; once that reads well, it is owed again."""

DELETED = "it was deleted here"
"""How the reason begins where the instance is not in Orthanc any more; stored again, it is owed again."""

UNPROVEN = "unproven: "
"""How the reason begins where the holder acknowledged the instance again and again and never showed it."""

UNASKABLE = "its Study Instance UID is no UID: nobody can be asked whether they have it"
"""Of an instance that could be sent and never be proven."""

_HINTS = {
    UNASKABLE: "mend the UID at its device and send it again; waive this one, which stays here and in vaults",
    FILE: "send it here again, or heal it from a vault: it is owed again by itself; or waive it",
    DELETED: "send it here again, or restore it from a vault: it is owed again by itself; or waive it",
    UNPROVEN: "look for its study there: a receiver that gives it another SOP Instance UID, or that puts it "
    "aside, never shows it; mend that, then replay; or waive it",
}


def deleted(held_by: list[str]) -> str:
    """Return the reason for an instance that Orthanc lost to a deletion, with who is proven to have it."""
    return f"{DELETED}; " + (f"{', '.join(held_by)} has it" if held_by else "nobody is proven to have it")


def replaced(successor: int) -> str:
    """Return the reason for giving up a content that another instance of the ledger took the place of."""
    return f"its content was replaced: instance {successor} is owed in its place"


def unproven(times: int, why: str) -> str:
    """Return the reason for an instance that was acknowledged so many times and never proven, and why."""
    return f"{UNPROVEN}acknowledged {'once' if times == 1 else f'{times} times'}, and {why}"


def hint_of(reason: str) -> str:
    """Return what a person can do about a refusal."""
    for beginning, hint in _HINTS.items():
        if reason.startswith(beginning):
            return hint
    return outcomes.hint_of(reason) or "mend the cause, then replay; or waive it with a reason"
