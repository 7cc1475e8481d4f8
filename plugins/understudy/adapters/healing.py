"""Where a healed file comes from and how it gets back: C-GET from a peer, and Orthanc's REST.

Rule 1: the index row of a damaged file is deleted only when its whole replacement is on our own disk, because
Orthanc answers success to a copy of what its index lists and keeps the broken file (OverwriteInstances).
"""

import hashlib
import io
import os
import ssl
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StudyRootQueryRetrieveInformationModelGet,
)

from understudy.adapters.files import write_durably
from understudy.adapters.orthanc import Orthanc
from understudy.adapters.part10 import DEFLATED, BrokenFileError, dcmtk_head, examine_stream, head_length
from understudy.adapters.storage import PARSE_ERRORS
from understudy.adapters.tls import ClientTls, TlsSettingsError
from understudy.core.model import Instance
from understudy.core.packing import Member
from understudy.core.ports import (
    HolderUnavailableError,
    NotGivenError,
    OrthancUnavailableError,
    TargetError,
    UnansweredError,
)
from understudy.core.views import DamageView

_SUCCESS = 0x0000
_PENDING = (0xFF00, 0xFF01)
_NO_GET = (0x0122, 0x0211)
"""SOP class not supported, unrecognized operation (DICOM PS3.7 annex C)."""

_DCMTK_VERSIONS = ("OFFIS_DCMTK_370", "OFFIS_DCMTK_371", "OFFIS_DCMTK_369")
"""Of the Orthancs that can have written the head of a stored file."""

_LAST_TAG = Tag("SeriesInstanceUID")


class GetSource:
    """A peer that gives back single instances by C-GET (DICOM PS3.4 C.4.3)."""

    def __init__(
        self,
        name: str,
        *,
        ae_title: str,
        host: str,
        port: int,
        calling_ae_title: str,
        timeout: float,
        tls: ClientTls | None = None,
    ) -> None:
        self.name = name
        self.ae_title = ae_title
        self._host = host
        self._port = port
        self._calling = calling_ae_title
        self._timeout = timeout
        self._tls = tls

    def fetch(self, instance: Instance) -> bytes | None:
        """Return the data set in the instance's own transfer syntax, None where the peer has none to give.

        Raises HolderUnavailableError; NotGivenError where it fails to.
        """
        received: list[bytes] = []

        def keep(event: evt.Event) -> int:
            request: Any = event.request
            if request.AffectedSOPInstanceUID == instance.sop_instance_uid:
                received.append(request.DataSet.getvalue())
            return 0x0000

        entity = AE(ae_title=self._calling)
        entity.connection_timeout = entity.acse_timeout = self._timeout
        entity.dimse_timeout = entity.network_timeout = self._timeout
        contexts = [
            build_context(StudyRootQueryRetrieveInformationModelGet),
            build_context(instance.sop_class_uid, [instance.transfer_syntax_uid]),
        ]
        association = entity.associate(
            self._host,
            self._port,
            contexts=contexts,
            ae_title=self.ae_title,
            ext_neg=[build_role(instance.sop_class_uid, scp_role=True)],
            evt_handlers=[(evt.EVT_C_STORE, keep)],
            tls_args=self._tls_arguments(),
        )
        if not association.is_established:
            raise HolderUnavailableError(self.name, "no association for C-GET", "see that it allows us C-GET")
        try:
            status = self._get(
                association.send_c_get(_query(instance), StudyRootQueryRetrieveInformationModelGet)
            )
        except ValueError as error:
            # No presentation context for it was accepted.
            raise UnansweredError(self.name, "it offers no C-GET", "see that it allows us C-GET") from error
        except RuntimeError as error:
            raise HolderUnavailableError(
                self.name, f"no C-GET: {type(error).__name__}", "see that it allows us C-GET"
            ) from error
        finally:
            if association.is_established:
                association.release()
        if status is None:
            raise HolderUnavailableError(self.name, "no answer to C-GET", "look at its log")
        if status in _NO_GET:
            raise UnansweredError(
                self.name, f"it answers C-GET with 0x{status:04X}", "see that it allows us C-GET"
            )
        if not received and status != _SUCCESS:
            # Of this transfer syntax alone, perhaps: another content may have another one.
            raise NotGivenError(self.name, f"C-GET ended with status 0x{status:04X}", "look at its log")
        return received[0] if len(received) == 1 else None

    def _tls_arguments(self) -> tuple[ssl.SSLContext, str] | None:
        if self._tls is None:
            return None
        try:
            return self._tls.context(), self._tls.server_name or self._host
        except TlsSettingsError as error:
            hint = "mend the files that the configuration names for it"
            raise HolderUnavailableError(self.name, str(error), hint) from error

    def _get(self, answers: Iterator[tuple[Dataset, Dataset | None]]) -> int | None:
        status: int | None = None
        for answer, _ in answers:
            if "Status" not in answer:
                return None
            status = int(answer.Status)
            if status not in _PENDING:
                return status
        return status


def _query(instance: Instance) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = instance.study_instance_uid
    query.SeriesInstanceUID = instance.series_instance_uid
    query.SOPInstanceUID = instance.sop_instance_uid
    return query


