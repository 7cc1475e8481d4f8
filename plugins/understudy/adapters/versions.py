"""Reads the notes of the versions that Orthanc's plugin kept when other bytes replaced them."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from understudy.core.model import NewInstance, SeriesInstanceUid, SopInstanceUid, StudyInstanceUid, Timestamp
from understudy.plugin.recovery import NOTE_SUFFIX
from understudy.plugin.versions import SUFFIX, VERSIONS


class KeptVersions:
    """The folder `versions/` of the storage area."""

    def __init__(self, storage: Path) -> None:
        self._folder = storage / "understudy" / VERSIONS

    def names(self) -> Iterator[str]:
        """Yield the name of every kept version."""
        try:
            yield from (path.name for path in self._folder.iterdir() if path.name.endswith(SUFFIX))
        except FileNotFoundError:
            return

    def read(self, name: str) -> NewInstance | None:
        """Return the instance that the note of a kept version describes, None if the note cannot be read."""
        try:
            note = json.loads((self._folder / f"{name}{NOTE_SUFFIX}").read_text(encoding="utf-8"))
            return _instance(note)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None


def _instance(note: dict[str, Any]) -> NewInstance:
    metadata = note["metadata"]
    # Orthanc writes times without a zone; the service runs in UTC.
    received = datetime.strptime(metadata["ReceptionDate"], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    return NewInstance(
        orthanc_id=str(note["orthanc_id"]),
        attachment_uuid=str(note["attachment_uuid"]),
        sop_instance_uid=SopInstanceUid(note["sop_instance_uid"]),
        sop_class_uid=metadata.get("SopClassUid", ""),
        series_instance_uid=SeriesInstanceUid(note["series_instance_uid"]),
        study_instance_uid=StudyInstanceUid(note["study_instance_uid"]),
        transfer_syntax_uid=metadata.get("TransferSyntax", ""),
        modality=str(note["modality"]),
        size=int(note["size"]),
        md5=str(note["md5"]),
        calling_ae_title=metadata.get("RemoteAET", ""),
        called_ae_title=metadata.get("CalledAET", ""),
        remote_address=metadata.get("RemoteIP", ""),
        received_at=Timestamp(received.timestamp()),
    )
