"""Measures what only the host can know, for node exporter (textfile collector) and as alarms."""

import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from understudy_host.alarms import Alarm, tell
from understudy_host.certificate import CERTIFICATE
from understudy_host.compose import SERVICES, Compose, Health, run
from understudy_host.mounts import not_mounted
from understudy_host.places import HostError, Places, replace_durably
from understudy_host.volumes import read_file

CERTIFICATE_SECONDS = 30 * 86_400
"""An alarm is raised this long before a certificate ends."""
HANDED_OVER_SECONDS = 86_400
"""How long a secret may wait on the host for a person to take it away."""
BACKUP_SECONDS = 3 * 86_400
"""An alarm is raised after this long without a backup."""


def write_metrics(places: Places) -> Path:
    """Replace the file of metrics and the host's alarms, and return the path of the metrics."""
    tell(places, "host", alarms(places, time.time()))
    path = places.textfiles / "understudy.prom"
    replace_durably(path, "\n".join(_lines(places)) + "\n", mode=0o644)
    return path


def _lines(places: Places) -> Iterator[str]:
    yield "# HELP understudy_certificate_expiry_timestamp_seconds When the certificate ends."
    yield "# TYPE understudy_certificate_expiry_timestamp_seconds gauge"
    yield f"understudy_certificate_expiry_timestamp_seconds {certificate_end(places):.0f}"
    health = Compose(places).health()
    yield "# HELP understudy_service_healthy Whether Docker calls the service healthy."
    yield "# TYPE understudy_service_healthy gauge"
    for service in SERVICES:
        yield f'understudy_service_healthy{{service="{service}"}} {int(health[service] is Health.HEALTHY)}'
    yield "# HELP understudy_backup_timestamp_seconds When configuration and keys were backed up; 0: never."
    yield "# TYPE understudy_backup_timestamp_seconds gauge"
    yield f"understudy_backup_timestamp_seconds {last_backup(places):.0f}"


def alarms(places: Places, now: float) -> Iterator[Alarm]:
    """Yield the alarms of this host."""
    end = certificate_end(places)
    if end - now < CERTIFICATE_SECONDS:
        yield Alarm(
            f"the certificate ends on {datetime.fromtimestamp(end, UTC):%Y-%m-%d}",
            "if your authority signs it, run site.yml; otherwise install another, as the runbook says",
        )
    for path in not_mounted([places.data / "vault"]):
        yield Alarm(
            f"the vault's disk at {path} is not mounted, so no image reaches the vault",
            f"`mount {path}` on the host says why; once it is mounted, the vault is used again",
        )
    for path in sorted(places.handed_over.glob("*.txt")):
        if now - path.stat().st_mtime > HANDED_OVER_SECONDS:
            yield Alarm(
                f"a secret is left on the host, in {path}",
                f"put it into the safe, then erase it there: `sudo shred --remove {path}`",
            )
    # A new host has no backup yet.
    since = max(last_backup(places), places.environment.stat().st_mtime)
    if now - since > BACKUP_SECONDS:
        yield Alarm(
            f"configuration and keys have had no backup since {datetime.fromtimestamp(since, UTC):%Y-%m-%d}",
            "`systemctl status understudy-backup` on the host says why",
        )


def last_backup(places: Places) -> float:
    """Return when configuration and keys were backed up last, in seconds since 1970; 0 if never."""
    return max((file.stat().st_mtime for file in places.backups.glob("configuration-*.tar.age")), default=0)


def certificate_end(places: Places) -> float:
    """Return when the appliance's certificate ends, in seconds since 1970."""
    certificate = read_file(places.volume("keys"), CERTIFICATE)
    told = run(["openssl", "x509", "-noout", "-enddate"], stdin=certificate).decode().strip()
    name, _, end = told.partition("=")
    if name != "notAfter":
        raise HostError(f"{CERTIFICATE}: openssl names no end of the certificate")
    return float(ssl.cert_time_to_seconds(end))
