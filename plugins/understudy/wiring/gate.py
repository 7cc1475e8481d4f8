"""Wires the edge's gate: its allow-list, and its counts and reports of attempts."""

from collections.abc import Mapping, Sequence
from functools import partial

from understudy.adapters import dictionary, edge_config
from understudy.adapters.edge import EdgeLink, EdgeUnavailableError, HandshakeReports, addresses_of_name
from understudy.adapters.reception import read_refusals
from understudy.core.gate import Allowed, Seen
from understudy.flow.gate import Gate
from understudy.flow.logins import Logins
from understudy.flow.names import HostNames
from understudy.flow.reception import ReceptionWatch
from understudy.system.files import write_durably
from understudy.wiring.base import STEP_INTERVAL, Base

_LOGINS_INTERVAL = 10.0
"""Seconds between two looks at the edge's counts of wrong passwords."""

_RECEPTION_INTERVAL = 1.0
"""Seconds between two looks at the refusals of Orthanc's reception."""

_NAMES_INTERVAL = 5.0
"""Seconds between two checks whether a device's host name has another address."""


def wire_logins(base: Base) -> Logins:
    """Return the watch on wrong passwords, and add its worker."""
    edge = EdgeLink(base.places.edge)
    logins = Logins(edge.wrong_passwords, base.clock, unavailable=EdgeUnavailableError)
    base.workers.add("logins", logins.step, _LOGINS_INTERVAL)
    return logins


def wire_reception(base: Base, gate: Gate) -> ReceptionWatch:
    """Return the watch on the refusals of Orthanc's reception, and add its worker."""
    watch = ReceptionWatch(
        partial(read_refusals, base.places.storage), base.clock, gate.listed, dictionary.name_of_uid
    )
    base.workers.add("reception", watch.step, _RECEPTION_INTERVAL)
    return watch


class _NamesFile:
    """The file of host names in the folder that edge and agent share."""

    def __init__(self, base: Base) -> None:
        self._path = base.places.edge / edge_config.NAMES

    def read(self) -> Mapping[str, Sequence[str]]:
        return edge_config.read_names(self._path)

    def write(self, names: Mapping[str, Sequence[str]]) -> None:
        write_durably(self._path, edge_config.names_json(names), 0o640)


def wire_gate(base: Base) -> tuple[Gate, HostNames]:
    """Return the gate and the addresses of host names, and add their workers."""
    reports: list[HandshakeReports] = []

    def read_reports(most: int) -> Sequence[Seen]:
        # Opened at the first step: the agent starts without it, and the worker's loop raises the alarm.
        if not reports:
            reports.append(HandshakeReports(base.places.edge))
        return reports[0].read(most)

    def configured() -> Sequence[Allowed]:
        return edge_config.listed(base.configuration, names.found)

    gate = Gate(
        base.ledger.devices,
        EdgeLink(base.places.edge),
        base.clock,
        configured,
        unavailable=EdgeUnavailableError,
        read_reports=read_reports,
    )
    hosts = edge_config.hosts_by_name(base.configuration)
    names = HostNames(hosts, addresses_of_name, _NamesFile(base), base.clock, gate.renew)
    base.workers.add("gate", gate.step, STEP_INTERVAL)
    if hosts:
        base.workers.add("names", names.step, _NAMES_INTERVAL)
    return gate, names
