"""Fetches an undamaged copy of a file by C-GET, and puts it back by Orthanc's REST.

Rule 1: the index row of a damaged file is deleted only when the complete replacement is on our own disk. The
row has to be deleted, because Orthanc answers success to a copy of an instance in its index, and keeps the
broken file (OverwriteInstances).
"""

import hashlib
import os
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag

from understudy.adapters import dimse
from understudy.adapters.association import (
    MAX_PART,
    Address,
    Association,
    AssociationLostError,
    AssociationRejectedError,
    Context,
)
from understudy.adapters.dicom import encoded
from understudy.adapters.orthanc import Orthanc
from understudy.adapters.part10 import DEFLATED, BrokenFileError, dcmtk_head, examine_stream, head_length
from understudy.adapters.pieces import copy, pieces
from understudy.adapters.storage import PARSE_ERRORS
from understudy.adapters.tls import ClientTls
from understudy.core.model import Instance
from understudy.core.outcomes import of_loss, of_rejection
from understudy.core.packing import Member
from understudy.core.ports import (
    BusyError,
    HolderUnavailableError,
    NotGivenError,
    OrthancUnavailableError,
    Reads,
    TargetError,
    UnansweredError,
)
from understudy.core.views import DamageView
from understudy.system.files import written_durably
from understudy.system.spool import Spool

_GET = Context("1.2.840.10008.5.1.4.1.2.2.3")
_MEDIUM = 0x0000
_NO_GET = (0x0122, 0x0211)
"""Statuses "SOP class not supported" and "unrecognized operation" (DICOM PS3.7 annex C)."""

_DCMTK_VERSIONS = ("OFFIS_DCMTK_370", "OFFIS_DCMTK_371", "OFFIS_DCMTK_369")
"""DCMTK versions of the Orthancs that may have written the head of a stored file."""

_LAST_TAG = Tag("SeriesInstanceUID")


class GetSource:
    """A peer from which single instances are fetched by C-GET (DICOM PS3.4 C.4.3)."""

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
        """Return the data set in the instance's own transfer syntax, None if the peer gives none.

        Raises HolderUnavailableError; NotGivenError if C-GET ends with a failure.
        """
        received: list[bytes] = []
        store = Context(instance.sop_class_uid, (instance.transfer_syntax_uid,))
        try:
            with Association.request(
                Address(self._host, self._port, self._tls),
                calling=self._calling,
                called=self.ae_title,
                contexts=[_GET, store],
                timeout=self._timeout,
                takes=[instance.sop_class_uid],
            ) as association:
                status = self._get(association, store, instance, received)
        except AssociationRejectedError as error:
            verdict = of_rejection(error.result, error.source, error.reason)
            kind = BusyError if error.is_transient else HolderUnavailableError
            raise kind(
                self.name, f"no association for C-GET: {verdict.reason}", "see that it allows us C-GET"
            ) from error
        except AssociationLostError as error:
            verdict = of_loss(error.loss, error.detail)
            raise HolderUnavailableError(
                self.name, f"C-GET: {verdict.reason}", "look at the log of that system"
            ) from error
        if status in _NO_GET:
            raise UnansweredError(
                self.name, f"it answers C-GET with 0x{status:04X}", "see that it allows us C-GET"
            )
        if not received and status != dimse.SUCCESS:
            # This may be a matter of the transfer syntax only: another content may have another one.
            raise NotGivenError(
                self.name, f"C-GET ended with status 0x{status:04X}", "look at the log of that system"
            )
        return received[0] if len(received) == 1 else None

    def _get(
        self, association: Association, store: Context, instance: Instance, received: list[bytes]
    ) -> int:
        """Ask, receive the instances that the peer stores over this association, return the final status."""
        get, stored = association.answers[_GET], association.answers[store]
        if get.result != 0:
            raise UnansweredError(self.name, "it offers no C-GET", "see that it allows us C-GET")
        elements: dimse.Elements = {dimse.SOP_CLASS: _GET.sop_class_uid, dimse.PRIORITY: _MEDIUM}
        dimse.send(association, get, dimse.GET, elements, encoded(_query(instance), get.transfer_syntax_uid))
        most = 2 * instance.size + MAX_PART
        while True:
            message = dimse.receive(association, self._timeout, most=most)
            if message.requests(dimse.STORE):
                sop_class, uid = message.text(dimse.SOP_CLASS), message.text(dimse.SOP_INSTANCE)
                if uid == instance.sop_instance_uid:
                    received.append(message.data)
                told: dimse.Elements = {dimse.SOP_CLASS: sop_class, dimse.SOP_INSTANCE: uid}
                dimse.respond(association, stored, message, told, dimse.SUCCESS)
            elif not message.answers(dimse.GET, 1):
                raise association.garbled("an answer to something else")
            elif not message.is_pending:
                return message.status


def _query(instance: Instance) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    query.StudyInstanceUID = instance.study_instance_uid
    query.SeriesInstanceUID = instance.series_instance_uid
    query.SOPInstanceUID = instance.sop_instance_uid
    return query


