"""A client for Orthanc's REST API: changes feed, instances and their files (Orthanc Book, REST API)."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, BinaryIO

import httpx

from understudy.adapters.pieces import pieces
from understudy.adapters.transcoding import NotDecodedError
from understudy.core.commitment import CommitmentReport
from understudy.core.model import NewInstance, SeriesInstanceUid, SopInstanceUid, StudyInstanceUid, Timestamp
from understudy.core.ports import Changes, OrthancUnavailableError

_BEYOND_ALL_CHANGES = 2**31 - 1
"""A cursor beyond every change; numbers in Orthanc's answers have 31 bits."""

_DELETED_AT_ONCE = 100
"""Instances per request; each costs a transaction of the index, and the request has a time limit."""

_KEEP_ALIVE = 0.5
"""Seconds for which an idle connection may be reused; Orthanc's own limit is 1 s (KeepAliveTimeout)."""

_WORK = 20.0
"""How many times longer Orthanc may be silent while it stores or transcodes one file. It answers only at the
end, and a large file takes minutes."""


class Orthanc:
    """Our own Orthanc, called over HTTP on the private network."""

    def __init__(self, address: str, user: str, secret: str, timeout: float) -> None:
        # Orthanc closes a connection that was idle for a second. We close ours before that, so that no
        # request is sent on a connection that Orthanc is closing.
        limits = httpx.Limits(keepalive_expiry=_KEEP_ALIVE)
        self._client = httpx.Client(base_url=address, auth=(user, secret), timeout=timeout, limits=limits)
        self._at_work = httpx.Timeout(timeout, read=_WORK * timeout)

    def changes(self, since: int, limit: int) -> Changes:
        """Return the instances stored after the cursor `since`, at most `limit`."""
        # Read the end of the whole feed first, because a page that is filtered by type may end before it.
        end = self.end()
        if end < since:
            return Changes((), end, done=True, was_reset=True)
        page = self._get(f"/changes?since={since}&limit={limit}&type=NewInstance")
        found = page["Changes"]
        done = bool(page["Done"])
        last = max(end, int(page["Last"])) if done else int(page["Last"])
        mark = _mark(found[-1]) if found else ""
        return Changes([change["ID"] for change in found], last, done, was_reset=False, mark=mark)

    def end(self) -> int:
        """Return the cursor after the last change.

        An empty page gives the last number that a change ever had. `/changes?last` gives the last change that
        is left. That number can go back, because a deletion removes the changes of the deleted resources.
        """
        page = self._get(f"/changes?since={_BEYOND_ALL_CHANGES}&limit=1")
        return int(page["Last"])

    def contradicts(self, mark: str) -> bool:
        """Return whether another change has this change's number; False if the change was removed."""
        number = int(mark.partition(" ")[0])
        found = self._get(f"/changes?since={number - 1}&limit=1")["Changes"]
        return bool(found) and found[0]["Seq"] == number and _mark(found[0]) != mark

    def describe(self, orthanc_ids: Sequence[str]) -> list[NewInstance]:
        """Return what Orthanc knows about these instances; those deleted meanwhile are left out."""
        if not orthanc_ids:
            return []
        request = {"Resources": list(orthanc_ids), "Level": "Instance", "Metadata": True}
        series: dict[str, tuple[str, str, str]] = {}
        described: list[NewInstance] = []
        for resource in self._post("/tools/bulk-content", request):
            parent = resource["ParentSeries"]
            file = self._find(f"/instances/{resource['ID']}/attachments/dicom/info")
            if parent not in series:
                identity = self._series(parent)
                if identity is None:
                    continue
                series[parent] = identity
            if file is not None:
                described.append(_instance(resource, file, series[parent]))
        return described

    def store(self, content: bytes) -> bool:
        """Store a DICOM Part 10 file; return whether the instance was new.

        Raises httpx.HTTPStatusError.
        """
        response = self._client.post("/instances", content=content, timeout=self._at_work)
        return bool(response.raise_for_status().json()["Status"] == "Success")

    def file_of(self, orthanc_id: str) -> str | None:
        """Return the name of the instance's stored file, None if Orthanc has no such instance."""
        info = self._find(f"/instances/{orthanc_id}/attachments/dicom/info")
        return None if info is None else str(info["Uuid"])

    def transcoded(self, orthanc_id: str, transfer_syntax_uid: str) -> bytes | None:
        """Return the instance's file in another transfer syntax, None if Orthanc does not give it.

        Orthanc leaves the stored file as it is (Orthanc Book, "Transcoding"). Raises NotDecodedError if our
        plugin refuses the transcoding.
        """
        path = f"/instances/{orthanc_id}/file?transcode={transfer_syntax_uid}"
        response = self._call("GET", path, None, self._at_work)
        if response.status_code == HTTPStatus.SERVICE_UNAVAILABLE:
            _answer(response)
        if response.status_code == HTTPStatus.UNPROCESSABLE_ENTITY:
            raise NotDecodedError(_reason(response))
        return None if response.is_error else response.content

    def commitment_report(self, transaction_uid: str) -> CommitmentReport | None:
        """Return the report that a DICOM party sent to Orthanc on a storage commitment transaction, or None.

        Orthanc keeps all reports in memory, even if it did not send the request (Orthanc, main.cpp,
        HandleReport).
        """
        found = self._find(f"/storage-commitment/{transaction_uid}")
        if found is None or found["Status"] == "Pending":
            return None
        return CommitmentReport(
            transaction_uid,
            frozenset(item["SOPInstanceUID"] for item in found["Success"]),
            {item["SOPInstanceUID"]: int(item["FailureReason"]) for item in found["Failures"]},
            found["RemoteAET"],
        )

    def delete(self, orthanc_id: str) -> None:
        """Delete an instance; do nothing if it is gone already."""
        response = self._call("DELETE", f"/instances/{orthanc_id}", None)
        if response.status_code != HTTPStatus.NOT_FOUND:
            _answer(response)

    def store_again(self, file: BinaryIO, size: int) -> None:
        """Store a DICOM Part 10 file of `size` bytes, or raise OrthancUnavailableError."""
        headers = {"Content-Length": str(size)}
        try:
            response = self._client.post(
                "/instances", content=pieces(file), headers=headers, timeout=self._at_work
            )
        except httpx.HTTPError as error:
            raise OrthancUnavailableError(f"{type(error).__name__} at POST /instances") from error
        _answer(response)

    def identifiers(self, start: int, limit: int) -> list[str]:
        """Return identifiers of the instances in the index, from position `start`, at most `limit`."""
        return [str(one) for one in self._get(f"/instances?since={start}&limit={limit}")]

    def held(self) -> int:
        """Return how many instances Orthanc has."""
        return int(self._get("/statistics")["CountInstances"])

    def listed(self, orthanc_ids: Sequence[str]) -> set[str]:
        """Return those of these instances that Orthanc has."""
        request = {"Resources": list(orthanc_ids), "Level": "Instance", "Metadata": False}
        return (
            {str(one["ID"]) for one in self._post("/tools/bulk-content", request)} if orthanc_ids else set()
        )

    def delete_all(self, orthanc_ids: Sequence[str]) -> None:
        """Delete exactly these instances; skip those that are gone already."""
        for start in range(0, len(orthanc_ids), _DELETED_AT_ONCE):
            wanted = self.listed(orthanc_ids[start : start + _DELETED_AT_ONCE])
            if wanted:
                # Orthanc's answer has no body.
                _succeeded(self._call("POST", "/tools/bulk-delete", {"Resources": sorted(wanted)}))

    def refuses_stores(self) -> bool:
        """Return whether Orthanc refuses stores because a sync failed (plugin/durability.py)."""
        text = _succeeded(self._call("GET", "/tools/metrics-prometheus", None)).text
        numbers = {words[0]: words[1] for line in text.splitlines() if len(words := line.split()) >= 2}
        failures, refusing = (
            float(numbers.get(f"understudy_{name}", 0)) for name in ("index_sync_failures", "refusing_stores")
        )
        # Before its first store the plugin also counts as refusing, because no sync has succeeded yet.
        return failures > 0 and refusing > 0

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _series(self, orthanc_id: str) -> tuple[str, str, str] | None:
        series = self._find(f"/series/{orthanc_id}")
        study = None if series is None else self._find(f"/studies/{series['ParentStudy']}")
        if series is None or study is None:
            return None
        tags = series["MainDicomTags"]
        return study["MainDicomTags"]["StudyInstanceUID"], tags["SeriesInstanceUID"], tags.get("Modality", "")

    def _find(self, path: str) -> Any:
        response = self._call("GET", path, None)
        return None if response.status_code == HTTPStatus.NOT_FOUND else _answer(response)

    def _get(self, path: str) -> Any:
        return _answer(self._call("GET", path, None))

    def _post(self, path: str, body: object) -> Any:
        return _answer(self._call("POST", path, body))

    def _call(
        self, method: str, path: str, body: object, timeout: httpx.Timeout | None = None
    ) -> httpx.Response:
        try:
            return self._client.request(method, path, json=body, timeout=timeout or self._client.timeout)
        except httpx.HTTPError as error:
            raise OrthancUnavailableError(
                f"{type(error).__name__} at {method} {path.partition('?')[0]}"
            ) from error


