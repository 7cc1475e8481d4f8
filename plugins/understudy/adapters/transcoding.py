"""Transcoding by our own Orthanc. The stored file stays as it is, and the copy is checked."""

from io import BytesIO
from typing import Protocol

from understudy.adapters.part10 import BrokenFileError, examine_stream
from understudy.core.model import Instance
from understudy.core.ports import OrthancUnavailableError, UnreadableFileError


class NotDecodedError(Exception):
    """Orthanc does not decode the instance; the message gives the reason, and of the file only numbers."""


class Copies(Protocol):
    """The part of Orthanc's REST API that makes copies."""

    def transcoded(self, orthanc_id: str, transfer_syntax_uid: str) -> bytes | None:
        """Return the instance's file in another transfer syntax, None if Orthanc does not give it.

        Raises OrthancUnavailableError, and NotDecodedError if our plugin refuses the transcoding
        (plugin/decoding.py).
        """
        ...


class Transcoder:
    """Gives copies of stored files in another transfer syntax."""

    def __init__(self, orthanc: Copies) -> None:
        self._orthanc = orthanc

    def __call__(self, instance: Instance, transfer_syntax_uid: str) -> bytes:
        """Return the copy, or raise UnreadableFileError.

        The copy has to have the same SOP Instance UID; a lossy compression, which makes a new UID, is
        refused.
        """
        wish = f"transcoded from {instance.transfer_syntax_uid} to {transfer_syntax_uid}"
        try:
            content = self._orthanc.transcoded(instance.orthanc_id, transfer_syntax_uid)
        except OrthancUnavailableError as error:
            raise UnreadableFileError(f"it cannot be {wish} now: {error}", permanent=False) from error
        except NotDecodedError as error:
            raise UnreadableFileError(f"it cannot be {wish}: {error}", permanent=True) from error
        if content is None:
            raise UnreadableFileError(f"it cannot be {wish} by Orthanc", permanent=True)
        try:
            copy = examine_stream(BytesIO(content), len(content))
        except BrokenFileError as error:
            raise UnreadableFileError(f"it is broken when {wish}: {error}", permanent=True) from error
        found = (copy.sop_instance_uid, copy.transfer_syntax_uid)
        if found != (instance.sop_instance_uid, transfer_syntax_uid):
            raise UnreadableFileError(f"it is another object when {wish}", permanent=True)
        return content
