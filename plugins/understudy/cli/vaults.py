"""What the commands that read a vault need: the vault, its store, the identity, and whom to trust."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.cli.errors import CommandError, telling
from understudy.cli.local import configuration
from understudy.cli.places import places
from understudy.config import S3Vault, Vault
from understudy.core.signature import writers_in

if TYPE_CHECKING:
    from understudy.core.ports import ObjectStore
    from understudy.flow.contents import Trust


def vault_named(name: str) -> Vault:
    """Return the vault of the configuration, or raise CommandError."""
    vaults = configuration().vaults
    for vault in vaults:
        if vault.name == name:
            return vault
    names = ", ".join(vault.name for vault in vaults) or "none"
    raise CommandError(f"there is no vault {name}", f"the configuration has: {names}")


def read_identity(source: str) -> str:
    """Return the age identity that a file or, for `-`, standard input has; raises CommandError."""
    try:
        return sys.stdin.read() if source == "-" else Path(source).read_text(encoding="ascii")
    except (OSError, UnicodeError) as error:
        # The error has only the reason, because the text is a secret.
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise CommandError(
            f"the identity file {source} cannot be read: {reason}",
            "give the file that was kept at the first start",
        ) from None


def trusted(identity: str, given: Sequence[str], *, unsigned: bool, as_of: float | None = None) -> "Trust":
    """Return the trusted writers: this appliance, those of identity.txt, and those given."""
    from understudy.adapters.writer import known_writers
    from understudy.flow.contents import Trust

    writers = known_writers(places().keys) | writers_in(identity) | frozenset(given)
    return Trust(writers, unsigned, as_of)


def open_store(vault: Vault, credentials_file: Path | None) -> "ObjectStore":
    """Return what the vault keeps its objects in; raises CommandError."""
    if isinstance(vault, S3Vault):
        from understudy.adapters.s3 import CredentialsError, S3Store, read_credentials
        from understudy.adapters.secret_files import file_of

        path = credentials_file or file_of(places().configuration, vault.credentials_file)
        with telling(CredentialsError):
            credentials = read_credentials(path)
        return S3Store(vault.name, vault.endpoint, vault.bucket, vault.region, lambda: credentials)
    from understudy.adapters.directory import DirectoryStore

    return DirectoryStore(vault.name, vault.directory)
