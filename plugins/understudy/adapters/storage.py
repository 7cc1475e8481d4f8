"""Reads Orthanc's storage area: the stored DICOM files, and what they say about their study."""

import errno
import hashlib
import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_partial
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from understudy.adapters.part10 import BrokenFileError, begin_data_set
from understudy.adapters.pieces import pieces
from understudy.core.model import Instance, NewInstance
from understudy.core.packing import StudyFacts
from understudy.core.ports import HolderUnavailableError, UnreadableFileError
from understudy.plugin.versions import SUFFIX, VERSIONS

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_DIGESTS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}\.[0-9a-f]{32}" + re.escape(SUFFIX))

_PART = 2**18
"""Bytes read at a time by the scrub."""

_HELD = 2**22
"""Files up to this many bytes are held in memory while they are used; a larger file is read twice."""

_LAST_TAG = Tag("PatientBirthDate")
"""The last of the tags that `study_facts` needs; nothing after it is parsed."""

_LONGEST_VALUE, _MOST_VALUES = 1024, 100
"""Maximum number of characters of a value, and of values of an attribute, that rules compare."""

_META_BYTES = 2**16
"""Bytes at the beginning of a file that are searched for its transfer syntax, which decides how pydicom reads
it."""

PARSE_ERRORS = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""Errors that pydicom raises for broken files (RecursionError is a RuntimeError). A broken file is still
kept."""

_OURS = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)
"""Errors of a read that say nothing about the file."""


class StorageArea:
    """The folder in which Orthanc keeps attachments: root/ab/cd/abcd... (Orthanc Book, "Orthanc storage")."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def open(self, instance: Instance) -> Iterator[BinaryIO]:
        """Give the file, checked by the ledger's size and MD5, or raise UnreadableFileError.

        A large file is digested before it is given, and again while it is read. If it changed in between,
        reading its last bytes fails.
        """
        with self._verified(instance) as file:
            yield file

    def read(self, instance: Instance) -> bytes:
        """Return the bytes of a file that is known to be small; raises like `open`."""
        with self.open(instance) as file:
            return file.read()

    def _verified(self, instance: Instance) -> BinaryIO:
        try:
            with ExitStack() as stack:
                file = stack.enter_context(self._where(instance).open("rb", buffering=0))
                size = os.fstat(file.fileno()).st_size
                if size != instance.size:
                    raise UnreadableFileError(
                        f"its stored file has {size} bytes instead of {instance.size}", permanent=True
                    )
                held = BytesIO(file.read()) if size <= _HELD else file
                if _md5_of(held) != instance.md5:
                    raise UnreadableFileError(
                        "its stored file differs from its MD5 in Orthanc's index", permanent=True
                    )
                held.seek(0)
                if held is file:
                    stack.pop_all()
                    return cast(BinaryIO, _Checked(file, size, instance.md5))
                return held
        except FileNotFoundError:
            self._expect_volume()
            raise UnreadableFileError("its stored file is gone", permanent=True) from None
        except OSError as error:
            raise _unreadable(error) from error

    def _where(self, instance: Instance) -> Path:
        """Return the file in Orthanc's storage, or the kept version if the file was replaced."""
        kept = self._root / "understudy" / VERSIONS / f"{instance.orthanc_id}.{instance.md5}{SUFFIX}"
        # No path is built from a sender's content; these two values are Orthanc's own digests.
        is_kept = _DIGESTS.fullmatch(kept.name) is not None and kept.is_file()
        try:
            path = self._path(instance)
        except UnreadableFileError:
            if is_kept:
                return kept
            raise
        return kept if is_kept and not path.is_file() else path

    def _path(self, instance: NewInstance) -> Path:
        uuid = instance.attachment_uuid
        if _UUID.fullmatch(uuid) is None:
            raise UnreadableFileError("the ledger has no valid name of its stored file", permanent=True)
        return self._root / uuid[0:2] / uuid[2:4] / uuid

    def damage(self, instance: Instance, paced: Callable[[int], bool]) -> str | None:
        """Return what is wrong with the file on the disk, empty if it is in order; None if `paced` ended it.

        `paced` gets the number of bytes of each part that was read, and may wait; it returns False to end the
        check. The page cache of the file is dropped before and after: it would hide what the disk lost, and
        filling it would slow the readers of images.
        """
        digest = hashlib.md5(usedforsecurity=False)
        try:
            path = self._path(instance)
            with path.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size != instance.size:
                    return f"its stored file has {size} bytes instead of {instance.size}"
                _drop_cached(file.fileno())
                while part := file.read(_PART):
                    digest.update(part)
                    if not paced(len(part)):
                        return None
                _drop_cached(file.fileno())
        except FileNotFoundError:
            self._expect_volume()
            return "its stored file is gone"
        except UnreadableFileError as error:
            return error.reason
        except OSError as error:
            return f"its stored file cannot be read: {error.strerror}"
        if digest.hexdigest() != instance.md5:
            return "its stored file differs from its MD5 in Orthanc's index"
        return ""

    def path(self, instance: Instance) -> Path:
        """Return where the file is or should be, or raise UnreadableFileError."""
        return self._path(instance)

    def _expect_volume(self) -> None:
        if not self._root.is_dir() or not any(self._root.iterdir()):
            # If one file is missing, that file is at fault; if all are missing, the volume is not mounted.
            raise HolderUnavailableError(
                "storage",
                "Orthanc's storage area is missing or empty",
                f"check that the storage volume is mounted at {self._root}",
            )

    def attributes(self, instance: NewInstance, keywords: Collection[str]) -> dict[str, list[str]]:
        """Return the values of these attributes, by keyword, as text; absent attributes are left out.

        The file is read only up to the last of these attributes. Raises UnreadableFileError, and
        HolderUnavailableError if the whole volume is missing.
        """
        try:
            with self._path(instance).open("rb") as file:
                if _is_deflated(instance.transfer_syntax_uid, file.read(_META_BYTES)):
                    raise UnreadableFileError(
                        "its stored file is deflated: it is not looked into", permanent=True
                    )
                file.seek(0)
                return _attributes(file, keywords)
        except FileNotFoundError:
            self._expect_volume()
            raise UnreadableFileError("its stored file is gone", permanent=True) from None
        except PARSE_ERRORS as error:
            if isinstance(error, OSError) and error.errno in _OURS:
                raise HolderUnavailableError(
                    "storage", f"stored files cannot be read now: {error.strerror}", "it is tried again"
                ) from error
            reason = f"its stored file cannot be parsed: {type(error).__name__}"
            raise UnreadableFileError(reason, permanent=True) from None

    def data_set_digest(self, instance: Instance) -> str:
        """Return the SHA-256 of the data set, without the file's head; raises like `open`."""
        with self.open(instance) as file:
            try:
                begin_data_set(file, instance.size)
            except BrokenFileError as error:
                raise UnreadableFileError(f"its stored file is broken: {error}", permanent=True) from error
            sha256 = hashlib.sha256()
            for piece in pieces(file):
                sha256.update(piece)
            return sha256.hexdigest()

    def study_facts(self, file: BinaryIO, transfer_syntax_uid: str) -> StudyFacts | None:
        """Return what the file says about its study, or None if it cannot be parsed."""
        if _is_deflated(transfer_syntax_uid, file.read(_META_BYTES)):
            return None
        file.seek(0)
        try:
            return _facts(file)
        except PARSE_ERRORS:
            return None


