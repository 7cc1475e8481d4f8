"""Finds the secret files that the configuration names, in a folder that only the agent's container has.

Every service mounts the configuration folder, so every service can read a secret in it. An earlier version
had no other place for secrets. A file that is still there is used, and reported by `exposed`.
"""

from collections.abc import Iterator
from pathlib import Path

from understudy.config import S3Vault, Understudy


def file_of(folder: Path, name: Path) -> Path:
    """Return the path of a file that the configuration names as `name`; `folder` is the configuration folder.

    A path that is relative, or that begins with the configuration folder, is first searched in the secrets.
    """
    path = folder / name
    if path.is_relative_to(folder):
        secret = folder.with_name("secrets") / path.relative_to(folder)
        if secret.exists():
            return secret
    return path


def exposed(configuration: Understudy, folder: Path) -> list[str]:
    """Return the names of the secret files that are in the configuration folder."""
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
