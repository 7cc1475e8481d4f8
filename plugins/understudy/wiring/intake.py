"""Wires the noting of received instances: changes feed, comparison with Orthanc, conflicting versions."""

from collections.abc import Callable
from zoneinfo import ZoneInfo

from understudy import config
from understudy.adapters import dictionary, edge_config
from understudy.adapters.boot import BootReports
from understudy.adapters.versions import KeptVersions
from understudy.core.model import HolderName
from understudy.core.rules import Matching, Priority, RouteDestination, RoutingRule, Rules
from understudy.flow.conflicts import Conflicts
from understudy.flow.note import Noter, Reconciling
from understudy.flow.rescan import Rescanner
from understudy.flow.route import Router
from understudy.wiring.base import PRIMARY, Base

_NOTE_INTERVAL = 1.0
"""Seconds between two looks at the changes feed, unless the plugin wakes the worker."""

_RECONCILE_INTERVAL = 3600.0
"""Seconds between two comparisons of Orthanc's instances with the ledger; the first is at the start."""

_CONFLICTS_INTERVAL = 2.0
"""Seconds between two looks at the replaced versions that the plugin kept."""


def wire_intake(base: Base) -> tuple[Noter, Router, Conflicts, Rescanner]:
    """Return the noter, the router, the conflicts and the rescanner, and add their workers."""
    rules = _rules(base.configuration)
    router = Router(
        rules,
        base.ledger,
        base.files,
        zone=ZoneInfo(base.configuration.time_zone),
        names_patient=dictionary.names_patient,
    )
    starts = BootReports(base.places.storage)
    noter = Noter(
        base.orthanc,
        base.ledger,
        router,
        base.clock,
        primary_grace=base.policy.primary_grace,
        stable_age=base.policy.stable_age,
        index=starts.index,
    )
    base.workers.add("note", _waking_lanes(noter.step, base), _NOTE_INTERVAL)
    base.workers.add("reconcile", _waking_lanes(Reconciling(noter).step, base), _RECONCILE_INTERVAL)
    rescanner = Rescanner(
        base.ledger,
        noter,
        base.clock,
        is_read_in=lambda: starts.waiting() == 0,
        wait=base.workers.wait,
        site=base.configuration.site,
        write_report=base.write_report,
    )
    base.workers.add("rescan", rescanner.step, _NOTE_INTERVAL)
    versions = KeptVersions(base.places.storage)
    conflicts = Conflicts(
        versions,
        base.files,
        base.orthanc,
        base.ledger.conflicts,
        base.clock,
        lambda: rules.vaults,
    )
    base.workers.add("conflicts", conflicts.step, _CONFLICTS_INTERVAL)
    return noter, router, conflicts, rescanner


def _waking_lanes(step: Callable[[], tuple[int, bool]], base: Base) -> Callable[[], bool]:
    """Return a worker's step that wakes the lanes if an instance was noted, and says whether more follow."""

    def note() -> bool:
        noted, done = step()
        if noted:
            # New instances are owed to holders: the lanes need not wait for their next look.
            base.workers.wake("lane-")
        return not done

    return note


def _rules(configuration: config.Understudy) -> Rules:
    primary = configuration.primary
    return Rules(
        primary=None if primary is None else PRIMARY,
        primary_titles=frozenset() if primary is None else primary.titles,
        vaults=[HolderName(vault.name) for vault in configuration.vaults],
        routes=[
            RoutingRule(
                route.name,
                [condition.compiled() for condition in route.when],
                [HolderName(name) for name in route.to],
                Priority[route.priority.upper()],
                route.send == "when_stable",
            )
            for route in configuration.routes
        ],
        destinations={
            HolderName(item.name): RouteDestination(
                HolderName(item.name),
                item.ae_title or "",
                item.addresses or edge_config.addresses_of(item.host or ""),
                frozenset(item.sop_classes),
            )
            for item in configuration.destinations
        },
        matching=Matching(configuration.route_matching),
    )
