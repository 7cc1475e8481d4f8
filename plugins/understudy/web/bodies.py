"""The bodies and queries that callers send: unknown keys are refused, and all problems are listed at once."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from understudy.config import AeTitle, Network
from understudy.core.deletion import Deletion
from understudy.core.gate import Allowed
from understudy.core.model import StudyInstanceUid
from understudy.core.modes import Mode
from understudy.core.obligations import ObligationState, Selection
from understudy.core.views import ApprovalView

Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=500),
    Field(
        description="Why, for the event log; no patient's name or number.", examples=["PACS does not start"]
    ),
]
Epoch = Annotated[
    int,
    Field(
        ge=0,
        description="The epoch that you saw in the status; another one is refused with 409.",
        examples=[7],
    ),
]
HolderText = Annotated[
    str,
    Field(
        min_length=1, max_length=64, description="Name of the holder, as in the status.", examples=["primary"]
    ),
]
SopInstanceUids = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=64)]],
    Field(min_length=1, max_length=10_000, description="SOP Instance UIDs (0008,0018), 10000 at most."),
]


StudyText = Annotated[
    str,
    Field(
        min_length=1, max_length=256, description="Study Instance UID (0020,000D).", examples=["1.2.840.1"]
    ),
]


SeriesText = Annotated[
    str,
    Field(
        min_length=1, max_length=256, description="Series Instance UID (0020,000E).", examples=["1.2.840.2"]
    ),
]


class _Body(BaseModel):
    # Strict, because a lax check could take a string for a boolean, and so promote by force.
    model_config = ConfigDict(extra="forbid", strict=True)


class Nothing(_Body):
    """An empty object."""


class Delete(_Body):
    """Delete a study here, or only a series or some instances of it."""

    study_instance_uid: StudyText
    series_instance_uid: SeriesText | None = Field(default=None)
    sop_instance_uids: SopInstanceUids | None = Field(default=None)
    reason: Reason
    force: bool = Field(
        default=False, description="Delete even if it is proven at no other holder, or owed to one."
    )

    @property
    def what(self) -> Deletion:
        """The instances to delete."""
        return Deletion(
            StudyInstanceUid(self.study_instance_uid), self.series_instance_uid, self.sop_instance_uids
        )


class Heal(_Body):
    """Try now to heal missing or changed files."""

    missed: bool = Field(
        default=False,
        description="Bring back, too, what Orthanc lacked after its index was replaced or restored; a person "
        "may have deleted some of it before.",
    )


class Promote(_Body):
    """Take the primary's place."""

    reason: Reason
    force: bool = Field(
        default=False, description="Promote even if the probes do not show that the primary is down."
    )
    accept_loss: bool = Field(
        default=False,
        description="Promote although images are known to be missing, the mirror lags more than "
        "Policy.MaxLag, or nobody knows what is missing.",
    )
    epoch: Epoch


class BeginFailback(_Body):
    """Begin the failback, or only show what it would do."""

    dry_run: bool = Field(default=False, description="Answer with the plan and change nothing.")
    epoch: Epoch | None = Field(
        default=None, description="The epoch that you saw; needed unless `dry_run`.", examples=[7]
    )

    @model_validator(mode="after")
    def _epoch_named(self) -> Self:
        if not self.dry_run and self.epoch is None:
            raise ValueError("epoch is needed unless dry_run is true")
        return self


class Settle(_Body):
    """End the failback: the primary serves again."""

    epoch: Epoch
    override_quiet: Reason | None = Field(
        default=None,
        description="Why to settle although a modality has stored here within Policy.QuietPeriod.",
    )


class Reasoned(_Body):
    """A change of mode with its reason."""

    reason: Reason
    epoch: Epoch


class AcceptRecipients(_Body):
    """The recipients of a vault were changed on purpose."""

    vault: str = Field(min_length=1, max_length=64, description="The vault's name.", examples=["local"])
    reason: Reason


class Fingerprint(BaseModel):
    """The fingerprint of a vault's recipients, which a person compares."""

    fingerprint: str = Field(examples=["1a2b 3c4d 5e6f 7a8b"])


class _Selecting(_Body):
    sop_instance_uids: SopInstanceUids | None = Field(default=None, description="Only these instances.")
    study_instance_uid: StudyText | None = Field(default=None, description="Only this study.")
    epoch: Epoch | None = Field(
        default=None, description="The epoch that you saw; another one is refused with 409.", examples=[7]
    )


