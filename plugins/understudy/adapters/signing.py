"""Signatures by Ed25519: the appliance has the private key, and a restore knows the public key."""

import base64

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from understudy.core.signature import WRITER_PREFIX, is_writer


def new_signing_key() -> str:
    """Return a fresh random private key, as one line of base64."""
    return base64.b64encode(Ed25519PrivateKey.generate().private_bytes_raw()).decode("ascii")


class Ed25519Signer:
    """Signs with one private key (core.ports.Signer)."""

    def __init__(self, private_key: str) -> None:
        """Take a key from `new_signing_key`; raises ValueError if it is not valid."""
        self._key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(private_key.strip(), validate=True))

    @property
    def writer(self) -> str:
        """The public key, in the form used in manifests and identity files."""
        raw = self._key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return WRITER_PREFIX + base64.b64encode(raw).decode("ascii")

    def sign(self, content: bytes) -> bytes:
        """Return the signature of 64 bytes."""
        return self._key.sign(content)


def is_signed_by(writer: str, content: bytes, signature: bytes) -> bool:
    """Return whether the owner of this public key signed the content."""
    if not is_writer(writer):
        return False
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(writer.removeprefix(WRITER_PREFIX)))
    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True
