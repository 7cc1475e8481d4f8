"""What people and monitors are shown, as types: the status of the appliance and its operations."""

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
"""A moment that REST writes as `iso` does, and that its callers read back."""


class PrimaryCondition(Enum):
    """The health of the primary after hysteresis."""

    UP = "up"
    DOWN = "down"
    """No connection, no association or no C-ECHO, for as many probes in a row as the policy says."""
    REFUSES = "refuses"
    """It answers, and refuses us: our association or our queries."""
    BUSY = "busy"
    """It answers that it takes no further association for now."""
    UNKNOWN = "unknown"


class Sign(Enum):
    """What one probe of the primary showed."""

    ANSWERS = "answers"
    """C-ECHO and C-FIND."""
    WORKS = "works"
    """The probe failed, and meanwhile the primary answered other requests of ours or sent images."""
    REFUSES = "refuses"
    BUSY = "busy"
    SILENT = "silent"

    @property
    def serves(self) -> bool:
        """Whether the primary served us."""
        return self in (Sign.ANSWERS, Sign.WORKS)


@dataclass(frozen=True, slots=True)
class Probe:
    """One look at the primary: C-ECHO and C-FIND, each `ok` or the reason why not, and what that shows."""

    at: str
    echo: str
    find: str
    sign: Sign


@dataclass(frozen=True, slots=True)
class PrimaryView:
    """The primary as the probes see it; `evidence` holds the last probes, newest first.

    `last_seen` is when it last gave any sign of life, None where it never did.
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
    """The lane waits while the mode lasts."""


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
    """By what a holder is proven to have what it acknowledged, and why it is that."""

    kind: ProofKind
    because: str


@dataclass(frozen=True, slots=True)
class HolderView:
    """One holder with its obligations by state; `oldest_owed_seconds` is the oldest unsettled one's age.

    `owed_since` and `refused_since` are when the oldest unsettled one was owed and the first refused one was
    refused; None where there is none.
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
    """Age of the oldest at which an alarm is raised."""
    altered: int = 0
    """How often it stored an instance with a warning, coerced for one, or got another encoding of it."""


class OperationState(Enum):
    """Where a long-running operation stands."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class OperationView:
    """One operation: `kind` is the verb, `rate` units per second, `report` the path of its report or None."""

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
    """Where it failed, every reason, a line each."""


class Urgency(Enum):
    """How soon a person has to act on an alarm."""

    NOW = "now"
    """The clinic is without its PACS, or this standby refuses images."""
    SOON = "soon"
    LATER = "later"
    """Upkeep."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that a person has to know, and what to do about it."""

    since: str
    what: str
    hint: str
    urgency: Urgency = Urgency.SOON


@dataclass(frozen=True, slots=True)
class GapsView:
    """What the primary has and we do not yet; the age is that of the oldest known gap in seconds."""

    studies: int
    instances: int
    oldest_seconds: float
    since: str | None = None


class DamageState(Enum):
    """What became of a stored file that was found missing or changed."""

    OPEN = "open"
    HEALED = "healed"
    GONE = "gone"
    """Orthanc does not list its instance any more: there is nothing to heal."""


@dataclass(frozen=True, slots=True)
class DamageView:
    """One stored file that was found missing or changed, and what was tried."""

    file: str
    state: DamageState
    sop_instance_uid: str
    study_instance_uid: str
    orthanc_id: str
    md5: str
    """Of the content that it has to have."""
    found_by: str
    """The verb that found it: recover or scrub."""
    since: Moment
    attempts: int
    reason: str


@dataclass(frozen=True, slots=True)
class FilesView:
    """The stored files: what starts of Orthanc found, and what the scrub knows of them."""

    recovering: int = 0
    """Files without an index row that are being read in."""
    recovered: int = 0
    """Of the last start."""
    quarantined: int = 0
    parked: int = 0
    """Instances that are refused because Orthanc ended on them twice."""
    ended: int = 0
    """Unwanted ends of Orthanc in the last 24 h."""
    damaged: int = 0
    """Missing or changed, and not healed."""
    healed: int = 0
    statistics_in_force: bool = True
    folders_left: int = 0
    """Folders that the last start had no time to look at."""
    scrubbed: int = 0
    """Files that the present scrub has verified."""
    scrub_began: str | None = None
    scrub_ended: str | None = None
    """When the last whole scrub ended."""
    unknown_since: str | None = None
    """Since when the storage area does not tell what starts of Orthanc left, None where it does."""


class Tone(Enum):
    """How well the appliance is, in one word: that of its most urgent alarm."""

    GOOD = "good"
    WARN = "warn"
    BAD = "bad"


class Fullness(Enum):
    """How full a volume is, by the marks of the policy."""

    FINE = "fine"
    WARN = "warn"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class VolumeView:
    """One volume as people are shown it; `days_left` until the last mark, None where nothing can be said."""

    name: str
    total_bytes: int
    free_bytes: int
    used_percent: float
    state: Fullness
    days_left: float | None


