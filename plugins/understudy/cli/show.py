"""Shows views as tables for people; texts and headings name the units."""

from collections.abc import Sequence

from rich.text import Text

from understudy.cli.screen import Facts, Rows, Screen, lines, styled
from understudy.cli.words import between, count, counted, duration, moment, size
from understudy.core.capabilities import Ability, CapabilitiesView
from understudy.core.modes import Mode
from understudy.core.views import (
    DamageState,
    DamageView,
    DeadLetterView,
    DiskView,
    ExplainedView,
    Fullness,
    GapSide,
    GapView,
    HolderView,
    LaneState,
    ModalityView,
    ObligationView,
    OperationState,
    OperationView,
    PlanView,
    PrimaryCondition,
    Status,
    Tone,
)

_MODE_STYLE = {
    Mode.STANDBY: "bold white on green4",
    Mode.ACTIVE: "bold white on blue",
    Mode.RETURNING: "bold white on purple4",
    Mode.MAINTENANCE: "bold white on grey37",
}
_CONDITION_STYLE = {
    PrimaryCondition.UP: "green",
    PrimaryCondition.DOWN: "bold red",
    PrimaryCondition.REFUSES: "yellow",
    PrimaryCondition.BUSY: "yellow",
    PrimaryCondition.UNKNOWN: "yellow",
}
_CONDITION_WORDS = {
    PrimaryCondition.REFUSES: "up, refuses this standby",
    PrimaryCondition.BUSY: "up, busy",
}
_TONE_STYLE = {Tone.WARN: "bold black on yellow", Tone.BAD: "bold white on red3"}
_ABILITY_STYLE = {
    Ability.WORKS: "green",
    Ability.LIMITED: "yellow",
    Ability.MISSING: "bold red",
    Ability.UNKNOWN: "dim",
}
_OPERATION_STYLE = {
    OperationState.RUNNING: "cyan",
    OperationState.DONE: "green",
    OperationState.FAILED: "bold red",
    OperationState.CANCELLED: "yellow",
}


def status(view: Status) -> None:
    """Print the whole appliance."""
    console = Screen()
    since = duration(between(view.mode_since, view.now))
    console.print(
        styled(
            (f" {view.mode.value.upper()} ", _TONE_STYLE.get(view.tone, _MODE_STYLE[view.mode])),
            f"  epoch {view.epoch}, for {since}; ",
            f"site {view.site}, AE title {view.ae_title}, version {view.version}",
        )
    )
    for alarm in view.alarms:
        console.print(styled(("ALARM ", "bold red"), f"{alarm.what} (since {moment(alarm.since)})"))
        console.print(styled((f"      {alarm.hint}", "dim")))
    console.print(_facts(view))
    console.print(_holders(view.holders, view.now))
    for holder in view.holders:
        told = f"{holder.name} is proven by {holder.proof.kind.value}: {holder.proof.because}"
        if holder.altered:
            told += f"; stored with a warning or in another encoding {count(holder.altered)} times"
        console.print(styled((told, "dim")))
    if view.operations:
        console.print(_operations(view.operations))


def _facts(view: Status) -> Rows:
    facts = Facts()
    facts.add_row("", "")
    facts.add_row("primary", _primary(view))
    facts.add_row("complete up to", _horizon(view))
    facts.add_row("missing here", _gaps(view))
    facts.add_row("new images", f"REFUSED: {view.intake_refused}" if view.intake_refused else "are accepted")
    facts.add_row("vault behind by", duration(view.rpo_seconds))
    facts.add_row("disks", _disks(view.disk))
    facts.add_row("held here", f"{counted(view.instances, 'instance')} of {counted(view.studies, 'study')}")
    return facts


_FULLNESS_STYLE = {Fullness.FINE: "", Fullness.WARN: "yellow", Fullness.REFUSE: "bold red"}


def _disks(disk: DiskView) -> Text:
    parts = [("FULL, new images are refused; " if disk.refusing else "", "bold red")]
    for number, volume in enumerate(disk.volumes):
        left = "" if volume.days_left is None else f", about {volume.days_left:.0f} days left"
        told = f"{volume.name} {volume.used_percent:.0f} % used, {size(volume.free_bytes)} free{left}"
        parts += [("; " if number else "", ""), (told, _FULLNESS_STYLE[volume.state])]
    for lost in disk.unknown:
        told = f"{lost.name} has not answered since {moment(lost.since)}"
        parts += [("; " if len(parts) > 1 else "", ""), (told, "bold red")]
    return styled(*parts)


def _horizon(view: Status) -> str:
    """Return the horizon's age, and how long after the horizon a primary that is down was last seen."""
    if view.primary is None:
        return "no primary is configured"
    if view.horizon is None or view.lag_seconds is None:
        return "not known: no comparison with the primary has been completed"
    text = f"{moment(view.horizon)}, {duration(view.lag_seconds)} ago"
    seen = view.primary.last_seen
    if view.primary.condition is PrimaryCondition.DOWN and seen is not None:
        # Comparable as text: both are ISO 8601 in UTC, to the millisecond.
        after = f"{duration(between(view.horizon, seen))} later" if seen > view.horizon else "before that"
        text += f"; the primary was last seen {after}"
    return text


