"""The appliance as the REST API sees it: Protocols, so that the API can be tested without an Orthanc."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from understudy.core.conflicts import ConflictView
from understudy.core.deletion import Deletion
from understudy.core.gate import Allowed
from understudy.core.model import HolderName
from understudy.core.obligations import ObligationState, Selection
from understudy.core.views import (
    DamageView,
    DeadLetterView,
    DeletionView,
    ExplainedView,
    Glance,
    ModalityView,
    ModeView,
    ObligationView,
    OperationView,
    PlanView,
    Status,
)


class ConflictDesk(Protocol):
    """Calls about conflicts. NotFoundError if there is none of that number."""

    def conflicts(
        self, *, everything: bool, sop_instance_uid: str | None, limit: int
    ) -> Sequence[ConflictView]: ...

    def acknowledge(self, who: str, number: int, reason: str) -> ConflictView: ...

    def version(self, number: int, md5: str) -> AbstractContextManager[tuple[int, BinaryIO]]: ...


class LetterDesk(Protocol):
    """Calls about obligations and dead letters."""

    def obligations(
        self, selection: Selection, state: ObligationState | None, limit: int
    ) -> Sequence[ObligationView]: ...

    def dead_letters(self, selection: Selection) -> Sequence[DeadLetterView]: ...

    def replay(self, who: str, selection: Selection, *, reason: str, epoch: int | None) -> int: ...

    def waive(
        self, who: str, holder: str, selection: Selection, *, reason: str, epoch: int | None
    ) -> int: ...


class DeviceDesk(Protocol):
    """Calls about the devices that call here."""

    def modalities(self) -> Sequence[ModalityView]: ...

    def approve(self, who: str, entry: Allowed) -> bool: ...

    def revoke(self, who: str, entry: Allowed) -> bool: ...


class Facade(Protocol):
    """Every call of the appliance. They raise the errors of core/errors.py and core.modes.WrongModeError."""

    @property
    def reports(self) -> Path: ...

    @property
    def conflicts(self) -> ConflictDesk: ...

    @property
    def letters(self) -> LetterDesk: ...

    @property
    def devices(self) -> DeviceDesk: ...

    def status(self) -> Status: ...

    def glance(self) -> Glance: ...

    def promote(self, who: str, *, reason: str, force: bool, accept_loss: bool, epoch: int) -> ModeView: ...

    def hold(self, who: str, *, reason: str, epoch: int) -> ModeView: ...

    def release(self, who: str, *, reason: str, epoch: int) -> ModeView: ...

    def plan(self, who: str) -> OperationView: ...

    def last_plan(self) -> PlanView: ...

    def failback(self, who: str, *, epoch: int) -> OperationView: ...

    def settle(self, who: str, *, epoch: int, override_quiet: str | None) -> OperationView: ...

    def interrupt(self, who: str, *, reason: str, epoch: int) -> ModeView: ...

    def verify(self, who: str) -> OperationView: ...

    def scrub(self, who: str) -> OperationView: ...

    def heal(self, who: str, *, missed: bool) -> int: ...

    def delete(self, who: str, what: Deletion, *, reason: str, force: bool) -> DeletionView: ...

    def damages(self, limit: int) -> Sequence[DamageView]: ...

    def operations(self, limit: int) -> Sequence[OperationView]: ...

    def operation(self, number: int) -> OperationView: ...

    def cancel(self, who: str, number: int) -> OperationView: ...

    def explain(self, study_instance_uid: str) -> ExplainedView: ...

    def accept_recipients(self, who: str, vault: HolderName, reason: str) -> str: ...

    def wake(self) -> None: ...