class Replay(_Selecting):
    """Owe refused instances again: all of them, or those that match every given key."""

    holder: HolderText | None = Field(default=None, description="Only this holder.")
    reason: Reason | None = Field(default=None, description="The fix, for the event log.")

    @property
    def selection(self) -> Selection:
        """Which obligations are meant."""
        return Selection(self.holder, self.sop_instance_uids, self.study_instance_uid)


class Waive(_Selecting):
    """Give up instances for one holder, for good."""

    holder: HolderText
    reason: Reason

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.sop_instance_uids is None and self.study_instance_uid is None:
            raise ValueError(
                "sop_instance_uids or study_instance_uid is needed: a waiver of everything is not possible"
            )
        return self

    @property
    def selection(self) -> Selection:
        """Which obligations are meant."""
        return Selection(self.holder, self.sop_instance_uids, self.study_instance_uid)


class Explain(_Body):
    """Ask which routes match a study that is here, and why."""

    study_instance_uid: StudyText


class Device(_Body):
    """A device of the allow-list."""

    calling_ae_title: AeTitle
    address: Network
    called_ae_title: AeTitle | None = Field(
        default=None, description="The only AE title that it may call; any if absent."
    )

    @property
    def entry(self) -> Allowed:
        """The entry of the allow-list."""
        return Allowed(self.calling_ae_title, self.address, self.called_ae_title)

    def view(self, *, live: bool) -> ApprovalView:
        """The answer."""
        return ApprovalView(self.calling_ae_title, self.address, self.called_ae_title, live)


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid")


class HealthQuery(_Query):
    """The conditions under which the caller takes the appliance for healthy."""

    alive: bool = Field(
        default=False, description="Healthy if the agent answers, even if images are refused here."
    )
    role: Mode | None = Field(default=None, description="Healthy only in this mode.")
    max_lag: float | None = Field(
        default=None,
        ge=0,
        description="Healthy only if a promotion now loses no more seconds of the primary's work than this.",
    )


class OperationsQuery(_Query):
    """Which operations."""

    limit: int = Field(default=50, ge=1, le=1000, description="Largest number of entries, newest first.")


class LettersQuery(_Query):
    """Which dead letters."""

    holder: str | None = Field(default=None, min_length=1, max_length=64, description="Only this holder.")
    study_instance_uid: str | None = Field(
        default=None, min_length=1, max_length=256, description="Only this Study Instance UID."
    )

    @property
    def selection(self) -> Selection:
        """Which obligations are meant."""
        return Selection(self.holder, None, self.study_instance_uid)


class ObligationsQuery(LettersQuery):
    """Which obligations."""

    state: ObligationState | None = Field(default=None, description="Only in this state.")
    limit: int = Field(default=100, ge=1, le=10_000, description="Largest number of entries.")


class DamagesQuery(_Query):
    """Which damages, and how many."""

    missed: bool = Field(
        default=False,
        description="Only instances that a rescan did not find in Orthanc and that nobody asked to heal.",
    )
    limit: int = Field(default=100, ge=1, le=10_000, description="Largest number of entries.")


class GapsQuery(_Query):
    """How many gaps."""

    limit: int = Field(default=100, ge=1, le=10_000, description="Largest number of studies.")


class ConflictsQuery(_Query):
    """Which conflicts."""

    everything: bool = Field(default=False, description="Also conflicts that need no action.")
    sop_instance_uid: str | None = Field(
        default=None, min_length=1, max_length=256, description="Only this SOP Instance UID (0008,0018)."
    )
    limit: int = Field(default=100, ge=1, le=10_000, description="Largest number of entries, latest first.")


class Acknowledge(_Body):
    """Close a conflict; both versions stay."""

    reason: Reason


class HealthAnswer(BaseModel):
    """The health in short."""

    healthy: bool
    mode: Mode
    epoch: int
    lag_seconds: float | None = Field(description="Since the horizon; null if there is none.")
    loss_seconds: float | None = Field(
        description="Of the primary's work, that a promotion now may lack; null if not known."
    )
    rpo_seconds: float
    reasons: list[str] = Field(description="Why it is not healthy; empty if it is healthy.")
    degraded: list[str] = Field(
        default=[],
        description="The faults of the configuration, while the last correct one runs in its place. The "
        "appliance is healthy all the same.",
    )


class Changed(BaseModel):
    """How many obligations changed."""

    changed: int = Field(description="Obligations whose state changed.")