def _gaps(view: Status) -> str:
    gaps = view.gaps
    if not gaps.instances and not gaps.studies:
        if view.horizon is None:
            return "not known: no comparison yet"
        return f"nothing at the last complete comparison, {moment(view.horizon)}"
    amount = f"{counted(gaps.instances, 'instance')} of {counted(gaps.studies, 'study')}"
    return f"{amount}, oldest {duration(gaps.oldest_seconds)}"


def _primary(view: Status) -> Text:
    primary = view.primary
    if primary is None:
        return styled("none is configured")
    told = ""
    if primary.evidence:
        probe = primary.evidence[0]
        told = f"; at {moment(probe.at)} C-ECHO {probe.echo}, C-FIND {probe.find}"
    return styled(
        (
            _CONDITION_WORDS.get(primary.condition, primary.condition.value),
            _CONDITION_STYLE[primary.condition],
        ),
        f" for {duration(between(primary.since, view.now))}: ",
        f"{primary.ae_title} at {primary.host}, port {primary.port}",
        (told, "dim"),
    )


def _holders(views: Sequence[HolderView], now: str) -> Rows:
    # These two columns are usually empty, and shown only if they are not: a terminal may have 80 columns.
    refused, waived = any(view.refused for view in views), any(view.waived for view in views)
    columns = ["holder", "kind", ">proven", ">owed", ">on the way"]
    columns += [">refused"] * refused + [">waived"] * waived + [">oldest", "lane"]
    table = Rows("Holders (instances)", *columns)
    for view in views:
        unsettled = view.owed + view.in_flight + view.sent + view.refused
        table.add_row(
            view.name,
            view.kind.value,
            styled((count(view.proven), "" if unsettled else "green")),
            count(view.owed),
            count(view.in_flight + view.sent),
            *[styled((count(view.refused), "bold red" if view.refused else ""))] * refused,
            *[count(view.waived)] * waived,
            duration(view.oldest_owed_seconds) if unsettled else "",
            _lane(view, now),
        )
    return table


def _lane(view: HolderView, now: str) -> Text:
    lane = view.lane
    if lane.state is LaneState.WORKING:
        return styled((f"sending, {lane.rate:.1f} instances/s", "cyan"))
    reason = f": {lane.reason}" if lane.reason else ""
    if lane.state is LaneState.WAITING:
        again = f"; tries again in {duration(between(now, lane.until))}" if lane.until else ""
        return styled((f"waits{reason}{again}", "red"))
    return styled((f"{lane.state.value}{reason}", "dim"))


def operations(views: Sequence[OperationView]) -> None:
    """Print operations."""
    Screen().print(_operations(views) if views else "no operation so far")


def _operations(views: Sequence[OperationView]) -> Rows:
    table = Rows("Operations", ">number", "kind", "state", "progress", "started", "message")
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
            styled((view.state.value, _OPERATION_STYLE[view.state])),
            progress,
            moment(view.started),
            f"{view.message} Report: {view.report}" if view.report else view.message,
        )
    return table


def obligations(views: Sequence[ObligationView], limit: int) -> None:
    """Print obligations with hints; if there are `limit` of them, say that there may be more."""
    if not views:
        Screen().print("no obligation matches")
        return
    table = Rows("Obligations", "holder", "state", "SOP Instance UID", ">attempts", "next", "reason", "hint")
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
    Screen().print(table)
    if len(views) >= limit:
        Screen().print(f"Only the first {count(limit)} are shown; use --limit for more, or --state.")


def dead_letters(views: Sequence[DeadLetterView]) -> None:
    """Print dead letters by holder and reason."""
    if not views:
        Screen().print("no instance is refused")
        return
    columns = ("holder", ">instances", ">studies", "since", "reason", "hint", "such as SOP Instance UID")
    table = Rows("Dead letters", *columns)
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
    Screen().print(table)


def explained(view: ExplainedView) -> None:
    """Print which routes match a study and why, condition by condition."""
    console = Screen()
    console.print(f"{counted(view.instances, 'instance')} of study {view.study_instance_uid}")
    for one in view.explanations:
        owed = ", ".join(one.owed) or "nobody"
        like = f"{counted(one.instances, 'instance')}, such as {one.sop_instance_uid}"
        console.print("")
        console.print(styled((like, "bold")))
        console.print(f"  owed to {owed}")
        if one.unread:
            told = f"  {one.unread}: every attribute in a route's condition counts as absent"
            console.print(styled((told, "bold red")))
        for route in one.routes:
            mark = ("matches", "green") if route.matches else ("does not match", "yellow")
            console.print(styled(f"  route {route.name} ", mark, f": {route.because}"))
            for condition in route.conditions:
                word = ("yes", "green") if condition.holds else ("no ", "yellow")
                met = ", ".join(condition.values) or "absent"
                console.print(styled("    ", word, f"  {condition.asks} (found: {met})"))
            for destination in route.destinations:
                if route.matches and not destination.owed:
                    told = f"    not sent to {destination.name}: {destination.because}"
                    console.print(styled((told, "yellow")))


