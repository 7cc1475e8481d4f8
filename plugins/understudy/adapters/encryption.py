"""Encryption by age (X25519): the appliance holds the public recipient, the identity lies in a safe."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyrage

from understudy.core.ports import SealError


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A new identity and its public recipient."""

    identity: str
    recipient: str


def new_key_pair() -> KeyPair:
    """Return a fresh random X25519 identity."""
    identity = pyrage.x25519.Identity.generate()
    return KeyPair(str(identity), str(identity.to_public()))


class AgeSealer:
    """Encrypts to one or more age recipients; each of them alone can decrypt."""

    def __init__(self, recipients: Sequence[str]) -> None:
        """Raise SealError where there is no recipient or one is none."""
        if not recipients:
            raise SealError(
                "no age recipient is configured", "give the vault Recipients, or run `understudy init`"
            )
        try:
            self._keys = [pyrage.x25519.Recipient.from_str(text.strip()) for text in recipients]
        except pyrage.RecipientError as error:
            raise SealError(
                f"an age recipient is not valid: {error}",
                "a recipient begins with age1; age-keygen -y prints it",
            ) from None
        self._recipients = tuple(text.strip() for text in recipients)

    @property
    def recipients(self) -> Sequence[str]:
        return self._recipients

    def seal(self, plain: bytes) -> bytes:
        """Return the content as a binary age file."""
        return pyrage.encrypt(plain, self._keys)


class AgeOpener:
    """Decrypts by one identity."""

    def __init__(self, identity: str) -> None:
        """Take an identity file's text as age-keygen writes it, comments included, or raise SealError."""
        lines = [line.strip() for line in identity.splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        hint = "give the file that was kept at the first start; it holds one line AGE-SECRET-KEY-1..."
        if len(lines) != 1:
            raise SealError(f"the identity has {len(lines)} lines of key instead of one", hint)
        try:
            self._identity = pyrage.x25519.Identity.from_str(lines[0])
        except pyrage.IdentityError:
            # The library's message could quote the key.
            raise SealError("the identity is not a valid age X25519 identity", hint) from None

    @property
    def recipient(self) -> str:
        """The public recipient that belongs to the identity."""
        return str(self._identity.to_public())

    def open(self, sealed: bytes) -> bytes:
        """Return the plain bytes, or raise SealError."""
        try:
            return pyrage.decrypt(sealed, [self._identity])
        except pyrage.DecryptError as error:
            raise SealError(
                f"it cannot be decrypted: {error}",
                f"the identity given belongs to {self.recipient}; another key, or the object was changed",
            ) from None
