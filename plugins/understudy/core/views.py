"""The types that screens, REST and monitors show: the status of the appliance and its operations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from understudy.core.model import HolderKind, HolderName, ProofKind, Timestamp
from understudy.core.modes import Mode
from understudy.core.obligations import ObligationState


def iso(at: Timestamp) -> str:
    """Return the moment in ISO 8601 with zone, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


def moment_of(text: str) -> Timestamp:
    """Return the moment that `iso` wrote."""
    return Timestamp(datetime.fromisoformat(text).timestamp())


Moment = Annotated[
    Timestamp,
    PlainSerializer(iso, return_type=str, when_used="json"),
    BeforeValidator(moment_of),
    WithJsonSchema({"type": "string"}),
]
"""A moment. REST writes it with `iso`; a caller of REST reads it back with `moment_of`."""


class PrimaryCondition(Enum):
    """The health of the primary after hysteresis."""

    UP = "up"
    DOWN = "down"
    """No connection, no association or no C-ECHO for `Policy.ProbeFailures` probes in a row."""
    REFUSES = "refuses"
    """The primary answers, but rejects our association for good or gives no usable answer to queries."""
    BUSY = "busy"
    """The primary rejects our association for now."""
    UNKNOWN = "unknown"


class Sign(Enum):
    """What one probe of the primary showed."""

    ANSWERS = "answers"
    """C-ECHO and C-FIND succeeded."""
    WORKS = "works"
    """The probe failed, but the primary answered other requests of ours or sent images meanwhile."""
    REFUSES = "refuses"
    BUSY = "busy"
    SILENT = "silent"

    @property
    def serves(self) -> bool:
        """Whether the primary served us."""
        return self in (Sign.ANSWERS, Sign.WORKS)


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe of the primary: the results of C-ECHO and C-FIND (`ok` or the error), and what they show."""

    at: str
    echo: str
    find: str
    sign: Sign


@dataclass(frozen=True, slots=True)
class PrimaryView:
    """The primary as the probes see it; `evidence` holds the last probes, newest first.

    `last_seen` is the time of the primary's last sign of life, None if there was none.
    """

    ae_title: str
    host: str
    port: int
    condition: PrimaryCondition
    since: str
    evidence: Sequence[Probe]
    last_seen: str | None = None


class LaneState(Enum):
    """What the lane to a holder does now."""

    IDLE = "idle"
    WORKING = "working"
    WAITING = "waiting"
    """The holder did not answer; the lane tries again at `until`."""
    PAUSED = "paused"
    """The lane waits until the mode changes."""


@dataclass(frozen=True, slots=True)
class LaneView:
    """The lane to one holder; `rate` is instances per second over the last batch."""

    state: LaneState
    reason: str
    since: str
    until: str | None
    rate: float


@dataclass(frozen=True, slots=True)
class ProofView:
    """The kind of proof that is asked of a holder for acknowledged instances, and why this kind."""

    kind: ProofKind
    because: str


@dataclass(frozen=True, slots=True)
class HolderView:
    """One holder with its number of obligations by state.

    `oldest_owed_seconds` is the age of the oldest unsettled obligation, `owed_since` the time when it began.
    `refused_since` is the time of the oldest refusal. Both times are None if there is no such obligation.
    """

    name: HolderName
    kind: HolderKind
    owed: int
    in_flight: int
    sent: int
    proven: int
    refused: int
    waived: int
    oldest_owed_seconds: float
    lane: LaneView
    proof: ProofView
    owed_since: str | None = None
    refused_since: str | None = None
    owed_limit_seconds: float = 900.0
    """Age of the oldest unsettled obligation at which an alarm is raised."""
    altered: int = 0
    """How often the holder stored an instance with a warning (coerced, for example), or got it transcoded."""


class OperationState(Enum):
    """The state of a long-running operation."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class OperationView:
    """One operation: `kind` is its verb, `rate` is in units per second, `report` is a path or None."""

    operation: int
    kind: str
    state: OperationState
    started: Moment
    updated: Moment
    message: str
    done: int
    total: int
    unit: str
    rate: float
    eta_seconds: float | None
    report: str | None
    details: Sequence[str] = ()
    """All reasons of a failure, one per line."""


class Urgency(Enum):
    """How soon a person has to act on an alarm."""

    NOW = "now"
    """The clinic has no PACS, or this standby refuses images."""
    SOON = "soon"
    LATER = "later"
    """Upkeep."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A condition that a person has to know of; `hint` says what to do about it."""

    since: str
    what: str
    hint: str
    urgency: Urgency = Urgency.SOON


@dataclass(frozen=True, slots=True)
class GapsView:
    """The known gaps; `oldest_seconds` is the age of the oldest one."""

    studies: int
    instances: int
    oldest_seconds: float
    since: str | None = None