def modalities(views: Sequence[ModalityView]) -> None:
    """Print the devices that send here or tried."""
    if not views:
        Screen().print("no device has sent images here yet")
        return
    table = Rows("Devices", "device", "", ">associations", ">refused by edge", ">instances", "last")
    for view in views:
        outcome = view.outcome.replace("_", " ") + (f": {view.reason}" if view.reason else "")
        table.add_row(
            lines(
                " to ".join(filter(None, (view.calling_ae_title, view.called_ae_title)))
                or "without AE title",
                view.remote_address + (" TLS" if view.tls else ""),
            ),
            "known" if view.known else "stranger",
            count(view.associations),
            count(view.refused),
            count(view.instances),
            lines(moment(view.last_seen), outcome),
        )
    Screen().print(table)
    if any(view.hint for view in views):
        _refused_at_the_edge(views)
    if any(view.refusals for view in views):
        _refused_inside(views)


def _refused_at_the_edge(views: Sequence[ModalityView]) -> None:
    """Print what to do about each kind of refusal; the table of devices shows whom it concerns."""
    table = Rows("Refused by the edge", "outcome", "what to do")
    for outcome, hint in sorted({(view.outcome, view.hint) for view in views if view.hint}):
        table.add_row(outcome.replace("_", " "), hint)
    Screen().print(table)


def _refused_inside(views: Sequence[ModalityView]) -> None:
    """Print the refusals by Orthanc of devices that the edge had let in."""
    table = Rows(
        "Refused after the edge let the device in", "device", "refused", ">times", "last", "what to do"
    )
    for view in views:
        for refusal in view.refusals:
            table.add_row(
                view.calling_ae_title,
                styled((refusal.what, "bold red" if refusal.keeps_images_out else "")),
                count(refusal.count),
                moment(refusal.last),
                refusal.hint,
            )
    Screen().print(table)


def capabilities(view: CapabilitiesView) -> None:
    """Print what a probe of the primary has found."""
    console = Screen()
    table = Rows(
        f"{view.ae_title} at {view.host}:{view.port}, probed {moment(view.at)} in {duration(view.seconds)}",
        "what",
        "state",
        "evidence",
        "what it means here",
    )
    for one in view.capabilities:
        state = styled((one.ability.value, _ABILITY_STYLE[one.ability]))
        name = one.name + (" *" if one.needed else "")
        table.add_row(name, state, f"{one.finding}: {one.evidence}", one.meaning)
    console.print(table)
    console.print("* needed: without it this standby cannot stand in for the PACS")
    for change in view.changes:
        console.print(f"changed since the probe before: {change}")
    for suggestion in view.suggestions:
        console.print(f"set {suggestion.key} to {suggestion.value}: {suggestion.because}")
    console.print(styled((view.verdict, "bold green" if view.suits else "bold red")))


def gaps(views: Sequence[GapView]) -> None:
    """Print the studies of which one side lacks images."""
    if not views:
        Screen().print("no image was missing on either side at the last comparison")
        return
    table = Rows("Gaps", "Study Instance UID", "missing at", ">images", "since", "why")
    for view in views:
        where = {GapSide.HERE: "this standby", GapSide.PRIMARY: "the primary"}[view.missing]
        table.add_row(view.study_instance_uid, where, count(view.instances), moment(view.since), view.reason)
    Screen().print(table)


def damages(views: Sequence[DamageView]) -> None:
    """Print stored files that were missing or changed."""
    if not views:
        Screen().print("no stored file was found missing or changed")
        return
    columns = ("SOP Instance UID", "state", "found by", "since", ">attempts", "what", "file")
    table = Rows("Damages", *columns)
    for view in views:
        table.add_row(
            view.sop_instance_uid,
            styled((view.state.value, "bold red" if view.state is DamageState.OPEN else "")),
            view.found_by,
            moment(view.since),
            str(view.attempts),
            view.reason,
            view.file,
        )
    Screen().print(table)


def plan(view: PlanView) -> None:
    """Print what a failback would do."""
    console = Screen()
    send, pull = sum(view.to_send.values()), sum(view.to_pull.values())
    console.print(
        f"Failback at epoch {view.epoch}; the primary holds {counted(view.primary_studies, 'study')}, as it "
        f"was asked from {view.at} on."
    )
    for number, text in (
        (view.found_at_primary, "are at the primary already: proven without being sent"),
        (send, f"to be sent, of {counted(len(view.to_send), 'study')}"),
        (view.lost_at_primary, "of these were at the primary before, and were lost there"),
        (pull, f"to be fetched, of {counted(len(view.to_pull), 'study')} that only the primary received"),
        (view.refused, "refused by the primary: replay or waive them before settling"),
    ):
        console.print(f"{count(number):>10}  {text}")
    for title, studies in (("To be sent", view.to_send), ("To be fetched", view.to_pull)):
        if studies:
            table = Rows(title, "Study Instance UID", ">instances")
            for uid, number in studies.items():
                table.add_row(uid, count(number))
            console.print(table)
