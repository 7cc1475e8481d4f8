"""Encryption by age (X25519): the appliance has the public recipient, and the identity is kept in a safe."""

import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import pyrage

from understudy.core.ports import Reads, SealError, Writes


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
        """Raise SealError if `recipients` is empty or has an invalid one."""
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

    def seal_stream(self, plain: Reads, sealed: Writes) -> None:
        """Encrypt `plain` into a binary age file, in pieces; raises the errors of reader and writer."""
        ends = _Ends(plain.read, sealed.write)
        stream = cast(io.BufferedIOBase, ends)
        try:
            pyrage.encrypt_io(stream, stream, self._keys)
        except pyrage.EncryptError:
            raise ends.errors[0] from None


class AgeOpener:
    """Decrypts with one identity."""

    def __init__(self, identity: str) -> None:
        """Take the text of an identity file of age-keygen, comments included, or raise SealError."""
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
                self._hint,
            ) from None

    @contextmanager
    def opened(self, sealed: Reads) -> Iterator[BinaryIO]:
        """Give the plain bytes as a stream; every piece read from it is authentic.

        Reading raises SealError if the content cannot be decrypted or ends too early, and the errors of
        `sealed`.
        """
        with _Plain(self._identity, sealed, self._hint) as plain:
            yield cast(BinaryIO, plain)

    @property
    def _hint(self) -> str:
        return f"the identity given belongs to {self.recipient}; another key, or the object was changed"


class _Ends:
    """Reader and writer for a pyrage call; keeps their errors, because pyrage reports only the text."""

    def __init__(self, read: Callable[[int], bytes], write: Callable[[bytes], object]) -> None:
        self._read = read
        self._write = write
        self.errors: list[BaseException] = []

    def read(self, size: int) -> bytes:
        try:
            return self._read(size)
        except BaseException as error:
            self.errors.append(error)
            raise

    def write(self, content: bytes) -> int:
        try:
            self._write(content)
        except BaseException as error:
            self.errors.append(error)
            raise
        return len(content)

    def flush(self) -> None:
        """Do nothing; the caller flushes its writer."""


class _Plain(io.RawIOBase):
    """A readable stream from a decrypting thread, through a pipe, because pyrage writes and tar reads."""

    def __init__(self, identity: pyrage.x25519.Identity, sealed: Reads, hint: str) -> None:
        self._identity = identity
        self._hint = hint
        self._error: BaseException | None = SealError("it was not decrypted to its end", hint)
        self._pipe, writing = os.pipe()
        self._thread = threading.Thread(target=self._decrypt, args=(sealed, writing), daemon=True)
        self._thread.start()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = os.read(self._pipe, len(buffer))
        if not content:
            self._thread.join()
            if self._error is not None:
                raise self._error
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if not self.closed:
            super().close()
            # A thread that still writes gets an error and ends.
            os.close(self._pipe)
            self._thread.join()

    def _decrypt(self, sealed: Reads, writing: int) -> None:
        with open(writing, "wb", buffering=2**16) as pipe:
            ends = _Ends(sealed.read, pipe.write)
            stream = cast(io.BufferedIOBase, ends)
            try:
                pyrage.decrypt_io(stream, stream, [self._identity])
                pipe.flush()
                self._error = None
            except (pyrage.DecryptError, OSError) as error:
                broken = SealError(f"it cannot be decrypted: {error}", self._hint)
                self._error = ends.errors[0] if ends.errors else broken
                with suppress(OSError):
                    pipe.close()