class DamageState(Enum):
    """The state of a stored file that was found missing or changed."""

    OPEN = "open"
    HEALED = "healed"
    GONE = "gone"
    """Orthanc does not list the instance any more, so there is nothing to heal."""


class GapSide(Enum):
    """Where images of a study are missing."""

    HERE = "here"
    PRIMARY = "primary"
    """The primary was proven to have them, and no longer lists them."""


@dataclass(frozen=True, slots=True)
class GapView:
    """A study of which one side lacks images, by the last comparison with the primary."""

    study_instance_uid: str
    missing: GapSide
    instances: int
    since: Moment
    reason: str
    """Why it is not closed yet; empty if it waits for its turn, or if nothing closes it by itself."""


@dataclass(frozen=True, slots=True)
class DamageView:
    """One stored file that was found missing or changed, with the attempts to heal it."""

    file: str
    state: DamageState
    sop_instance_uid: str
    study_instance_uid: str
    orthanc_id: str
    md5: str
    """MD5 of the correct content."""
    found_by: str
    """The process that found the damage: `recover` or `scrub`."""
    since: Moment
    attempts: int
    reason: str


@dataclass(frozen=True, slots=True)
class FilesView:
    """The stored files: the results of Orthanc's starts and of the scrub."""

    recovering: int = 0
    """Files without a row in Orthanc's index that are being imported into Orthanc."""
    recovered: int = 0
    """Files that were imported after the last start."""
    quarantined: int = 0
    parked: int = 0
    """Instances that are refused because each of them ended Orthanc twice."""
    ended: int = 0
    """Unwanted ends of Orthanc in the last 24 h."""
    damaged: int = 0
    """Files that are missing or changed, and not healed."""
    healed: int = 0
    statistics_in_force: bool = True
    folders_left: int = 0
    """Folders that the last start had no time to check."""
    scrubbed: int = 0
    """Files that the current scrub has verified."""
    scrub_began: str | None = None
    scrub_ended: str | None = None
    """The end of the last complete scrub."""
    unknown_since: str | None = None
    """The time since when the results of Orthanc's starts cannot be read from the storage area, or None."""


class Tone(Enum):
    """The colour of the banner, which follows the most urgent alarm."""

    GOOD = "good"
    WARN = "warn"
    BAD = "bad"


class Fullness(Enum):
    """How full a volume is, by `Policy.WarnPercent` and `Policy.RefusePercent`."""

    FINE = "fine"
    WARN = "warn"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class VolumeView:
    """One volume; `days_left` are the days until `Policy.RefusePercent` is reached, None if not known."""

    name: str
    total_bytes: int
    free_bytes: int
    used_percent: float
    state: Fullness
    days_left: float | None


@dataclass(frozen=True, slots=True)
class UnknownVolume:
    """A volume that could not be measured since this time: its disk hangs, or the volume is gone."""

    name: str
    since: str


@dataclass(frozen=True, slots=True)
class DiskView:
    """The volumes, and whether new images are refused because one of them is full."""

    volumes: Sequence[VolumeView] = ()
    refusing: bool = False
    unknown: Sequence[UnknownVolume] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """The whole appliance at one moment.

    `horizon` is None before the first inventory diff. `rpo_seconds` is the age of the oldest instance that
    is not yet proven at a vault, 0 if there is no such instance.
    """

    site: str
    version: str
    ae_title: str
    now: str
    mode: Mode
    epoch: int
    mode_since: str
    primary: PrimaryView | None
    horizon: str | None
    rpo_seconds: float
    lag_seconds: float | None
    """Seconds since the horizon, even while the primary is down; None if there is no horizon."""
    gaps: GapsView
    instances: int
    studies: int
    holders: Sequence[HolderView]
    operations: Sequence[OperationView]
    alarms: Sequence[Alarm]
    files: FilesView = FilesView()
    disk: DiskView = DiskView()
    departed: int = 0
    """Instances that were proven at the primary and that it does not list any more."""
    loss_seconds: float | None = 0.0
    """Seconds from the horizon until now, or until the primary went down; None if there is no horizon.

    After a promotion now, images of this period may be missing here."""
    intake_refused: str = ""
    """Why new images are refused here, empty if they are accepted."""
    tone: Tone = Tone.GOOD
    """The colour of the banner."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Number of refusals by Orthanc's reception, by reason."""
    configuration_problems: Sequence[str] = ()
    """The faults of the configuration in the folder, if the last correct configuration runs in its place."""