class _Checked(io.RawIOBase):
    """A large file whose MD5 is checked whenever it is read from beginning to end."""

    def __init__(self, file: io.FileIO, size: int, md5: str) -> None:
        self._file = file
        self._size = size
        self._md5 = md5
        self._digest = hashlib.md5(usedforsecurity=False)
        self._digested = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = self._file.seek(offset, whence)
        if position == 0:
            self._digest, self._digested = hashlib.md5(usedforsecurity=False), 0
        return position

    def readinto(self, buffer: Any) -> int:
        try:
            follows = self._file.tell() == self._digested
            number = self._file.readinto(buffer)
        except OSError as error:
            raise _unreadable(error) from error
        if follows:
            self._digest.update(memoryview(buffer)[:number])
            self._digested += number
            ends = not number or self._digested >= self._size
            if ends and self._digest.hexdigest() != self._md5:
                raise UnreadableFileError("its stored file changed while it was read", permanent=False)
        return number

    def close(self) -> None:
        self._file.close()
        super().close()


def _md5_of(file: BinaryIO) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for piece in pieces(file):
        digest.update(piece)
    return digest.hexdigest()


def _unreadable(error: OSError) -> UnreadableFileError:
    return UnreadableFileError(f"its stored file cannot be read: {error.strerror}", permanent=False)


def _drop_cached(descriptor: int) -> None:
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _is_deflated(transfer_syntax_uid: str, head: bytes) -> bool:
    """Return whether pydicom would first inflate the whole file; a small file could then take all memory."""
    deflated = DeflatedExplicitVRLittleEndian
    return transfer_syntax_uid == deflated or deflated.encode() in head


def _head(file: BinaryIO, last: BaseTag, keywords: Collection[str] | None = None) -> Dataset:
    """Return the data set up to the tag `last`: all its attributes, or only those in `keywords`."""

    def beyond(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        return bool(tag > last)

    tags: list[BaseTag | int] | None = None if keywords is None else [Tag(keyword) for keyword in keywords]
    # Odd files are normal here, and a warning could put their text into a log.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_partial(file, stop_when=beyond, specific_tags=tags)


def _attributes(file: BinaryIO, keywords: Collection[str]) -> dict[str, list[str]]:
    dataset = _head(file, max(map(Tag, keywords)), keywords)
    found: dict[str, list[str]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword in keywords:
            value = dataset.get(keyword)
            several = value if isinstance(value, MultiValue) else [value]
            texts = [str(one)[:_LONGEST_VALUE].strip() for one in several[:_MOST_VALUES] if one is not None]
            found[keyword] = [text for text in texts if text]
    return {keyword: texts for keyword, texts in found.items() if texts}


def _facts(file: BinaryIO) -> StudyFacts:
    dataset = _head(file, _LAST_TAG)

    def text(keyword: str) -> str:
        # pydicom decodes the value only here, and may warn.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = dataset.get(keyword)
        return "" if value is None else str(value).encode("utf-8", "replace").decode()

    return StudyFacts(
        patient_id=text("PatientID"),
        patient_name=text("PatientName"),
        patient_birth_date=text("PatientBirthDate"),
        study_date=text("StudyDate"),
        study_description=text("StudyDescription"),
        accession_number=text("AccessionNumber"),
        modality=text("Modality"),
    )
