"""Shows the status to Prometheus. Units are in the names; no label has a UID or an attribute of a patient."""

import math
from collections import Counter as Tally
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from understudy.core.modes import Mode
from understudy.core.views import HolderView, LaneState, OperationState, PrimaryCondition, Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_STATES = ("owed", "in_flight", "sent", "proven", "refused", "waived")


def render(status: Status) -> bytes:
    """Return the status in Prometheus' text format; the registry lives for this one scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(status))
    return generate_latest(registry)


class _Snapshot(Collector):
    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield every family once."""
        status = self._status
        build = GaugeMetricFamily(
            "understudy_build_info", "The running version, always 1.", labels=["version"]
        )
        build.add_metric([status.version], 1)
        yield build
        mode = GaugeMetricFamily(
            "understudy_mode", "1 for the present mode, 0 for the others.", labels=["mode"]
        )
        for known in Mode:
            mode.add_metric([known.value], float(known is status.mode))
        yield mode
        yield from self._scalars()
        yield from self._files()
        yield from self._disk()
        refused = GaugeMetricFamily(
            "understudy_refused_instances",
            "What Orthanc's reception refused: instances, and presentation contexts where the reason is "
            "alternative, class or syntax, and queries.",
            labels=["reason"],
        )
        for reason, number in sorted(status.refused.items()):
            refused.add_metric([reason], number)
        yield refused
        yield from self._primary()
        yield from _holders(list(status.holders))
        running = Tally(view.kind for view in status.operations if view.state is OperationState.RUNNING)
        operations = GaugeMetricFamily(
            "understudy_operations_running", "Running operations by verb.", labels=["kind"]
        )
        for kind, count in sorted(running.items()):
            operations.add_metric([kind], count)
        yield operations

    def _scalars(self) -> Iterator[GaugeMetricFamily]:
        status = self._status
        for name, text, value in (
            ("epoch", "The epoch: a number that grows with every promotion.", status.epoch),
            (
                "lag_seconds",
                "Seconds since the moment up to which the standby is known to be complete, +Inf before there "
                "is one; it grows while the primary is down.",
                math.inf if status.lag_seconds is None else status.lag_seconds,
            ),
            (
                "loss_seconds",
                "Seconds of the primary's work that a promotion now may lack, +Inf if not known.",
                math.inf if status.loss_seconds is None else status.loss_seconds,
            ),
            (
                "rpo_seconds",
                "Age of the oldest instance that is not yet proven at a vault.",
                status.rpo_seconds,
            ),
            ("instances", "Instances that the standby holds.", status.instances),
            ("studies", "Studies that the standby holds.", status.studies),
            (
                "gap_instances",
                "Instances that the primary has and the standby does not yet.",
                status.gaps.instances,
            ),
            ("gap_oldest_age_seconds", "Age of the oldest known gap.", status.gaps.oldest_seconds),
            (
                "departed_instances",
                "Instances that the primary was proven to have and does not list any more.",
                status.departed,
            ),
            ("alarms", "Alarms.", len(status.alarms)),
        ):
            yield GaugeMetricFamily(f"understudy_{name}", text, value=value)

    def _disk(self) -> Iterator[GaugeMetricFamily]:
        free = GaugeMetricFamily("understudy_volume_free_bytes", "Bytes free on a volume.", labels=["volume"])
        used = GaugeMetricFamily(
            "understudy_volume_used_ratio", "Share of a volume in use, of bytes or inodes.", labels=["volume"]
        )
        left = GaugeMetricFamily(
            "understudy_volume_left_seconds",
            "Time until Policy.RefusePercent at the present rate; absent if not known.",
            labels=["volume"],
        )
        for volume in self._status.disk.volumes:
            free.add_metric([volume.name], volume.free_bytes)
            used.add_metric([volume.name], volume.used_percent / 100)
            if volume.days_left is not None:
                left.add_metric([volume.name], volume.days_left * 86_400)
        yield from (free, used, left)
        unknown = GaugeMetricFamily(
            "understudy_volume_unknown", "1 for a volume that does not answer.", labels=["volume"]
        )
        for lost in self._status.disk.unknown:
            unknown.add_metric([lost.name], 1)
        yield unknown
        yield GaugeMetricFamily(
            "understudy_intake_refused",
            "1 if new images are refused here.",
            value=int(bool(self._status.intake_refused)),
        )

    def _files(self) -> Iterator[GaugeMetricFamily]:
        files = self._status.files
        for name, text, value in (
            ("files_recovering", "Files without an index row that are being imported.", files.recovering),
            ("files_recovered", "Files that were imported after the last start of Orthanc.", files.recovered),
            ("files_quarantined", "Files in quarantine.", files.quarantined),
            ("orthanc_ended_24h", "Unwanted ends of Orthanc in the last 24 h.", files.ended),
            ("instances_parked", "Parked instances: each of them ended Orthanc twice.", files.parked),
            ("files_damaged", "Stored files that are missing or changed and not healed.", files.damaged),
            ("files_healed", "Stored files that were healed, since the ledger began.", files.healed),
            ("files_scrubbed", "Stored files that the present scrub has verified.", files.scrubbed),
            (
                "index_statistics_in_force",
                "1 if Orthanc's index finds instances by their identifier, otherwise 0.",
                int(files.statistics_in_force),
            ),
        ):
            yield GaugeMetricFamily(f"understudy_{name}", text, value=value)

    def _primary(self) -> Iterator[GaugeMetricFamily]:
        primary = self._status.primary
        if primary is None:
            return
        condition = GaugeMetricFamily(
            "understudy_primary_condition",
            "1 for the present condition of the primary.",
            labels=["condition"],
        )
        for known in PrimaryCondition:
            condition.add_metric([known.value], float(known is primary.condition))
        yield condition
        if primary.condition is not PrimaryCondition.UNKNOWN:
            # Left out while unknown: a 0 would raise a false alert, and a 1 would not be true either.
            up = float(primary.condition is not PrimaryCondition.DOWN)
            yield GaugeMetricFamily(
                "understudy_primary_up",
                "0 if the primary is down, otherwise 1; understudy_primary_condition says more.",
                value=up,
            )


def _holders(holders: list[HolderView]) -> Iterator[GaugeMetricFamily]:
    obligations = GaugeMetricFamily(
        "understudy_obligations",
        "Instances by holder and state of the obligation.",
        labels=["holder", "kind", "state"],
    )
    oldest = GaugeMetricFamily(
        "understudy_oldest_owed_age_seconds",
        "Age of the oldest unsettled obligation.",
        labels=["holder", "kind"],
    )
    altered = GaugeMetricFamily(
        "understudy_stored_altered",
        "How often the holder stored an instance with a warning, or got another encoding of it.",
        labels=["holder", "kind"],
    )
    rate = GaugeMetricFamily(
        "understudy_lane_instances_per_second",
        "Rate of the lane over its last batch.",
        labels=["holder", "kind"],
    )
    lane = GaugeMetricFamily(
        "understudy_lane_state", "1 for the present state.", labels=["holder", "kind", "state"]
    )
    for holder in holders:
        labels = [holder.name, holder.kind.value]
        for state in _STATES:
            obligations.add_metric([*labels, state], getattr(holder, state))
        oldest.add_metric(labels, holder.oldest_owed_seconds)
        altered.add_metric(labels, holder.altered)
        rate.add_metric(labels, holder.lane.rate)
        for known in LaneState:
            lane.add_metric([*labels, known.value], float(known is holder.lane.state))
    yield from (obligations, oldest, altered, rate, lane)