def _mark(change: Mapping[str, Any]) -> str:
    return f"{change['Seq']} {change['Date']} {change['ID']}"


def _reason(response: httpx.Response) -> str:
    """Return the reason in a refusal by our plugin."""
    try:
        return str(response.json()["Message"])
    except (ValueError, KeyError, TypeError):
        return "Orthanc does not decode it"


def _answer(response: httpx.Response) -> Any:
    return _succeeded(response).json()


def _succeeded(response: httpx.Response) -> httpx.Response:
    if response.is_error:
        raise OrthancUnavailableError(f"HTTP {response.status_code} at {response.request.url.path}")
    return response


def _instance(resource: dict[str, Any], file: dict[str, Any], series: tuple[str, str, str]) -> NewInstance:
    metadata = resource["Metadata"]
    study_instance_uid, series_instance_uid, modality = series
    # Orthanc writes times without a zone; the service runs in UTC.
    received = datetime.strptime(metadata["ReceptionDate"], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    return NewInstance(
        orthanc_id=resource["ID"],
        attachment_uuid=file["Uuid"],
        sop_instance_uid=SopInstanceUid(resource["MainDicomTags"]["SOPInstanceUID"]),
        sop_class_uid=metadata.get("SopClassUid", ""),
        series_instance_uid=SeriesInstanceUid(series_instance_uid),
        study_instance_uid=StudyInstanceUid(study_instance_uid),
        transfer_syntax_uid=metadata.get("TransferSyntax", ""),
        modality=modality,
        size=int(file["UncompressedSize"]),
        md5=file["UncompressedMD5"],
        calling_ae_title=metadata.get("RemoteAET", ""),
        called_ae_title=metadata.get("CalledAET", ""),
        remote_address=metadata.get("RemoteIP", ""),
        received_at=Timestamp(received.timestamp()),
    )
