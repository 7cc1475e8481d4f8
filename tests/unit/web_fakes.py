"""A small real appliance for the tests of the API: it keeps what it is told and answers views."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Never, Self

import httpx
from fastapi import FastAPI, Request
from fastapi.routing import iter_route_contexts
from understudy.core.capabilities import Ability, CapabilitiesView, Capability, Suggestion
from understudy.core.conflicts import ConflictKind, ConflictView, VersionView
from understudy.core.deletion import Deletion
from understudy.core.errors import NotFoundError, PreconditionError, RefusedError, StaleEpochError
from understudy.core.gate import Allowed
from understudy.core.model import HolderKind, HolderName, ProofKind
from understudy.core.modes import Mode, ModeEvent, after, next_epoch
from understudy.core.obligations import ObligationState, Selection
from understudy.core.views import (
    Alarm,
    ConditionView,
    DamageState,
    DamageView,
    DeadLetterView,
    DeletionView,
    DestinationView,
    ExplainedView,
    ExplanationView,
    GapSide,
    GapsView,
    GapView,
    Glance,
    HolderView,
    LaneState,
    LaneView,
    ModalityView,
    ModeView,
    ObligationView,
    OperationState,
    OperationView,
    PlanView,
    PrimaryCondition,
    PrimaryView,
    Probe,
    ProofView,
    RefusalView,
    RouteView,
    Sign,
    Status,
    moment_of,
)
from understudy.web.access import Access, access_of
from understudy.web.identity import Identity, identity_of

NOW = "2026-03-02T03:14:15.000+00:00"
AT = moment_of(NOW)

STATUS = Status(
    site="clinic",
    version="0.1.0",
    ae_title="STANDBY",
    now=NOW,
    mode=Mode.STANDBY,
    epoch=3,
    mode_since="2026-03-01T10:00:00.000+00:00",
    primary=PrimaryView(
        ae_title="PRIMARY",
        host="192.0.2.10",
        port=104,
        condition=PrimaryCondition.UP,
        since="2026-03-01T09:00:00.000+00:00",
        evidence=[Probe(at="2026-03-02T03:14:10.000+00:00", echo="ok", find="ok", sign=Sign.ANSWERS)],
    ),
    horizon="2026-03-02T03:12:00.000+00:00",
    rpo_seconds=4.5,
    lag_seconds=135.0,
    loss_seconds=135.0,
    gaps=GapsView(studies=0, instances=0, oldest_seconds=0.0),
    instances=1210,
    studies=12,
    holders=[
        HolderView(
            name=HolderName("nas"),
            kind=HolderKind.VAULT,
            owed=3,
            in_flight=2,
            sent=1,
            proven=1203,
            refused=1,
            waived=0,
            oldest_owed_seconds=4.5,
            lane=LaneView(state=LaneState.WORKING, reason="", since=NOW, until=None, rate=23.4),
            proof=ProofView(ProofKind.CHECKSUM, "the store shows what it has"),
        )
    ],
    operations=[],
    alarms=[Alarm(since=NOW, what="1 instance is refused by nas", hint="replay or waive it")],
)

OPERATION = OperationView(
    operation=7,
    kind="failback",
    state=OperationState.RUNNING,
    started=AT,
    updated=AT,
    message="sending",
    done=50,
    total=200,
    unit="instances",
    rate=12.5,
    eta_seconds=12.0,
    report=None,
)


CAPABILITIES = CapabilitiesView(
    at=AT,
    seconds=12.3,
    ae_title="PACS",
    host="192.0.2.10",
    port=104,
    suits=False,
    verdict="This standby cannot stand in for this PACS: C-MOVE to this standby is missing.",
    capabilities=[
        Capability(
            "C-MOVE to this standby",
            needed=True,
            ability=Ability.MISSING,
            finding="no image came",
            evidence="asked for a study of 3 images: its answer was status 0xA801 after 0.1 s",
            meaning="check that the PACS knows the AE title UNDERSTUDY",
        )
    ],
    suggestions=[Suggestion("Primary.Associations", 2, "it takes 3 associations at a time")],
    changes=["C-GET: it gives no image (before: it gives images)"],
)

EARLIER, LATER = (
    VersionView("0a-1b", md5, 1000, AT, "CT1", "192.0.2.20", "1.2.3", present=present)
    for md5, present in (("a" * 32, False), ("b" * 32, True))
)
CONFLICT = ConflictView(
    conflict=7,
    kind=ConflictKind.CONTENT,
    sop_instance_uid="1.2.3.4",
    at=AT,
    earlier=EARLIER,
    later=LATER,
    unresolved=True,
    acknowledged=None,
    acknowledged_by="",
    reason="",
)


@dataclass(slots=True)
class FakeConflicts:
    """One conflict, which can be closed."""

    present: ConflictView = CONFLICT
    content: bytes = b""
    given_out: int = 0
    """Versions that are open."""

    def conflicts(
        self, *, everything: bool, sop_instance_uid: str | None, limit: int
    ) -> Sequence[ConflictView]:
        asked = sop_instance_uid in (None, self.present.sop_instance_uid)
        return [self.present][:limit] if asked and (everything or self.present.unresolved) else []

    def acknowledge(self, who: str, number: int, reason: str) -> ConflictView:
        if number != self.present.conflict:
            raise NotFoundError(f"there is no conflict {number}", "GET /understudy/conflicts lists them")
        self.present = replace(
            self.present, unresolved=False, acknowledged=AT, acknowledged_by=who, reason=reason
        )
        return self.present

    @contextmanager
    def version(self, number: int, md5: str) -> Iterator[tuple[int, BinaryIO]]:
        if number != self.present.conflict or md5 not in (EARLIER.md5, LATER.md5):
            raise NotFoundError(f"conflict {number} has no version {md5}", "see its two MD5")
        content = self.content or md5.encode()
        self.given_out += 1
        try:
            yield len(content), BytesIO(content)
        finally:
            self.given_out -= 1


@dataclass
class FakeFacade:
    """Answers from values and records every act as (verb, who, what)."""

    reports: Path
    present: Status = STATUS
    acts: list[tuple[str, str, str]] = field(default_factory=list)
    fault: Exception | None = None
    conflicts: FakeConflicts = field(default_factory=FakeConflicts)
    probed: CapabilitiesView | None = CAPABILITIES
    unknown_since: str | None = None
    storage_unknown_since: str | None = None

    def __getattr__(self, verb: str) -> Callable[..., Never]:
        """Refuse a verb that has no answer here; the verb's own test gives one by `monkeypatch.setattr`."""
        if verb.startswith("_"):
            raise AttributeError(verb)

        def refuse(*_: object, **__: object) -> Never:
            raise RefusedError(f"the fake has no answer to {verb}", "set one")

        return refuse

    @property
    def letters(self) -> Self:
        return self

    @property
    def devices(self) -> Self:
        return self

    def _moved(self, who: str, event: ModeEvent, epoch: int, what: str) -> ModeView:
        if self.fault is not None:
            raise self.fault
        if epoch != self.present.epoch:
            raise StaleEpochError(f"the epoch is {self.present.epoch}", "look at the status and decide again")
        mode = after(self.present.mode, event)
        self.present = replace(self.present, mode=mode, epoch=next_epoch(epoch, event))
        self.acts.append((event.value, who, what))
        return ModeView(mode=mode, epoch=self.present.epoch, since=NOW)

    def status(self) -> Status:
        if self.fault is not None:
            raise self.fault
        return self.present

    def glance(self) -> Glance:
        if self.fault is not None:
            raise self.fault
        seen = self.present
        return Glance(
            seen.mode,
            seen.epoch,
            seen.mode_since,
            seen.lag_seconds,
            seen.loss_seconds,
            seen.rpo_seconds,
            seen.intake_refused,
            self.unknown_since,
            seen.configuration_problems,
            self.storage_unknown_since,
        )

    def promote(self, who: str, *, reason: str, force: bool, accept_loss: bool, epoch: int) -> ModeView:
        return self._moved(who, ModeEvent.PROMOTE, epoch, f"{reason} force={force} accept_loss={accept_loss}")

    def hold(self, who: str, *, reason: str, epoch: int) -> ModeView:
        return self._moved(who, ModeEvent.HOLD, epoch, reason)

    def release(self, who: str, *, reason: str, epoch: int) -> ModeView:
        return self._moved(who, ModeEvent.RELEASE, epoch, reason)

    def plan(self, who: str) -> OperationView:
        return replace(OPERATION, kind="plan", state=OperationState.DONE, eta_seconds=None)

    def last_plan(self) -> PlanView:
        return PlanView(
            at=NOW,
            epoch=self.present.epoch,
            primary_studies=11,
            found_at_primary=2,
            to_send={"1.2.3": 40, "1.2.4": 10},
            to_pull={"1.2.5": 6},
            lost_at_primary=0,
            refused=0,
        )

    def failback(self, who: str, *, epoch: int) -> OperationView:
        self._moved(who, ModeEvent.FAILBACK, epoch, "")
        return OPERATION

    def settle(self, who: str, *, epoch: int, override_quiet: str | None) -> OperationView:
        self._moved(who, ModeEvent.SETTLE, epoch, override_quiet or "")
        return replace(OPERATION, kind="settle", state=OperationState.DONE, eta_seconds=None)

    def interrupt(self, who: str, *, reason: str, epoch: int) -> ModeView:
        return self._moved(who, ModeEvent.INTERRUPT, epoch, reason)

    def verify(self, who: str) -> OperationView:
        self.acts.append(("verify", who, ""))
        return replace(OPERATION, kind="verify", state=OperationState.DONE, done=200, eta_seconds=None)

    def probe(self, who: str) -> OperationView:
        self.acts.append(("probe", who, ""))
        return replace(
            OPERATION, kind="probe", unit="questions", state=OperationState.FAILED, eta_seconds=None
        )

    def capabilities(self) -> CapabilitiesView | None:
        return self.probed

    def gaps(self, limit: int) -> Sequence[GapView]:
        why = "the primary answered C-MOVE with status 0xA801"
        return [
            GapView("1.2.3", GapSide.HERE, 40, AT, why),
            GapView("1.2.4", GapSide.PRIMARY, 2, AT, ""),
        ][:limit]

    def scrub(self, who: str) -> OperationView:
        self.acts.append(("scrub", who, ""))
        return replace(OPERATION, kind="scrub", unit="files")

    def heal(self, who: str, *, missed: bool) -> OperationView:
        self.acts.append(("heal", who, "missed" if missed else ""))
        return replace(OPERATION, kind="heal", unit="files", state=OperationState.DONE, eta_seconds=None)

    def delete(self, who: str, what: Deletion, *, reason: str, force: bool) -> DeletionView:
        if not force:
            against = ["40 instances are proven at no other holder and would be lost"]
            raise PreconditionError("the deletion is refused", "wait or force it", against)
        self.acts.append(("delete", who, f"{what.study_instance_uid} {reason}"))
        return DeletionView(what.study_instance_uid, 40, {HolderName("nas"): 40}, {})

    def damages(self, limit: int, *, missed: bool) -> Sequence[DamageView]:
        row = DamageView(
            file="0a0b0c0d-0000-4000-8000-000000000001",
            state=DamageState.OPEN,
            sop_instance_uid="1.2.3.4",
            study_instance_uid="1.2.3",
            orthanc_id="01234567-01234567-01234567-01234567-01234567",
            md5="d41d8cd98f00b204e9800998ecf8427e",
            found_by="scrub",
            since=AT,
            attempts=1,
            reason="primary does not give it",
        )
        return [] if missed else [row][:limit]

    def operations(self, limit: int) -> Sequence[OperationView]:
        return [OPERATION][:limit]

    def operation(self, number: int) -> OperationView:
        if number != OPERATION.operation:
            raise NotFoundError(f"there is no operation {number}", "understudy operations lists them")
        return replace(OPERATION, state=OperationState.DONE, done=200, eta_seconds=None)

    def cancel(self, who: str, number: int) -> OperationView:
        self.acts.append(("cancel", who, str(number)))
        return replace(self.operation(number), state=OperationState.CANCELLED)

    def obligations(
        self, selection: Selection, state: ObligationState | None, limit: int
    ) -> Sequence[ObligationView]:
        row = ObligationView(
            holder=HolderName("nas"),
            state=ObligationState.REFUSED,
            sop_instance_uid="1.2.3.4",
            study_instance_uid="1.2.3",
            attempts=1,
            due=AT,
            changed=AT,
            reason="A900",
            hint="replay or waive it",
        )
        matches = selection.holder in (None, row.holder) and state in (None, row.state)
        ours = selection.study_instance_uid in (None, row.study_instance_uid)
        return [row][:limit] if matches and ours else []

    def dead_letters(self, selection: Selection) -> Sequence[DeadLetterView]:
        row = DeadLetterView(HolderName("nas"), "A900", "replay or waive it", 3, 1, AT, AT, "1.2.3.4")
        return [row] if selection.holder in (None, row.holder) else []

    def replay(self, who: str, selection: Selection, *, reason: str, epoch: int | None) -> int:
        self.acts.append(("replay", who, f"{selection.holder} {selection.study_instance_uid} {reason}"))
        uids = selection.sop_instance_uids
        return 1 if uids is None else len(uids)

    def waive(self, who: str, holder: str, selection: Selection, *, reason: str, epoch: int | None) -> int:
        self.acts.append(("waive", who, f"{holder} {reason}"))
        return 1 if selection.sop_instance_uids is None else len(selection.sop_instance_uids)

    def explain(self, study_instance_uid: str) -> ExplainedView:
        if study_instance_uid != "1.2.3":
            raise NotFoundError("no instance of that study is here", "compare it")
        because = "it is not sent SOP class 1.2.840.10008.5.1.4.1.1.88.67"
        route = RouteView(
            name="ct",
            matches=True,
            because="every condition holds",
            conditions=[
                ConditionView("Modality is one of CT, MR", ["CT"], holds=True),
                ConditionView("not: BodyPartExamined is HEAD", [], holds=True),
            ],
            destinations=[DestinationView(HolderName("archive"), owed=False, because=because)],
        )
        shown = ExplanationView(3, "1.2.3.4", "", [route], [HolderName("nas")])
        return ExplainedView(study_instance_uid, 3, [shown])

    def modalities(self) -> Sequence[ModalityView]:
        return [
            ModalityView(
                calling_ae_title="CT1",
                called_ae_title="STANDBY",
                remote_address="192.0.2.20",
                instances=200,
                first_seen=moment_of("2026-03-01T09:00:00.000+00:00"),
                last_seen=moment_of("2026-03-02T03:14:03.000+00:00"),
                refusals=[
                    RefusalView(
                        reason="large",
                        what="an image larger than 320 MiB: CT Image Storage",
                        hint="raise UNDERSTUDY_ORTHANC_MEMORY",
                        count=3,
                        last="2026-03-02T03:12:00.000+00:00",
                    )
                ],
            )
        ]

    def accept_recipients(self, who: str, vault: HolderName, reason: str) -> str:
        self.acts.append(("accept_recipients", who, f"{vault} {reason}"))
        return "1a2b 3c4d 5e6f 7a8b"

    def approve(self, who: str, entry: Allowed) -> bool:
        self.acts.append(("approve", who, f"{entry.calling_ae_title} {entry.network}"))
        return True

    def revoke(self, who: str, entry: Allowed) -> bool:
        if entry.calling_ae_title != "CT2":
            raise NotFoundError("there is no such approval", "look")
        self.acts.append(("revoke", who, f"{entry.calling_ae_title} {entry.network}"))
        return True

    def wake(self) -> None:
        self.acts.append(("wake", "", ""))


def by_headers(request: Request) -> Identity | None:
    """Believe the headers, as the agent does on its own socket."""
    return identity_of(request.headers)


def routes_of(app: FastAPI) -> dict[tuple[str, str], Access | None]:
    """Return every route by method and path, and who may call it."""
    return {
        (method, str(context.path)): access_of(context.original_route)
        for context in iter_route_contexts(app.routes)
        for method in sorted(context.methods or ())
    }


class Client:
    """Calls an ASGI application as its Unix socket would, one request at a time."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        json: object = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        async def call() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
                pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
                return await client.request(method, path, headers=pairs, json=json, content=content)

        return asyncio.run(call())

    def get(
        self, path: str, *, headers: Mapping[str, str] | Sequence[tuple[str, str]] = ()
    ) -> httpx.Response:
        return self.request("GET", path, headers=headers)

    def post(
        self, path: str, *, headers: Mapping[str, str], json: object = None, content: bytes | None = None
    ) -> httpx.Response:
        return self.request("POST", path, headers=headers, json=json, content=content)
