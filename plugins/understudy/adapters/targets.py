"""The targets of a restore: a folder, or an Orthanc by REST."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx

from understudy.adapters.pieces import copy, pieces
from understudy.core.packing import Member
from understudy.core.ports import Reads, TargetError
from understudy.system.files import written_durably
from understudy.system.spool import Spool


class FolderTarget:
    """A folder of files STUDY/SERIES/SOP.dcm, each written under another name and renamed when durable."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, member: Member) -> bool:
        """Return whether exactly these bytes are there already; raise TargetError for other bytes."""
        path = self._folder / member.name
        try:
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise TargetError(f"{path}: {error.strerror}", "check the folder that is restored to") from error
        if sha256 != member.sha256:
            raise TargetError(
                f"{path} exists and is a different file", "move it away, or restore to an empty folder"
            )
        return True

    def keep(self, member: Member, content: Reads) -> None:
        """Write the file durably."""
        path = self._folder / member.name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_durably(path) as file:
                copy(content, file)
        except OSError as error:
            raise TargetError(
                f"{path}: {error.strerror}", "make room or check the disk, then start again"
            ) from error


class OrthancTarget:
    """An Orthanc, by its REST API; `client` has its address and authentication."""

    def __init__(self, client: httpx.Client, spool: Spool) -> None:
        self._client = client
        self._spool = spool

    def has(self, member: Member) -> bool:
        """Return whether Orthanc has the instance with these bytes; raise TargetError for other bytes."""
        found = self._call("POST", "/tools/lookup", content=member.sop_instance_uid.encode()).json()
        identifiers = [item["ID"] for item in found if item["Type"] == "Instance"]
        if not identifiers:
            return False
        if any(self._md5(identifier) == member.md5 for identifier in identifiers):
            return True
        if member.orthanc_id and member.orthanc_id not in identifiers:
            # The instances found belong to other patients.
            return False
        raise TargetError(
            "Orthanc has other bytes under this UID",
            "compare the two, and delete the wrong one before restoring",
        )

    def keep(self, member: Member, content: Reads) -> None:
        """Store the file and check that Orthanc shows the same MD5."""
        with self._spool.file() as file:
            copy(content, file)
            size = file.tell()
            file.seek(0)
            answer = self._call("POST", "/instances", content=pieces(file), length=size).json()
        if not isinstance(answer, dict) or answer.get("Status") not in ("Success", "AlreadyStored"):
            raise TargetError(f"Orthanc did not store it: {answer!r:.80}", "see Orthanc's log")
        # Orthanc also answers "AlreadyStored" if it keeps other bytes and drops ours.
        if self._md5(answer["ID"]) != member.md5:
            raise TargetError(
                f"Orthanc answered {answer['Status']} and has other bytes",
                "switch IngestTranscoding off, or delete what is there under this UID",
            )

    def _md5(self, identifier: str) -> str:
        return self._call("GET", f"/instances/{identifier}/attachments/dicom/md5").text

    def _call(
        self,
        method: str,
        path: str,
        content: bytes | Iterator[bytes] | None = None,
        length: int | None = None,
    ) -> httpx.Response:
        headers = {} if length is None else {"Content-Length": str(length)}
        try:
            answer = self._client.request(method, path, content=content, headers=headers)
            answer.raise_for_status()
        except httpx.HTTPStatusError as error:
            raise TargetError(
                f"Orthanc answered {error.response.status_code} to {method} {path}", "see Orthanc's log"
            ) from error
        except httpx.HTTPError as error:
            raise TargetError(
                f"Orthanc does not answer: {type(error).__name__}", "check that it runs, then start again"
            ) from error
        return answer
