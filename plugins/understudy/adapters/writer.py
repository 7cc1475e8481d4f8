"""The appliance's own signing key: the private key is on the volume `state`, the public key on `keys`.

Rule 1: a public key is never removed from the list. So if the volume `state` is lost and another key is made,
the manifests that the earlier key signed are still believed.
"""

from pathlib import Path

from understudy.adapters.signing import Ed25519Signer, new_signing_key
from understudy.core.signature import is_writer
from understudy.system.files import write_durably

PRIVATE, PUBLIC = "vault-writer.key", "vault-writers"


class WriterError(Exception):
    """The key that signs manifests cannot be used."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.hint = "restore the volume `state`; or remove the file, and restart: another key is made then"


def make_writer(keys: Path, state: Path) -> str:
    """Make the key if there is none, add its public key to the list, and return the public key."""
    path = state / PRIVATE
    if not path.exists():
        write_durably(path, new_signing_key().encode("ascii"), mode=0o600)
    writer = read_signer(state).writer
    known = known_writers(keys)
    if writer not in known:
        lines = [*sorted(known), writer]
        write_durably(keys / PUBLIC, "".join(f"{line}\n" for line in lines).encode("ascii"))
    return writer


def read_signer(state: Path) -> Ed25519Signer:
    """Return the signer of this appliance, or raise WriterError."""
    path = state / PRIVATE
    try:
        return Ed25519Signer(path.read_text(encoding="ascii"))
    except OSError as error:
        raise WriterError(path, str(error.strerror)) from error
    except ValueError:
        # The library's message could quote the key.
        raise WriterError(path, "it is no key") from None


def known_writers(keys: Path) -> frozenset[str]:
    """Return the public keys of all keys with which this appliance has signed."""
    try:
        lines = (keys / PUBLIC).read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeError):
        return frozenset()
    return frozenset(line for line in lines if is_writer(line))