def whole_file(instance: Instance, dataset: bytes, damaged: Path) -> bytes:
    """Return the data set with the head that makes it the file of the ledger, bit by bit, where one does.

    A data set travels without its head: tried are the damaged file's own, and those that Orthanc writes.
    """
    candidates = [head + dataset for head in _heads(instance, damaged)]
    for content in candidates:
        if hashlib.md5(content, usedforsecurity=False).hexdigest() == instance.md5:
            return content
    return candidates[-1]


def _heads(instance: Instance, damaged: Path) -> Iterator[bytes]:
    try:
        with damaged.open("rb") as file:
            length = head_length(file, os.fstat(file.fileno()).st_size)
            file.seek(0)
            yield file.read(length)
    except (OSError, BrokenFileError):
        pass
    for version in reversed(_DCMTK_VERSIONS):
        yield dcmtk_head(
            instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid, version
        )


def is_same_instance(orthanc_id: str, md5: str, content: bytes) -> bool:
    """Say whether a whole file is the instance to Orthanc, which knows it by four identifiers.

    Orthanc's identifier is the SHA-1 of PatientID, Study, Series and SOP Instance UID (Orthanc Book).
    """
    if hashlib.md5(content, usedforsecurity=False).hexdigest() == md5:
        return True
    try:
        found = examine_stream(io.BytesIO(content), len(content))
        if found.transfer_syntax_uid == DEFLATED:
            # pydicom would inflate all of it.
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patient, study, series = _identity(content)
    except (BrokenFileError, struct.error, *PARSE_ERRORS):
        return False
    text = "|".join((patient, study, series, found.sop_instance_uid))
    digest = hashlib.sha1(text.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8)) == orthanc_id


def _identity(content: bytes) -> tuple[str, str, str]:
    def beyond(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        return bool(tag > _LAST_TAG)

    dataset = read_partial(BytesIO(content), stop_when=beyond)
    patient, study, series = (
        str(dataset.get(keyword) or "").strip()
        for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
    )
    return patient, study, series


class Replacement:
    """Puts a whole file in the place of a damaged one: on our disk first, then in Orthanc."""

    def __init__(self, orthanc: Orthanc, folder: Path, log: Callable[[str], None]) -> None:
        self._orthanc = orthanc
        self._folder = folder
        self._log = log

    def offer(self, content: bytes) -> None:
        """Store it as anybody would; raises OrthancUnavailableError."""
        self._orthanc.store_again(content)

    def put(self, orthanc_id: str, file: str, content: bytes) -> bool:
        """Replace the damaged file that Orthanc lists by that name, if it lists any of the instance.

        Returns False where another one took its place meanwhile: that content is newer, and stays. Raises
        OrthancUnavailableError, after which `resume` ends what began.
        """
        self._folder.mkdir(mode=0o750, exist_ok=True)
        kept = self._folder / f"{orthanc_id}.{file}"
        write_durably(kept, content)
        return self._swap(kept, content)

    def resume(self) -> int:
        """Give Orthanc what a crash kept from it; return how many files that were."""
        if not self._folder.is_dir():
            return 0
        kept = [path for path in sorted(self._folder.iterdir()) if not path.name.startswith(".")]
        for path in kept:
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                # Another process of ours was in the middle of it, and has ended it.
                continue
            put = self._swap(path, content)
            self._log(f"heal resumed instance={path.name} put={put}")
        return len(kept)

    def _swap(self, kept: Path, content: bytes) -> bool:
        orthanc_id, _, file = kept.name.partition(".")
        listed = self._orthanc.file_of(orthanc_id)
        if listed == file:
            self._orthanc.delete(orthanc_id)
        # Any other file was stored after the damage was found, by a modality or by us before a crash.
        ours = listed in (file, None)
        if ours:
            self._orthanc.store_again(content)
        kept.unlink(missing_ok=True)
        return ours


class HealingTarget:
    """Takes out of a vault what is damaged here, and nothing else (core.ports.RestoreTarget)."""

    def __init__(self, orthanc: Orthanc, folder: Path, damages: Sequence[DamageView]) -> None:
        self._replacement = Replacement(orthanc, folder, lambda _: None)
        self._damages = {view.sop_instance_uid: view for view in damages}
        self.put = 0

    def has(self, member: Member) -> bool:
        """Say that every file but a damaged one is there."""
        return member.sop_instance_uid not in self._damages

    def keep(self, member: Member, content: bytes) -> None:
        """Put the file in the place of the damaged one."""
        damage = self._damages[member.sop_instance_uid]
        if not is_same_instance(damage.orthanc_id, damage.md5, content):
            raise TargetError("the vault has another instance under its UID", "look at both")
        try:
            put = self._replacement.put(damage.orthanc_id, damage.file, content)
        except OrthancUnavailableError as error:
            raise TargetError(str(error), error.hint) from error
        if not put:
            raise TargetError(
                f"another content of {damage.sop_instance_uid} was stored meanwhile", "run it once more"
            )
        self.put += 1
