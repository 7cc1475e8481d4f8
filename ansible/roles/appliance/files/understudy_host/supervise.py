"""Runs the compose project for systemd: starts it, reports that it runs, and restarts hanging services."""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from understudy_host import update
from understudy_host.compose import START_SECONDS, Compose, Health, status
from understudy_host.mounts import vault_is_away
from understudy_host.places import HostError, Places, remove_durably, replace_durably

LOOK_SECONDS = 10
VAULT_SECONDS = 120
"""How long the agent may take to start again with its vault; the watchdog waits longer."""
PATIENCE_SECONDS = 180
"""A service that is unhealthy for this long is restarted. Docker itself restarts a service that ends.
The time is long enough for a busy machine, because a needless restart would abort associations."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Since when each service has been unhealthy."""

    since: Mapping[str, float]

    def look(self, seen: Mapping[str, Health], now: float) -> tuple["Patience", list[str]]:
        """Return the next Patience, and the services to restart now."""
        since = {
            service: self.since.get(service, now)
            for service, health in seen.items()
            if health is Health.UNHEALTHY
        }
        overdue = [service for service, begun in since.items() if now - begun >= PATIENCE_SECONDS]
        return Patience({service: at for service, at in since.items() if service not in overdue}), overdue


def notify(state: str) -> None:
    """Send a state to systemd (sd_notify), if it listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
            there.connect("\0" + address[1:] if address.startswith("@") else address)
            there.send(state.encode())


def remember_mode(places: Places) -> None:
    """Store the agent's mode for times when it does not answer; raise HostError if it does not answer now."""
    mode = str(status(places)["mode"])
    if mode != last_mode(places):
        replace_durably(places.last_mode, mode, mode=0o644)


def last_mode(places: Places) -> str | None:
    """Return the agent's last known mode, or None if it never answered."""
    return places.last_mode.read_text(encoding="utf-8") if places.last_mode.exists() else None


def supervise(places: Places) -> None:
    """Start the appliance and watch it until systemd ends this process, or restarts it after a HostError."""
    compose = Compose(places)
    update.recover(places, compose)
    remove_durably(places.decommissioned)
    away = vault_is_away(places)
    if away:
        print("the vault's disk is not mounted: the vault is used once it is mounted", flush=True)
    compose.up(seconds=START_SECONDS)
    notify("READY=1")
    patience = Patience({})
    while True:
        time.sleep(LOOK_SECONDS)
        if update.broken_off(places):
            raise HostError("an update was killed in the middle: starts again, which rolls it back")
        # A disk that cannot be written is no reason to stop the services.
        with suppress(HostError, OSError):
            remember_mode(places)
        try:
            # Not during an update, which has stopped the agent to copy its ledger.
            if away and not places.journal.exists() and not vault_is_away(places):
                print("the vault's disk is mounted: the agent starts again with it", flush=True)
                compose.up("agent", seconds=VAULT_SECONDS)
                away = False
            patience, overdue = patience.look(compose.health(), time.monotonic())
            for service in overdue:
                print(f"{service} was unhealthy for {PATIENCE_SECONDS} s: it is restarted", flush=True)
                compose.restart(service)
        except HostError as error:
            # No watchdog message is sent, so systemd restarts this process: the Engine may hang.
            print(error, flush=True)
            continue
        notify("WATCHDOG=1")
