"""What a person may do: the roles of the product, and their names in files, headers and commands."""

from collections.abc import Mapping
from enum import IntEnum


class Role(IntEnum):
    """A role may do everything that the roles before it may do."""

    NOBODY = 0
    READER = 1
    OPERATOR = 2
    ADMIN = 3


ROLES_OF_PEOPLE: Mapping[str, Role] = {role.name.lower(): role for role in Role if role is not Role.NOBODY}
"""The roles that a person can have, by name."""
