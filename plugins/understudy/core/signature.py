"""The signature of a manifest: its last field is a signature over all bytes before that field.

Rule 1: the signature covers bytes, not values, so that a reader of any version can check it.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

WRITER_PREFIX = "ed25519:"
_WRITER = re.compile(r"ed25519:[A-Za-z0-9+/]{43}=")
_COMMENT = re.compile(r"#\s*vault writer:\s*(\S+)\s*")
_SUFFIX = re.compile(rb',\n "signature": "([0-9a-f]{128})"\n}\s*')
_END = b"\n}"


@dataclass(frozen=True, slots=True)
class Signed:
    """The bytes that were signed, and the signature over them."""

    content: bytes
    signature: bytes


def is_writer(text: str) -> bool:
    """Say whether the text has the form of a writer's public key."""
    return _WRITER.fullmatch(text) is not None


def writers_in(identity_file: str) -> frozenset[str]:
    """Return the writers' keys in the comments of an identity file: `# vault writer: ed25519:...`."""
    found = (_COMMENT.fullmatch(line.strip()) for line in identity_file.splitlines())
    return frozenset(match[1] for match in found if match and is_writer(match[1]))


def fingerprint(recipients: Iterable[str]) -> str:
    """Return a fingerprint by which a person compares recipients: 16 digits of a SHA-256, in fours."""
    digest = hashlib.sha256("\n".join(sorted(recipients)).encode()).hexdigest()[:16]
    return " ".join(digest[start : start + 4] for start in range(0, 16, 4))


def bytes_to_sign(document: bytes) -> bytes:
    """Return the bytes to sign of a JSON object that `manifest_to_json` wrote."""
    return document.removesuffix(_END)


def with_signature(document: bytes, signature: bytes) -> bytes:
    """Return the document with the signature over `bytes_to_sign` as its last field."""
    return bytes_to_sign(document) + b',\n "signature": "' + signature.hex().encode("ascii") + b'"' + _END


def split_signature(document: bytes) -> Signed | None:
    """Return the signed bytes and the signature, or None if the document has no signature at its end."""
    start = document.rfind(b',\n "signature": "')
    match = _SUFFIX.fullmatch(document, start) if start >= 0 else None
    return None if match is None else Signed(document[:start], bytes.fromhex(match[1].decode("ascii")))
