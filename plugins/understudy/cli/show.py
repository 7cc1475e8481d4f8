"""Shows views as tables for people; units stand in the words and in the headings."""

import os
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from understudy.cli.words import between, count, counted, duration, moment, size
from understudy.core.modes import Mode
from understudy.core.views import (
    Condition,
    DamageState,
    DamageView,
    DeadLetterView,
    DiskView,
    ExplainedView,
    Fullness,
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


_WIDTH = 160
"""Columns where the output is no terminal and nobody says how wide it may be."""


def new_console() -> Console:
    """Return the console for tables."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH
    return console


def new_table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        name = column.removeprefix(">")
        if column.startswith(">"):
            table.add_column(name, justify="right", no_wrap=True)
        else:
            # A UID that is broken into five pieces cannot be compared by eye.
            table.add_column(name, overflow="fold", min_width=33 if name.endswith("UID") else None)
    return table


def status(view: Status) -> None:
    """Print the whole appliance."""
    console = new_console()
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
    for holder in view.holders:
        told = f"{holder.name} is proven by {holder.proof.kind.value}: {holder.proof.because}"
        console.print(Text(told, "dim"))
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
    facts.add_row("disks", _disks(view.disk))
    facts.add_row("held here", f"{counted(view.instances, 'instance')} of {counted(view.studies, 'study')}")
    return facts


_FULLNESS_STYLE = {Fullness.FINE: "", Fullness.WARN: "yellow", Fullness.REFUSE: "bold red"}


def _disks(disk: DiskView) -> Text:
    text = Text.assemble(("FULL, new images are refused; " if disk.refusing else "", "bold red"))
    for number, volume in enumerate(disk.volumes):
        left = "" if volume.days_left is None else f", about {volume.days_left:.0f} days left"
        text.append("; " if number else "")
        told = f"{volume.name} {volume.used_percent:.0f} % used, {size(volume.free_bytes)} free{left}"
        text.append(told, _FULLNESS_STYLE[volume.state])
    return text


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
    # The two that are empty on a good day are shown only on a bad one: 80 columns are few.
    refused, waived = any(view.refused for view in views), any(view.waived for view in views)
    columns = ["holder", "kind", ">proven", ">owed", ">on the way"]
    columns += [">refused"] * refused + [">waived"] * waived + [">oldest", "lane"]
    table = new_table("Holders (instances)", *columns)
    for view in views:
        unsettled = view.owed + view.in_flight + view.sent + view.refused
        table.add_row(
            view.name,
            view.kind.value,
            Text(count(view.proven), "" if unsettled else "green"),
            count(view.owed),
            count(view.in_flight + view.sent),
            *[Text(count(view.refused), "bold red" if view.refused else "")] * refused,
            *[count(view.waived)] * waived,
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
    new_console().print(_operations(views) if views else "no operation so far")


def _operations(views: Sequence[OperationView]) -> Table:
    table = new_table("Operations", ">number", "kind", "state", "progress", "started", "message")
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
            f"{view.message} Report: {view.report}" if view.report else view.message,
        )
    return table


def obligations(views: Sequence[ObligationView], limit: int) -> None:
    """Print obligations, with what a person can do; at `limit` say that there may be more."""
    if not views:
        new_console().print("nothing matches")
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
    new_console().print(table)
    if len(views) >= limit:
        new_console().print(f"These are the first {count(limit)}; --limit shows more, --state fewer.")


def dead_letters(views: Sequence[DeadLetterView]) -> None:
    """Print refused obligations by holder and reason."""
    if not views:
        new_console().print("nothing is refused")
        return
    columns = ("holder", ">instances", ">studies", "since", "reason", "hint", "such as SOP Instance UID")
    table = new_table("Dead letters", *columns)
    for view in views:
        table.add_row(
            view.holder,
            count(view.instances),
            count(view.studies),
            moment(view.since),
            view.reason,
            view.hint,
            view.sop_instance_uid,
        )
    new_console().print(table)


def explained(view: ExplainedView) -> None:
    """Print which routes match a study and why, condition by condition."""
    console = new_console()
    console.print(f"{counted(view.instances, 'instance')} of study {view.study_instance_uid}")
    for one in view.explanations:
        owed = ", ".join(one.owed) or "nobody"
        like = f"{counted(one.instances, 'instance')}, such as {one.sop_instance_uid}"
        console.print(Text.assemble("\n", (like, "bold"), f"\n  owed to {owed}"))
        if one.unread:
            told = f"  {one.unread}: attributes that routes ask for count as absent"
            console.print(Text(told, "bold red"))
        for route in one.routes:
            mark = ("matches", "green") if route.matches else ("does not match", "yellow")
            console.print(Text.assemble(f"  route {route.name} ", mark, f": {route.because}"))
            for condition in route.conditions:
                word = ("yes", "green") if condition.holds else ("no ", "yellow")
                met = ", ".join(condition.values) or "absent"
                console.print(Text.assemble("    ", word, f"  {condition.asks} (found: {met})"))
            for destination in route.destinations:
                if route.matches and not destination.owed:
                    told = f"    not sent to {destination.name}: {destination.because}"
                    console.print(Text(told, "yellow"))


def modalities(views: Sequence[ModalityView]) -> None:
    """Print who sends here, and who tried."""
    if not views:
        new_console().print("nobody has sent here yet")
        return
    table = new_table("Devices", "device", "", ">associations", ">refused", ">instances", "last")
    for view in views:
        outcome = view.outcome.replace("_", " ") + (f": {view.reason}" if view.reason else "")
        table.add_row(
            f"{view.calling_ae_title} to {view.called_ae_title}\n"
            + view.remote_address
            + (" TLS" if view.tls else ""),
            "known" if view.known else "stranger",
            count(view.associations),
            count(view.refused),
            count(view.instances),
            f"{moment(view.last_seen)}\n{outcome}",
        )
    new_console().print(table)


def damages(views: Sequence[DamageView]) -> None:
    """Print stored files that were missing or changed."""
    if not views:
        new_console().print("no stored file was found missing or changed")
        return
    columns = ("SOP Instance UID", "state", "found by", "since", ">attempts", "what", "file")
    table = new_table("Damages", *columns)
    for view in views:
        table.add_row(
            view.sop_instance_uid,
            Text(view.state.value, "bold red" if view.state is DamageState.OPEN else ""),
            view.found_by,
            moment(view.since),
            str(view.attempts),
            view.reason,
            view.file,
        )
    new_console().print(table)


def plan(view: PlanView) -> None:
    """Print what a failback would do."""
    console = new_console()
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
