"""What people and monitors are shown, as types: the status of the appliance and its operations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

from understudy.core.model import HolderKind, HolderName, ProofKind, Timestamp
from understudy.core.modes import Mode
from understudy.core.obligations import ObligationState


def iso(at: Timestamp) -> str:
    """Return the moment in ISO 8601 with zone, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")


class Condition(Enum):
    """The health of the primary after hysteresis."""

    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Probe:
    """One look at the primary: C-ECHO and C-FIND, each `ok` or the reason why not."""

    at: str
    echo: str
    find: str


@dataclass(frozen=True, slots=True)
class PrimaryView:
    """The primary as the probes see it; `evidence` holds the last probes, newest first."""

    ae_title: str
    host: str
    port: int
    condition: Condition
    since: str
    evidence: Sequence[Probe]


class LaneState(Enum):
    """What the lane to a holder does now."""

    IDLE = "idle"
    WORKING = "working"
    WAITING = "waiting"
    """The holder did not answer; the lane tries again at `until`."""
    PAUSED = "paused"
    """The mode keeps it still."""


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
    started: str
    updated: str
    message: str
    done: int
    total: int
    unit: str
    rate: float
    eta_seconds: float | None
    report: str | None


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that a person has to know, and what to do about it."""

    since: str
    what: str
    hint: str


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
    since: str
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
class DiskView:
    """The volumes, and whether new images are refused because one of them is full."""

    volumes: Sequence[VolumeView] = ()
    refusing: bool = False


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
    lag_seconds: float
    """Seconds since the horizon, or the age of the appliance's ledger before the first inventory diff."""
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
    due: str
    changed: str
    reason: str
    hint: str


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
    since: str
    latest: str
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
    """What a failback would do, in instances: `to_send` by study, `to_pull` what the primary got alone."""

    epoch: int
    primary_studies: int
    found_at_primary: int
    to_send: Mapping[str, int]
    to_pull: Mapping[str, int]
    lost_at_primary: int
    """Instances that the primary was proven to have and has no more; they are among `to_send`."""
    refused: int


@dataclass(frozen=True, slots=True)
class ModalityView:
    """A device that asked for an association, or an attempt without AE titles; addresses are the network's.

    `known` is what the allow-list says now. `instances` counts what came under the pair of AE titles, from
    any address. `outcome` is that of the last attempt: accepted, refused_calling, refused_called,
    refused_limit, refused_full, no_association or tls_failed; empty where the edge reported nothing.
    """

    calling_ae_title: str
    called_ae_title: str
    remote_address: str
    instances: int
    first_seen: str
    last_seen: str
    known: bool = False
    tls: bool = False
    associations: int = 0
    """Accepted ones."""
    refused: int = 0
    outcome: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ApprovalView:
    """An approval that was given or taken back, and whether the running edge acts by it already."""

    calling_ae_title: str
    network: str
    called_ae_title: str | None
    live: bool
