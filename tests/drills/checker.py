"""Compares what senders were told with what is there: the acknowledged-set check.

Rule 1: what is there is read from the server as its users read it, file by file; its counts are not believed.
"""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Protocol

import httpx

from tests.drills.sender import Answer
from tests.lab import dataset_bytes


class Archive(Protocol):
    """Something that can be asked for its instances."""

    def instances(self) -> Mapping[str, str]:
        """Return every instance: SOP Instance UID to the archive's own identifier."""

    def dataset_sha256(self, identifier: str) -> str | None:
        """Return the digest of the instance's dataset, None where it cannot be read."""


_PAGE = 500
"""Instances that are listed at a time."""


class RestArchive:
    """An Orthanc, asked through its REST API."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def instances(self) -> dict[str, str]:
        """Return every instance: SOP Instance UID to Orthanc's identifier."""
        found: dict[str, str] = {}
        for since in count(0, _PAGE):
            page = {"expand": "", "limit": str(_PAGE), "since": str(since)}
            instances = self._client.get("/instances", params=page).raise_for_status().json()
            found |= {one["MainDicomTags"]["SOPInstanceUID"]: str(one["ID"]) for one in instances}
            if len(instances) < _PAGE:
                break
        return found

    def dataset_sha256(self, identifier: str) -> str | None:
        """Return the digest of the instance's dataset, None where Orthanc cannot read the file."""
        answer = self._client.get(f"/instances/{identifier}/file")
        if answer.status_code != 200:
            return None
        return hashlib.sha256(dataset_bytes(answer.content)).hexdigest()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the instances that were sent."""

    acknowledged: int
    unknown: int
    """Sent, and neither acknowledged nor refused in the end."""
    unknown_present: int
    refused: int
    lost: tuple[str, ...]
    """Acknowledged and not there."""
    damaged: tuple[str, ...]
    """Acknowledged and there with other bytes, or unreadable."""
    never_sent: tuple[str, ...]

    @property
    def kept(self) -> bool:
        """Whether every acknowledged instance is there as it was sent, and nothing else is."""
        return not (self.lost or self.damaged or self.never_sent)


def as_of(answers: Iterable[Answer], moment: float) -> list[Answer]:
    """Return the answers as they stood at a moment: those that came later count as not given."""
    return [answer if answer.answered <= moment else replace(answer, status=None) for answer in answers]


def check(answers: Sequence[Answer], archive: Archive, *, earlier: Collection[str] = frozenset()) -> Verdict:
    """Compare the answers with the archive, which may have instances of `earlier` runs as well."""
    sent = {answer.sop_instance_uid: answer.dataset_sha256 for answer in answers}
    acknowledged = {answer.sop_instance_uid for answer in answers if answer.stored}
    unknown = {answer.sop_instance_uid for answer in answers if answer.status is None} - acknowledged
    present = archive.instances()
    return Verdict(
        acknowledged=len(acknowledged),
        unknown=len(unknown),
        unknown_present=len(unknown & present.keys()),
        refused=len(sent.keys() - acknowledged - unknown),
        lost=tuple(sorted(acknowledged - present.keys())),
        damaged=tuple(
            sorted(
                uid
                for uid in acknowledged & present.keys()
                if archive.dataset_sha256(present[uid]) != sent[uid]
            )
        ),
        never_sent=tuple(sorted(present.keys() - sent.keys() - set(earlier))),
    )
