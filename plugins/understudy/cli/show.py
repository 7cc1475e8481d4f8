"""Shows views as tables for people; units stand in the words and in the headings."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from understudy.cli.words import between, count, counted, duration, moment
from understudy.core.modes import Mode
from understudy.core.views import (
    Condition,
    GapsView,
    HolderView,
    LaneState,
    ModalityView,
    ObligationView,
    OperationState,
    OperationView,
    PlanView,
    Status,
)

_MODE_STYLE = {
    Mode.STANDBY: "bold white on green4",
    Mode.ACTIVE: "bold white on blue",
    Mode.RETURNING: "bold white on purple4",
    Mode.MAINTENANCE: "bold white on grey37",
}
_CONDITION_STYLE = {Condition.UP: "green", Condition.DOWN: "bold red", Condition.UNKNOWN: "yellow"}
_OPERATION_STYLE = {
    OperationState.RUNNING: "cyan",
    OperationState.DONE: "green",
    OperationState.FAILED: "bold red",
    OperationState.CANCELLED: "yellow",
}


def _console() -> Console:
    return Console(highlight=False)


def new_table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        name = column.removeprefix(">")
        table.add_column(name, justify="right" if column.startswith(">") else "left", overflow="fold")
    return table


def status(view: Status) -> None:
    """Print the whole appliance."""
    console = _console()
    since = duration(between(view.mode_since, view.now))
    console.print(
        Text.assemble(
            (f" {view.mode.value.upper()} ", _MODE_STYLE[view.mode]),
            f"  epoch {view.epoch}, for {since}; ",
            f"site {view.site}, AE title {view.ae_title}, version {view.version}",
        )
    )
    for alarm in view.alarms:
        console.print(Text.assemble(("ALARM ", "bold red"), f"{alarm.what} (since {moment(alarm.since)})"))
        console.print(Text(f"      {alarm.hint}", "dim"))
    console.print(_facts(view))
    console.print(_holders(view.holders, view.now))
    if view.operations:
        console.print(_operations(view.operations))


def _facts(view: Status) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    facts.add_row("", "")
    facts.add_row("primary", _primary(view))
    if view.horizon is None:
        facts.add_row("complete up to", "not known yet: no comparison with the primary is done")
    else:
        facts.add_row("complete up to", f"{moment(view.horizon)}, {duration(view.lag_seconds)} ago")
    facts.add_row("missing here", _gaps(view.gaps))
    facts.add_row("vault behind by", duration(view.rpo_seconds))
    facts.add_row("held here", f"{counted(view.instances, 'instance')} of {counted(view.studies, 'study')}")
    return facts


def _gaps(gaps: GapsView) -> str:
    if not gaps.instances and not gaps.studies:
        return "nothing, as far as known"
    amount = f"{counted(gaps.instances, 'instance')} of {counted(gaps.studies, 'study')}"
    return f"{amount}, oldest {duration(gaps.oldest_seconds)}"


def _primary(view: Status) -> Text:
    primary = view.primary
    if primary is None:
        return Text("none is configured")
    text = Text.assemble(
        (primary.condition.value, _CONDITION_STYLE[primary.condition]),
        f" for {duration(between(primary.since, view.now))}: ",
        f"{primary.ae_title} at {primary.host}, port {primary.port}",
    )
    if primary.evidence:
        probe = primary.evidence[0]
        text.append(f"; at {moment(probe.at)} C-ECHO {probe.echo}, C-FIND {probe.find}", "dim")
    return text


def _holders(views: Sequence[HolderView], now: str) -> Table:
    table = new_table(
        "Holders (instances)", "holder", "kind", ">proven", ">owed", ">in flight", ">sent", ">refused",
        ">waived", ">oldest owed", "lane",
    )  # fmt: skip
    for view in views:
        unsettled = view.owed + view.in_flight + view.sent + view.refused
        table.add_row(
            view.name,
            view.kind.value,
            Text(count(view.proven), "green" if not unsettled else ""),
            *(count(number) for number in (view.owed, view.in_flight, view.sent)),
            Text(count(view.refused), "bold red" if view.refused else ""),
            count(view.waived),
            duration(view.oldest_owed_seconds) if unsettled else "",
            _lane(view, now),
        )
    return table


def _lane(view: HolderView, now: str) -> Text:
    lane = view.lane
    if lane.state is LaneState.WORKING:
        return Text(f"sending, {lane.rate:.1f} instances/s", "cyan")
    reason = f": {lane.reason}" if lane.reason else ""
    if lane.state is LaneState.WAITING:
        again = f"; tries again in {duration(between(now, lane.until))}" if lane.until else ""
        return Text(f"does not answer{reason}{again}", "red")
    return Text(f"{lane.state.value}{reason}", "dim")


def operations(views: Sequence[OperationView]) -> None:
    """Print operations."""
    _console().print(_operations(views) if views else "no operation so far")


def _operations(views: Sequence[OperationView]) -> Table:
    table = new_table("Operations", ">number", "kind", "state", "progress", "started", "message", "report")
    for view in views:
        progress = (
            f"{count(view.done)} of {count(view.total)} {view.unit}"
            if view.total
            else f"{count(view.done)} {view.unit}"
        )
        if view.state is OperationState.RUNNING:
            progress += f", {view.rate:.1f}/s" if view.rate > 0 else ""
            progress += f", about {duration(view.eta_seconds)} left" if view.eta_seconds is not None else ""
        table.add_row(
            str(view.operation),
            view.kind,
            Text(view.state.value, _OPERATION_STYLE[view.state]),
            progress,
            moment(view.started),
            view.message,
            view.report or "",
        )
    return table


def obligations(views: Sequence[ObligationView]) -> None:
    """Print obligations, with what a person can do."""
    if not views:
        _console().print("nothing matches")
        return
    table = new_table(
        "Obligations", "holder", "state", "SOP Instance UID", ">attempts", "next", "reason", "hint"
    )
    for view in views:
        table.add_row(
            view.holder,
            view.state.value,
            view.sop_instance_uid,
            str(view.attempts),
            moment(view.due),
            view.reason,
            view.hint,
        )
    _console().print(table)


def modalities(views: Sequence[ModalityView]) -> None:
    """Print who has sent here."""
    if not views:
        _console().print("nobody has sent here yet")
        return
    table = new_table(
        "Senders", "calling AE title", "address", "called AE title", ">instances", "first", "last"
    )
    for view in views:
        table.add_row(
            view.calling_ae_title,
            view.remote_address,
            view.called_ae_title,
            count(view.instances),
            moment(view.first_seen),
            moment(view.last_seen),
        )
    _console().print(table)


def plan(view: PlanView) -> None:
    """Print what a failback would do."""
    console = _console()
    send, pull = sum(view.to_send.values()), sum(view.to_pull.values())
    console.print(
        f"Failback at epoch {view.epoch}; the primary holds {counted(view.primary_studies, 'study')}."
    )
    for number, text in (
        (view.found_at_primary, "found at the primary already: only proven, not sent"),
        (send, f"to be sent, of {counted(len(view.to_send), 'study')}"),
        (view.lost_at_primary, "of these the primary had once and has no more"),
        (pull, f"to be fetched, of {counted(len(view.to_pull), 'study')} that the primary got alone"),
        (view.refused, "refused by the primary: replay or waive them before settling"),
    ):
        console.print(f"{count(number):>10}  {text}")
    for title, studies in (("To be sent", view.to_send), ("To be fetched", view.to_pull)):
        if studies:
            table = new_table(title, "Study Instance UID", ">instances")
            for uid, number in studies.items():
                table.add_row(uid, count(number))
            console.print(table)
