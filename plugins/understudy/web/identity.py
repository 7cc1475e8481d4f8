"""Who asks: the person as the edge or Orthanc's plugin established it.

Rule 1: the two identity headers are trusted because only the edge and Orthanc's plugin reach this Unix
socket, and both overwrite what a client sent.
"""

from dataclasses import dataclass
from enum import IntEnum

from starlette.datastructures import Headers

PREFIX = "/understudy"
USER_HEADER = "x-understudy-user"
ROLE_HEADER = "x-understudy-role"


class Role(IntEnum):
    """What a person may do; each role may do what the ones before it may."""

    NOBODY = 0
    READER = 1
    OPERATOR = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Identity:
    """The person as the edge established it."""

    user: str
    role: Role


def identity_of(headers: Headers) -> Identity | None:
    """Return who asks, or None where the headers are absent, doubled or not understood."""
    users, roles = headers.getlist(USER_HEADER), headers.getlist(ROLE_HEADER)
    if len(users) != 1 or len(roles) != 1 or not users[0].strip():
        return None
    known = {role.name.lower(): role for role in Role if role is not Role.NOBODY}
    role = known.get(roles[0])
    return None if role is None else Identity(users[0].strip()[:64], role)