def write_whole(instance: Instance, dataset: BinaryIO, damaged: Path, whole: BinaryIO) -> None:
    """Write a head and the data set, with the head that gives the MD5 of the ledger if one does.

    A data set is sent without its head. The damaged file's head, and those that Orthanc writes, are tried.
    """
    heads = list(_heads(instance, damaged))
    digests = [hashlib.md5(head, usedforsecurity=False) for head in heads]
    dataset.seek(0)
    for piece in pieces(dataset):
        for digest in digests:
            digest.update(piece)
    fits = [head for head, digest in zip(heads, digests, strict=True) if digest.hexdigest() == instance.md5]
    whole.write(fits[0] if fits else heads[-1])
    dataset.seek(0)
    copy(dataset, whole)


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


def is_same_instance(orthanc_id: str, md5: str, file: BinaryIO) -> bool:
    """Return whether Orthanc takes a complete file for this instance.

    Orthanc's identifier is the SHA-1 of PatientID, Study, Series and SOP Instance UID (Orthanc Book).
    """
    file.seek(0)
    digest = hashlib.md5(usedforsecurity=False)
    for piece in pieces(file):
        digest.update(piece)
    if digest.hexdigest() == md5:
        return True
    size = file.tell()
    file.seek(0)
    try:
        found = examine_stream(file, size)
        if found.transfer_syntax_uid == DEFLATED:
            # pydicom would inflate the whole file.
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file.seek(0)
            patient, study, series = _identity(file)
    except (BrokenFileError, struct.error, *PARSE_ERRORS):
        return False
    text = "|".join((patient, study, series, found.sop_instance_uid))
    name = hashlib.sha1(text.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()
    return "-".join(name[start : start + 8] for start in range(0, 40, 8)) == orthanc_id


def _identity(file: BinaryIO) -> tuple[str, str, str]:
    def beyond(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        return bool(tag > _LAST_TAG)

    dataset = read_partial(file, stop_when=beyond)
    patient, study, series = (
        str(dataset.get(keyword) or "").strip()
        for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")
    )
    return patient, study, series


class Replacement:
    """Replaces a damaged file by a complete one: first on our disk, then in Orthanc."""

    def __init__(self, orthanc: Orthanc, folder: Path, log: Callable[[str], None]) -> None:
        self._orthanc = orthanc
        self._folder = folder
        self._log = log

    def offer(self, content: BinaryIO) -> None:
        """Store the content like any new instance; raises OrthancUnavailableError."""
        content.seek(0, os.SEEK_END)
        size = content.tell()
        content.seek(0)
        self._orthanc.store_again(content, size)

    def put(self, orthanc_id: str, file: str, content: BinaryIO) -> bool:
        """Replace the damaged file `file` of the instance; if Orthanc lists no file of it, store the content.

        Returns False if another file has taken its place meanwhile; that content is newer, and stays. Raises
        OrthancUnavailableError; then `resume` completes the replacement.
        """
        self._folder.mkdir(mode=0o750, exist_ok=True)
        kept = self._folder / f"{orthanc_id}.{file}"
        content.seek(0)
        with written_durably(kept) as replacement:
            copy(content, replacement)
        with kept.open("rb") as replacement:
            return self._swap(kept, replacement)

    def resume(self) -> int:
        """Complete the replacements that a crash or an error interrupted; return how many there were."""
        if not self._folder.is_dir():
            return 0
        kept = [path for path in sorted(self._folder.iterdir()) if not path.name.startswith(".")]
        for path in kept:
            try:
                content = path.open("rb")
            except FileNotFoundError:
                # Another process of ours was replacing this file, and has finished.
                continue
            with content:
                put = self._swap(path, content)
            self._log(f"heal resumed instance={path.name} put={put}")
        return len(kept)

    def _swap(self, kept: Path, content: BinaryIO) -> bool:
        orthanc_id, _, file = kept.name.partition(".")
        listed = self._orthanc.file_of(orthanc_id)
        if listed == file:
            self._orthanc.delete(orthanc_id)
        # Any other file was stored after the damage was found: by a modality, or by us before a crash.
        ours = listed in (file, None)
        if ours:
            self.offer(content)
        kept.unlink(missing_ok=True)
        return ours


class HealingTarget:
    """Restores from a vault only the files that are damaged here (core.ports.RestoreTarget)."""

    def __init__(self, orthanc: Orthanc, folder: Path, damages: Sequence[DamageView], spool: Spool) -> None:
        self._replacement = Replacement(orthanc, folder, lambda _: None)
        self._damages = {view.sop_instance_uid: view for view in damages}
        self._spool = spool
        self.put = 0

    def has(self, member: Member) -> bool:
        """Return True for every file that is not damaged, so that it is not restored."""
        return member.sop_instance_uid not in self._damages

    def keep(self, member: Member, content: Reads) -> None:
        """Replace the damaged file by this one."""
        damage = self._damages[member.sop_instance_uid]
        with self._spool.file() as file:
            copy(content, file)
            if not is_same_instance(damage.orthanc_id, damage.md5, file):
                raise TargetError("the vault has another instance under its UID", "compare the two")
            try:
                put = self._replacement.put(damage.orthanc_id, damage.file, file)
            except OrthancUnavailableError as error:
                raise TargetError(str(error), error.hint) from error
        if not put:
            raise TargetError(
                f"another content of {damage.sop_instance_uid} was stored meanwhile", "run the command again"
            )
        self.put += 1
