"""What the peer does, as data: with associations, instances, questions and requests for commitment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    MRImageStorage,
)

SUCCESS = 0x0000


class Kept(Enum):
    """What becomes of an instance that has come whole."""

    AS_SENT = "as sent"
    NOT = "not"
    RENAMED = "under another SOP Instance UID"


class Ending(Enum):
    """How a connection is ended without a release."""

    ABORT = "A-ABORT of the service user"
    PROVIDER_ABORT = "A-ABORT of the service provider"
    CLOSE = "the connection is closed"
    RESET = "the connection is reset (RST)"
    GARBAGE = "bytes that are no PDU, then the connection is closed"


@dataclass(frozen=True, slots=True)
class Answer:
    """Say this DIMSE status; STOW-RS says the same by the Failure or Warning Reason of that number.

    Nothing is kept of what is refused, whatever `kept` says.
    """

    status: int = SUCCESS
    kept: Kept = Kept.AS_SENT

    @property
    def stores(self) -> bool:
        """Whether the status says that the instance is stored (DICOM PS3.7 C)."""
        return self.status in (SUCCESS, 0x0001, 0x0107, 0x0116) or self.status >> 12 == 0xB


@dataclass(frozen=True, slots=True)
class Break:
    """End the connection after so many bytes of the request, or after all of it where none are named."""

    ending: Ending
    after_bytes: int | None = None
    kept: Kept = Kept.NOT
    """Of a request that has come whole."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Read nothing more after so many bytes, or answer nothing, until the peer is told to go on or ends."""

    after_bytes: int | None = None
    kept: Kept = Kept.NOT
    """Of a request that has come whole."""


@dataclass(frozen=True, slots=True)
class Trickle:
    """Send the answer byte by byte, `pause` seconds apart, and hang after `most` bytes where given."""

    pause: float = 0.001
    most: int | None = None
    kept: Kept = Kept.AS_SENT


Act = Answer | Break | Hang | Trickle
"""What is done with one instance."""


class Listing(Enum):
    """How questions for what is kept are answered."""

    WHOLE = "whole"
    EMPTY = "as if nothing was there"
    SILENT = "not at all"
    REFUSED = "with a failure"
    ABORTED = "by the end of the association, as from somebody unknown; over HTTP with 403"


class Reporting(Enum):
    """How a storage commitment is reported (DICOM PS3.4 J.3.3)."""

    SAME_ASSOCIATION = "on the association of the request; on another one where that has ended"
    OTHER_ASSOCIATION = "on an association that the peer opens"
    TWICE = "twice, each on an association that the peer opens"
    WHEN_TOLD = "when the test says so, on an association that the peer opens"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Script:
    """Everything that the peer does; by default what a faultless archive does."""

    rejection: tuple[int, int, int] | None = None
    """Result, source and reason with which every association is rejected (DICOM PS3.8 9.3.4)."""
    deaf: bool = False
    """Whether an association request stays without any answer."""
    sop_classes: tuple[str, ...] = (CTImageStorage, MRImageStorage)
    transfer_syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit)
    answers_queries: bool = True
    """Whether it accepts presentation contexts for queries."""
    act: Act = field(default_factory=Answer)
    every: int = 1
    """The act is done with every n-th instance that came since the script was set; the others are stored."""
    only: tuple[int, ...] = ()
    """Or with these alone, counted from 1."""
    poison: Mapping[str, int] = field(default_factory=dict)
    """Statuses that instances are refused with, by SOP Instance UID, whatever else is to be done."""
    refuses_duplicates: bool = False
    """Whether an instance whose UID is kept already is answered with 0111."""
    listing: Listing = Listing.WHOLE
    altered: frozenset[str] = frozenset()
    """SOP Instance UIDs that are given back with another content than they came with."""
    withheld: frozenset[str] = frozenset()
    """SOP Instance UIDs that are listed and not given back."""
    get_status: int | None = None
    """What every C-GET ends with, without an instance."""
    reporting: Reporting = Reporting.SAME_ASSOCIATION
    report_after: int = 0
    """Instances that have to have come before it reports."""
    commitment_status: int = SUCCESS
    """What a request for commitment is answered with; no report follows a failure."""
    uncommitted: Mapping[str, int] = field(default_factory=dict)
    """Failure reasons to report, by SOP Instance UID; what is not kept fails with 0112 (no such instance)."""
    http_status: int | None = None
    """What every request of DICOMweb is answered with, without a body; nothing is kept of it."""
    unmentioned: frozenset[str] = frozenset()
    """SOP Instance UIDs that a report, or the body of an answer to STOW-RS, leaves out."""

    def of_instance(self, ordinal: int) -> Act:
        """Return what to do with an instance; they are counted from 1."""
        chosen = ordinal in self.only if self.only else ordinal % self.every == 0
        return self.act if chosen else Answer()
