"""Identifies the caller of Orthanc's REST from the headers of a request that Orthanc has authenticated.

Rule 1: only the edge may speak for a person. The headers with user and role are believed only from the edge,
because only the edge can read its password, and it overwrites these headers in every request.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass

from understudy.plugin.roles import CallerRole

USER_HEADER = "x-understudy-user"
ROLE_HEADER = "x-understudy-role"


@dataclass(frozen=True, slots=True)
class Caller:
    """A caller's name and role."""

    user: str
    role: CallerRole


def _basic_user(authorization: str) -> str | None:
    scheme, _, credentials = authorization.partition(" ")
    if scheme != "Basic":
        return None
    try:
        decoded = base64.b64decode(credentials, validate=True).decode("utf-8")
    except ValueError:
        # Not Base64, not UTF-8, or not even ASCII.
        return None
    user, colon, _ = decoded.partition(":")
    return user if colon else None


def identify(headers: Mapping[str, str]) -> Caller | None:
    """Return the caller, or None if the request names no caller that we know.

    `headers` are as Orthanc gives them: names in lower case, and only the first of several equal names.
    """
    service = _basic_user(headers.get("authorization", ""))
    if service == "agent":
        return Caller("agent", CallerRole.AGENT)
    if service != "edge":
        return None
    user = headers.get(USER_HEADER, "")
    role = headers.get(ROLE_HEADER, "")
    if not user or not user.isprintable() or role not in ("reader", "operator", "admin"):
        return None
    return Caller(user, CallerRole(role))