@dataclass(frozen=True, slots=True)
class Glance:
    """A short status that waits for no disk. All but the mode comes from the last read of the ledger."""

    mode: Mode
    epoch: int
    since: str
    lag_seconds: float | None
    loss_seconds: float | None
    rpo_seconds: float
    intake_refused: str = ""
    unknown_since: str | None = None
    """The time since when the ledger does not answer, or None. Lag and RPO are not known meanwhile."""
    configuration_problems: Sequence[str] = ()
    """As in `Status`."""
    storage_unknown_since: str | None = None
    """The time since when no stored file can be read from its volume, or None."""


@dataclass(frozen=True, slots=True)
class ModeView:
    """The mode after an event."""

    mode: Mode
    epoch: int
    since: str


@dataclass(frozen=True, slots=True)
class ObligationView:
    """One obligation with its history; `hint` says what a person can do."""

    holder: HolderName
    state: ObligationState
    sop_instance_uid: str
    study_instance_uid: str
    attempts: int
    due: Moment
    changed: Moment
    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class DeletionView:
    """A deletion here, and the state of the deleted instances at the holders, as a number by holder."""

    study_instance_uid: str
    instances: int
    proven: Mapping[HolderName, int]
    """Instances that are proven at the holder."""
    unsettled: Mapping[HolderName, int]
    """Instances that were owed to the holder or not proven there. Only a forced deletion has any."""


@dataclass(frozen=True, slots=True)
class DeadLetterView:
    """Refused obligations that share holder and reason; `since` is when the first of them was refused.

    `sop_instance_uid` names one of the instances, `hint` says what a person can do.
    """

    holder: HolderName
    reason: str
    hint: str
    instances: int
    studies: int
    since: Moment
    latest: Moment
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class ConditionView:
    """A condition of a route in words, and the instance's values, empty if the attribute is absent."""

    asks: str
    values: Sequence[str]
    holds: bool


@dataclass(frozen=True, slots=True)
class DestinationView:
    """Whether a route owes an instance to a destination, and if not, why."""

    name: HolderName
    owed: bool
    because: str


@dataclass(frozen=True, slots=True)
class RouteView:
    """Whether a route matches an instance, and why."""

    name: str
    matches: bool
    because: str
    conditions: Sequence[ConditionView]
    destinations: Sequence[DestinationView]


@dataclass(frozen=True, slots=True)
class ExplanationView:
    """The routes' decision for a group of instances of a study, with the values of one of them.

    `unread` says why the stored file of that instance could not be read, and is empty if it could. `owed`
    are all holders that a new instance with the same values would be owed to.
    """

    instances: int
    sop_instance_uid: str
    unread: str
    routes: Sequence[RouteView]
    owed: Sequence[HolderName]


@dataclass(frozen=True, slots=True)
class ExplainedView:
    """The dry run of the routes over a study; instances with the same result share one explanation."""

    study_instance_uid: str
    instances: int
    explanations: Sequence[ExplanationView]


@dataclass(frozen=True, slots=True)
class PlanView:
    """The work of a failback: numbers of instances by study.

    `to_pull` counts the instances that only the primary received. `at` is the time when the comparison with
    the primary began.
    """

    at: str
    epoch: int
    primary_studies: int
    found_at_primary: int
    to_send: Mapping[str, int]
    to_pull: Mapping[str, int]
    lost_at_primary: int
    """Instances that were proven at the primary and have been lost there; `to_send` includes them."""
    refused: int


@dataclass(frozen=True, slots=True)
class RefusalView:
    """The refusals by Orthanc's reception from one device, for one reason and one SOP class, in words."""

    reason: str
    """A word from the table in docs/intake.md."""
    what: str
    hint: str
    count: int
    last: str
    sop_class_uid: str = ""
    keeps_images_out: bool = True
    """Whether an image was refused, and not a query or a service."""


@dataclass(frozen=True, slots=True)
class ModalityView:
    """A device that asked for an association, or an address that connected without AE titles.

    `known` says whether the allow-list has the device now. `instances` counts the instances received under
    this pair of AE titles, from any address. `remote_address` is the address that the network shows.
    `outcome` is a value of `core.gate.GateOutcome` for the last attempt, or empty if the edge has counted no
    attempt. `reason` is a detail of the outcome, and may be empty.
    """

    calling_ae_title: str
    called_ae_title: str
    remote_address: str
    instances: int
    first_seen: Moment
    last_seen: Moment
    known: bool = False
    tls: bool = False
    associations: int = 0
    """Accepted associations."""
    refused: int = 0
    outcome: str = ""
    reason: str = ""
    hint: str = ""
    """What to do about the outcome, empty if nothing is wrong."""
    refusals: Sequence[RefusalView] = ()
    """Refusals by Orthanc, behind the edge: refused images first, and the latest first."""


@dataclass(frozen=True, slots=True)
class ApprovalView:
    """An approval that was given or taken back; `live` says whether the running edge uses it already."""

    calling_ae_title: str
    network: str
    called_ae_title: str | None
    live: bool
