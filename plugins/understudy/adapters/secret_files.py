"""The secret files that the configuration names: they lie in a folder that only the agent's container has.

The configuration folder is mounted in every service, so that every service can read a secret in it. An
earlier version knew no other place: a file that still lies there is used, and told.
"""

from collections.abc import Iterator
from pathlib import Path

from understudy.config import S3Vault, Understudy


def file_of(folder: Path, name: Path) -> Path:
    """Return where the file lies that a key names, given the configuration folder.

    A path that is relative, or that begins with the configuration folder, is looked for in the secrets first.
    """
    path = folder / name
    if path.is_relative_to(folder):
        secret = folder.with_name("secrets") / path.relative_to(folder)
        if secret.exists():
            return secret
    return path


def exposed(configuration: Understudy, folder: Path) -> list[str]:
    """Return the names of the secret files that lie in the configuration folder."""
    files = {file_of(folder, name) for name in _secrets(configuration)}
    return sorted(path.name for path in files if path.is_relative_to(folder) and path.exists())


def _secrets(configuration: Understudy) -> Iterator[Path]:
    for vault in configuration.vaults:
        if isinstance(vault, S3Vault):
            yield vault.credentials_file
    for party in (*configuration.destinations, configuration.primary):
        if party is not None and party.tls is not None and party.tls.key is not None:
            yield party.tls.key
    for destination in configuration.destinations:
        if destination.credentials_file is not None:
            yield destination.credentials_file
