"""Wires the edge's gate: who may associate, and what the edge reports of who tried."""

from collections.abc import Sequence

from understudy.adapters import edge_config
from understudy.adapters.edge import Edge, EdgeUnavailableError, Reports
from understudy.core.gate import Seen
from understudy.flow.gate import Gate
from understudy.wiring.base import STEP_INTERVAL, Base


def wire_gate(base: Base) -> Gate:
    """Return the gate and give it its worker."""
    reports: list[Reports] = []

    def read_reports(most: int) -> Sequence[Seen]:
        # Opened here: without it the rest starts all the same, and the loop raises the alarm.
        if not reports:
            reports.append(Reports(base.places.edge))
        return reports[0].read(most)

    gate = Gate(
        base.ledger,
        Edge(base.places.edge),
        base.clock,
        edge_config.listed(base.configuration),
        unavailable=EdgeUnavailableError,
        read_reports=read_reports,
    )
    base.workers.add("gate", gate.step, STEP_INTERVAL)
    return gate