@dataclass(frozen=True, slots=True)
class UnknownVolume:
    """A volume that nobody could measure since then: its disk hangs, or it is gone."""

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

    `horizon` is the moment up to which the standby is known to be complete, None before the first inventory
    diff; `rpo_seconds` is the age of the oldest instance that a vault is not proven to have, 0 where there is
    none.
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
    """Seconds since the horizon, whatever the primary does; None where there is no horizon."""
    gaps: GapsView
    instances: int
    studies: int
    holders: Sequence[HolderView]
    operations: Sequence[OperationView]
    alarms: Sequence[Alarm]
    files: FilesView = FilesView()
    disk: DiskView = DiskView()
    departed: int = 0
    """Instances that the primary was proven to have and does not list any more."""
    loss_seconds: float | None = 0.0
    """Seconds that the primary lived after the horizon, of whose images a promotion now may lack some; None
    where there is no horizon. Once the primary is down it receives nothing, and this grows no more."""
    intake_refused: str = ""
    """Why new images are refused here, empty where they are taken."""
    tone: Tone = Tone.GOOD
    """The colour of the banner."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """How often Orthanc's reception refused something, by reason."""
    configuration_problems: Sequence[str] = ()
    """What is wrong with the configuration in the folder, where the last one in order runs instead."""


@dataclass(frozen=True, slots=True)
class Glance:
    """What is told without a look at any disk; all but the mode was seen by the last look at the ledger."""

    mode: Mode
    epoch: int
    since: str
    lag_seconds: float | None
    loss_seconds: float | None
    rpo_seconds: float
    intake_refused: str = ""
    unknown_since: str | None = None
    """Since when the ledger does not answer, None while it does; lag and RPO are not known then."""
    configuration_problems: Sequence[str] = ()
    """As in `Status`."""
    storage_unknown_since: str | None = None
    """Since when the volume of the stored files gives none, None while it does."""


@dataclass(frozen=True, slots=True)
class ModeView:
    """The mode after an event."""

    mode: Mode
    epoch: int
    since: str


@dataclass(frozen=True, slots=True)
class ObligationView:
    """One obligation with what is known of it; `hint` says what a person can do."""

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
    """What was deleted here, and how it stood with the holders: instances by holder."""

    study_instance_uid: str
    instances: int
    proven: Mapping[HolderName, int]
    """Who has it."""
    unsettled: Mapping[HolderName, int]
    """Who was owed it or not proven to have it: by force alone."""


@dataclass(frozen=True, slots=True)
class DeadLetterView:
    """Refused obligations that share holder and reason; `since` is when the first of them was refused.

    `sop_instance_uid` is one of them, `hint` says what a person can do.
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
    """A condition of a route in words, and the values that it met; none where the attribute is absent."""

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
    """What a route says to an instance."""

    name: str
    matches: bool
    because: str
    conditions: Sequence[ConditionView]
    destinations: Sequence[DestinationView]


@dataclass(frozen=True, slots=True)
class ExplanationView:
    """What the routes say to so many instances of a study, with the values of one of them.

    `unread` tells why its stored file could not be looked into, and is empty where it could; `owed` are all
    holders that a new instance like it would be owed to.
    """

    instances: int
    sop_instance_uid: str
    unread: str
    routes: Sequence[RouteView]
    owed: Sequence[HolderName]


@dataclass(frozen=True, slots=True)
class ExplainedView:
    """The dry run of the routes over a study: one explanation for all instances that fare the same."""

    study_instance_uid: str
    instances: int
    explanations: Sequence[ExplanationView]


@dataclass(frozen=True, slots=True)
class PlanView:
    """What a failback would do, in instances: `to_send` by study, `to_pull` what the primary got alone.

    `at` is when the comparison with the primary began.
    """

    at: str
    epoch: int
    primary_studies: int
    found_at_primary: int
    to_send: Mapping[str, int]
    to_pull: Mapping[str, int]
    lost_at_primary: int
    """Instances that the primary was proven to have and has no more; they are among `to_send`."""
    refused: int


@dataclass(frozen=True, slots=True)
class RefusalView:
    """What Orthanc's reception refused from one device for one reason and one SOP class, in words."""

    reason: str
    """A word of the table in docs/intake.md."""
    what: str
    hint: str
    count: int
    last: str
    sop_class_uid: str = ""
    keeps_images_out: bool = True
    """Whether images do not arrive by it."""


@dataclass(frozen=True, slots=True)
class ModalityView:
    """A device that asked for an association, or an attempt without AE titles; addresses are the network's.

    `known` is what the allow-list says now. `instances` counts what came under the pair of AE titles, from
    any address. `outcome` is that of the last attempt, in the words of `core.gate.GateOutcome`:
    accepted, refused_ with what was wrong, no_association or tls_failed; empty where the edge counted
    nothing. `reason` says more where there is more to say.
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
    """Accepted ones."""
    refused: int = 0
    outcome: str = ""
    reason: str = ""
    hint: str = ""
    """What to do about the outcome, empty where nothing is wrong."""
    refusals: Sequence[RefusalView] = ()
    """What Orthanc refused behind the edge: first what keeps images out, and the latest first."""


@dataclass(frozen=True, slots=True)
class ApprovalView:
    """An approval that was given or taken back, and whether the running edge acts by it already."""

    calling_ae_title: str
    network: str
    called_ae_title: str | None
    live: bool
