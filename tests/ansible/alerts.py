"""What makes each alert fire, for `promtool test rules`: one fault in a clinic where all else is well.

Rule 1: a fault makes its own alert fire and no other, so a rule that is always true is found out as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DAY = 24 * 60
"""In minutes, which is how often everything is measured here."""

_LONG = 4 * DAY
_AS_NOW = f"0+60x{_LONG}"
"""A time of day, in seconds, that goes on as the clock does; promtool's begins at 0."""

WELL: Mapping[str, str] = {
    'up{job="understudy"}': f"1x{_LONG}",
    'up{job="host"}': f"1x{_LONG}",
    'node_textfile_mtime_seconds{file="/var/lib/prometheus/node-exporter/understudy.prom"}': _AS_NOW,
    'understudy_service_healthy{service="agent"}': f"1x{_LONG}",
    'understudy_mode{mode="standby"}': f"1x{_LONG}",
    'understudy_mode{mode="active"}': f"0x{_LONG}",
    'understudy_mode{mode="returning"}': f"0x{_LONG}",
    "understudy_primary_up": f"1x{_LONG}",
    "understudy_rpo_seconds": f"3x{_LONG}",
    "understudy_gap_oldest_age_seconds": f"3x{_LONG}",
    "understudy_alarms": f"0x{_LONG}",
    "understudy_files_damaged": f"0x{_LONG}",
    'understudy_volume_left_seconds{volume="storage"}': f"{900 * 86_400}x{_LONG}",
    "understudy_intake_refused": f"0x{_LONG}",
    "understudy_certificate_expiry_timestamp_seconds": f"{900 * 86_400}x{_LONG}",
    "understudy_backup_timestamp_seconds": _AS_NOW,
}
"""A clinic where nothing is wrong: series and their values, a minute apart."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One series that says otherwise, and the minutes after which the alert fires."""

    series: str
    values: str
    minutes: int


FAULTS: Mapping[str, Fault] = {
    "UnderstudyAway": Fault('up{job="understudy"}', "0x60", 6),
    "UnderstudySilent": Fault('up{job="understudy"}', "1x10 _x60", 30),
    "UnderstudyNotMeasured": Fault(
        'node_textfile_mtime_seconds{file="/var/lib/prometheus/node-exporter/understudy.prom"}', "0x60", 30
    ),
    "UnderstudyServiceUnhealthy": Fault('understudy_service_healthy{service="agent"}', "0x60", 6),
    "UnderstudyActive": Fault('understudy_mode{mode="active"}', "1x60", 1),
    "PrimaryDown": Fault("understudy_primary_up", "0x60", 3),
    "VaultLags": Fault("understudy_rpo_seconds", "3601x60", 11),
    "MirrorLags": Fault("understudy_gap_oldest_age_seconds", "3601x60", 11),
    "AlarmAtTheAppliance": Fault("understudy_alarms", "1x60", 11),
    "FilesDamaged": Fault("understudy_files_damaged", "1x60", 1),
    "DiskFills": Fault('understudy_volume_left_seconds{volume="storage"}', f"{13 * 86_400}x90", 61),
    "IntakeRefused": Fault("understudy_intake_refused", "1x60", 1),
    "CertificateEnds": Fault("understudy_certificate_expiry_timestamp_seconds", f"{29 * 86_400}x60", 1),
    "BackupOld": Fault("understudy_backup_timestamp_seconds", f"0x{_LONG}", 3 * DAY + 2),
}


def promtool_tests(rules: str) -> dict[str, Any]:
    """Return the file for `promtool test rules`: every fault, and a clinic without any."""
    well = [_test(WELL, minute, []) for minute in (10, 3 * DAY + 2)]
    faults = [
        _test({**WELL, fault.series: fault.values}, fault.minutes, [alert]) for alert, fault in FAULTS.items()
    ]
    return {"rule_files": [rules], "evaluation_interval": "1m", "tests": [*well, *faults]}


def _test(series: Mapping[str, str], minute: int, firing: list[str]) -> dict[str, Any]:
    told = {
        "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": f"{minute}m",
        "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in firing],
    }
    named = [{"series": _of_clinic(name), "values": values} for name, values in series.items()]
    return {"interval": "1m", "input_series": named, "promql_expr_test": [told]}


def _of_clinic(series: str) -> str:
    name, _, labels = series.partition("{")
    return f'{name}{{site="north"' + (f",{labels}" if labels else "}")
