"""The roles of people, and the roles' names in files, headers and commands."""

from collections.abc import Mapping
from enum import IntEnum


class Role(IntEnum):
    """A role. Each role has all permissions of the roles before it."""

    READER = 1
    OPERATOR = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        """The role's name in files, headers and commands."""
        return self.name.lower()


ROLES_OF_PEOPLE: Mapping[str, Role] = {role.word: role for role in Role}
"""The roles that a person can have, by name."""
